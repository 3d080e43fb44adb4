//! This node's containers: actions become calls to the engine on a pool of threads, what the engine shows becomes events.
//! Operations of one instance never overlap; those of different ones do, up to a bound.

#[cfg(feature = "engine")]
pub mod engine;
pub mod listening;

use super::{Handle, blobs};
use crate::core::Event;
use crate::model::{Health, InstanceRow, NodeFacts, NodeId};
use crate::port::{Containers, LogWish, Observed, Wish};
use crate::service::Service;
use p2p::Mesh;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc};

/// Starts and removals at a time: each is a process or two, and starts are bound by the kernel, not by us.
const OPERATIONS_MAX: usize = 8;
/// Images fetched at a time: one that is slow or stalled must not keep what is here from starting, nor all of them others.
const PULLS_MAX: usize = 8;
/// Containers stopped at a time: nearly all of it is waiting for their grace, on a thread each.
const STOPS_MAX: usize = 128;
/// Operations queued for one instance: start, stop and remove are all there are, each asked for once.
const QUEUE_MAX: usize = 8;
/// How often the engine is asked what its containers do.
const LIST_EVERY: Duration = Duration::from_millis(500);
/// How often while something that was just started does not work yet: traffic waits for it.
const LIST_SOON: Duration = Duration::from_millis(50);
/// How long after a start that is so: a check that takes minutes is not worth more.
const SOON_MAX: Duration = Duration::from_secs(20);
/// How often when this node runs nothing.
const LIST_IDLE: Duration = Duration::from_secs(5);

/// A handle to the containers of this node; clones share it.
#[derive(Clone)]
pub struct Worker {
    me: NodeId,
    /// What this node says of itself, for the placeholders of templates.
    facts: Arc<NodeFacts>,
    port: Arc<dyn Containers>,
    handle: Handle,
    state: Arc<Mutex<State>>,
    permits: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
    stops: Arc<Semaphore>,
    /// Told when something was started: whoever watches looks often from then on, not after the pause it is in.
    started: Arc<Notify>,
    /// Held from asking the engine to the end of telling: an older listing never comes after a newer one.
    listing: Arc<tokio::sync::Mutex<()>>,
    mesh: Mesh,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("me", &self.me).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Instance → container, as started or listed.
    containers: BTreeMap<String, String>,
    /// What was reported last.
    seen: BTreeMap<String, Observed>,
    /// Instances whose operations are queued; each has a task of its own that does them in order.
    queues: HashMap<String, mpsc::Sender<Operation>>,
    /// Counts listings.
    listings: u64,
    /// When something was started last.
    started: Option<Instant>,
    /// Instances with an operation that ended during or after this listing: what it says of them may be old.
    acted: HashMap<String, u64>,
}

impl State {
    /// Begins a listing and returns its number.
    fn begin_listing(&mut self) -> u64 {
        self.listings += 1;
        self.listings
    }

    /// Says whether something that was started a moment ago does not work yet.
    fn is_starting(&self) -> bool {
        let begins =
            |seen: &Observed| matches!(seen, Observed::Starting | Observed::Running { health: Health::Starting, .. });
        self.started.is_some_and(|at| at.elapsed() < SOON_MAX) && self.seen.values().any(begins)
    }

    /// Notes that an operation of an instance ended now.
    fn act(&mut self, id: &str) {
        let listing = self.listings;
        self.acted.insert(id.to_owned(), listing);
    }

    /// Takes a listing; returns what changed since the last one.
    fn take(&mut self, listing: u64, listed: Vec<(String, String, Observed)>) -> Vec<(String, Observed)> {
        let mut events = Vec::new();
        let mut present = BTreeSet::new();
        let is_old = |acted: &HashMap<String, u64>, id: &str| acted.get(id).is_some_and(|at| *at >= listing);
        for (id, container, seen) in listed {
            if !is_old(&self.acted, &id) {
                self.containers.insert(id.clone(), container);
                if self.seen.get(&id) != Some(&seen) {
                    self.seen.insert(id.clone(), seen.clone());
                    events.push((id.clone(), seen));
                }
            }
            present.insert(id);
        }
        // Gone without our doing; an instance with an operation under way speaks for itself.
        let is_gone =
            |id: &&String| !present.contains(*id) && !self.queues.contains_key(*id) && !is_old(&self.acted, id);
        let gone: Vec<String> = self.seen.keys().filter(is_gone).cloned().collect();
        for id in gone {
            self.seen.remove(&id);
            self.containers.remove(&id);
            events.push((id, Observed::Ended { code: None, message: "its container is gone".to_owned() }));
        }
        self.acted.retain(|_, at| *at >= listing);
        events
    }
}

#[derive(Debug)]
enum Operation {
    Start(Box<Wish>),
    Stop(u64),
    Remove,
}

