//! Instructions over virtual registers, in blocks, as the register allocator wants them.
//!
//! Virtual registers are defined once. Blocks get values from their predecessors as parameters; an edge from a block with
//! two successors to one with two predecessors does not occur (loops have a block of their own for the way back).

use iced_x86::Code;
use regalloc2::{
    Block, Inst as InstIndex, InstRange, Operand, OperandConstraint, OperandKind, OperandPos, PReg, PRegSet,
    RegClass, VReg,
};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// How much of a register an instruction names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum View {
    R32,
    R64,
    X,
    Y,
    Z,
    K,
}

/// What an address starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    Reg(VReg),
    /// The constants behind the code.
    Pool,
    /// The thread-private arrays on the stack.
    Frame,
}

/// A place in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mem {
    pub base: Base,
    /// A register (vectors in gathers and scatters) and what it is multiplied by: 1, 2, 4 or 8.
    pub index: Option<(View, VReg, u8)>,
    pub disp: i32,
    /// One element that is read for all lanes.
    pub broadcast: bool,
}

impl Mem {
    pub fn at(base: VReg) -> Mem {
        Mem { base: Base::Reg(base), index: None, disp: 0, broadcast: false }
    }

    pub fn plus(self, bytes: i32) -> Mem {
        Mem { disp: self.disp + bytes, ..self }
    }
}

/// One operand, in the order of the instruction's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arg {
    Def(View, VReg),
    /// Defined in a register that the calling convention names.
    DefFixed(VReg, PReg),
    /// The first register is defined in the place of the second, which is read.
    Tied(View, VReg, VReg),
    Use(View, VReg),
    Imm8(u8),
    Imm32(i32),
    /// 32 bits that are extended with their sign to 64.
    Imm32Wide(i32),
    Imm64(i64),
    Mem(Mem),
}

/// Which lanes an instruction touches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mask {
    All,
    Use(VReg),
    /// Read and left cleared, as by gathers and scatters.
    Consumed(VReg, VReg),
}

/// A label of a block; blocks are numbered by their place only when all are there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Label(pub u32);

/// Where control goes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Next,
    /// Nothing is encoded: the function's arguments appear.
    Entry,
    Return,
    Jump(Label),
    /// After a comparison: to the first when it was signed-less, else to the second.
    IfLess(Label, Label),
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub code: Code,
    pub args: SmallVec<[Arg; 4]>,
    pub mask: Mask,
    /// Lanes that the mask leaves out become zero instead of keeping what was there.
    pub zeroing: bool,
    pub flow: Flow,
}

/// A block under construction or done.
#[derive(Clone, Debug)]
struct BlockData {
    label: Label,
    insts: (usize, usize),
    params: Vec<VReg>,
    /// What the only successor gets.
    args: Vec<VReg>,
    /// The head of a loop.
    pub head: bool,
}

/// One function over virtual registers.
#[derive(Debug)]
pub(crate) struct Machine {
    pub insts: Vec<Inst>,
    blocks: Vec<BlockData>,
    labels: u32,
    vregs: usize,
    /// Constants behind the code; offsets are multiples of the constants' own sizes up to 64.
    pub pool: Vec<u8>,
    known: BTreeMap<Vec<u8>, i32>,
    /// Instructions that are put right behind the function's entry.
    prologue: Vec<Inst>,
}

impl Machine {
    pub fn new() -> Machine {
        Machine {
            insts: Vec::new(),
            blocks: Vec::new(),
            labels: 0,
            vregs: 0,
            pool: Vec::new(),
            known: BTreeMap::new(),
            prologue: Vec::new(),
        }
    }

    pub fn vreg(&mut self, class: RegClass) -> VReg {
        self.vregs += 1;
        VReg::new(self.vregs - 1, class)
    }

    pub fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    /// Begins a block; the one before must have ended with a jump.
    pub fn begin(&mut self, label: Label, params: Vec<VReg>, head: bool) {
        let at = self.insts.len();
        self.blocks.push(BlockData { label, insts: (at, at), params, args: Vec::new(), head });
    }

