//! Functions of positions, reductions, products.

use super::writer::{Attribute, Write, Writer};
use thalweg_base::{DType, PointwiseFn as F, Scalar};
use thalweg_tensor::ops::{ArgSort, Contract, Convolve, Cumulative, Direction, Reduce};
use thalweg_tensor::{ReduceFn, TensorType};

impl Writer {
    /// A scalar function. Where the format has it for fewer types, the operands go through another type.
    pub(super) fn pointwise(
        &mut self,
        function: F,
        inputs: &[&str],
        operand: DType,
        result: DType,
    ) -> String {
        let bool = operand == DType::Bool;
        match function {
            F::Neg => self.add("Neg", inputs),
            F::Abs => self.add("Abs", inputs),
            F::Sign => self.add("Sign", inputs),
            F::Exp => self.add("Exp", inputs),
            F::Expm1 => {
                let exp = self.add("Exp", inputs);
                let one = self.number(result, Scalar::Float(1.0));
                self.add("Sub", &[&exp, &one])
            }
            F::Log => self.add("Log", inputs),
            F::Log1p => {
                let one = self.number(result, Scalar::Float(1.0));
                let more = self.add("Add", &[inputs[0], &one]);
                self.add("Log", &[&more])
            }
            F::Sqrt => self.add("Sqrt", inputs),
            F::Rsqrt => {
                let root = self.add("Sqrt", inputs);
                self.add("Reciprocal", &[&root])
            }
            F::Sin => self.add("Sin", inputs),
            F::Cos => self.add("Cos", inputs),
            F::Tanh => self.add("Tanh", inputs),
            F::Erf => self.add("Erf", inputs),
            F::Floor => self.add("Floor", inputs),
            F::Ceil => self.add("Ceil", inputs),
            F::Round => self.add("Round", inputs),
            F::Not => self.add(if bool { "Not" } else { "BitwiseNot" }, inputs),
            F::Add => self.add("Add", inputs),
            F::Sub => self.add("Sub", inputs),
            F::Mul => self.add("Mul", inputs),
            F::Div => self.add("Div", inputs),
            F::Rem => self.add_with("Mod", inputs, &[("fmod", Attribute::Int(1))]),
            F::Pow => self.add("Pow", inputs),
            F::Max => self.add(if bool { "Or" } else { "Max" }, inputs),
            F::Min => self.add(if bool { "And" } else { "Min" }, inputs),
            F::And => self.add(if bool { "And" } else { "BitwiseAnd" }, inputs),
            F::Or => self.add(if bool { "Or" } else { "BitwiseOr" }, inputs),
            F::Xor => self.add(if bool { "Xor" } else { "BitwiseXor" }, inputs),
            F::ShiftLeft => self.shift(inputs, operand, "LEFT"),
            F::ShiftRight => self.shift(inputs, operand, "RIGHT"),
            F::Eq => self.add("Equal", inputs),
            F::Ne => {
                let equal = self.add("Equal", inputs);
                self.add("Not", &[&equal])
            }
            F::Lt => self.compare("Less", inputs, bool),
            F::Le => self.compare("LessOrEqual", inputs, bool),
            F::Gt => self.compare("Greater", inputs, bool),
            F::Ge => self.compare("GreaterOrEqual", inputs, bool),
            F::Select => self.add("Where", inputs),
            F::MulAdd => {
                let product = self.add("Mul", &inputs[..2]);
                self.add("Add", &[&product, inputs[2]])
            }
        }
    }

    /// The format compares numbers only.
    fn compare(&mut self, op: &str, inputs: &[&str], bool: bool) -> String {
        if !bool {
            return self.add(op, inputs);
        }
        let (a, b) = (self.cast(inputs[0], DType::I32), self.cast(inputs[1], DType::I32));
        self.add(op, &[&a, &b])
    }

    /// The format shifts integers without a sign.
    fn shift(&mut self, inputs: &[&str], dtype: DType, direction: &str) -> String {
        let direction = [("direction", Attribute::Text(direction.into()))];
        let unsigned = match dtype {
            DType::I8 => DType::U8,
            DType::I16 => DType::U16,
            DType::I32 => DType::U32,
            DType::I64 => DType::U64,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 | DType::Bool => dtype,
            DType::F32 | DType::F64 | DType::F16 | DType::BF16 => dtype,
        };
        if unsigned == dtype {
            return self.add_with("BitShift", inputs, &direction);
        }
        let (a, b) = (self.cast(inputs[0], unsigned), self.cast(inputs[1], unsigned));
        let shifted = self.add_with("BitShift", &[&a, &b], &direction);
        self.cast(&shifted, dtype)
    }

