//! What the core needs from the world, in plain types: the engine's containers. The node supplies it over the real engine,
//! tests over a fake one.

use crate::mirror::{Policy, Report};
use crate::model::{Health, InstanceRow, NodeFacts};
use crate::service::{Protocol, Service};
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use thiserror::Error;

/// The label every container of the mesh carries: the instance's id.
pub const LABEL_INSTANCE: &str = "shoal.instance";
/// The label with the service's name.
pub const LABEL_SERVICE: &str = "shoal.service";
/// The label with the node that made the container; a node adopts only its own.
pub const LABEL_NODE: &str = "shoal.node";
/// The label with the ports that an instance without a health check must listen on before it counts as working:
/// `8000/tcp,53/udp`.
pub const LABEL_LISTEN: &str = "shoal.listen";

/// What the engine sees of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Its image is being fetched.
    Preparing,
    /// It is being made.
    Starting,
    /// It runs.
    Running {
        /// The container's id.
        container: String,
        /// What its health check says.
        health: Health,
        /// Its addresses in the mesh.
        addresses: Vec<IpAddr>,
    },
    /// Its image cannot be had here, for this reason.
    NoImage(String),
    /// It ended, could not be started, or is gone.
    Ended {
        /// The exit code, when there is one.
        code: Option<i32>,
        /// Why, when there is more to say than the code.
        message: String,
    },
}

/// What becomes of one instance: everything the engine needs, nothing of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The container's name, `web.1.ID`.
    pub name: String,
    /// Its labels, the mesh's included.
    pub labels: BTreeMap<String, String>,
    /// The instance.
    pub instance: InstanceRow,
    /// The service it belongs to.
    pub service: Service,
    /// The node it runs on.
    pub node: NodeFacts,
}

impl Wish {
    /// Builds the wish for an instance.
    #[must_use]
    pub fn new(instance: InstanceRow, service: Service, node: NodeFacts) -> Self {
        let mut labels = service.spec.template.labels.clone();
        labels.insert(LABEL_INSTANCE.to_owned(), instance.id.clone());
        labels.insert(LABEL_SERVICE.to_owned(), instance.service.clone());
        labels.insert(LABEL_NODE.to_owned(), instance.node.clone());
        let ports: Vec<String> =
            service.spec.ports.iter().map(|port| format!("{}/{}", port.target, port.protocol.name())).collect();
        if !ports.is_empty() {
            labels.insert(LABEL_LISTEN.to_owned(), ports.join(","));
        }
        let name = format!("{}.{}", instance.slot.task_name(&instance.service), instance.id);
        Self { name, labels, instance, service, node }
    }
}

/// What a host has that services may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stock {
    /// Digests of what names point at in its store.
    pub images: Vec<String>,
    /// Its networks.
    pub networks: Vec<String>,
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogWish {
    /// At most this many, the last ones.
    pub tail: usize,
    /// None from before this time, in nanoseconds since 1970.
    pub since: Option<u64>,
    /// Each begins with its time and a space.
    pub times: bool,
}

/// What the engine could not do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// The network between containers as this node should have it: everything, every time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Where peers reach this node.
    pub underlay: Ipv4Addr,
    /// The network's number.
    pub vni: u32,
    /// The other nodes: their containers' addresses, their IPv6 addresses, and where the nodes are reached.
    pub peers: BTreeMap<Ipv4Net, (Ipv6Net, Ipv4Addr)>,
    /// Published port → address and port of the instances that take new connections.
    pub ports: BTreeMap<(u16, Protocol), BTreeSet<(Ipv4Addr, u16)>>,
    /// Names that containers of the mesh resolve.
    pub names: BTreeMap<String, Vec<IpAddr>>,
}

/// Reads a part of a blob from whoever holds it: digest, offset in bytes, length in bytes.
pub type ReadPart<'a> = &'a dyn Fn(&str, u64, u64) -> Result<Vec<u8>, String>;

/// Containers of this host. Every call may block; the node makes them on a pool of threads.
pub trait Containers: Send + Sync + 'static {
    /// Says whether the image is here, so that only fetching shows as "Preparing".
    fn has_image(&self, image: &str) -> bool;
    /// Returns what this host has; `None` when that is not known. Cheap: asked every few seconds.
    fn stock(&self) -> Option<Stock> {
        None
    }
    /// Returns the digest that an image's registry tells for its tag now; nothing is fetched.
    fn resolve(&self, image: &str) -> Result<String, EngineError> {
        Err(EngineError(format!("{image}: this node asks no registry")))
    }
    /// Fetches an image from whoever has it.
    fn pull(&self, image: &str) -> Result<(), EngineError>;
    /// Makes and starts a container; the image is here. Returns the container's id.
    fn start(&self, wish: &Wish) -> Result<String, EngineError>;
    /// Sends the stop signal, then SIGKILL after the grace. Succeeds when it is not running.
    fn stop(&self, container: &str, grace_ms: u64) -> Result<(), EngineError>;
    /// Removes a container that does not run, with its log. Succeeds when there is none.
    fn remove(&self, container: &str) -> Result<(), EngineError>;
    /// Returns the containers with [`LABEL_NODE`] equal to `node`: instance id, container id, what is seen.
    fn list(&self, node: &str) -> Result<Vec<(String, String, Observed)>, EngineError>;
    /// Returns what a container wrote, oldest first.
    fn logs(&self, container: &str, wish: LogWish) -> Result<Vec<String>, EngineError>;
    /// Makes the network that this node's containers of the mesh join, or finds it made; of `candidates` the first subnet that
    /// this host can have, with the IPv6 subnet that goes with it. Returns its subnet and when it was made (ms since 1970); `None` when this host can have none.
    fn claim(&self, _candidates: &[(Ipv4Net, Ipv6Net)]) -> Result<Option<(Ipv4Net, u64)>, EngineError> {
        Ok(None)
    }
    /// Makes the ways to other nodes, the published ports and the names so. Only differences touch the kernel.
    fn route(&self, _traffic: &Traffic) -> Result<(), EngineError> {
        Ok(())
    }
    /// Serves names on this node, also before its first container; started again when it has died. Asked every few seconds; cheap.
    fn tend(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Serves names as long as there are containers: the node's process ends.
    fn rest(&self) {}
    /// Removes the network, its ways and its ports: the node leaves.
    fn unroute(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// Returns the descriptor (JSON) that an image's name points at here; `None` when it is not here.
    fn holds(&self, _image: &str) -> Option<String> {
        None
    }
    /// Returns a part of a blob, at most `bytes` long.
    fn blob(&self, digest: &str, _offset: u64, _bytes: u64) -> Result<Vec<u8>, EngineError> {
        Err(EngineError(format!("no blob {digest}")))
    }
    /// Makes the tags of one repository equal to those of another, once. What has arrived before a failure is not sent again.
    fn mirror(&self, policy: &Policy) -> Result<Report, EngineError> {
        Err(EngineError(format!("{}: this node cannot copy images", policy.name)))
    }
    /// Fetches what the descriptor `target` (JSON) needs by `read`, verifies it and names it `image`. What has arrived before a
    /// failure stays for the next attempt.
    fn fetch(&self, image: &str, _target: &str, _read: ReadPart<'_>) -> Result<(), EngineError> {
        Err(EngineError(format!("{image} cannot be kept here")))
    }
}
