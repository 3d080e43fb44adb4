//! Hosts of the benchmark: namespaces on a switch, a node in each, and what they say. In: how many. Out: their processes,
//! costs and events with the moment each came. Dropping the rig ends and removes everything it made, by id.

use crate::shell::{Result, bin_dir, output};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The router's address towards each host.
const GATEWAY: &str = "169.254.77.1";

/// What a node has cost since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) cpu_us: u64,
    pub(super) resident_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) wire_packets: u64,
    pub(super) frames: u64,
}

/// One host.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) netns: String,
    pub(super) address: String,
    name: String,
    root: PathBuf,
}

/// All hosts and their switch.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) nodes: Vec<Node>,
    switch: String,
    folder: PathBuf,
}

/// Polls until `done` or `within` has passed; says whether it was done.
pub(super) fn until(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Rig {
    /// Makes the switch and the hosts.
    pub(super) fn new(count: usize) -> Result<Self> {
        let shoal = bin_dir().join("shoal");
        if !shoal.exists() {
            return Err(format!("{} is not built; run: cargo xtask build", shoal.display()));
        }
        let pid = std::process::id();
        let folder = std::env::temp_dir().join(format!("shoal-bench-mesh-{pid}"));
        let mut rig = Self { nodes: Vec::new(), switch: format!("bm{pid}-s"), folder };
        std::fs::create_dir_all(&rig.folder).map_err(|error| format!("{}: {error}", rig.folder.display()))?;
        let ip = |args: &str| output("ip", &args.split(' ').collect::<Vec<_>>()).map(drop);
        let switch = rig.switch.clone();
        ip(&format!("netns add {switch}"))?;
        // A router, not a bridge: the kernel keeps at most 1,024 neighbours over all namespaces together (gc_thresh3), and 50
        // hosts that all know each other by their Ethernet addresses have 2,450.
        output("ip", &["netns", "exec", &switch, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        ip(&format!("-n {switch} link set lo up"))?;
        for number in 1..=count {
            let netns = format!("bm{pid}-{number}");
            let address = format!("10.77.0.{number}");
            ip(&format!("netns add {netns}"))?;
            let root = rig.folder.join(number.to_string());
            rig.nodes.push(Node { netns: netns.clone(), address: address.clone(), name: format!("n{number}"), root });
            ip(&format!("-n {switch} link add p{number} type veth peer name eth0 netns {netns}"))?;
            ip(&format!("-n {switch} link set p{number} up"))?;
            ip(&format!("-n {switch} addr add {GATEWAY}/32 dev p{number}"))?;
            ip(&format!("-n {switch} route add {address}/32 dev p{number}"))?;
            ip(&format!("-n {netns} link set lo up"))?;
            ip(&format!("-n {netns} addr add {address}/32 dev eth0"))?;
            ip(&format!("-n {netns} link set eth0 up"))?;
            ip(&format!("-n {netns} route add {GATEWAY}/32 dev eth0"))?;
            ip(&format!("-n {netns} route add default via {GATEWAY}"))?;
        }
        Ok(rig)
    }

    /// Ends every node.
    pub(super) fn end_nodes(&self) {
        for node in &self.nodes {
            node.end();
        }
    }

    /// Listens to server-sent events of every node; `read` picks what counts of an event's data.
    pub(super) fn listen(&self, path: &str, read: fn(&Value) -> Option<String>) -> Result<Heard> {
        let heard = Heard::default();
        for at in 0..self.nodes.len() {
            heard.add(self, at, path, read)?;
        }
        Ok(heard)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end_nodes();
        for netns in self.nodes.iter().map(|node| &node.netns).chain([&self.switch]) {
            let _ = output("ip", &["netns", "del", netns]);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Node {
    /// A command inside this host.
    pub(super) fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command.env("SHOAL_ROOT", &self.root).stdin(Stdio::null());
        command
    }

    /// Runs the command line in this host and returns what it printed.
    pub(super) fn shoal(&self, args: &[&str]) -> Result<String> {
        let out = self.inside(bin_dir().join("shoal")).args(args).output().map_err(|error| error.to_string())?;
        if !out.status.success() {
            return Err(format!("{} {}: {}", self.name, args.join(" "), String::from_utf8_lossy(&out.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// The command that starts the node.
    pub(super) fn up_command(&self, token: Option<&str>) -> Command {
        let mut command = self.inside(bin_dir().join("shoal"));
        let listen = format!("{}:4700", self.address);
        command.args(["mesh", "up", "--detach", "--name", &self.name, "--listen", &listen]);
        command.args(["--cpus", "1", "--memory", "256m"]);
        if let Some(token) = token {
            command.args(["--join", token]);
        }
        command.stdout(Stdio::null());
        command
    }

    pub(super) fn up(&self, token: Option<&str>) -> Result<()> {
        let status = self.up_command(token).status().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("{} did not start", self.name)) }
    }

    fn pids(&self) -> Vec<i32> {
        let text = output("ip", &["netns", "pids", &self.netns]).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn agent(&self) -> Option<i32> {
        self.pids().into_iter().find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--detached")
        })
    }

    /// Kills the node's process.
    pub(super) fn kill(&self) -> Result<()> {
        let pid = self.agent().ok_or_else(|| format!("{} does not run", self.name))?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .map_err(|error| error.to_string())
    }

    /// Kills whatever runs in this host's namespace, which is this benchmark's own.
    pub(super) fn end(&self) {
        for pid in self.pids() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        until(Duration::from_secs(5), || self.pids().is_empty());
    }

    fn socket(&self) -> PathBuf {
        self.root.join("run/node.sock")
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<UnixStream> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.name);
        let mut stream = UnixStream::connect(self.socket()).map_err(failed)?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).map_err(failed)?;
        Ok(stream)
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = self.request("GET", path, "")?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|error| error.to_string())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| "no answer".to_owned())
    }

    /// Writes a key through this node; returns once it is sent, while the answer is read beside.
    pub(super) fn put(&self, key: &str) -> Result<()> {
        let mut stream = self.request("PUT", &format!("/v1/kv/{key}"), "value")?;
        std::thread::spawn(move || {
            // A client that hangs up early may take its request back.
            let _ = stream.read_to_string(&mut String::new());
        });
        Ok(())
    }

    fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&self.get(path).ok()?).ok()
    }

    /// How many entries of a list have a field that is not empty.
    pub(super) fn count(&self, path: &str, field: &str) -> usize {
        let list = self.json(path).unwrap_or_default();
        let full = |entry: &&Value| entry[field].as_str().is_some_and(|text| !text.is_empty());
        list.as_array().map_or(0, |list| list.iter().filter(full).count())
    }

    /// How many members this node believes alive.
    pub(super) fn alive(&self) -> Option<usize> {
        usize::try_from(self.json("/v1/status")?["alive"].as_u64()?).ok()
    }

    /// This node's id.
    pub(super) fn id(&self) -> Result<String> {
        let status = self.json("/v1/status").ok_or_else(|| format!("{} does not answer", self.name))?;
        Ok(status["id"].as_str().unwrap_or_default().to_owned())
    }

    /// What it has cost so far.
    pub(super) fn cost(&self) -> Cost {
        let mut cost = Cost::default();
        if let Some(pid) = self.agent() {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            // A hundred ticks a second on every Linux we know.
            cost.cpu_us = (ticks(11) + ticks(12)) * 10_000;
            cost.resident_bytes = ticks(21) * 4_096;
        }
        let statistics = ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"]
            .map(|name| format!("/sys/class/net/eth0/statistics/{name}"));
        // The files of the namespace are seen through a sysfs of its own.
        let read = Command::new("ip").args(["netns", "exec", &self.netns, "cat"]).args(statistics).output();
        let text = read.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        let values: Vec<u64> = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
        if let [rx, tx, rx_packets, tx_packets] = values[..] {
            (cost.wire_bytes, cost.wire_packets) = (rx + tx, rx_packets + tx_packets);
        }
        if let Some(status) = self.json("/v1/status") {
            cost.frames = status["counters"]["frames_sent"].as_u64().unwrap_or(0);
        }
        cost
    }
}

/// Something heard: at which node, and what.
type Said = (usize, String);

/// What all nodes have said, with the moment it came.
#[derive(Debug, Default, Clone)]
pub(super) struct Heard(Arc<Mutex<Vec<(Said, Instant)>>>);

impl Heard {
    /// Listens to one more node; returns once its stream has begun.
    pub(super) fn add(&self, rig: &Rig, at: usize, path: &str, read: fn(&Value) -> Option<String>) -> Result<()> {
        let stream = rig.nodes[at].request("GET", path, "")?;
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while lines.read_line(&mut head).map_err(|error| error.to_string())? > 0 && !head.ends_with("\r\n\r\n") {}
        let sink = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut line = String::new();
            // Ends when the node does.
            while matches!(lines.read_line(&mut line), Ok(length) if length > 0) {
                if let Some(said) = line.strip_prefix("data: ").and_then(|text| serde_json::from_str(text.trim()).ok())
                    && let Some(said) = read(&said)
                {
                    sink.lock().expect("no reader panics").push(((at, said), Instant::now()));
                }
                line.clear();
            }
        });
        Ok(())
    }

    /// Waits until `wanted` nodes have said something that fits; returns when each first did.
    pub(super) fn until(
        &self,
        within: Duration,
        wanted: usize,
        fits: impl Fn(&Said) -> bool,
    ) -> BTreeMap<usize, Instant> {
        let look = || {
            let mut first = BTreeMap::new();
            for (said, at) in self.0.lock().expect("no reader panics").iter().filter(|(said, _)| fits(said)) {
                first.entry(said.0).or_insert(*at);
            }
            first
        };
        until(within, || look().len() >= wanted);
        look()
    }

    /// How often something was said.
    pub(super) fn count(&self, fits: impl Fn(&Said) -> bool) -> u64 {
        self.0.lock().expect("no reader panics").iter().filter(|(said, _)| fits(said)).count() as u64
    }

    /// Forgets what was said so far.
    pub(super) fn forget(&self) {
        self.0.lock().expect("no reader panics").clear();
    }
}
