//! The time of collectives over the links of a cluster, by the best of the usual algorithms.

use serde::{Deserialize, Serialize};
use thalweg_base::Link;

/// Rounds' worth of latency that the start of a collective takes: the kernel's launch, the meeting of all devices, and the
/// return to the framework. Set with the latencies of NVLink so that all-reduces of one megabyte among eight A100 take what
/// was published for them.
const START_ROUNDS: f64 = 10.0;

/// The share of the bandwidth that protocols for short messages reach, which send a flag with each datum instead of waiting
/// in each round (as NCCL's LL128 does).
const SHORT_SHARE: f64 = 0.44;

/// What devices do together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// All get the sum of what each has. Bytes are those that each has.
    AllReduce,
    /// Each gets its piece of the sum. Bytes are those that each has.
    ReduceScatter,
    /// All get the pieces of all. Bytes are those that each gets.
    AllGather,
    /// Each gets a piece of what every other has. Bytes are those that each has.
    AllToAll,
    /// One sends to another. Bytes are those that are sent.
    Send,
}

/// How a collective is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Nothing is sent.
    None,
    /// Pieces go around a ring of all devices.
    Ring,
    /// Messages go up and down a tree, in pieces.
    Tree,
    /// Pairs at growing distance exchange halves.
    HalvingDoubling,
    /// First inside of hosts, then between them, then inside of hosts again.
    Hierarchical,
    /// Each pair by itself.
    Pairwise,
}

/// One level of a group of devices, such as those of one host.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Level {
    /// Whether these are hosts, and not devices of one.
    pub hosts: bool,
    /// How many there are at this level for each of the next.
    pub size: usize,
    /// Time of one round of small messages, in seconds.
    pub latency_s: f64,
    /// Bytes per second that one of them sends while all others of the cluster do the same.
    pub bandwidth_bytes_per_s: f64,
    /// Members of this group that share the bandwidth of one of them here.
    pub sharing: usize,
}

/// A group of devices that communicate, by the links between them: those of one host first, then those between hosts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Topology {
    levels: Vec<Level>,
}

impl Topology {
    /// A group of `size` devices, each `stride` ranks after the one before, on hosts of `per_host` devices. All groups of the
    /// same stride are assumed to communicate at the same time, so they share what the devices of a host share.
    pub fn group(size: usize, stride: usize, per_host: usize, link: &Link, network: &Link) -> Topology {
        let (stride, per_host) = (stride.max(1), per_host.max(1));
        let inside = (per_host / stride).clamp(1, size.max(1));
        let hosts = size.div_ceil(inside);
        let mut levels = Vec::new();
        if inside > 1 {
            let sharing = if link.shared { per_host } else { 1 };
            levels.push(Level {
                hosts: false,
                size: inside,
                latency_s: link.latency_s,
                bandwidth_bytes_per_s: link.rate_among(inside) / sharing as f64,
                sharing: 1,
            });
        }
        if hosts > 1 {
            // Groups that have members on the same host share its network.
            let groups = (per_host / inside).max(1);
            levels.push(Level {
                hosts: true,
                size: hosts,
                latency_s: network.latency_s,
                bandwidth_bytes_per_s: network.rate() / groups as f64,
                sharing: inside,
            });
        }
        Topology { levels }
    }

    /// The number of devices.
    pub fn size(&self) -> usize {
        self.levels.iter().map(|level| level.size).product()
    }

    /// The number of hosts that have a device of the group.
    pub fn hosts(&self) -> usize {
        self.levels.iter().filter(|level| level.hosts).map(|level| level.size).product()
    }

    /// Whether the group has devices on several hosts.
    pub fn crosses_hosts(&self) -> bool {
        self.levels.iter().any(|level| level.hosts)
    }

