//! From instructions over virtual registers to bytes: allocation, frame, encoding, branches, constants.

use super::machine::{Arg, Base, Flow, Inst, Label, Mask, Mem, Program, View};
use super::{Level, Refusal};
use iced_x86::{Code, Encoder, Instruction, OpKind, Register};
use regalloc2::{
    Allocation, Block, Edit, Function, InstOrEdit, MachineEnv, Output, PReg, PRegSet, RegClass,
    RegallocOptions,
};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of one spill slot.
const SLOT: usize = 8;
/// `r11`, `zmm31` (`ymm15`) and `k0` are kept free for moves; `k0` cannot be a mask anyway.
const INT_SCRATCH: usize = 11;
/// rax, rcx, rdx, rsi, rdi, r8 to r10: a function may change them freely.
const CALLER_SAVED: [usize; 8] = [0, 1, 2, 6, 7, 8, 9, 10];
/// rbx and r12 to r15. rbp is the frame pointer.
const CALLEE_SAVED: [usize; 5] = [3, 12, 13, 14, 15];

/// A register of a class.
pub(crate) fn preg(class: RegClass, number: usize) -> PReg {
    PReg::new(number, class)
}

fn environment(level: Level) -> MachineEnv {
    let set = |class, numbers: &mut dyn Iterator<Item = usize>| {
        numbers.map(|number| preg(class, number)).collect::<Vec<_>>().into_iter().fold(
            PRegSet::empty(),
            |mut set, register| {
                set.add(register);
                set
            },
        )
    };
    let vectors = level.vector_registers();
    MachineEnv {
        preferred_regs_by_class: [
            set(RegClass::Int, &mut CALLER_SAVED.into_iter()),
            set(RegClass::Float, &mut (0..vectors - 1)),
            set(RegClass::Vector, &mut (1..8)),
        ],
        non_preferred_regs_by_class: [
            set(RegClass::Int, &mut CALLEE_SAVED.into_iter()),
            PRegSet::empty(),
            PRegSet::empty(),
        ],
        scratch_by_class: [
            Some(preg(RegClass::Int, INT_SCRATCH)),
            Some(preg(RegClass::Float, vectors - 1)),
            Some(preg(RegClass::Vector, 0)),
        ],
        fixed_stack_slots: Vec::new(),
    }
}

/// Code and, where asked for, its listing.
pub(crate) struct Assembled {
    pub bytes: Vec<u8>,
    pub listing: Option<String>,
}

/// Allocates registers and encodes. `scratch` is the size in bytes of the thread-private arrays.
pub(crate) fn assemble(
    program: &Program,
    level: Level,
    scratch: usize,
    listing: bool,
) -> Result<Assembled, Refusal> {
    let options = RegallocOptions { validate_ssa: cfg!(debug_assertions), ..RegallocOptions::default() };
    let output = regalloc2::run(program, &environment(level), &options).map_err(|error| {
        let registers = matches!(error, regalloc2::RegAllocError::TooManyLiveRegs);
        assert!(registers, "register allocation: {error:?}\n{program:?}");
        Refusal::Registers
    })?;
    let mut assembler = Assembler {
        program,
        output: &output,
        level,
        scratch: scratch.next_multiple_of(64),
        encoder: Encoder::new(64),
        bytes: Vec::new(),
        starts: vec![0; program.num_blocks()],
        branches: Vec::new(),
        constants: Vec::new(),
        saved: Vec::new(),
        labels: BTreeMap::new(),
        listing: listing.then(String::new),
    };
    assembler.run();
    Ok(Assembled { bytes: assembler.bytes, listing: assembler.listing })
}

struct Assembler<'a> {
    program: &'a Program,
    output: &'a Output,
    level: Level,
    scratch: usize,
    encoder: Encoder,
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// Places of 32-bit distances, and the blocks they lead to.
    branches: Vec<(usize, usize)>,
    /// Places of 32-bit distances to the constants.
    constants: Vec<usize>,
    saved: Vec<Register>,
    labels: BTreeMap<Label, usize>,
    listing: Option<String>,
}

