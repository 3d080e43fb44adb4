//! A host: a network namespace of its own with a `SHOAL_ROOT` of its own. Hosts meet on a [`Lan`].

use crate::{Cmd, Scratch, binaries};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One host of a test: network namespace, root folder, and the commands that act inside it.
#[derive(Debug)]
pub struct Host {
    /// Name of the network namespace, unique on this machine.
    pub netns: String,
    scratch: Scratch,
}

impl Host {
    /// Makes a host with loopback up and no other link.
    pub fn new(what: &str) -> Self {
        let netns = format!("sh{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let _ = Cmd::new("ip").args(["netns", "add", &netns]).ok();
        let host = Self { netns, scratch: Scratch::new(what) };
        let _ = host.cmd("ip").args(["link", "set", "lo", "up"]).ok();
        host
    }

    /// Returns the folder that holds everything of this host (`SHOAL_ROOT`).
    pub fn root(&self) -> &Path {
        self.scratch.path()
    }

    /// Returns a path of the network namespace, for `setns` and `nsenter`.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    /// A command inside this host: `nsenter`, since `ip netns exec` would hide the cgroup mounts.
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new("nsenter")
            .arg(format!("--net={}", self.netns_path().display()))
            .arg("--")
            .arg(program)
            .env("SHOAL_ROOT", self.root())
    }

    /// The command line `shoal` inside this host.
    pub fn shoal<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        self.cmd(binaries::shoal()).args(args)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What still runs inside belongs to this host alone: end it, then the namespace can go.
        if let Ok(bin) = std::panic::catch_unwind(binaries::shoal)
            && self.root().join("data").exists()
        {
            let list = self.cmd(&bin).args(["ps", "-aq", "--no-trunc"]).attempt().ok();
            let list = list.filter(|list| list.status.success()).map(|list| list.stdout).unwrap_or_default();
            let ids: Vec<&str> = list.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = self.cmd(&bin).args(["rm", "-f", "-v"]).args(ids).attempt();
            }
        }
        let pids = Cmd::new("ip").args(["netns", "pids", &self.netns]).attempt();
        let pids = pids.map(|out| out.stdout).unwrap_or_default();
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = Cmd::new("ip").args(["netns", "del", &self.netns]).attempt();
    }
}

/// A switch that hosts are plugged into: a bridge in a network namespace of its own, one /24.
#[derive(Debug)]
pub struct Lan {
    switch: Host,
    subnet: [u8; 3],
    plugged: AtomicU32,
}

impl Lan {
    /// Makes a switch for 10.`a`.`b`.0/24.
    pub fn new(a: u8, b: u8) -> Self {
        let switch = Host::new("lan");
        let _ = switch.cmd("ip").args(["link", "add", "br0", "type", "bridge"]).ok();
        let _ = switch.cmd("ip").args(["link", "set", "br0", "up"]).ok();
        Self { switch, subnet: [10, a, b], plugged: AtomicU32::new(0) }
    }

    /// Plugs a host in as `eth0` and returns its address.
    ///
    /// # Panics
    /// When the subnet is full or a link cannot be made.
    pub fn plug(&self, host: &Host) -> Ipv4Addr {
        let number = self.plugged.fetch_add(1, Ordering::Relaxed) + 1;
        let last = u8::try_from(number).expect("a test plugs fewer than 255 hosts into one switch");
        let address = Ipv4Addr::new(self.subnet[0], self.subnet[1], self.subnet[2], last);
        let port = format!("p{number}");
        let _ = self
            .switch
            .cmd("ip")
            .args(["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host.netns])
            .ok();
        let _ = self.switch.cmd("ip").args(["link", "set", &port, "master", "br0", "up"]).ok();
        let _ = host.cmd("ip").args(["addr", "add", &format!("{address}/24"), "dev", "eth0"]).ok();
        let _ = host.cmd("ip").args(["link", "set", "eth0", "up"]).ok();
        address
    }

    /// Takes the cable of the `number`-th plugged host (from 1) out or back in.
    pub fn cable(&self, number: u32, up: bool) {
        let state = if up { "up" } else { "down" };
        let _ = self.switch.cmd("ip").args(["link", "set", &format!("p{number}"), state]).ok();
    }

    /// Returns the namespace of the switch, for rules that lose or cut packets.
    pub fn switch(&self) -> &Host {
        &self.switch
    }
}
