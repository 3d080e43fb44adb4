//! The tables that are known: number, name, who may write, how it travels. In: a number or a name. Out: its facts.
//! Rows of a number not listed here are kept and relayed verbatim by the kind of their version.

use std::fmt;

use super::row::Table;

/// Who may write the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// Only the node its id starts with.
    Owner,
    /// Any member that is not a reader.
    Anyone,
}

/// What is known of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Its number on the wire.
    pub table: Table,
    /// Its name in messages and paths.
    pub name: &'static str,
    /// Who may write it.
    pub writer: Writer,
    /// Hot rows live in memory, are left out of repair and are published again instead.
    pub hot: bool,
    /// The lowest feature level of the cluster at which rows of this table may be written.
    pub since_level: u16,
}

macro_rules! tables {
    ($($(#[$doc:meta])* $constant:ident = $number:literal $name:literal $writer:ident $hot:literal;)*) => {
        impl Table {
            $($(#[$doc])* pub const $constant: Self = Self($number);)*
        }
        /// Every known table in the order of its number.
        pub const TABLES: &[Schema] = &[
            $(Schema { table: Table::$constant, name: $name, writer: Writer::$writer, hot: $hot, since_level: 1 },)*
        ];
    };
}

tables! {
    /// A node's own facts: name, site, addresses, incarnation, feature level.
    NODE = 1 "node" Owner false;
    /// Certificates by subject; signed, never expire.
    CERTIFICATE = 2 "certificate" Anyone false;
    /// Revocations by subject; signed, stay for ever.
    REVOKED = 3 "revoked" Anyone false;
    /// Verdicts of observers: `OBSERVER/SUBJECT`.
    WATCH = 4 "watch" Owner false;
    /// Free and total cpu, memory, disk of a node, and its ports in use; told within its site when it moved past a threshold,
    /// and so rarely that it is repaired like other rows instead of being published again and again.
    CAPACITY = 5 "capacity" Owner false;
    /// Services as wanted.
    SERVICE = 6 "service" Anyone false;
    /// Progress of updates.
    ROLLOUT = 7 "rollout" Anyone false;
    /// Wanted replica counts set apart from the specification.
    SCALE = 8 "scale" Anyone false;
    /// Replicas on a node: `NODE/INSTANCE`.
    INSTANCE = 9 "instance" Owner false;
    /// What a site tells the others about its capacity and health.
    SITE_SUMMARY = 10 "site-summary" Owner true;
    /// Routes: names and ports of the ingress.
    ROUTE = 11 "route" Anyone false;
    /// Image names and the digests they point at.
    IMAGE = 12 "image" Anyone false;
    /// Which blobs a node holds.
    BLOB_HOLDER = 13 "blob-holder" Owner false;
    /// What to mirror where.
    MIRROR_POLICY = 14 "mirror-policy" Anyone false;
    /// How far a node's mirroring is.
    MIRROR_STATE = 15 "mirror-state" Owner false;
    /// Configuration objects.
    CONFIG = 16 "config" Anyone false;
    /// Secrets, sealed for the nodes that may read them.
    SECRET = 17 "secret" Anyone false;
    /// The user's own keys and values.
    KV = 18 "kv" Anyone false;
    /// Jobs as wanted.
    JOB = 19 "job" Anyone false;
    /// Runs of jobs on a node: `NODE/JOB/TICK`.
    JOB_RUN = 20 "job-run" Owner false;
    /// Admission tokens by id; the secret is not in the row.
    TOKEN = 21 "token" Anyone false;
    /// Who did what from where: `NODE/TIME-N`.
    AUDIT = 22 "audit" Owner false;
    /// Concurrent writings that lost.
    CONFLICT = 23 "conflict" Anyone false;
    /// Claims of subnets, ports and virtual addresses; the oldest wins.
    CLAIM = 24 "claim" Anyone false;
    /// Availability and labels of nodes, set by operators.
    NODE_POLICY = 25 "node-policy" Anyone false;
    /// Digests of closed days of tombstones, one row a node.
    TOMBSTONES = 26 "tombstones" Owner false;
    /// Health of instances, more often written than the instance rows.
    HEALTH = 27 "health" Owner true;
    /// What a node offers to services: means, architecture, labels; written by its scheduler.
    NODE_FACTS = 28 "node-facts" Owner false;
    /// Keys to the nodes' APIs by id; the secret is not in the row.
    API_TOKEN = 29 "api-token" Anyone false;
}

/// The feature level this build speaks: rows of tables with a greater `since_level` wait until all members do.
pub const FEATURE_LEVEL: u16 = 1;

impl Table {
    /// What is known of this table; `None` for a number of a newer build.
    #[must_use]
    pub fn schema(self) -> Option<&'static Schema> {
        TABLES.get(usize::from(self.0).checked_sub(1)?)
    }

    /// The table with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TABLES.iter().find(|schema| schema.name == name).map(|schema| schema.table)
    }

    /// Whether its rows are left out of repair and of the disk.
    #[must_use]
    pub fn is_hot(self) -> bool {
        self.schema().is_some_and(|schema| schema.hot)
    }

    /// Whether nodes that may only read write rows of it: what they say of themselves. Rows of a kind that is not known are kept
    /// for newer builds, which know whose they may be.
    #[must_use]
    pub fn is_of_readers(self) -> bool {
        let own = [Self::NODE, Self::NODE_FACTS, Self::WATCH, Self::TOMBSTONES, Self::AUDIT, Self::CAPACITY];
        self.schema().is_none() || own.contains(&self)
    }

    /// Whether only the owner in the id may write.
    #[must_use]
    pub fn is_owned(self) -> bool {
        self.schema().is_some_and(|schema| schema.writer == Writer::Owner)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.schema() {
            Some(schema) => f.write_str(schema.name),
            None => write!(f, "table-{}", self.0),
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_names_lead_back() {
        for (at, schema) in TABLES.iter().enumerate() {
            assert_eq!(usize::from(schema.table.0), at + 1);
            assert_eq!(Table::named(schema.name), Some(schema.table));
        }
        assert_eq!(Table(999).schema(), None);
        assert_eq!(Table(0).schema(), None);
    }
}
