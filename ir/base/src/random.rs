//! Counter-based random numbers: a value depends on a key and a counter only, never on who draws it or in what order.
//!
//! The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). It needs 32-bit additions, rotations and exclusive-ors alone, so every device vectorizes it.

/// Rotation distances of Threefry-2x32, from table 2 of the paper.
pub const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];

/// The key-schedule parity constant of the paper for 32-bit words.
pub const PARITY: u32 = 0x1BD1_1BDA;

/// Rounds; the paper's recommended safety margin.
pub const ROUNDS: usize = 20;

/// Threefry-2x32-20: two random words for a key and a counter.
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let schedule = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut x = [counter[0].wrapping_add(key[0]), counter[1].wrapping_add(key[1])];
    for round in 0..ROUNDS {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        if round % 4 == 3 {
            let step = round / 4 + 1;
            x[0] = x[0].wrapping_add(schedule[step % 3]);
            x[1] = x[1].wrapping_add(schedule[(step + 1) % 3]).wrapping_add(step as u32);
        }
    }
    x
}

/// A uniform value in [0, 1) from the upper 24 bits of a word: every result is exact in binary32.
pub fn uniform(word: u32) -> f64 {
    (word >> 8) as f64 * 2f64.powi(-24)
}

/// A standard normal value from two words, by Box and Muller (1958): `sqrt(-2 ln u) cos(2 pi v)` with u in (0, 1].
pub fn normal(words: [u32; 2]) -> f64 {
    let u = uniform(words[0]) + 2f64.powi(-24);
    let v = uniform(words[1]);
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A key for a name under a seed: FNV-1a of the name mixed with the seed by one Threefry call.
pub fn key_for(seed: u64, name: &str) -> [u32; 2] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
    });
    threefry2x32([seed as u32, (seed >> 32) as u32], [hash as u32, (hash >> 32) as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers from the authors' distribution (kat_vectors, threefry2x32 20).
    #[test]
    fn known_answers() {
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(
            threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]),
            [0xc492_3a9c, 0x483d_f7a0]
        );
    }

    #[test]
    fn moments() {
        let n = 20_000u32;
        let words: Vec<_> = (0..n).map(|i| threefry2x32([7, 9], [i, 0])).collect();
        let mean = words.iter().map(|w| uniform(w[0])).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let square = words.iter().map(|w| normal(*w).powi(2)).sum::<f64>() / n as f64;
        assert!((square - 1.0).abs() < 0.04, "{square}");
    }
}
