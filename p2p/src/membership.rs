//! Who is in the cluster and who answers. In: heartbeats, verdict rows, time. Out: members with their liveness.

pub mod brake;
pub mod ring;
pub mod view;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// What this node believes of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Liveness {
    /// It answers its observers.
    Alive,
    /// At least one observer misses it: route no new traffic to it.
    Suspect,
    /// Three of its four observers (or all live ones) miss it: replace it after `lost_after`.
    Down,
    /// It left or was evicted and will not come back under this key.
    Left,
}

/// What a node may do, written into its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads the table, writes no shared row, admits nobody.
    Reader,
    /// Writes, places, admits, evicts and revokes.
    #[default]
    Member,
    /// A member that may also admit operators.
    Operator,
}

/// One member as this node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique by convention, not by force.
    pub name: String,
    /// Its site.
    pub site: String,
    /// What it may do.
    pub role: Role,
    /// What is believed of it here.
    pub liveness: Liveness,
    /// Where it listens, as multiaddresses, the best first.
    pub addresses: Vec<String>,
    /// Labels it was started with; operators' labels are rows of `node-policy`.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Counts its starts.
    pub epoch: u64,
    /// The version of the program it runs.
    pub version: String,
    /// The feature level it speaks.
    pub feature_level: u16,
    /// Whether this is the node that was asked.
    pub is_self: bool,
    /// Whether a connection stands right now.
    pub connected: bool,
    /// Round trip in microseconds, when measured from here.
    pub rtt_us: Option<u64>,
    /// Its wall clock minus ours in ms, when measured from here.
    pub clock_offset_ms: Option<i64>,
    /// Since when (ms since 1970 by this node's clock) the liveness is what it is.
    pub since_ms: u64,
}
