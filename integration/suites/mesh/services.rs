//! What operators do with services and nodes, on three real nodes: placement, reservations, failures, updates that go wrong.

use crate::rig::{IMAGE, Mesh, PATIENCE, SERVE};
use integration::{Outcome, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Updates with a health gate wait for checks.
const SLOW: Duration = Duration::from_secs(60);

/// Runs `shoal service create` with these words.
fn create(mesh: &Mesh, at: usize, name: &str, flags: &[&str], command: &[&str]) -> Outcome {
    let words = [&["service", "create", "--name", name], flags, &[IMAGE], command];
    mesh.nodes[at].shoal(words.concat()).deadline(SLOW).run()
}

/// The instances of a service that have not ended: node's name → how many.
fn spread(mesh: &Mesh, name: &str) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for view in instances(mesh, name).iter().filter(|view| view["instance"]["phase"] == "running") {
        *nodes.entry(view["node_name"].as_str().expect("a name").to_owned()).or_default() += 1;
    }
    nodes
}

fn instances(mesh: &Mesh, name: &str) -> Vec<Value> {
    let all = mesh.nodes[1].json(&["service", "ps", name]);
    all.as_array().expect("a list").clone()
}

fn wait_for_spread(mesh: &Mesh, name: &str, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> = wanted.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
    eventually(&format!("{name} runs as {wanted:?}"), SLOW, || (spread(mesh, name) == wanted).then_some(()));
}

fn rollout(mesh: &Mesh, name: &str) -> String {
    let views = mesh.nodes[2].json(&["service", "inspect", name]);
    views[0]["rollout"]["state"].as_str().unwrap_or("none").to_owned()
}

