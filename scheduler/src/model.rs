//! The rows of the replicated table that the scheduler reads and writes, and what it knows of nodes. Plain data with a JSON
//! form (version 1 of `service`, `instance`, `rollout`, `node-policy`, `node-facts`); no behaviour beyond names and order.

use crate::service::{Amount, ServiceSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A node's id: the text form of its peer id.
pub type NodeId = String;
/// Milliseconds of the node's clock; only differences between readings of one node mean anything.
pub type Ms = u64;

/// Table of [`ServiceRow`], shared, keyed by name.
pub const SERVICES: &str = "service";
/// Table of [`InstanceRow`], owned by the node that runs the instance, keyed by instance id.
pub const INSTANCES: &str = "instance";
/// Table of [`RolloutRow`], shared, keyed by service name.
pub const ROLLOUTS: &str = "rollout";
/// Table of [`NodePolicy`], shared, keyed by node id.
pub const NODE_POLICIES: &str = "node-policy";
/// Table of [`NodeFacts`], owned, keyed by node id.
pub const NODES: &str = "node-facts";

/// The desired state of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Format version, 1.
    pub v: u32,
    /// A random id; a service that is removed and made again has another one.
    pub id: String,
    /// Counts the changes of the spec.
    pub generation: u64,
    /// What is wanted.
    pub spec: ServiceSpec,
    /// What was wanted before the last change, for the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Box<ServiceSpec>>,
    /// Whether the last change was the way back to the spec before: whoever begins its update names it so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
    /// When it was made, in ms since 1970 at the node that took the request.
    pub created_ms: Ms,
    /// When it was changed last.
    pub updated_ms: Ms,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// A numbered place in a replicated service, or a node's place in a global one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Slot 0 to n−1.
    Number(u32),
    /// The one on this node.
    Node(NodeId),
}

impl Slot {
    /// Returns the name of the slot's task as docker writes it: `web.1` for slot 0, `web.NODE` for a global one.
    #[must_use]
    pub fn task_name(&self, service: &str) -> String {
        match self {
            Self::Number(number) => format!("{service}.{}", u64::from(*number) + 1),
            Self::Node(node) => format!("{service}.{node}"),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Node(node) => write!(f, "@{node}"),
        }
    }
}

impl FromStr for Slot {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix('@') {
            Some(node) if !node.is_empty() => Ok(Self::Node(node.to_owned())),
            _ => text.parse().map(Self::Number).map_err(|_| format!("{text:?} is not a slot")),
        }
    }
}

impl Serialize for Slot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What one instance is doing. Later states never go back to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Admitted by its node; nothing started yet.
    Reserved,
    /// Its image is being fetched.
    Preparing,
    /// Its container is being made.
    Starting,
    /// Its container runs.
    Running,
    /// It was told to stop and gets no new connections.
    Stopping,
    /// It was stopped because it was no longer wanted.
    Shutdown,
    /// It ended by itself with exit code 0.
    Complete,
    /// It ended by itself with another code, was unhealthy, or could not be started.
    Failed,
}

impl Phase {
    /// Says whether the instance has ended.
    #[must_use]
    pub fn ended(self) -> bool {
        matches!(self, Self::Shutdown | Self::Complete | Self::Failed)
    }

    /// Returns the word that docker's tables use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Reserved => "Assigned",
            Self::Preparing => "Preparing",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Stopping => "Shutting down",
            Self::Shutdown => "Shutdown",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
        }
    }
}

/// What the engine's health check says of a running instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// There is no check.
    #[default]
    None,
    /// The check has not passed yet.
    Starting,
    /// The check passes.
    Healthy,
    /// The check failed as often as the spec allows.
    Unhealthy,
}

