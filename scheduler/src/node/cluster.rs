//! The mesh as the core sees it: rows become events, actions become rows and calls. Nothing is decided here.

use super::containers::listening;
use super::{Handle, Input, containers::Worker, journal::Journal};
use crate::core::Event;
use crate::model::{
    Answer, InstanceRow, Liveness, NodeFacts, NodeId, NodePolicy, Release, Reserve, RolloutRow, ServiceRow,
};
use crate::port::LogWish;
use crate::service::Protocol;
use p2p::Mesh;
use p2p::membership::Role;
use p2p::mesh::{Change, Error};
use p2p::table::{Body, Key, Row, Table, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The calls between schedulers, version 1: JSON of [`Ask`], answered with JSON of [`Answer`] or of lines.
pub const PROTOCOL: &str = "/shoal/scheduler/1";
/// Writes that wait for the mesh.
const WRITES_MAX: usize = 1_024;
/// How long a node may take to say which ports are taken there: an operator waits, and it is a courtesy.
const LISTENS_WITHIN: Duration = Duration::from_millis(500);
/// How long after a write that the disk refused it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(2);
/// How often members are read in whole: changes come by themselves, this catches a lost one.
const MEMBERS_EVERY: Duration = Duration::from_secs(5);

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Run an instance.
    Reserve(Box<Reserve>),
    /// Stop an instance.
    Release(Release),
    /// Send what an instance wrote.
    Logs {
        /// The instance.
        id: String,
        /// At most this many lines, the last ones.
        tail: usize,
        /// None from before this time, in nanoseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        /// Each begins with its time and a space.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        times: bool,
    },
    /// Know that something was pushed to a registry.
    Pushed {
        /// The repository within it.
        repository: String,
    },
    /// Say which of these ports a program of the host listens on.
    Listens {
        /// The ports.
        ports: Vec<(u16, Protocol)>,
    },
}

/// Answers the calls of other nodes.
pub(crate) async fn serve(
    mesh: &Mesh,
    handle: &Handle,
    worker: &Worker,
    pushes: &Arc<super::mirror::Pushes>,
) -> Result<(), Error> {
    let (handle, worker, asked, pushes) = (handle.clone(), worker.clone(), mesh.clone(), Arc::clone(pushes));
    mesh.serve(
        PROTOCOL,
        Arc::new(move |peer, bytes| {
            let (handle, worker, mesh, pushes) = (handle.clone(), worker.clone(), asked.clone(), Arc::clone(&pushes));
            Box::pin(async move {
                let ask: Ask = serde_json::from_slice(&bytes).map_err(|error| format!("not understood: {error}"))?;
                if !matches!(ask, Ask::Logs { .. } | Ask::Listens { .. })
                    && mesh.role(peer).await.map_err(|error| error.to_string())? < Role::Member
                {
                    return Err(format!("node {peer} may only read"));
                }
                let answer = match ask {
                    Ask::Reserve(reserve) => serde_json::to_vec(&reserve_here(&handle, reserve).await),
                    Ask::Release(release) => serde_json::to_vec(&release_here(&handle, release).await),
                    Ask::Pushed { repository } => {
                        pushes.tell(&repository);
                        serde_json::to_vec(&())
                    }
                    Ask::Listens { ports } => serde_json::to_vec(&listening::taken(&ports)),
                    Ask::Logs { id, tail, since, times } => {
                        serde_json::to_vec(&worker.logs(&id, LogWish { tail, since, times }).await?)
                    }
                };
                answer.map_err(|error| error.to_string())
            })
        }),
    )
    .await
}

async fn reserve_here(handle: &Handle, reserve: Box<Reserve>) -> Answer {
    let (sender, receiver) = oneshot::channel();
    let _ = handle.inputs.send(Input::Reserve(reserve, sender)).await;
    receiver.await.unwrap_or_else(|_| Answer::Refused("the node ends".to_owned()))
}

