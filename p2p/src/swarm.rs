//! The shell: one task that owns the libp2p swarm, the node core and the store. In: commands of the handle, swarm events,
//! messages of peers, "it is durable". Out: bytes on connections, answers to the handle.

pub mod address;
pub mod admit;
pub(crate) mod backup;
pub mod behaviour;
pub mod calls;
pub mod commands;
pub(crate) mod doors;
pub mod lanes;
pub mod start;
pub mod strangers;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, TransportError};
use tokio::sync::{mpsc, oneshot, watch as latest};

use crate::disk::store::{Batch, Found, Store, StoreError, Told};
use crate::disk::{ClusterFile, Folder};
use crate::id::NodeId;
use crate::membership::Role;
use crate::mesh::{Command, Durability, Error, Written};
use crate::node::{Input, Node, Now, Output};
use crate::table::{Class, Row, Sum, Table};
use crate::wire::Message;
use behaviour::{Behaviour, BehaviourEvent};
use doors::{Admitted, Door};

/// Things that may wait for the task from its own helpers; readers of peers wait when it is full.
pub const EVENTS_MAX: usize = 2_048;
/// Heartbeats and hellos that may wait for the task; they overtake everything in the other queue.
pub const BEATS_MAX: usize = 1_024;
/// How often a table on disk that has failed is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(2);
/// How often a node without any link tries the addresses it remembers.
const BOOTSTRAP_EVERY: Duration = Duration::from_secs(2);
/// A connection that nothing came on for so long is not worth keeping beside a new one of the same peer.
const STALE_MS: u64 = 2_000;
/// Addresses of other members kept for a start at which nobody is where it was.
const BOOTSTRAP_MAX: usize = 64;

/// What the helpers tell the task.
#[derive(Debug)]
pub(crate) enum Event {
    Bad(NodeId, String),
    LaneClosed(NodeId, crate::wire::Lane, u64),
    StoreOpened(Result<(Store, Found), String>),
    Offer(admit::Ask, oneshot::Sender<Result<admit::Offer, String>>),
    Grant(admit::Ask, oneshot::Sender<Result<Vec<Vec<u8>>, String>>),
    Dial(DialOpts),
}

/// How far the disk is. Told by the store's thread, which never waits for the task: only the latest counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    durable: u64,
    epoch: u64,
    failed: Option<String>,
}

impl Progress {
    /// Takes in what the store tells.
    pub(crate) fn told(progress: &latest::Sender<Self>, it: Told) {
        progress.send_modify(|progress| match it {
            Told::Batch(upto) => progress.durable = progress.durable.max(upto),
            Told::Epoch(epoch) => progress.epoch = progress.epoch.max(epoch),
            Told::Failed(error) => progress.failed = Some(error.to_string()),
        });
    }
}

/// Where the task's inputs come from.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) beats: mpsc::Receiver<(NodeId, Message)>,
    pub(crate) messages: mpsc::Receiver<(NodeId, Message)>,
    pub(crate) progress: latest::Receiver<Progress>,
}

/// The node a peer id stands for; `None` when its key is not Ed25519.
#[must_use]
pub fn node_of(peer: &PeerId) -> Option<(NodeId, [u8; 32])> {
    let bytes = peer.to_bytes();
    let key = PublicKey::try_decode_protobuf(bytes.get(2..)?).ok()?.try_into_ed25519().ok()?.to_bytes();
    Some((NodeId::of_key(&key), key))
}

/// The peer id of a public key.
#[must_use]
pub fn peer_of(key: &[u8; 32]) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PeerId::from_public_key(&PublicKey::from(key)))
}

/// Rows that wait for the store, the latest of each position; `None` deletes.
type Backlog = BTreeMap<crate::table::Position, Option<Vec<u8>>>;

