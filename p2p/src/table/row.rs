//! A row: key, version, flags, body. In: what a writer means. Out: what every node keeps and sends. Never merges.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Longest id of a key in bytes: a name or a path of names, never content.
pub const KEY_ID_MAX: usize = 512;
/// Longest name of a site in bytes.
pub const SITE_MAX: usize = 64;
/// Largest body in bytes: a service with many secrets by name fits; content belongs in blobs.
pub const BODY_MAX: usize = 256 * 1024;
/// Largest body of a conflict row: a whole packed row with the largest body, its key, site and version included. A value
/// that lost is kept whole, however large it is.
pub const CONFLICT_BODY_MAX: usize = BODY_MAX + 1_024;
/// How many ancestors a shared version names; beyond it a false conflict, never a loss.
pub const ANCESTORS_MAX: usize = 16;

/// Where a row is replicated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Scope {
    /// Every node of the cluster.
    #[default]
    Global,
    /// The nodes of this site only.
    Site(String),
}

/// The kind of a row, by its number on the wire; `table::schema` says what is known of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Table(pub u16);

/// What a row is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Where it is replicated.
    pub scope: Scope,
    /// Which kind of row it is.
    pub table: Table,
    /// Its name within the table; in owned tables `NODE` or `NODE/…` with the owner's id in front.
    pub id: String,
}

/// Which writing of a row this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// One writer: the greater (epoch, seq) wins.
    Owned {
        /// The only node that may write the row.
        owner: NodeId,
        /// Counts the owner's starts.
        epoch: u64,
        /// Counts the owner's writes within the epoch.
        seq: u64,
    },
    /// Any writer: descends from its ancestors; concurrent versions leave a conflict row.
    Shared {
        /// One more than the generation written over.
        generation: u64,
        /// The writer's wall clock in ms since 1970; breaks ties, refuses nothing.
        time_ms: u64,
        /// Who wrote it.
        writer: NodeId,
        /// Random name of this writing.
        id: u64,
        /// The writings it replaced, newest first, at most [`ANCESTORS_MAX`].
        ancestors: Vec<u64>,
    },
}

/// The content of a row: opaque to the table, kept verbatim by every node that relays it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Body(pub Vec<u8>);

/// One row as kept and sent. A deleted row stays as a tombstone until its day bucket is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it is found by.
    pub key: Key,
    /// Which writing this is.
    pub version: Version,
    /// Whether this writing is a deletion.
    pub deleted: bool,
    /// The content; of a tombstone, the day it was written (see `table::tombstone`).
    pub body: Body,
}

impl Table {
    /// The largest body of this table's rows.
    #[must_use]
    pub fn body_max(self) -> usize {
        if self == Self::CONFLICT { CONFLICT_BODY_MAX } else { BODY_MAX }
    }
}

impl Key {
    /// A key replicated everywhere.
    #[must_use]
    pub fn global(table: Table, id: impl Into<String>) -> Self {
        Self { scope: Scope::Global, table, id: id.into() }
    }

    /// A key replicated within one site.
    #[must_use]
    pub fn site(site: impl Into<String>, table: Table, id: impl Into<String>) -> Self {
        Self { scope: Scope::Site(site.into()), table, id: id.into() }
    }

    /// A global key of an owned table: `OWNER` alone, or `OWNER/rest`.
    #[must_use]
    pub fn owned(table: Table, owner: NodeId, rest: &str) -> Self {
        let id = if rest.is_empty() { owner.to_string() } else { format!("{owner}/{rest}") };
        Self { scope: Scope::Global, table, id }
    }

    /// The owner an owned table's key names, if its id starts with one.
    #[must_use]
    pub fn owner(&self) -> Option<NodeId> {
        let head = self.id.split('/').next().unwrap_or_default();
        head.parse().ok()
    }

    /// What follows `OWNER/` in an owned table's key; empty when the id is the owner alone.
    #[must_use]
    pub fn rest(&self) -> &str {
        self.id.split_once('/').map_or("", |(_, rest)| rest)
    }
}

impl Version {
    /// Who wrote this version.
    #[must_use]
    pub fn writer(&self) -> NodeId {
        match self {
            Self::Owned { owner, .. } => *owner,
            Self::Shared { writer, .. } => *writer,
        }
    }
}

impl Body {
    /// The body that holds `value` as JSON.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON (a map with keys that are no strings).
    pub fn json<T: Serialize>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(Self)
    }

    /// Reads the body as JSON. To survive newer writers, keep unknown fields with `#[serde(flatten)]` when writing back.
    ///
    /// # Errors
    /// When the bytes are not that JSON; tell [`crate::Mesh::quarantine`] so that `mesh status` names the row.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Scope::Global => write!(f, "{}/{}", self.table, self.id),
            Scope::Site(site) => write!(f, "{}@{site}/{}", self.table, self.id),
        }
    }
}
