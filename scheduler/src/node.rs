//! The node process: one per host in a mesh. It joins the pure [`Core`] to the world: the mesh's table and calls
//! ([`cluster`]), the host's containers ([`containers`]), people and programs ([`api`]).
//!
//! One task owns the core; everything else sends it bounded messages. A node that dies takes no container with it, and
//! adopts what it finds when it comes back.

pub mod api;
pub mod blobs;
pub mod cluster;
pub mod containers;
pub mod host;
pub mod journal;
pub mod means;
pub(crate) mod mirror;
pub(crate) mod pin;
pub mod socket;
pub mod traffic;

use crate::core::{Action, Config, Core, Event};
use crate::model::{Answer, Ms, NodeFacts, NodeId, Release, Reserve};
use crate::port::Containers;
use journal::Journal;
use p2p::Mesh;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};

/// Messages that wait for the core; senders wait when it is full.
const INPUTS_MAX: usize = 4_096;
/// From the end of the mesh to the word of the API that it was meant to end.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// The longest the core sleeps: a lost timer costs a second, not an hour.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long the API waits for the node's own rows and containers before it answers anyway: an engine that cannot list them is
/// for people to find out.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long a node that has just joined may wait for the names of the others.
const NAMES_WITHIN: Duration = Duration::from_secs(1);

/// How to run a node.
#[derive(Debug, Clone)]
pub struct Options {
    /// The mesh's configuration: folder, name, site, labels, addresses, token.
    pub mesh: p2p::mesh::Config,
    /// Where the API listens.
    pub socket: PathBuf,
    /// Where the API listens over TLS too; nowhere when absent.
    pub api: Option<ApiListen>,
    /// What services may reserve here; the host's processors and memory when absent.
    pub capacity: Option<crate::service::Amount>,
}

/// Where the API listens over TLS.
#[derive(Debug, Clone)]
pub struct ApiListen {
    /// `IP:PORT`.
    pub address: String,
    /// Where its key and certificate are kept.
    pub folder: PathBuf,
}

/// Why a node could not start or had to end.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The mesh could not be started or joined.
    #[error("failed to start the node: {0}")]
    Mesh(#[from] p2p::mesh::Error),
    /// The API's socket could not be opened.
    #[error("failed to listen on {path}: {source}")]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The API's listener could not be made.
    #[error(transparent)]
    Api(#[from] api::tls::TlsError),
    /// The mesh has a living node of this name.
    #[error(
        "a living node of the mesh is called {name} already; choose another: shoal mesh up --name NAME --join TOKEN"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A part of the node that runs for as long as the node does has ended.
    #[error("the node ends, since its task that {task} has ended: {reason}")]
    Task {
        /// What the task does.
        task: &'static str,
        /// Why it ended.
        reason: String,
    },
    /// Another node answers on the socket.
    #[error("a node already runs here: {path} answers (stop it with `shoal mesh down`)")]
    Running {
        /// The socket's path.
        path: PathBuf,
    },
}

/// The node's clock for intervals: milliseconds since 1970 at the start, then monotonic.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base_ms: Ms,
    began: Instant,
}

impl Clock {
    /// Reads the wall clock once.
    #[must_use]
    pub fn start() -> Self {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base_ms: u64::try_from(base.as_millis()).unwrap_or(0), began: Instant::now() }
    }

    /// Returns what the wall clock says now, for times that mean something on other hosts: it may jump.
    #[must_use]
    pub fn wall(&self) -> Ms {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(0)
    }

    /// Returns the time now, for intervals on this host: it never jumps.
    #[must_use]
    pub fn now(&self) -> Ms {
        self.base_ms + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0)
    }
}

/// A look at the core.
type Look = Box<dyn FnOnce(&Core, Ms) + Send>;