    /// The bytes per second of the slowest way that a ring takes, and the latency of its slowest round.
    pub fn ring_link(&self) -> (f64, f64) {
        let slowest = |pick: fn(&Level) -> f64, better: fn(f64, f64) -> f64, start: f64| {
            self.levels.iter().map(pick).fold(start, better)
        };
        (
            slowest(|level| level.bandwidth_bytes_per_s, f64::min, f64::INFINITY),
            slowest(|level| level.latency_s, f64::max, 0.0),
        )
    }

    /// The seconds of a collective, and the algorithm that takes least.
    ///
    /// With `p` devices, `n` bytes (see [`Pattern`]), latency `a` and bandwidth `b` of the slowest link, the formulas of
    /// Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005, are
    ///
    /// - ring: `2 (p - 1) (a + n / (p b))` for an all-reduce, half of that for its halves;
    /// - halving and doubling: `2 log2(p) a + 2 (p - 1) / p n / b`, for powers of two of hosts;
    /// - tree, in pieces, between hosts: `2 log2(p) a + 2 n / b`;
    /// - hierarchical: a reduce-scatter inside of hosts, an all-reduce of the pieces between them, all pieces at once, and an
    ///   all-gather inside (Goyal et al. 2017, section 4);
    ///
    /// each plus a start, and each also with the protocol for short messages, which has no rounds to wait for but a smaller
    /// share of the bandwidth.
    pub fn seconds(&self, pattern: Pattern, bytes: f64) -> (f64, Algorithm) {
        if self.size() <= 1 || bytes <= 0.0 {
            return (0.0, Algorithm::None);
        }
        let full = self.best(pattern, bytes, 1.0, 1.0);
        let short = self.best(pattern, bytes, 0.0, SHORT_SHARE);
        let best = if short.0 < full.0 { short } else { full };
        (self.start_s() + best.0, best.1)
    }

    /// The seconds that a collective takes at least.
    pub fn start_s(&self) -> f64 {
        START_ROUNDS * self.levels.iter().map(|level| level.latency_s).fold(0.0, f64::max)
    }

    fn best(&self, pattern: Pattern, bytes: f64, rounds: f64, share: f64) -> (f64, Algorithm) {
        let p = self.size() as f64;
        let (bandwidth, latency) = self.ring_link();
        let (bandwidth, latency) = (bandwidth * share, latency * rounds);
        let piece = bytes / p / bandwidth;
        let halves = if pattern == Pattern::AllReduce { 2.0 } else { 1.0 };
        let mut options = Vec::new();
        match pattern {
            Pattern::AllReduce | Pattern::ReduceScatter | Pattern::AllGather => {
                options.push((halves * (p - 1.0) * (latency + piece), Algorithm::Ring));
                // Inside of a host, libraries go around rings alone.
                if self.crosses_hosts() {
                    if self.levels.len() == 1 && self.size().is_power_of_two() {
                        let time = halves * (p.log2() * latency + (p - 1.0) * piece);
                        options.push((time, Algorithm::HalvingDoubling));
                    }
                    if pattern == Pattern::AllReduce {
                        options
                            .push((2.0 * (p.log2().ceil() * latency + bytes / bandwidth), Algorithm::Tree));
                    }
                }
                if let [inside, between] = &self.levels[..] {
                    let (m, h) = (inside.size as f64, between.size as f64);
                    let within = halves
                        * (m - 1.0)
                        * (inside.latency_s * rounds + bytes / m / (inside.bandwidth_bytes_per_s * share));
                    // The members of a host send their pieces at once over what they share.
                    let across = halves
                        * ((h.log2().ceil() * between.latency_s * rounds)
                            + (h - 1.0) / h * bytes / (between.bandwidth_bytes_per_s * share));
                    options.push((within + across, Algorithm::Hierarchical));
                }
            }
            Pattern::AllToAll => {
                let time = self.levels.iter().map(|level| {
                    // Of what a device has, the part for others beyond this level crosses its link.
                    let (q, sharing) = (level.size as f64, level.sharing as f64);
                    let crossing = bytes * (q - 1.0) / q * sharing;
                    (q - 1.0) * level.latency_s * rounds + crossing / (level.bandwidth_bytes_per_s * share)
                });
                options.push((time.sum(), Algorithm::Pairwise));
            }
            Pattern::Send => options.push((latency + bytes / bandwidth, Algorithm::Pairwise)),
        }
        let least = options.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        least.expect("every pattern has an algorithm")
    }
}