    pub fn push(&mut self, inst: Inst) {
        let ends = inst.flow != Flow::Next && inst.flow != Flow::Entry;
        self.insts.push(inst);
        if ends {
            self.blocks.last_mut().expect("a block is open").insts.1 = self.insts.len();
        }
    }

    /// Adds an instruction behind the function's entry, before all that is there but others that were added so.
    pub fn push_first(&mut self, inst: Inst) {
        self.prologue.push(inst);
    }

    /// Ends the block with a jump that hands over `args`.
    pub fn jump(&mut self, to: Label, args: Vec<VReg>) {
        self.blocks.last_mut().expect("a block is open").args = args;
        let args = SmallVec::new();
        self.push(Inst { code: Code::INVALID, args, mask: Mask::All, zeroing: false, flow: Flow::Jump(to) });
    }

    /// The place of a constant behind the code, relative to the first.
    pub fn constant(&mut self, bytes: &[u8]) -> i32 {
        if let Some(offset) = self.known.get(bytes) {
            return *offset;
        }
        self.pool.resize(self.pool.len().next_multiple_of(bytes.len().min(64)), 0);
        let offset = self.pool.len() as i32;
        self.pool.extend_from_slice(bytes);
        self.known.insert(bytes.to_vec(), offset);
        offset
    }

    /// The function as the allocator sees it.
    pub fn finish(mut self) -> Program {
        let first = self.insts.iter().position(|inst| inst.flow == Flow::Entry).map_or(0, |entry| entry + 1);
        let shift = self.prologue.len();
        self.insts.splice(first..first, self.prologue);
        for block in &mut self.blocks {
            block.insts.0 += if block.insts.0 >= first { shift } else { 0 };
            block.insts.1 += shift;
        }
        let mut places = vec![0usize; self.labels as usize];
        for (place, block) in self.blocks.iter().enumerate() {
            places[block.label.0 as usize] = place;
        }
        let place = |label: Label| Block::new(places[label.0 as usize]);
        let mut succs: Vec<Vec<Block>> = Vec::with_capacity(self.blocks.len());
        let mut preds = vec![Vec::new(); self.blocks.len()];
        for (at, block) in self.blocks.iter().enumerate() {
            let to = match self.insts[block.insts.1 - 1].flow {
                Flow::Jump(to) => vec![place(to)],
                Flow::IfLess(yes, no) => vec![place(yes), place(no)],
                Flow::Next | Flow::Entry | Flow::Return => Vec::new(),
            };
            for block in &to {
                preds[block.index()].push(Block::new(at));
            }
            succs.push(to);
        }
        let mut operands = Vec::with_capacity(4 * self.insts.len());
        let mut starts = Vec::with_capacity(self.insts.len() + 1);
        for inst in &self.insts {
            starts.push(operands.len());
            operands_of(inst, &mut operands);
        }
        starts.push(operands.len());
        Program {
            insts: self.insts,
            blocks: self.blocks,
            succs,
            preds,
            operands,
            starts,
            vregs: self.vregs,
            pool: self.pool,
        }
    }
}

/// Operands in a fixed order, which [`Program::placed`] follows.
fn operands_of(inst: &Inst, operands: &mut Vec<Operand>) {
    let first = operands.len();
    let tie = |operands: &mut Vec<Operand>, def: VReg, used: VReg| {
        let at = operands.len() - first;
        operands.push(Operand::reg_use(used));
        operands.push(Operand::new(def, OperandConstraint::Reuse(at), OperandKind::Def, OperandPos::Late));
    };
    for arg in &inst.args {
        match arg {
            Arg::Def(_, reg) => operands.push(Operand::reg_def(*reg)),
            Arg::DefFixed(reg, place) => operands.push(Operand::reg_fixed_def(*reg, *place)),
            Arg::Tied(_, def, used) => tie(operands, *def, *used),
            Arg::Use(_, reg) => operands.push(Operand::reg_use(*reg)),
            Arg::Imm8(_) | Arg::Imm32(_) | Arg::Imm32Wide(_) | Arg::Imm64(_) => {}
            Arg::Mem(mem) => {
                if let Base::Reg(reg) = mem.base {
                    operands.push(Operand::reg_use(reg));
                }
                if let Some((_, reg, _)) = mem.index {
                    operands.push(Operand::reg_use(reg));
                }
            }
        }
    }
    match inst.mask {
        Mask::All => {}
        Mask::Use(reg) => operands.push(Operand::reg_use(reg)),
        Mask::Consumed(def, used) => tie(operands, def, used),
    }
}

