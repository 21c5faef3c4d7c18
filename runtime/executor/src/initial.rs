//! First values of parameters and states. A value depends on the seed, the name and the position in the global tensor only,
//! so it is the same on any number of devices and threads.

use thalweg_base::literal::write_scalar;
use thalweg_base::{DType, Initializer, random};

/// Elements that are worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 14;

/// The first value of the kept value `name` under `seed`, as the bytes of the global tensor with that many elements: position
/// `i` takes counter `i` under the key of seed and name. `threads` work on it.
pub fn initial_bytes(
    initial: &Initializer,
    seed: u64,
    name: &str,
    dtype: DType,
    elements: usize,
    threads: usize,
) -> Vec<u8> {
    let size = dtype.size_bytes();
    if let Initializer::Constant(value) = initial {
        let mut one = Vec::with_capacity(size);
        write_scalar(dtype, *value, &mut one);
        return one.repeat(elements);
    }
    let key = random::key_for(seed, name);
    let mut bytes = vec![0; elements * size];
    let share = elements.div_ceil(threads.clamp(1, elements.div_ceil(WORTH_A_THREAD).max(1))).max(1);
    std::thread::scope(|scope| {
        for (number, part) in bytes.chunks_mut(share * size).enumerate() {
            let mut fill = move || initial.fill(key, number * share, dtype, part);
            // The last part, perhaps the only one, is for this thread.
            if (number + 1) * share < elements {
                scope.spawn(fill);
            } else {
                fill();
            }
        }
    });
    bytes
}
