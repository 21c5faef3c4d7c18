//! Elements moved, repeated, chosen and put together.

use super::writer::{Attribute, Write, Writer};
use thalweg_base::{DType, Dim, Scalar};
use thalweg_tensor::TensorType;
use thalweg_tensor::ops::{
    Broadcast, DynamicSlice, DynamicUpdate, Fold, Gather, Iota, Pad, PadDim, Scatter, Slice, SliceRange,
    Unfold,
};

impl Writer {
    pub(super) fn iota(&mut self, op: &Iota) -> Write<String> {
        let positions = self.positions(&op.size)?;
        Ok(if op.dtype == DType::I64 { positions } else { self.cast(&positions, op.dtype) })
    }

    /// The operand with dims of 1 where it will be repeated; those before its first need not be there.
    pub(super) fn placed(&mut self, op: &Broadcast, x: &str, ty: &TensorType) -> Write<String> {
        let first = op.dims.first().copied().unwrap_or(op.shape.len());
        let mut ones = vec![Dim::ONE; op.shape.len() - first];
        op.dims.iter().zip(&ty.shape).for_each(|(dim, size)| ones[*dim - first] = size.clone());
        if ones == ty.shape { Ok(x.to_string()) } else { self.reshape(x, &ones) }
    }

    pub(super) fn broadcast(&mut self, op: &Broadcast, x: &str, ty: &TensorType) -> Write<String> {
        let placed = self.placed(op, x, ty)?;
        let shape = self.shape(&op.shape)?;
        Ok(self.add("Expand", &[&placed, &shape]))
    }

    pub(super) fn slice(&mut self, op: &Slice, x: &str) -> Write<String> {
        let starts: Vec<Dim> = op.ranges.iter().map(|range| range.start.clone()).collect();
        let end = |range: &SliceRange| match range.size.as_constant() {
            Some(0) => range.start.clone(),
            _ => {
                let last = &range.start + &(&Dim::constant(range.stride) * &(&range.size - &Dim::ONE));
                let behind = &last + &Dim::constant(range.stride.signum());
                // A negative end counts from the dim's own; one below all does not.
                if behind.as_constant().is_some_and(|end| end < 0) {
                    Dim::constant(i64::MIN / 2)
                } else {
                    behind
                }
            }
        };
        let symbolic_reverse = |range: &SliceRange| range.stride < 0 && range.start.as_constant().is_none();
        let ends: Vec<Dim> = op
            .ranges
            .iter()
            .map(|range| match symbolic_reverse(range) {
                // The whole dim backwards ends before 0, which no size can say.
                true => Dim::constant(i64::MIN / 2),
                false => end(range),
            })
            .collect();
        let (starts, ends) = (self.shape(&starts)?, self.shape(&ends)?);
        let axes = self.ints(&op.ranges.iter().map(|range| range.dim as i64).collect::<Vec<_>>());
        let steps = self.ints(&op.ranges.iter().map(|range| range.stride).collect::<Vec<_>>());
        Ok(self.add("Slice", &[x, &starts, &ends, &axes, &steps]))
    }

    /// Positions between neighbours are put behind each in a dim of its own, which is then merged.
    pub(super) fn pad(&mut self, op: &Pad, x: &str, ty: &TensorType) -> Write<String> {
        let mut x = x.to_string();
        let mut shape = ty.shape.clone();
        for pad in op.dims.iter().filter(|pad| pad.interior > 0) {
            let size = shape[pad.dim].clone();
            let mut split = shape.clone();
            split.insert(pad.dim + 1, Dim::ONE);
            x = self.reshape(&x, &split)?;
            let behind = PadDim { dim: pad.dim + 1, low: 0.into(), high: pad.interior.into(), interior: 0 };
            x = self.edges(&x, split.len(), &[behind], op.value, ty.dtype)?;
            shape[pad.dim] = &size * &Dim::from(pad.interior + 1);
            x = self.reshape(&x, &shape)?;
            let wanted = &shape[pad.dim] - &Dim::from(pad.interior);
            let range = SliceRange { dim: pad.dim, start: 0.into(), size: wanted.clone(), stride: 1 };
            x = self.slice(&Slice { ranges: vec![range] }, &x)?;
            shape[pad.dim] = wanted;
        }
        self.edges(&x, shape.len(), &op.dims, op.value, ty.dtype)
    }

