//! `mesh doctor` on hosts with the likeliest mistakes, each made on purpose: it names what is wrong and what to do.

use integration::host::Lan;
use integration::{Host, Scratch, binaries, eventually};
use std::time::Duration;

/// A member is called down after some seconds, on two busy cores later.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that holds the port until it is dropped.
struct Squatter(std::process::Child);

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_host_with_every_mistake_hears_of_each() {
    let _ = binaries::tool("nc", "netcat-openbsd");
    let (host, scratch) = (Host::new("doctor"), Scratch::new("doctor"));
    let _ = host.cmd("sysctl").args(["-qw", "net.ipv4.ip_forward=0"]).run();
    let squatter = host.cmd("nc").args(["-l", "-k", "4700"]).command().spawn().expect("nc starts");
    let _squatter = Squatter(squatter);
    eventually("the port is taken", PATIENCE, || {
        host.cmd("nc").args(["-z", "127.0.0.1", "4700"]).run().status.success().then_some(())
    });
    // In a mount namespace of its own: cgroups read-only, the data folder on a full disk, few descriptors.
    let script = "mount --make-rprivate /
        for point in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,bind,ro $point; done
        mount -t tmpfs -o size=64k none \"$FULL\"; head -c 100000 /dev/zero > $FULL/all 2>/dev/null
        ulimit -n 512; SHOAL_ROOT=$FULL/root SHOAL_RUNTIME=/no/such exec \"$SHOAL\" mesh doctor";
    let told = host
        .cmd("unshare")
        .args(["-m", "sh", "-c", script])
        .env("FULL", scratch.path())
        .env("SHOAL", binaries::shoal())
        .run()
        .expect_code(1)
        .stdout;
    for (what, hint) in [
        ("cgroups cannot be made", "read-write"),
        ("is full", "shoal image prune"),
        ("may open only 512 files", "LimitNOFILE"),
        ("not found or not executable: shoal-runtime", "SHOAL_RUNTIME"),
        ("port 4700 is taken (tcp)", "ss -lntup"),
        ("no node answers on this host", "shoal mesh up"),
    ] {
        let at = told.lines().position(|line| line.starts_with("BAD") && line.contains(what));
        let below = at.and_then(|at| told.lines().nth(at + 1));
        assert!(below.is_some_and(|line| line.contains("hint:") && line.contains(hint)), "{what}\n{told}");
    }
}

#[test]
fn a_member_that_ended_is_told_from_one_behind_a_firewall() {
    let _ = binaries::tool("nft", "nftables");
    let lan = Lan::new(20, 1);
    let hosts: Vec<Host> = (0..3).map(|_| Host::new("doctor")).collect();
    let addresses: Vec<_> = hosts.iter().map(|host| lan.plug(host)).collect();
    let up = |number: usize, token: Option<&str>| {
        let (name, listen) = (format!("n{}", number + 1), format!("{}:4700", addresses[number]));
        let mut args = vec!["mesh", "up", "--detach", "--name", &name, "--listen", &listen];
        args.extend(token.iter().flat_map(|token| ["--join", token]));
        let _ = hosts[number].shoal(args).deadline(PATIENCE).ok();
    };
    up(0, None);
    let token = hosts[0].shoal(["mesh", "token", "create"]).ok();
    up(1, Some(token.trim()));
    up(2, Some(token.trim()));
    let doctor = || hosts[0].shoal(["mesh", "doctor"]).deadline(PATIENCE).run().stdout;
    eventually("all is well", PATIENCE, || doctor().contains("ok   all 3 members answer").then_some(()));

    let _ = hosts[1].shoal(["mesh", "down"]).deadline(PATIENCE).ok();
    let rules = "add table ip wall; add chain ip wall in { type filter hook input priority 0; policy drop; }";
    let _ = hosts[2].cmd("nft").arg(rules).ok();
    let told = eventually("both are missed", PATIENCE, || {
        let told = doctor();
        (told.contains("n2 does not answer") && told.contains("n3 does not answer")).then_some(told)
    });
    for host in [&hosts[0], &hosts[2]] {
        let _ = host.shoal(["mesh", "down"]).deadline(Duration::from_secs(10)).run();
    }
    assert!(told.contains("refuses (the host is up, the node is not)"), "{told}");
    assert!(told.contains("a firewall drops it") && told.contains("open 4700/tcp and 4700/udp"), "{told}");
}