async fn release_here(handle: &Handle, release: Release) -> Answer {
    let (sender, receiver) = oneshot::channel();
    let _ = handle.inputs.send(Input::Release(release, sender)).await;
    receiver.await.unwrap_or_else(|_| Answer::Refused("the node ends".to_owned()))
}

/// Asks a node, or this one, to run an instance. An error is a refusal.
pub(crate) async fn ask_reserve(
    mesh: &Mesh,
    handle: &Handle,
    me: &NodeId,
    to: &NodeId,
    reserve: Box<Reserve>,
) -> Answer {
    if to == me {
        return reserve_here(handle, reserve).await;
    }
    call(mesh, to, &Ask::Reserve(reserve)).await.unwrap_or_else(Answer::Refused)
}

/// Asks a node, or this one, to stop an instance.
pub(crate) async fn ask_release(mesh: &Mesh, handle: &Handle, me: &NodeId, to: &NodeId, release: Release) -> Answer {
    if to == me {
        return release_here(handle, release).await;
    }
    call(mesh, to, &Ask::Release(release)).await.unwrap_or_else(Answer::Refused)
}

/// Asks a node for what an instance wrote.
pub(crate) async fn ask_logs(mesh: &Mesh, to: &NodeId, id: &str, wish: LogWish) -> Result<Vec<String>, String> {
    let LogWish { tail, since, times } = wish;
    let asked = call(mesh, to, &Ask::Logs { id: id.to_owned(), tail, since, times }).await;
    asked.map_err(|why| format!("its node did not send its log: {why}"))
}

/// Tells a node that something was pushed to a registry; one that cannot be told looks by itself in its time.
pub(crate) async fn tell_pushed(mesh: &Mesh, to: &NodeId, repository: &str) {
    let _ = call::<()>(mesh, to, &Ask::Pushed { repository: repository.to_owned() }).await;
}

/// Asks a node, or this one, which of these ports a program of its host listens on; none when it does not say.
pub(crate) async fn ask_listens(
    mesh: &Mesh,
    me: &NodeId,
    to: &NodeId,
    ports: &[(u16, Protocol)],
) -> Vec<(u16, Protocol)> {
    if to == me {
        return listening::taken(ports);
    }
    let ask = Ask::Listens { ports: ports.to_vec() };
    let asked = tokio::time::timeout(LISTENS_WITHIN, call(mesh, to, &ask)).await;
    asked.ok().and_then(Result::ok).unwrap_or_default()
}

async fn call<T: DeserializeOwned>(mesh: &Mesh, to: &NodeId, ask: &Ask) -> Result<T, String> {
    let peer = to.parse::<p2p::NodeId>().map_err(|error| error.to_string())?;
    let bytes = serde_json::to_vec(ask).map_err(|error| error.to_string())?;
    let answer = mesh.call(peer, PROTOCOL, bytes).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| format!("its answer is not understood: {error}"))
}

/// Writes this node's facts.
pub(crate) async fn announce(mesh: &Mesh, me: &NodeId, facts: &NodeFacts, journal: &Arc<Journal>) -> Result<(), Error> {
    let owner = me.parse::<p2p::NodeId>().expect("the mesh's own id");
    let body = Body::json(facts).expect("plain data has a JSON form");
    let (mesh, key) = (mesh.clone(), Key::owned(Table::NODE_FACTS, owner, ""));
    // The write is accepted at once; that two peers have it is not worth waiting for.
    let mut put = Box::pin(async move { mesh.put(key, body).await });
    match futures::poll!(&mut put) {
        std::task::Poll::Ready(done) => done.map(drop),
        std::task::Poll::Pending => {
            let (journal, me) = (Arc::clone(journal), me.clone());
            tokio::spawn(async move {
                if let Err(error) = put.await {
                    journal.note("facts", &me, &format!("this node's facts were not written: {error}"));
                }
            });
            Ok(())
        }
    }
}

