//! Who is in and what they agree on, with real processes in network namespaces: tokens, eviction, leaving, resuming, cloned
//! keys, changed addresses, cuts and their conflicts, dead disks, poisoned rows, strangers at the door. No containers.

#[path = "membership/api.rs"]
mod api;
#[path = "membership/nat.rs"]
mod nat;

use integration::host::Lan;
use integration::{Cmd, Host, eventually, unchanged};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// No step of a small mesh takes longer on two busy cores.
const PATIENCE: Duration = Duration::from_secs(40);

/// Each mesh has a switch, and each switch a subnet of its own.
static SUBNET: AtomicU8 = AtomicU8::new(1);

/// Runs `work` inside a network namespace.
fn at<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(netns).unwrap_or_else(|error| panic!("{}: {error}", netns.display()));
    std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
        work()
    })
    .join()
    .expect("the work does not panic")
}

/// One node of a mesh.
struct Node {
    host: Host,
    name: String,
    /// Where it listens.
    address: String,
    /// Which socket of the switch it is plugged into, from 1.
    plug: u32,
}

impl Node {
    fn shoal<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.host.shoal(args).deadline(PATIENCE)
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.shoal(args.iter().copied().chain(["-o", "json"])).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    fn up_with(&self, more: &[&str]) -> Cmd {
        let args = ["mesh", "up", "--detach", "--name", &self.name, "--listen", &self.address];
        self.shoal(args.into_iter().chain(more.iter().copied()))
    }

    fn status(&self) -> Value {
        self.json(&["mesh", "status"])
    }

    fn root(&self) -> String {
        self.status()["root"].to_string()
    }

    fn alarms(&self) -> String {
        self.status()["alarms"].to_string()
    }

    fn token(&self, more: &[&str]) -> String {
        let text = self.shoal(["mesh", "token", "create"].into_iter().chain(more.iter().copied())).ok();
        text.split_whitespace().last().expect("a token").to_owned()
    }

    fn put(&self, key: &str, value: &str) -> String {
        self.shoal(["kv", "put", key, value]).ok()
    }

    fn get(&self, key: &str) -> Option<String> {
        let got = self.shoal(["kv", "get", key]).run();
        got.status.success().then_some(got.stdout)
    }

