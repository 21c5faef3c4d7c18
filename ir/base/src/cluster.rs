//! Clusters: hosts with devices, and the links inside of a host and between hosts, as plain data.
//!
//! Ranks count the devices host by host in the order of the groups, so devices of neighbouring ranks are near each other.

use crate::{DType, DeviceDescription, DeviceKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a cluster cannot be planned for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ClusterError {
    /// The part of the cluster, such as `hosts[1].devices[0]`.
    pub place: String,
    /// What is wrong, as a clause.
    pub message: String,
}

/// How the rate of products grows with their sizes.
///
/// A product of `batch` times `m` by `k` by `n` runs at `peak * top * m/(m + half_m) * n/(n + half_n) * k/(k + half_k)`: a
/// half-size is where that dim costs half of the rate.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProductCurve {
    /// The share of the peak that large products reach.
    pub top: f64,
    /// Half-size of the left operand's own dims.
    pub half_m: f64,
    /// Half-size of the right operand's own dims.
    pub half_n: f64,
    /// Half-size of the summed dims.
    pub half_k: f64,
}

impl ProductCurve {
    /// The share of the peak that a product of these sizes reaches, in (0, 1].
    pub fn efficiency(&self, m: f64, n: f64, k: f64) -> f64 {
        let part = |size: f64, half: f64| size.max(1.0) / (size.max(1.0) + half);
        self.top * part(m, self.half_m) * part(n, self.half_n) * part(k, self.half_k)
    }
}

/// One device of a cluster: published rates, and the shares of them that programs reach.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accelerator {
    /// What people call it.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Peak arithmetic per second for products of each dtype, one fused multiply-add counted as two. `f32` must be there and
    /// stands for dtypes that are not.
    pub flops_per_s: BTreeMap<DType, f64>,
    /// Memory in bytes, all of it.
    pub memory_bytes: u64,
    /// Memory that no plan may use, in bytes: the driver's context, libraries and what fragmentation loses.
    pub memory_reserved_bytes: u64,
    /// Peak memory traffic in bytes per second.
    pub bandwidth_bytes_per_s: f64,
    /// The share of the peak memory traffic that streaming kernels reach.
    pub bandwidth_share: f64,
    /// The least time a kernel takes, in seconds.
    pub launch_s: f64,
    /// How fast products are.
    pub products: ProductCurve,
    /// How fast convolutions are, counting the operations of plain sums.
    pub convolutions: ProductCurve,
    /// How many times fewer operations a convolution of 3 by 3 or 5 by 5 at stride 1 takes in `f32` by fast transforms
    /// (Lavin and Gray 2016); 1 where the device's libraries have none.
    pub fast_convolution: f64,
}

impl Accelerator {
    /// Peak product arithmetic per second in `dtype`; that of `f32` where nothing is known.
    pub fn product_rate(&self, dtype: DType) -> f64 {
        self.flops_per_s.get(&dtype).or_else(|| self.flops_per_s.get(&DType::F32)).copied().unwrap_or(1.0)
    }

    /// Memory that a plan may use, in bytes.
    pub fn memory_usable_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.memory_reserved_bytes)
    }

    /// Memory traffic that streaming kernels reach, in bytes per second.
    pub fn traffic_rate(&self) -> f64 {
        self.bandwidth_bytes_per_s * self.bandwidth_share
    }

    /// As one device among those of this machine is described.
    pub fn description(&self) -> DeviceDescription {
        DeviceDescription {
            kind: self.kind,
            name: self.name.clone(),
            threads: 1,
            features: Vec::new(),
            memory_bytes: self.memory_usable_bytes(),
            flops_per_s: self.flops_per_s.clone(),
            bandwidth_bytes_per_s: self.traffic_rate(),
            launch_s: self.launch_s,
        }
    }
}