/// Turns rows and verdicts into events, for as long as the node runs. First everything there is, then changes; a watcher
/// that fell behind reads everything again.
pub(crate) async fn follow(mesh: Mesh, handle: Handle, journal: Arc<Journal>) {
    const TABLES: [Table; 5] = [Table::NODE_FACTS, Table::NODE_POLICY, Table::SERVICE, Table::ROLLOUT, Table::INSTANCE];
    let (sender, mut changes) = mpsc::channel::<(Table, Change)>(WRITES_MAX);
    let Ok(mut members) = mesh.watch_members().await else { return };
    let mut known = BTreeMap::new();
    let mut told = Told::default();
    read_members(&mesh, &handle, &mut known).await;
    for table in TABLES {
        let Ok(receiver) = mesh.watch(table).await else { return };
        if !read_table(&mesh, &handle, &mut told, table).await {
            return;
        }
        tokio::spawn(pass_on(mesh.clone(), table, receiver, sender.clone()));
    }
    handle.event(Event::TablesRead).await;
    let mut every = tokio::time::interval(MEMBERS_EVERY);
    loop {
        tokio::select! {
            change = members.recv() => match change {
                Some(change) => {
                    let node = change.id.to_string();
                    if !known.contains_key(&node) {
                        // What it may do is known before anything of it is believed.
                        read_members(&mesh, &handle, &mut known).await;
                    }
                    let word = serde_json::to_value(change.liveness).ok();
                    let word = word.as_ref().and_then(|value| value.as_str()).unwrap_or("changed").to_owned();
                    journal.note("member", &node, &word);
                    if known.insert(node.clone(), change.epoch).is_some_and(|before| before < change.epoch) {
                        handle.event(Event::Restarted(node.clone())).await;
                    }
                    handle.event(Event::Member { node, liveness: liveness(change.liveness) }).await;
                }
                // This watcher was too slow for the mesh, which let it go: everything is read anew.
                None => match mesh.watch_members().await {
                    Ok(again) => {
                        members = again;
                        read_members(&mesh, &handle, &mut known).await;
                    }
                    Err(_) => return,
                },
            },
            change = changes.recv() => match change {
                Some((table, Change::Row(row))) => {
                    told.saw(&row);
                    deliver(&mesh, &handle, table, row).await;
                }
                Some((table, Change::Gone(key))) => {
                    told.gone(&key);
                    if let Some(event) = gone(table, &key) {
                        handle.event(event).await;
                    }
                }
                Some((table, Change::Lagged)) => {
                    let _ = read_table(&mesh, &handle, &mut told, table).await;
                }
                None => return,
            },
            _ = every.tick() => {
                read_members(&mesh, &handle, &mut known).await;
                keep_stricter(&mesh, &journal).await;
                if is_expelled(&mesh).await {
                    handle.event(Event::Retire).await;
                }
            }
        }
    }
}

/// Hands a table's changes on, for as long as the mesh runs. A watcher that was let go is made anew, and everything is read
/// again.
async fn pass_on(
    mesh: Mesh,
    table: Table,
    mut receiver: mpsc::Receiver<Change>,
    changes: mpsc::Sender<(Table, Change)>,
) {
    loop {
        while let Some(change) = receiver.recv().await {
            if changes.send((table, change)).await.is_err() {
                return;
            }
        }
        let Ok(again) = mesh.watch(table).await else { return };
        receiver = again;
        if changes.send((table, Change::Lagged)).await.is_err() {
            return;
        }
    }
}

/// A drain of this node that lost to a label which somebody gave it at the same moment: it is said again, in one row with the
/// label. Nobody looks for conflicts while a machine is being emptied.
async fn keep_stricter(mesh: &Mesh, journal: &Journal) {
    let me = mesh.id().to_string();
    let Ok(conflicts) = mesh.conflicts().await else { return };
    for conflict in conflicts.into_iter().filter(|it| it.key.table == Table::NODE_POLICY && it.key.id == me) {
        let Some(stands) = conflict.stands else { continue };
        let Some(policy) = stricter(&conflict.lost, &stands) else { continue };
        let (key, body) = (conflict.key, Body::json(&policy).expect("plain data has a JSON form"));
        let wanted = key.clone();
        let check = move |get: &dyn Fn(&Key) -> Option<Row>| get(&wanted).as_ref() == Some(&stands);
        if mesh.put_if(None, key, body, check).await.is_ok() {
            let word = policy.availability.word().to_lowercase();
            journal.note("policy", &me, &format!("{word}: it had lost to another change at the same moment"));
        }
    }
}

