//! Memory of the processor: arenas, and pages with machine code.

use crate::DeviceError;
use memmap2::{Mmap, MmapMut};
use std::collections::BTreeMap;
use std::ops::Range;
use thalweg_plan::{Code, KernelId, Plan};

/// A kernel's entry, as [`thalweg_kernel::cpu_abi`] says.
pub(crate) type Entry = unsafe extern "C" fn(buffers: *const *mut u8, ranges: *const i64);

/// The smallest pages there are; where they are larger, advice about parts of them fails and nothing is lost.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// Zeroed memory, aligned to a page, that stays where it is.
#[derive(Debug)]
pub(crate) struct Arena {
    pages: MmapMut,
    bytes: usize,
}

impl Arena {
    /// Asks the system for zeroed pages; huge ones where it has them, for operands of products are many megabytes.
    pub(crate) fn new(bytes: usize, purpose: &'static str) -> Result<Arena, DeviceError> {
        let pages = MmapMut::map_anon(bytes.max(1)).map_err(|source| DeviceError::Memory {
            bytes,
            purpose,
            source,
        })?;
        #[cfg(target_os = "linux")]
        if bytes >= 4 << 20 {
            // Only a hint: without it everything works, a little slower.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Ok(Arena { pages, bytes })
    }

    /// The first byte.
    pub(crate) fn base(&mut self) -> *mut u8 {
        self.pages.as_mut_ptr()
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// That many bytes at an offset. Fails when they are not all there.
    pub(crate) fn range(&self, offset: usize, bytes: usize) -> Result<Range<usize>, DeviceError> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.bytes);
        let outside = DeviceError::OutsideArena { offset, bytes, arena: self.bytes };
        Ok(offset..end.ok_or(outside)?)
    }

    /// Writes bytes at an offset.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let place = self.range(offset, bytes.len())?;
        self.pages[place].copy_from_slice(bytes);
        Ok(())
    }

    /// Lets the system have the pages back that lie within this part. What is in the part is then undefined.
    pub(crate) fn discard(&mut self, part: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let (start, end) = (part.start.next_multiple_of(PAGE), part.end / PAGE * PAGE);
            if start < end {
                // Only a hint, as above.
                // SAFETY: the pages are this map's own, private and anonymous, so they read as zeros afterwards; nobody
                // holds a reference into them, and their contents are given up.
                let _ = unsafe {
                    let advice = memmap2::UncheckedAdvice::DontNeed;
                    self.pages.unchecked_advise_range(advice, start, end - start)
                };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = part;
    }

    /// Reads bytes at an offset.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), DeviceError> {
        into.copy_from_slice(&self.pages[self.range(offset, into.len())?]);
        Ok(())
    }
}

/// The machine code of some kernels, in pages that are executable and no longer writable.
#[derive(Debug)]
pub(crate) struct CodeMemory {
    /// Keeps the pages mapped; absent when there is no code.
    _pages: Option<Mmap>,
    entries: BTreeMap<KernelId, Entry>,
}

impl CodeMemory {
    /// Copies the code of `kernels` into executable pages.
    pub(crate) fn new(plan: &Plan, kernels: &[KernelId]) -> Result<CodeMemory, DeviceError> {
        let mut places: Vec<(KernelId, usize, &Code)> = Vec::new();
        let mut end = 0usize;
        for id in kernels {
            let kernel = plan.kernel(*id);
            let name = || kernel.kernel.name.clone();
            let code = kernel.code.as_ref().ok_or_else(|| DeviceError::NoCode { kernel: name() })?;
            let alignment = code.alignment.max(16) as usize;
            if !alignment.is_power_of_two() || alignment > 4096 || code.bytes.is_empty() {
                return Err(DeviceError::Invalid {
                    violation: format!(
                        "kernel `{}` has {} bytes of code aligned to {alignment}",
                        name(),
                        code.bytes.len()
                    ),
                });
            }
            let start = end.next_multiple_of(alignment);
            places.push((*id, start, code));
            end = start + code.bytes.len();
        }
        if places.is_empty() {
            return Ok(CodeMemory { _pages: None, entries: BTreeMap::new() });
        }
        let mut pages = MmapMut::map_anon(end).map_err(|source| DeviceError::Memory {
            bytes: end,
            purpose: "machine code",
            source,
        })?;
        for (_, start, code) in &places {
            pages[*start..*start + code.bytes.len()].copy_from_slice(&code.bytes);
        }
        let pages = pages.make_exec().map_err(|source| DeviceError::Executable { source })?;
        synchronize_instructions(pages.as_ptr(), end);
        let entry = |start: usize| {
            let address = pages[start..].as_ptr();
            // SAFETY: the address is that of the first byte of a kernel's code, which has the signature of `Entry` as the
            // plan's contract says; the pages are executable and live as long as `self`, which hands entries only to the
            // program that owns it.
            unsafe { std::mem::transmute::<*const u8, Entry>(address) }
        };
        let entries = places.iter().map(|(id, start, _)| (*id, entry(*start))).collect();
        Ok(CodeMemory { _pages: Some(pages), entries })
    }

    /// The entry of a kernel whose code is here.
    pub(crate) fn entry(&self, kernel: KernelId) -> Entry {
        self.entries[&kernel]
    }
}

/// Makes written code visible to the instruction fetch, where the hardware does not do so by itself.
#[cfg(target_arch = "aarch64")]
fn synchronize_instructions(start: *const u8, bytes: usize) {
    use std::arch::asm;
    // The smallest line any implementation has; smaller steps than needed are harmless.
    let lines = (0..bytes).step_by(16).map(|at| start.wrapping_add(at));
    for line in lines.clone() {
        // SAFETY: cleans a line of mapped memory to the point of unification; changes no contents.
        unsafe { asm!("dc cvau, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in lines {
        // SAFETY: invalidates a line of the instruction cache; changes no contents.
        unsafe { asm!("ic ivau, {0}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

#[cfg(not(target_arch = "aarch64"))]
fn synchronize_instructions(_: *const u8, _: usize) {}