impl Assembler<'_> {
    fn run(&mut self) {
        let blocks = self.program.num_blocks();
        for block in 0..blocks {
            for (position, to) in self.program.block_succs(Block::new(block)).iter().enumerate() {
                let last = self.program.block_insns(Block::new(block)).last();
                let label = match (self.program.insts[last.index()].flow, position) {
                    (Flow::Jump(label), _) | (Flow::IfLess(label, _), 0) | (Flow::IfLess(_, label), _) => {
                        label
                    }
                    (Flow::Next | Flow::Entry | Flow::Return, _) => panic!("a successor without a branch"),
                };
                self.labels.insert(label, to.index());
            }
        }
        self.prologue();
        for block in 0..blocks {
            if self.program.is_head(block) {
                self.align(32);
            }
            self.starts[block] = self.bytes.len();
            if let Some(listing) = &mut self.listing {
                writeln!(listing, "block{block}:").expect("writing to a string");
            }
            for item in self.output.block_insts_and_edits(self.program, Block::new(block)) {
                match item {
                    InstOrEdit::Edit(Edit::Move { from, to }) => self.transfer(*from, *to),
                    InstOrEdit::Inst(inst) => self.inst(inst.index(), block),
                }
            }
        }
        for (place, block) in std::mem::take(&mut self.branches) {
            let distance = self.starts[block] as i64 - (place as i64 + 4);
            self.bytes[place..place + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        if !self.program.pool.is_empty() {
            self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        }
        let pool = self.bytes.len() as i32;
        for place in std::mem::take(&mut self.constants) {
            let field: [u8; 4] = self.bytes[place..place + 4].try_into().expect("four bytes");
            let distance = i32::from_le_bytes(field) + pool;
            self.bytes[place..place + 4].copy_from_slice(&distance.to_le_bytes());
        }
        self.bytes.extend_from_slice(&self.program.pool);
    }

    /// Fills up with instructions that do nothing.
    fn align(&mut self, to: usize) {
        const NOPS: [&[u8]; 9] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ];
        let mut missing = self.bytes.len().next_multiple_of(to) - self.bytes.len();
        while missing > 0 {
            let size = missing.min(NOPS.len());
            self.bytes.extend_from_slice(NOPS[size - 1]);
            missing -= size;
        }
    }

    fn frame(&self) -> usize {
        (self.output.num_spillslots * SLOT + self.scratch).next_multiple_of(64)
    }

    fn prologue(&mut self) {
        let mut used = PRegSet::empty();
        let edits = self.output.edits.iter().flat_map(|(_, Edit::Move { from, to })| [*from, *to]);
        for allocation in self.output.allocs.iter().copied().chain(edits) {
            if let Some(register) = allocation.as_reg() {
                used.add(register);
            }
        }
        for number in CALLEE_SAVED {
            if used.contains(preg(RegClass::Int, number)) {
                self.saved.push(Register::RAX + number as u32);
            }
        }
        for register in self.saved.clone() {
            self.encode(&with(Code::Push_r64, &[register]));
        }
        let frame = self.frame();
        if frame > 0 {
            self.encode(&with(Code::Push_r64, &[Register::RBP]));
            self.encode(&with(Code::Mov_rm64_r64, &[Register::RBP, Register::RSP]));
            self.encode(&with_immediate(Code::Sub_rm64_imm32, Register::RSP, frame as i32));
            self.encode(&with_immediate(Code::And_rm64_imm32, Register::RSP, -64));
        }
    }

    fn epilogue(&mut self) {
        self.encode(&Instruction::with(Code::VEX_Vzeroupper));
        if self.frame() > 0 {
            self.encode(&with(Code::Mov_rm64_r64, &[Register::RSP, Register::RBP]));
            self.encode(&with(Code::Pop_r64, &[Register::RBP]));
        }
        for register in self.saved.clone().into_iter().rev() {
            self.encode(&with(Code::Pop_r64, &[register]));
        }
        self.encode(&Instruction::with(Code::Retnq));
    }

    fn encode(&mut self, instruction: &Instruction) {
        let at = self.bytes.len();
        self.encoder.set_buffer(std::mem::take(&mut self.bytes));
        let encoded = self.encoder.encode(instruction, at as u64);
        self.bytes = self.encoder.take_buffer();
        encoded.unwrap_or_else(|error| panic!("{:?}: {error}", instruction.code()));
        if instruction.memory_base() == Register::RIP {
            self.constants.push(at + self.encoder.get_constant_offsets().displacement_offset());
        }
        if let Some(listing) = &mut self.listing {
            writeln!(listing, "    {}", describe(instruction)).expect("writing to a string");
        }
    }

    fn transfer(&mut self, from: Allocation, to: Allocation) {
        if from == to {
            return;
        }
        let class = from.as_reg().or(to.as_reg()).expect("one end is a register").class();
        let slot = |allocation: Allocation| {
            let slot = allocation.as_stack().expect("a register or a slot");
            (self.scratch + slot.index() * SLOT) as i32
        };
        let wide = self.level == Level::Avx512;
        let (view, copy, load, store) = match class {
            RegClass::Int => (View::R64, Code::Mov_r64_rm64, Code::Mov_r64_rm64, Code::Mov_rm64_r64),
            RegClass::Float if wide => (
                View::Z,
                Code::EVEX_Vmovaps_zmm_k1z_zmmm512,
                Code::EVEX_Vmovaps_zmm_k1z_zmmm512,
                Code::EVEX_Vmovaps_zmmm512_k1z_zmm,
            ),
            RegClass::Float => (
                View::Y,
                Code::VEX_Vmovaps_ymm_ymmm256,
                Code::VEX_Vmovaps_ymm_ymmm256,
                Code::VEX_Vmovaps_ymmm256_ymm,
            ),
            RegClass::Vector => {
                (View::K, Code::VEX_Kmovw_kr_km16, Code::VEX_Kmovw_kr_km16, Code::VEX_Kmovw_m16_kr)
            }
        };
        let instruction = match (from.as_reg(), to.as_reg()) {
            (Some(from), Some(to)) => with(copy, &[register(view, to), register(view, from)]),
            (Some(from), None) => {
                let mut instruction = Instruction::default();
                instruction.set_code(store);
                frame_operand(&mut instruction, 0, slot(to));
                set_register(&mut instruction, 1, register(view, from));
                instruction
            }
            (None, Some(to)) => {
                let mut instruction = Instruction::default();
                instruction.set_code(load);
                set_register(&mut instruction, 0, register(view, to));
                frame_operand(&mut instruction, 1, slot(from));
                instruction
            }
            (None, None) => panic!("moves between slots go through a register"),
        };
        self.encode(&instruction);
    }

    fn inst(&mut self, at: usize, block: usize) {
        let program = self.program;
        let inst = &program.insts[at];
        let placed = program.placed(at, self.output.inst_allocs(regalloc2::Inst::new(at)));
        match inst.flow {
            Flow::Next => {
                let instruction = build(inst, &placed);
                self.encode(&instruction);
            }
            Flow::Entry => {}
            Flow::Return => self.epilogue(),
            Flow::Jump(to) => {
                let to = self.target(to);
                if to != block + 1 {
                    self.branch(&[0xe9], to);
                }
            }
            Flow::IfLess(yes, no) => {
                let instruction = build(inst, &placed);
                self.encode(&instruction);
                let (yes, no) = (self.target(yes), self.target(no));
                // jl, or jge where the other block follows.
                match (yes == block + 1, no == block + 1) {
                    (true, _) => self.branch(&[0x0f, 0x8d], no),
                    (false, true) => self.branch(&[0x0f, 0x8c], yes),
                    (false, false) => {
                        self.branch(&[0x0f, 0x8c], yes);
                        self.branch(&[0xe9], no);
                    }
                }
            }
        }
    }

    /// The block of a label, past blocks that only jump on.
    fn target(&self, label: Label) -> usize {
        let mut block = self.labels[&label];
        loop {
            let insts = self.program.block_insns(Block::new(block));
            let mut items = self.output.block_insts_and_edits(self.program, Block::new(block));
            let idle = insts.len() == 1
                && items.all(|item| match item {
                    InstOrEdit::Edit(Edit::Move { from, to }) => from == to,
                    InstOrEdit::Inst(_) => true,
                });
            match self.program.insts[insts.first().index()].flow {
                Flow::Jump(to) if idle => block = self.labels[&to],
                Flow::Jump(_) | Flow::Next | Flow::Entry | Flow::Return | Flow::IfLess(..) => return block,
            }
        }
    }

    fn branch(&mut self, opcode: &[u8], to: usize) {
        self.bytes.extend_from_slice(opcode);
        self.branches.push((self.bytes.len(), to));
        self.bytes.extend_from_slice(&[0; 4]);
        if let Some(listing) = &mut self.listing {
            let name = match opcode {
                [0xe9] => "jmp",
                [_, 0x8d] => "jge",
                _ => "jl",
            };
            writeln!(listing, "    {name} block{to}").expect("writing to a string");
        }
    }
}