/// A class of links.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What people call it.
    pub name: String,
    /// Time for the first byte of one message, in seconds.
    pub latency_s: f64,
    /// Peak bytes per second in each direction: of each device inside of a host, of the whole host between hosts.
    pub bandwidth_bytes_per_s: f64,
    /// The share of the peak that collectives of large messages reach.
    pub share: f64,
    /// Whether all devices of the host share the bandwidth, as they do a bus or the host's network card.
    pub shared: bool,
    /// For links that lead straight to single neighbours: how many a device has. A group of fewer devices than that reaches only
    /// as much of the bandwidth as its members have links to each other. None where a switch joins all.
    #[serde(default)]
    pub links: Option<usize>,
}

impl Link {
    /// Bytes per second that collectives of large messages reach.
    pub fn rate(&self) -> f64 {
        self.bandwidth_bytes_per_s * self.share
    }

    /// Bytes per second that collectives of large messages reach in a group of so many devices of a host.
    pub fn rate_among(&self, devices: usize) -> f64 {
        let all = self.links.unwrap_or(devices).max(1);
        self.rate() * devices.min(all) as f64 / all as f64
    }
}

/// Equal devices of a host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceGroup {
    /// How many.
    pub count: usize,
    /// What each is.
    pub device: Accelerator,
}

/// Equal hosts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostGroup {
    /// How many.
    pub count: usize,
    /// The devices of each, in the order of their ranks.
    pub devices: Vec<DeviceGroup>,
    /// The link between devices of one host.
    pub link: Link,
    /// What one host costs, in any one currency for the whole cluster.
    pub price_per_hour: Option<f64>,
}

impl HostGroup {
    /// The devices of one host.
    pub fn devices_per_host(&self) -> usize {
        self.devices.iter().map(|group| group.count).sum()
    }
}

/// Hosts and the network between them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// What it is called in reports.
    pub name: String,
    /// The hosts.
    pub hosts: Vec<HostGroup>,
    /// The network between hosts.
    pub network: Link,
}

/// Equal devices of neighbouring ranks.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The first rank.
    pub first: usize,
    /// How many devices.
    pub count: usize,
    /// How many of them stand in one host.
    pub per_host: usize,
    /// What each is.
    pub device: &'a Accelerator,
    /// The link between those of one host.
    pub link: &'a Link,
}

impl Cluster {
    /// The number of devices.
    pub fn devices(&self) -> usize {
        self.hosts.iter().map(|group| group.count * group.devices_per_host()).sum()
    }

    /// The number of hosts.
    pub fn host_count(&self) -> usize {
        self.hosts.iter().map(|group| group.count).sum()
    }

    /// What all hosts cost in an hour; none where a price is not known.
    pub fn price_per_hour(&self) -> Option<f64> {
        self.hosts.iter().map(|group| Some(group.count as f64 * group.price_per_hour?)).sum()
    }

