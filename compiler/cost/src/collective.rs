//! The time that devices need to communicate over equal links.

use thalweg_base::LinkDescription;
use thalweg_tensor::ops::CollectiveKind;

/// The seconds that a collective takes among `devices` that each hold `bytes` of operand, over links of one class.
///
/// With latency `a`, bandwidth `b`, `p` devices and `n` operand bytes each, the ring and pairwise algorithms of Thakur,
/// Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005, take
///
/// - all-gather (ring, section 4.1): `(p - 1) (a + n / b)`, as every device passes on each of the others' pieces;
/// - reduce-scatter (pairwise exchange, section 4.3): `(p - 1) (a + n / (p b))`;
/// - all-reduce: a reduce-scatter and an all-gather of the pieces, `2 (p - 1) (a + n / (p b))`;
/// - all-to-all (pairwise exchange, section 4.2): `(p - 1) (a + n / (p b))`.
///
/// A shard sends nothing. The additions of a reduction are far cheaper than its traffic and are left out.
pub fn collective_seconds(kind: CollectiveKind, bytes: f64, devices: usize, link: &LinkDescription) -> f64 {
    let rounds = devices.saturating_sub(1) as f64;
    let piece = bytes / devices.max(1) as f64;
    let of = |rounds: f64, bytes: f64| rounds * (link.latency_s + bytes / link.bandwidth_bytes_per_s);
    match kind {
        CollectiveKind::AllReduce { .. } => of(2.0 * rounds, piece),
        CollectiveKind::AllGather { .. } => of(rounds, bytes),
        CollectiveKind::ReduceScatter { .. } | CollectiveKind::AllToAll { .. } => of(rounds, piece),
        CollectiveKind::Shard { .. } => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_tensor::ReduceFn;

    #[test]
    fn an_all_reduce_costs_a_reduce_scatter_and_an_all_gather_of_the_pieces() {
        let link = LinkDescription { latency_s: 1e-6, bandwidth_bytes_per_s: 1e9 };
        let sum = ReduceFn::Sum;
        for devices in [1, 2, 5, 64] {
            let bytes = 1e6;
            let all = collective_seconds(CollectiveKind::AllReduce { function: sum }, bytes, devices, &link);
            let kind = CollectiveKind::ReduceScatter { function: sum, dim: 0 };
            let scatter = collective_seconds(kind, bytes, devices, &link);
            let piece = bytes / devices as f64;
            let gather = collective_seconds(CollectiveKind::AllGather { dim: 0 }, piece, devices, &link);
            assert!((all - scatter - gather).abs() < 1e-15, "{devices}: {all} {scatter} {gather}");
        }
        // Two devices exchange half of a megabyte each way, twice.
        let two = collective_seconds(CollectiveKind::AllReduce { function: sum }, 1e6, 2, &link);
        assert!((two - 2.0 * (1e-6 + 0.5e-3)).abs() < 1e-12);
    }
}