    /// The node's own process.
    fn agent(&self) -> Option<Pid> {
        let inside = Cmd::new("ip").args(["netns", "pids", &self.host.netns]).run().stdout;
        let is_agent = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--detached")
        };
        inside.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_agent).map(Pid::from_raw)
    }

    fn signal(&self, signal: Signal) {
        kill(self.agent().expect("the node's process runs"), signal).expect("the process is ours");
    }

    fn kill(&self) {
        self.signal(Signal::SIGKILL);
        eventually("the process is gone", PATIENCE, || self.agent().is_none().then_some(()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(agent) = self.agent() {
            let _ = kill(agent, Signal::SIGCONT);
            let _ = self.host.shoal(["mesh", "down"]).deadline(PATIENCE).attempt();
        }
    }
}

/// Nodes on one switch.
struct Mesh {
    nodes: Vec<Node>,
    lan: Lan,
}

impl Mesh {
    fn new(count: u32) -> Self {
        Self::with(count, false)
    }

    fn with(count: u32, v6: bool) -> Self {
        let mut mesh = Self { nodes: Vec::new(), lan: Lan::new(79, SUBNET.fetch_add(1, Ordering::Relaxed)) };
        for number in 1..=count {
            let node = mesh.host(number, v6);
            mesh.nodes.push(node);
        }
        let _ = mesh.nodes[0].up_with(&[]).ok();
        let token = mesh.nodes[0].token(&[]);
        for node in &mesh.nodes[1..] {
            let _ = node.up_with(&["--join", &token]).ok();
        }
        mesh.all_alive();
        mesh
    }

    /// A host on the switch, without a node.
    fn host(&self, number: u32, v6: bool) -> Node {
        let host = Host::new("member");
        let address = self.lan.plug(&host);
        let mut listen = format!("{address}:4700");
        if v6 {
            let own = format!("fd79::{number}");
            let _ = host.cmd("ip").args(["addr", "flush", "dev", "eth0"]).ok();
            let _ = host.cmd("ip").args(["addr", "add", &format!("{own}/64"), "dev", "eth0", "nodad"]).ok();
            listen = format!("[{own}]:4700");
        }
        Node { host, name: format!("n{number}"), address: listen, plug: number }
    }

    fn all_alive(&self) {
        let count = self.nodes.len();
        for node in &self.nodes {
            eventually(&format!("{} sees {count} members", node.name), PATIENCE, || {
                let status = node.status();
                (status["alive"] == count && status["connections"] == count - 1).then_some(())
            });
        }
    }

    fn all_equal(&self) {
        eventually("equal digests", PATIENCE, || {
            let digests: BTreeSet<String> = self.nodes.iter().map(Node::root).collect();
            (digests.len() == 1).then_some(())
        });
    }
}

fn refused(command: &Cmd, words: &str) {
    let outcome = command.run().expect_failure();
    assert!(outcome.stderr.contains(words), "{}: {:?} is not in {}", outcome.line, words, outcome.stderr);
}

#[test]
fn tokens_that_are_spent_expired_foreign_revoked_or_torn_say_so() {
    let mesh = Mesh::new(2);
    let first = &mesh.nodes[0];
    let once = first.token(&["--uses", "1"]);
    let (joiner, late) = (mesh.host(3, false), mesh.host(4, false));
    let _ = joiner.up_with(&["--join", &once]).ok();
    refused(&late.up_with(&["--join", &once]), "already used");
    let brief = first.token(&["--ttl", "1ms"]);
    eventually("the token has expired", PATIENCE, || {
        late.up_with(&["--join", &brief]).run().stderr.contains("expired").then_some(())
    });
    let torn = &once[..once.len() - 3];
    refused(&late.up_with(&["--join", torn]), "its end is missing");
    // Another mesh's token, with the address of a node of this one.
    let other = mesh.host(5, false);
    let _ = other.up_with(&[]).ok();
    let foreign = other.token(&[]);
    let _ = other.shoal(["mesh", "down"]).ok();
    refused(&late.up_with(&["--join", &format!("{foreign}@{}", first.address)]), "another cluster");
    // Without it nobody is there: what was tried is named.
    refused(&late.up_with(&["--join", &foreign]), &format!("tried {} (connection refused)", other.address));
    let table = first.shoal(["mesh", "token", "ls"]).ok();
    assert!(table.contains("EXPIRES") && table.contains("1/1") && table.contains("in 23 h"), "{table}");
    // A revoked one, by the other node that never made it.
    let doomed = first.token(&[]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let in_a_minute = u64::try_from(now.as_millis()).expect("for ages") + 60_000;
    let listed = eventually("the token is listed", PATIENCE, || {
        let all = mesh.nodes[1].json(&["mesh", "token", "ls"]);
        // Unlike the others it has no use yet and time left.
        let live = |token: &&Value| token["uses"] == 0 && token["expires_ms"].as_u64() > Some(in_a_minute);
        let newest = all.as_array()?.iter().filter(live).max_by_key(|token| token["expires_ms"].as_u64())?.clone();
        Some(newest["id"].as_str()?.to_owned())
    });
    let _ = mesh.nodes[1].shoal(["mesh", "token", "revoke", &listed]).ok();
    eventually("the first node knows", PATIENCE, || {
        late.up_with(&["--join", &doomed]).run().stderr.contains("revoked").then_some(())
    });
    refused(&first.shoal(["mesh", "token", "revoke", "0000"]), "no token");
    // The refused one has begun nothing: a good token lets it in.
    let _ = late.up_with(&["--join", &first.token(&[])]).ok();
}

#[test]
fn an_evicted_node_is_dropped_everywhere_and_stays_out() {
    let mesh = Mesh::new(4);
    let [first, second, third, last] = &mesh.nodes[..] else { panic!("four nodes") };
    // A member that is no operator evicts.
    let began = Instant::now();
    let _ = second.shoal(["mesh", "evict", "n4", "--yes"]).ok();
    for node in [first, second, third] {
        eventually("it is gone", PATIENCE, || {
            let status = node.status();
            (status["alive"] == 3 && status["connections"] == 2).then_some(())
        });
    }
    // The command lines themselves take their time here; the goal is two seconds.
    println!("evicted on three nodes after {:?}", began.elapsed());
    eventually("it is told, or alone", PATIENCE, || (last.status()["connections"] == 0).then_some(()));
    let _ = last.shoal(["mesh", "down"]).ok();
    let _ = last.up_with(&[]).run();
    unchanged("the evicted node does not come back", Duration::from_secs(3), || {
        first.json(&["mesh", "members"]).as_array().map(Vec::len)
    });
    refused(&first.shoal(["mesh", "evict", "n4", "--yes"]), "n4");
    // One leaves by itself; the rest see it at once and it can join again as somebody new.
    let token = first.token(&[]);
    let _ = third.shoal(["mesh", "leave", "--yes"]).ok();
    eventually("two are left", PATIENCE, || (first.json(&["mesh", "members"]).as_array()?.len() == 2).then_some(()));
    eventually("its process ends", PATIENCE, || third.agent().is_none().then_some(()));
    let _ = third.up_with(&["--join", &token]).ok();
    eventually("three again", PATIENCE, || (second.status()["alive"] == 3).then_some(()));
}

#[test]
fn a_node_resumes_by_itself_also_at_another_address_and_after_all_were_off() {
    let mut mesh = Mesh::new(3);
    let _ = mesh.nodes[0].put("color", "blue");
    mesh.all_equal();
    // What a host has free is told to the others, and again when it changes.
    let open = |mesh: &Mesh| {
        let seen = mesh.nodes[0].json(&["mesh", "members"]);
        let means = seen.as_array()?.iter().find(|member| member["name"] == "n3")?["means"].clone();
        (means["memory_free_bytes"].as_u64() > Some(0) && means["disk_bytes"].as_u64() > Some(0)).then_some(())?;
        Some(means["ports"].to_string().contains("7788"))
    };
    eventually("n3 has told what it has", PATIENCE, || (open(&mesh) == Some(false)).then_some(()));
    let listener = at(&mesh.nodes[2].host.netns_path(), || std::net::TcpListener::bind("0.0.0.0:7788"));
    let listener = listener.expect("nobody has that port");
    eventually("n1 sees the port in use", PATIENCE, || (open(&mesh) == Some(true)).then_some(()));
    drop(listener);
    eventually("every node's disk is shown", PATIENCE, || {
        let shown = mesh.nodes[0].shoal(["node", "ls"]).ok();
        (shown.contains("DISK") && !shown.contains(" - ")).then_some(())
    });
    // Down and up, without a token.
    let _ = mesh.nodes[2].shoal(["mesh", "down"]).ok();
    let _ = mesh.nodes[2].up_with(&[]).ok();
    mesh.all_alive();
    assert_eq!(mesh.nodes[2].status()["epoch"], 2);
    // The host comes back under another address.
    let _ = mesh.nodes[2].shoal(["mesh", "down"]).ok();
    let moved = mesh.nodes[2].address.replace(".3:", ".99:");
    let ip = moved.split(':').next().expect("an address").to_owned();
    let _ = mesh.nodes[2].host.cmd("ip").args(["addr", "flush", "dev", "eth0"]).ok();
    let _ = mesh.nodes[2].host.cmd("ip").args(["addr", "add", &format!("{ip}/24"), "dev", "eth0"]).ok();
    mesh.nodes[2].address = moved;
    let _ = mesh.nodes[2].up_with(&[]).ok();
    mesh.all_alive();
    eventually("the others know where it is", PATIENCE, || {
        mesh.nodes[0].json(&["mesh", "members"]).to_string().contains(&ip).then_some(())
    });
    // All off, all on.
    for node in &mesh.nodes {
        node.kill();
    }
    for node in &mesh.nodes {
        let _ = node.up_with(&[]).ok();
    }
    mesh.all_alive();
    mesh.all_equal();
    assert_eq!(mesh.nodes[1].get("color").as_deref(), Some("blue"));
    refused(&mesh.nodes[1].up_with(&[]), "already runs");
}

#[test]
fn a_copied_key_is_noticed_named_and_refused() {
    let mesh = Mesh::new(3);
    let clone = mesh.host(4, false);
    let (from, to) = (mesh.nodes[2].host.root().join("data"), clone.host.root().join("data"));
    let _ = Cmd::new("mkdir").arg("-p").arg(&to).ok();
    let _ = Cmd::new("cp").arg("-a").arg(from.join("mesh")).arg(to.join("mesh")).ok();
    let _ = clone.up_with(&[]).run();
    let named = eventually("somebody says that a key is in use twice", PATIENCE, || {
        // One that is refused ends by itself.
        let all = mesh.nodes.iter().map(|node| node.shoal(["mesh", "status", "-o", "json"]).run().stdout);
        all.into_iter().find(|text| text.contains("cloned-key"))
    });
    assert!(named.contains("two machines") || named.contains("another machine"), "{named}");
    // The others are not harmed.
    let _ = mesh.nodes[0].put("after", "clone");
    eventually("the healthy nodes agree", PATIENCE, || mesh.nodes[1].get("after"));
}

#[test]
fn both_sides_of_a_cut_write_and_the_loser_is_shown_and_can_be_taken() {
    let mesh = Mesh::new(3);
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };
    let _ = first.put("color", "white");
    mesh.all_equal();
    mesh.lan.cable(third.plug, false);
    eventually("the cut is seen", PATIENCE, || (first.status()["down"] == 1).then_some(()));
    let near = first.put("color", "blue");
    assert!(near.contains("local") || near.contains("replicated"), "{near}");
    let far = third.put("color", "red");
    assert!(far.contains("(local)"), "{far}");
    mesh.lan.cable(third.plug, true);
    let began = Instant::now();
    mesh.all_alive();
    mesh.all_equal();
    println!("healed after {:?}", began.elapsed());
    let stands: BTreeSet<Option<String>> = mesh.nodes.iter().map(|node| node.get("color")).collect();
    assert_eq!(stands.len(), 1, "{stands:?}");
    let stands = stands.into_iter().next().flatten().expect("a value");
    let conflicts = second.json(&["mesh", "conflicts", "ls"]);
    assert_eq!(conflicts.as_array().map(Vec::len), Some(1), "{conflicts}");
    let id = conflicts[0]["id"].as_str().expect("an id").to_owned();
    let shown = second.shoal(["mesh", "conflicts", "show", &id, "-o", "json"]).ok();
    assert!(shown.contains("red") && shown.contains("blue"), "both sides: {shown}");
    let doctor = second.shoal(["mesh", "doctor"]).run();
    assert!(doctor.stdout.contains("BAD  1 writings lost"), "{}", doctor.stdout);
    let doctor = second.shoal(["mesh", "doctor", "-o", "json"]).run().stdout;
    let checks: Value = serde_json::from_str(&doctor).expect("one document");
    let lost = |check: &Value| check["ok"] == false && check["what"].to_string().contains("1 writings lost");
    assert!(checks.as_array().is_some_and(|all| all.iter().any(lost)), "{doctor}");
    // The table shows the beginning of the id; that is enough.
    let _ = second.shoal(["mesh", "conflicts", "resolve", "--take-lost", &id[..20]]).ok();
    let other = if stands == "red" { "blue" } else { "red" };
    for node in &mesh.nodes {
        eventually("the loser stands", PATIENCE, || (node.get("color").as_deref() == Some(other)).then_some(()));
        eventually("no conflict is left", PATIENCE, || {
            node.json(&["mesh", "conflicts", "ls"]).as_array()?.is_empty().then_some(())
        });
    }
    refused(&first.shoal(["mesh", "conflicts", "resolve", "nothing"]), "no such conflict");
}

/// A process that prints lines, ended when dropped.
struct Lines {
    child: Child,
    seen: std::sync::mpsc::Receiver<String>,
}

impl Lines {
    fn of(command: &Cmd) -> Self {
        let mut child = command.command().stdout(Stdio::piped()).spawn().expect("it starts");
        let pipe = child.stdout.take().expect("it is piped");
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, seen }
    }

    fn wait_for(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.seen.recv_timeout(left).unwrap_or_else(|_| panic!("{words:?} was never printed"));
            if line.contains(words) {
                return;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_are_listed_watched_removed_backed_up_and_restored() {
    let mesh = Mesh::new(3);
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };
    let watch = Lines::of(&third.shoal(["kv", "watch", "app/"]));
    let status = Lines::of(&third.shoal(["mesh", "status", "--watch"]));
    status.wait_for("3 alive");
    for n in 0..5 {
        let _ = first.put(&format!("app/{n}"), &format!("value {n}"));
    }
    let _ = first.put("else", "where");
    watch.wait_for("value 4");
    let listed = eventually("all keys are at the second node", PATIENCE, || {
        let all = second.json(&["kv", "ls", "app/"]);
        (all.as_array()?.len() == 5).then_some(all)
    });
    assert!(!listed.to_string().contains("where"), "{listed}");
    let file = first.host.root().join("backup.json");
    let _ = first.shoal(["mesh", "backup"]).arg(&file).ok();
    let _ = second.shoal(["kv", "rm", "app/1", "app/2"]).ok();
    watch.wait_for("deleted");
    refused(&second.shoal(["kv", "rm", "app/1"]), "no key app/1");
    refused(&second.shoal(["kv", "get", "app/1"]), "no key app/1");
    let _ = third.put("app/3", "changed");
    eventually("the change is everywhere", PATIENCE, || {
        (first.get("app/3").as_deref() == Some("changed") && first.get("app/1").is_none()).then_some(())
    });
    eventually("the last node knows of both removals", PATIENCE, || {
        (third.get("app/1").is_none() && third.get("app/2").is_none()).then_some(())
    });
    let restored = third.shoal(["mesh", "restore"]).arg(&file).ok();
    assert!(restored.contains("3 rows"), "two removed and one changed: {restored}");
    for node in &mesh.nodes {
        eventually("the old values are back", PATIENCE, || {
            let value = |n: u32| node.get(&format!("app/{n}"));
            (value(1)? == "value 1" && value(3)? == "value 3").then_some(())
        });
    }
    assert!(third.json(&["mesh", "conflicts", "ls"]).as_array().is_some_and(Vec::is_empty), "edits, no conflicts");
    refused(&third.shoal(["mesh", "restore", "/etc/hostname"]), "not a backup");
    let rtt = eventually("round trips are measured", PATIENCE, || {
        let text = first.shoal(["mesh", "rtt"]).ok();
        (text.matches("ms").count() >= 2).then_some(text)
    });
    assert!(rtt.contains("self"), "{rtt}");
    eventually("a healthy mesh passes the doctor's questions about it", PATIENCE, || {
        let doctor = first.shoal(["mesh", "doctor"]).run().stdout;
        ["all 3 members answer", "clocks agree", "one version", "every row is understood", "no writing lost"]
            .iter()
            .all(|words| doctor.contains(&format!("ok   {words}")))
            .then_some(())
    });
}

#[test]
fn two_of_three_are_killed_and_the_last_takes_writes_at_once() {
    let mesh = Mesh::new(3);
    for pair in [[0, 1], [1, 2]] {
        for victim in pair {
            mesh.nodes[victim].kill();
        }
        let last = &mesh.nodes[3 - pair[0] - pair[1]];
        let began = Instant::now();
        let said = last.put("alone", &last.name);
        let took = began.elapsed();
        assert!(said.contains("(local)"), "{said}");
        // Nobody is waited for but for a moment.
        assert!(took < Duration::from_secs(15), "{took:?}");
        for back in pair {
            let _ = mesh.nodes[back].up_with(&[]).ok();
        }
        let began = Instant::now();
        mesh.all_equal();
        println!("alone: a write took {took:?}; all equal {:?} after the last start", began.elapsed());
        mesh.all_alive();
        assert_eq!(mesh.nodes[pair[0]].get("alone").as_deref(), Some(last.name.as_str()));
    }
}

#[test]
fn a_node_killed_in_the_middle_of_its_writes_loses_nothing_it_acknowledged() {
    let mesh = Mesh::new(1);
    let node = &mesh.nodes[0];
    for round in 0..6 {
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut done = 0;
                while !stop.load(Ordering::Relaxed) {
                    let key = format!("r{round}/{done}");
                    if !node.shoal(["kv", "put", &key, &"x".repeat(5_000)]).run().status.success() {
                        break;
                    }
                    done += 1;
                }
                done
            });
            // Killed while it writes, at a moment of no meaning.
            eventually("some are written", PATIENCE, || node.get(&format!("r{round}/{}", 2 + round % 3)));
            node.kill();
            stop.store(true, Ordering::Relaxed);
            writing.join().expect("writing does not panic")
        });
        let _ = node.up_with(&[]).ok();
        for n in 0..acknowledged {
            assert!(node.get(&format!("r{round}/{n}")).is_some(), "round {round}: {n} of {acknowledged} is lost");
        }
    }
}