/// What is sent to the task that owns the core.
#[expect(clippy::large_enum_variant, reason = "events are by far the commonest input")]
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// A peer, or this node itself, asks for an instance.
    Reserve(Box<Reserve>, oneshot::Sender<Answer>),
    /// A peer, or this node itself, asks to stop an instance.
    Release(Release, oneshot::Sender<Answer>),
    /// Somebody wants to look.
    Look(Look),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Reserve(..) => "Reserve",
            Self::Release(..) => "Release",
            Self::Look(_) => "Look",
        })
    }
}

/// A handle to the core's task.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl Handle {
    /// Sends an event; nothing when the node is ending.
    pub(crate) async fn event(&self, event: Event) {
        let _ = self.inputs.send(Input::Event(event)).await;
    }

    /// Runs `look` on the core and returns what it returned; `None` when the node is ending.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core, Ms) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let look = Box::new(move |core: &Core, now: Ms| {
            let _ = sender.send(look(core, now));
        });
        self.inputs.send(Input::Look(look)).await.ok()?;
        receiver.await.ok()
    }
}

/// Starts a node and runs it until `stop` resolves or it is told to end by its API. `ready` is called once it serves.
pub async fn run(
    options: Options,
    port: Arc<dyn Containers>,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&Mesh),
) -> Result<(), NodeError> {
    let clock = Clock::start();
    let listener = socket::listen(&options.socket)?;
    let open = |api: &ApiListen| api::tls::open(&api.address, &api.folder, &options.mesh.name);
    let secure = options.api.as_ref().map(open).transpose()?;
    let mesh = Mesh::start(options.mesh.clone()).await?;
    if matches!(options.mesh.intent, p2p::mesh::Intent::Join(_)) {
        refuse_double(&mesh, &options.mesh.name).await?;
    }
    let me: NodeId = mesh.id().to_string();
    let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
    let handle = Handle { inputs };
    let journal = Arc::new(Journal::new(clock));
    let mut facts = host::facts(&options);
    traffic::claim(&mesh, &options, &port, &me, &mut facts, &journal).await;
    let worker = containers::Worker::new(me.clone(), facts.clone(), Arc::clone(&port), handle.clone(), mesh.clone());
    let changed = Arc::new(Notify::new());
    let (told_ready, mut is_ready) = tokio::sync::watch::channel(false);

    let pushes = mirror::Pushes::new();
    cluster::serve(&mesh, &handle, &worker, &pushes).await?;
    blobs::serve(&mesh, &port).await?;
    let mut follower = tokio::spawn(cluster::follow(mesh.clone(), handle.clone(), Arc::clone(&journal)));
    let lister = tokio::spawn(worker.clone().watch());
    let seed = crate::steward::mix(&me, &clock.now().to_string());
    let core = Core::new(Config { me: me.clone(), seed }, clock.now());
    let writer = cluster::Writer::start(mesh.clone());
    let driver = Driver {
        core,
        clock,
        me: me.clone(),
        handle: handle.clone(),
        writer: writer.clone(),
        mesh: mesh.clone(),
        worker: worker.clone(),
        journal: Arc::clone(&journal),
        calls: HashMap::new(),
        call_serial: 0,
        changed: Arc::clone(&changed),
        ready: told_ready,
        settled: false,
    };
    let mut core_task = tokio::spawn(driver.run(receiver));
    // Before, the API would show less than there is, and the others would take this node's rows for true.
    let _ = tokio::time::timeout(READY_WITHIN, is_ready.wait_for(|ready| *ready)).await;
    // What it found of its containers goes first: with its facts this node says that its rows are true.
    writer.settled().await;
    cluster::announce(&mesh, &me, &facts, &journal).await?;

    let router = tokio::spawn(traffic::follow(traffic::Context {
        mesh: mesh.clone(),
        options: options.clone(),
        port: Arc::clone(&port),
        handle: handle.clone(),
        journal: Arc::clone(&journal),
        me: me.clone(),
        facts,
        changed,
    }));

    let mirrors = tokio::spawn(mirror::follow(mirror::Context {
        mesh: mesh.clone(),
        port: Arc::clone(&port),
        handle: handle.clone(),
        journal: Arc::clone(&journal),
        clock,
        me: me.clone(),
        pushes: Arc::clone(&pushes),
    }));

    let (site, folder) = (options.mesh.site.clone(), options.mesh.dir.clone());
    let teller = tokio::spawn(means::follow(mesh.clone(), site, folder, Arc::clone(&journal)));
    let (told_end, mut end) = oneshot::channel();
    let told = secure.as_ref().map(|secure| secure.told.clone());
    if let Some(told) = &told {
        eprintln!("the API is on {} as well; its key is {}", told.url, told.pin);
    }
    let socket = options.socket.clone();
    let context = api::Context::new(mesh.clone(), handle, worker, journal, pushes, clock, told_end, socket, told);
    let secure_server = secure.map(|secure| tokio::spawn(api::tls::serve(secure, Arc::clone(&context))));
    let server = tokio::spawn(api::serve(listener, context));
    ready(&mesh);
    // A node whose core or whose follower has ended looks alive and is deaf: better that it ends, and is started again.
    let mut lost = None;
    let end = tokio::select! {
        () = stop => End::Down,
        end = &mut end => end.unwrap_or(End::Down),
        done = &mut core_task => {
            lost = Some(("decides", ended(done)));
            End::Down
        }
        // Who leaves has ended the mesh itself, and says so in a moment.
        done = &mut follower => match tokio::time::timeout(LEFT_WITHIN, &mut end).await {
            Ok(end) => end.unwrap_or(End::Down),
            Err(_) => {
                lost = Some(("follows the mesh", ended(done)));
                End::Down
            }
        },
    };
    router.abort();
    mirrors.abort();
    teller.abort();
    server.abort();
    if let Some(server) = secure_server {
        server.abort();
    }
    follower.abort();
    lister.abort();
    core_task.abort();
    let _ = std::fs::remove_file(&options.socket);
    // An error means that it had stopped already (the node left).
    let _ = mesh.stop().await;
    if end == End::Down {
        let resting = Arc::clone(&port);
        let _ = tokio::task::spawn_blocking(move || resting.rest()).await;
    }
    if end == End::Left {
        // The task that routes may be at it: it ends first.
        let _ = router.await;
        let removed = tokio::task::spawn_blocking(move || port.unroute()).await;
        if let Ok(Err(error)) = removed {
            eprintln!("the network between containers stays: {error}");
        }
    }
    lost.map_or(Ok(()), |(task, reason)| Err(NodeError::Task { task, reason }))
}

