//! What rows of the mesh's own tables mean: certificates, revocations, node facts, verdicts, published days.
//! In: rows before and after they stand. Out: whether they may stand, and what follows from it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::{CLONE_BUMPS, EPOCH_STEP_MAX, Node, Now, Output};
use crate::admission::{Certificate, Revocation};
use crate::id::NodeId;
use crate::membership::Role;
use crate::membership::view::{Facts, read_watch};
use crate::table::row::Version;
use crate::table::{Key, Refusal, Row, Table, codec, rows, tombstone};

/// For how long a dropped day's tombstones are not taken back from nodes that have not dropped it yet.
const DROPPED_DEAF_MS: u64 = 3_600_000;

/// Signed rows that wait for their issuer's certificate; about 300 bytes each. More come again by repair.
pub const EARLY_SIGNED_MAX: usize = 1_024;

/// Whether a row may be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It may.
    Yes,
    /// It is rightly ignored.
    Ignored,
    /// It is signed by a node whose own certificate has not arrived yet.
    Early(NodeId),
}

impl Node {
    /// The certificate of a member, as the table has it.
    pub(super) fn certificate(&self, node: NodeId) -> Option<Certificate> {
        let row = self.replica.rows().get(&Key::global(Table::CERTIFICATE, node.to_string()))?;
        Certificate::from_bytes(&row.body.0).ok()
    }

    /// Whether the signer of a certificate has the right to give it. An issuer that was evicted since counts for what it
    /// signed before: such rows come from members that hold them; a stranger that shows one is refused at its hello.
    fn may_certify(&self, certificate: &Certificate) -> Result<Fit, Refusal> {
        if crate::id::ClusterId::of_root(&certificate.issuer) == self.setup.cluster {
            return Ok(Fit::Yes);
        }
        let issuer = NodeId::of_key(&certificate.issuer);
        match self.certificate(issuer) {
            None => Ok(Fit::Early(issuer)),
            Some(by) if by.may_issue(certificate) => Ok(Fit::Yes),
            Some(_) => Err(Refusal::Row(codec::RowError::Malformed("certificate: its issuer may not admit; it"))),
        }
    }

    /// Keeps a signed row until its issuer's certificate comes.
    pub(super) fn keep_early(&mut self, issuer: NodeId, peer: NodeId, packed: &[u8]) {
        self.count("rows_early", 1);
        // Nothing is made for what will not be kept: an issuer is whatever a peer has made up.
        if self.early_rows >= EARLY_SIGNED_MAX {
            return;
        }
        let rows = self.early.entry(issuer).or_default();
        if !rows.iter().any(|(_, row)| row == packed) {
            rows.push((peer, packed.to_vec()));
            self.early_rows += 1;
        }
    }

    /// Whether a row may be merged: signatures and rights of the signed tables, and tombstones that everybody has agreed to
    /// forget.
    pub(super) fn admissible(&mut self, now: Now, packed: &[u8]) -> Result<Fit, Refusal> {
        let head = codec::head(packed)?;
        let forged = |what: &'static str| Err(Refusal::Row(codec::RowError::Malformed(what)));
        if matches!(head.table, Table::CERTIFICATE | Table::REVOKED)
            && self.replica.rows().packed(rows::position(&head.to_row().key)) == Some(packed)
        {
            // Held already: its signature was looked at then.
            return Ok(Fit::Ignored);
        }
        if let codec::VersionHead::Owned(owner, epoch, _) = head.version
            && owner == self.setup.id
            && epoch > self.replica.epoch().saturating_add(EPOCH_STEP_MAX)
        {
            return forged("start number of this node's own row");
        }
        match head.table {
            Table::CERTIFICATE => {
                let Ok(certificate) = Certificate::from_bytes(head.body) else { return forged("certificate") };
                let named = head.id.parse() == Ok(certificate.node());
                let ours = certificate.cluster == self.setup.cluster;
                if head.deleted || !named || !ours || !certificate.is_signed(self.setup.verify) {
                    return forged("certificate");
                }
                // A second key with the same short id, or a replayed older certificate, never replaces the first.
                let held = self.replica.rows().get(&head.to_row().key);
                let held = held.and_then(|row| Certificate::from_bytes(&row.body.0).ok());
                if held.is_some_and(|held| held.subject != certificate.subject) {
                    return forged("certificate: its key has the id of another");
                }
                return self.may_certify(&certificate);
            }
            Table::REVOKED => {
                let Ok(revocation) = Revocation::from_bytes(head.body) else { return forged("revocation") };
                let named = head.id.parse() == Ok(revocation.subject);
                let ours = revocation.cluster == self.setup.cluster;
                if head.deleted || !named || !ours || !revocation.is_signed(self.setup.verify) {
                    return forged("revocation");
                }
                let issuer = NodeId::of_key(&revocation.issuer);
                // Everybody may leave; who never was in has nothing to leave, and its word would be kept everywhere for ever.
                let leaves = issuer == revocation.subject;
                return match self.certificate(issuer) {
                    None => Ok(Fit::Early(issuer)),
                    Some(own) if leaves && own.subject == revocation.issuer => Ok(Fit::Yes),
                    Some(by) if by.subject == revocation.issuer && by.role >= Role::Member => Ok(Fit::Yes),
                    Some(_) => forged("revocation: its issuer may only read; it"),
                };
            }
            Table::NODE if !head.deleted => {
                let Ok(facts) = serde_json::from_slice::<Facts>(head.body) else { return forged("node facts") };
                if facts.site.is_empty() || facts.site.len() > crate::table::row::SITE_MAX || facts.name.len() > 256 {
                    return forged("node facts");
                }
            }
            _ if head.deleted => {
                let day = tombstone::day_of(head.body);
                let deaf = self.dropped.get(&day).is_some_and(|(_, at)| now.ms < at + DROPPED_DEAF_MS);
                if deaf && self.replica.rows().packed(rows::position(&head.to_row().key)).is_none() {
                    return Ok(Fit::Ignored);
                }
            }
            _ => {}
        }
        Ok(Fit::Yes)
    }