    /// Floats saturate to integers in ours; the format leaves that open, so they are clipped before.
    pub(super) fn convert(&mut self, x: &str, from: DType, to: DType) -> String {
        if !from.is_float() || !to.is_integer() || to.size_bytes() > 2 {
            return self.cast(x, to);
        }
        let (low, high) = to.range();
        let (low, high) = (self.number(from, low), self.number(from, high));
        let clipped = self.add("Clip", &[x, &low, &high]);
        self.cast(&clipped, to)
    }

    pub(super) fn reduce(&mut self, op: &Reduce, x: &str, dtype: DType) -> String {
        let name = match op.function {
            ReduceFn::Sum => "ReduceSum",
            ReduceFn::Prod => "ReduceProd",
            ReduceFn::Max => "ReduceMax",
            ReduceFn::Min => "ReduceMin",
        };
        let axes = self.ints(&op.dims.iter().map(|dim| *dim as i64).collect::<Vec<_>>());
        let attributes = [("keepdims", Attribute::Int(0)), ("noop_with_empty_axes", Attribute::Int(1))];
        if dtype != DType::Bool {
            return self.add_with(name, &[x, &axes], &attributes);
        }
        let numbers = self.cast(x, DType::I32);
        let reduced = self.add_with(name, &[&numbers, &axes], &attributes);
        self.cast(&reduced, DType::Bool)
    }

    /// Only running sums are in the format; other combinations reduce a triangle.
    pub(super) fn cumulative(&mut self, op: &Cumulative, x: &str, ty: &TensorType) -> Write<String> {
        if op.function == ReduceFn::Sum {
            let axis = self.number(DType::I64, Scalar::Int(op.dim as i128));
            return Ok(self.add_with(
                "CumSum",
                &[x, &axis],
                &[("reverse", Attribute::Int(op.reverse as i64))],
            ));
        }
        let positions = self.positions(&ty.shape[op.dim])?;
        let behind = ty.rank() - op.dim - 1;
        // Row `i` of the triangle, at dims `op.dim` and `op.dim + 1`, has the positions that come before or at `i`.
        let row_axes = self.ints(&(1..=1 + behind as i64).collect::<Vec<_>>());
        let column_axes = self.ints(&(1..=behind as i64).collect::<Vec<_>>());
        let row = self.add("Unsqueeze", &[&positions, &row_axes]);
        let column = if behind > 0 { self.add("Unsqueeze", &[&positions, &column_axes]) } else { positions };
        let holds = self.add(if op.reverse { "LessOrEqual" } else { "GreaterOrEqual" }, &[&row, &column]);
        let axis = self.ints(&[op.dim as i64]);
        let wide = self.add("Unsqueeze", &[x, &axis]);
        let identity = self.number(ty.dtype, op.function.identity(ty.dtype));
        let triangle = self.add("Where", &[&holds, &wide, &identity]);
        let reduce = Reduce { function: op.function, dims: vec![op.dim + 1] };
        Ok(self.reduce(&reduce, &triangle, ty.dtype))
    }

