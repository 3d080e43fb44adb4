//! What a core is made of, what happens to it and what it wants done. Plain data: whoever drives a core speaks these words.

use crate::admission::Verify;
use crate::id::{ClusterId, NodeId};
use crate::membership::Liveness;
use crate::membership::view::Facts;
use crate::mesh::{Alarm, Durability};
use crate::table::{Key, Position, Row};
use crate::wire::Message;

/// The two clocks of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, in ms from any start.
    pub ms: u64,
    /// The wall clock, in ms since 1970.
    pub wall_ms: u64,
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its id.
    pub id: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its certificates, its own first, up to the one the root signed, as bytes.
    pub chain: Vec<Vec<u8>>,
    /// What it says of itself.
    pub facts: Facts,
    /// Its epoch: already persisted, greater than any before.
    pub epoch: u64,
    /// The check of signatures.
    pub verify: Verify,
    /// Seed of its random choices.
    pub seed: u64,
}

/// What happens to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A connection to this peer stands; the transport has checked its key.
    Connected(NodeId),
    /// No connection to this peer stands any more.
    Disconnected(NodeId),
    /// Dialling failed; `refused` when its host answered that nobody listens.
    DialFailed {
        /// Whom.
        peer: NodeId,
        /// See above.
        refused: bool,
    },
    /// A message of a peer.
    Message(NodeId, Message),
    /// Bytes of a peer that are no message.
    Bad(NodeId, String),
    /// Everything up to this batch is on disk.
    Durable(u64),
    /// The disk has failed: nothing that waits for it will be confirmed.
    StoreFailed,
    /// This node's own addresses have changed.
    Addresses(Vec<String>),
}

/// What a node wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this, in order within its lane; may be dropped when the peer does not read.
    Send(NodeId, Message),
    /// Connect to this peer at one of these addresses.
    Dial(NodeId, Vec<String>),
    /// Close all connections to this peer.
    Hangup(NodeId, String),
    /// Put these on disk (`None`: delete) and answer with [`Input::Durable`].
    Store(u64, Vec<(Position, Option<Vec<u8>>)>),
    /// Persist this epoch before anything else is sent.
    Epoch(u64),
    /// A row stands.
    Changed(Row),
    /// A row is forgotten.
    Gone(Key),
    /// A member's liveness changed.
    Turned(NodeId, Liveness),
    /// A write is as safe as it will be said to be.
    Acked(u64, Durability),
    /// Something for the operator.
    Alarm(Alarm),
    /// This node was evicted, or its key runs elsewhere too: it must stop taking part.
    Expelled(String),
}
