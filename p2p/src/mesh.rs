//! The handle to the mesh: what the rest of a node calls. In: plain requests. Out: plain answers, through one bounded
//! channel to the task that owns all state. Dropping a future of any method is safe: the request may still be carried out.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::id::{ClusterId, NodeId};
use crate::membership::{Liveness, Member, Role};
use crate::swarm::backup;
use crate::table::{Body, Key, Row, Table};

/// Requests that wait for the task; more make callers wait, which is the backpressure.
pub const COMMANDS_MAX: usize = 256;
/// Changes a watcher may lag behind before it is told [`Change::Lagged`] and must read the table anew.
pub const WATCH_LAG_MAX: usize = 4096;
/// Largest request or answer of [`Mesh::call`] in bytes; bulk goes through [`Mesh::open`].
pub const CALL_MAX: usize = 4 * 1024 * 1024;

/// What the node should be when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Intent {
    /// Carry on with what is on disk; make a new cluster when there is nothing.
    #[default]
    ResumeOrCreate,
    /// Carry on with what is on disk; an error when there is nothing.
    Resume,
    /// Join with this token (`shoal1…`, optionally `@HOST:PORT`); when the same cluster is on disk already, carry on.
    Join(String),
}

/// How to start.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The folder that is this node's alone: identity, membership, table.
    pub dir: PathBuf,
    /// Its name; the host's name if empty is the caller's choice to fill in.
    pub name: String,
    /// Its site; `default` if empty.
    pub site: String,
    /// Labels it starts with.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Where to listen: `HOST:PORT` or multiaddresses; default `0.0.0.0:4700`. Port 0 picks one.
    pub listen: Vec<String>,
    /// What to tell others to dial, when that differs from where it listens.
    pub advertise: Vec<String>,
    /// What to do about the cluster.
    pub intent: Intent,
    /// The program's version, shown to others.
    pub version: String,
}

/// What was told about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On this node's disk and at two peers' (or at all there are, when fewer than two are members).
    Replicated,
    /// On this node's disk only: too few peers answered in time.
    Local,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The row as it now stands.
    pub row: Row,
    /// How safe it is.
    pub durability: Durability,
}

/// One thing a watcher of a table learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A row was written or replaced; deleted rows come as tombstones.
    Row(Row),
    /// An evicted node's row or an expired tombstone is gone without a successor.
    Gone(Key),
    /// The watcher was too slow and missed some: read the table anew.
    Lagged,
}

/// A change of what is believed about a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberChange {
    /// Who.
    pub id: NodeId,
    /// What is believed now.
    pub liveness: Liveness,
    /// How often it had started by then.
    pub epoch: u64,
    /// Milliseconds since 1970 by this node's clock.
    pub at_ms: u64,
}

/// A wish for an admission token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWish {
    /// What the joiner may do.
    pub role: Role,
    /// How long it works, in ms from now; `None` for ever.
    pub ttl_ms: Option<u64>,
    /// How often it works; `None` without limit.
    pub uses: Option<u32>,
}

/// Who asked for a mutation, for the audit rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Actor {
    /// Who: a user's name, a certificate's id.
    pub who: String,
    /// From where: `unix`, an address.
    pub from: String,
}

/// What `mesh status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its name as addresses through a relay need it: `/p2p/PEER/p2p-circuit`.
    #[serde(default)]
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// How often it has started.
    pub epoch: u64,
    /// Where it listens.
    pub listening: Vec<String>,
    /// What it tells others to dial.
    pub addresses: Vec<String>,
    /// Members by liveness: alive, suspect, down.
    pub alive: usize,
    /// Suspected members.
    pub suspect: usize,
    /// Members that are down.
    pub down: usize,
    /// Standing connections to members.
    pub connections: usize,
    /// Rows held, tombstones included.
    pub rows: usize,
    /// Tombstones among them.
    pub tombstones: usize,
    /// Digest of every row that takes part in repair: equal on converged nodes.
    pub root: String,
    /// The lowest feature level of the members.
    pub feature_level: u16,
    /// Rows that cannot be understood, with the reason, at most a few hundred.
    pub quarantined: Vec<(String, String)>,
    /// What an operator should look at, newest last.
    pub alarms: Vec<Alarm>,
    /// Whether the mass-failure brake holds, and since when (ms since 1970).
    pub brake_since_ms: Option<u64>,
    /// Why this node takes no part any more: it was evicted, or its key runs elsewhere too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expelled: Option<String>,
    /// Counters by name, for metrics.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// Something an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What: `cloned-key`, `clock`, `quarantine`, `bad-message`, `mass-failure`, `store`.
    pub kind: String,
    /// In words, with what to do next.
    pub text: String,
}

