//! Steps of hand-written routines: shapes and strides of products, convolutions, scatters and sorts.

use crate::coalesce::coalesce;
use crate::emit::Source;
use crate::view::{View, dense_strides, narrow_bases, view, view_over};
use thalweg_kernel::ir::{Kernel, Range, VarId};
use thalweg_plan::{
    ArgSort, ContractAxis, Contraction, Convolution, ConvolveDirection, Precision, Scatter as ScatterShape,
};
use thalweg_tensor::ops::{Contract, Convolve, Direction};
use thalweg_tensor::{NodeId, Op};

/// A contraction as the routine sees it: which operand is on which side, and how each is walked.
pub(crate) struct ContractStep {
    pub contraction: Contraction,
    pub a: View,
    pub b: View,
}

/// The letters of a contraction by what they do, for the left side that `swapped` chooses.
struct Letters {
    batch: Vec<char>,
    m: Vec<char>,
    n: Vec<char>,
    k: Vec<char>,
    swapped: bool,
}

fn letters(op: &Contract) -> Letters {
    // The last dim of the result belongs to the right side, so that the routine writes rows in order.
    let swapped = op.out.chars().last().is_some_and(|last| !op.rhs.contains(last));
    let (left, right) = if swapped { (&op.rhs, &op.lhs) } else { (&op.lhs, &op.rhs) };
    let of_out = |keep: &dyn Fn(char) -> bool| op.out.chars().filter(|letter| keep(*letter)).collect();
    Letters {
        batch: of_out(&|letter| left.contains(letter) && right.contains(letter)),
        m: of_out(&|letter| left.contains(letter) && !right.contains(letter)),
        n: of_out(&|letter| !left.contains(letter) && right.contains(letter)),
        k: left.chars().filter(|letter| !op.out.contains(*letter)).collect(),
        swapped,
    }
}

pub(crate) fn contract(source: Source, id: NodeId) -> ContractStep {
    let node = source.graph.node(id);
    let Op::Contract(op) = &node.op else { panic!("{id} is no contraction") };
    let letters = letters(op);
    let (left, right) = if letters.swapped { (1, 0) } else { (0, 1) };
    let narrow = narrow_bases(source.graph, id);
    let views = [left, right].map(|side| match narrow {
        Some(bases) => view_over(source, node.operands[side], bases[side]),
        None => view(source, node.operands[side]),
    });
    let names = [&op.lhs, &op.rhs];
    let out = dense_strides(&source.sizes(id));
    let stride = |names: &str, strides: &[i64], letter: char| {
        names.chars().position(|name| name == letter).map_or(0, |dim| strides[dim])
    };
    let extent = |letter: char| {
        let of = |operand: usize| {
            let dim = names[operand].chars().position(|name| name == letter)?;
            Some(source.sizes(node.operands[operand])[dim])
        };
        of(0).or_else(|| of(1)).expect("every letter is in an operand")
    };
    let axes = |group: &[char]| -> Vec<ContractAxis> {
        group
            .iter()
            .map(|letter| ContractAxis {
                extent: extent(*letter),
                stride_a: stride(names[left], &views[0].strides, *letter),
                stride_b: stride(names[right], &views[1].strides, *letter),
                stride_c: stride(&op.out, &out, *letter),
            })
            .collect()
    };
    let contraction = Contraction {
        batch: axes(&letters.batch),
        m: axes(&letters.m),
        n: axes(&letters.n),
        k: axes(&letters.k),
        dtype: source.graph.ty(id).dtype,
        operands: narrow.map(|_| views.each_ref().map(|view| source.graph.ty(view.base).dtype)),
        precision: Precision::Full,
    };
    let [a, b] = views;
    ContractStep { contraction, a, b }
}

/// How many dims of a routine's result are batch and how many are rows, when they stand in the order batch, rows, columns.
pub(crate) fn tile_boundaries(source: Source, id: NodeId) -> Option<[usize; 2]> {
    let op = &source.graph.node(id).op;
    if let Op::Contract(op) = op {
        let letters = letters(op);
        let order: String = letters.batch.iter().chain(&letters.m).chain(&letters.n).collect();
        return (order == op.out).then_some([letters.batch.len(), letters.m.len()]);
    }
    let Op::Convolve(Convolve { groups: 1, direction, .. }) = op else { return None };
    match direction {
        Direction::Forward | Direction::InputGradient => Some([1, 1]),
        Direction::WeightGradient => Some([0, 1]),
    }
}