impl Worker {
    pub(crate) fn new(me: NodeId, facts: NodeFacts, port: Arc<dyn Containers>, handle: Handle, mesh: Mesh) -> Self {
        let bound = |count| Arc::new(Semaphore::new(count));
        Self {
            me,
            facts: Arc::new(facts),
            port,
            handle,
            state: Arc::default(),
            permits: bound(OPERATIONS_MAX),
            pulls: bound(PULLS_MAX),
            stops: bound(STOPS_MAX),
            started: Arc::default(),
            listing: Arc::default(),
            mesh,
        }
    }

    /// Returns the engine.
    pub(crate) fn port(&self) -> Arc<dyn Containers> {
        Arc::clone(&self.port)
    }

    /// Fetches the image, makes the container and starts it.
    pub(crate) fn start(&self, row: InstanceRow, service: Service) {
        let id = row.id.clone();
        self.queue(&id, Operation::Start(Box::new(Wish::new(row, service, NodeFacts::clone(&self.facts)))));
    }

    /// Stops a container.
    pub(crate) fn stop(&self, id: String, grace_ms: u64) {
        self.queue(&id, Operation::Stop(grace_ms));
    }

    /// Removes a container.
    pub(crate) fn remove(&self, id: String) {
        self.queue(&id, Operation::Remove);
    }