/// What shall stand of a node where two things were said of it at once: the stricter availability. `None` when that stands, and
/// once somebody has said something since.
fn stricter(lost: &Row, stands: &Row) -> Option<NodePolicy> {
    let at_once = match (&lost.version, &stands.version) {
        (Version::Shared { generation: lost, .. }, Version::Shared { generation: stands, .. }) => lost >= stands,
        _ => false,
    };
    if !at_once || lost.deleted || stands.deleted {
        return None;
    }
    let (lost, stands): (NodePolicy, NodePolicy) = (lost.body.parse().ok()?, stands.body.parse().ok()?);
    (lost.availability > stands.availability).then_some(NodePolicy { availability: lost.availability, ..stands })
}

/// Whether this node was told that it is no member any more.
async fn is_expelled(mesh: &Mesh) -> bool {
    mesh.status().await.is_ok_and(|status| status.expelled.is_some())
}

async fn read_members(mesh: &Mesh, handle: &Handle, known: &mut BTreeMap<NodeId, u64>) {
    let Ok(members) = mesh.members().await else { return };
    let mut present = BTreeMap::new();
    let readers = members.iter().filter(|member| member.role == Role::Reader).map(|member| member.id.to_string());
    handle.event(Event::Readers(readers.collect())).await;
    for member in members {
        let node = member.id.to_string();
        present.insert(node.clone(), member.epoch);
        if known.get(&node).is_some_and(|before| *before < member.epoch) {
            handle.event(Event::Restarted(node.clone())).await;
        }
        handle.event(Event::Member { node, liveness: liveness(member.liveness) }).await;
    }
    for node in known.keys().filter(|node| !present.contains_key(*node)) {
        handle.event(Event::MemberGone(node.clone())).await;
    }
    *known = present;
}

/// The keys the core has been told of. A watcher that fell behind learns from it what was deleted meanwhile: what is no
/// longer there sends no change.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeSet<Key>);

impl Told {
    /// A row came, or the tombstone of one.
    pub(crate) fn saw(&mut self, row: &Row) {
        if row.deleted {
            self.0.remove(&row.key);
        } else {
            self.0.insert(row.key.clone());
        }
    }