/// Leaves again when a living member has the name of this one, which has just joined: by names operators mean nodes.
async fn refuse_double(mesh: &Mesh, name: &str) -> Result<(), NodeError> {
    use p2p::membership::Liveness;
    let deadline = Instant::now() + NAMES_WITHIN;
    loop {
        let members = mesh.members().await?;
        let others: Vec<_> = members.iter().filter(|member| !member.is_self).collect();
        if others.iter().any(|member| member.name == name && member.liveness == Liveness::Alive) {
            let actor = p2p::mesh::Actor { who: "the node".to_owned(), from: "its own start".to_owned() };
            mesh.leave(actor).await?;
            return Err(NodeError::NameTaken { name: name.to_owned() });
        }
        let all_known = !others.is_empty() && others.iter().all(|member| !member.name.is_empty());
        if all_known || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Why a task that runs for as long as its node has ended.
fn ended(done: Result<(), tokio::task::JoinError>) -> String {
    done.map_or_else(|error| error.to_string(), |()| "the mesh gave it nothing more to do".to_owned())
}

/// How a node ends by its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It stays a member; containers and traffic go on.
    Down,
    /// It is no member any more.
    Left,
}

/// The task that owns the core.
struct Driver {
    core: Core,
    clock: Clock,
    me: NodeId,
    handle: Handle,
    writer: cluster::Writer,
    mesh: Mesh,
    worker: containers::Worker,
    journal: Arc<Journal>,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
    call_serial: u64,
    /// Told when something came in that routes may depend on.
    changed: Arc<Notify>,
    /// Told once when this node's own rows and containers are known.
    ready: tokio::sync::watch::Sender<bool>,
    /// Whether the core knew enough to route when it was looked at last.
    settled: bool,
}

impl Driver {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            while let Some(action) = self.core.poll_action() {
                self.act(action).await;
            }
            self.tell();
            let now = self.clock.now();
            let sleep = self.core.poll_timeout().map_or(SLEEP_MAX, |at| Duration::from_millis(at.saturating_sub(now)));
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input);
                        // A burst is taken whole before anything is decided.
                        while let Ok(input) = inputs.try_recv() {
                            self.take(input);
                        }
                    }
                    None => return,
                },
                () = tokio::time::sleep(sleep.min(SLEEP_MAX)) => self.core.handle(self.clock.now(), Event::Tick),
            }
        }
    }

    /// Wakes those that wait for the core to know enough.
    fn tell(&mut self) {
        if self.core.ready() && !*self.ready.borrow() {
            self.ready.send_replace(true);
        }
        if self.core.settled() && !self.settled {
            self.settled = true;
            self.changed.notify_one();
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Event(event) => {
                let tells = !matches!(event, Event::Tick | Event::Reserved { .. });
                self.core.handle(now, event);
                if tells {
                    self.changed.notify_one();
                }
            }
            Input::Reserve(reserve, answer) => {
                let call = self.call(answer);
                self.core.handle(now, Event::Reserve(call, reserve));
            }
            Input::Release(release, answer) => {
                let call = self.call(answer);
                self.core.handle(now, Event::Release(call, release));
            }
            Input::Look(look) => look(&self.core, now),
        }
    }

    fn call(&mut self, answer: oneshot::Sender<Answer>) -> u64 {
        self.call_serial += 1;
        self.calls.insert(self.call_serial, answer);
        self.call_serial
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::PutInstance(row) => self.writer.put_instance(&row).await,
            Action::DropInstance(id) => self.writer.drop_instance(&self.me, &id).await,
            Action::PutRollout(name, row) => self.writer.put_rollout(&name, &row).await,
            Action::PutService(row) => self.writer.put_service(&row).await,
            Action::Reserve(to, reserve) => {
                let (mesh, handle, me) = (self.mesh.clone(), self.handle.clone(), self.me.clone());
                tokio::spawn(async move {
                    let id = reserve.id.clone();
                    let answer = cluster::ask_reserve(&mesh, &handle, &me, &to, reserve).await;
                    handle.event(Event::Reserved { id, answer }).await;
                });
            }
            Action::Release(to, release) => {
                let (mesh, handle, me) = (self.mesh.clone(), self.handle.clone(), self.me.clone());
                tokio::spawn(async move { cluster::ask_release(&mesh, &handle, &me, &to, release).await });
            }
            Action::Answer(call, answer) => {
                if let Some(sender) = self.calls.remove(&call) {
                    let _ = sender.send(answer);
                }
            }
            Action::Start(row, service) => self.worker.start(*row, *service),
            Action::Stop { id, grace_ms } => self.worker.stop(id, grace_ms),
            Action::Remove(id) => self.worker.remove(id),
            Action::Note(note) => self.journal.note(note.kind, &note.subject, &note.message),
        }
    }
}

/// Facts as `node` rows carry them, for the tests of this crate and the API.
#[must_use]
pub fn merged_labels(facts: &NodeFacts, policy: &crate::model::NodePolicy) -> BTreeMap<String, String> {
    let mut labels = facts.labels.clone();
    labels.retain(|key, _| !policy.hidden_labels.contains(key));
    labels.extend(policy.labels.clone());
    labels
}