/// Everything the task owns.
pub(crate) struct Task {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) control: libp2p_stream::Control,
    pub(crate) node: Node,
    pub(crate) store: Option<Store>,
    pub(crate) progress: latest::Sender<Progress>,
    /// Why the table on disk takes nothing, and when it is tried again.
    pub(crate) broken: Option<(String, Option<Instant>)>,
    /// What did not fit into the store's queue, rows by position.
    pub(crate) backlog: Option<(u64, Backlog)>,
    /// The epoch nothing may be sent before: whether it is handed over, and which.
    pub(crate) epoch_awaited: Option<(bool, u64)>,
    pub(crate) folder: Folder,
    pub(crate) cluster: ClusterFile,
    pub(crate) keypair: ed25519::Keypair,
    pub(crate) clock: Clock,
    pub(crate) peers: BTreeMap<NodeId, PeerId>,
    pub(crate) lanes: lanes::Lanes,
    /// The doors of the lanes, to send out who holds streams of a connection that ended.
    pub(crate) doors: Vec<Arc<Door>>,
    /// The connections of each peer that were not hung up: one that is closing may take its time, and its peer may be back by
    /// another meanwhile.
    pub(crate) connections: BTreeMap<NodeId, BTreeSet<ConnectionId>>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) admitted: Admitted,
    /// The sum of the certificates that `admitted` was last told about.
    pub(crate) certified: Sum,
    pub(crate) writes: BTreeMap<u64, (Row, oneshot::Sender<Result<Written, Error>>)>,
    pub(crate) watchers: watch::Watchers,
    pub(crate) advertise: Vec<String>,
    pub(crate) listening: BTreeSet<Multiaddr>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) bootstrap_at: Instant,
    pub(crate) expelled: Option<String>,
    /// Relays this node wants to be reached through, and the listener of each that stands.
    pub(crate) circuits: Vec<(Multiaddr, Option<ListenerId>)>,
    pub(crate) restores: backup::Restores,
    /// Holes punched, and tries that came to nothing.
    pub(crate) holes: [u64; 2],
}

/// The two clocks, from one start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Starts above zero, so that "never" can be zero.
        Now { ms: ms(self.start.elapsed()) + 1_000, wall_ms: ms(wall) }
    }

    fn at(&self, ms: u64) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_millis(ms.saturating_sub(1_000)))
    }
}

