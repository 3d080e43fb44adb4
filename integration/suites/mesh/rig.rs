//! A mesh of some hosts on one switch, and a client beside them: what every test of this suite stands on.

use integration::host::Lan;
use integration::image::Builder;
use integration::{Cmd, Host, Scratch, eventually};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// No step of a mesh of three takes longer on two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The image of every test.
pub(crate) const IMAGE: &str = "localhost/mesh:1";
/// The probe's server: it says host name, version and the client's address, over TCP and UDP.
pub(crate) const SERVE: [&str; 3] = ["probe", "serve", "8000"];

/// Below a node's root: which registries of the switch speak plain HTTP.
const REGISTRIES: &str = "registries.conf";
/// Sockets of the switch that registries may be plugged into: behind three nodes and the client.
const REGISTRY_PLUGS: [u8; 2] = [5, 6];

/// Each mesh has a switch, and each switch a subnet of its own.
static SUBNET: AtomicU8 = AtomicU8::new(1);

/// Moves the calling thread into a network namespace, for the rest of its life.
pub(crate) fn enter(netns: &Path) {
    let file = File::open(netns).unwrap_or_else(|error| panic!("{}: {error}", netns.display()));
    setns(&file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
}

/// Runs `work` inside a network namespace.
pub(crate) fn at<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.to_owned();
    std::thread::spawn(move || {
        enter(&netns);
        work()
    })
    .join()
    .expect("the work does not panic")
}

/// The archive of the test image, made once: busybox and the probe.
fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(Scratch, PathBuf)> = OnceLock::new();
    let made = || {
        let scratch = Scratch::new("mesh-image");
        let path = Builder::busybox(IMAGE).archive_in(scratch.path());
        (scratch, path)
    };
    &ARCHIVE.get_or_init(made).1
}

/// Writes the archive of the test image with so many MiB more that do not compress.
pub(crate) fn noise(folder: &Path, name: &str, mebibytes: usize) -> PathBuf {
    let scratch = Scratch::new("noise");
    let mut random = File::open("/dev/urandom").expect("every kernel has it").take((mebibytes as u64) << 20);
    let mut file = File::create(scratch.join("noise")).expect("the scratch folder is writable");
    let _ = std::io::copy(&mut random, &mut file).expect("it never ends");
    Builder::busybox(name).layer_of(scratch.path()).archive_in(folder)
}

/// One node of a mesh.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) address: Ipv4Addr,
    pub(crate) name: String,
    /// Which socket of the switch it is plugged into, from 1.
    pub(crate) plug: u32,
    /// More flags of `mesh up`.
    flags: Vec<String>,
}

impl Node {
    pub(crate) fn shoal<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.host.shoal(args).env("CONTAINERS_REGISTRIES_CONF", self.host.root().join(REGISTRIES)).deadline(PATIENCE)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.shoal(args.iter().copied().chain(["-o", "json"])).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    pub(crate) fn up(&self, token: Option<&str>) {
        let listen = format!("{}:4700", self.address);
        let mut args = vec!["mesh", "up", "--detach", "--name", &self.name, "--listen", &listen];
        args.extend(["--cpus", "4", "--memory", "2g"]);
        args.extend(self.flags.iter().map(String::as_str));
        if let Some(token) = token {
            args.extend(["--join", token]);
        }
        let _ = self.shoal(args).ok();
    }

    /// Kills every process of this host: node, monitors, containers.
    pub(crate) fn kill(&self) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        // Containers have namespaces of their own; their monitors name the root folder.
        let root = self.host.root().display().to_string();
        let inside = Cmd::new("ip").args(["netns", "pids", &self.host.netns]).run().stdout;
        let mut pids: BTreeSet<i32> = inside.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let state = self.host.shoal(["ps", "-q", "--no-trunc"]).run().stdout;
        for id in state.split_whitespace() {
            let inspect = self.host.shoal(["inspect", "--format", "{{.State.Pid}}", id]).run().stdout;
            pids.extend(inspect.trim().parse::<i32>().ok().filter(|pid| *pid > 1));
        }
        for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let names = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&root);
            if pid != std::process::id().cast_signed() && (names(&line) || names(&environment)) {
                pids.insert(pid);
            }
        }
        pids.into_iter().collect()
    }

    pub(crate) fn agent(&self) -> i32 {
        let status = Cmd::new("ip").args(["netns", "pids", &self.host.netns]).run().stdout;
        let is_agent = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--detached")
        };
        status.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_agent).expect("the node's process runs")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The node first, so that nothing is started again; the host removes the containers.
        let _ = self.host.shoal(["mesh", "down"]).deadline(Duration::from_secs(40)).attempt();
    }
}