/// One instance of a service on one node, written by that node alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    /// Format version, 1.
    pub v: u32,
    /// The reservation's id; the smaller of two is the older.
    pub id: String,
    /// The node that runs it and owns this row.
    pub node: NodeId,
    /// The service's name.
    pub service: String,
    /// The service's random id.
    pub service_id: String,
    /// The place it fills.
    pub slot: Slot,
    /// The hash of the template it was made from.
    pub revision: String,
    /// The service's generation when it was reserved; failures before an update are told from those after by it.
    #[serde(default)]
    pub generation: u64,
    /// The image reference as written in the template.
    pub image: String,
    /// What is set aside for it.
    pub reserved: Amount,
    /// Ports of the host it occupies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<crate::service::Port>,
    /// What it does.
    pub phase: Phase,
    /// What its health check says.
    #[serde(default)]
    pub health: Health,
    /// Failures of this slot in a row before this instance.
    #[serde(default)]
    pub attempt: u32,
    /// The container's id, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Its addresses in the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,
    /// Exit code, once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed or was stopped.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether it failed because its node could not get the image.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_image: bool,
    /// Milliseconds it had run when it ended.
    #[serde(default)]
    pub ran_ms: Ms,
    /// When it was admitted (the node's clock).
    pub created_ms: Ms,
    /// When `phase` changed last (the node's clock).
    pub changed_ms: Ms,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl InstanceRow {
    /// Says whether it does its work: running, and its check, if any, passes.
    #[must_use]
    pub fn works(&self) -> bool {
        self.phase == Phase::Running && matches!(self.health, Health::None | Health::Healthy)
    }

    /// Orders instances of one slot and revision: the first of two survives. Working > running > starting > reserved,
    /// then the older id.
    #[must_use]
    pub fn beats(&self, other: &Self) -> bool {
        let worth = |row: &Self| match row.phase {
            _ if row.works() => 4,
            Phase::Running => 3,
            Phase::Starting => 2,
            Phase::Preparing | Phase::Reserved => 1,
            _ => 0,
        };
        (worth(self), std::cmp::Reverse(&self.id)) > (worth(other), std::cmp::Reverse(&other.id))
    }
}

/// How far an update of a service is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutRow {
    /// Format version, 1.
    pub v: u32,
    /// The service's random id.
    pub service_id: String,
    /// The revision it leads to.
    pub revision: String,
    /// The service's generation that began it.
    pub generation: u64,
    /// How far it is.
    pub state: RolloutState,
    /// Why it was paused or went back.
    #[serde(default)]
    pub message: String,
    /// When it began.
    pub started_ms: Ms,
    /// When `state` changed last.
    pub changed_ms: Ms,
}

/// The states of an update, in docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Slots are being replaced.
    Updating,
    /// Too many new instances failed; nothing is replaced until the next change.
    Paused,
    /// Every slot has the new template.
    Completed,
    /// The old template is on its way back.
    RollbackStarted,
    /// The way back failed too.
    RollbackPaused,
    /// Every slot has the old template again.
    RollbackCompleted,
}

/// What operators say about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePolicy {
    /// Format version, 1.
    pub v: u32,
    /// Whether services may run there.
    #[serde(default)]
    pub availability: Availability,
    /// Labels added by operators; they win over the node's own.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Labels of the node itself that operators took away.
    #[serde(default)]
    pub hidden_labels: Vec<String>,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// Whether services may run on a node. Later ones are stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// They may.
    #[default]
    Active,
    /// What runs stays, nothing new comes.
    Pause,
    /// What runs moves away.
    Drain,
}

impl Availability {
    /// Returns docker's word with a capital.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "Active",
            Self::Pause => "Pause",
            Self::Drain => "Drain",
        }
    }
}

/// What a node says about itself; changes rarely.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Format version, 1.
    pub v: u32,
    /// The name it was given, by default the host name.
    pub name: String,
    /// The site it stands in.
    #[serde(default)]
    pub site: String,
    /// Its own labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Operating system, `linux`.
    #[serde(default)]
    pub os: String,
    /// Architecture as images name it, `amd64`.
    #[serde(default)]
    pub arch: String,
    /// What services may reserve there.
    #[serde(default)]
    pub capacity: Amount,
    /// The version of shoal it runs.
    #[serde(default)]
    pub version: String,
    /// Where it is reached, as text.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its part of the network between containers; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayFacts>,
    /// The first digits of the digests of images it holds; not all of very many. See [`short_digest`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub images: BTreeSet<String>,
    /// The networks its engine has; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<BTreeSet<String>>,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// Digits by which nodes tell images apart: sixty-four bits among some hundreds of images.