    /// Positions before the first and after the last.
    fn edges(&mut self, x: &str, rank: usize, dims: &[PadDim], value: Scalar, dtype: DType) -> Write<String> {
        let mut amounts = vec![Dim::default(); 2 * rank];
        for pad in dims {
            amounts[pad.dim] = pad.low.clone();
            amounts[rank + pad.dim] = pad.high.clone();
        }
        if amounts.iter().all(|amount| *amount == Dim::default()) {
            return Ok(x.to_string());
        }
        let amounts = self.shape(&amounts)?;
        // Truth values are padded as bytes, which all that run the format can do.
        if dtype == DType::Bool {
            let bytes = self.cast(x, DType::U8);
            let value = self.number(DType::U8, value.convert(DType::Bool));
            let padded = self.add("Pad", &[&bytes, &amounts, &value]);
            return Ok(self.cast(&padded, DType::Bool));
        }
        let value = self.number(dtype, value);
        Ok(self.add("Pad", &[x, &amounts, &value]))
    }

    /// Indices within a dim, as i64.
    fn clamped(&mut self, indices: &str, size: &Dim) -> Write<String> {
        let indices = self.cast(indices, DType::I64);
        let scalar = self.ints(&[]);
        let last = self.size(&(size - &Dim::ONE))?;
        let last = self.add("Reshape", &[&last, &scalar]);
        let zero = self.number(DType::I64, Scalar::Int(0));
        let low = self.add("Max", &[&indices, &zero]);
        Ok(self.add("Min", &[&low, &last]))
    }

    pub(super) fn gather(&mut self, op: &Gather, inputs: &[&str], types: &[TensorType]) -> Write<String> {
        let (x, indices) = (&types[0], &types[1]);
        let chosen = self.clamped(inputs[1], &x.shape[op.dim])?;
        if op.batch == 0 {
            return Ok(self.add_with(
                "Gather",
                &[inputs[0], &chosen],
                &[("axis", Attribute::Int(op.dim as i64))],
            ));
        }
        // The dim goes behind the shared ones, then an index is a tuple of one.
        let rank = x.rank();
        let before: Vec<usize> = (op.batch..op.dim).collect();
        let perm: Vec<usize> =
            (0..op.batch).chain([op.dim]).chain(before.iter().copied()).chain(op.dim + 1..rank).collect();
        let moved = self.transpose(inputs[0], &perm);
        let last = self.ints(&[-1]);
        let tuples = self.add("Unsqueeze", &[&chosen, &last]);
        let gathered =
            self.add_with("GatherND", &[&moved, &tuples], &[("batch_dims", Attribute::Int(op.batch as i64))]);
        // Now `[b, q, p, s]`; the result is `[b, p, q, s]`.
        let (q, p) = (indices.rank() - op.batch, before.len());
        let b = op.batch;
        let perm: Vec<usize> =
            (0..b).chain(b + q..b + q + p).chain(b..b + q).chain(b + q + p..rank - 1 + q).collect();
        Ok(self.transpose(&gathered, &perm))
    }