#[test]
fn an_ipv6_only_mesh_works() {
    let mesh = Mesh::with(3, true);
    let _ = mesh.nodes[0].put("v", "6");
    eventually("the key is at the third node", PATIENCE, || mesh.nodes[2].get("v"));
    assert!(mesh.nodes[1].json(&["mesh", "members"]).to_string().contains("/ip6/fd79::"));
}

#[test]
fn a_poisoned_row_kills_nobody_and_is_named_on_every_node() {
    let mesh = Mesh::new(3);
    let first = &mesh.nodes[0];
    let _ = first.put("poison", "no service at all");
    let file = first.host.root().join("backup.json");
    let _ = first.shoal(["mesh", "backup"]).arg(&file).ok();
    let text = std::fs::read_to_string(&file).expect("the backup is a file");
    let mut document: Value = serde_json::from_str(&text).expect("and JSON");
    let rows = document["rows"].as_array_mut().expect("with rows");
    // Format and flags, then the table: kv is 18, service is 6.
    rows.retain(|row| row.as_str().is_some_and(|row| row.starts_with("1212")));
    assert_eq!(rows.len(), 1);
    rows[0] = rows[0].as_str().expect("hex").replacen("1212", "1206", 1).into();
    std::fs::write(&file, document.to_string()).expect("the folder is ours");
    let agents: Vec<_> = mesh.nodes.iter().map(Node::agent).collect();
    let _ = first.shoal(["mesh", "restore"]).arg(&file).ok();
    let began = Instant::now();
    for node in &mesh.nodes {
        eventually("the row is named", PATIENCE, || {
            node.shoal(["mesh", "status"]).ok().contains("quarantined service/poison").then_some(())
        });
    }
    println!("named everywhere after {:?}", began.elapsed());
    let _ = mesh.nodes[1].put("still", "alive");
    eventually("keys travel", PATIENCE, || mesh.nodes[2].get("still"));
    assert_eq!(mesh.nodes.iter().map(Node::agent).collect::<Vec<_>>(), agents, "nobody died");
    // It also survives a start with that row on disk.
    mesh.nodes[2].kill();
    let _ = mesh.nodes[2].up_with(&[]).ok();
    mesh.all_alive();
}