/// A function whose blocks are numbered.
#[derive(Debug)]
pub(crate) struct Program {
    pub insts: Vec<Inst>,
    blocks: Vec<BlockData>,
    succs: Vec<Vec<Block>>,
    preds: Vec<Vec<Block>>,
    operands: Vec<Operand>,
    starts: Vec<usize>,
    vregs: usize,
    pub pool: Vec<u8>,
}

impl Program {
    /// Whether a block is the head of a loop.
    pub fn is_head(&self, block: usize) -> bool {
        self.blocks[block].head
    }

    /// The registers of an instruction's arguments, one entry for each place that a register takes: arguments in order (base
    /// before index), then the mask. Of a tie, the register that is defined.
    pub fn placed(&self, inst: usize, allocs: &[regalloc2::Allocation]) -> SmallVec<[PReg; 5]> {
        let mut next = 0;
        let mut take = |count: usize| {
            next += count;
            allocs[next - 1].as_reg().expect("operands are in registers")
        };
        let mut placed = SmallVec::new();
        for arg in &self.insts[inst].args {
            match arg {
                Arg::Def(..) | Arg::DefFixed(..) | Arg::Use(..) => placed.push(take(1)),
                Arg::Tied(..) => placed.push(take(2)),
                Arg::Imm8(_) | Arg::Imm32(_) | Arg::Imm32Wide(_) | Arg::Imm64(_) => {}
                Arg::Mem(mem) => {
                    if let Base::Reg(_) = mem.base {
                        placed.push(take(1));
                    }
                    if mem.index.is_some() {
                        placed.push(take(1));
                    }
                }
            }
        }
        match self.insts[inst].mask {
            Mask::All => {}
            Mask::Use(_) => placed.push(take(1)),
            Mask::Consumed(..) => placed.push(take(2)),
        }
        placed
    }
}

impl regalloc2::Function for Program {
    fn num_insts(&self) -> usize {
        self.insts.len()
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn entry_block(&self) -> Block {
        Block::new(0)
    }

    fn block_insns(&self, block: Block) -> InstRange {
        let (from, to) = self.blocks[block.index()].insts;
        InstRange::new(InstIndex::new(from), InstIndex::new(to))
    }

    fn block_succs(&self, block: Block) -> &[Block] {
        &self.succs[block.index()]
    }

    fn block_preds(&self, block: Block) -> &[Block] {
        &self.preds[block.index()]
    }

    fn block_params(&self, block: Block) -> &[VReg] {
        &self.blocks[block.index()].params
    }

    fn is_ret(&self, inst: InstIndex) -> bool {
        self.insts[inst.index()].flow == Flow::Return
    }

    fn is_branch(&self, inst: InstIndex) -> bool {
        matches!(self.insts[inst.index()].flow, Flow::Jump(_) | Flow::IfLess(..))
    }

    fn branch_blockparams(&self, block: Block, _: InstIndex, _: usize) -> &[VReg] {
        &self.blocks[block.index()].args
    }

    fn inst_operands(&self, inst: InstIndex) -> &[Operand] {
        &self.operands[self.starts[inst.index()]..self.starts[inst.index() + 1]]
    }

    fn inst_clobbers(&self, _: InstIndex) -> PRegSet {
        PRegSet::empty()
    }

    fn num_vregs(&self) -> usize {
        self.vregs
    }

    fn spillslot_size(&self, class: RegClass) -> usize {
        match class {
            RegClass::Int | RegClass::Vector => 1,
            RegClass::Float => 8,
        }
    }
}