    /// The devices in the order of their ranks, equal neighbours together. Hosts of several kinds of device make a run for
    /// each kind of each host.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let mut runs = Vec::new();
        let mut first = 0;
        for group in &self.hosts {
            let uniform = group.devices.len() == 1;
            let rounds = if uniform { 1 } else { group.count };
            for _ in 0..rounds {
                for devices in &group.devices {
                    let count = devices.count * if uniform { group.count } else { 1 };
                    let (per_host, device) = (devices.count, &devices.device);
                    runs.push(Run { first, count, per_host, device, link: &group.link });
                    first += count;
                }
            }
        }
        runs
    }

    /// Whether all devices are equal and all hosts have as many.
    pub fn is_uniform(&self) -> bool {
        let runs = self.runs();
        runs.windows(2).all(|pair| {
            pair[0].device == pair[1].device
                && pair[0].per_host == pair[1].per_host
                && pair[0].link == pair[1].link
        })
    }

    /// The first host group with as many hosts as have this many devices in all; what `simulate --sweep` resizes. Fails
    /// unless the cluster is uniform and the number fills hosts or is within one.
    pub fn resized(&self, devices: usize) -> Result<Cluster, ClusterError> {
        let wrong = |message: String| ClusterError { place: "hosts".into(), message };
        if !self.is_uniform() {
            return Err(wrong("hosts of several kinds cannot be made more or fewer by one number".into()));
        }
        let mut group = self.hosts[0].clone();
        let per_host = group.devices_per_host();
        match devices {
            0 => return Err(wrong("a cluster has one device at least".into())),
            _ if devices <= per_host => {
                group.count = 1;
                group.devices[0].count = devices;
            }
            _ if devices.is_multiple_of(per_host) => group.count = devices / per_host,
            _ => return Err(wrong(format!("{devices} devices fill no number of hosts of {per_host}"))),
        }
        Ok(Cluster {
            name: format!("{} of {devices}", self.name),
            hosts: vec![group],
            network: self.network.clone(),
        })
    }

    /// Checks every number: counts are not 0, rates are positive and finite, shares are in (0, 1].
    pub fn check(&self) -> Result<(), ClusterError> {
        let fail = |place: String, message: &str| Err(ClusterError { place, message: message.to_string() });
        if self.hosts.is_empty() {
            return fail("hosts".into(), "a cluster has one host at least");
        }
        for (at, group) in self.hosts.iter().enumerate() {
            let place = format!("hosts[{at}]");
            if group.count == 0 || group.devices.is_empty() {
                return fail(place, "there are no hosts, or no devices in them");
            }
            check_link(&format!("{place}.link"), &group.link)?;
            if group.price_per_hour.is_some_and(|price| !(price.is_finite() && price >= 0.0)) {
                return fail(place, "`price_per_hour` is not a price");
            }
            for (number, devices) in group.devices.iter().enumerate() {
                check_device(&format!("{place}.devices[{number}]"), devices)?;
            }
        }
        check_link("network", &self.network)
    }
}

fn check_device(place: &str, group: &DeviceGroup) -> Result<(), ClusterError> {
    let fail = |message: String| Err(ClusterError { place: place.to_string(), message });
    let device = &group.device;
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if group.count == 0 {
        return fail("`count` is 0".into());
    }
    if !device.flops_per_s.contains_key(&DType::F32) {
        return fail("`flops_per_s` has no rate for f32".into());
    }
    if let Some((dtype, _)) = device.flops_per_s.iter().find(|(_, rate)| !positive(**rate)) {
        return fail(format!("the rate for {dtype} is not a positive number"));
    }
    if device.memory_usable_bytes() == 0 {
        return fail("`memory_reserved_bytes` leaves no memory".into());
    }
    for (name, value) in [
        ("bandwidth_bytes_per_s", device.bandwidth_bytes_per_s),
        ("launch_s", device.launch_s),
        ("fast_convolution", device.fast_convolution),
    ] {
        if !positive(value) {
            return fail(format!("`{name}` is not a positive number"));
        }
    }
    for (name, share) in [
        ("bandwidth_share", device.bandwidth_share),
        ("products.top", device.products.top),
        ("convolutions.top", device.convolutions.top),
    ] {
        if !(positive(share) && share <= 1.0) {
            return fail(format!("`{name}` is not in (0, 1]"));
        }
    }
    let halves =
        [&device.products, &device.convolutions].map(|curve| [curve.half_m, curve.half_n, curve.half_k]);
    if halves.iter().flatten().any(|half| !(half.is_finite() && *half >= 0.0)) {
        return fail("a half-size is not a number from 0 up".into());
    }
    Ok(())
}

fn check_link(place: &str, link: &Link) -> Result<(), ClusterError> {
    let fail = |message: &str| Err(ClusterError { place: place.to_string(), message: message.to_string() });
    if !(link.latency_s.is_finite() && link.latency_s >= 0.0) {
        return fail("`latency_s` is not a number from 0 up");
    }
    if !(link.bandwidth_bytes_per_s.is_finite() && link.bandwidth_bytes_per_s > 0.0) {
        return fail("`bandwidth_bytes_per_s` is not a positive number");
    }
    if link.links == Some(0) {
        return fail("`links` is 0; leave it out where a switch joins all");
    }
    if !(link.share > 0.0 && link.share <= 1.0) {
        return fail("`share` is not in (0, 1]");
    }
    Ok(())
}
