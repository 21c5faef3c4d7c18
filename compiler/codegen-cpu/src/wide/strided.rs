//! Loads and stores of every second, third or fourth element: contiguous vectors whose lanes are picked or interleaved,
//! where gathers and scatters would go to each element on its own.

use super::Refusal;
use super::emit::{Emitter, Registers, Value};
use super::machine::{Arg, Mem, View};
use super::nest::Item;
use iced_x86::Code;
use regalloc2::VReg;
use smallvec::{SmallVec, smallvec};
use thalweg_base::{DType, Scalar};
use thalweg_kernel::Stmt;

/// Lanes of a register.
const LANES: usize = 16;
const BYTES: usize = 4;
/// The largest step: the masks of a step's registers fit 64 bits.
const STEP_MAX: i64 = 4;

impl<'a> Emitter<'a> {
    /// Whether elements of a dtype at that step are loaded and stored through contiguous vectors.
    pub(crate) fn steps(&self, dtype: DType, step: i64) -> bool {
        self.wide() && matches!(dtype, DType::F32 | DType::I32) && (2..=STEP_MAX).contains(&step)
    }

    /// A group of elements `step` apart, from the one at `mem`; zero where the mask is off. Nothing is read behind the last.
    pub(crate) fn load_stepping(&mut self, mem: Mem, step: usize, mask: Option<VReg>) -> VReg {
        let wanted = mask.map(|mask| self.every(mask, step, 0));
        // The last register ends with the last element.
        let first = |part: usize| if part + 1 == step { (LANES - 1) * part } else { LANES * part };
        let mut picked: Option<VReg> = None;
        for part in 0..step {
            let from = mem.plus((first(part) * BYTES) as i32);
            let mask = wanted.map(|wanted| self.mask_of(wanted, first(part)));
            let Some(before) = picked else {
                picked = Some(self.load_part(from, mask));
                continue;
            };
            let choice = (0..LANES).map(|lane| {
                let element = step * lane;
                match element / LANES {
                    source if source == part => LANES + element - first(part),
                    // The first register is still as it was loaded when the second one joins.
                    _ if part == 1 => element % LANES,
                    _ => lane,
                }
            });
            let source = match mask {
                None => Arg::Mem(from),
                Some(_) => Arg::Use(View::Z, self.load_part(from, mask)),
            };
            picked = Some(self.pick(before, choice, source));
        }
        picked.expect("a step is positive")
    }

    fn load_part(&mut self, mem: Mem, mask: Option<VReg>) -> VReg {
        let (code, def) = (Code::EVEX_Vmovups_zmm_k1z_zmmm512, self.vector());
        let args = smallvec![Arg::Def(View::Z, def), Arg::Mem(mem)];
        match mask {
            Some(mask) => self.push_masked(code, args, mask, true),
            None => self.push(code, args),
        }
        def
    }

    /// Lanes of two registers by number, those of the second behind those of the first.
    fn pick(&mut self, first: VReg, choice: impl Iterator<Item = usize>, second: Arg) -> VReg {
        let bytes: Vec<u8> = choice.flat_map(|lane| (lane as u32).to_le_bytes()).collect();
        let (choice, def) = (self.load_vector(&bytes), self.vector());
        let args = smallvec![Arg::Tied(View::Z, def, first), Arg::Use(View::Z, choice), second];
        self.push(Code::EVEX_Vpermt2ps_zmm_k1z_zmm_zmmm512b32, args);
        def
    }

    /// The bits of a mask `step` apart in a register of 64 bits, from bit `first` on.
    fn every(&mut self, mask: VReg, step: usize, first: usize) -> VReg {
        let (bits, spread) = (self.int(), self.int());
        self.push(Code::VEX_Kmovw_r32_kr, smallvec![Arg::Def(View::R32, bits), Arg::Use(View::K, mask)]);
        let places = self.int_constant(places(step, first));
        let args =
            smallvec![Arg::Def(View::R64, spread), Arg::Use(View::R64, bits), Arg::Use(View::R64, places)];
        self.push(Code::VEX_Pdep_r64_r64_rm64, args);
        spread
    }

    /// Sixteen bits of a register as a mask.
    fn mask_of(&mut self, bits: VReg, first: usize) -> VReg {
        let low = match first {
            0 => bits,
            _ => {
                let low = self.int();
                let args =
                    smallvec![Arg::Def(View::R64, low), Arg::Use(View::R64, bits), Arg::Imm8(first as u8)];
                self.push(Code::VEX_Rorx_r64_rm64_imm8, args);
                low
            }
        };
        let mask = self.truth();
        self.push(Code::VEX_Kmovw_kr_r32, smallvec![Arg::Def(View::K, mask), Arg::Use(View::R32, low)]);
        mask
    }