    /// Returns the last lines an instance wrote.
    pub(crate) async fn logs(&self, id: &str, wish: LogWish) -> Result<Vec<String>, String> {
        let container = self.state.lock().expect("no holder panics").containers.get(id).cloned();
        let container = container.ok_or_else(|| "the instance has no container on its node".to_owned())?;
        let port = Arc::clone(&self.port);
        let lines = tokio::task::spawn_blocking(move || port.logs(&container, wish)).await;
        lines.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Lists containers for as long as the node runs, and reports what changed.
    pub(crate) async fn watch(self) {
        let mut first = true;
        loop {
            // When the engine's state could not be read nothing is known, so nothing is reported.
            let count = self.list_once().await;
            if count.is_some() && std::mem::take(&mut first) {
                self.handle.event(Event::ContainersListed).await;
            }
            let pause = {
                let state = self.state.lock().expect("no holder panics");
                match count {
                    Some(0) if state.queues.is_empty() => LIST_IDLE.min(LIST_EVERY * 4),
                    _ if state.is_starting() => LIST_SOON,
                    _ => LIST_EVERY,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.started.notified() => {}
            }
        }
    }

    fn queue(&self, id: &str, operation: Operation) {
        let mut state = self.state.lock().expect("no holder panics");
        let operation = match state.queues.get(id) {
            Some(queue) => match queue.try_send(operation) {
                // A full queue cannot be: see the constant. What it would hold is asked for again by the next evaluation.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                Err(mpsc::error::TrySendError::Closed(operation)) => operation,
            },
            None => operation,
        };
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        sender.try_send(operation).expect("a new queue has room");
        state.queues.insert(id.to_owned(), sender);
        drop(state);
        tokio::spawn(self.clone().work(id.to_owned(), receiver));
    }

    async fn work(self, id: String, mut operations: mpsc::Receiver<Operation>) {
        let mut next: Option<Operation> = None;
        loop {
            let operation = {
                let mut state = self.state.lock().expect("no holder panics");
                match next.take().map_or_else(|| operations.try_recv(), Ok) {
                    Ok(operation) => operation,
                    Err(_) => {
                        state.queues.remove(&id);
                        return;
                    }
                }
            };
            match operation {
                Operation::Start(wish) => next = self.do_start(&id, *wish, &mut operations).await,
                Operation::Stop(grace_ms) => self.do_stop(&id, grace_ms).await,
                Operation::Remove => self.do_remove(&id).await,
            }
        }
    }

    /// Returns the operation that ended it early: what is still being fetched is not waited for.
    async fn do_start(&self, id: &str, wish: Wish, operations: &mut mpsc::Receiver<Operation>) -> Option<Operation> {
        let (port, image) = (Arc::clone(&self.port), wish.instance.image.clone());
        let present = tokio::task::spawn_blocking(move || port.has_image(&image)).await.unwrap_or(false);
        if !present {
            self.send(id, Observed::Preparing).await;
            let (worker, image) = (self.clone(), wish.instance.image.clone());
            // A task of its own, that holds its place among the pulls for as long as the engine is at it.
            let mut fetched = tokio::spawn(async move {
                let _permit = worker.pulls.acquire().await;
                worker.obtain(&image).await
            });
            let obtained = tokio::select! {
                obtained = &mut fetched => obtained.unwrap_or_else(|error| Err(error.to_string())),
                operation = operations.recv() => {
                    let message = "it was stopped before it had its image".to_owned();
                    self.send(id, Observed::Ended { code: None, message }).await;
                    return operation;
                }
            };
            if let Err(message) = obtained {
                self.send(id, Observed::NoImage(message)).await;
                return None;
            }
        }
        let Ok(permit) = self.permits.acquire().await else { return None };
        self.send(id, Observed::Starting).await;
        let port = Arc::clone(&self.port);
        let started = tokio::task::spawn_blocking(move || port.start(&wish)).await;
        drop(permit);
        match flatten(started) {
            // What it does from here on is seen by listing, at once and then regularly.
            Ok(container) => {
                {
                    let mut state = self.state.lock().expect("no holder panics");
                    state.containers.insert(id.to_owned(), container);
                    state.started = Some(Instant::now());
                    state.act(id);
                }
                self.started.notify_one();
                self.list_once().await;
            }
            Err(message) => self.send(id, Observed::Ended { code: None, message }).await,
        }
        None
    }

    /// Asks the engine for every container and tells what changed; returns how many there are.
    async fn list_once(&self) -> Option<usize> {
        let _turn = self.listing.lock().await;
        let listing = self.state.lock().expect("no holder panics").begin_listing();
        let (port, me) = (Arc::clone(&self.port), self.me.clone());
        let listed = tokio::task::spawn_blocking(move || port.list(&me)).await.ok()?.ok()?;
        let count = listed.len();
        let events = self.state.lock().expect("no holder panics").take(listing, listed);
        for (id, seen) in events {
            self.handle.event(Event::Container { id, seen }).await;
        }
        Some(count)
    }

    /// Gets an image from the peers that hold it, else from its registry.
    async fn obtain(&self, image: &str) -> Result<(), String> {
        let from_peers = match blobs::fetch(&self.mesh, self, image).await {
            Ok(true) => return Ok(()),
            Ok(false) => "no peer holds it".to_owned(),
            Err(why) => format!("its holders: {why}"),
        };
        if super::pin::names_no_registry(image) {
            return Err(format!("{from_peers}, and its name names no registry"));
        }
        let (port, name) = (Arc::clone(&self.port), image.to_owned());
        let pulled = flatten(tokio::task::spawn_blocking(move || port.pull(&name)).await);
        pulled.map_err(|why| format!("{why} ({from_peers})"))
    }

    async fn do_stop(&self, id: &str, grace_ms: u64) {
        let container = self.state.lock().expect("no holder panics").containers.get(id).cloned();
        let Some(container) = container else {
            self.send(id, Observed::Ended { code: None, message: String::new() }).await;
            return;
        };
        let Ok(permit) = self.stops.acquire().await else { return };
        let port = Arc::clone(&self.port);
        let stopped = tokio::task::spawn_blocking(move || port.stop(&container, grace_ms)).await;
        drop(permit);
        self.state.lock().expect("no holder panics").act(id);
        match flatten(stopped) {
            Ok(()) => {
                self.list_once().await;
            }
            Err(message) => {
                // It runs on: the next listing says so anew, and the core asks again.
                self.state.lock().expect("no holder panics").seen.remove(id);
                self.handle.event(Event::StopFailed { id: id.to_owned(), message }).await;
            }
        }
    }

    async fn do_remove(&self, id: &str) {
        let container = {
            let mut state = self.state.lock().expect("no holder panics");
            state.seen.remove(id);
            state.containers.remove(id)
        };
        let Some(container) = container else { return };
        let Ok(_permit) = self.permits.acquire().await else { return };
        let port = Arc::clone(&self.port);
        let _ =
            tokio::task::spawn_blocking(move || port.stop(&container, 0).and_then(|()| port.remove(&container))).await;
        self.state.lock().expect("no holder panics").act(id);
    }

    async fn send(&self, id: &str, seen: Observed) {
        if matches!(seen, Observed::Ended { .. } | Observed::NoImage(_)) {
            self.state.lock().expect("no holder panics").seen.insert(id.to_owned(), seen.clone());
        }
        self.handle.event(Event::Container { id: id.to_owned(), seen }).await;
    }
}

fn flatten<T>(result: Result<Result<T, crate::port::EngineError>, tokio::task::JoinError>) -> Result<T, String> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(format!("the engine's thread ended: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: &str) -> (String, String, Observed) {
        let seen = Observed::Running { container: format!("c{id}"), health: Default::default(), addresses: vec![] };
        (id.to_owned(), format!("c{id}"), seen)
    }

    #[test]
    fn a_listing_that_began_before_an_operation_ended_says_nothing_about_its_instance() {
        let mut state = State::default();
        let first = state.begin_listing();
        assert_eq!(state.take(first, vec![running("a"), running("b")]).len(), 2);
        // While the second listing is under way, `a` is stopped and removed and `b` is started anew.
        let second = state.begin_listing();
        state.act("a");
        state.act("b");
        assert_eq!(state.take(second, vec![running("a")]), []);
        // The next one counts again.
        let third = state.begin_listing();
        let events = state.take(third, vec![running("b")]);
        assert!(matches!(events.as_slice(), [(id, Observed::Ended { .. })] if id == "a"), "{events:?}");
    }
}
