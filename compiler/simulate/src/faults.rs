//! Long trainings on devices that fail: what share of the time goes forward.

use crate::uniform;
use serde::Serialize;

/// Faults after which the mean share changes by less than a thousandth.
const FAULTS: u64 = 20_000;

/// How devices fail and trainings recover.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Faults {
    /// Mean time between failures of one device, in seconds.
    pub device_mtbf_s: f64,
    /// Devices that stop all when one fails.
    pub devices: usize,
    /// Seconds that a checkpoint stops the training.
    pub checkpoint_s: f64,
    /// Seconds of training between checkpoints; none for the best, `sqrt(2 checkpoint_s mtbf)` (Young 1974).
    pub interval_s: Option<f64>,
    /// Seconds from a failure until the training goes on from its last checkpoint.
    pub restart_s: f64,
}

impl Faults {
    /// Mean time between failures of any device, in seconds.
    pub fn mtbf_s(&self) -> f64 {
        self.device_mtbf_s / self.devices as f64
    }

    /// Seconds of training between checkpoints.
    pub fn interval(&self) -> f64 {
        self.interval_s.unwrap_or((2.0 * self.checkpoint_s * self.mtbf_s()).sqrt()).max(1e-9)
    }
}

/// What a training with faults gets done.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Goodput {
    /// The share of the time that went into steps that count.
    pub share: f64,
    /// The share that checkpoints took.
    pub checkpoints: f64,
    /// The share that was done again after failures.
    pub lost: f64,
    /// The share that restarts took.
    pub restarts: f64,
    /// Mean time between failures, in seconds.
    pub mtbf_s: f64,
    /// Seconds of training between checkpoints.
    pub interval_s: f64,
}

/// Runs a long training: failures at exponential times, from a seed; each loses what was done since the last checkpoint. What a
/// failure does that comes during a checkpoint or a restart is the same.
pub fn goodput(faults: &Faults, seed: u64) -> Goodput {
    let (mtbf, interval) = (faults.mtbf_s(), faults.interval());
    let turn = interval + faults.checkpoint_s;
    let [mut kept, mut checkpoints, mut lost, mut restarts] = [0.0; 4];
    for fault in 0..FAULTS {
        let mut left = -mtbf * (1.0 - uniform(seed, fault)).ln();
        let restart = left.min(faults.restart_s);
        restarts += restart;
        left -= restart;
        let turns = (left / turn).floor();
        kept += turns * interval;
        checkpoints += turns * faults.checkpoint_s;
        lost += left - turns * turn;
    }
    let total = kept + checkpoints + lost + restarts;
    Goodput {
        share: kept / total,
        checkpoints: checkpoints / total,
        lost: lost / total,
        restarts: restarts / total,
        mtbf_s: mtbf,
        interval_s: interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_what_daly_says_and_best_at_youngs_interval() {
        let faults = Faults {
            device_mtbf_s: 3e8,
            devices: 10_000,
            checkpoint_s: 60.0,
            interval_s: None,
            restart_s: 300.0,
        };
        let best = goodput(&faults, 5);
        // Daly 2006, equation 20, without restarts during restarts.
        let (mtbf, interval) = (faults.mtbf_s(), faults.interval());
        let expected = interval / mtbf * (-300.0 / mtbf).exp() / (((interval + 60.0) / mtbf).exp() - 1.0);
        assert!((best.share - expected).abs() < 0.01, "{best:?} {expected}");
        assert!((best.share + best.checkpoints + best.lost + best.restarts - 1.0).abs() < 1e-9);
        for factor in [0.2, 5.0] {
            let other = Faults { interval_s: Some(interval * factor), ..faults };
            assert!(goodput(&other, 5).share < best.share);
        }
        let fewer = Faults { devices: 100, ..faults };
        assert!(goodput(&fewer, 5).share > 0.98);
    }
}
