//! The rules: rows of a name, a class, what they look at, what they answer, and graphs to try them on.
//!
//! `README.md` beside this file tells how to write one.

mod arithmetic;
mod broadcasts;
mod contractions;
mod logic;
mod movement;
mod products;
mod reductions;
mod slices;
mod through;
mod transcendental;

use crate::pattern::{Bindings, Pattern};
use crate::term::Term;
use crate::view::{Site, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use thalweg_base::{DType, PointwiseFn, Scalar};
use thalweg_tensor::{Graph, NodeId, Op, TensorType};

/// How far the two sides of a rule agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The same value for every input, NaN and infinities included; only the sign of a zero may differ.
    Exact,
    /// Equal in real arithmetic; rounding may differ. A NaN operand still gives NaN, and for finite operands up to 1e12 in
    /// size a finite result stays finite. More may differ only where the left side overflows or underflows on the way.
    Reassociates,
    /// Equal as long as all values are finite numbers within the functions' domains.
    AssumesFinite,
}

/// A rule.
pub struct Rule {
    /// Its name in reports, unique.
    pub name: &'static str,
    /// How far its sides agree.
    pub class: Class,
    head: Head,
    find: Find,
    samples: Samples,
}

/// What a rule looks at.
enum Head {
    /// A pointwise function.
    Function(PointwiseFn),
    /// Every pointwise function.
    Pointwise,
    /// Ops of that name.
    Op(&'static str),
}

/// A function that adds what a node equals.
type FindFn = fn(View, Site, &mut Vec<Term>);

enum Find {
    Pattern(PatternRow),
    Function(FindFn),
}

enum Samples {
    Derived,
    Built(fn() -> Vec<Graph>),
}

/// Which dtypes of its last operand a row of patterns is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum On {
    /// Every dtype.
    Any,
    /// Every numeric dtype.
    Numeric,
    /// Floating point.
    Float,
    /// Integers.
    Integer,
    /// `bool`.
    Bool,
    /// Integers and `bool`.
    Bits,
}

impl On {
    fn holds(self, dtype: DType) -> bool {
        match self {
            On::Any => true,
            On::Numeric => dtype != DType::Bool,
            On::Float => dtype.is_float(),
            On::Integer => dtype.is_integer(),
            On::Bool => dtype == DType::Bool,
            On::Bits => !dtype.is_float(),
        }
    }

    fn sample_dtypes(self) -> &'static [DType] {
        match self {
            On::Any => &[DType::F32, DType::I32, DType::Bool],
            On::Numeric => &[DType::F32, DType::F64, DType::I32, DType::U8, DType::U64],
            On::Float => &[DType::F32, DType::F64, DType::BF16],
            On::Integer => &[DType::I32, DType::I8, DType::U8, DType::I16, DType::U32, DType::U64],
            On::Bool => &[DType::Bool],
            On::Bits => &[DType::I32, DType::Bool],
        }
    }
}

/// What a guard sees of a match.
struct Match<'a> {
    view: View<'a>,
    bindings: &'a Bindings,
    /// The dtype of the node's last operand.
    dtype: DType,
}

impl Match<'_> {
    /// The value of `c`.
    fn c(&self) -> f64 {
        crate::pattern::constant(self.view, self.bindings, 0)
    }

    /// The value of `d`.
    fn d(&self) -> f64 {
        crate::pattern::constant(self.view, self.bindings, 1)
    }

    /// Whether the dtype holds a number as a finite value of full precision, or 0.
    fn is_normal(&self, value: f64) -> bool {
        is_normal(value, self.dtype)
    }
}

/// Whether a dtype holds a number as a finite value of full precision, or 0; for integers, always.
pub(crate) fn is_normal(value: f64, dtype: DType) -> bool {
    let smallest = match dtype {
        DType::F32 | DType::BF16 => f32::MIN_POSITIVE as f64,
        DType::F64 => f64::MIN_POSITIVE,
        DType::F16 => 2f64.powi(-14),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::Bool => return true,
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => return true,
    };
    let rounded = Scalar::Float(value).convert(dtype).to_f64();
    value == 0.0 || (rounded.is_finite() && rounded.abs() >= smallest)
}

struct PatternRow {
    on: On,
    left: Pattern,
    right: Pattern,
    guard: fn(&Match) -> bool,
    /// The values of `c` and `d` in samples.
    constants: [f64; 2],
    positive: bool,
}

/// A row of two patterns.
fn row(name: &'static str, class: Class, on: On, left: &str, right: &str) -> Rule {
    let (left, right) = (Pattern::parse(left), Pattern::parse(right));
    let Pattern::Apply(function, _) = left else { panic!("a left side is a function") };
    let find = PatternRow { on, left, right, guard: |_| true, constants: [3.0, 0.75], positive: false };
    Rule { name, class, head: Head::Function(function), find: Find::Pattern(find), samples: Samples::Derived }
}

/// A row of a function, which looks at ops of one name.
fn search(
    name: &'static str,
    class: Class,
    op: &'static str,
    find: FindFn,
    samples: fn() -> Vec<Graph>,
) -> Rule {
    Rule { name, class, head: Head::Op(op), find: Find::Function(find), samples: Samples::Built(samples) }
}

/// A row of a function, which looks at one pointwise function.
fn search_function(
    name: &'static str,
    class: Class,
    function: PointwiseFn,
    find: FindFn,
    samples: fn() -> Vec<Graph>,
) -> Rule {
    let head = Head::Function(function);
    Rule { name, class, head, find: Find::Function(find), samples: Samples::Built(samples) }
}

