//! Calls against a node of its own: a real mesh of one in a folder, the core's task and its follower, and an engine without
//! containers.

use super::*;
use crate::core::{Config, Core};
use crate::model::{NodeFacts, ServiceRow};
use crate::node::{Driver, Input, cluster};
use crate::port::{Containers, EngineError, LogWish, Observed, Wish};
use crate::service::{Mode, Port, PortMode, Protocol, ServiceSpec};
use p2p::table::{Body as RowBody, Key, Table};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// An engine that has every image and makes nothing.
struct Idle;

impl Containers for Idle {
    fn has_image(&self, _: &str) -> bool {
        true
    }
    fn pull(&self, _: &str) -> Result<(), EngineError> {
        Ok(())
    }
    fn start(&self, _: &Wish) -> Result<String, EngineError> {
        Err(EngineError("it makes no containers".to_owned()))
    }
    fn stop(&self, _: &str, _: u64) -> Result<(), EngineError> {
        Ok(())
    }
    fn remove(&self, _: &str) -> Result<(), EngineError> {
        Ok(())
    }
    fn list(&self, _: &str) -> Result<Vec<(String, String, Observed)>, EngineError> {
        Ok(Vec::new())
    }
    fn logs(&self, _: &str, _: LogWish) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }
}

struct Bench {
    context: Arc<Context>,
    /// Events that calls have sent to the core past the table's watcher.
    pushed: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        Self::start_at(Clock::start()).await
    }

    async fn start_at(clock: Clock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = p2p::mesh::Config {
            dir: folder.path().join("mesh"),
            name: "n1".to_owned(),
            listen: vec!["127.0.0.1:0".to_owned()],
            ..p2p::mesh::Config::default()
        };
        let mesh = Mesh::start(config).await.unwrap();
        let me = mesh.id().to_string();
        let (inputs, receiver) = mpsc::channel(1_024);
        let handle = Handle { inputs };
        let journal = Arc::new(Journal::new(clock));
        let facts = NodeFacts { v: 1, name: "n1".to_owned(), ..NodeFacts::default() };
        let port: Arc<dyn Containers> = Arc::new(Idle);
        let worker = Worker::new(me.clone(), facts.clone(), port, handle.clone(), mesh.clone());
        let driver = Driver {
            core: Core::new(Config { me: me.clone(), seed: 1 }, clock.now()),
            clock,
            me: me.clone(),
            handle: handle.clone(),
            writer: cluster::Writer::start(mesh.clone()),
            mesh: mesh.clone(),
            worker: worker.clone(),
            journal: Arc::clone(&journal),
            calls: std::collections::HashMap::new(),
            call_serial: 0,
            changed: Arc::new(Notify::new()),
            ready: tokio::sync::watch::channel(false).0,
            settled: false,
        };
        tokio::spawn(driver.run(receiver));
        tokio::spawn(cluster::follow(mesh.clone(), handle.clone(), Arc::clone(&journal)));
        tokio::spawn(worker.clone().watch());
        cluster::announce(&mesh, &me, &facts, &journal).await.unwrap();
        let (outer, mut asked) = mpsc::channel(1_024);
        let pushed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pushed);
        tokio::spawn(async move {
            while let Some(input) = asked.recv().await {
                counted.fetch_add(usize::from(matches!(input, Input::Event(_))), Ordering::Relaxed);
                let _ = handle.inputs.send(input).await;
            }
        });
        let (ended, _) = oneshot::channel();
        let handle = Handle { inputs: outer };
        let socket = folder.path().join("socket");
        let context = Context::new(mesh, handle, worker, journal, Pushes::new(), clock, ended, socket, None);
        Self { context, pushed, _folder: folder }
    }

    fn call(&self, path: &[(&'static str, &str)], body: &impl Serialize) -> Call {
        Call {
            path: path.iter().map(|(part, value)| (*part, (*value).to_owned())).collect(),
            query: BTreeMap::from([("resolve".to_owned(), "0".to_owned())]),
            body: serde_json::to_vec(body).unwrap(),
            last_event_id: None,
            actor: Actor { who: "me".to_owned(), from: "here".to_owned() },
        }
    }

    async fn shown(&self, name: &str) -> Option<ServiceRow> {
        let name = name.to_owned();
        self.context.handle.look(move |core, _| core.service(&name).map(|(row, _)| row.clone())).await.unwrap()
    }

    async fn eventually(&self, what: impl AsyncFn() -> bool) {
        let wait = async {
            while !what().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it comes about");
    }
}

fn spec(image: &str, replicas: u32) -> ServiceSpec {
    let mut spec = ServiceSpec::new("web", image);
    spec.mode = Mode::Replicated { replicas };
    spec
}

#[tokio::test]
async fn what_a_call_writes_reaches_the_core_by_the_table_alone() {
    let bench = Bench::start().await;
    services::create(&bench.context, &bench.call(&[], &spec("a:1", 1))).await.unwrap();
    assert_eq!(bench.shown("web").await.unwrap().generation, 1, "the answer shows what was written");
    services::update(&bench.context, &bench.call(&[("name", "web")], &spec("a:2", 1))).await.unwrap();
    assert_eq!(bench.shown("web").await.unwrap().generation, 2);
    let patch = bench.call(&[("node", "n1")], &serde_json::json!({"availability": "drain"}));
    bench.eventually(async || nodes::find(&bench.context, "n1").await.is_ok()).await;
    nodes::patch(&bench.context, &patch).await.unwrap();
    let node = nodes::find(&bench.context, "n1").await.unwrap();
    assert_eq!(node.availability, crate::model::Availability::Drain);
    services::remove(&bench.context, &bench.call(&[("name", "web")], &())).await.unwrap();
    assert_eq!(bench.shown("web").await, None);
    assert_eq!(bench.pushed.load(Ordering::Relaxed), 0, "a row pushed in late would undo a newer one");
}

#[tokio::test]
async fn the_way_back_leads_to_the_last_other_template_whatever_was_changed_since() {
    let bench = Bench::start().await;
    let web = [("name", "web")];
    services::create(&bench.context, &bench.call(&[], &spec("a:1", 1))).await.unwrap();
    services::update(&bench.context, &bench.call(&web, &spec("a:2", 1))).await.unwrap();
    services::update(&bench.context, &bench.call(&web, &spec("a:2", 3))).await.unwrap();
    services::rollback(&bench.context, &bench.call(&web, &())).await.unwrap();
    let row = bench.shown("web").await.unwrap();
    assert_eq!((row.spec.template.image.as_str(), row.spec.mode), ("a:1", Mode::Replicated { replicas: 3 }));
}

#[tokio::test]
async fn a_service_whose_row_is_not_understood_can_be_removed() {
    let bench = Bench::start().await;
    let row = serde_json::json!({
        "v": 2, "id": "x", "generation": 1, "spec": spec("a:1", 1), "created_ms": 0, "updated_ms": 0
    });
    let key = Key::global(Table::SERVICE, "web");
    bench.context.mesh.put(key.clone(), RowBody::json(&row).unwrap()).await.unwrap();
    services::remove(&bench.context, &bench.call(&[("name", "web")], &())).await.unwrap();
    assert_eq!(bench.context.mesh.get(key).await.unwrap(), None);
}

#[tokio::test]
async fn of_two_services_that_want_one_port_at_the_same_moment_one_is_refused() {
    let bench = Bench::start().await;
    let wish = |name: &str| {
        let mut spec = ServiceSpec::new(name, "a:1");
        spec.ports = vec![Port { target: 80, published: 8080, protocol: Protocol::Tcp, mode: PortMode::Ingress }];
        bench.call(&[], &spec)
    };
    let (first, second) = (wish("one"), wish("two"));
    let made = futures::join!(services::create(&bench.context, &first), services::create(&bench.context, &second));
    assert_eq!(usize::from(made.0.is_ok()) + usize::from(made.1.is_ok()), 1);
}

#[tokio::test]
async fn keys_end_by_the_wall_clock_and_who_watches_ends_with_them() {
    // A host whose clock was two hours behind when its node started, and was set right since.
    let late = Clock { base_ms: Clock::start().base_ms - 7_200_000, ..Clock::start() };
    let bench = Bench::start_at(late).await;
    let hour = serde_json::json!({"role": "operator", "ttl_ms": 3_600_000});
    let made = keys::create(&bench.context, &bench.call(&[], &hour)).await.unwrap();
    let made = made.into_body().collect().await.unwrap().to_bytes();
    let text = serde_json::from_slice::<serde_json::Value>(&made).unwrap()["token"].as_str().unwrap().to_owned();
    let headers =
        hyper::HeaderMap::from_iter([(hyper::header::AUTHORIZATION, format!("Bearer {text}").parse().unwrap())]);
    let (id, _) = keys::caller(&bench.context, &headers).await.unwrap();
    let row = bench.context.mesh.get(Key::global(Table::API_TOKEN, &id)).await.unwrap().unwrap();
    let row: serde_json::Value = row.body.parse().unwrap();
    assert!(row["expires_ms"].as_u64().unwrap() > Clock::start().wall() + 3_000_000, "an hour from now, everywhere");
    assert!(keys::stands(&bench.context, &keys::actor(&id)).await);
    assert!(keys::stands(&bench.context, "uid 0").await);
    keys::revoke(&bench.context, &bench.call(&[("id", &id)], &())).await.unwrap();
    assert!(!keys::stands(&bench.context, &keys::actor(&id)).await);
}
