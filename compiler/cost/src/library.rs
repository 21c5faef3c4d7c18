//! Known hardware by name, and clusters from text: a name such as `a100-80gb:4x8`, or a file.
//!
//! The library is data in `compiler/cost/library/`. Texts are given by the caller; this crate reads no files.

use serde::Deserialize;
use std::sync::LazyLock;
use thalweg_base::{Accelerator, Cluster, ClusterError, DeviceGroup, HostGroup, Link};

/// Why a text is no cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// A file is not of the form that cluster files have.
    #[error("{line}:{column}: {message}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A name is not in the library.
    #[error("there is no {what} `{name}`; the library has {known}")]
    Unknown {
        /// `device`, `link` or `host`.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A short form cannot be read.
    #[error("`{text}` is no cluster: {message}")]
    Short {
        /// The text.
        text: String,
        /// How such a text looks.
        message: &'static str,
    },
    /// A number of the file makes no sense.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// How short forms look, for messages.
const SHORT: &str = "write DEVICE:HOSTSxDEVICES, such as `a100-80gb:4x8` for four hosts of eight devices, or DEVICE:N, joined by `+` \
    where they are unlike, and @NETWORK for another network, such as `v100-16gb:2x8@100gbps`";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    devices: usize,
    link: String,
    network: String,
    price_per_hour: Option<f64>,
}

struct Library {
    devices: Vec<Accelerator>,
    links: Vec<Link>,
    hosts: Vec<HostEntry>,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let broken = "the library that comes with the program is well-formed; a test reads all of it";
    Library {
        devices: ron::from_str(include_str!("../library/devices.ron")).expect(broken),
        links: ron::from_str(include_str!("../library/links.ron")).expect(broken),
        hosts: ron::from_str(include_str!("../library/hosts.ron")).expect(broken),
    }
});

/// A device of the library.
///
/// ```
/// let device = thalweg_cost::library::device("v100-16gb").unwrap();
/// assert_eq!(device.product_rate(thalweg_base::DType::F16), 125e12);
/// ```
pub fn device(name: &str) -> Result<&'static Accelerator, LibraryError> {
    let found = LIBRARY.devices.iter().find(|device| device.name == name);
    found.ok_or_else(|| unknown("device", name, LIBRARY.devices.iter().map(|device| &device.name)))
}

/// A link of the library.
pub fn link(name: &str) -> Result<&'static Link, LibraryError> {
    let found = LIBRARY.links.iter().find(|link| link.name == name);
    found.ok_or_else(|| unknown("link", name, LIBRARY.links.iter().map(|link| &link.name)))
}

/// The names of all devices of the library.
pub fn device_names() -> Vec<&'static str> {
    LIBRARY.devices.iter().map(|device| &*device.name).collect()
}

fn unknown<'a>(what: &'static str, name: &str, known: impl Iterator<Item = &'a String>) -> LibraryError {
    let known: Vec<&str> = known.map(String::as_str).collect();
    LibraryError::Unknown { what, name: name.to_string(), known: known.join(", ") }
}

/// A cluster by its short form: `v100-16gb` is one device, `v100-16gb:8` eight devices in as few of the usual hosts as hold
/// them, `v100-16gb:2x8` two hosts of eight, `v100-16gb:1x8+p100:1x4` unlike hosts, and `…@100gbps` another network than the
/// usual one of the first hosts.
///
/// ```
/// let cluster = thalweg_cost::library::short("v100-16gb:2x8+p100:1x4@100gbps").unwrap();
/// assert_eq!((cluster.devices(), cluster.host_count()), (20, 3));
/// ```
pub fn short(text: &str) -> Result<Cluster, LibraryError> {
    let wrong = || LibraryError::Short { text: text.to_string(), message: SHORT };
    let (groups, network) = match text.split_once('@') {
        Some((groups, network)) => (groups, Some(network)),
        None => (text, None),
    };
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0).ok_or_else(wrong);
    let mut hosts = Vec::new();
    let mut usual = None;
    for group in groups.split('+') {
        let (name, counts) = match group.trim().split_once(':') {
            Some((name, counts)) => (name, counts),
            None => (group.trim(), "1x1"),
        };
        if name.is_empty() {
            return Err(wrong());
        }
        let device = device(name)?;
        let entry = LIBRARY.hosts.iter().find(|host| host.name == name);
        let entry = entry.expect("every device of the library has a usual host; a test looks");
        let (count, devices) = match counts.split_once('x') {
            Some((hosts, devices)) => (number(hosts)?, number(devices)?),
            None => {
                let all = number(counts)?;
                let per_host = if all <= entry.devices { all } else { entry.devices };
                if !all.is_multiple_of(per_host) {
                    return Err(wrong());
                }
                (all / per_host, per_host)
            }
        };
        usual = usual.or(Some(&entry.network));
        hosts.push(HostGroup {
            count,
            devices: vec![DeviceGroup { count: devices, device: device.clone() }],
            link: link(&entry.link)?.clone(),
            price_per_hour: entry.price_per_hour.filter(|_| devices == entry.devices),
        });
    }
    let network = link(network.or(usual.map(String::as_str)).unwrap_or_default())?.clone();
    let cluster = Cluster { name: text.to_string(), hosts, network };
    cluster.check()?;
    Ok(cluster)
}

