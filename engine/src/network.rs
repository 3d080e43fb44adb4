//! Networks of one host: records, attachments, published ports. In: what the user asked. Out: records on disk and, through
//! `host::attach`, links, addresses and firewall elements. No daemon: every process that needs a network makes it so.
//!
//! A network is a folder `data/networks/NAME` with `network.json`; its name is unique because a folder is. What does not
//! survive a reboot (leases, members, the resolver) is below `run/networks/ID`.

pub mod dns;
pub(crate) mod ipam;
pub(crate) mod names;
pub mod plan;
pub mod publish;
mod record;
pub mod resolv;

pub use crate::host::attach::{Reservation, inside, loopback, reserve, reserve_but};
pub use crate::host::resolver::main as resolver_main;
pub use publish::{PortError, PortMapping, Protocol, PublishedPort};
pub use record::{Create, Driver, Network, Subnet};

use crate::roots::Roots;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// The network that containers join when they name none.
pub const DEFAULT: &str = "bridge";

/// The networks of one pair of roots.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) containers: PathBuf,
    /// Moves the start of the search for subnets: 0 for the system-wide roots.
    pub(crate) salt: u64,
}

/// Why an operation on networks failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No network has this name or id.
    #[error("network {name} not found")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The prefix fits several ids.
    #[error("network id {name} is ambiguous: {count} networks begin with it")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many fit.
        count: usize,
    },
    /// The name is taken.
    #[error("network with name {name} already exists")]
    Exists {
        /// The name.
        name: String,
    },
    /// The request contradicts itself or what exists.
    #[error("{reason}")]
    Invalid {
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Containers are still attached.
    #[error("network {name} has active endpoints: {containers}; stop or disconnect them first")]
    InUse {
        /// The network.
        name: String,
        /// Names of the containers.
        containers: String,
    },
    /// The predefined network cannot be removed.
    #[error("{name} is a pre-defined network and cannot be removed")]
    Predefined {
        /// The network.
        name: String,
    },
    /// No subnet is free.
    #[error("no free subnet for network {name}: every candidate overlaps a route of this host; give one with --subnet")]
    NoSubnet {
        /// The network.
        name: String,
    },
    /// The wanted address is held by another container.
    #[error("address {address} is already in use on network {network} by container {holder}")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// The network.
        network: String,
        /// The container that holds it.
        holder: String,
    },
    /// The subnet is full.
    #[error("no free address left in {subnet} of network {network}")]
    Exhausted {
        /// The network.
        network: String,
        /// The subnet.
        subnet: IpNet,
    },
    /// A host port is taken by another container.
    #[error("host port {port} is already allocated by container {holder}")]
    PortTaken {
        /// `ADDRESS:PORT/PROTOCOL`.
        port: String,
        /// The container that holds it, or "another program's rule".
        holder: String,
    },
    /// A host port is taken by a program of the host.
    #[error("host port {port} is in use by a program of this host")]
    PortBusy {
        /// `ADDRESS:PORT/PROTOCOL`.
        port: String,
    },
    /// No free port in the range.
    #[error("no free host port in {low}-{high} for {protocol}")]
    NoFreePort {
        /// The lowest candidate.
        low: u16,
        /// The highest candidate.
        high: u16,
        /// The protocol.
        protocol: Protocol,
    },
    /// The kernel or the file system refused.
    #[error("failed to {step}: {source}")]
    Io {
        /// What was tried, on what.
        step: String,
        /// The cause.
        source: io::Error,
    },
    /// A record is no record.
    #[error("{path}: {reason}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names the step that failed.
pub(crate) trait Step<T> {
    /// Wraps an I/O error with what was tried.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { step: step(), source })
    }
}

/// What `--network` asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The host's own namespace.
    Host,
    /// A namespace with nothing but loopback.
    None,
    /// The namespace of another container.
    Container(String),
    /// One or more networks, the default one included.
    Networks(Vec<String>),
}

impl Mode {
    /// Reads one or more values of `--network`.
    pub fn parse(values: &[String]) -> Result<Self, Error> {
        let invalid = |reason: String| Err(Error::Invalid { reason });
        let mut names = Vec::new();
        for value in values {
            match value.as_str() {
                "host" | "none" if values.len() > 1 => {
                    return invalid(format!("network {value} cannot be combined with other networks"));
                }
                "host" => return Ok(Self::Host),
                "none" => return Ok(Self::None),
                "" => return invalid("--network needs a name".to_owned()),
                "default" => names.push(DEFAULT.to_owned()),
                name => match name.strip_prefix("container:") {
                    Some("") => return invalid("--network container: needs a container's name or id".to_owned()),
                    Some(_) if values.len() > 1 => {
                        return invalid(
                            "another container's network cannot be combined with other networks".to_owned(),
                        );
                    }
                    Some(container) => return Ok(Self::Container(container.to_owned())),
                    None if names.iter().any(|other| other == name) => {
                        return invalid(format!("network {name} is given twice"));
                    }
                    None => names.push(name.to_owned()),
                },
            }
        }
        if names.is_empty() {
            names.push(DEFAULT.to_owned());
        }
        Ok(Self::Networks(names))
    }
}

/// What one container wants of one network.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// The container's full id.
    pub container: String,
    /// The container's name: resolvable on the network.
    pub name: String,
    /// The container's host name, where it differs: not resolvable, only recorded.
    pub hostname: String,
    /// The namespace: `/proc/PID/ns/net` or a bind mount of one.
    pub netns: PathBuf,
    /// The interface's name inside, or the first free `ethN`.
    pub interface: Option<String>,
    /// `--ip`.
    pub ip: Option<Ipv4Addr>,
    /// `--ip6`.
    pub ip6: Option<Ipv6Addr>,
    /// `--mac-address`.
    pub mac: Option<[u8; 6]>,
    /// `--network-alias`.
    pub aliases: Vec<String>,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// Whether the default route goes through this network: true for the first one.
    pub default_route: bool,
    /// What `-p` and `-P` asked for: on the first network only.
    pub ports: Vec<PortMapping>,
}