/// A concurrent writing that lost, as `mesh conflicts` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// The id to show or resolve it by.
    pub id: String,
    /// The row it is about.
    pub key: Key,
    /// What lost.
    pub lost: Row,
    /// What stands now, if the key still has a row.
    pub stands: Option<Row>,
}

/// How a conflict ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolve {
    /// What stands was right: forget the loser.
    KeepCurrent,
    /// The loser was right: write it over what stands.
    TakeLost,
}

/// Why a request to the mesh failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The task has ended: the node is shutting down.
    #[error("the mesh of this node has stopped")]
    Stopped,
    /// The key, the body or the table is not acceptable.
    #[error("write {key}: {reason}")]
    Refused {
        /// Which row.
        key: String,
        /// Why.
        reason: String,
    },
    /// What the write was decided on has changed since.
    #[error("write {key}: somebody changed it meanwhile; look again and repeat")]
    Changed {
        /// Which row.
        key: String,
    },
    /// The node is not known or not a member.
    #[error("node {node}: {reason}")]
    Node {
        /// Which node.
        node: String,
        /// Why.
        reason: String,
    },
    /// A call to a peer failed.
    #[error("call {protocol} at {peer}: {reason}")]
    Call {
        /// Whom.
        peer: NodeId,
        /// Which protocol.
        protocol: String,
        /// Why.
        reason: String,
    },
    /// A token could not be made, read or used.
    #[error("token: {reason}")]
    Token {
        /// Why, and what to do next.
        reason: String,
    },
    /// A file of the mesh could not be read or written.
    #[error("{step} {path}: {reason}")]
    Disk {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The node could not start or join.
    #[error("{0}")]
    Start(String),
    /// No conflict has this id.
    #[error("conflict {0}: no such conflict; see `shoal mesh conflicts ls`")]
    NoConflict(String),
}

/// Answers calls of peers on one protocol: who called and what they sent → the answer, or words for the caller.
pub type Handler =
    Arc<dyn Fn(NodeId, Vec<u8>) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>> + Send + Sync>;

/// A handle to the mesh of this node; clones share it. The task ends when the last handle is dropped or at [`Mesh::stop`].
#[derive(Debug, Clone)]
pub struct Mesh {
    commands: mpsc::Sender<Command>,
    id: NodeId,
    cluster: ClusterId,
}

/// What the handle asks of the task.
pub(crate) enum Command {
    Put(Key, Option<Body>, Option<Actor>, oneshot::Sender<Result<Written, Error>>),
    PutIf(Key, Body, Option<Actor>, Check, oneshot::Sender<Result<Written, Error>>),
    Get(Key, oneshot::Sender<Option<Row>>),
    Rows(Table, String, bool, oneshot::Sender<Vec<Row>>),
    Watch(Table, oneshot::Sender<mpsc::Receiver<Change>>),
    WatchMembers(oneshot::Sender<mpsc::Receiver<MemberChange>>),
    Members(oneshot::Sender<Vec<Member>>),
    Role(NodeId, oneshot::Sender<Role>),
    Call(NodeId, String, Vec<u8>, oneshot::Sender<Result<Vec<u8>, Error>>),
    Open(NodeId, String, oneshot::Sender<Result<libp2p::Stream, Error>>),
    Serve(String, Serve, oneshot::Sender<Result<(), Error>>),
    TokenCreate(TokenWish, Actor, oneshot::Sender<Result<String, Error>>),
    TokenRevoke(String, Actor, oneshot::Sender<Result<(), Error>>),
    Evict(NodeId, Actor, oneshot::Sender<Result<(), Error>>),
    Leave(Actor, oneshot::Sender<Result<(), Error>>),
    Status(oneshot::Sender<Status>),
    Conflicts(oneshot::Sender<Vec<Conflict>>),
    ResolveConflict(String, Resolve, Actor, oneshot::Sender<Result<(), Error>>),
    Quarantine(Key, String),
    Backup(oneshot::Sender<Vec<Vec<u8>>>),
    Restore(Vec<Row>, Actor, oneshot::Sender<Result<usize, Error>>),
    Stop(oneshot::Sender<()>),
}

/// Says whether what a writer decided on still stands, from rows that it looks up.
pub(crate) type Check = Box<dyn FnOnce(&dyn Fn(&Key) -> Option<Row>) -> bool + Send>;