    /// Sums onto zeros. Indices outside are dropped: they go to one more position, which is cut off.
    pub(super) fn scatter(&mut self, op: &Scatter, inputs: &[&str], types: &[TensorType]) -> Write<String> {
        let (indices, updates) = (&types[0], &types[1]);
        let (b, q) = (op.batch, indices.rank() - op.batch);
        let p = op.dim - op.batch;
        let index = self.cast(inputs[0], DType::I64);
        let scalar = self.ints(&[]);
        let beyond = self.size(&op.size)?;
        let beyond = self.add("Reshape", &[&beyond, &scalar]);
        let zero = self.number(DType::I64, Scalar::Int(0));
        let negative = self.add("Less", &[&index, &zero]);
        let index = self.add("Where", &[&negative, &beyond, &index]);
        let index = self.add("Min", &[&index, &beyond]);
        // Tuples of the shared dims' positions and the index.
        let last = self.ints(&[-1]);
        let mut parts = Vec::new();
        let index_shape = self.shape(&indices.shape)?;
        for dim in 0..b {
            let positions = self.positions(&indices.shape[dim])?;
            let mut ones = vec![Dim::ONE; indices.rank()];
            ones[dim] = indices.shape[dim].clone();
            let placed = self.reshape(&positions, &ones)?;
            let all = self.add("Expand", &[&placed, &index_shape]);
            parts.push(self.add("Unsqueeze", &[&all, &last]));
        }
        parts.push(self.add("Unsqueeze", &[&index, &last]));
        let names: Vec<&str> = parts.iter().map(String::as_str).collect();
        let tuples = self.add_with("Concat", &names, &[("axis", Attribute::Int(-1))]);
        // Updates `[b, p, q, s]` as `[b, q, p, s]`, into zeros `[b, n + 1, p, s]`.
        let rank = updates.rank();
        let perm: Vec<usize> =
            (0..b).chain(b + p..b + p + q).chain(b..b + p).chain(b + p + q..rank).collect();
        let moved = self.transpose(inputs[1], &perm);
        let rest = updates.shape[b..b + p].iter().chain(&updates.shape[b + p + q..]);
        let wider = &op.size + &Dim::ONE;
        let shape: Vec<Dim> = updates.shape[..b].iter().chain([&wider]).chain(rest).cloned().collect();
        let sizes = self.shape(&shape)?;
        let zero = self.number(updates.dtype, Scalar::zero(updates.dtype));
        let zeros = self.add("Expand", &[&zero, &sizes]);
        let sums = self.add_with(
            "ScatterND",
            &[&zeros, &tuples, &moved],
            &[("reduction", Attribute::Text("add".into()))],
        );
        let range = SliceRange { dim: b, start: 0.into(), size: op.size.clone(), stride: 1 };
        let cut = self.slice(&Slice { ranges: vec![range] }, &sums)?;
        let total = shape.len();
        let perm: Vec<usize> = (0..b).chain(b + 1..b + 1 + p).chain([b]).chain(b + 1 + p..total).collect();
        Ok(self.transpose(&cut, &perm))
    }

    /// Each window's positions are chosen by a table of them.
    pub(super) fn unfold(&mut self, op: &Unfold, x: &str, ty: &TensorType) -> Write<String> {
        let pads: Vec<PadDim> = op
            .windows
            .iter()
            .map(|window| PadDim {
                dim: window.dim,
                low: window.low.into(),
                high: window.high.into(),
                interior: 0,
            })
            .collect();
        let mut x = self.edges(x, ty.rank(), &pads, op.value, ty.dtype)?;
        for (at, window) in op.windows.iter().enumerate() {
            let count = window.count(&ty.shape[window.dim]);
            let starts = self.positions(&count)?;
            let stride = self.ints(&[window.stride as i64]);
            let starts = self.add("Mul", &[&starts, &stride]);
            let column = self.ints(&[1]);
            let starts = self.add("Unsqueeze", &[&starts, &column]);
            let offsets: Vec<i64> = (0..window.size as i64).map(|k| k * window.dilation as i64).collect();
            let offsets = self.ints(&offsets);
            let table = self.add("Add", &[&starts, &offsets]);
            x = self.add_with("Gather", &[&x, &table], &[("axis", Attribute::Int(window.dim as i64))]);
            // The window's positions go behind all dims so far.
            let rank = ty.rank() + at + 1;
            let perm: Vec<usize> =
                (0..=window.dim).chain(window.dim + 2..rank).chain([window.dim + 1]).collect();
            x = self.transpose(&x, &perm);
        }
        Ok(x)
    }