fn version(mesh: &Mesh, port: u16) -> String {
    mesh.answers(&mesh.nodes[0], port).split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn services_go_where_they_may_and_where_there_is_room() {
    let mesh = Mesh::with(&[&["--site", "a", "--label", "disk=ssd"], &["--site", "a"], &["--site", "b"]]);
    let first = &mesh.nodes[0];

    // Nodes are listed alike everywhere.
    for node in &mesh.nodes {
        let table = node.shoal(["node", "ls"]).ok();
        assert_eq!(table.matches(" Ready ").count(), 3, "{table}");
        assert!(table.starts_with("ID ") && table.contains(" AVAILABILITY "), "{table}");
    }

    // One on every node that fits the constraint, as labels come and go.
    let flags = ["--global", "--constraint", "node.labels.disk == ssd"];
    let _ = create(&mesh, 0, "agent", &flags, &["sleep", "1000"]).expect_success();
    wait_for_spread(&mesh, "agent", &[("n1", 1)]);
    let _ = mesh.nodes[2].shoal(["node", "update", "--label-add", "disk=ssd", "n2"]).ok();
    wait_for_spread(&mesh, "agent", &[("n1", 1), ("n2", 1)]);
    let _ = mesh.nodes[1].shoal(["node", "update", "--label-rm", "disk", "n1"]).ok();
    wait_for_spread(&mesh, "agent", &[("n2", 1)]);
    let shown = first.shoal(["node", "ps", "n2"]).ok();
    assert!(shown.contains("agent.") && shown.contains(" Running "), "{shown}");

    // By site, and never there again when it is drained; back when it is active. (One that writes to a volume alone is not
    // replaced before it stops, so nobody waits half a minute for a node that could take it.)
    let flags = ["--mount", "source=far,target=/data", "--constraint", "node.site == b", "--wait"];
    let _ = create(&mesh, 1, "far", &flags, &["sleep", "1000"]).expect_success();
    wait_for_spread(&mesh, "far", &[("n3", 1)]);
    let _ = first.shoal(["node", "drain", "n3"]).ok();
    wait_for_spread(&mesh, "far", &[]);
    for node in &mesh.nodes {
        eventually(&format!("{} says why", node.name), PATIENCE, || {
            let text = node.shoal(["service", "explain", "far"]).ok();
            (text.contains("0/1 running") && text.contains("1 draining")).then_some(())
        });
    }
    let _ = first.shoal(["node", "activate", "n3"]).ok();
    wait_for_spread(&mesh, "far", &[("n3", 1)]);

    // What is reserved is kept free: the fourth does not fit, and it is said why, by every node.
    let flags = ["--replicas", "4", "--reserve-memory", "1500m", "--wait", "--wait-timeout", "4s"];
    let out = create(&mesh, 0, "big", &flags, &["sleep", "1000"]).expect_code(4);
    assert!(out.stderr.contains("0/3 nodes fit big: 3 short of memory (need 1.4G"), "{}", out.stderr);
    wait_for_spread(&mesh, "big", &[("n1", 1), ("n2", 1), ("n3", 1)]);
    let text = mesh.nodes[2].shoal(["service", "explain", "big"]).ok();
    assert!(text.contains("3 short of memory"), "{text}");
    let _ = mesh.nodes[2].shoal(["service", "scale", "big=2", "--wait"]).deadline(SLOW).ok();
    let _ = mesh.nodes[2].shoal(["service", "rm", "big", "far", "agent"]).ok();
    let gone = first.shoal(["service", "ps", "big"]).run().expect_failure();
    assert!(gone.stderr.contains("no service big"), "{}", gone.stderr);
    for node in &mesh.nodes {
        eventually(&format!("nothing is left on {}", node.name), PATIENCE, || {
            node.shoal(["ps", "-aq"]).ok().trim().is_empty().then_some(())
        });
    }
}

#[test]
fn failures_are_seen_slowed_down_and_gone_back_from() {
    let mesh = Mesh::new();
    let first = &mesh.nodes[0];

    // A crash loop is slowed down, its ends are listed, and it disturbs nobody.
    let flags = ["--restart-delay", "200ms"];
    let _ = create(&mesh, 0, "crash", &flags, &["sh", "-c", "echo gone wrong; exit 3"]).expect_success();
    let ends = |name: &str| instances(&mesh, name).iter().filter(|view| view["instance"]["phase"] == "failed").count();
    eventually("the third end", PATIENCE, || (ends("crash") >= 3).then_some(()));
    let text = first.shoal(["service", "ps", "crash"]).ok();
    assert!(text.contains("task: non-zero exit (3)"), "{text}");
    let attempts: Vec<u64> =
        instances(&mesh, "crash").iter().filter_map(|view| view["instance"]["attempt"].as_u64()).collect();
    assert!(attempts.iter().max() >= Some(&2), "{attempts:?}");
    let text = mesh.nodes[2].shoal(["service", "logs", "crash"]).ok();
    assert!(text.contains("gone wrong"), "{text}");
    let _ = create(&mesh, 1, "once", &["--restart-condition", "none"], &["sh", "-c", "exit 4"]).expect_success();
    eventually("its end", PATIENCE, || (ends("once") == 1).then_some(()));

    // A stop is a signal and a grace: who handles it ends by itself, who does not is killed after it.
    let polite = ["sh", "-c", "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done"];
    let _ = create(&mesh, 0, "polite", &["--stop-grace-period", "20s", "--wait"], &polite).expect_success();
    let deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"];
    let _ = create(&mesh, 0, "deaf", &["--stop-grace-period", "1s", "--wait"], &deaf).expect_success();
    for (name, code) in [("polite", 0), ("deaf", 137)] {
        let began = Instant::now();
        let _ = first.shoal(["service", "scale", &format!("{name}=0"), "--wait"]).deadline(SLOW).ok();
        // The row and the container of a slot that is gone go too: what ended is told by the events of its node.
        assert!(began.elapsed() < Duration::from_secs(12), "{name} took {:?}", began.elapsed());
        let _ = code;
    }
    let _ = first.shoal(["service", "rm", "crash", "once", "polite", "deaf"]).ok();

    // A health check gates the update: a template whose check fails stops it, or takes it back.
    let good = "probe true";
    let flags =
        ["--replicas", "3", "-p", "8085:8000", "-e", "VERSION=one", "--stop-grace-period", "1s", "--health-cmd", good];
    let health = ["--health-interval", "300ms", "--health-retries", "2", "--wait"];
    let flags: Vec<&str> = flags.into_iter().chain(health).collect();
    let _ = create(&mesh, 0, "web", &flags, &SERVE).expect_success();
    let bad = ["--env-add", "VERSION=two", "--health-cmd", "probe exit 1", "--update-monitor", "1s"];
    let update = |flags: &[&str]| {
        let args = ["service", "update", "web"].iter().chain(&bad).chain(flags);
        first.shoal(args).deadline(SLOW).run()
    };
    let out = update(&["--update-failure-action", "pause", "--wait"]).expect_failure();
    assert!(out.stderr.contains("paused: 1 of 3 slots failed"), "{}", out.stderr);
    let stands = |state: &str| {
        eventually(&format!("every node knows of {state}"), PATIENCE, || {
            (rollout(&mesh, "web") == state).then_some(())
        });
    };
    stands("paused");
    assert_eq!(version(&mesh, 8085), "one");
    let _ = mesh.nodes[1].shoal(["service", "rollback", "web", "--wait"]).deadline(SLOW).ok();
    stands("rollback_completed");
    eventually("all three run again", PATIENCE, || {
        let views = first.json(&["service", "inspect", "web"]);
        (views[0]["running"] == 3 && views[0]["wanted"] == 3).then_some(())
    });
    assert_eq!(version(&mesh, 8085), "one");

    let _ = update(&["--update-failure-action", "rollback", "--update-order", "start-first"]).expect_success();
    eventually("the update went back", SLOW, || (rollout(&mesh, "web") == "rollback_completed").then_some(()));
    for _ in 0..10 {
        assert_eq!(version(&mesh, 8085), "one");
    }
    eventually("it is told in words", PATIENCE, || {
        let pretty = first.shoal(["service", "inspect", "--pretty", "web"]).ok();
        pretty.contains("UpdateStatus: rollback_completed").then_some(())
    });

    // A good update after it goes through, also from another node.
    let args =
        ["service", "update", "web", "--env-add", "VERSION=three", "--health-cmd", good, "--update-monitor", "500ms"];
    let _ = mesh.nodes[2].shoal(args).arg("--wait").deadline(SLOW).ok();
    assert_eq!(version(&mesh, 8085), "three");

    // An instance that turns unhealthy is replaced.
    let ids = mesh.nodes[0].shoal(["ps", "-q", "--no-trunc"]).ok();
    let id = ids.split_whitespace().next().expect("an instance runs on every node").to_owned();
    let _ = mesh.nodes[0].shoal(["exec", &id, "rm", "/bin/probe"]).ok();
    eventually("it was replaced", SLOW, || {
        (!mesh.nodes[0].shoal(["ps", "-q", "--no-trunc"]).ok().contains(&id)).then_some(())
    });
    let _ = first.shoal(["service", "wait", "web"]).deadline(SLOW).ok();
}
