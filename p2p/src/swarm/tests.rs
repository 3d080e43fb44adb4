//! Real nodes on loopback ports, in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::membership::{Liveness, Role};
use crate::mesh::{Actor, Change, Config, Durability, Error, Intent, Mesh, Resolve, TokenWish};
use crate::table::{Body, Key, Table};

fn config(dir: &Path, name: &str, intent: Intent) -> Config {
    Config {
        dir: dir.join(name),
        name: name.into(),
        listen: vec!["127.0.0.1:0".into()],
        intent,
        version: "test".into(),
        ..Config::default()
    }
}

fn wish() -> TokenWish {
    TokenWish { role: Role::Member, ttl_ms: Some(60_000), uses: None }
}

fn actor() -> Actor {
    Actor { who: "tester".into(), from: "test".into() }
}

/// No step takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `check` holds or [`PATIENCE`] is over.
async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn equal(nodes: &[&Mesh]) -> bool {
    let mut roots = Vec::new();
    for node in nodes {
        roots.push(node.status().await.unwrap().root);
    }
    roots.windows(2).all(|pair| pair[0] == pair[1])
}

fn kv(id: &str) -> Key {
    Key::global(Table::KV, id)
}

async fn value(node: &Mesh, id: &str) -> Option<Vec<u8>> {
    node.get(kv(id)).await.unwrap().map(|row| row.body.0)
}

async fn three(dir: &Path) -> [Mesh; 3] {
    let a = Mesh::start(config(dir, "a", Intent::ResumeOrCreate)).await.unwrap();
    let token = a.token_create(wish(), actor()).await.unwrap();
    let b = Mesh::start(config(dir, "b", Intent::Join(token.clone()))).await.unwrap();
    let c = Mesh::start(config(dir, "c", Intent::Join(token))).await.unwrap();
    let nodes = [a, b, c];
    for node in &nodes {
        until("three members, all alive and linked", || async {
            let members = node.members().await.unwrap();
            members.len() == 3 && members.iter().all(|m| m.liveness == Liveness::Alive && (m.is_self || m.connected))
        })
        .await;
    }
    nodes
}

#[tokio::test]
async fn three_nodes_join_converge_and_any_one_of_them_goes_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = three(dir.path()).await;
    // The links may still be coming up; until then the answer is `Local`, rightly.
    until("a write that two peers hold", || async {
        a.put(kv("x"), Body(b"1".to_vec())).await.unwrap().durability == Durability::Replicated
    })
    .await;
    for node in [&b, &c] {
        until("the row everywhere", || async { value(node, "x").await.as_deref() == Some(b"1") }).await;
    }
    until("equal digests", || async { equal(&[&a, &b, &c]).await }).await;

    // The first node goes, which made the root; joins still work.
    a.stop().await.unwrap();
    drop(a);
    let token = b.token_create(wish(), actor()).await.unwrap();
    let d = Mesh::start(config(dir.path(), "d", Intent::Join(token))).await.unwrap();
    until("the row at the newcomer", || async { value(&d, "x").await.is_some() }).await;
    // All but one go: it still takes writes, and says that they are local.
    for node in [b, d] {
        node.stop().await.unwrap();
    }
    let start = Instant::now();
    let written = c.put(kv("y"), Body(b"2".to_vec())).await.unwrap();
    assert_eq!(written.durability, Durability::Local);
    // It waits for nobody that is gone; how soon is a figure of the simulator, where time does not depend on other work.
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    // They come back from their own disks and agree.
    let a = Mesh::start(config(dir.path(), "a", Intent::Resume)).await.unwrap();
    let b = Mesh::start(config(dir.path(), "b", Intent::Resume)).await.unwrap();
    for node in [&a, &b] {
        until("what was written alone", || async { value(node, "y").await.is_some() }).await;
    }
    until("equal digests again", || async { equal(&[&a, &b, &c]).await }).await;
    assert_eq!(a.status().await.unwrap().epoch, 2);
}

