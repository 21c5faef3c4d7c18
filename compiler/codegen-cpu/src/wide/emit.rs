//! The function as a whole, statements, and how values lie in registers.

use super::assemble::preg;
use super::machine::{Arg, Base, Flow, Inst, Machine, Mask, Mem, Program, View};
use super::nest::{Bounds, Item, nest};
use super::ops::{Logic, Src};
use super::{Level, Refusal};
use iced_x86::Code;
use regalloc2::{RegClass, VReg};
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeMap;
use thalweg_base::{DType, Scalar};
use thalweg_kernel::analysis::{ValueMap, dtypes};
use thalweg_kernel::{Expr, Kernel, Stmt, ValueId, VarId};

/// A value while code is emitted.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// Known now; put in a register, or read from memory as an operand, where it is used.
    Constant(Scalar),
    /// The same in all lanes of one register.
    Uniform(VReg),
    /// A register for each group, two for each group of 64-bit values.
    Lanes(Registers),
}

pub(crate) type Registers = SmallVec<[VReg; 8]>;

/// The vector loop that is being emitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    pub var: VarId,
    /// Groups a round.
    pub groups: usize,
    /// The lanes of the last group that are inside the loop; absent where all are.
    pub tail: Option<VReg>,
}

/// Where a loop variable is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Var {
    Known(i64),
    /// In a register, in a loop this deep.
    Reg(VReg, usize),
}

pub(crate) struct Emitter<'a> {
    pub m: Machine,
    pub kernel: &'a Kernel,
    pub level: Level,
    pub dtypes: ValueMap<DType>,
    pub values: ValueMap<Value>,
    /// How often each value is used, for the choice of what an instruction may overwrite.
    pub uses: ValueMap<usize>,
    /// How deep the loop is that each value is computed in.
    depths: ValueMap<usize>,
    pub vars: Vec<Option<Var>>,
    pub depth: usize,
    pub vector: Option<Vector>,
    pub varying: ValueMap<()>,
    pub bases: super::address::Bases,
    pub ranges: Vec<(VReg, VReg)>,
    /// Constants that stay in registers, by the instruction that loads them and where they are; absent where a constant is
    /// to be in a register of its own.
    pub fixed: Option<BTreeMap<(usize, i32), VReg>>,
}

/// Emits a kernel; also gives the bytes of its thread-private arrays.
pub(crate) fn emit(kernel: &Kernel, level: Level) -> Result<(Program, usize), Refusal> {
    let mut emitter = Emitter {
        m: Machine::new(),
        kernel,
        level,
        dtypes: dtypes(kernel),
        values: ValueMap::default(),
        uses: ValueMap::default(),
        depths: ValueMap::default(),
        vars: Vec::new(),
        depth: 0,
        vector: None,
        varying: ValueMap::default(),
        bases: super::address::Bases::default(),
        ranges: Vec::new(),
        fixed: Some(BTreeMap::new()),
    };
    emitter.refuse()?;
    emitter.count(&kernel.body);
    let scratch = emitter.whole()?;
    Ok((emitter.m.finish(), scratch))
}

fn covers(level: Level, dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::I32 | DType::Bool => true,
        DType::F64
        | DType::I64
        | DType::U64
        | DType::F16
        | DType::BF16
        | DType::I8
        | DType::I16
        | DType::U8
        | DType::U16
        | DType::U32 => level == Level::Avx512,
    }
}

impl<'a> Emitter<'a> {
    /// Refuses what no part of the emitter covers.
    fn refuse(&self) -> Result<(), Refusal> {
        let kernel = self.kernel;
        let places = kernel.buffers.iter().map(|buffer| (buffer.dtype, buffer.elements));
        let scratch = kernel.scratch.iter().map(|scratch| (scratch.dtype, scratch.elements));
        for (dtype, elements) in places.chain(scratch) {
            // Bits in memory are bytes, which AVX2 has no masked accesses for.
            if !covers(self.level, dtype) || self.level == Level::Avx2 && dtype == DType::Bool {
                return Err(Refusal::Width(dtype));
            }
            if elements >= 1 << 31 {
                return Err(Refusal::Offset);
            }
        }
        for value in 0..self.dtypes.end().0 {
            if let Some(dtype) = self.dtypes.get(ValueId(value))
                && !covers(self.level, *dtype)
            {
                return Err(Refusal::Width(*dtype));
            }
        }
        match kernel.ranges.iter().any(|range| range.extent == 0) || has_empty(&kernel.body) {
            true => Err(Refusal::Empty),
            false => Ok(()),
        }
    }

    fn used(&mut self, value: ValueId, times: usize) {
        let before = self.uses.get(value).copied().unwrap_or(0);
        self.uses.insert(value, before + times);
    }