/// One container on one network, as it is: kept in the container's record, and enough to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Format version.
    pub version: u32,
    /// The container's full id.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// The network's driver.
    pub driver: Driver,
    /// The interface's name inside.
    pub interface: String,
    /// The host's end of the link; empty for macvlan.
    pub host_interface: String,
    /// The hardware address.
    pub mac: String,
    /// Addresses with their prefix lengths, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The gateways that the container's default routes use.
    pub gateways: Vec<IpAddr>,
    /// `--dns`: the servers that the network's resolver asks for this container instead of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// What the container's `resolv.conf` must name: the resolver of the network. Empty on the default network, whose
    /// containers get the host's servers.
    pub nameservers: Vec<IpAddr>,
    /// Further names on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The published ports.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// What the user should know, as full sentences. Not kept.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// What a newer shoal wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// The version of [`Attachment`] and of a member's file.
pub const ATTACHMENT_VERSION: u32 = 1;

impl Attachment {
    /// Returns the first IPv4 address.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|net| match net.addr() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Returns the first IPv6 address.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|net| match net.addr() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }
}

impl Networks {
    /// Names the networks below these roots; nothing is read or made yet.
    pub fn new(roots: &Roots) -> Self {
        let salt =
            if roots.data == Path::new("/var/lib/shoal") { 0 } else { plan::spread(&[&roots.data.to_string_lossy()]) };
        Self {
            data: roots.data.join("networks"),
            run: roots.run.join("networks"),
            containers: roots.data.join("containers"),
            salt,
        }
    }

    /// Returns the run-time folder of a network: leases, members, the resolver.
    pub(crate) fn run_folder(&self, network_id: &str) -> PathBuf {
        self.run.join(network_id)
    }

    pub(crate) fn leases(&self, network_id: &str) -> ipam::Leases {
        ipam::Leases::new(&self.run_folder(network_id), &self.containers)
    }

    /// Returns the attachments of a network's present members, by container.
    pub fn members(&self, network: &Network) -> Result<Vec<Member>, Error> {
        record::members(&self.run_folder(&network.id))
    }
}

/// The file of a network's names from elsewhere, in its run-time folder.
pub(crate) const FURTHER: &str = "names.json";
/// The version of that file.
pub(crate) const FURTHER_VERSION: u32 = 1;

/// Names from elsewhere as the file holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Further {
    pub(crate) version: u32,
    pub(crate) names: HashMap<String, Vec<IpAddr>>,
}

impl Networks {
    /// Makes a network's bridge and resolver present and keeps them although no container is connected, until
    /// [`Networks::let_go`]. Repeatable and cheap: a resolver that has died is started again.
    pub fn keep(&self, network: &Network) -> Result<(), Error> {
        let folder = self.run_folder(&network.id);
        // It cannot be removed meanwhile.
        let _held = self.hold(network)?;
        crate::host::attach::make_present(network)?;
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(folder.join("members"))?;
            let kept = folder.join(crate::host::resolver::KEPT);
            if kept.exists() { Ok(()) } else { std::fs::write(kept, b"") }
        };
        write().step(|| format!("keep network {}", network.name))?;
        if network.has_names() { crate::host::resolver::ensure(network, &folder) } else { Ok(()) }
    }

    /// Lets a network's resolver end with its last container again.
    pub fn let_go(&self, network: &Network) -> Result<(), Error> {
        let kept = self.run_folder(&network.id).join(crate::host::resolver::KEPT);
        ipam::absent(std::fs::remove_file(&kept)).map(|_| ()).step(|| format!("remove {}", kept.display()))
    }

    /// Says whether somebody keeps a network although no container is connected.
    pub fn is_kept(&self, network: &Network) -> bool {
        self.run_folder(&network.id).join(crate::host::resolver::KEPT).exists()
    }

    /// Replaces the names that a network's resolver knows beside its containers': the services of a mesh. In force at the next
    /// query. A name without addresses exists and has none.
    pub fn set_names(&self, network: &Network, names: &BTreeMap<String, Vec<IpAddr>>) -> Result<(), Error> {
        let folder = self.run_folder(&network.id);
        let further = Further { version: FURTHER_VERSION, names: names.clone().into_iter().collect() };
        let path = folder.join(FURTHER);
        let draft = crate::file::draft(&path);
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(&draft, serde_json::to_vec(&further)?)?;
            std::fs::rename(&draft, &path)
        };
        write().step(|| format!("write the names of network {}", network.name))
    }
}

/// A container on a network as the resolver and `network inspect` see it: the file `members/CONTAINER.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The container's name.
    pub name: String,
    /// What it holds.
    #[serde(flatten)]
    pub attachment: Attachment,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_contradictions_refused() {
        let mode = |values: &[&str]| Mode::parse(&values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
        assert_eq!(mode(&[]).expect("the default"), Mode::Networks(vec!["bridge".to_owned()]));
        assert_eq!(mode(&["host"]).expect("host"), Mode::Host);
        assert_eq!(mode(&["container:web"]).expect("a container"), Mode::Container("web".to_owned()));
        assert_eq!(mode(&["a", "b"]).expect("two"), Mode::Networks(vec!["a".to_owned(), "b".to_owned()]));
        for wrong in [&["host", "a"][..], &["a", "a"], &["container:"], &["a", "container:b"], &[""]] {
            assert!(mode(wrong).is_err(), "{wrong:?}");
        }
    }
}