#[test]
fn a_full_disk_is_an_error_of_its_own_node_alone_and_passes() {
    let mesh = Mesh::new(2);
    let node = mesh.host(3, false);
    let folder = node.host.root().join("data/mesh");
    std::fs::create_dir_all(&folder).expect("the root is ours");
    let _ = Cmd::new("mount").args(["-t", "tmpfs", "-o", "size=12m,mode=700", "mesh-disk"]).arg(&folder).ok();
    let _ = node.up_with(&["--join", &mesh.nodes[0].token(&[])]).ok();
    eventually("three members", PATIENCE, || (node.status()["alive"] == 3).then_some(()));
    assert!(node.put("before", "1").contains("before"));
    // Everything that is left is taken.
    let _ = Cmd::new("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}/ballast", folder.display())).run();
    let refusal = eventually("a write is refused", PATIENCE, || {
        let outcome = node.shoal(["kv", "put", "full", &"x".repeat(100_000)]).run();
        (!outcome.status.success()).then_some(outcome.stderr)
    });
    assert!(refusal.contains("No space left") || refusal.contains("disk"), "{refusal}");
    assert!(!refusal.contains("local"), "{refusal}");
    eventually("status names it", PATIENCE, || node.alarms().contains("store").then_some(()));
    let _ = mesh.nodes[0].put("others", "go on");
    eventually("the node still follows", PATIENCE, || node.get("others"));
    eventually("it is alive for the others", PATIENCE, || (mesh.nodes[0].status()["alive"] == 3).then_some(()));
    std::fs::remove_file(folder.join("ballast")).expect("it is ours");
    eventually("it takes writes again", PATIENCE, || {
        node.shoal(["kv", "put", "after", "2"]).run().status.success().then_some(())
    });
    // What came while the disk was full is on it now.
    node.kill();
    for other in &mesh.nodes {
        other.kill();
    }
    let _ = node.up_with(&[]).ok();
    assert_eq!(node.get("others").as_deref(), Some("go on"));
    assert_eq!(node.get("after").as_deref(), Some("2"));
    let _ = node.shoal(["mesh", "down"]).ok();
    let _ = Cmd::new("umount").arg(&folder).ok();
}