const SHORT_DIGEST_CHARS: usize = 16;

/// Returns the digits of a digest that [`NodeFacts::images`] holds: `sha256:0123…` becomes the first sixteen of `0123…`.
#[must_use]
pub fn short_digest(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(SHORT_DIGEST_CHARS).collect()
}

/// A node's part of the network between containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayFacts {
    /// The addresses of its containers.
    pub subnet: ipnet::Ipv4Net,
    /// Where its peers send packets for them.
    pub underlay: std::net::Ipv4Addr,
    /// When it claimed the subnet, in ms since 1970: of two claims the older stands.
    pub since_ms: Ms,
}

/// Whether a node lives, in the view of this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It answers.
    #[default]
    Alive,
    /// It has not answered lately; gets no new connections and no new instances.
    Suspect,
    /// Its neighbours agree that it does not answer.
    Down,
    /// It said good-bye.
    Left,
}

impl Liveness {
    /// Returns the word that people read.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "gone",
        }
    }
}

/// A node as this one sees it: its facts with the operators' policy applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What it says about itself.
    pub facts: NodeFacts,
    /// What operators say about it.
    pub policy: NodePolicy,
    /// Whether it lives.
    pub liveness: Liveness,
    /// Since when it has that liveness, by the local clock.
    pub since_ms: Ms,
    /// Since when it has not been alive without a break, by the local clock; what is to be replaced counts from here.
    pub silent_since_ms: Ms,
    /// Whether it was given up, started anew, and has not said since what it runs: its rows are of its former life.
    pub unheard: bool,
    /// Whether it was down a moment ago and may turn out to have started anew: nothing is sent to what it ran before.
    pub doubtful: bool,
}

impl Node {
    /// Returns a label, the operators' first.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        if let Some(value) = self.policy.labels.get(key) {
            return Some(value);
        }
        if self.policy.hidden_labels.iter().any(|hidden| hidden == key) {
            return None;
        }
        self.facts.labels.get(key).map(String::as_str)
    }

    /// Returns the node's name, or the first digits of its id while its facts have not arrived.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.facts.name.is_empty() { &self.id[..self.id.len().min(12)] } else { &self.facts.name }
    }
}

/// A request to run one instance, sent to the node that shall run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reserve {
    /// The reservation's id, which becomes the instance's.
    pub id: String,
    /// The place to fill.
    pub slot: Slot,
    /// Failures of this slot in a row so far.
    pub attempt: u32,
    /// The service as the sender knows it, so that the row need not have arrived.
    pub service: ServiceRow,
}

/// A request to stop one instance, sent to the node that runs it (stop-first updates).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The instance.
    pub id: String,
    /// Why, for its row.
    pub message: String,
    /// The service's generation as the sender knows it; 0 when it did not say.
    #[serde(default)]
    pub generation: u64,
}

/// What a target answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It will do so.
    Accepted,
    /// It will not, for this reason.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_survive_their_text_form() {
        for slot in [Slot::Number(0), Slot::Number(41), Slot::Node("12D3".to_owned())] {
            assert_eq!(slot.to_string().parse::<Slot>().unwrap(), slot);
        }
        assert!("x".parse::<Slot>().is_err());
        assert!("@".parse::<Slot>().is_err());
        assert_eq!(Slot::Number(0).task_name("web"), "web.1");
    }

    #[test]
    fn operators_labels_win() {
        let mut node = Node::default();
        node.facts.labels.insert("disk".to_owned(), "hdd".to_owned());
        assert_eq!(node.label("disk"), Some("hdd"));
        node.policy.labels.insert("disk".to_owned(), "ssd".to_owned());
        assert_eq!(node.label("disk"), Some("ssd"));
        node.policy.labels.clear();
        node.policy.hidden_labels.push("disk".to_owned());
        assert_eq!(node.label("disk"), None);
    }
}
