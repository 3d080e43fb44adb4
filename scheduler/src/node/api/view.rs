//! What the API answers, as plain types that its clients read back.

use crate::mirror::{Policy, State};
use crate::model::{InstanceRow, Liveness, RolloutRow, ServiceRow};
use crate::node::means::Means;
use crate::service::Amount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A service with what runs of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its row.
    pub service: ServiceRow,
    /// The hash of its template.
    pub revision: String,
    /// Instances that work.
    pub running: usize,
    /// Instances wanted.
    pub wanted: usize,
    /// Slots whose working instance has the wanted template.
    pub current: usize,
    /// How far the last update is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rollout: Option<RolloutRow>,
    /// Why a slot could not be placed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub no_fit: Option<String>,
    /// What is promised while a mesh is cut.
    pub guarantee: String,
    /// How safe the write is that this answers: `replicated` or `local`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durability: Option<String>,
    /// What the node that took the change wants people to know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// Published ports that lead to another service, which is older, and to which.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub lost_ports: Vec<String>,
}

/// An image's name with what its tag means now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// `NAME:TAG@DIGEST`, or the name as it was asked for when nobody could say what its tag means.
    pub image: String,
    /// Why it has no digest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warning: Option<String>,
}

impl ServiceView {
    /// Says whether everything wanted runs with the wanted template and nothing else does.
    #[must_use]
    pub fn converged(&self) -> bool {
        self.current == self.wanted && self.running == self.wanted
    }
}

/// A standing mirror with how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorView {
    /// What is wanted.
    pub policy: Policy,
    /// The name of the node that ran it last or runs it now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node_name: Option<String>,
    /// What that node said last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<State>,
    /// How safe the write is that this answers: `replicated` or `local`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durability: Option<String>,
}

/// An instance with the names people know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its row.
    pub instance: InstanceRow,
    /// `web.1`.
    pub name: String,
    /// Its node's name.
    pub node_name: String,
    /// Whether its node lives.
    pub node_liveness: Liveness,
    /// Whether it is wanted: not stopped on purpose, its node not given up.
    pub desired: bool,
    /// Milliseconds since its state changed, by the clock of the node that was asked.
    pub age_ms: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Whether it lives.
    pub liveness: Liveness,
    /// `active`, `pause` or `drain`.
    pub availability: crate::model::Availability,
    /// Its labels, the operators' applied.
    pub labels: BTreeMap<String, String>,
    /// Its architecture.
    pub arch: String,
    /// What services may reserve there.
    pub capacity: Amount,
    /// What they have reserved.
    pub reserved: Amount,
    /// Instances that have not ended.
    pub instances: usize,
    /// The version of shoal it runs.
    pub version: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Whether it is the node that was asked.
    pub is_self: bool,
    /// What its host has free, told within its site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub means: Option<Means>,
}

/// A member, with what its host has free.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberView {
    /// The member.
    #[serde(flatten)]
    pub member: p2p::membership::Member,
    /// What its host has free, told within its site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub means: Option<Means>,
}

/// A change of a node that operators ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePatch {
    /// The new availability.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub availability: Option<crate::model::Availability>,
    /// Labels to add.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub label_add: BTreeMap<String, String>,
    /// Labels to remove.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub label_rm: Vec<String>,
}

/// A token that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenAsk {
    /// Milliseconds it is good for; for ever when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl_ms: Option<u64>,
    /// Joins it is good for; any number when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uses: Option<u32>,
    /// What the joiner may do; a member when absent.
    #[serde(default)]
    pub role: p2p::membership::Role,
}

/// A wish for a token to the API over TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenAsk {
    /// What its holder may do; look when absent.
    #[serde(default)]
    pub role: super::Role,
    /// Milliseconds it is good for; for ever when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ttl_ms: Option<u64>,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMade {
    /// Its text, with the secret; shown this once.
    pub token: String,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvView {
    /// The key.
    pub key: String,
    /// The value when it is UTF-8, else absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<String>,
    /// The value's bytes.
    pub bytes: usize,
    /// Counts the writes of the key.
    pub generation: u64,
    /// The node that wrote it.
    pub writer: String,
    /// How safe the write is that this answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durability: Option<String>,
}

/// Whether a node serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// `ok`.
    pub status: String,
}

/// What became of a write that answers nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What it was about.
    pub subject: String,
    /// How safe the write is, `replicated` or `local`; absent where nothing was written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub durability: Option<String>,
    /// How many rows were written, where that is not one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<usize>,
}

/// A published port with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The port outside.
    pub published: u16,
    /// `tcp` or `udp`.
    pub protocol: crate::service::Protocol,
    /// Where it goes.
    #[serde(flatten)]
    pub ingress: crate::route::table::Ingress,
}