/// A row of a function, which looks at every pointwise function.
fn search_pointwise(name: &'static str, class: Class, find: FindFn, samples: fn() -> Vec<Graph>) -> Rule {
    Rule { name, class, head: Head::Pointwise, find: Find::Function(find), samples: Samples::Built(samples) }
}

impl Rule {
    /// The same row where the guard can prove its condition.
    fn when(mut self, guard: fn(&Match) -> bool) -> Rule {
        self.pattern_mut().guard = guard;
        self
    }

    /// The same row, sampled with these values of `c` and `d`.
    fn constants(mut self, constants: [f64; 2]) -> Rule {
        self.pattern_mut().constants = constants;
        self
    }

    /// The same row, sampled on positive values.
    fn positive(mut self) -> Rule {
        self.pattern_mut().positive = true;
        self
    }

    fn pattern_mut(&mut self) -> &mut PatternRow {
        let Find::Pattern(pattern) = &mut self.find else { panic!("a row of patterns") };
        pattern
    }

    /// Adds what a node equals by this rule.
    pub(crate) fn find(&self, view: View, site: Site, found: &mut Vec<Term>) {
        match &self.find {
            Find::Function(find) => find(view, site, found),
            Find::Pattern(row) => {
                let last = *site.node.operands.last().expect("functions have operands");
                let dtype = view.ty(last).dtype;
                if !row.on.holds(dtype) {
                    return;
                }
                for bindings in row.left.matches(view, site) {
                    if (row.guard)(&Match { view, bindings: &bindings, dtype }) {
                        found.push(row.right.term(view, &bindings, site.class));
                    }
                }
            }
        }
    }

    /// Graphs on which the rule fires, and whether their inputs must be positive.
    pub fn samples(&self) -> Vec<(Graph, bool)> {
        match (&self.samples, &self.find) {
            (Samples::Built(build), _) => build().into_iter().map(|graph| (graph, false)).collect(),
            (Samples::Derived, Find::Pattern(row)) => {
                let dtypes = row.on.sample_dtypes().iter();
                dtypes.filter_map(|dtype| Some((row.sample(*dtype)?, row.positive))).collect()
            }
            (Samples::Derived, Find::Function(_)) => unreachable!("functions bring their samples"),
        }
    }
}

impl PatternRow {
    /// The left side over inputs, when the dtype fits.
    fn sample(&self, dtype: DType) -> Option<Graph> {
        let mut graph = Graph::new("sample");
        let mut names = BTreeMap::new();
        let left = self.build(&self.left, dtype, &mut graph, &mut names)?;
        graph.output("y", left);
        Some(graph)
    }

    fn build(
        &self,
        pattern: &Pattern,
        dtype: DType,
        graph: &mut Graph,
        names: &mut BTreeMap<u8, NodeId>,
    ) -> Option<NodeId> {
        let ty = TensorType::new(dtype, [2, 3]);
        match pattern {
            Pattern::Variable(name) => {
                Some(*names.entry(*name).or_insert_with(|| graph.input(&format!("v{name}"), ty)))
            }
            Pattern::Constant(name) => {
                let value = self.constants[*name as usize - 4];
                Some(*names.entry(*name).or_insert_with(|| graph.full(&ty, Scalar::Float(value))))
            }
            Pattern::Number(value) => {
                let value = Scalar::Float(*value);
                let held = value.convert(dtype).to_f64() == value.to_f64();
                held.then(|| graph.full(&ty, value))
            }
            Pattern::Apply(function, arguments) => {
                let operand = |index: usize| match (function, index) {
                    (PointwiseFn::Select, 0) => DType::Bool,
                    (_, _) => dtype,
                };
                let operands = (arguments.iter().enumerate())
                    .map(|(index, argument)| self.build(argument, operand(index), graph, names))
                    .collect::<Option<Vec<_>>>()?;
                let op = thalweg_tensor::ops::Pointwise { function: *function };
                graph.try_add(op, &operands).ok()
            }
        }
    }
}

/// Every rule.
pub fn all() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        let mut rules = Vec::new();
        rules.extend(arithmetic::rules());
        rules.extend(transcendental::rules());
        rules.extend(logic::rules());
        rules.extend(movement::rules());
        rules.extend(broadcasts::rules());
        rules.extend(slices::rules());
        rules.extend(through::rules());
        rules.extend(reductions::rules());
        rules.extend(products::rules());
        rules.extend(contractions::rules());
        rules
    });
    &RULES
}

/// Rules by what they look at.
pub(crate) struct Table {
    functions: BTreeMap<PointwiseFn, Vec<usize>>,
    ops: BTreeMap<&'static str, Vec<usize>>,
}

impl Table {
    /// The table of the rules that are allowed, as positions in `all`.
    pub(crate) fn new(allowed: impl Fn(&Rule) -> bool) -> Table {
        let mut table = Table { functions: BTreeMap::new(), ops: BTreeMap::new() };
        for (index, rule) in all().iter().enumerate().filter(|(_, rule)| allowed(rule)) {
            match rule.head {
                Head::Function(function) => table.functions.entry(function).or_default().push(index),
                Head::Op(name) => table.ops.entry(name).or_default().push(index),
                Head::Pointwise => {
                    for function in PointwiseFn::ALL {
                        table.functions.entry(*function).or_default().push(index);
                    }
                }
            }
        }
        table
    }

    /// The rules that look at an op.
    pub(crate) fn of(&self, op: &Op) -> &[usize] {
        let found = if let Op::Pointwise(op) = op {
            self.functions.get(&op.function)
        } else {
            self.ops.get(op.name())
        };
        found.map_or(&[], |rules| &rules[..])
    }
}
