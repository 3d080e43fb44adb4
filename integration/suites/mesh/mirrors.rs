//! A standing mirror between two sites: it follows pushes, and goes on after its node was killed, its line was cut and its
//! destination was full. A tag is never there before everything below it.

use crate::rig::{Mesh, Node, PATIENCE, noise};
use integration::{Cmd, Host, Scratch, eventually, unchanged};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const SLOW: Duration = Duration::from_secs(60);

const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json";

/// A registry on a host of its own.
struct Registry {
    host: Host,
    address: Ipv4Addr,
    process: Child,
}

impl Registry {
    /// Ours, on the next socket of the switch, its bytes in memory: `mebibytes` of them.
    fn new(mesh: &Mesh, mebibytes: u32) -> Self {
        let host = Host::new("registry");
        let address = mesh.lan.plug(&host);
        let data = host.root().join("data");
        std::fs::create_dir_all(&data).expect("writable");
        let size = format!("size={mebibytes}m");
        let _ = Cmd::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data).ok();
        let listen = format!("{address}:5000");
        let serve = host.shoal(["image", "serve", "--listen", &listen]);
        let process = serve.command().stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("shoal starts");
        let registry = Self { host, address, process };
        eventually("the registry answers", PATIENCE, || {
            mesh.nodes[0].host.cmd("curl").args(["-sf", &registry.url("")]).run().status.success().then_some(())
        });
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}:5000/v2/{path}", self.address)
    }

    fn name(&self) -> String {
        format!("{}:5000/shop/web", self.address)
    }

    /// The digest of a tag, asked on the registry's own host.
    fn digest(&self, tag: &str) -> Option<String> {
        let url = self.url(&format!("shop/web/manifests/{tag}"));
        let out = self.host.cmd("curl").args(["-sfI", "-H", ACCEPT, &url]).run();
        let line = out.stdout.lines().find(|line| line.to_ascii_lowercase().starts_with("docker-content-digest:"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    fn sent(&self) -> u64 {
        let text = self.host.cmd("ip").args(["-s", "-j", "link", "show", "dev", "eth0"]).ok();
        let links: serde_json::Value = serde_json::from_str(&text).expect("ip speaks JSON");
        links[0]["stats64"]["tx"]["bytes"].as_u64().expect("a count")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Cmd::new("umount").arg("-l").arg(self.host.root().join("data")).attempt();
    }
}

/// A registry beside a node; it ends with the test.
struct Served(Child);

impl Served {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end();
    }
}

/// Pushes an image of so many MiB; returns its digest.
fn push(node: &Node, registry: &Registry, tag: &str, mebibytes: usize) -> String {
    let scratch = Scratch::new("pushed");
    let name = format!("{}:{tag}", registry.name());
    let archive = noise(scratch.path(), &name, mebibytes);
    let _ = node.shoal(["load", "-i"]).arg(archive).ok();
    let _ = node.shoal(["push", "-q", &name]).deadline(SLOW).ok();
    registry.digest(tag).expect("it was pushed")
}

fn status(node: &Node) -> serde_json::Value {
    node.json(&["image", "mirror", "status", "web"])[0].clone()
}

#[test]
fn a_standing_mirror_follows_pushes_through_kills_cuts_and_full_disks() {
    let mesh = Mesh::with(&[&["--site", "a"], &["--site", "b"], &["--site", "b"]]);
    let near = Registry::new(&mesh, 256);
    let far = Registry::new(&mesh, 72);
    let first = &mesh.nodes[0];
    let equal = |tag: &str, digest: &str| {
        eventually(&format!("{tag} is at the far site"), SLOW, || {
            (far.digest(tag).as_deref() == Some(digest)).then_some(())
        });
    };

    // It copies what is there, then what comes.
    let one = push(first, &near, "v1", 1);
    let (from, to) = (near.name(), far.name());
    let add = ["image", "mirror", "add", "web", &from, &to, "--every", "1s", "--site", "b"];
    let _ = first.shoal(add).ok();
    let again = first.shoal(add).run().expect_code(5);
    assert!(again.stderr.contains("mirror web exists"), "{}", again.stderr);
    equal("v1", &one);
    let pushed = Instant::now();
    let two = push(first, &near, "v2", 1);
    equal("v2", &two);
    println!("a push was at the far site {:?} after it began", pushed.elapsed());
    for node in &mesh.nodes {
        let listed = eventually("the mirror is told to be equal", PATIENCE, || {
            let listed = node.shoal(["image", "mirror", "ls"]).ok();
            listed.contains(" equal ").then_some(listed)
        });
        assert!(listed.contains(&from) && listed.contains(&to), "{listed}");
    }

    // Its node is killed half way: the other one of the site goes on, and the tag comes last.
    let limit = ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "6mbit", "burst", "64kb", "latency", "100ms"];
    // Seconds enough for whoever looks at it half way, however busy the machine.
    let full_speed = || {
        let _ = near.host.cmd("tc").args(["qdisc", "del", "dev", "eth0", "root"]).ok();
    };
    let _ = near.host.cmd("tc").args(limit).ok();
    let before = near.sent();
    let three = push(first, &near, "v3", 12);
    let begun = |before: u64| {
        eventually("some of it has been sent", SLOW, || (near.sent() > before + (2 << 20)).then_some(()));
    };
    begun(before);
    let name = eventually("it is told who copies", PATIENCE, || {
        let status = status(first);
        status["state"]["running"].as_bool()?.then(|| status["node_name"].as_str().map(str::to_owned))?
    });
    let steward = mesh.nodes.iter().find(|node| node.name == name).expect("a node of the mesh");
    assert_ne!(steward.name, "n1", "only the far site's nodes do it");
    assert_eq!(far.digest("v3"), None, "a tag comes last");
    mesh.lan.cable(steward.plug, false);
    steward.kill();
    let killed = Instant::now();
    full_speed();
    equal("v3", &three);
    println!("the copying node was killed: equal after {:?}", killed.elapsed());
    let _ = near.host.cmd("tc").args(limit).ok();
    mesh.lan.cable(steward.plug, true);
    steward.up(None);

    // The line is cut half way, and heals.
    let before = near.sent();
    let four = push(first, &near, "v4", 12);
    begun(before);
    mesh.lan.cable(5, false);
    unchanged("nothing is named at the far end of a cut line", Duration::from_secs(3), || far.digest("v4"));
    assert_eq!(far.digest("v4"), None);
    mesh.lan.cable(5, true);
    full_speed();
    equal("v4", &four);

    // The far site is full: it is said why, nothing is named, and it goes on when there is room.
    let five = push(first, &near, "v5", 48);
    eventually("the mirror says what is wrong", SLOW, || {
        let status = status(first);
        let text = status["state"]["report"]["reasons"].to_string() + &status["state"]["error"].to_string();
        (text.contains("v5") && text.contains("full")).then_some(())
    });
    assert_eq!(far.digest("v5"), None);
    let _ = Cmd::new("mount").args(["-o", "remount,size=128m"]).arg(far.host.root().join("data")).ok();
    equal("v5", &five);

    // A registry of a node of the mesh tells what is pushed to it: nobody waits for the next look, an hour from now.
    let source = format!("{}:5000", first.address);
    let serve = first.shoal(["image", "serve", "--listen", &source]);
    let mut own = Served(serve.command().stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("shoal starts"));
    let listed = first.host.cmd("curl");
    let listed = listed.args([
        "-sf",
        "--retry",
        "50",
        "--retry-connrefused",
        "--retry-delay",
        "1",
        &format!("http://{source}/v2/"),
    ]);
    let _ = listed.deadline(PATIENCE).ok();
    let (reads, writes) = (format!("{source}/shop/web"), format!("{}:5000/shop/told", near.address));
    let add = ["image", "mirror", "add", "told", &reads, &writes, "--every", "1h", "--tls-verify=false"];
    let _ = first.shoal(add).ok();
    let told = |tag: &str| {
        let scratch = Scratch::new("told");
        let name = format!("{reads}:{tag}");
        let _ = first.shoal(["load", "-i"]).arg(noise(scratch.path(), &name, 1)).ok();
        let _ = first.shoal(["push", "-q", "--tls-verify=false", &name]).deadline(SLOW).ok();
        let pushed = Instant::now();
        let url = near.url(&format!("shop/told/manifests/{tag}"));
        eventually(&format!("{tag} is at the other registry"), SLOW, || {
            near.host.cmd("curl").args(["-sfI", "-H", ACCEPT, &url]).run().status.success().then_some(())
        });
        println!("a push that was told of was at the other registry after {:?}", pushed.elapsed());
    };
    told("one");
    told("two");
    own.end();
    let _ = first.shoal(["image", "mirror", "rm", "told"]).ok();

    let _ = mesh.nodes[2].shoal(["image", "mirror", "rm", "web"]).ok();
    let gone = first.shoal(["image", "mirror", "status", "web"]).run().expect_failure();
    assert!(gone.stderr.contains("no mirror web"), "{}", gone.stderr);
    assert_eq!(far.digest("v1").as_deref(), Some(one.as_str()), "what was copied stays");
}