    fn count(&mut self, body: &[Stmt]) {
        for stmt in body {
            match stmt {
                Stmt::Let { expr, .. } => expr.for_each_operand(|operand| self.used(operand, 1)),
                Stmt::Store { index, value, guard, .. } => {
                    index.dynamic.iter().chain([value]).chain(guard).for_each(|value| self.used(*value, 1));
                }
                Stmt::Loop { carried, body, .. } => {
                    for carry in carried {
                        self.used(carry.init, 1);
                        self.used(carry.next, 1);
                    }
                    self.count(body);
                }
            }
        }
    }

    fn whole(&mut self) -> Result<usize, Refusal> {
        let entry = self.m.label();
        self.m.begin(entry, Vec::new(), false);
        let (buffers, bounds) = (self.int(), self.int());
        // The first two arguments of the System V convention: rdi and rsi.
        let args = smallvec![
            Arg::DefFixed(buffers, preg(RegClass::Int, 7)),
            Arg::DefFixed(bounds, preg(RegClass::Int, 6))
        ];
        self.m.push(Inst { code: Code::INVALID, args, mask: Mask::All, zeroing: false, flow: Flow::Entry });
        for position in 0..self.kernel.buffers.len() {
            let base = self.load_int(Mem::at(buffers).plus(8 * position as i32));
            self.bases.buffers.push(base);
        }
        for dim in 0..self.kernel.ranges.len() {
            let lo = self.load_int(Mem::at(bounds).plus(16 * dim as i32));
            let hi = self.load_int(Mem::at(bounds).plus(16 * dim as i32 + 8));
            self.ranges.push((lo, hi));
        }
        let mut offset = 0;
        for scratch in &self.kernel.scratch {
            let mem = Mem { base: Base::Frame, index: None, disp: offset as i32, broadcast: false };
            let base = self.lea(mem);
            self.bases.scratch.push(base);
            offset += (scratch.elements * scratch.dtype.size_bytes()).next_multiple_of(64);
        }
        let items = nest(self.kernel);
        self.prepare(&items)?;
        self.items(&items)?;
        let args = SmallVec::new();
        self.m.push(Inst { code: Code::INVALID, args, mask: Mask::All, zeroing: false, flow: Flow::Return });
        Ok(offset)
    }

    fn load_int(&mut self, mem: Mem) -> VReg {
        let def = self.int();
        self.push(Code::Mov_r64_rm64, smallvec![Arg::Def(View::R64, def), Arg::Mem(mem)]);
        def
    }