    /// A plain product of matrices where it is one, else Einstein's notation.
    pub(super) fn contract(&mut self, op: &Contract, inputs: &[&str], types: &[TensorType]) -> String {
        let product = |lhs: &str, rhs: &str, out: &str| -> bool {
            let (Some(k), Some(n)) = (rhs.chars().rev().nth(1), rhs.chars().next_back()) else {
                return false;
            };
            let Some(head) = lhs.strip_suffix(k) else { return false };
            let Some(m) = head.chars().next_back() else { return false };
            let batch = &rhs[..rhs.len() - 2];
            let plain = batch.is_empty() || head.strip_suffix(m) == Some(batch);
            plain && out == format!("{head}{n}") && !head.contains(n)
        };
        let dtype = types[0].dtype;
        let matrices = matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::I32 | DType::I64);
        if matrices && product(&op.lhs, &op.rhs, &op.out) {
            return self.add("MatMul", inputs);
        }
        let equation = format!("{},{}->{}", op.lhs, op.rhs, op.out);
        self.add_with("Einsum", inputs, &[("equation", Attribute::Text(equation))])
    }

    pub(super) fn convolve(
        &mut self,
        op: &Convolve,
        inputs: &[&str],
        types: &[TensorType],
        result: &TensorType,
    ) -> Write<String> {
        let list = |values: &[usize]| Attribute::Ints(values.iter().map(|value| *value as i64).collect());
        let mut attributes = vec![
            ("strides", list(&op.stride)),
            ("dilations", list(&op.dilation)),
            ("group", Attribute::Int(op.groups as i64)),
        ];
        match op.direction {
            Direction::Forward => {
                attributes.push(("pads", list(&[&op.pad_low[..], &op.pad_high].concat())));
                Ok(self.add_with("Conv", inputs, &attributes))
            }
            Direction::InputGradient => {
                // The weights come first in ours. What the output has beyond the last window is added at its end.
                let (weights, y) = (&types[0], &types[1]);
                let mut extra = Vec::new();
                for (at, size) in op.sizes.iter().enumerate() {
                    let sizes = (
                        size.as_constant(),
                        weights.shape[at + 2].as_constant(),
                        y.shape[at + 2].as_constant(),
                    );
                    let (Some(size), Some(kernel), Some(windows)) = sizes else {
                        return self.unable(format!("the sizes of {result} must be known"));
                    };
                    let reach =
                        (windows - 1) * op.stride[at] as i64 + (kernel - 1) * op.dilation[at] as i64 + 1;
                    extra.push(size + (op.pad_low[at] + op.pad_high[at]) as i64 - reach);
                }
                attributes.push(("pads", list(&[&op.pad_low[..], &op.pad_high].concat())));
                attributes.push(("output_padding", Attribute::Ints(extra)));
                Ok(self.add_with("ConvTranspose", &[inputs[1], inputs[0]], &attributes))
            }
            Direction::WeightGradient => self.weight_gradient(op, inputs, types),
        }
    }

    /// The gradient of a convolution's weights. The format has none: the batch takes the part of the channels, and the stride of
    /// the windows that of the dilation.
    fn weight_gradient(&mut self, op: &Convolve, inputs: &[&str], types: &[TensorType]) -> Write<String> {
        if op.groups > 1 {
            let mut parts = Vec::new();
            for input in inputs {
                let names: Vec<String> = (0..op.groups).map(|_| self.fresh("group")).collect();
                let attributes =
                    [("axis", Attribute::Int(1)), ("num_outputs", Attribute::Int(op.groups as i64))];
                self.push("Split", &[input], &names, &attributes);
                parts.push(names);
            }
            let single = Convolve { groups: 1, ..op.clone() };
            let groups: Vec<String> = (0..op.groups)
                .map(|group| self.weight_gradient(&single, &[&parts[0][group], &parts[1][group]], types))
                .collect::<Write<_>>()?;
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            return Ok(self.add_with("Concat", &groups, &[("axis", Attribute::Int(0))]));
        }
        let list = |values: &[usize]| Attribute::Ints(values.iter().map(|value| *value as i64).collect());
        let swap: Vec<usize> = [1, 0].into_iter().chain(2..types[0].rank()).collect();
        let (x, y) = (self.transpose(inputs[0], &swap), self.transpose(inputs[1], &swap));
        let mut pads = op.pad_high.clone();
        for (at, size) in op.sizes.iter().enumerate() {
            let (x, y) = (&types[0].shape[at + 2], &types[1].shape[at + 2]);
            let sizes = (size.as_constant(), x.as_constant(), y.as_constant());
            let (Some(kernel), Some(input), Some(windows)) = sizes else {
                return self.unable("the sizes of the input, the weights and the output must be known");
            };
            // Only as much padding as the weights reach.
            let reach = (windows - 1) * op.stride[at] as i64 + (kernel - 1) * op.dilation[at] as i64 + 1;
            pads[at] = usize::try_from(reach - input - op.pad_low[at] as i64).unwrap_or(0);
        }
        let attributes = [
            ("strides", list(&op.dilation)),
            ("dilations", list(&op.stride)),
            ("pads", list(&[&op.pad_low[..], &pads].concat())),
        ];
        let all = self.add_with("Conv", &[&x, &y], &attributes);
        let weights = self.transpose(&all, &swap);
        // Positions that the windows leave over at the end of the input belong to no weight.
        let spatial: Vec<i64> = (2..types[0].rank() as i64).collect();
        let (starts, axes) = (self.ints(&vec![0; spatial.len()]), self.ints(&spatial));
        let ends = self.shape(&op.sizes)?;
        Ok(self.add("Slice", &[&weights, &starts, &ends, &axes]))
    }

    pub(super) fn arg_sort(&mut self, op: &ArgSort, x: &str, ty: &TensorType) -> Write<String> {
        let count = self.size(&ty.shape[op.dim])?;
        let x = if ty.dtype == DType::Bool { self.cast(x, DType::I32) } else { x.to_string() };
        let (values, positions) = (self.fresh("sorted"), self.fresh("order"));
        let attributes = [
            ("axis", Attribute::Int(op.dim as i64)),
            ("largest", Attribute::Int(op.descending as i64)),
            ("sorted", Attribute::Int(1)),
        ];
        self.push("TopK", &[&x, &count], &[values, positions.clone()], &attributes);
        Ok(self.cast(&positions, DType::I32))
    }
}