    /// How many of the stores at the beginning of `items` write together what lies between the elements of the first, as
    /// many as its step; none where they do not.
    pub(crate) fn interleaved(&self, items: &[Item<'a>]) -> Option<usize> {
        let vector = self.vector?;
        let Some(Item::Store(Stmt::Store { place, index, .. })) = items.first() else { return None };
        let step = index.coefficient(vector.var);
        if !self.steps(self.kernel.place_dtype(*place), step) || index.dynamic.is_some() {
            return None;
        }
        let rest = items.get(1..step as usize)?;
        let follows = rest.iter().zip(1..).all(|(item, shift)| match item {
            Item::Store(Stmt::Store { place: other, index: at, .. }) => {
                (other, at) == (place, &index.clone().offset(shift))
            }
            Item::Store(_) | Item::Let(..) | Item::Loop(_) => false,
        });
        follows.then_some(step as usize)
    }

    /// Stores that [`Emitter::interleaved`] found, as contiguous vectors.
    pub(crate) fn store_interleaved(&mut self, items: &[Item<'a>]) -> Result<(), Refusal> {
        let (vector, step) = (self.vector.expect("it was found in a vector loop"), items.len());
        let mut sources: SmallVec<[(Registers, Option<Value>); 4]> = SmallVec::new();
        let mut start = None;
        for item in items {
            let Item::Store(Stmt::Store { place, index, value, guard }) = item else {
                panic!("only stores are interleaved")
            };
            let (dtype, operand) = (self.dtype(*value), self.value(*value));
            let guard = guard
                .map(|guard| self.value(guard))
                .filter(|guard| *guard != Value::Constant(Scalar::Int(1)));
            sources.push((self.registers(&operand, dtype, vector.groups), guard));
            start = start.or(Some((*place, index)));
        }
        let (place, index) = start.expect("there are at least two");
        let mem = self.address(place, index)?;
        for group in 0..vector.groups {
            let masks: SmallVec<[Option<VReg>; 4]> =
                sources.iter().map(|(_, guard)| self.mask(guard.as_ref(), group)).collect();
            let written = match masks.iter().any(Option::is_some) {
                true => Some(self.interleave_masks(&masks)),
                false => None,
            };
            for part in 0..step {
                let mut mixed = sources[0].0[group];
                for (shift, (registers, _)) in sources.iter().enumerate().skip(1) {
                    let choice = (0..LANES).map(|lane| {
                        let element = LANES * part + lane;
                        match element % step {
                            of if of == shift => LANES + element / step,
                            0 if shift == 1 => element / step,
                            _ => lane,
                        }
                    });
                    mixed = self.pick(mixed, choice, Arg::Use(View::Z, registers[group]));
                }
                let to = mem.plus(((group * step + part) * LANES * BYTES) as i32);
                let args = smallvec![Arg::Mem(to), Arg::Use(View::Z, mixed)];
                match written {
                    Some(bits) => {
                        let mask = self.mask_of(bits, part * LANES);
                        self.push_masked(Code::EVEX_Vmovups_zmmm512_k1z_zmm, args, mask, false);
                    }
                    None => self.push(Code::EVEX_Vmovups_zmmm512_k1z_zmm, args),
                }
            }
        }
        Ok(())
    }

    /// The masks' bits in turn; all of them where there is no mask.
    fn interleave_masks(&mut self, masks: &[Option<VReg>]) -> VReg {
        let step = masks.len();
        let mut all: Option<VReg> = None;
        for (first, mask) in masks.iter().enumerate() {
            let bits = match mask {
                Some(mask) => self.every(*mask, step, first),
                None => self.int_constant(places(step, first)),
            };
            all = Some(match all {
                None => bits,
                Some(before) => {
                    let both = self.int();
                    let args = smallvec![Arg::Tied(View::R64, both, before), Arg::Use(View::R64, bits)];
                    self.push(Code::Or_r64_rm64, args);
                    both
                }
            });
        }
        all.expect("there are masks")
    }
}

/// Bits `step` apart from `first` on, one for each lane.
fn places(step: usize, first: usize) -> i64 {
    (0..LANES).fold(0u64, |bits, lane| bits | 1 << (first + step * lane)) as i64
}