#[tokio::test]
async fn a_dead_node_is_noticed_and_its_return_too() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = three(dir.path()).await;
    let id = c.id();
    let mut changes = a.watch_members().await.unwrap();
    c.stop().await.unwrap();
    drop(c);
    for node in [&a, &b] {
        until("down", || async {
            node.members().await.unwrap().iter().any(|m| m.id == id && m.liveness == Liveness::Down)
        })
        .await;
    }
    let mut told = Vec::new();
    while let Ok(change) = changes.try_recv() {
        // A busy machine may make another one look slow for a moment.
        if change.id == id {
            told.push(change.liveness);
        }
    }
    assert_eq!(told.last(), Some(&Liveness::Down), "{told:?}");
    let c = Mesh::start(config(dir.path(), "c", Intent::Resume)).await.unwrap();
    for node in [&a, &b, &c] {
        until("alive again", || async { node.members().await.unwrap().iter().all(|m| m.liveness == Liveness::Alive) })
            .await;
    }
}

/// Runs a node on a thread of its own until told; from then on it says nothing although its connections stand, until the
/// second word: then it is gone at once.
fn mute(config: Config) -> [std::sync::mpsc::Sender<()>; 2] {
    let (fall, silent) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(async {
            // The one before lets go of its disk on a thread of its own.
            let node = loop {
                match Mesh::start(config.clone()).await {
                    Ok(node) => break node,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            while silent.try_recv().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            node
        });
        let _ = ended.recv();
        drop((runtime, node));
    });
    [fall, end]
}

#[tokio::test]
async fn a_peer_that_falls_silent_again_and_again_is_taken_back_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let a = Mesh::start(config(dir.path(), "a", Intent::ResumeOrCreate)).await.unwrap();
    let token = a.token_create(wish(), actor()).await.unwrap();
    // More often than a member may hold streams open in one lane.
    for round in 0..6 {
        let intent = if round == 0 { Intent::Join(token.clone()) } else { Intent::Resume };
        let [fall, end] = mute(config(dir.path(), "b", intent));
        let state = async |liveness| {
            let members = a.members().await.unwrap();
            members.iter().any(|m| !m.is_self && m.liveness == liveness)
        };
        until(&format!("alive in round {round}"), || state(Liveness::Alive)).await;
        until("linked", || async { a.members().await.unwrap().iter().all(|m| m.is_self || m.connected) }).await;
        fall.send(()).unwrap();
        until("down", || state(Liveness::Down)).await;
        until("hung up", || async { a.status().await.unwrap().connections == 0 }).await;
        end.send(()).unwrap();
    }
}

#[tokio::test]
async fn calls_and_watches_reach_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = three(dir.path()).await;
    let id = a.id();
    b.serve(
        "/shoal/echo/1",
        Arc::new(move |from, bytes| {
            Box::pin(async move { if from == id { Ok(bytes) } else { Err(format!("not for {from}")) } })
        }),
    )
    .await
    .unwrap();
    assert_eq!(a.call(b.id(), "/shoal/echo/1", vec![7; 100_000]).await.unwrap(), vec![7; 100_000]);
    let refusal = c.call(b.id(), "/shoal/echo/1", vec![]).await.unwrap_err().to_string();
    assert!(refusal.contains("not for"), "{refusal}");
    assert!(a.call(b.id(), "/shoal/nothing/1", vec![]).await.is_err());
    assert!(a.call(crate::NodeId(1), "/shoal/echo/1", vec![]).await.is_err());
    let mut watch = c.watch(Table::KV).await.unwrap();
    a.put(kv("w"), Body(vec![1])).await.unwrap();
    let Some(Change::Row(row)) = tokio::time::timeout(Duration::from_secs(5), watch.recv()).await.unwrap() else {
        panic!("no row")
    };
    assert_eq!(row.key, kv("w"));
}