    pub(crate) fn items(&mut self, items: &[Item<'a>]) -> Result<(), Refusal> {
        let mut rest = items;
        while let Some((item, after)) = rest.split_first() {
            match item {
                Item::Let(value, expr) => {
                    let computed = self.expr(*value, expr)?;
                    self.define(*value, computed);
                }
                Item::Store(stmt) => {
                    if let Some(count) = self.interleaved(rest) {
                        self.store_interleaved(&rest[..count])?;
                        rest = &rest[count..];
                        continue;
                    }
                    self.store(stmt)?;
                }
                Item::Loop(nest) => match nest.bounds {
                    Bounds::Range(dim) => self.range(nest, dim)?,
                    Bounds::Known(extent) => self.inner(nest, extent)?,
                },
            }
            rest = after;
        }
        Ok(())
    }

    fn expr(&mut self, value: ValueId, expr: &'a Expr) -> Result<Value, Refusal> {
        match expr {
            Expr::Constant(_, value) => Ok(Value::Constant(*value)),
            Expr::Index(dtype, index) => self.position(*dtype, index),
            Expr::Load { place, index, guard, otherwise } => self.load(*place, index, *guard, *otherwise),
            Expr::Pointwise(function, operands) => {
                let dtype = self.dtype(*operands.last().expect("functions have operands"));
                let values: SmallVec<[Value; 3]> =
                    operands.iter().map(|operand| self.value(*operand)).collect();
                let uses: SmallVec<[usize; 3]> =
                    operands.iter().map(|operand| self.uses_here(*operand)).collect();
                self.function(*function, dtype, &values, &uses)
            }
            Expr::Convert(dtype, operand) => {
                let from = self.dtype(*operand);
                let operand = self.value(*operand);
                self.convert(&operand, from, *dtype)
            }
            Expr::Bitcast(_, operand) => {
                let from = self.dtype(*operand);
                Ok(match self.value(*operand) {
                    Value::Constant(constant) => {
                        let register = self.uniform(&Value::Constant(constant), from);
                        Value::Uniform(register)
                    }
                    other @ (Value::Uniform(_) | Value::Lanes(_)) => other,
                })
            }
        }
        .inspect(|result| {
            debug_assert!(!matches!(result, Value::Lanes(_)) || self.vector.is_some(), "{value}")
        })
    }

    pub(crate) fn define(&mut self, value: ValueId, computed: Value) {
        self.depths.insert(value, self.depth);
        self.values.insert(value, computed);
    }

    /// How often a value is used; what lives across rounds of the open loop counts as used again.
    fn uses_here(&self, value: ValueId) -> usize {
        let outside = self.depths.get(value).is_some_and(|depth| *depth < self.depth);
        self.uses.get(value).copied().unwrap_or(0) + usize::from(outside)
    }

    pub(crate) fn dtype(&self, value: ValueId) -> DType {
        *self.dtypes.get(value).expect("every value has a dtype")
    }

    pub(crate) fn value(&self, value: ValueId) -> Value {
        self.values.get(value).expect("verified: values are defined before their uses").clone()
    }

    /// A constant as an operand.
    pub(crate) fn source(constant: Scalar, dtype: DType) -> Src {
        match dtype {
            DType::F32 => Src::Bits32((constant.to_f64() as f32).to_bits()),
            DType::I32 => Src::Bits32(constant.to_i64() as u32),
            DType::F64 => Src::Bits64(constant.to_f64().to_bits()),
            DType::I64 | DType::U64 => Src::Bits64(constant.to_i64() as u64),
            DType::Bool
            | DType::F16
            | DType::BF16
            | DType::I8
            | DType::I16
            | DType::U8
            | DType::U16
            | DType::U32 => panic!("{dtype} is no operand in memory"),
        }
    }

    /// One register of a value that has no lanes.
    pub(crate) fn uniform(&mut self, value: &Value, dtype: DType) -> VReg {
        match value {
            Value::Constant(constant) if dtype == DType::Bool => self.truth_constant(constant.to_i64() != 0),
            Value::Constant(constant) => self.reg(Self::source(*constant, dtype)),
            Value::Uniform(reg) => *reg,
            Value::Lanes(_) => panic!("a value that does not vary is in one register"),
        }
    }

    /// The registers of a value for that many groups.
    pub(crate) fn registers(&mut self, value: &Value, dtype: DType, groups: usize) -> Registers {
        match value {
            Value::Lanes(registers) => registers.clone(),
            Value::Constant(_) | Value::Uniform(_) => {
                smallvec![self.uniform(value, dtype); groups * parts(dtype)]
            }
        }
    }

    /// The low 32 bits (or all 64) of an integer register in all lanes.
    pub(crate) fn spread_int(&mut self, reg: VReg, double: bool) -> VReg {
        let def = self.vector();
        if self.wide() {
            let (code, view) = match double {
                false => (Code::EVEX_Vpbroadcastd_zmm_k1z_r32, View::R32),
                true => (Code::EVEX_Vpbroadcastq_zmm_k1z_r64, View::R64),
            };
            self.push(code, smallvec![Arg::Def(View::Z, def), Arg::Use(view, reg)]);
            return def;
        }
        let low = self.vector();
        self.push(Code::VEX_Vmovd_xmm_rm32, smallvec![Arg::Def(View::X, low), Arg::Use(View::R32, reg)]);
        let args = smallvec![Arg::Def(View::Y, def), Arg::Use(View::X, low)];
        self.push(Code::VEX_Vpbroadcastd_ymm_xmmm32, args);
        def
    }

    /// `factor * (0, 1, 2, …)` from a lane on, as a constant operand of 32-bit lanes.
    pub(crate) fn lane_numbers(&mut self, factor: i64, first: usize) -> Src {
        let lanes = self.level.lanes();
        let bytes: Vec<u8> = (first..first + lanes)
            .flat_map(|lane| ((factor.wrapping_mul(lane as i64)) as i32).to_le_bytes())
            .collect();
        Src::Reg(self.load_vector(&bytes))
    }

    pub(crate) fn load_vector(&mut self, bytes: &[u8]) -> VReg {
        let mem = self.vector_mem(bytes);
        let code = self.code(Code::EVEX_Vmovups_zmm_k1z_zmmm512, Code::VEX_Vmovups_ymm_ymmm256);
        self.constant_register(code, mem)
    }

    /// The sum of two masks' lanes that both hold, where either may be absent.
    pub(crate) fn both(&mut self, a: Option<VReg>, b: Option<VReg>) -> Option<VReg> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.logic(Logic::And, a, b)),
            (a, b) => a.or(b),
        }
    }
}

/// Registers of a group for a dtype.
pub(crate) fn parts(dtype: DType) -> usize {
    match dtype {
        DType::F64 | DType::I64 | DType::U64 => 2,
        DType::F32
        | DType::I32
        | DType::Bool
        | DType::F16
        | DType::BF16
        | DType::I8
        | DType::I16
        | DType::U8
        | DType::U16
        | DType::U32 => 1,
    }
}

fn has_empty(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Let { .. } | Stmt::Store { .. } => false,
        Stmt::Loop { extent, body, .. } => *extent == 0 || has_empty(body),
    })
}