    /// A row was forgotten.
    pub(crate) fn gone(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// The whole table was read: returns what is missing from it.
    pub(crate) fn missing(&mut self, table: Table, rows: &[Row]) -> Vec<Key> {
        let present: BTreeSet<&Key> = rows.iter().filter(|row| !row.deleted).map(|row| &row.key).collect();
        let missing: Vec<Key> =
            self.0.iter().filter(|key| key.table == table && !present.contains(key)).cloned().collect();
        for key in &missing {
            self.0.remove(key);
        }
        self.0.extend(present.into_iter().cloned());
        missing
    }
}

async fn read_table(mesh: &Mesh, handle: &Handle, told: &mut Told, table: Table) -> bool {
    let Ok(rows) = mesh.rows_with(table, "", true).await else { return false };
    for event in told.missing(table, &rows).iter().filter_map(|key| gone(table, key)) {
        handle.event(event).await;
    }
    for row in rows {
        deliver(mesh, handle, table, row).await;
    }
    true
}

async fn deliver(mesh: &Mesh, handle: &Handle, table: Table, row: Row) {
    if row.deleted {
        if let Some(event) = gone(table, &row.key) {
            handle.event(event).await;
        }
        return;
    }
    match event(table, &row) {
        Ok(Some(event)) => handle.event(event).await,
        Ok(None) => {}
        Err(reason) => {
            if table == Table::SERVICE {
                handle.event(Event::ServiceUnclear(row.key.id.clone())).await;
            }
            let _ = mesh.quarantine(row.key, reason).await;
        }
    }
}

/// Reads a row of a table that the core knows; `None` for other tables. The key must agree with the body: nobody speaks for
/// another node.
///
/// # Errors
/// In words, for the quarantine.
pub fn event(table: Table, row: &Row) -> Result<Option<Event>, String> {
    let owner = || row.key.owner().map(|id| id.to_string()).unwrap_or_default();
    let read_error = |error: serde_json::Error| error.to_string();
    Ok(Some(match table {
        Table::NODE_FACTS => Event::Facts(owner(), row.body.parse::<NodeFacts>().map_err(read_error)?),
        Table::NODE_POLICY => {
            Event::Policy(row.key.id.clone(), Some(row.body.parse::<NodePolicy>().map_err(read_error)?))
        }
        Table::SERVICE => {
            let service: ServiceRow = row.body.parse().map_err(read_error)?;
            if service.spec.name != row.key.id {
                return Err(format!("the row of {} names {}", row.key.id, service.spec.name));
            }
            Event::Service(Box::new(service))
        }
        Table::ROLLOUT => Event::Rollout(row.key.id.clone(), row.body.parse::<RolloutRow>().map_err(read_error)?),
        Table::INSTANCE => {
            let instance: InstanceRow = row.body.parse().map_err(read_error)?;
            if instance.node != owner() || instance.id != row.key.rest() {
                return Err(format!("the row of {} names another node or instance", row.key.id));
            }
            Event::Instance(Box::new(instance))
        }
        _ => return Ok(None),
    }))
}

/// What the end of a row means to the core; `None` when it means nothing.
#[must_use]
pub fn gone(table: Table, key: &Key) -> Option<Event> {
    match table {
        Table::NODE_POLICY => Some(Event::Policy(key.id.clone(), None)),
        Table::SERVICE => Some(Event::ServiceGone(key.id.clone())),
        Table::ROLLOUT => Some(Event::RolloutGone(key.id.clone())),
        Table::INSTANCE => Some(Event::InstanceGone { node: key.owner()?.to_string(), id: key.rest().to_owned() }),
        _ => None,
    }
}

/// The core's word for a verdict of the membership.
#[must_use]
pub fn liveness(liveness: p2p::membership::Liveness) -> Liveness {
    match liveness {
        p2p::membership::Liveness::Alive => Liveness::Alive,
        p2p::membership::Liveness::Suspect => Liveness::Suspect,
        p2p::membership::Liveness::Down => Liveness::Down,
        p2p::membership::Liveness::Left => Liveness::Left,
    }
}

/// Writes rows in the order they were decided, without waiting for each to be replicated.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    writes: mpsc::Sender<Write>,
}

/// What a steward writes.
#[derive(Debug)]
enum Write {
    Put(Key, Body),
    /// Nothing: tells when everything before it stands in this node's table.
    Mark(oneshot::Sender<()>),
    Delete(Key),
    /// A service, over the generation before it and nothing newer: an operator's change that this node has not seen stands.
    Service(Key, Body, String, u64),
}

/// Whether a service's row is the one with this id, before this generation.
fn precedes(row: Option<Row>, id: &str, generation: u64) -> bool {
    let known = row.and_then(|row| row.body.parse::<ServiceRow>().ok());
    known.is_some_and(|known| known.id == id && known.generation + 1 == generation)
}

/// Rows of this node that its disk refused: the core takes them for written, so they are written as soon as that goes.
#[derive(Debug, Default)]
struct Refused {
    /// Counts the writes of each key that is under way or waits.
    latest: BTreeMap<Key, u64>,
    waiting: BTreeMap<Key, Write>,
    serial: u64,
}

impl Refused {
    /// A write of this key begins: what waits is older.
    fn begins(&mut self, key: &Key) -> u64 {
        self.serial += 1;
        self.waiting.remove(key);
        self.latest.insert(key.clone(), self.serial);
        self.serial
    }

