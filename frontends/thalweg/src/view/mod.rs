//! Pictures of graphs: DOT text for Graphviz, and SVG by a layout of our own.
//!
//! Nodes stand in the boxes of their scopes. Constants of one value are written into the nodes that use them.

mod dot;
mod layout;
mod svg;

use std::collections::BTreeMap;
use thalweg_base::Literal;
use thalweg_tensor::ops::LeafKind;
use thalweg_tensor::{Graph, NodeId, Op};

pub use dot::dot;
pub use svg::svg;

/// What a box of a picture is, which decides its colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Input,
    Parameter,
    State,
    /// Products and convolutions, where the time goes.
    Heavy,
    Compute,
    /// Another arrangement of the same elements.
    Movement,
    Communication,
    /// An output, or the next value of a parameter or state.
    Root,
}

/// A box of a picture.
struct Shown {
    kind: Kind,
    title: String,
    detail: String,
    /// The segments of the scope, outermost first.
    scope: Vec<String>,
}

/// Boxes and the arrows between them, which go from lower to higher numbers.
struct Picture {
    name: String,
    boxes: Vec<Shown>,
    arrows: Vec<(usize, usize)>,
}

impl Picture {
    fn of(graph: &Graph) -> Picture {
        let mut picture = Picture { name: graph.name.clone(), boxes: Vec::new(), arrows: Vec::new() };
        let mut at: Vec<Option<usize>> = Vec::with_capacity(graph.nodes().len());
        for id in graph.ids() {
            let node = graph.node(id);
            if written_inside(graph, id).is_some() {
                at.push(None);
                continue;
            }
            let own = picture.boxes.len();
            let mut sources: Vec<usize> =
                node.operands.iter().filter_map(|operand| at[operand.index()]).collect();
            sources.sort_unstable();
            sources.dedup();
            picture.arrows.extend(sources.into_iter().map(|source| (source, own)));
            let constants: Vec<String> =
                node.operands.iter().filter_map(|operand| written_inside(graph, *operand)).collect();
            let mut title = title(&node.op);
            if !constants.is_empty() {
                title = format!("{title} ({})", constants.join(", "));
            }
            let types: Vec<String> = node.types.iter().map(|ty| ty.to_string()).collect();
            picture.boxes.push(Shown {
                kind: kind(&node.op),
                title,
                detail: types.join("; "),
                scope: node.scope.split('.').filter(|part| !part.is_empty()).map(str::to_string).collect(),
            });
            at.push(Some(own));
        }
        let outputs = graph.outputs.iter().map(|output| (output.node, output.name.clone()));
        let updates = graph.updates.iter().map(|update| (update.node, format!("next {}", update.name)));
        for (node, title) in outputs.chain(updates) {
            let own = picture.boxes.len();
            let detail = graph.ty(node).to_string();
            picture.boxes.push(Shown { kind: Kind::Root, title, detail, scope: Vec::new() });
            picture.arrows.extend(at[node.index()].map(|source| (source, own)));
        }
        picture
    }

    /// The names of scopes by their whole paths, outermost first.
    fn scopes(&self) -> BTreeMap<Vec<String>, Vec<usize>> {
        let mut scopes = BTreeMap::<Vec<String>, Vec<usize>>::new();
        for (at, shown) in self.boxes.iter().enumerate() {
            for depth in 0..shown.scope.len() {
                scopes.entry(shown.scope[..=depth].to_vec()).or_default();
            }
            scopes.entry(shown.scope.clone()).or_default().push(at);
        }
        scopes
    }
}

/// The value of a constant that is a single number, perhaps repeated.
fn written_inside(graph: &Graph, id: NodeId) -> Option<String> {
    let node = graph.node(id);
    if let Op::Constant(constant) = &node.op {
        return Literal::uniform_value(&constant.value).map(|value| format!("{}", value.to_f64()));
    }
    if let Op::Broadcast(_) = &node.op {
        return written_inside(graph, node.operands[0]);
    }
    None
}

fn title(op: &Op) -> String {
    let words = |text: String| text.to_lowercase();
    if let Op::Leaf(leaf) = op {
        return leaf.name.to_string();
    }
    if let Op::Pointwise(pointwise) = op {
        return words(format!("{:?}", pointwise.function));
    }
    if let Op::Reduce(reduce) = op {
        return format!("{} over {:?}", words(format!("{:?}", reduce.function)), reduce.dims);
    }
    if let Op::Contract(contract) = op {
        return format!("{}, {} -> {}", contract.lhs, contract.rhs, contract.out);
    }
    if let Op::Convert(convert) = op {
        return format!("to {}", convert.dtype);
    }
    words(op.name().to_string())
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::Leaf(leaf) => match leaf.kind {
            LeafKind::Input => Kind::Input,
            LeafKind::Parameter => Kind::Parameter,
            LeafKind::State => Kind::State,
        },
        Op::Contract(_) | Op::Convolve(_) => Kind::Heavy,
        Op::Collective(_) => Kind::Communication,
        Op::Broadcast(_)
        | Op::Reshape(_)
        | Op::Transpose(_)
        | Op::Slice(_)
        | Op::Pad(_)
        | Op::Concat(_)
        | Op::Gather(_)
        | Op::Unfold(_)
        | Op::DynamicSlice(_)
        | Op::DynamicUpdate(_)
        | Op::Pick(_) => Kind::Movement,
        Op::Constant(_)
        | Op::Iota(_)
        | Op::Random(_)
        | Op::Pointwise(_)
        | Op::Convert(_)
        | Op::Scatter(_)
        | Op::Reduce(_)
        | Op::Cumulative(_)
        | Op::Fold(_)
        | Op::ArgSort(_)
        | Op::Scan(_)
        | Op::While(_)
        | Op::Branch(_) => Kind::Compute,
    }
}

impl Kind {
    /// Fill colours that are told apart in print and by the colour-blind (after Okabe and Ito, lightened).
    fn color(self) -> &'static str {
        match self {
            Kind::Input => "#cfe8f7",
            Kind::Parameter => "#fbe7b6",
            Kind::State => "#f3d9ec",
            Kind::Heavy => "#f6c8ad",
            Kind::Compute => "#ffffff",
            Kind::Movement => "#ececec",
            Kind::Communication => "#b9e3d3",
            Kind::Root => "#d5e8d0",
        }
    }
}
