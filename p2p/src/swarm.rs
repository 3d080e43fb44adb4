//! The shell: one task that owns the libp2p swarm, the node core and the store. In: commands of the handle, swarm events,
//! messages of peers, "it is durable". Out: bytes on connections, answers to the handle.

pub mod address;
pub mod admit;
pub mod behaviour;
pub mod calls;
pub mod commands;
pub mod lanes;
pub mod start;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, TransportError};
use tokio::sync::{mpsc, oneshot};

use crate::disk::{ClusterFile, Folder, store::Store};
use crate::id::NodeId;
use crate::mesh::{Command, Durability, Error, Written};
use crate::node::{Input, Node, Now, Output};
use crate::table::Row;
use crate::wire::Message;
use behaviour::{Behaviour, BehaviourEvent};

/// Things that may wait for the task from its own helpers; readers of peers wait when it is full.
pub const EVENTS_MAX: usize = 2_048;
/// How often a node without any link tries the addresses it remembers.
const BOOTSTRAP_EVERY: Duration = Duration::from_secs(2);
/// Addresses of other members kept for a start at which nobody is where it was.
const BOOTSTRAP_MAX: usize = 64;

/// What the helpers tell the task.
#[derive(Debug)]
pub(crate) enum Event {
    Message(NodeId, Message),
    Bad(NodeId, String),
    LaneClosed(NodeId, crate::wire::Lane, u64),
    Durable(u64),
    StoreFailed(String),
    Offer(admit::Ask, oneshot::Sender<Result<admit::Offer, String>>),
    Grant(admit::Ask, oneshot::Sender<Result<Vec<Vec<u8>>, String>>),
    Dial(DialOpts),
}

/// The nodes whose calls and streams are answered: those linked right now.
pub(crate) type Admitted = Arc<RwLock<BTreeSet<NodeId>>>;

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

/// Everything the task owns.
pub(crate) struct Task {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) control: libp2p_stream::Control,
    pub(crate) node: Node,
    pub(crate) store: Option<Store>,
    pub(crate) folder: Folder,
    pub(crate) cluster: ClusterFile,
    pub(crate) keypair: ed25519::Keypair,
    pub(crate) clock: Clock,
    pub(crate) peers: BTreeMap<NodeId, PeerId>,
    pub(crate) lanes: lanes::Lanes,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) admitted: Admitted,
    pub(crate) writes: BTreeMap<u64, (Row, oneshot::Sender<Result<Written, Error>>)>,
    pub(crate) watchers: watch::Watchers,
    pub(crate) advertise: Vec<String>,
    pub(crate) listening: BTreeSet<Multiaddr>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) bootstrap_at: Instant,
    pub(crate) expelled: Option<String>,
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
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut events: mpsc::Receiver<Event>) {
        loop {
            self.act();
            let wake = self.clock.at(self.node.poll_timeout().max(self.clock.now().ms));
            tokio::select! {
                event = self.swarm.select_next_some() => self.swarm_event(event),
                event = events.recv() => match event {
                    Some(event) => self.event(event),
                    None => break,
                },
                command = commands.recv() => match command {
                    Some(Command::Stop(done)) => {
                        self.act();
                        self.close();
                        let _ = done.send(());
                        return;
                    }
                    Some(Command::Leave(actor, done)) => {
                        let left = self.leave(&actor, &mut events).await;
                        let stop = left.is_ok();
                        let _ = done.send(left);
                        if stop {
                            return;
                        }
                    }
                    Some(command) => self.command(command),
                    None => {
                        self.close();
                        return;
                    }
                },
                () = tokio::time::sleep_until(wake) => {
                    let now = self.clock.now();
                    self.node.handle(now, Input::Tick);
                    self.try_bootstrap();
                }
            }
        }
    }

    /// Commits what was handed over and remembers where others are.
    fn close(&mut self) {
        self.store = None;
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

    /// Does what the core wants done.
    pub(crate) fn act(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Send(to, message) => self.send(to, &message),
                Output::Dial(peer, addresses) => self.dial(peer, &addresses),
                Output::Hangup(peer, _) => {
                    if let Some(peer) = self.peers.get(&peer) {
                        let _ = self.swarm.disconnect_peer_id(*peer);
                    }
                    self.lanes.close(peer);
                }
                Output::Store(batch, rows) => {
                    let failed = self.store.as_ref().and_then(|store| store.put(batch, rows).err());
                    if let Some(error) = failed {
                        self.watchers.alarm(&error.to_string());
                    }
                }
                Output::Epoch(epoch) => {
                    if let Some(store) = &self.store {
                        let _ = store.keep_epoch(epoch);
                    }
                }
                Output::Changed(row) => self.watchers.changed(row),
                Output::Gone(key) => self.watchers.gone(key),
                Output::Turned(node, liveness) => self.watchers.turned(node, liveness, self.clock.now().wall_ms),
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
        let linked: BTreeSet<NodeId> = self.node.linked().collect();
        let differs = *self.admitted.read().expect("nobody panics while holding it") != linked;
        if differs {
            *self.admitted.write().expect("nobody panics while holding it") = linked;
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
        // Names are resolved outside the task; numbers need no waiting.
        tokio::spawn(async move {
            let addresses = address::resolve(&addresses).await;
            let options =
                DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing).addresses(addresses);
            let _ = events.send(Event::Dial(options.build())).await;
        });
    }

    fn try_bootstrap(&mut self) {
        let now = Instant::now();
        if now < self.bootstrap_at || self.expelled.is_some() {
            return;
        }
        self.bootstrap_at = now + BOOTSTRAP_EVERY;
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
            Event::Message(peer, message) => self.node.handle(now, Input::Message(peer, message)),
            Event::Bad(peer, reason) => self.node.handle(now, Input::Bad(peer, reason)),
            Event::LaneClosed(peer, lane, number) => self.lanes.closed(peer, lane, number),
            Event::Durable(upto) => self.node.handle(now, Input::Durable(upto)),
            Event::StoreFailed(why) => {
                self.store = None;
                self.watchers.alarm(&why);
            }
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
        let refused = match error {
            DialError::Transport(errors) if !errors.is_empty() => errors.iter().all(|(_, error)| is_refused(error)),
            DialError::DialPeerConditionFalse(_) => return,
            _ => false,
        };
        self.node.handle(self.clock.now(), Input::DialFailed { peer: node, refused });
    }

    pub(crate) fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = self.clock.now();
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, num_established, .. } => {
                let Some((node, _)) = node_of(&peer_id) else {
                    let _ = self.swarm.disconnect_peer_id(peer_id);
                    return;
                };
                if num_established.get() == 1 && self.expelled.is_none() {
                    self.peers.insert(node, peer_id);
                    self.node.handle(now, Input::Connected(node));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some((node, _)) = node_of(&peer_id) {
                    self.lanes.close(node);
                    self.peers.remove(&node);
                    self.node.handle(now, Input::Disconnected(node));
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => self.dial_failed(peer_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.insert(address);
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

    fn behaviour_event(&mut self, event: BehaviourEvent) {
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

    fn readdress(&mut self) {
        let addresses = address::told(&self.advertise, &self.listening);
        let now = self.clock.now();
        self.node.handle(now, Input::Addresses(addresses));
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
