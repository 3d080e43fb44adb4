//! What a core shows to whoever asks: members, roles, rows, alarms. In: a question. Out: the answer; nothing is changed by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Node, Setup};
use crate::id::NodeId;
use crate::membership::view::{Facts, View};
use crate::membership::{Member, Role};
use crate::mesh::Alarm;
use crate::table::{Key, Replica, Row, Table, codec};

impl Node {
    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.setup.id
    }

    /// What it was made of.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Its copy of the table.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Its view of the members.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Since when the mass-failure brake holds.
    pub fn brake(&mut self, wall_ms: u64) -> Option<u64> {
        self.view.brake(wall_ms)
    }

    /// Peers with a connection on which both have shown their certificates.
    pub fn linked(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.links.iter().filter(|(_, link)| link.admitted).map(|(peer, _)| *peer)
    }

    /// Whether this peer has shown a certificate of this cluster on the standing connection.
    #[must_use]
    pub fn is_linked(&self, peer: NodeId) -> bool {
        self.links.get(&peer).is_some_and(|link| link.admitted)
    }

    /// For how long nothing has come on the standing connection of a peer; 0 without one.
    #[must_use]
    pub fn silent_for(&self, now: super::Now, peer: NodeId) -> u64 {
        self.links.get(&peer).map_or(0, |link| now.ms.saturating_sub(link.heard_ms))
    }

    /// How often a member has started, as far as is known here: by its row, or by what it said on the standing connection.
    #[must_use]
    pub fn epoch_of_member(&self, node: NodeId) -> u64 {
        let row = self.view.peers().get(&node).map_or(0, |peer| peer.incarnation.0);
        self.links.get(&node).map_or(row, |link| row.max(link.epoch))
    }

    /// The alarms, oldest first.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter()
    }

    /// Counters by name.
    #[must_use]
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    /// The public key of a member, from its certificate.
    #[must_use]
    pub fn public_key(&self, node: NodeId) -> Option<[u8; 32]> {
        self.certificate(node).map(|certificate| certificate.subject)
    }

    /// What a member may do; no more than read while its certificate is not known.
    #[must_use]
    pub fn role(&self, node: NodeId) -> Role {
        self.roles.get(&node).copied().unwrap_or(Role::Reader)
    }

    /// Every node whose certificate is known and that was not evicted.
    pub fn certified(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.roles.keys().copied().filter(|node| !self.replica.is_evicted(*node))
    }

    /// The live row under a key; owned rows of nodes that are down are there too.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Row> {
        self.replica.rows().get(key).filter(|row| !row.deleted)
    }

    /// Live rows of a table whose id starts with `prefix`, in the order of keys; without those of nodes that are down, unless
    /// `include_down`.
    #[must_use]
    pub fn rows(&self, table: Table, prefix: &str, include_down: bool) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .replica
            .rows()
            .table(table)
            .filter(|(_, head)| !head.deleted && head.id.starts_with(prefix))
            .filter(|(_, head)| match head.version {
                codec::VersionHead::Owned(owner, ..) if !include_down && table != Table::NODE => {
                    owner == self.setup.id || self.view.is_up(owner)
                }
                _ => true,
            })
            .map(|(_, head)| head.to_row())
            .collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows
    }

    pub(super) fn own_rows(&self, table: Table) -> Vec<Row> {
        let me = self.setup.id;
        let mine = |head: &codec::Head<'_>| matches!(head.version, codec::VersionHead::Owned(owner, ..) if owner == me);
        self.replica.rows().table(table).filter(|(_, head)| mine(head)).map(|(_, head)| head.to_row()).collect()
    }

    /// Every member, in the order of ids.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.view
            .peers()
            .iter()
            .map(|(id, peer)| {
                let link = self.links.get(id);
                Member {
                    id: *id,
                    name: peer.facts.name.clone(),
                    site: peer.facts.site.clone(),
                    role: peer.role,
                    liveness: peer.liveness,
                    addresses: peer.facts.addresses.clone(),
                    labels: peer.facts.labels.clone(),
                    epoch: self.epoch_of_member(*id),
                    version: peer.facts.version.clone(),
                    feature_level: peer.facts.level,
                    is_self: *id == self.setup.id,
                    connected: link.is_some_and(|link| link.admitted),
                    rtt_us: link.and_then(|link| link.rtt_ms).map(|ms| ms * 1000),
                    clock_offset_ms: link.and_then(|link| link.offset_ms),
                    since_ms: peer.since_ms,
                }
            })
            .collect()
    }

    /// This node's own addresses, facts of others by id.
    #[must_use]
    pub fn facts(&self, node: NodeId) -> Option<Arc<Facts>> {
        self.view.peers().get(&node).map(|peer| Arc::clone(&peer.facts))
    }
}
