//! This node's containers: actions become calls to the engine on a pool of threads, what the engine shows becomes events.
//! Operations of one instance never overlap; those of different ones do, up to a bound.

#[cfg(feature = "engine")]
pub mod engine;

use super::{Handle, Input, blobs};
use crate::core::Event;
use crate::model::{InstanceRow, NodeId};
use crate::port::{Containers, Observed, Wish};
use crate::service::Service;
use p2p::Mesh;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Engine operations at a time: each is a process or two, and starts are bound by the kernel, not by us.
const OPERATIONS_MAX: usize = 8;
/// Operations queued for one instance: start, stop and remove are all there are, each asked for once.
const QUEUE_MAX: usize = 8;
/// How often the engine is asked what its containers do.
const LIST_EVERY: Duration = Duration::from_millis(500);
/// How often when this node runs nothing.
const LIST_IDLE: Duration = Duration::from_secs(5);

/// A handle to the containers of this node; clones share it.
#[derive(Clone)]
pub struct Worker {
    me: NodeId,
    port: Arc<dyn Containers>,
    handle: Handle,
    state: Arc<Mutex<State>>,
    permits: Arc<Semaphore>,
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
}

#[derive(Debug)]
enum Operation {
    Start(Box<Wish>),
    Stop(u64),
    Remove,
}

impl Worker {
    pub(crate) fn new(me: NodeId, port: Arc<dyn Containers>, handle: Handle, mesh: Mesh) -> Self {
        let permits = Arc::new(Semaphore::new(OPERATIONS_MAX));
        Self { me, port, handle, state: Arc::default(), permits, mesh }
    }

    /// Returns the engine.
    pub(crate) fn port(&self) -> Arc<dyn Containers> {
        Arc::clone(&self.port)
    }

    /// Fetches the image, makes the container and starts it.
    pub(crate) fn start(&self, row: InstanceRow, service: Service) {
        let id = row.id.clone();
        self.queue(&id, Operation::Start(Box::new(Wish::new(row, service))));
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
    pub(crate) async fn logs(&self, id: &str, tail: usize) -> Result<Vec<String>, String> {
        let container = self.state.lock().expect("no holder panics").containers.get(id).cloned();
        let container = container.ok_or_else(|| "the instance has no container on its node".to_owned())?;
        let port = Arc::clone(&self.port);
        let lines = tokio::task::spawn_blocking(move || port.logs(&container, tail)).await;
        lines.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Lists containers for as long as the node runs, and reports what changed.
    pub(crate) async fn watch(self) {
        let mut first = true;
        loop {
            let (port, me) = (Arc::clone(&self.port), self.me.clone());
            let listed = tokio::task::spawn_blocking(move || port.list(&me)).await;
            let idle = match listed {
                Ok(Ok(listed)) => {
                    let idle = listed.is_empty();
                    self.report(listed).await;
                    if std::mem::take(&mut first) {
                        self.handle.event(Event::ContainersListed).await;
                    }
                    idle
                }
                // The engine's state could not be read: nothing is known, so nothing is reported.
                Ok(Err(_)) | Err(_) => false,
            };
            let idle = idle && self.state.lock().expect("no holder panics").queues.is_empty();
            tokio::time::sleep(if idle { LIST_IDLE.min(LIST_EVERY * 4) } else { LIST_EVERY }).await;
        }
    }

    async fn report(&self, listed: Vec<(String, String, Observed)>) {
        let mut events = Vec::new();
        {
            let mut state = self.state.lock().expect("no holder panics");
            let mut present = BTreeMap::new();
            for (id, container, seen) in listed {
                state.containers.insert(id.clone(), container);
                if state.seen.get(&id) != Some(&seen) {
                    state.seen.insert(id.clone(), seen.clone());
                    events.push((id.clone(), seen));
                }
                present.insert(id, ());
            }
            // Gone without our doing; an instance with an operation under way speaks for itself.
            let gone: Vec<String> = state
                .seen
                .keys()
                .filter(|id| !present.contains_key(*id) && !state.queues.contains_key(*id))
                .cloned()
                .collect();
            for id in gone {
                state.seen.remove(&id);
                state.containers.remove(&id);
                events.push((id, Observed::Ended { code: None, message: "its container is gone".to_owned() }));
            }
        }
        for (id, seen) in events {
            self.handle.event(Event::Container { id, seen }).await;
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
        loop {
            let operation = {
                let mut state = self.state.lock().expect("no holder panics");
                match operations.try_recv() {
                    Ok(operation) => operation,
                    Err(_) => {
                        state.queues.remove(&id);
                        return;
                    }
                }
            };
            let Ok(_permit) = self.permits.acquire().await else { return };
            match operation {
                Operation::Start(wish) => self.do_start(&id, *wish).await,
                Operation::Stop(grace_ms) => self.do_stop(&id, grace_ms).await,
                Operation::Remove => self.do_remove(&id).await,
            }
        }
    }

    async fn do_start(&self, id: &str, wish: Wish) {
        let (port, image) = (Arc::clone(&self.port), wish.instance.image.clone());
        let present = tokio::task::spawn_blocking(move || port.has_image(&image)).await.unwrap_or(false);
        if !present {
            self.send(id, Observed::Preparing).await;
            if let Err(message) = self.obtain(&wish.instance.image).await {
                self.send(id, Observed::Ended { code: None, message }).await;
                return;
            }
        }
        self.send(id, Observed::Starting).await;
        let port = Arc::clone(&self.port);
        let started = tokio::task::spawn_blocking(move || port.start(&wish)).await;
        match flatten(started) {
            // What it does from here on is seen by listing, at once and then regularly.
            Ok(container) => {
                self.state.lock().expect("no holder panics").containers.insert(id.to_owned(), container);
                self.list_once().await;
            }
            Err(message) => self.send(id, Observed::Ended { code: None, message }).await,
        }
    }

    async fn list_once(&self) {
        let (port, me) = (Arc::clone(&self.port), self.me.clone());
        if let Ok(Ok(listed)) = tokio::task::spawn_blocking(move || port.list(&me)).await {
            self.report(listed).await;
        }
    }

    /// Gets an image from the peers that hold it, else from its registry.
    async fn obtain(&self, image: &str) -> Result<(), String> {
        let from_peers = match blobs::fetch(&self.mesh, self, image).await {
            Ok(true) => return Ok(()),
            Ok(false) => "no peer holds it".to_owned(),
            Err(why) => format!("its holders: {why}"),
        };
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
        let port = Arc::clone(&self.port);
        let stopped = tokio::task::spawn_blocking(move || port.stop(&container, grace_ms)).await;
        match flatten(stopped) {
            Ok(()) => self.list_once().await,
            Err(message) => {
                let _ = self.handle.inputs.send(Input::Event(Event::Tick)).await;
                self.send(id, Observed::Ended { code: None, message }).await;
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
        let port = Arc::clone(&self.port);
        let _ =
            tokio::task::spawn_blocking(move || port.stop(&container, 0).and_then(|()| port.remove(&container))).await;
    }

    async fn send(&self, id: &str, seen: Observed) {
        if matches!(seen, Observed::Ended { .. }) {
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