    /// A write ended; `again` is what to write when it was refused. Only the last of a key counts.
    fn ended(&mut self, key: Key, serial: u64, again: Option<Write>) {
        if self.latest.get(&key) != Some(&serial) {
            return;
        }
        self.latest.remove(&key);
        if let Some(write) = again {
            self.waiting.insert(key, write);
        }
    }
}

/// Writes one row. It has its place among the writes when this returns; only the wait for its peers runs beside the next.
async fn do_write(mesh: &Mesh, refused: &mut Refused, ends: &mpsc::Sender<(Key, u64, Option<Write>)>, write: Write) {
    let (mesh, ends) = (mesh.clone(), ends.clone());
    let keep = match &write {
        Write::Put(key, body) => Some((key.clone(), Write::Put(key.clone(), body.clone()))),
        Write::Delete(key) => Some((key.clone(), Write::Delete(key.clone()))),
        Write::Mark(_) | Write::Service(..) => None,
    };
    let keep = keep.map(|(key, again)| (refused.begins(&key), key, again));
    let (key, body) = match write {
        Write::Put(key, body) => (key, Some(body)),
        Write::Delete(key) => (key, None),
        Write::Mark(done) => {
            let _ = done.send(());
            return;
        }
        Write::Service(key, body, id, generation) => {
            let service = key.clone();
            let check = move |get: &dyn Fn(&Key) -> Option<Row>| precedes(get(&service), &id, generation);
            tokio::spawn(async move { mesh.put_if(None, key, body, check).await });
            return;
        }
    };
    let Ok(outcome) = mesh.begin(key, body).await else { return };
    tokio::spawn(async move {
        let done = outcome.await;
        if let Some((serial, key, again)) = keep {
            let again = matches!(done, Err(Error::Disk { .. })).then_some(again);
            let _ = ends.send((key, serial, again)).await;
        }
    });
}

impl Writer {
    pub(crate) fn start(mesh: Mesh) -> Self {
        let (writes, mut receiver) = mpsc::channel::<Write>(WRITES_MAX);
        let (ends, mut ended) = mpsc::channel::<(Key, u64, Option<Write>)>(WRITES_MAX);
        tokio::spawn(async move {
            let mut refused = Refused::default();
            loop {
                let write = tokio::select! {
                    write = receiver.recv() => match write {
                        Some(write) => write,
                        None => return,
                    },
                    Some((key, serial, again)) = ended.recv() => {
                        refused.ended(key, serial, again);
                        continue;
                    }
                    () = tokio::time::sleep(WRITE_AGAIN), if !refused.waiting.is_empty() => {
                        for (_, write) in std::mem::take(&mut refused.waiting) {
                            do_write(&mesh, &mut refused, &ends, write).await;
                        }
                        continue;
                    }
                };
                do_write(&mesh, &mut refused, &ends, write).await;
            }
        });
        Self { writes }
    }

    async fn put(&self, key: Key, body: &impl Serialize) {
        let body = Body::json(body).expect("plain data has a JSON form");
        let _ = self.writes.send(Write::Put(key, body)).await;
    }

    /// Waits until what was written so far stands in this node's table, so that what is written next comes after it.
    pub(crate) async fn settled(&self) {
        let (done, mark) = oneshot::channel();
        let _ = self.writes.send(Write::Mark(done)).await;
        let _ = mark.await;
    }

    pub(crate) async fn put_instance(&self, row: &InstanceRow) {
        let owner = row.node.parse().expect("the row is this node's own");
        self.put(Key::owned(Table::INSTANCE, owner, &row.id), row).await;
    }

    pub(crate) async fn drop_instance(&self, me: &NodeId, id: &str) {
        let owner = me.parse().expect("the mesh's own id");
        let _ = self.writes.send(Write::Delete(Key::owned(Table::INSTANCE, owner, id))).await;
    }

    pub(crate) async fn put_rollout(&self, name: &str, row: &RolloutRow) {
        self.put(Key::global(Table::ROLLOUT, name), row).await;
    }