/// Makes the ranges of an epilogue exactly batch, rows and columns, if its positions step evenly through each.
pub(crate) fn three_ranges(kernel: &mut Kernel, boundaries: &[usize; 2]) -> Option<()> {
    let rank = kernel.ranges.len();
    let ends = [boundaries[0], boundaries[0] + boundaries[1], rank];
    let keep: Vec<usize> = ends[..2].iter().filter(|end| **end > 0).map(|end| end - 1).collect();
    let into = coalesce(kernel, &keep);
    let mut ranges = Vec::new();
    let mut start = 0;
    let mut fresh = kernel.ranges.iter().map(|range| range.var.0 + 1).max().unwrap_or(0);
    fresh = fresh.max(largest_var(kernel) + 1);
    for end in ends {
        let mut of: Vec<usize> = into[start..end].to_vec();
        of.dedup();
        start = end;
        match of[..] {
            [] => {
                ranges.push(Range { var: VarId(fresh), extent: 1, lanes: 1 });
                fresh += 1;
            }
            [only] => ranges.push(kernel.ranges[only]),
            [..] => return None,
        }
    }
    // Ranges of one position are merged away whole; a section that shares its range with another is not three ranges.
    if (0..2).any(|at| ranges[at].var == ranges[at + 1].var) {
        return None;
    }
    for range in &mut ranges[..2] {
        range.lanes = 1;
    }
    kernel.ranges = ranges;
    Some(())
}

fn largest_var(kernel: &Kernel) -> u32 {
    use thalweg_kernel::ir::Stmt;
    fn walk(body: &[Stmt]) -> u32 {
        body.iter()
            .map(|stmt| match stmt {
                Stmt::Loop { var, body, .. } => var.0.max(walk(body)),
                Stmt::Let { .. } | Stmt::Store { .. } => 0,
            })
            .max()
            .unwrap_or(0)
    }
    walk(&kernel.body)
}

pub(crate) fn convolution(source: Source, id: NodeId) -> Convolution {
    let node = source.graph.node(id);
    let Op::Convolve(op) = &node.op else { panic!("{id} is no convolution") };
    let [first, second] = [source.sizes(node.operands[0]), source.sizes(node.operands[1])];
    let result = source.sizes(id);
    let (direction, x, w, y) = match op.direction {
        Direction::Forward => (ConvolveDirection::Forward, first, second, result),
        Direction::InputGradient => (ConvolveDirection::InputGradient, result, first, second),
        Direction::WeightGradient => (ConvolveDirection::WeightGradient, first, result, second),
    };
    Convolution {
        direction,
        dtype: source.graph.ty(id).dtype,
        batch: x[0],
        groups: op.groups,
        in_channels: w[1],
        out_channels: w[0] / op.groups,
        input: x[2..].to_vec(),
        kernel: w[2..].to_vec(),
        output: y[2..].to_vec(),
        stride: op.stride.clone(),
        dilation: op.dilation.clone(),
        pad_low: op.pad_low.clone(),
    }
}

pub(crate) fn scatter(source: Source, id: NodeId) -> ScatterShape {
    let node = source.graph.node(id);
    let Op::Scatter(op) = &node.op else { panic!("{id} is no scatter") };
    let index = source.sizes(node.operands[0]);
    let result = source.sizes(id);
    ScatterShape {
        dtype: source.graph.ty(id).dtype,
        index_dtype: source.graph.ty(node.operands[0]).dtype,
        batch: result[..op.batch].iter().product(),
        before: result[op.batch..op.dim].iter().product(),
        size: result[op.dim],
        indices: index[op.batch..].iter().product(),
        after: result[op.dim + 1..].iter().product(),
    }
}

pub(crate) fn arg_sort(source: Source, id: NodeId) -> ArgSort {
    let node = source.graph.node(id);
    let Op::ArgSort(op) = &node.op else { panic!("{id} is no sort") };
    let sizes = source.sizes(id);
    ArgSort {
        dtype: source.graph.ty(node.operands[0]).dtype,
        outer: sizes[..op.dim].iter().product(),
        length: sizes[op.dim],
        inner: sizes[op.dim + 1..].iter().product(),
        descending: op.descending,
    }
}
