//! Constant load on every node's published port while services are changed and nodes die. Half of the connections are fresh,
//! half are kept; nothing is tried again; a reset or a refusal is a failure, an answer after a second is late.

use crate::rig::{Mesh, Node, PATIENCE};
use integration::{eventually, pace, soon};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An answer that takes longer is late.
const LATE: Duration = Duration::from_secs(1);
/// Late answers that a short run may see: two busy cores let anybody wait for a second. A long run may see none.
const LATE_MAX: usize = 5;
/// From so many requests on a run is a long one.
const MANY: usize = 20_000;
/// Who waits for so long gets no answer any more.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A node's process may be away for so long before the others take its instances over.
const AWAY_MAX: Duration = Duration::from_secs(2);
/// Between two requests of one connection.
const PACE: Duration = Duration::from_millis(10);
/// Where the load goes.
const PORT: u16 = 8081;
/// Instances of the service.
const REPLICAS: usize = 5;

/// What the load has seen so far.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    asked: AtomicUsize,
    failed: Mutex<Vec<Failure>>,
    /// Through which node which instance answered last.
    answers: Mutex<BTreeMap<(Ipv4Addr, String), Instant>>,
}

/// A request that was not answered as it should be.
#[derive(Debug, Clone)]
struct Failure {
    /// Answered, but after a second.
    late: bool,
    text: String,
}

impl Seen {
    /// Asks one node until told to stop.
    fn ask(&self, node: Ipv4Addr, keep: bool, give_up: Duration) {
        let start = Instant::now();
        let mut kept: Option<TcpStream> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            let reused = kept.is_some();
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answer = request(&mut kept, node, keep, give_up);
            let took = began.elapsed();
            let failure = match answer {
                Ok(_) if took > LATE => Some((true, "late".to_owned())),
                Ok(text) => {
                    let instance = text.split_whitespace().next().unwrap_or_default().to_owned();
                    self.answers.lock().expect("no holder panics").insert((node, instance), Instant::now());
                    None
                }
                Err(error) => {
                    kept = None;
                    Some((false, error.to_string()))
                }
            };
            if let Some((late, why)) = failure {
                let how = if reused { "kept" } else { "fresh" };
                let at = began.duration_since(start).as_secs_f64();
                let text = format!("at {at:.3} s: {how} through {node} after {took:?}: {why}");
                self.failed.lock().expect("no holder panics").push(Failure { late, text });
            }
            pace(PACE);
        }
    }

    /// The instances that answered through a node since then.
    fn since(&self, node: Ipv4Addr, then: Instant) -> BTreeSet<String> {
        let answers = self.answers.lock().expect("no holder panics");
        answers.iter().filter(|((by, _), at)| *by == node && **at > then).map(|((_, name), _)| name.clone()).collect()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn failures(&self) -> Vec<Failure> {
        self.failed.lock().expect("no holder panics").clone()
    }
}

fn request(kept: &mut Option<TcpStream>, node: Ipv4Addr, keep: bool, give_up: Duration) -> std::io::Result<String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&SocketAddr::from((node, PORT)), give_up)?;
            stream.set_read_timeout(Some(give_up))?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let version = if keep { "1.1" } else { "1.0" };
    stream.write_all(format!("GET / HTTP/{version}\r\nHost: web\r\n\r\n").as_bytes())?;
    let mut text = Vec::new();
    let (head, body) = loop {
        let mut part = [0; 1024];
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed without an answer"));
        }
        text.extend_from_slice(&part[..count]);
        let so_far = String::from_utf8_lossy(&text);
        if let Some((head, body)) = so_far.split_once("\r\n\r\n")
            && body.ends_with('\n')
        {
            break (head.to_owned(), body.to_owned());
        }
    };
    if keep && head.contains("keep-alive") {
        *kept = Some(stream);
    }
    Ok(body)
}

fn count(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Keeps every node's port busy while `work` runs; returns what was seen.
fn under_load<T>(
    mesh: &Mesh,
    nodes: &[&Node],
    give_up: Duration,
    work: impl FnOnce(&Seen) -> T,
) -> (T, usize, Vec<Failure>) {
    let seen = Seen::default();
    let client = mesh.client.netns_path();
    let done = std::thread::scope(|scope| {
        for node in nodes {
            for keep in [false, true] {
                let (seen, client, address) = (&seen, client.clone(), node.address);
                scope.spawn(move || {
                    crate::rig::enter(&client);
                    seen.ask(address, keep, give_up);
                });
            }
        }
        // Told to stop also when the work panics.
        struct Stop<'a>(&'a Seen);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&seen);
        work(&seen)
    });
    (done, seen.asked(), seen.failures())
}