/// Three nodes, the image on the first, and a client, on one switch.
pub(crate) struct Mesh {
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Host,
    pub(crate) client_address: Ipv4Addr,
    pub(crate) lan: Lan,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::with(&[&[], &[], &[]])
    }

    /// A mesh of as many nodes as there are lists of flags for `mesh up`.
    pub(crate) fn with(flags: &[&[&str]]) -> Self {
        let subnet = SUBNET.fetch_add(1, Ordering::Relaxed);
        let lan = Lan::new(78, subnet);
        let plain = |plug: u8| format!("[[registry]]\nlocation = \"10.78.{subnet}.{plug}:5000\"\ninsecure = true\n");
        let registries = REGISTRY_PLUGS.map(plain).concat();
        let mut nodes = Vec::new();
        for (number, flags) in (1u32..).zip(flags) {
            let host = Host::new("node");
            let address = lan.plug(&host);
            std::fs::write(host.root().join(REGISTRIES), &registries).expect("the scratch folder is writable");
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            nodes.push(Node { host, address, name: format!("n{number}"), plug: number, flags });
        }
        let client = Host::new("client");
        let client_address = lan.plug(&client);
        let _ = nodes[0].shoal(["load", "-i"]).arg(archive()).ok();
        nodes[0].up(None);
        let token = nodes[0].shoal(["mesh", "token", "create"]).ok();
        let token = token.split_whitespace().last().expect("a token").to_owned();
        for node in &nodes[1..] {
            node.up(Some(&token));
        }
        let mesh = Self { nodes, client, client_address, lan };
        mesh.all_alive();
        mesh
    }

    pub(crate) fn all_alive(&self) {
        for node in &self.nodes {
            eventually(&format!("{} sees every member", node.name), PATIENCE, || {
                let status = node.json(&["mesh", "status"]);
                (status["alive"] == self.nodes.len()).then_some(())
            });
        }
    }

    /// Makes a service of `replicas` that answers on port 8080 of every node.
    pub(crate) fn serve(&self, name: &str, port: u16, replicas: u32) {
        let (publish, replicas) = (format!("{port}:8000"), replicas.to_string());
        let mut args = vec!["service", "create", "--name", name, "--replicas", &replicas, "-p", &publish];
        args.extend(["-e", "VERSION=one", "--hostname", "{{.Node.ID}}-{{.Task.Slot}}", "--stop-grace-period", "1s"]);
        args.extend(["--health-cmd", "wget -q -O /dev/null http://127.0.0.1:8000/", "--health-interval", "1s"]);
        args.extend(["--health-start-period", "5s", "--health-start-interval", "100ms"]);
        args.extend(["--wait", "--wait-timeout", "60s", IMAGE]);
        args.extend(SERVE);
        let made = self.nodes[0].shoal(args).deadline(Duration::from_secs(70)).run();
        let said = |node: &Node| {
            let ps = node.shoal(["service", "ps", "--no-trunc", name]).run().stdout;
            format!("{}{}{ps}", node.shoal(["mesh", "members"]).run().stdout, node.shoal(["ps", "-a"]).run().stdout)
        };
        assert!(made.status.success(), "{}: {}", made.stderr, self.nodes.iter().map(said).collect::<String>());
    }

    /// What the service says to the client through a node; `None` when it does not answer.
    pub(crate) fn ask(&self, node: &Node, port: u16) -> Option<String> {
        ask(&self.client.netns_path(), node.address, port)
    }

    pub(crate) fn answers(&self, node: &Node, port: u16) -> String {
        let what = format!("port {port} answers through {}", node.name);
        eventually(&what, PATIENCE, || self.ask(node, port).filter(|text| !text.is_empty()))
    }
}

/// The IPv4 addresses in what busybox's look-up says, or the IPv6 ones.
pub(crate) fn addresses_in(said: &str, six: bool) -> BTreeSet<String> {
    let found = said.lines().skip(2).filter_map(|line| line.strip_prefix("Address: "));
    found.filter(|address| address.contains(':') == six).map(str::to_owned).collect()
}

pub(crate) fn ask(netns: &Path, address: Ipv4Addr, port: u16) -> Option<String> {
    at(netns, move || {
        let address = SocketAddr::from((address, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.trim().to_owned())
    })
}