/// A device or link: by name from the library, or in full.
#[derive(Deserialize)]
enum Entry<T> {
    Named(String),
    Given(T),
}

impl<T: Clone + 'static> Entry<T> {
    fn resolve(self, named: impl Fn(&str) -> Result<&'static T, LibraryError>) -> Result<T, LibraryError> {
        match self {
            Entry::Named(name) => named(&name).cloned(),
            Entry::Given(given) => Ok(given),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicesText {
    count: usize,
    device: Entry<Accelerator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsText {
    count: usize,
    devices: Vec<DevicesText>,
    link: Entry<Link>,
    #[serde(default)]
    price_per_hour: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterText {
    name: String,
    hosts: Vec<HostsText>,
    network: Entry<Link>,
}

/// A cluster from the text of a cluster file, in RON. Devices and links are `Named("a100-80gb")` from the library or
/// `Given((…))` with all their numbers.
///
/// ```
/// let text = r#"(
///     name: "an old and a new host",
///     hosts: [
///         (count: 1, devices: [(count: 8, device: Named("v100-16gb"))], link: Named("nvlink2-mesh")),
///         (count: 1, devices: [(count: 8, device: Named("a100-40gb"))], link: Named("nvlink3-switch")),
///     ],
///     network: Named("100gbps"),
/// )"#;
/// assert_eq!(thalweg_cost::library::parse(text).unwrap().devices(), 16);
/// ```
pub fn parse(text: &str) -> Result<Cluster, LibraryError> {
    let file: ClusterText = ron::Options::default()
        .with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
        .from_str(text)
        .map_err(|error| LibraryError::Syntax {
            line: error.span.start.line,
            column: error.span.start.col,
            message: error.code.to_string(),
        })?;
    let mut hosts = Vec::new();
    for group in file.hosts {
        let mut devices = Vec::new();
        for own in group.devices {
            devices.push(DeviceGroup { count: own.count, device: own.device.resolve(device)? });
        }
        let link = group.link.resolve(link)?;
        hosts.push(HostGroup { count: group.count, devices, link, price_per_hour: group.price_per_hour });
    }
    let cluster = Cluster { name: file.name, hosts, network: file.network.resolve(link)? };
    cluster.check()?;
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_library_is_sound() {
        assert_eq!(LIBRARY.hosts.len(), LIBRARY.devices.len());
        for device in &LIBRARY.devices {
            let cluster = short(&format!("{}:2x4", device.name)).unwrap();
            assert_eq!(cluster.devices(), 8);
            assert!(cluster.is_uniform());
        }
        for own in &LIBRARY.links {
            assert!(own.share > 0.0 && own.share <= 1.0 && own.latency_s > 0.0, "{}", own.name);
        }
    }

    #[test]
    fn short_forms() {
        assert_eq!(short("k80").unwrap().devices(), 1);
        assert_eq!(short("a100-80gb:4").unwrap().host_count(), 1);
        assert_eq!(short("a100-80gb:64").unwrap().host_count(), 8);
        assert_eq!(short("v100-16gb:2x8@10gbps").unwrap().network.name, "10gbps");
        assert_eq!(short("v100-16gb:2x8").unwrap().price_per_hour(), Some(2.0 * 24.48));
        assert!(!short("v100-16gb:1x8+p100:1x8").unwrap().is_uniform());
        for text in ["", "a100-80gb:", "a100-80gb:0x8", "a100-80gb:12", "a100-80gb:2x", "+a100-80gb:8"] {
            assert!(matches!(short(text), Err(LibraryError::Short { .. })), "{text}: {:?}", short(text));
        }
        let error = short("a1000:8").unwrap_err().to_string();
        assert!(error.contains("`a1000`") && error.contains("a100-80gb"), "{error}");
        assert!(matches!(short("k80:8@wet-string"), Err(LibraryError::Unknown { what: "link", .. })));
    }

    #[test]
    fn mistakes_of_files_have_places() {
        let good = r#"(name: "one", hosts: [(count: 1, devices: [(count: 2, device: Named("k80"))], link: Named("pcie3"))], network: Named("10gbps"))"#;
        assert_eq!(parse(good).unwrap().devices(), 2);
        let error = parse(&good.replace("network:", "net:")).unwrap_err();
        assert!(
            matches!(&error, LibraryError::Syntax { line: 1, message, .. } if message.contains("net")),
            "{error}"
        );
        let error = parse(&good.replace("count: 2", "count: 0")).unwrap_err();
        assert_eq!(error.to_string(), "hosts[0].devices[0]: `count` is 0");
        let error = parse(&good.replace("pcie3", "pcie9")).unwrap_err();
        assert!(matches!(error, LibraryError::Unknown { what: "link", .. }), "{error}");
    }
}
