//! Single instructions as functions from registers to a fresh register, for both vector widths.
//!
//! A vector register holds 16 lanes of 32 bits or 8 of 64 (AVX2: 8 of 32). A truth value for 16 lanes is a mask register
//! (AVX2: a vector whose lanes are all ones or zero). What is the same in all lanes fills a whole register too.

use super::emit::Emitter;
use super::machine::{Arg, Base, Flow, Inst, Mask, Mem, View};
use super::{Level, Refusal};
use iced_x86::Code;
use regalloc2::{RegClass, VReg};
use smallvec::{SmallVec, smallvec};

/// Functions of two vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum V {
    AddPs,
    SubPs,
    MulPs,
    DivPs,
    MaxPs,
    MinPs,
    ScalePs,
    AddPd,
    SubPd,
    MulPd,
    DivPd,
    MaxPd,
    MinPd,
    AddD,
    SubD,
    MulD,
    MaxD,
    MinD,
    AndD,
    OrD,
    XorD,
    LeftD,
    RightD,
    AddQ,
    SubQ,
    MulQ,
    MaxQ,
    MinQ,
    MaxUnsignedQ,
    MinUnsignedQ,
    AndQ,
    OrQ,
    XorQ,
    LeftQ,
    RightQ,
}

impl V {
    /// The encodings for 512 and 256 bits; the second may be missing.
    pub(crate) fn codes(self) -> (Code, Code) {
        match self {
            V::AddPs => (Code::EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vaddps_ymm_ymm_ymmm256),
            V::SubPs => (Code::EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vsubps_ymm_ymm_ymmm256),
            V::MulPs => (Code::EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vmulps_ymm_ymm_ymmm256),
            V::DivPs => (Code::EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er, Code::VEX_Vdivps_ymm_ymm_ymmm256),
            V::MaxPs => (Code::EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae, Code::VEX_Vmaxps_ymm_ymm_ymmm256),
            V::MinPs => (Code::EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae, Code::VEX_Vminps_ymm_ymm_ymmm256),
            V::ScalePs => (Code::EVEX_Vscalefps_zmm_k1z_zmm_zmmm512b32_er, Code::INVALID),
            V::AddPd => (Code::EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er, Code::INVALID),
            V::SubPd => (Code::EVEX_Vsubpd_zmm_k1z_zmm_zmmm512b64_er, Code::INVALID),
            V::MulPd => (Code::EVEX_Vmulpd_zmm_k1z_zmm_zmmm512b64_er, Code::VEX_Vmulpd_ymm_ymm_ymmm256),
            V::DivPd => (Code::EVEX_Vdivpd_zmm_k1z_zmm_zmmm512b64_er, Code::VEX_Vdivpd_ymm_ymm_ymmm256),
            V::MaxPd => (Code::EVEX_Vmaxpd_zmm_k1z_zmm_zmmm512b64_sae, Code::INVALID),
            V::MinPd => (Code::EVEX_Vminpd_zmm_k1z_zmm_zmmm512b64_sae, Code::INVALID),
            V::AddD => (Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpaddd_ymm_ymm_ymmm256),
            V::SubD => (Code::EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsubd_ymm_ymm_ymmm256),
            V::MulD => (Code::EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpmulld_ymm_ymm_ymmm256),
            V::MaxD => (Code::EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpmaxsd_ymm_ymm_ymmm256),
            V::MinD => (Code::EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpminsd_ymm_ymm_ymmm256),
            V::AndD => (Code::EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpand_ymm_ymm_ymmm256),
            V::OrD => (Code::EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpor_ymm_ymm_ymmm256),
            V::XorD => (Code::EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpxor_ymm_ymm_ymmm256),
            V::LeftD => (Code::EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsllvd_ymm_ymm_ymmm256),
            V::RightD => (Code::EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32, Code::VEX_Vpsrlvd_ymm_ymm_ymmm256),
            V::AddQ => (Code::EVEX_Vpaddq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::SubQ => (Code::EVEX_Vpsubq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::MulQ => (Code::EVEX_Vpmullq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::MaxQ => (Code::EVEX_Vpmaxsq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::MinQ => (Code::EVEX_Vpminsq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::MaxUnsignedQ => (Code::EVEX_Vpmaxuq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::MinUnsignedQ => (Code::EVEX_Vpminuq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::AndQ => (Code::EVEX_Vpandq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::OrQ => (Code::EVEX_Vporq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::XorQ => (Code::EVEX_Vpxorq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::LeftQ => (Code::EVEX_Vpsllvq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
            V::RightQ => (Code::EVEX_Vpsrlvq_zmm_k1z_zmm_zmmm512b64, Code::INVALID),
        }
    }
}

/// Constants that stay in registers, at most: a quarter of those of AVX-512.
const FIXED_MAX: usize = 8;

/// The second operand of a function: a register, or a constant that is the same in all lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Src {
    Reg(VReg),
    Bits32(u32),
    Bits64(u64),
}

/// Orders of comparisons, as x86 numbers them for floats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Eq = 0,
    Lt = 1,
    Le = 2,
    Unordered = 3,
    Ne = 4,
    Ordered = 7,
    Ge = 13,
    Gt = 14,
}

impl Order {
    /// The number for integers.
    fn integer(self) -> u8 {
        match self {
            Order::Eq => 0,
            Order::Lt => 1,
            Order::Le => 2,
            Order::Ne => 4,
            Order::Ge => 5,
            Order::Gt => 6,
            Order::Unordered | Order::Ordered => panic!("integers have an order"),
        }
    }
}

/// Functions of two truth values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
    /// Equal.
    Same,
    /// The second without the first.
    Without,
}

impl Emitter<'_> {
    pub(crate) fn wide(&self) -> bool {
        self.level == Level::Avx512
    }

    /// The view of a whole vector register.
    pub(crate) fn full(&self) -> View {
        if self.wide() { View::Z } else { View::Y }
    }

    pub(crate) fn int(&mut self) -> VReg {
        self.m.vreg(RegClass::Int)
    }

    pub(crate) fn vector(&mut self) -> VReg {
        self.m.vreg(RegClass::Float)
    }

    /// A register for a truth value.
    pub(crate) fn truth(&mut self) -> VReg {
        self.m.vreg(if self.wide() { RegClass::Vector } else { RegClass::Float })
    }

    pub(crate) fn push(&mut self, code: Code, args: SmallVec<[Arg; 4]>) {
        self.m.push(Inst { code, args, mask: Mask::All, zeroing: false, flow: Flow::Next });
    }

    pub(crate) fn push_masked(&mut self, code: Code, args: SmallVec<[Arg; 4]>, mask: VReg, zeroing: bool) {
        self.m.push(Inst { code, args, mask: Mask::Use(mask), zeroing, flow: Flow::Next });
    }

    /// Picks the encoding for the level.
    pub(crate) fn code(&self, wide: Code, narrow: Code) -> Code {
        let code = if self.wide() { wide } else { narrow };
        assert_ne!(code, Code::INVALID, "AVX2 code is asked for 32-bit lanes only");
        code
    }

    /// A constant in memory, the same in all lanes.
    pub(crate) fn constant_mem(&mut self, bytes: &[u8]) -> Mem {
        let (disp, broadcast) = match self.wide() {
            true => (self.m.constant(bytes), true),
            false => (self.m.constant(&bytes.repeat(32 / bytes.len())), false),
        };
        Mem { base: Base::Pool, index: None, disp, broadcast }
    }

    /// A vector in memory.
    pub(crate) fn vector_mem(&mut self, bytes: &[u8]) -> Mem {
        Mem { base: Base::Pool, index: None, disp: self.m.constant(bytes), broadcast: false }
    }

    pub(crate) fn arg(&mut self, src: Src) -> Arg {
        match src {
            Src::Reg(reg) => Arg::Use(self.full(), reg),
            Src::Bits32(bits) => Arg::Mem(self.constant_mem(&bits.to_le_bytes())),
            Src::Bits64(bits) => Arg::Mem(self.constant_mem(&bits.to_le_bytes())),
        }
    }

    /// A register that holds it.
    pub(crate) fn reg(&mut self, src: Src) -> VReg {
        let (bytes, wide): (Vec<u8>, _) = match src {
            Src::Reg(reg) => return reg,
            Src::Bits32(0) | Src::Bits64(0) => return self.zero(),
            Src::Bits32(bits) => (bits.to_le_bytes().to_vec(), Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32),
            Src::Bits64(bits) => (bits.to_le_bytes().to_vec(), Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64),
        };
        let mem = Mem { broadcast: false, ..self.constant_mem(&bytes) };
        let code = self.code(wide, Code::VEX_Vmovups_ymm_ymmm256);
        self.constant_register(code, mem)
    }

    /// As [`Emitter::reg`], a register that nothing else reads, for instructions that overwrite it.
    pub(crate) fn own_reg(&mut self, src: Src) -> VReg {
        let fixed = self.fixed.take();
        let register = self.reg(src);
        self.fixed = fixed;
        register
    }

    /// A constant loaded from memory. The first few that loops need are loaded before them.
    pub(crate) fn constant_register(&mut self, code: Code, mem: Mem) -> VReg {
        let full = self.full();
        let key = (code as usize, mem.disp);
        if let Some(known) = self.fixed.as_ref().and_then(|fixed| fixed.get(&key)) {
            return *known;
        }
        let def = self.vector();
        let args = smallvec![Arg::Def(full, def), Arg::Mem(mem)];
        let (room, wide) = (self.depth > 0, self.wide());
        match &mut self.fixed {
            Some(fixed) if room && wide && fixed.len() < FIXED_MAX => {
                fixed.insert(key, def);
                let inst = Inst { code, args, mask: Mask::All, zeroing: false, flow: Flow::Next };
                self.m.push_first(inst);
            }
            Some(_) | None => self.push(code, args),
        }
        def
    }

    /// A register of zeros.
    pub(crate) fn zero(&mut self) -> VReg {
        // Read through memory rather than by `vpxor x, x, x`, whose operand would have to be defined before.
        let mem = Mem { broadcast: false, ..self.constant_mem(&[0; 4]) };
        let code = self.code(Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32, Code::VEX_Vmovups_ymm_ymmm256);
        self.constant_register(code, mem)
    }

    pub(crate) fn apply(&mut self, op: V, a: VReg, b: Src) -> VReg {
        let (wide, narrow) = op.codes();
        let (code, full, def) = (self.code(wide, narrow), self.full(), self.vector());
        let b = self.arg(b);
        self.push(code, smallvec![Arg::Def(full, def), Arg::Use(full, a), b]);
        def
    }

    /// One operand, whole registers.
    pub(crate) fn unary(&mut self, wide: Code, narrow: Code, a: VReg) -> VReg {
        let (code, full, def) = (self.code(wide, narrow), self.full(), self.vector());
        self.push(code, smallvec![Arg::Def(full, def), Arg::Use(full, a)]);
        def
    }

    /// One operand, between registers of the given views.
    pub(crate) fn resize(&mut self, code: Code, to: View, from: View, a: VReg) -> VReg {
        let def = self.vector();
        self.push(code, smallvec![Arg::Def(to, def), Arg::Use(from, a)]);
        def
    }

    /// One operand and a constant of 8 bits.
    pub(crate) fn unary_imm(&mut self, wide: Code, narrow: Code, a: VReg, imm: u8) -> VReg {
        let (code, full, def) = (self.code(wide, narrow), self.full(), self.vector());
        self.push(code, smallvec![Arg::Def(full, def), Arg::Use(full, a), Arg::Imm8(imm)]);
        def
    }

    /// Two operands and a constant of 8 bits.
    pub(crate) fn binary_imm(&mut self, wide: Code, narrow: Code, a: VReg, b: VReg, imm: u8) -> VReg {
        let (code, full, def) = (self.code(wide, narrow), self.full(), self.vector());
        self.push(code, smallvec![Arg::Def(full, def), Arg::Use(full, a), Arg::Use(full, b), Arg::Imm8(imm)]);
        def
    }

    /// The lanes of a register behind the lower half.
    pub(crate) fn upper(&mut self, a: VReg) -> VReg {
        let def = self.vector();
        let code = Code::EVEX_Vextractf64x4_ymmm256_k1z_zmm_imm8;
        self.push(code, smallvec![Arg::Def(View::Y, def), Arg::Use(View::Z, a), Arg::Imm8(1)]);
        def
    }

    /// Two lower halves as one register.
    pub(crate) fn join(&mut self, low: VReg, high: VReg) -> VReg {
        let def = self.vector();
        let code = Code::EVEX_Vinsertf64x4_zmm_k1z_zmm_ymmm256_imm8;
        let args =
            smallvec![Arg::Def(View::Z, def), Arg::Use(View::Z, low), Arg::Use(View::Y, high), Arg::Imm8(1)];
        self.push(code, args);
        def
    }

    /// A comparison of 32-bit or 64-bit floats; for 64 bits the mask has 8 lanes.
    pub(crate) fn compare_floats(&mut self, order: Order, double: bool, a: VReg, b: Src) -> VReg {
        let wide = match double {
            false => Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae,
            true => Code::EVEX_Vcmppd_kr_k1_zmm_zmmm512b64_imm8_sae,
        };
        let narrow = if double { Code::INVALID } else { Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8 };
        self.compare(self.code(wide, narrow), order as u8, a, b)
    }

    fn compare(&mut self, code: Code, imm: u8, a: VReg, b: Src) -> VReg {
        let (view, full, def) = (if self.wide() { View::K } else { View::Y }, self.full(), self.truth());
        let b = self.arg(b);
        self.push(code, smallvec![Arg::Def(view, def), Arg::Use(full, a), b, Arg::Imm8(imm)]);
        def
    }

    /// A comparison of integers of 32 bits.
    pub(crate) fn compare_ints(&mut self, order: Order, a: VReg, b: Src) -> VReg {
        if self.wide() {
            return self.compare(Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8, order.integer(), a, b);
        }
        let (code, swap, negate) = match order {
            Order::Eq => (Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, false, false),
            Order::Ne => (Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, false, true),
            Order::Gt => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, false, false),
            Order::Le => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, false, true),
            Order::Lt => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, true, false),
            Order::Ge => (Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, true, true),
            Order::Unordered | Order::Ordered => panic!("integers have an order"),
        };
        let (a, b) = match swap {
            true => (self.reg(b), Src::Reg(a)),
            false => (a, b),
        };
        let def = self.vector();
        let b = self.arg(b);
        self.push(code, smallvec![Arg::Def(View::Y, def), Arg::Use(View::Y, a), b]);
        if negate { self.not(def) } else { def }
    }

    /// A comparison of integers of 64 bits, in 8 lanes.
    pub(crate) fn compare_longs(&mut self, order: Order, unsigned: bool, a: VReg, b: Src) -> VReg {
        let code = match unsigned {
            false => Code::EVEX_Vpcmpq_kr_k1_zmm_zmmm512b64_imm8,
            true => Code::EVEX_Vpcmpuq_kr_k1_zmm_zmmm512b64_imm8,
        };
        self.compare(code, order.integer(), a, b)
    }

    /// Lanes that are not zero.
    pub(crate) fn nonzero(&mut self, a: VReg) -> VReg {
        self.compare_ints(Order::Ne, a, Src::Bits32(0))
    }

    pub(crate) fn logic(&mut self, op: Logic, a: VReg, b: VReg) -> VReg {
        if self.wide() {
            let code = match op {
                Logic::And => Code::VEX_Kandw_kr_kr_kr,
                Logic::Or => Code::VEX_Korw_kr_kr_kr,
                Logic::Xor => Code::VEX_Kxorw_kr_kr_kr,
                Logic::Same => Code::VEX_Kxnorw_kr_kr_kr,
                Logic::Without => Code::VEX_Kandnw_kr_kr_kr,
            };
            let def = self.truth();
            self.push(code, smallvec![Arg::Def(View::K, def), Arg::Use(View::K, a), Arg::Use(View::K, b)]);
            return def;
        }
        let code = match op {
            Logic::And => Code::VEX_Vpand_ymm_ymm_ymmm256,
            Logic::Or => Code::VEX_Vpor_ymm_ymm_ymmm256,
            Logic::Xor => Code::VEX_Vpxor_ymm_ymm_ymmm256,
            Logic::Same => Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256,
            Logic::Without => Code::VEX_Vpandn_ymm_ymm_ymmm256,
        };
        let def = self.vector();
        self.push(code, smallvec![Arg::Def(View::Y, def), Arg::Use(View::Y, a), Arg::Use(View::Y, b)]);
        def
    }

    pub(crate) fn not(&mut self, a: VReg) -> VReg {
        if self.wide() {
            let def = self.truth();
            self.push(Code::VEX_Knotw_kr_kr, smallvec![Arg::Def(View::K, def), Arg::Use(View::K, a)]);
            return def;
        }
        self.apply(V::XorD, a, Src::Bits32(u32::MAX))
    }

    /// The same truth value in all lanes.
    pub(crate) fn truth_constant(&mut self, value: bool) -> VReg {
        if self.wide() {
            return self.mask_constant(if value { 0xffff } else { 0 });
        }
        self.reg(Src::Bits32(if value { u32::MAX } else { 0 }))
    }

    /// A mask register with these bits.
    pub(crate) fn mask_constant(&mut self, bits: u32) -> VReg {
        let (int, def) = (self.int(), self.truth());
        self.push(Code::Mov_r32_imm32, smallvec![Arg::Def(View::R32, int), Arg::Imm32(bits as i32)]);
        self.push(Code::VEX_Kmovw_kr_r32, smallvec![Arg::Def(View::K, def), Arg::Use(View::R32, int)]);
        def
    }

    /// The lanes of a mask from 8 on.
    pub(crate) fn upper_mask(&mut self, mask: VReg) -> VReg {
        let def = self.truth();
        let args = smallvec![Arg::Def(View::K, def), Arg::Use(View::K, mask), Arg::Imm8(8)];
        self.push(Code::VEX_Kshiftrw_kr_kr_imm8, args);
        def
    }

    /// Two masks of 8 lanes as one of 16.
    pub(crate) fn join_masks(&mut self, low: VReg, high: VReg) -> VReg {
        let def = self.truth();
        let args = smallvec![Arg::Def(View::K, def), Arg::Use(View::K, high), Arg::Use(View::K, low)];
        self.push(Code::VEX_Kunpckbw_kr_kr_kr, args);
        def
    }

    /// `a` where the condition holds, else `b`.
    pub(crate) fn blend(&mut self, condition: VReg, double: bool, a: Src, b: Src) -> VReg {
        if self.wide() {
            let def = self.vector();
            if matches!(b, Src::Bits32(0) | Src::Bits64(0)) {
                let (code, a) = match (a, double) {
                    (Src::Reg(_), false) => (Code::EVEX_Vmovaps_zmm_k1z_zmmm512, self.arg(a)),
                    (Src::Reg(_), true) => (Code::EVEX_Vmovapd_zmm_k1z_zmmm512, self.arg(a)),
                    (Src::Bits32(_) | Src::Bits64(_), _) => {
                        let Arg::Mem(mem) = self.arg(a) else { panic!("constants are in memory") };
                        let code = match double {
                            false => Code::EVEX_Vbroadcastss_zmm_k1z_xmmm32,
                            true => Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
                        };
                        (code, Arg::Mem(Mem { broadcast: false, ..mem }))
                    }
                };
                self.push_masked(code, smallvec![Arg::Def(View::Z, def), a], condition, true);
                return def;
            }
            let code = match double {
                false => Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32,
                true => Code::EVEX_Vblendmpd_zmm_k1z_zmm_zmmm512b64,
            };
            let b = self.reg(b);
            let a = self.arg(a);
            self.push_masked(
                code,
                smallvec![Arg::Def(View::Z, def), Arg::Use(View::Z, b), a],
                condition,
                false,
            );
            return def;
        }
        let b = self.reg(b);
        let a = self.arg(a);
        let def = self.vector();
        let args = smallvec![Arg::Def(View::Y, def), Arg::Use(View::Y, b), a, Arg::Use(View::Y, condition)];
        self.push(Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm, args);
        def
    }

    /// `condition ? a : b` among truth values.
    pub(crate) fn choose_truth(&mut self, condition: VReg, a: VReg, b: VReg) -> VReg {
        let yes = self.logic(Logic::And, condition, a);
        let no = self.logic(Logic::Without, condition, b);
        self.logic(Logic::Or, yes, no)
    }

    /// `reg * factor` for a whole register of `int` class; a shift or lea where one will do.
    pub(crate) fn multiply_int(&mut self, reg: VReg, factor: i64) -> Result<VReg, Refusal> {
        let factor = i32::try_from(factor).map_err(|_| Refusal::Offset)?;
        let def = self.int();
        let args = smallvec![Arg::Def(View::R64, def), Arg::Use(View::R64, reg), Arg::Imm32Wide(factor)];
        self.push(Code::Imul_r64_rm64_imm32, args);
        Ok(def)
    }

    /// The address of a place as a number.
    pub(crate) fn lea(&mut self, mem: Mem) -> VReg {
        let def = self.int();
        self.push(Code::Lea_r64_m, smallvec![Arg::Def(View::R64, def), Arg::Mem(mem)]);
        def
    }

    pub(crate) fn int_constant(&mut self, value: i64) -> VReg {
        let def = self.int();
        match i32::try_from(value) {
            Ok(value) => {
                self.push(Code::Mov_rm64_imm32, smallvec![Arg::Def(View::R64, def), Arg::Imm32Wide(value)])
            }
            Err(_) => {
                self.push(Code::Mov_r64_imm64, smallvec![Arg::Def(View::R64, def), Arg::Imm64(value)]);
            }
        }
        def
    }
}