fn register(view: View, place: PReg) -> Register {
    let first = match view {
        View::R32 => Register::EAX,
        View::R64 => Register::RAX,
        View::X => Register::XMM0,
        View::Y => Register::YMM0,
        View::Z => Register::ZMM0,
        View::K => Register::K0,
    };
    first + place.hw_enc() as u32
}

fn set_register(instruction: &mut Instruction, operand: u32, register: Register) {
    instruction.set_op_kind(operand, OpKind::Register);
    instruction.set_op_register(operand, register);
}

fn frame_operand(instruction: &mut Instruction, operand: u32, offset: i32) {
    instruction.set_op_kind(operand, OpKind::Memory);
    instruction.set_memory_base(Register::RSP);
    displace(instruction, offset);
}

fn displace(instruction: &mut Instruction, offset: i32) {
    instruction.set_memory_displacement64(offset as i64 as u64);
    instruction.set_memory_displ_size(u32::from(offset != 0));
}

fn with(code: Code, registers: &[Register]) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    for (operand, register) in registers.iter().enumerate() {
        set_register(&mut instruction, operand as u32, *register);
    }
    instruction
}

fn with_immediate(code: Code, register: Register, value: i32) -> Instruction {
    let mut instruction = with(code, &[register]);
    instruction.set_op_kind(1, OpKind::Immediate32to64);
    instruction.set_immediate32(value as u32);
    instruction
}