    /// The sum over the positions of a window of what each position puts where.
    pub(super) fn fold(&mut self, op: &Fold, x: &str, ty: &TensorType, result: &TensorType) -> Write<String> {
        let mut x = x.to_string();
        let mut shape = ty.shape.clone();
        for (window, size) in op.windows.iter().zip(&op.sizes).rev() {
            let last = shape.len() - 1;
            shape.pop();
            let count = shape[window.dim].clone();
            let padded = size + &Dim::from(window.low + window.high);
            let spread = &(&count - &Dim::ONE) * &Dim::from(window.stride);
            let mut sum: Option<String> = None;
            for k in 0..window.size {
                let position = self.number(DType::I64, Scalar::Int(k as i128));
                let part =
                    self.add_with("Gather", &[&x, &position], &[("axis", Attribute::Int(last as i64))]);
                let low = Dim::from(k * window.dilation);
                let high = &(&padded - &low) - &(&spread + &Dim::ONE);
                let dims = vec![PadDim { dim: window.dim, low, high, interior: window.stride - 1 }];
                let part_ty = TensorType { dtype: ty.dtype, shape: shape.clone() };
                let placed = self.pad(&Pad { dims, value: Scalar::zero(ty.dtype) }, &part, &part_ty)?;
                sum = Some(match sum {
                    Some(sum) => self.add("Add", &[&sum, &placed]),
                    None => placed,
                });
            }
            let Some(sum) = sum else { return self.unable("a window has no positions") };
            let range =
                SliceRange { dim: window.dim, start: window.low.into(), size: size.clone(), stride: 1 };
            x = self.slice(&Slice { ranges: vec![range] }, &sum)?;
            shape[window.dim] = size.clone();
        }
        debug_assert_eq!(shape, result.shape);
        Ok(x)
    }

    /// The computed start of a slice that lies within the dim, as a list of one, and the start of what follows it.
    fn bounds(&mut self, start: &str, part: &Dim, whole: &Dim) -> Write<(String, String)> {
        let start = self.cast(start, DType::I64);
        let one = self.ints(&[1]);
        let start = self.add("Reshape", &[&start, &one]);
        let zero = self.ints(&[0]);
        let largest = self.size(&(whole - part))?;
        let low = self.add("Max", &[&start, &zero]);
        let start = self.add("Min", &[&low, &largest]);
        let part = self.size(part)?;
        let end = self.add("Add", &[&start, &part]);
        Ok((start, end))
    }

    pub(super) fn dynamic_slice(
        &mut self,
        op: &DynamicSlice,
        inputs: &[&str],
        types: &[TensorType],
    ) -> Write<String> {
        let mut x = inputs[0].to_string();
        for (at, (dim, size)) in op.dims.iter().zip(&op.sizes).enumerate() {
            let (start, end) = self.bounds(inputs[1 + at], size, &types[0].shape[*dim])?;
            let axis = self.ints(&[*dim as i64]);
            x = self.add("Slice", &[&x, &start, &end, &axis]);
        }
        Ok(x)
    }

    /// What is before the slice, the slice, and what is after it, along each dim from the last.
    pub(super) fn dynamic_update(
        &mut self,
        op: &DynamicUpdate,
        inputs: &[&str],
        types: &[TensorType],
    ) -> Write<String> {
        let (whole, part) = (&types[0], &types[1]);
        let mut bounds = Vec::new();
        for (at, dim) in op.dims.iter().enumerate() {
            bounds.push(self.bounds(inputs[2 + at], &part.shape[*dim], &whole.shape[*dim])?);
        }
        let far = self.ints(&[i64::MAX]);
        let zero = self.ints(&[0]);
        // The rows that the slice lies in, cut along the dims before the one that is put together.
        let mut rows = vec![inputs[0].to_string()];
        for (at, dim) in op.dims.iter().enumerate().take(op.dims.len().saturating_sub(1)) {
            let axis = self.ints(&[*dim as i64]);
            let row = self.add("Slice", &[&rows[at], &bounds[at].0, &bounds[at].1, &axis]);
            rows.push(row);
        }
        let mut y = inputs[1].to_string();
        for (at, dim) in op.dims.iter().enumerate().rev() {
            let axis = self.ints(&[*dim as i64]);
            let before = self.add("Slice", &[&rows[at], &zero, &bounds[at].0, &axis]);
            let after = self.add("Slice", &[&rows[at], &bounds[at].1, &far, &axis]);
            y = self.add_with("Concat", &[&before, &y, &after], &[("axis", Attribute::Int(*dim as i64))]);
        }
        Ok(y)
    }
}
