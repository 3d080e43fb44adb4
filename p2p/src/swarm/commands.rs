//! What the handle asks, done. In: commands. Out: answers. Each is short: what waits for a peer runs beside the task.

use libp2p::StreamProtocol;
use tokio::sync::oneshot;

use super::{Task, calls};
use crate::admission::{Revocation, Token, TokenRow, token_key};
use crate::id::NodeId;
use crate::membership::{Liveness, Role};
use crate::mesh::{Actor, Command, Conflict, Durability, Error, Resolve, Serve, Status, TokenWish, Written};
use crate::table::{Body, Key, Row, Table, codec};

fn refused(key: &Key, reason: impl std::fmt::Display) -> Error {
    Error::Refused { key: key.to_string(), reason: reason.to_string() }
}

impl Task {
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Put(key, body, actor, answer) => self.put(key, body, actor.as_ref(), answer),
            Command::PutIf(key, body, actor, check, answer) => {
                if check(&|key| self.node.get(key)) {
                    self.put(key, Some(body), actor.as_ref(), answer);
                } else {
                    drop(answer.send(Err(Error::Changed { key: key.to_string() })));
                }
            }
            Command::Get(key, answer) => drop(answer.send(self.node.get(&key))),
            Command::Rows(table, prefix, include_down, answer) => {
                drop(answer.send(self.node.rows(table, &prefix, include_down)));
            }
            Command::Watch(table, answer) => drop(answer.send(self.watchers.watch(table))),
            Command::WatchMembers(answer) => drop(answer.send(self.watchers.watch_members())),
            Command::Role(node, answer) => drop(answer.send(self.node.role(node))),
            Command::Members(answer) => drop(answer.send(self.node.members())),
            Command::Call(peer, protocol, bytes, answer) => self.call(peer, protocol, bytes, answer),
            Command::Open(peer, protocol, answer) => self.open(peer, protocol, answer),
            Command::Serve(protocol, serve, answer) => drop(answer.send(self.serve(protocol, serve))),
            Command::TokenCreate(wish, actor, answer) => drop(answer.send(self.token_create(&wish, &actor))),
            Command::TokenRevoke(id, actor, answer) => drop(answer.send(self.token_revoke(&id, &actor))),
            Command::Evict(node, actor, answer) => drop(answer.send(self.evict(node, &actor))),
            Command::Status(answer) => drop(answer.send(self.status())),
            Command::Conflicts(answer) => drop(answer.send(self.conflicts())),
            Command::ResolveConflict(id, how, actor, answer) => {
                drop(answer.send(self.resolve_conflict(&id, how, &actor)));
            }
            Command::Quarantine(key, reason) => {
                let now = self.clock.now();
                self.node.quarantine(now, key, reason);
            }
            Command::Backup(answer) => drop(answer.send(self.backup())),
            Command::Restore(rows, actor, answer) => self.restore(rows, actor, answer),
            // Both end the task and are handled where it can be ended.
            Command::Leave(_, answer) => drop(answer.send(Err(Error::Stopped))),
            Command::Stop(answer) => drop(answer.send(())),
        }
    }

    pub(crate) fn write(&mut self, key: &Key, body: Option<Body>) -> Result<(Row, Option<u64>), Error> {
        if let Some(why) = &self.expelled {
            return Err(refused(key, why));
        }
        if let Some((why, _)) = &self.broken {
            return Err(Error::Disk { step: "keep", path: key.to_string(), reason: why.clone() });
        }
        if matches!(
            key.table,
            Table::CERTIFICATE | Table::REVOKED | Table::NODE | Table::WATCH | Table::TOMBSTONES | Table::CONFLICT
        ) {
            return Err(refused(key, "the mesh itself writes this table"));
        }
        self.node.put(self.clock.now(), key.clone(), body).map_err(|refusal| refused(key, refusal))
    }

    fn put(
        &mut self,
        key: Key,
        body: Option<Body>,
        actor: Option<&Actor>,
        answer: oneshot::Sender<Result<Written, Error>>,
    ) {
        let verb = if body.is_some() { "put" } else { "delete" };
        match self.write(&key, body) {
            Ok((row, Some(write))) => {
                self.writes.insert(write, (row, answer));
            }
            Ok((row, None)) => drop(answer.send(Ok(Written { row, durability: Durability::Local }))),
            Err(error) => {
                drop(answer.send(Err(error)));
                return;
            }
        }
        if let Some(actor) = actor {
            self.audit(actor, &format!("{verb} {key}"));
        }
    }

    pub(crate) fn audit(&mut self, actor: &Actor, what: &str) {
        let now = self.clock.now();
        self.node.audit(now, &actor.who, &actor.from, what);
    }

    /// Runs `work` once the peer is linked, dialling it when it is not.
    fn reach(&mut self, node: NodeId) -> Result<libp2p::PeerId, String> {
        if node == self.node.id() {
            return Err("that is this node itself".into());
        }
        let Some(peer) = self.peer_id(node) else { return Err("no such member".into()) };
        if self.node.replica().is_evicted(node) {
            return Err("it was evicted or has left".into());
        }
        if !self.node.is_linked(node) {
            let addresses = self.node.facts(node).map(|facts| facts.addresses.clone()).unwrap_or_default();
            self.dial(node, &addresses);
        }
        Ok(peer)
    }

    fn call(
        &mut self,
        peer: NodeId,
        protocol: String,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Result<Vec<u8>, Error>>,
    ) {
        let failed = move |protocol: &str, reason: String| Error::Call { peer, protocol: protocol.to_owned(), reason };
        let named = StreamProtocol::try_from_owned(protocol.clone()).map_err(|error| error.to_string());
        match named.and_then(|named| self.reach(peer).map(|id| (named, id))) {
            Err(reason) => drop(answer.send(Err(failed(&protocol, reason)))),
            Ok((named, id)) => {
                let (control, admitted) = (self.control.clone(), self.admitted.clone());
                tokio::spawn(async move {
                    let result = if calls::is_member(&admitted, peer).await {
                        calls::call(control, id, named, bytes).await
                    } else {
                        Err("it cannot be reached".into())
                    };
                    let _ = answer.send(result.map_err(|reason| failed(&protocol, reason)));
                });
            }
        }
    }

    fn open(&mut self, peer: NodeId, protocol: String, answer: oneshot::Sender<Result<libp2p::Stream, Error>>) {
        let failed = move |protocol: &str, reason: String| Error::Call { peer, protocol: protocol.to_owned(), reason };
        let named = StreamProtocol::try_from_owned(protocol.clone()).map_err(|error| error.to_string());
        match named.and_then(|named| self.reach(peer).map(|id| (named, id))) {
            Err(reason) => drop(answer.send(Err(failed(&protocol, reason)))),
            Ok((named, id)) => {
                let (mut control, admitted) = (self.control.clone(), self.admitted.clone());
                tokio::spawn(async move {
                    let result = if calls::is_member(&admitted, peer).await {
                        let opened = tokio::time::timeout(calls::CALL_TIME, control.open_stream(id, named)).await;
                        opened
                            .map_or_else(|_| Err("no answer in time".into()), |r| r.map_err(|error| error.to_string()))
                    } else {
                        Err("it cannot be reached".into())
                    };
                    let _ = answer.send(result.map_err(|reason| failed(&protocol, reason)));
                });
            }
        }
    }

    fn serve(&mut self, protocol: String, serve: Serve) -> Result<(), Error> {
        let named = StreamProtocol::try_from_owned(protocol).map_err(|error| Error::Start(error.to_string()))?;
        calls::serve(&mut self.control, named, serve, self.admitted.clone()).map_err(Error::Start)
    }

    fn token_create(&mut self, wish: &TokenWish, actor: &Actor) -> Result<String, Error> {
        let failed = |reason: String| Error::Token { reason };
        let own = self.node.role(self.node.id());
        if own < Role::Member || wish.role > own {
            return Err(failed(format!("this node is a {own:?} and may not admit a {:?}", wish.role)));
        }
        let root_hash = hex::decode(&self.cluster.root_hash).ok().and_then(|bytes| bytes.try_into().ok());
        let root_hash: [u8; 32] = root_hash.ok_or_else(|| failed("cluster.json holds no root hash".into()))?;
        let now = self.clock.now();
        let secret: [u8; 16] = rand::random();
        let expires_ms = wish.ttl_ms.map_or(0, |ttl| now.wall_ms.saturating_add(ttl));
        // Other members' addresses too: the token works while any of them is up.
        let mut addresses = super::address::told(&self.advertise, &self.listening, &super::address::Bridges::here());
        addresses.truncate(4);
        let admits = |member: &crate::membership::Member| {
            !member.is_self && member.liveness == Liveness::Alive && member.role >= Role::Member
        };
        for member in self.node.members().into_iter().filter(admits) {
            addresses.extend(member.addresses.into_iter().take(1));
        }
        addresses.truncate(crate::admission::TOKEN_ADDRESSES_MAX);
        let token = Token {
            root_hash,
            id: rand::random(),
            secret,
            expires_ms,
            uses: wish.uses.unwrap_or(0),
            role: wish.role,
            addresses,
        };
        let row = TokenRow {
            role: wish.role,
            expires_ms,
            uses: token.uses,
            used: 0,
            revoked: false,
            issuer: self.node.id(),
            key: hex::encode(token_key(&secret).public().to_bytes()),
            other: serde_json::Map::new(),
        };
        let body = Body::json(&row).map_err(|error| failed(error.to_string()))?;
        self.write(&Self::token_key(token.id), Some(body))?;
        self.audit(actor, &format!("token create {:016x}", token.id));
        Ok(token.to_text())
    }

    fn token_revoke(&mut self, id: &str, actor: &Actor) -> Result<(), Error> {
        let key = Key::global(Table::TOKEN, id);
        let unknown = || Error::Token { reason: format!("no token {id}; see `shoal mesh token ls`") };
        let row = self.node.get(&key).ok_or_else(unknown)?;
        let mut token: TokenRow = row.body.parse().map_err(|_| unknown())?;
        let number = u64::from_str_radix(id, 16).map_err(|_| unknown())?;
        token.revoked = true;
        let body = Body::json(&token).map_err(|error| Error::Token { reason: error.to_string() })?;
        self.write(&Self::revoked_key(number), Some(body.clone()))?;
        self.write(&key, Some(body))?;
        self.audit(actor, &format!("token revoke {id}"));
        Ok(())
    }

    fn evict(&mut self, node: NodeId, actor: &Actor) -> Result<(), Error> {
        let failed = |reason: &str| Error::Node { node: node.to_string(), reason: reason.to_owned() };
        if node == self.node.id() {
            return Err(failed("a node does not evict itself; use `shoal mesh leave`"));
        }
        if self.node.role(self.node.id()) < Role::Member {
            return Err(failed("this node may only read"));
        }
        if self.node.public_key(node).is_none() {
            return Err(failed("no such member"));
        }
        let now = self.clock.now();
        let revocation = Revocation::issue(self.cluster.cluster, node, false, now.wall_ms, &self.keypair);
        let key = Key::global(Table::REVOKED, node.to_string());
        self.node.put(now, key.clone(), Some(Body(revocation.to_bytes()))).map_err(|refusal| refused(&key, refusal))?;
        self.audit(actor, &format!("evict {node}"));
        Ok(())
    }

    fn status(&mut self) -> Status {
        let now = self.clock.now();
        let members = self.node.members();
        let count = |liveness| members.iter().filter(|member| member.liveness == liveness).count();
        let rows = self.node.replica().rows();
        let (global, site) = rows.root();
        let mut counters: std::collections::BTreeMap<String, u64> =
            self.node.counters().iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        counters.extend(self.lanes.bytes.iter().map(|(protocol, bytes)| (format!("bytes_sent{protocol}"), *bytes)));
        counters.insert("frames_sent".into(), self.lanes.frames);
        counters.insert("holes_punched".into(), self.holes[0]);
        counters.insert("holes_not_punched".into(), self.holes[1]);
        counters.insert("messages_dropped".into(), self.lanes.dropped);
        let mut alarms: Vec<_> = self.node.alarms().cloned().chain(self.watchers.alarms.iter().cloned()).collect();
        alarms.sort_by_key(|alarm| alarm.at_ms);
        let facts = &self.node.setup().facts;
        Status {
            id: self.node.id(),
            peer: self.swarm.local_peer_id().to_string(),
            name: facts.name.clone(),
            site: facts.site.clone(),
            cluster: self.cluster.cluster,
            epoch: self.node.replica().epoch(),
            listening: self.listening.iter().map(ToString::to_string).collect(),
            addresses: facts.addresses.clone(),
            alive: count(Liveness::Alive),
            suspect: count(Liveness::Suspect),
            down: count(Liveness::Down),
            connections: self.node.linked().count(),
            rows: rows.len(),
            tombstones: rows.tombstones(),
            root: format!("{:016x}{:016x}", global.print, site.print),
            feature_level: self.node.view().level(),
            quarantined: self.node.replica().quarantined().map(|(key, why)| (key.to_string(), why.clone())).collect(),
            alarms,
            brake_since_ms: self.node.brake(now.wall_ms),
            expelled: self.expelled.clone(),
            counters,
        }
    }

    fn conflicts(&self) -> Vec<Conflict> {
        self.node
            .rows(Table::CONFLICT, "", true)
            .into_iter()
            .filter_map(|row| {
                let lost = codec::decode(&row.body.0).ok()?;
                let stands = self.node.get(&lost.key);
                Some(Conflict { id: row.key.id, key: lost.key.clone(), lost, stands })
            })
            .collect()
    }

    fn resolve_conflict(&mut self, id: &str, how: Resolve, actor: &Actor) -> Result<(), Error> {
        // The beginning of an id will do when only one begins so.
        let mut fits: Vec<Conflict> = self.conflicts();
        fits.retain(|conflict| conflict.id.starts_with(id));
        if let Some(exact) = fits.iter().position(|conflict| conflict.id == id) {
            fits = vec![fits.swap_remove(exact)];
        }
        let conflict = match (fits.pop(), fits.is_empty()) {
            (Some(conflict), true) => conflict,
            (None, _) => return Err(Error::NoConflict(id.to_owned())),
            (Some(_), false) => {
                let reason = format!("{} conflicts begin so; give more of the id", fits.len() + 1);
                return Err(Error::Refused { key: format!("conflict {id}"), reason });
            }
        };
        let id = conflict.id.as_str();
        if how == Resolve::TakeLost {
            let body = (!conflict.lost.deleted).then(|| conflict.lost.body.clone());
            if body.is_some() || conflict.stands.is_some() {
                self.write(&conflict.key, body)?;
            }
        }
        let key = Key { scope: conflict.key.scope.clone(), table: Table::CONFLICT, id: id.to_owned() };
        self.node.put(self.clock.now(), key.clone(), None).map_err(|refusal| refused(&key, refusal))?;
        self.audit(actor, &format!("resolve conflict {id}: {how:?}"));
        Ok(())
    }

    /// Tells the others that this node leaves, then forgets the cluster.
    pub(crate) async fn leave(&mut self, actor: &Actor, inbox: &mut super::Inbox) -> Result<(), Error> {
        self.audit(actor, "leave");
        let now = self.clock.now();
        let revocation = Revocation::issue(self.cluster.cluster, self.node.id(), true, now.wall_ms, &self.keypair);
        self.node.farewell(now, Body(revocation.to_bytes()));
        let until = tokio::time::Instant::now() + std::time::Duration::from_millis(500);
        loop {
            self.act();
            tokio::select! {
                event = futures::StreamExt::select_next_some(&mut self.swarm) => self.swarm_event(event),
                Some(event) = inbox.events.recv() => self.event(event),
                Some((peer, message)) = inbox.beats.recv() => self.message(peer, message),
                Some((peer, message)) = inbox.messages.recv() => self.message(peer, message),
                () = tokio::time::sleep_until(until) => break,
            }
        }
        self.close_store().await;
        self.folder.forget()
    }
}