fn expect_none_failed(what: &str, asked: usize, failed: &[Failure]) {
    let late = failed.iter().filter(|failure| failure.late).count();
    println!("{what}: {} of {asked} failed, {late} of them late", failed.len());
    let allowed = if count("SHOAL_LOAD_REQUESTS", 0) >= MANY { 0 } else { LATE_MAX };
    let texts: Vec<&str> = failed.iter().map(|failure| failure.text.as_str()).collect();
    assert!(failed.len() == late && late <= allowed, "{what}: {} of {asked} failed: {texts:#?}", failed.len());
}

#[test]
fn updates_drains_and_restarts_lose_no_request() {
    let mesh = Mesh::new();
    mesh.serve("web", PORT, 3);
    let nodes: Vec<&Node> = mesh.nodes.iter().collect();
    for node in &nodes {
        let _ = mesh.answers(node, PORT);
    }
    let first = nodes[0];
    let slow = Duration::from_secs(90);

    let requests = count("SHOAL_LOAD_REQUESTS", 2_000);
    let mut total = 0;
    let mut round = 0;
    while total < requests {
        round += 1;
        let (_, asked, failed) = under_load(&mesh, &nodes, GIVE_UP, |_| {
            let scale = ["service", "scale", &format!("web={REPLICAS}"), "--wait"];
            let _ = first.shoal(scale).deadline(slow).ok();
            for order in ["start-first", "stop-first"] {
                let version = format!("VERSION={order}-{round}");
                let update = ["service", "update", "web", "--env-add", &version, "--update-order", order];
                let _ = first.shoal(update).args(["--update-monitor", "1s", "--wait"]).deadline(slow).ok();
            }
        });
        expect_none_failed("scale and two rolling updates", asked, &failed);
        total += asked;
        assert!(mesh.answers(nodes[2], PORT).contains(&format!(" stop-first-{round} ")));

        let (_, asked, failed) = under_load(&mesh, &nodes, GIVE_UP, |_| {
            let _ = first.shoal(["node", "drain", "n3"]).ok();
            eventually("the drained node is empty", PATIENCE, || {
                nodes[2].shoal(["ps", "-q"]).ok().trim().is_empty().then_some(())
            });
            let _ = first.shoal(["service", "wait", "web"]).deadline(slow).ok();
            let _ = first.shoal(["node", "activate", "n3"]).ok();
        });
        expect_none_failed("drain", asked, &failed);
        total += asked;

        // The node's process alone dies: containers, ports and names go on; it comes back and adopts them.
        let (_, asked, failed) = under_load(&mesh, &nodes, GIVE_UP, |_| {
            let before = nodes[1].shoal(["ps", "-q"]).ok();
            let (agent, killed) = (nodes[1].agent(), Instant::now());
            kill(Pid::from_raw(agent), Signal::SIGKILL).expect("the process is ours");
            eventually("the node's process is gone", PATIENCE, || {
                (!std::path::Path::new(&format!("/proc/{agent}")).exists()).then_some(())
            });
            nodes[1].up(None);
            mesh.all_alive();
            // Away for longer, it is given up by the others, and rightly.
            let was_quick = killed.elapsed() < AWAY_MAX;
            let _ = first.shoal(["service", "wait", "web"]).deadline(slow).ok();
            let after = nodes[1].shoal(["ps", "-q"]).ok();
            assert!(before == after || !was_quick, "a restarted node adopts what it finds: {before:?} {after:?}");
        });
        expect_none_failed("agent restart", asked, &failed);
        total += asked;
    }
}