/// The seconds that `bytes` take between neighbouring stages of a pipeline, when all devices of a host send at once to
/// another host, or to others of the same host.
pub fn send_seconds(bytes: f64, per_host: usize, stage_devices: usize, link: &Link, network: &Link) -> f64 {
    if bytes <= 0.0 {
        return 0.0;
    }
    let inside = stage_devices < per_host;
    let via = if inside { link } else { network };
    let sharing = if via.shared { stage_devices.min(per_host).max(1) as f64 } else { 1.0 };
    let rate = if inside { via.rate_among(2) / sharing } else { via.rate() / sharing };
    via.latency_s + bytes / rate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::link;

    fn eight() -> Topology {
        let (inside, network) = (link("nvlink3-switch").unwrap(), link("100gbps").unwrap());
        Topology::group(8, 1, 8, inside, network)
    }

    #[test]
    fn more_bytes_take_longer_and_one_device_takes_nothing() {
        let topology = eight();
        let mut before = 0.0;
        for exponent in 0..34 {
            let (seconds, _) = topology.seconds(Pattern::AllReduce, f64::from(1u32 << exponent.min(31)));
            assert!(seconds >= before);
            before = seconds;
        }
        let (inside, network) = (link("pcie3").unwrap(), link("10gbps").unwrap());
        assert_eq!(Topology::group(1, 1, 8, inside, network).seconds(Pattern::AllReduce, 1e9).0, 0.0);
    }

    #[test]
    fn an_all_reduce_is_no_faster_than_its_halves_allow() {
        for (size, stride, per_host) in [(8, 1, 8), (16, 1, 8), (64, 1, 8), (8, 8, 8), (4, 2, 8), (6, 1, 3)] {
            let topology = Topology::group(
                size,
                stride,
                per_host,
                link("nvlink2-mesh").unwrap(),
                link("25gbps").unwrap(),
            );
            assert_eq!(topology.size(), size);
            for bytes in [1e3, 1e6, 1e9] {
                let all = topology.seconds(Pattern::AllReduce, bytes).0;
                let scatter = topology.seconds(Pattern::ReduceScatter, bytes).0;
                let gather = topology.seconds(Pattern::AllGather, bytes).0;
                assert!(all <= (scatter + gather) * (1.0 + 1e-12), "{size} {stride} {per_host} {bytes}");
                assert!(all >= scatter.max(gather));
            }
        }
    }

    #[test]
    fn between_hosts_the_hierarchical_algorithm_wins_for_large_messages() {
        let topology = Topology::group(64, 1, 8, link("nvlink2-switch").unwrap(), link("25gbps").unwrap());
        let (seconds, algorithm) = topology.seconds(Pattern::AllReduce, 1e9);
        assert_eq!(algorithm, Algorithm::Hierarchical);
        // The network of a host carries seven eighths of the bytes both ways.
        let least = 2.0 * 7.0 / 8.0 * 1e9 / link("25gbps").unwrap().rate();
        assert!(seconds > least && seconds < 1.2 * least, "{seconds} {least}");
        // Eight groups of one device in each host share that network.
        let strided = Topology::group(8, 8, 8, link("nvlink2-switch").unwrap(), link("25gbps").unwrap());
        let shared = strided.seconds(Pattern::AllReduce, 1e9 / 8.0).0;
        assert!((shared / least - 1.0).abs() < 0.1, "{shared} {least}");
    }
}