/// How a protocol is answered.
pub(crate) enum Serve {
    Calls(Handler),
    Streams(mpsc::Sender<(NodeId, libp2p::Stream)>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl Mesh {
    /// Starts (resumes, creates or joins) and returns once the node listens and, when joining, is a member.
    ///
    /// # Errors
    /// Files that cannot be read or written, addresses that cannot be listened on, tokens that are malformed, foreign,
    /// expired, spent or revoked, a cluster that does not answer.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let (commands, id, cluster) = crate::swarm::start::start(config).await?;
        Ok(Self { commands, id, cluster })
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// This node's cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (answer, wait) = oneshot::channel();
        self.commands.send(make(answer)).await.map_err(|_| Error::Stopped)?;
        wait.await.map_err(|_| Error::Stopped)
    }

    /// Writes a row whole. Owned tables take only this node's own keys. Returns when it is on this disk and at two peers,
    /// or on this disk alone when peers do not answer in time ([`Durability::Local`]): never before it is durable here. Hot tables return at once.
    ///
    /// # Errors
    /// [`Error::Refused`] for a foreign owner, an oversize key or body, a table the cluster's feature level does not allow;
    /// [`Error::Disk`] when this node's disk takes no more.
    pub async fn put(&self, key: Key, body: impl Into<Body>) -> Result<Written, Error> {
        let body = body.into();
        self.ask(|answer| Command::Put(key, Some(body), None, answer)).await?
    }

    /// As [`Mesh::put`], or a deletion, in two steps: returns once the write has its place among this node's writes, with what
    /// waits for its outcome. Two writes of one caller keep their order so, however busy the node is.
    ///
    /// # Errors
    /// [`Error::Stopped`]; all others come with the outcome.
    pub async fn begin(
        &self,
        key: Key,
        body: Option<Body>,
    ) -> Result<impl Future<Output = Result<Written, Error>> + Send + use<>, Error> {
        let (answer, wait) = oneshot::channel();
        self.commands.send(Command::Put(key, body, None, answer)).await.map_err(|_| Error::Stopped)?;
        Ok(async move { wait.await.map_err(|_| Error::Stopped)? })
    }

    /// As [`Mesh::put`], and leaves an audit row that names `actor`.
    ///
    /// # Errors
    /// As [`Mesh::put`].
    pub async fn put_as(&self, actor: Actor, key: Key, body: impl Into<Body>) -> Result<Written, Error> {
        let body = body.into();
        self.ask(|answer| Command::Put(key, Some(body), Some(actor), answer)).await?
    }

    /// As [`Mesh::put`], unless `check` says that what the writer decided on no longer stands. Nothing is written between the
    /// check, which may look rows up, and this write; `check` must be short. With an actor it leaves an audit row.
    ///
    /// # Errors
    /// [`Error::Changed`] when `check` says no; else as [`Mesh::put`].
    pub async fn put_if(
        &self,
        actor: Option<Actor>,
        key: Key,
        body: impl Into<Body>,
        check: impl FnOnce(&dyn Fn(&Key) -> Option<Row>) -> bool + Send + 'static,
    ) -> Result<Written, Error> {
        let body = body.into();
        self.ask(|answer| Command::PutIf(key, body, actor, Box::new(check), answer)).await?
    }

    /// Deletes a row, which leaves a tombstone. Deleting what is not there is [`Error::Refused`].
    ///
    /// # Errors
    /// As [`Mesh::put`].
    pub async fn delete(&self, key: Key, actor: Option<Actor>) -> Result<Written, Error> {
        self.ask(|answer| Command::Put(key, None, actor, answer)).await?
    }

    /// The live row under `key`, if there is one.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn get(&self, key: Key) -> Result<Option<Row>, Error> {
        self.ask(|answer| Command::Get(key, answer)).await
    }