    /// Acts on a row that stands.
    pub(super) fn learn(&mut self, now: Now, row: &Row) {
        if let Version::Owned { owner, epoch, .. } = row.version
            && owner == self.setup.id
            && epoch >= self.replica.epoch()
            && !self.is_mine(row)
        {
            let elsewhere = row.key.table == Table::NODE && self.is_other_instance(row);
            self.bump(now, epoch, elsewhere);
            if self.bumps.len() + 1 == CLONE_BUMPS {
                self.alarm(now, "cloned-key", "another machine seems to use this node's key".into());
            }
        }
        match row.key.table {
            Table::CERTIFICATE => {
                if let Ok(certificate) = Certificate::from_bytes(&row.body.0) {
                    let node = certificate.node();
                    self.roles.insert(node, certificate.role);
                    let beyond = self.replica.mark_reader(node, certificate.role == Role::Reader);
                    self.forgotten(beyond);
                    self.view.set_role(node, certificate.role);
                    self.certified.push(node);
                }
            }
            Table::REVOKED => {
                if let Ok(revocation) = Revocation::from_bytes(&row.body.0) {
                    self.revoked(now, &revocation);
                }
            }
            Table::NODE => self.node_row(now, row),
            Table::WATCH if !row.deleted => {
                let Version::Owned { owner, .. } = row.version else { return };
                if self.roles.get(&owner) == Some(&Role::Reader) {
                    // Whoever only looks judges nobody.
                    return;
                }
                let (Ok(subject), Some((verdict, of))) = (row.key.rest().parse(), read_watch(&row.body.0)) else {
                    self.quarantine(now, row.key.clone(), "a verdict that cannot be read".into());
                    return;
                };
                let (turned, refute) = self.view.set_watch(owner, subject, verdict, of, now.wall_ms);
                self.refute |= refute;
                if let Some(turned) = turned {
                    self.turned(now, turned);
                }
            }
            Table::TOMBSTONES => {
                if let Some(owner) = row.key.owner() {
                    self.published.insert(owner, tombstone::published(&row.body.0));
                }
            }
            _ => {}
        }
    }

    /// Whether this very node, in this start, has written the row.
    fn is_mine(&self, row: &Row) -> bool {
        match row.version {
            Version::Owned { epoch, seq, .. } => epoch == self.replica.epoch() && seq <= self.replica.seq(),
            Version::Shared { .. } => false,
        }
    }

    fn is_other_instance(&self, row: &Row) -> bool {
        row.body.parse::<Facts>().is_ok_and(|facts| facts.instance != self.setup.facts.instance)
    }

    fn node_row(&mut self, now: Now, row: &Row) {
        let (Some(node), Version::Owned { epoch, seq, .. }) = (row.key.owner(), &row.version) else { return };
        if row.deleted {
            if let Some(turned) = self.view.remove(node) {
                self.turned(now, turned);
            }
            return;
        }
        let Ok(facts) = row.body.parse::<Facts>() else { return };
        let role = self.role(node);
        self.named(now, node, &facts.name);
        if self.view.liveness(node).is_none() && node != self.setup.id {
            self.out.push_back(Output::Turned(node, crate::membership::Liveness::Alive));
        }
        if let Some(turned) = self.view.set_facts(node, facts, role, (*epoch, *seq), now.wall_ms) {
            self.turned(now, turned);
        }
    }

    /// A member says what it is called. Two of one name are no fault of the mesh, whose rows go by ids: whoever gives commands
    /// by name is told.
    fn named(&mut self, now: Now, node: NodeId, name: &str) {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let hash = hasher.finish();
        let first = *self.names.entry(hash).or_insert(node);
        if first == node {
            return;
        }
        if self.facts(first).is_some_and(|facts| facts.name == name) {
            if self.facts(node).is_none_or(|facts| facts.name != name) {
                let text = format!(
                    "{first} and {node} are both called {name}: commands need the id of either; start one with another --name, or evict the one that is gone"
                );
                self.alarm(now, "name", text);
            }
        } else {
            self.names.insert(hash, node);
        }
    }

    fn revoked(&mut self, now: Now, revocation: &Revocation) {
        let subject = revocation.subject;
        if subject == self.setup.id {
            let why = if revocation.left {
                "this node has left the cluster"
            } else {
                "this node was evicted from the cluster"
            };
            self.expel(now, "evicted", why.to_owned());
            return;
        }
        let gone = self.replica.evict(subject);
        self.forgotten(gone);
        self.published.remove(&subject);
        if let Some(turned) = self.view.remove(subject) {
            self.turned(now, turned);
        }
        if self.links.remove(&subject).is_some() {
            self.tell_evicted(now, subject);
        }
    }
}