/// A client may use one port of its own towards several nodes at once; the container they choose must not take one connection
/// for the other, neither while the first stands nor in the minute after its end.
#[test]
fn one_port_of_a_client_towards_several_nodes_is_as_many_connections() {
    let mesh = Mesh::new();
    mesh.serve("web", PORT, 1);
    for node in &mesh.nodes {
        let _ = mesh.answers(node, PORT);
    }
    let nodes: Vec<Ipv4Addr> = mesh.nodes.iter().map(|node| node.address).collect();
    let client = mesh.client_address;
    let (failed, late) = crate::rig::at(&mesh.client.netns_path(), move || {
        let (mut failed, mut late) = (Vec::new(), Vec::new());
        for own in 40_000..40_020 {
            for keep in [true, false] {
                let mut standing = Vec::new();
                for node in &nodes {
                    let began = Instant::now();
                    let answer = connect_from((client, own + u16::from(keep) * 100), *node).and_then(|stream| {
                        let mut stream = Some(stream);
                        let answer = request(&mut stream, *node, keep, GIVE_UP)?;
                        standing.push(stream);
                        Ok(answer)
                    });
                    let told = format!("{own} to {node}, keep {keep}, {:?}", began.elapsed());
                    match answer {
                        Err(error) => failed.push(format!("{told}: {error}")),
                        Ok(_) if began.elapsed() > LATE => late.push(told),
                        Ok(_) => {}
                    }
                }
            }
        }
        (failed, late)
    });
    // Whose first packet is taken for another connection's gets its answer after a second.
    assert!(failed.is_empty() && late.len() <= LATE_MAX, "of 120 failed {failed:#?}, late {late:#?}");
}

/// Connects from a port of one's own choice.
fn connect_from(own: (Ipv4Addr, u16), node: Ipv4Addr) -> std::io::Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let limit = nix::sys::time::TimeVal::new(10, 0);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(own.0, own.1)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(node, PORT)))?;
    Ok(TcpStream::from(socket))
}

#[test]
fn killed_nodes_are_replaced_under_load() {
    let mesh = Mesh::new();
    mesh.serve("web", PORT, u32::try_from(REPLICAS).expect("a few"));
    let mut took: Vec<Duration> = Vec::new();
    for round in 0..count("SHOAL_LOAD_KILLS", 2) {
        took.push(kill_one(&mesh, 1 + round % 2));
    }
    took.sort();
    let (p50, p95) = (took[(took.len() - 1) / 2], took[(took.len() * 95).div_ceil(100) - 1]);
    println!("node killed, replaced and routed: p50 {p50:?}, p95 {p95:?} of {} kills: {took:?}", took.len());
    if took.len() >= 10 {
        assert!(p50 <= Duration::from_secs(4) && p95 <= Duration::from_secs(8), "{took:?}");
    }
}

/// Kills a node with all that is on it, cable included; returns how long it took until every replica answered through every
/// survivor. The node is back and empty afterwards.
fn kill_one(mesh: &Mesh, victim: usize) -> Duration {
    let nodes: Vec<&Node> =
        mesh.nodes.iter().enumerate().filter(|(at, _)| *at != victim).map(|(_, node)| node).collect();
    let victim = &mesh.nodes[victim];
    // Every instance runs exactly once before.
    let all = || mesh.nodes.iter().map(|node| node.shoal(["ps", "-q"]).ok().split_whitespace().count());
    if soon(PATIENCE, || (all().sum::<usize>() == REPLICAS).then_some(())).is_none() {
        panic!("{:?} run: {}", all().collect::<Vec<_>>(), said(mesh));
    }
    let pids = victim.pids();
    // Who asks what has died gives up after a second: the next answer tells that it was replaced.
    let (took, ..) = under_load(mesh, &nodes, LATE, |seen| {
        for node in &nodes {
            eventually("all replicas answer", PATIENCE, || {
                (seen.since(node.address, Instant::now() - Duration::from_secs(3)).len() == REPLICAS).then_some(())
            });
        }
        mesh.lan.cable(victim.plug, false);
        let began = Instant::now();
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for node in &nodes {
            eventually(&format!("all replicas answer through {}", node.name), PATIENCE, || {
                (seen.since(node.address, began).len() == REPLICAS).then_some(())
            });
        }
        began.elapsed()
    });
    let (_, asked, failed) = under_load(mesh, &nodes, GIVE_UP, |_| {
        mesh.lan.cable(victim.plug, true);
        victim.up(None);
        mesh.all_alive();
        eventually("the node that is back runs nothing", PATIENCE, || {
            victim.shoal(["ps", "-q"]).ok().trim().is_empty().then_some(())
        });
    });
    expect_none_failed("a node comes back", asked, &failed);
    took
}

/// What each node says about the service, for a failure.
fn said(mesh: &Mesh) -> String {
    mesh.nodes.iter().map(|node| node.shoal(["service", "ps", "web"]).run().stdout).collect()
}