    /// All live rows of a table in the order of their keys. Owned rows of nodes that are down are left out.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn rows(&self, table: Table) -> Result<Vec<Row>, Error> {
        self.ask(|answer| Command::Rows(table, String::new(), false, answer)).await
    }

    /// Live rows of a table whose id starts with `prefix`, in the order of their keys; with `include_down` also the owned
    /// rows of nodes that are down.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn rows_with(&self, table: Table, prefix: &str, include_down: bool) -> Result<Vec<Row>, Error> {
        self.ask(|answer| Command::Rows(table, prefix.to_owned(), include_down, answer)).await
    }

    /// Changes of a table from now on, at most [`WATCH_LAG_MAX`] behind.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn watch(&self, table: Table) -> Result<mpsc::Receiver<Change>, Error> {
        self.ask(|answer| Command::Watch(table, answer)).await
    }

    /// Changes of liveness from now on.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn watch_members(&self) -> Result<mpsc::Receiver<MemberChange>, Error> {
        self.ask(Command::WatchMembers).await
    }

    /// Every member that was not evicted, this node among them, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        self.ask(Command::Members).await
    }

    /// What a node may do by its certificate; no more than read while that is not known.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn role(&self, node: NodeId) -> Result<Role, Error> {
        self.ask(|answer| Command::Role(node, answer)).await
    }

    /// Sends `bytes` to `peer` and returns its handler's answer; connects first when no connection stands. Ten seconds.
    /// It is sent again when the link breaks before the answer: a handler may see one request twice.
    ///
    /// # Errors
    /// [`Error::Call`] when the peer is unknown, unreachable, does not serve the protocol, refuses or is too slow.
    pub async fn call(&self, peer: NodeId, protocol: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        self.ask(|answer| Command::Call(peer, protocol.to_owned(), bytes, answer)).await?
    }

    /// Answers calls of members on `protocol` (`/shoal/NAME/VERSION`) with `handler`, many at once up to a bound.
    ///
    /// # Errors
    /// [`Error::Start`] when the protocol is served already.
    pub async fn serve(&self, protocol: &str, handler: Handler) -> Result<(), Error> {
        self.ask(|answer| Command::Serve(protocol.to_owned(), Serve::Calls(handler), answer)).await?
    }

    /// Opens a raw stream of `protocol` to `peer`, for bulk.
    ///
    /// # Errors
    /// As [`Mesh::call`].
    pub async fn open(&self, peer: NodeId, protocol: &str) -> Result<libp2p::Stream, Error> {
        self.ask(|answer| Command::Open(peer, protocol.to_owned(), answer)).await?
    }

    /// Raw streams of `protocol` that members open here.
    ///
    /// # Errors
    /// As [`Mesh::serve`].
    pub async fn accept(&self, protocol: &str) -> Result<mpsc::Receiver<(NodeId, libp2p::Stream)>, Error> {
        let (sender, receiver) = mpsc::channel(64);
        self.ask(|answer| Command::Serve(protocol.to_owned(), Serve::Streams(sender), answer)).await??;
        Ok(receiver)
    }

    /// Makes an admission token and returns its text, the only place its secret is shown.
    ///
    /// # Errors
    /// [`Error::Token`] when this node's role does not admit.
    pub async fn token_create(&self, wish: TokenWish, actor: Actor) -> Result<String, Error> {
        self.ask(|answer| Command::TokenCreate(wish, actor, answer)).await?
    }

    /// Revokes a token by its id (rows of [`Table::TOKEN`] list them).
    ///
    /// # Errors
    /// [`Error::Token`] when there is no such token.
    pub async fn token_revoke(&self, id: &str, actor: Actor) -> Result<(), Error> {
        self.ask(|answer| Command::TokenRevoke(id.to_owned(), actor, answer)).await?
    }

    /// Evicts a node for ever: its rows are forgotten and every connected node drops it within seconds.
    ///
    /// # Errors
    /// [`Error::Node`] when it is no member or this node's role does not allow it.
    pub async fn evict(&self, node: NodeId, actor: Actor) -> Result<(), Error> {
        self.ask(|answer| Command::Evict(node, actor, answer)).await?
    }

    /// Leaves the cluster: tells the others, forgets the membership on disk (the identity stays) and stops.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub async fn leave(&self, actor: Actor) -> Result<(), Error> {
        self.ask(|answer| Command::Leave(actor, answer)).await?
    }

    /// What `mesh status` shows.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(Command::Status).await
    }

    /// Concurrent writings that lost and were not resolved.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn conflicts(&self) -> Result<Vec<Conflict>, Error> {
        self.ask(Command::Conflicts).await
    }

    /// Ends a conflict.
    ///
    /// # Errors
    /// [`Error::NoConflict`].
    pub async fn resolve_conflict(&self, id: &str, how: Resolve, actor: Actor) -> Result<(), Error> {
        self.ask(|answer| Command::ResolveConflict(id.to_owned(), how, actor, answer)).await?
    }

    /// Names a row whose body its reader cannot understand, so that `mesh status` shows it.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn quarantine(&self, key: Key, reason: impl Into<String>) -> Result<(), Error> {
        self.commands.send(Command::Quarantine(key, reason.into())).await.map_err(|_| Error::Stopped)
    }

    /// Every live shared row as one document, for `mesh backup`.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn backup(&self) -> Result<Vec<u8>, Error> {
        let (cluster, rows) = (self.cluster, self.ask(Command::Backup).await?);
        tokio::task::spawn_blocking(move || backup::document(cluster, &rows)).await.map_err(|_| Error::Stopped)
    }

    /// Writes the rows of a backup into the live cluster as edits; returns how many rows it wrote. Everything is read before
    /// the first row is written; the node goes on with all else meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] when the document is not a backup.
    pub async fn restore(&self, document: Vec<u8>, actor: Actor) -> Result<usize, Error> {
        let rows = tokio::task::spawn_blocking(move || backup::read(&document)).await.map_err(|_| Error::Stopped)??;
        self.ask(|answer| Command::Restore(rows, actor, answer)).await?
    }

    /// Stops the task after everything written is on disk. The node stays a member.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it had stopped already.
    pub async fn stop(&self) -> Result<(), Error> {
        self.ask(Command::Stop).await
    }
}