impl Task {
    /// Runs until told to stop or until the last handle is gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut inbox: Inbox) {
        loop {
            self.act();
            let now = self.clock.now().ms;
            // A core that was expelled is due for nothing any more.
            let due = if self.expelled.is_some() { now + 1_000 } else { self.node.poll_timeout().max(now) };
            let wake = self.clock.at(due);
            // What is due, what is durable and who lives come first; bulk waits.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(wake) => {
                    let now = self.clock.now();
                    self.node.handle(now, Input::Tick);
                    self.try_bootstrap();
                    self.try_store();
                    self.watchers.tell_lagged();
                }
                Ok(()) = inbox.progress.changed() => {
                    let progress = inbox.progress.borrow_and_update().clone();
                    self.stored(&progress);
                }
                Some((peer, message)) = inbox.beats.recv() => self.message(peer, message),
                woken = next(
                    &mut self.swarm, &mut commands, &mut inbox.messages, &mut inbox.events, self.restores.due()
                ) => match woken {
                    Woken::Restore => self.restore_piece(),
                    Woken::Swarm(event) => self.swarm_event(event),
                    Woken::Message(peer, message) => self.message(peer, message),
                    Woken::Event(event) => self.event(event),
                    Woken::Command(Command::Stop(done)) => {
                        self.act();
                        self.close().await;
                        let _ = done.send(());
                        return;
                    }
                    Woken::Command(Command::Leave(actor, done)) => {
                        let left = self.leave(&actor, &mut inbox).await;
                        let stop = left.is_ok();
                        let _ = done.send(left);
                        if stop {
                            return;
                        }
                    }
                    Woken::Command(command) => self.command(command),
                    Woken::Alone => {
                        self.close().await;
                        return;
                    }
                },
            }
        }
    }

    pub(crate) fn message(&mut self, peer: NodeId, message: Message) {
        let now = self.clock.now();
        self.node.handle(now, Input::Message(peer, message));
    }

    /// Lets the store commit what was handed over, beside the task: it waits for the disk.
    pub(crate) async fn close_store(&mut self) {
        if let (Some(store), Some((number, rows))) = (&self.store, self.backlog.take()) {
            let mut rest: Option<Batch> = Some(rows.into_iter().collect());
            while let Some(rows) = rest.take() {
                rest = store.put(number, rows).ok().flatten();
                if rest.is_some() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
        let store = self.store.take();
        let _ = tokio::task::spawn_blocking(move || drop(store)).await;
    }

    /// Commits what was handed over and remembers where others are.
    async fn close(&mut self) {
        self.close_store().await;
        let mut known: Vec<String> = self.cluster.bootstrap.clone();
        for member in self.node.members().into_iter().filter(|member| !member.is_self) {
            known.extend(member.addresses.into_iter().take(2));
        }
        known.sort_unstable();
        known.dedup();
        known.truncate(BOOTSTRAP_MAX);
        if known != self.cluster.bootstrap {
            self.cluster.bootstrap = known;
            // Only a shortcut for the next start, which has the node rows as well.
            let _ = self.folder.keep_cluster(&self.cluster);
        }
    }

    /// Hands rows to the store, or keeps them until it has room.
    fn keep(&mut self, number: u64, rows: Batch) {
        let Some(store) = &self.store else { return };
        if let Some((upto, backlog)) = &mut self.backlog {
            *upto = number;
            backlog.extend(rows);
            return;
        }
        match store.put(number, rows) {
            Ok(None) => {}
            Ok(Some(rows)) => self.backlog = Some((number, rows.into_iter().collect())),
            // The store's thread has said why.
            Err(StoreError::Stopped) => {}
            Err(error) => self.watchers.alarm(&error.to_string()),
        }
    }

    /// The store got further, or failed.
    pub(crate) fn stored(&mut self, progress: &Progress) {
        let now = self.clock.now();
        if let Some(why) = &progress.failed
            && self.broken.is_none()
        {
            self.store_failed(why.clone());
        }
        if self.epoch_awaited.is_some_and(|(_, epoch)| progress.epoch >= epoch) {
            self.epoch_awaited = None;
        }
        if let Some((number, rows)) = self.backlog.take() {
            self.keep(number, rows.into_iter().collect());
        }
        if let Some((false, epoch)) = self.epoch_awaited {
            self.keep_epoch(epoch);
        }
        self.node.handle(now, Input::Durable(progress.durable));
    }

    fn keep_epoch(&mut self, epoch: u64) {
        let handed = self.store.as_ref().and_then(|store| store.try_keep_epoch(epoch).ok());
        // Without a disk there is nothing to wait for; the alarm of the store stands.
        self.epoch_awaited = handed.map(|handed| (handed, epoch));
    }

    /// Nothing becomes durable any more: whoever waits is told, new writes are refused, and the disk is tried again.
    fn store_failed(&mut self, why: String) {
        let reason = format!("{why}; the node goes on without a disk and takes no writes until there is room again");
        self.watchers.alarm(&reason);
        for (_, (row, done)) in std::mem::take(&mut self.writes) {
            let error = Error::Disk {
                step: "keep",
                path: row.key.to_string(),
                reason: format!("{why}; it is not durable here, peers may have it: look again before it is repeated"),
            };
            let _ = done.send(Err(error));
        }
        self.broken = Some((why, Some(Instant::now() + STORE_AGAIN)));
        (self.backlog, self.epoch_awaited) = (None, None);
        let store = self.store.take();
        tokio::task::spawn_blocking(move || drop(store));
        self.node.handle(self.clock.now(), Input::StoreFailed);
    }

    /// Opens a failed store anew when its time has come.
    fn try_store(&mut self) {
        let Some((_, at)) = &mut self.broken else { return };
        if at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        *at = None;
        self.progress.send_modify(|progress| progress.failed = None);
        let (path, events, progress) = (self.folder.table(), self.events.clone(), self.progress.clone());
        tokio::task::spawn_blocking(move || {
            let opened = Store::open(&path, move |it| Progress::told(&progress, it)).map_err(|error| error.to_string());
            // The task may be gone already: then nobody waits.
            let _ = events.blocking_send(Event::StoreOpened(opened));
        });
    }

    fn store_opened(&mut self, opened: Result<(Store, Found), String>) {
        match opened {
            Ok((store, found)) => {
                self.store = Some(store);
                self.broken = None;
                self.watchers.calm();
                self.node.store_again(&found.positions);
                self.keep_epoch(self.node.replica().epoch().max(found.epoch));
            }
            Err(why) => self.broken = Some((why, Some(Instant::now() + STORE_AGAIN))),
        }
    }

    /// Does what the core wants done.
    pub(crate) fn act(&mut self) {
        // A later epoch is on disk before anything is sent under it.
        while self.epoch_awaited.is_none()
            && let Some(output) = self.node.poll_output()
        {
            match output {
                Output::Send(to, message) => self.send(to, &message),
                Output::Dial(peer, addresses) => self.dial(peer, &addresses),
                Output::Hangup(peer, _) => {
                    for connection in self.connections.remove(&peer).unwrap_or_default() {
                        let _ = self.swarm.close_connection(connection);
                    }
                    self.parted(peer);
                }
                Output::Store(batch, rows) => self.keep(batch, rows),
                Output::Epoch(epoch) => self.keep_epoch(epoch),
                Output::Changed(row) => self.watchers.changed(row),
                Output::Gone(key) => self.watchers.gone(key),
                Output::Turned(node, liveness) => {
                    let epoch = self.node.epoch_of_member(node);
                    self.watchers.turned(node, liveness, epoch, self.clock.now().wall_ms);
                }
                Output::Acked(write, durability) => {
                    if let Some((row, done)) = self.writes.remove(&write) {
                        let _ = done.send(Ok(Written { row, durability }));
                    }
                }
                Output::Alarm(_) => {}
                Output::Expelled(why) => {
                    self.expelled = Some(why);
                    let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
                    for peer in peers {
                        let _ = self.swarm.disconnect_peer_id(peer);
                    }
                    // Nobody will confirm any more.
                    for (_, (row, done)) in std::mem::take(&mut self.writes) {
                        let _ = done.send(Ok(Written { row, durability: Durability::Local }));
                    }
                }
            }
        }
        let linked: BTreeMap<NodeId, Role> = self.node.linked().map(|node| (node, self.node.role(node))).collect();
        let certified = self.node.replica().rows().sum(Class::of(Table::CERTIFICATE, false));
        let told = self.admitted.read().expect("nobody panics while holding it").linked == linked;
        if !told || certified != self.certified {
            let mut standing = self.admitted.write().expect("nobody panics while holding it");
            standing.linked = linked;
            standing.certified = self.node.certified().collect();
            self.certified = certified;
        }
    }

    fn send(&mut self, to: NodeId, message: &Message) {
        let Some(peer) = self.peers.get(&to).copied() else { return };
        let events = self.events.clone();
        self.lanes.send(to, peer, message, &self.control, &events);
    }

    pub(crate) fn peer_id(&self, node: NodeId) -> Option<PeerId> {
        self.peers.get(&node).copied().or_else(|| self.node.public_key(node).as_ref().and_then(peer_of))
    }

    fn dial(&mut self, node: NodeId, addresses: &[String]) {
        let Some(peer) = self.peer_id(node) else { return };
        let addresses: Vec<String> = addresses.to_vec();
        let events = self.events.clone();
        // One that is only closing is no connection.
        let condition = match self.connections.contains_key(&node) {
            true => PeerCondition::DisconnectedAndNotDialing,
            false => PeerCondition::NotDialing,
        };
        // Names are resolved outside the task; numbers need no waiting.
        tokio::spawn(async move {
            let addresses = address::resolve(&addresses).await;
            let options = DialOpts::peer_id(peer).condition(condition).addresses(addresses);
            let _ = events.send(Event::Dial(options.build())).await;
        });
    }

    fn try_bootstrap(&mut self) {
        let now = Instant::now();
        if now < self.bootstrap_at || self.expelled.is_some() {
            return;
        }
        self.bootstrap_at = now + BOOTSTRAP_EVERY;
        for (address, listener) in self.circuits.iter_mut().filter(|(_, listener)| listener.is_none()) {
            // A relay that is not there now is asked again.
            *listener = self.swarm.listen_on(address.clone()).ok();
        }
        if self.node.linked().next().is_some() {
            return;
        }
        let (addresses, events) = (self.bootstrap.clone(), self.events.clone());
        let own: BTreeSet<Multiaddr> = self.listening.clone();
        tokio::spawn(async move {
            for address in address::resolve(&addresses).await {
                if !own.contains(&address) {
                    let options = DialOpts::unknown_peer_id().address(address).build();
                    let _ = events.send(Event::Dial(options)).await;
                }
            }
        });
    }

    fn event(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Bad(peer, reason) => self.node.handle(now, Input::Bad(peer, reason)),
            Event::LaneClosed(peer, lane, number) => self.lanes.closed(peer, lane, number),
            Event::StoreOpened(opened) => self.store_opened(opened),
            Event::Offer(ask, answer) => {
                let _ = answer.send(self.offer(&ask));
            }
            Event::Grant(ask, answer) => {
                let _ = answer.send(self.grant(&ask));
            }
            Event::Dial(options) => {
                let peer = options.get_peer_id();
                if let Err(error) = self.swarm.dial(options) {
                    self.dial_failed(peer, &error);
                }
            }
        }
    }

    fn dial_failed(&mut self, peer: Option<PeerId>, error: &DialError) {
        let Some((node, _)) = peer.as_ref().and_then(node_of) else { return };
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        let refused = nobody_listens(error);
        self.node.handle(self.clock.now(), Input::DialFailed { peer: node, refused });
    }

    pub(crate) fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = self.clock.now();
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                let Some((node, _)) = node_of(&peer_id) else {
                    let _ = self.swarm.disconnect_peer_id(peer_id);
                    return;
                };
                if self.connections.contains_key(&node) && self.node.silent_for(now, node) > STALE_MS {
                    // It comes again while its former connection still counts, which has been dead without a word.
                    for old in self.connections.remove(&node).unwrap_or_default() {
                        let _ = self.swarm.close_connection(old);
                    }
                    self.parted(node);
                    self.node.handle(now, Input::Disconnected(node));
                }
                let connections = self.connections.entry(node).or_default();
                connections.insert(connection_id);
                if connections.len() == 1 && self.expelled.is_none() {
                    self.peers.insert(node, peer_id);
                    self.node.handle(now, Input::Connected(node));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                let Some((node, _)) = node_of(&peer_id) else { return };
                // One that was hung up ended then, however long its last bytes took.
                let Some(connections) = self.connections.get_mut(&node) else { return };
                if connections.remove(&connection_id) && connections.is_empty() {
                    self.connections.remove(&node);
                    self.parted(node);
                    self.node.handle(now, Input::Disconnected(node));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => self.dial_failed(peer_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                self.tell_relayed(&address);
                self.listening.insert(address);
                self.readdress();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, .. } => {
                for (_, listener) in &mut self.circuits {
                    if *listener == Some(listener_id) {
                        *listener = None;
                    }
                }
                for address in &addresses {
                    self.listening.remove(address);
                }
                self.readdress();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.remove(&address);
                self.readdress();
            }
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            _ => {}
        }
    }

    /// The last connection of a peer is gone: nothing of it is read or sent any more.
    fn parted(&mut self, node: NodeId) {
        self.lanes.close(node);
        self.peers.remove(&node);
        for door in &self.doors {
            door.clear(node);
        }
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        if let BehaviourEvent::Punched(done) = event {
            self.holes[usize::from(!done)] += 1;
            return;
        }
        // What identify says of a member helps dcutr; the addresses we dial come from signed-in members' node rows.
        if let BehaviourEvent::Identify(event) = event
            && let libp2p::identify::Event::Received { peer_id, info, .. } = *event
            && node_of(&peer_id).is_some_and(|(node, _)| self.node.is_linked(node))
        {
            for address in info.listen_addrs.into_iter().take(8) {
                self.swarm.add_peer_address(peer_id, address);
            }
        }
    }

    /// What this node tells those it relays for: where others find it.
    pub(crate) fn tell_relayed(&mut self, address: &Multiaddr) {
        if !address::is_circuit(address) && !address::is_local(address) {
            self.swarm.add_external_address(address.clone());
        }
    }

    fn readdress(&mut self) {
        let addresses = address::told(&self.advertise, &self.listening, &address::Bridges::here());
        let now = self.clock.now();
        self.node.handle(now, Input::Addresses(addresses));
    }
}