    pub(crate) async fn put_service(&self, row: &ServiceRow) {
        let body = Body::json(row).expect("plain data has a JSON form");
        let key = Key::global(Table::SERVICE, &row.spec.name);
        let _ = self.writes.send(Write::Service(key, body, row.id.clone(), row.generation)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: Table, id: &str, deleted: bool) -> Row {
        let writer = p2p::NodeId(1);
        let version = Version::Shared { generation: 1, time_ms: 1, writer, id: 1, ancestors: vec![] };
        Row { key: Key::global(table, id), version, deleted, body: Body(vec![]) }
    }

    #[test]
    fn a_steward_goes_back_over_the_generation_it_knew_and_over_no_other() {
        let service = |generation: u64| {
            let spec = crate::service::ServiceSpec::new("web", "a");
            let body = serde_json::json!({
                "v": 1, "id": "sid", "generation": generation, "spec": spec, "created_ms": 0, "updated_ms": 0
            });
            Some(Row { body: Body::json(&body).unwrap(), ..row(Table::SERVICE, "web", false) })
        };
        assert!(precedes(service(4), "sid", 5));
        assert!(!precedes(service(5), "sid", 5), "an operator was faster");
        assert!(!precedes(service(4), "other", 5), "removed and made again");
        assert!(!precedes(None, "sid", 5), "removed");
    }

    #[test]
    fn a_drain_stands_against_a_label_of_the_same_moment_and_against_nothing_later() {
        let said = |generation: u64, text: &str| {
            let writer = p2p::NodeId(1);
            let version = Version::Shared { generation, time_ms: 1, writer, id: 1, ancestors: vec![] };
            Row { version, body: Body(text.as_bytes().to_vec()), ..row(Table::NODE_POLICY, "n", false) }
        };
        let drain = said(2, r#"{"v":1,"availability":"drain"}"#);
        let label = |generation| said(generation, r#"{"v":1,"labels":{"rack":"7"}}"#);
        let both = stricter(&drain, &label(2)).unwrap();
        assert_eq!((both.availability.word(), both.labels["rack"].as_str()), ("Drain", "7"));
        assert_eq!(stricter(&label(2), &drain), None, "the drain stands already");
        assert_eq!(stricter(&drain, &label(3)), None, "somebody has said something since");
    }

    #[test]
    fn a_row_that_the_disk_refused_waits_until_a_newer_one_is_written() {
        let (key, body) = (Key::global(Table::ROLLOUT, "web"), || Body(vec![1]));
        let mut refused = Refused::default();
        let first = refused.begins(&key);
        let second = refused.begins(&key);
        refused.ended(key.clone(), first, Some(Write::Put(key.clone(), body())));
        assert!(refused.waiting.is_empty(), "a newer one is under way");
        refused.ended(key.clone(), second, Some(Write::Put(key.clone(), body())));
        assert_eq!(refused.waiting.len(), 1);
        let third = refused.begins(&key);
        assert!(refused.waiting.is_empty(), "it is older than what is being written");
        refused.ended(key, third, None);
        assert!(refused.waiting.is_empty() && refused.latest.is_empty());
    }

    #[test]
    fn a_watcher_that_fell_behind_learns_what_was_deleted_meanwhile() {
        let mut told = Told::default();
        let services = [row(Table::SERVICE, "a", false), row(Table::SERVICE, "b", false)];
        assert!(told.missing(Table::SERVICE, &services).is_empty());
        told.saw(&row(Table::SERVICE, "c", false));
        told.saw(&row(Table::ROLLOUT, "a", false));
        told.saw(&row(Table::SERVICE, "b", true));
        // Then a thousand changes were missed, among them the end of `a` and `c` and the beginning of `d`.
        let now = [row(Table::SERVICE, "d", false), row(Table::SERVICE, "a", true)];
        let missing: Vec<String> = told.missing(Table::SERVICE, &now).into_iter().map(|key| key.id).collect();
        assert_eq!(missing, ["a", "c"]);
        assert!(told.missing(Table::SERVICE, &now).is_empty(), "told once");
        assert_eq!(told.missing(Table::ROLLOUT, &[]).len(), 1, "tables are apart");
    }
}