#[tokio::test]
async fn tokens_that_are_wrong_spent_foreign_or_revoked_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let a = Mesh::start(config(dir.path(), "a", Intent::ResumeOrCreate)).await.unwrap();
    let once = a.token_create(TokenWish { uses: Some(1), ..wish() }, actor()).await.unwrap();
    let _b = Mesh::start(config(dir.path(), "b", Intent::Join(once.clone()))).await.unwrap();
    let refusal = |error: Error| error.to_string();
    let spent = refusal(Mesh::start(config(dir.path(), "c", Intent::Join(once.clone()))).await.unwrap_err());
    assert!(spent.contains("already used"), "{spent}");
    let dead = a.token_create(TokenWish { ttl_ms: Some(0), ..wish() }, actor()).await.unwrap();
    let expired = refusal(Mesh::start(config(dir.path(), "d", Intent::Join(dead))).await.unwrap_err());
    assert!(expired.contains("expired"), "{expired}");
    let mut tampered = crate::admission::Token::from_text(&a.token_create(wish(), actor()).await.unwrap()).unwrap();
    tampered.secret = [0; 16];
    let wrong = refusal(Mesh::start(config(dir.path(), "e", Intent::Join(tampered.to_text()))).await.unwrap_err());
    assert!(wrong.contains("secret is wrong"), "{wrong}");
    let other = Mesh::start(config(dir.path(), "other", Intent::ResumeOrCreate)).await.unwrap();
    let foreign = other.token_create(wish(), actor()).await.unwrap();
    let mut misled = crate::admission::Token::from_text(&foreign).unwrap();
    misled.addresses = a.status().await.unwrap().addresses;
    let foreign = refusal(Mesh::start(config(dir.path(), "f", Intent::Join(misled.to_text()))).await.unwrap_err());
    assert!(foreign.contains("another cluster"), "{foreign}");
    let text = a.token_create(wish(), actor()).await.unwrap();
    let id = format!("{:016x}", crate::admission::Token::from_text(&text).unwrap().id);
    a.token_revoke(&id, actor()).await.unwrap();
    let revoked = refusal(Mesh::start(config(dir.path(), "g", Intent::Join(text.clone()))).await.unwrap_err());
    assert!(revoked.contains("revoked"), "{revoked}");
    // An admission that another node wrote at the same moment, later by its clock, does not bring it back.
    let key = Key::global(Table::TOKEN, &id);
    let row = a.get(key.clone()).await.unwrap().unwrap();
    let mut again: crate::admission::TokenRow = row.body.parse().unwrap();
    (again.revoked, again.used) = (false, 1);
    a.put(key, Body::json(&again).unwrap()).await.unwrap();
    let revoked = refusal(Mesh::start(config(dir.path(), "g", Intent::Join(text))).await.unwrap_err());
    assert!(revoked.contains("revoked"), "{revoked}");
    assert!(
        refusal(Mesh::start(config(dir.path(), "h", Intent::Join("shoal1zz".into()))).await.unwrap_err())
            .contains("malformed")
    );
    assert!(refusal(Mesh::start(config(dir.path(), "i", Intent::Resume)).await.unwrap_err()).contains("mesh up"));
}

#[tokio::test]
async fn an_evicted_node_is_dropped_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = three(dir.path()).await;
    let id = c.id();
    a.evict(id, actor()).await.unwrap();
    for node in [&a, &b] {
        until("gone", || async { node.members().await.unwrap().len() == 2 }).await;
    }
    until("the evicted node knows", || async {
        c.status().await.unwrap().alarms.iter().any(|alarm| alarm.kind == "evicted")
            || c.status().await.unwrap().connections == 0
    })
    .await;
    c.stop().await.unwrap();
    drop(c);
    let c = Mesh::start(config(dir.path(), "c", Intent::Resume)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(a.members().await.unwrap().len(), 2);
    assert!(c.call(a.id(), "/shoal/echo/1", vec![]).await.is_err());
}

#[tokio::test]
async fn leaving_is_told_and_backups_restore() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c] = three(dir.path()).await;
    a.put(kv("keep"), Body(b"old".to_vec())).await.unwrap();
    let backup = a.backup().await.unwrap();
    a.put(kv("keep"), Body(b"new".to_vec())).await.unwrap();
    a.delete(kv("keep"), Some(actor())).await.unwrap();
    assert_eq!(value(&a, "keep").await, None);
    until("the deletion at the other node", || async { value(&b, "keep").await.is_none() }).await;
    until("equal digests", || async { equal(&[&a, &b]).await }).await;
    assert_eq!(b.restore(backup, actor()).await.unwrap(), 1);
    until("the restored row", || async { value(&a, "keep").await.as_deref() == Some(b"old") }).await;
    assert!(b.restore(b"{}".to_vec(), actor()).await.is_err());
    assert!(a.conflicts().await.unwrap().is_empty());
    assert!(a.resolve_conflict("nothing", Resolve::KeepCurrent, actor()).await.is_err());
    c.leave(actor()).await.unwrap();
    for node in [&a, &b] {
        until("two members", || async { node.members().await.unwrap().len() == 2 }).await;
    }
    let audit = a.rows(Table::AUDIT).await.unwrap();
    assert!(audit.iter().any(|row| String::from_utf8_lossy(&row.body.0).contains("delete kv/keep")));
}