/// Whether every host that was dialled answered that nobody listens there.
pub(crate) fn nobody_listens(error: &DialError) -> bool {
    matches!(error, DialError::Transport(errors)
        if !errors.is_empty() && errors.iter().all(|(_, error)| is_refused(error)))
}

/// What wakes the task beside what is urgent.
enum Woken {
    Swarm(SwarmEvent<BehaviourEvent>),
    Message(NodeId, Message),
    Event(Event),
    Command(Command),
    /// The next rows of a restore are due.
    Restore,
    /// Every handle is gone.
    Alone,
}

/// Waits for whichever comes next; each has its turn. Dropping it loses nothing.
async fn next(
    swarm: &mut Swarm<Behaviour>,
    commands: &mut mpsc::Receiver<Command>,
    messages: &mut mpsc::Receiver<(NodeId, Message)>,
    events: &mut mpsc::Receiver<Event>,
    restore: impl Future<Output = ()>,
) -> Woken {
    tokio::select! {
        event = swarm.select_next_some() => Woken::Swarm(event),
        Some((peer, message)) = messages.recv() => Woken::Message(peer, message),
        Some(event) = events.recv() => Woken::Event(event),
        () = restore => Woken::Restore,
        command = commands.recv() => command.map_or(Woken::Alone, Woken::Command),
    }
}

fn is_refused(error: &TransportError<std::io::Error>) -> bool {
    fn refused(error: &(dyn std::error::Error + 'static)) -> bool {
        let io = error.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
            || io.and_then(|io| io.get_ref()).is_some_and(|inner| refused(inner))
            || error.source().is_some_and(refused)
            || error.to_string().contains("onnection refused")
    }
    matches!(error, TransportError::Other(error) if refused(error))
}

#[cfg(test)]
mod tests;