#[test]
fn strangers_at_the_door_and_a_peer_that_does_not_read_keep_nobody_out() {
    let mesh = Mesh::new(3);
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };
    // Hundreds of connections that say nothing, or nonsense.
    let address: SocketAddr = first.address.parse().expect("an address");
    let strangers: Vec<TcpStream> = at(&second.host.netns_path(), move || {
        let connect = |n: usize| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
            if n.is_multiple_of(2) {
                let _ = std::io::Write::write_all(&mut stream, &[0xff; 300]);
            }
            Some(stream)
        };
        (0..400).filter_map(connect).collect()
    });
    assert!(strangers.len() > 50, "{} connected", strangers.len());
    // One node reads nothing for a while; the others write much.
    third.signal(Signal::SIGSTOP);
    for n in 0..40 {
        let _ = first.shoal(["kv", "put", &format!("bulk/{n}"), "-"]).input(vec![b'x'; 200_000]).ok();
    }
    eventually("the other node has all", PATIENCE, || {
        (second.json(&["kv", "ls", "bulk/"]).as_array()?.len() == 40).then_some(())
    });
    let memory =
        std::fs::read_to_string(format!("/proc/{}/status", first.agent().expect("it runs"))).expect("its status");
    let resident = memory.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned();
    println!("resident with a peer that does not read: {resident}");
    let kilobytes: u64 = resident.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
    assert!(kilobytes < 250_000, "{resident}");
    let joiner = mesh.host(4, false);
    let _ = joiner.up_with(&["--join", &first.token(&[])]).ok();
    third.signal(Signal::SIGCONT);
    eventually("all four agree", PATIENCE, || {
        let digests: BTreeSet<String> = mesh.nodes.iter().chain([&joiner]).map(Node::root).collect();
        (digests.len() == 1 && third.status()["alive"] == 4).then_some(())
    });
    for mut stream in strangers {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = stream.read(&mut [0; 16]);
    }
}