/// The instruction with its registers.
fn build(inst: &Inst, placed: &[PReg]) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(inst.code);
    let mut next = 0;
    let mut take = || {
        next += 1;
        placed[next - 1]
    };
    for (operand, arg) in inst.args.iter().enumerate() {
        let operand = operand as u32;
        match arg {
            Arg::Def(view, _) | Arg::Tied(view, ..) | Arg::Use(view, _) => {
                set_register(&mut instruction, operand, register(*view, take()));
            }
            Arg::DefFixed(..) => panic!("arguments are not encoded"),
            Arg::Imm8(value) => {
                instruction.set_op_kind(operand, OpKind::Immediate8);
                instruction.set_immediate8(*value);
            }
            Arg::Imm32(value) => {
                instruction.set_op_kind(operand, OpKind::Immediate32);
                instruction.set_immediate32(*value as u32);
            }
            Arg::Imm32Wide(value) => {
                instruction.set_op_kind(operand, OpKind::Immediate32to64);
                instruction.set_immediate32(*value as u32);
            }
            Arg::Imm64(value) => {
                instruction.set_op_kind(operand, OpKind::Immediate64);
                instruction.set_immediate64(*value as u64);
            }
            Arg::Mem(Mem { base, index, disp, broadcast }) => {
                instruction.set_op_kind(operand, OpKind::Memory);
                instruction.set_is_broadcast(*broadcast);
                match base {
                    Base::Reg(_) => {
                        instruction.set_memory_base(register(View::R64, take()));
                        displace(&mut instruction, *disp);
                    }
                    Base::Frame => {
                        instruction.set_memory_base(Register::RSP);
                        displace(&mut instruction, *disp);
                    }
                    Base::Pool => {
                        instruction.set_memory_base(Register::RIP);
                        instruction.set_memory_displacement64(*disp as i64 as u64);
                        instruction.set_memory_displ_size(8);
                    }
                }
                if let Some((view, _, scale)) = index {
                    instruction.set_memory_index(register(*view, take()));
                    instruction.set_memory_index_scale(u32::from(*scale));
                }
            }
        }
    }
    match inst.mask {
        Mask::All => {}
        Mask::Use(_) | Mask::Consumed(..) => instruction.set_op_mask(register(View::K, take())),
    }
    instruction.set_zeroing_masking(inst.zeroing);
    instruction
}

/// One line of a listing: mnemonic, operands, mask.
fn describe(instruction: &Instruction) -> String {
    let name = |register: Register| format!("{register:?}").to_lowercase();
    let mut text = format!("{:?}", instruction.mnemonic()).to_lowercase();
    for operand in 0..instruction.op_count() {
        text.push_str(if operand == 0 { " " } else { ", " });
        let kind = instruction.op_kind(operand);
        if kind == OpKind::Register {
            text.push_str(&name(instruction.op_register(operand)));
        } else if kind == OpKind::Memory {
            let offset = instruction.memory_displacement64() as i64;
            let _ = write!(text, "[{}", name(instruction.memory_base()));
            if instruction.memory_index() != Register::None {
                let scale = instruction.memory_index_scale();
                let _ = write!(text, "+{}*{scale}", name(instruction.memory_index()));
            }
            let _ = write!(text, "{offset:+}]{}", if instruction.is_broadcast() { "{1to}" } else { "" });
        } else {
            let _ = write!(text, "{}", instruction.immediate(operand) as i64);
        }
        if operand == 0 && instruction.op_mask() != Register::None {
            let zeroing = if instruction.zeroing_masking() { "{z}" } else { "" };
            let _ = write!(text, "{{{}}}{zeroing}", name(instruction.op_mask()));
        }
    }
    text
}
