//! `shoal mesh doctor`: the likeliest mistakes of a host and of a mesh, each with what to do about it.
//!
//! In: what this host says of itself (`/proc`, `/sys`, the data folder, port 4700), and what its node sees. Out: one line a
//! check, a hint below each that is bad. Looks only: the one thing it makes is a file and a cgroup that it removes at once.

use super::client::{At, Client, roots};
use super::show::{Form, print_document};
use crate::commands::Global;
use crate::error::Error;
use clap::Args;
use engine::Roots;
use p2p::membership::{Liveness, Member};
use scheduler::node::api::view::{HealthView, MirrorView, NodeView, ServiceView};
use scheduler::service::{PortMode, Protocol};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// The port of a mesh unless `--listen` says another.
const PORT: u16 = 4700;
/// Clocks further apart than this spoil the order of logs and concurrent edits.
const CLOCK_APART_MS: i64 = 1_000;
/// How long a member's port may take to answer.
const DIAL: Duration = Duration::from_secs(2);
/// Below this much room a pull is likely to fail half way.
const ROOM_BYTES_MIN: u64 = 1 << 30;
/// Two files and a socket for each container, and its connections through the node.
const OPEN_FILES_MIN: u64 = 4_096;
/// What vxlan puts around every packet, and the least that IPv6 allows inside.
const MTU_MIN: u32 = 1_280 + 50;

/// `shoal mesh doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    at: At,
}

/// One answer: what was looked at, and what to do when it is bad.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    ok: bool,
    what: String,
    hint: Option<String>,
}

fn good(what: impl Into<String>) -> Check {
    Check { ok: true, what: what.into(), hint: None }
}

fn bad(what: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { ok: false, what: what.into(), hint: Some(hint.into()) }
}

/// Looks for the likeliest mistakes; exit code 1 when it finds one.
pub(crate) fn run(global: &Global, doctor: &Doctor) -> Result<ExitCode, Error> {
    let roots = roots(global)?;
    let client = Client::new(global, &doctor.at)?;
    let up = client.get::<HealthView>("/v1/health").is_ok();
    let mut checks = host(&roots);
    if up {
        checks.extend(mesh(&client)?);
    } else {
        checks.push(port_is_free());
        checks.push(bad("no node answers on this host", "start it: shoal mesh up --detach"));
    }
    let found = checks.iter().filter(|check| check.hint.is_some()).count();
    match doctor.output {
        Form::Table => print_checks(&checks),
        Form::Name => checks.iter().filter(|check| check.hint.is_some()).for_each(|check| println!("{}", check.what)),
        form => print_document(form, &checks)?,
    }
    eprintln!("{} checks, {found} bad", checks.len());
    Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_checks(checks: &[Check]) {
    for check in checks {
        println!("{} {}", if check.hint.is_none() { "ok  " } else { "BAD " }, check.what);
        if let Some(hint) = &check.hint {
            println!("     hint: {hint}");
        }
    }
}

/// Checks of this host alone.
fn host(roots: &Roots) -> Vec<Check> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut checks = vec![
        kernel(&read("/proc/sys/kernel/osrelease"), &read("/proc/filesystems")),
        forwarding(&read("/proc/sys/net/ipv4/ip_forward")),
        cgroups(&read("/proc/self/mounts")),
        writes(&roots.data),
        open_files(&read("/proc/self/limits")),
        helpers(),
    ];
    checks.extend(room(&roots.data));
    checks.push(mtu(&links(Path::new("/sys/class/net"))));
    checks
}

/// What containers and the data path need of the kernel: built in, loaded, or a module that can be loaded.
fn kernel(release: &str, filesystems: &str) -> Check {
    let folder = PathBuf::from("/lib/modules").join(release.trim());
    let modules: String = ["modules.builtin", "modules.dep"]
        .iter()
        .filter_map(|name| fs::read_to_string(folder.join(name)).ok())
        .collect();
    let there = |name: &str| Path::new("/sys/module").join(name).exists() || modules.contains(&format!("/{name}.ko"));
    let mut lacks: Vec<&str> = Vec::new();
    if !filesystems.lines().any(|line| line.ends_with("overlay")) && !there("overlay") {
        lacks.push("overlay");
    }
    // A kernel without a list of its modules (a virtual machine's, often) cannot be asked for what leaves no other trace.
    if !modules.is_empty() {
        lacks.extend(["bridge", "veth", "vxlan", "nf_tables", "nf_nat"].into_iter().filter(|name| !there(name)));
    }
    if lacks.is_empty() {
        return good("the kernel has what containers and their networks need");
    }
    let names = lacks.join(" ");
    bad(
        format!("this kernel ({}) lacks: {names}", release.trim()),
        format!("modprobe -a {names}; else install the distribution's full kernel, not its cloud or minimal one"),
    )
}

fn forwarding(value: &str) -> Check {
    if value.trim() == "1" {
        good("the kernel forwards packets")
    } else {
        bad(
            "the kernel does not forward packets: containers reach this host only",
            "sysctl -w net.ipv4.ip_forward=1, and write it to /etc/sysctl.d/ for the next start",
        )
    }
}

/// Makes and removes a group where containers' groups would go: mount options do not tell what a container manager forbids.
fn cgroups(mounts: &str) -> Check {
    let trees: Vec<&str> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind, options) = (words.next()?, words.next()?, words.next()?);
            let named = options.split(',').any(|word| word.starts_with("name="));
            (kind.starts_with("cgroup") && !named).then_some(point)
        })
        .collect();
    if trees.is_empty() {
        return bad("no cgroup tree is mounted", "mount -t cgroup2 none /sys/fs/cgroup");
    }
    let name = format!("shoal-doctor-{}", std::process::id());
    let refused: Vec<(&str, std::io::Error)> = trees
        .iter()
        .filter_map(|tree| {
            let group = Path::new(tree).join(&name);
            let made = fs::create_dir(&group);
            let _ = fs::remove_dir(&group);
            made.err().map(|error| (*tree, error))
        })
        .collect();
    let Some((tree, error)) = refused.first() else { return good("cgroups can be made") };
    let others = if refused.len() > 1 { format!(" and {} more", refused.len() - 1) } else { String::new() };
    bad(
        format!("cgroups cannot be made below {tree}{others}: {error}"),
        "run as root; inside a container, mount its cgroup tree read-write (docker run --cgroupns private --privileged)",
    )
}

/// The folder itself, or what is there of the way to it.
fn nearest(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.is_dir()).unwrap_or(folder)
}

fn writes(data: &Path) -> Check {
    let probe = nearest(data).join(format!(".doctor-{}", std::process::id()));
    let written = fs::write(&probe, [0u8; 4096]);
    let _ = fs::remove_file(&probe);
    match written {
        Ok(()) => good(format!("{} takes writes", data.display())),
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => bad(
            format!("{} is full: {error}", data.display()),
            "free some: shoal system df, shoal image prune, shoal volume prune",
        ),
        Err(error) => {
            bad(format!("{} takes no writes: {error}", data.display()), "run as root, or choose a folder with --root")
        }
    }
}

/// Room and inodes below the data folder, as df(1) tells them.
fn room(data: &Path) -> Option<Check> {
    let ask = |column: &str| -> Option<u64> {
        let output = Command::new("df")
            .args(["--block-size=1", &format!("--output={column}")])
            .arg(nearest(data))
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout).lines().nth(1)?.trim().parse().ok()
    };
    let (bytes, inodes, files) = (ask("avail")?, ask("iavail")?, ask("itotal")?);
    Some(judge_room(&data.display().to_string(), bytes, inodes, files))
}

/// `files` is 0 on file systems that have no fixed number of inodes.
fn judge_room(data: &str, bytes: u64, inodes: u64, files: u64) -> Check {
    let hint = "free some: shoal system df, shoal image prune, shoal volume prune";
    let shown = engine::wish::human_bytes(bytes);
    if bytes < ROOM_BYTES_MIN {
        bad(format!("only {shown} are free below {data}"), hint)
    } else if files > 0 && inodes < files / 50 {
        bad(format!("only {inodes} of {files} inodes are free below {data}"), hint)
    } else {
        good(format!("{shown} are free below {data}"))
    }
}

fn open_files(limits: &str) -> Check {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    match hard.map(str::parse::<u64>) {
        Some(Ok(hard)) if hard < OPEN_FILES_MIN => bad(
            format!("a process here may open only {hard} files"),
            "LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536` before the node starts",
        ),
        _ => good("a process here may open enough files"),
    }
}

/// The two programs that `shoal` starts, where it looks for them.
fn helpers() -> Check {
    let beside = std::env::current_exe().ok();
    let missing: Vec<&str> = [("shoal-runtime", "SHOAL_RUNTIME"), ("shoal-monitor", "SHOAL_MONITOR")]
        .into_iter()
        .filter(|(name, variable)| {
            let named = std::env::var_os(variable).map(PathBuf::from);
            let beside = beside.as_ref().map(|path| path.with_file_name(name)).filter(|path| path.exists());
            let program = named.or(beside).unwrap_or_else(|| PathBuf::from(name));
            Command::new(program).arg("--version").stdin(Stdio::null()).output().is_err()
        })
        .map(|(name, _)| name)
        .collect();
    if missing.is_empty() {
        return good("shoal-runtime and shoal-monitor are there");
    }
    bad(
        format!("not found or not executable: {}", missing.join(", ")),
        "install them beside shoal, or name them in SHOAL_RUNTIME and SHOAL_MONITOR",
    )
}

/// Links of this network namespace but loopback and what containers brought, with their MTU.
fn links(folder: &Path) -> Vec<(String, u32)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut links: Vec<(String, u32)> = entries
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| {
            let mtu = fs::read_to_string(entry.path().join("mtu")).ok()?.trim().parse().ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), mtu))
        })
        .collect();
    links.sort();
    links
}

fn mtu(links: &[(String, u32)]) -> Check {
    let small: Vec<String> =
        links.iter().filter(|(_, mtu)| *mtu < MTU_MIN).map(|(name, mtu)| format!("{name} ({mtu})")).collect();
    if small.is_empty() {
        return good("packets of the mesh's network fit the links");
    }
    bad(
        format!("packets of the mesh's network (50 bytes around each) do not fit: {}", small.join(", ")),
        format!("ip link set dev LINK mtu {MTU_MIN} or more, on every host alike"),
    )
}

/// Without a node nobody of ours holds the port.
fn port_is_free() -> Check {
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    let taken: Vec<&str> = [("tcp", TcpListener::bind(any).err()), ("udp", UdpSocket::bind(any).err())]
        .into_iter()
        .filter_map(|(name, error)| error.map(|_| name))
        .collect();
    if taken.is_empty() {
        return good(format!("port {PORT} is free"));
    }
    bad(
        format!("port {PORT} is taken ({}) by another program", taken.join(", ")),
        format!("see who: ss -lntup sport = :{PORT}; or choose another: shoal mesh up --listen HOST:PORT"),
    )
}

/// Checks of the mesh as this host's node sees it.
fn mesh(client: &Client) -> Result<Vec<Check>, Error> {
    let status: p2p::mesh::Status = client.get("/v1/status")?;
    let members: Vec<Member> = client.get("/v1/members")?;
    let nodes: Vec<NodeView> = client.get("/v1/nodes")?;
    let services: Vec<ServiceView> = client.get("/v1/services")?;
    let conflicts: Vec<serde_json::Value> = client.get("/v1/conflicts")?;
    let mut checks = reach(&members);
    checks.push(clocks(&members));
    checks.push(versions(&members));
    checks.push(names(&members));
    let unknown: Vec<&str> = nodes.iter().filter(|node| node.arch.is_empty()).map(|node| node.id.as_str()).collect();
    checks.push(if unknown.is_empty() {
        good("every node has told what it offers")
    } else {
        bad(
            format!("not told yet what they offer: {}", unknown.join(", ")),
            "wait a moment, then look at: shoal node ls",
        )
    });
    checks.push(if status.quarantined.is_empty() {
        good("every row is understood")
    } else {
        bad("some rows come from a newer version", "upgrade this host; shoal mesh status names the rows")
    });
    checks.push(if conflicts.is_empty() {
        good("no writing lost against a concurrent one")
    } else {
        bad(
            format!("{} writings lost against a concurrent one", conflicts.len()),
            "look, and choose: shoal mesh conflicts ls",
        )
    });
    let stuck: Vec<String> = services.iter().filter_map(|view| view.no_fit.clone()).collect();
    checks.push(if stuck.is_empty() {
        good("every service fits")
    } else {
        bad(stuck.join("; "), "free some means, add a node, or loosen the constraint")
    });
    checks.push(ports(&services, &scheduler::node::containers::listening::taken(&ingress(&services))));
    checks.push(mirrors(&client.get::<Vec<MirrorView>>("/v1/mirrors")?, &nodes));
    Ok(checks)
}

fn ingress(services: &[ServiceView]) -> Vec<(u16, Protocol)> {
    let all = services.iter().flat_map(|view| &view.service.spec.ports);
    all.filter(|port| port.mode == PortMode::Ingress).map(|port| (port.published, port.protocol)).collect()
}

/// Published ports that lead elsewhere than people may think: two services', or a program's of this host.
fn ports(services: &[ServiceView], taken: &[(u16, Protocol)]) -> Check {
    let mut wrong: Vec<String> = services
        .iter()
        .flat_map(|view| view.lost_ports.iter().map(|lost| format!("{lost}, not {}'s", view.service.spec.name)))
        .collect();
    let of_host = |(port, protocol): &(u16, Protocol)| {
        format!(
            "port {port}/{} is in use by a program of this host too: a service answers in its place",
            protocol.name()
        )
    };
    wrong.extend(taken.iter().map(of_host));
    if wrong.is_empty() {
        return good("published ports are their services' alone");
    }
    bad(
        wrong.join("; "),
        "see who listens: ss -lntup; publish another port: shoal service update --publish-rm … --publish-add …",
    )
}

/// Standing mirrors that do not do their work.
fn mirrors(views: &[MirrorView], nodes: &[NodeView]) -> Check {
    let trouble = |view: &MirrorView| -> Option<String> {
        let name = &view.policy.name;
        let place = |node: &NodeView| {
            node.liveness == scheduler::model::Liveness::Alive
                && view.policy.site.as_ref().is_none_or(|site| *site == node.site)
        };
        if !nodes.iter().any(place) {
            let site = view.policy.site.as_deref().unwrap_or("the mesh");
            return Some(format!("mirror {name}: no node of {site} is alive to do it"));
        }
        let state = view.state.as_ref()?;
        let reason = Some(&state.error).filter(|error| !error.is_empty()).or_else(|| state.report.reasons.first())?;
        Some(format!("mirror {name} fails: {reason}"))
    };
    let wrong: Vec<String> = views.iter().filter_map(trouble).collect();
    match (views.len(), wrong.is_empty()) {
        (0, _) => good("there are no standing mirrors"),
        (count, true) => good(format!("{count} standing mirrors do their work")),
        _ => bad(wrong.join("; "), "look: shoal image mirror status NAME; its nodes: shoal node ls"),
    }
}

/// One check for each member that does not answer, with what its port says, else one for all.
fn reach(members: &[Member]) -> Vec<Check> {
    let silent = members.iter().filter(|member| !member.is_self && member.liveness != Liveness::Alive);
    let checks: Vec<Check> = silent
        .map(|member| {
            let address = member.addresses.iter().find_map(|text| dialled(text));
            let answer =
                address.map(|address| TcpStream::connect_timeout(&address, DIAL).map(drop).map_err(|e| e.kind()));
            silence(&member.name, address, answer)
        })
        .collect();
    if checks.is_empty() {
        return vec![good(format!("all {} members answer", members.len()))];
    }
    checks
}

/// What a member's port says of the member's silence.
fn silence(name: &str, address: Option<SocketAddr>, answer: Option<Result<(), std::io::ErrorKind>>) -> Check {
    let what = format!("{name} does not answer");
    let (Some(address), Some(answer)) = (address, answer) else {
        return bad(what, format!("it has no address: shoal mesh members; for good: shoal mesh evict {name}"));
    };
    let port = address.port();
    match answer {
        Ok(()) => bad(
            format!("{what}, but its port {address} is open"),
            format!(
                "the node there hangs, or has left: shoal mesh status on {name}; for good: shoal mesh evict {name}"
            ),
        ),
        Err(std::io::ErrorKind::ConnectionRefused) => bad(
            format!("{what}: {address} refuses (the host is up, the node is not)"),
            format!("start it there: shoal mesh up --detach; for good: shoal mesh evict {name}"),
        ),
        Err(std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock) => bad(
            format!("{what}: nothing comes back from {address} (a firewall drops it, or the host is off)"),
            format!(
                "open {port}/tcp and {port}/udp, and 4790/udp for services, between the hosts; for good: shoal mesh evict {name}"
            ),
        ),
        Err(kind) => bad(
            format!("{what}: {address}: {kind}"),
            format!("look at the route: ip route get {}; for good: shoal mesh evict {name}", address.ip()),
        ),
    }
}

/// Reads `/ip4/A/tcp/P` and `/ip6/A/tcp/P`, also with more behind.
fn dialled(address: &str) -> Option<SocketAddr> {
    let mut words = address.split('/').skip(1);
    let (family, ip, transport, port) = (words.next()?, words.next()?, words.next()?, words.next()?);
    (matches!(family, "ip4" | "ip6") && transport == "tcp")
        .then(|| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)))
        .flatten()
}

fn clocks(members: &[Member]) -> Check {
    let apart: Vec<String> = members
        .iter()
        .filter_map(|member| member.clock_offset_ms.map(|offset| (member, offset)))
        .filter(|(_, offset)| offset.abs() > CLOCK_APART_MS)
        .map(|(member, offset)| format!("{} ({offset:+} ms)", member.name))
        .collect();
    if apart.is_empty() {
        good("clocks agree within a second")
    } else {
        bad(
            format!("clocks differ from this host's: {}", apart.join(", ")),
            "run an NTP client on each host: timedatectl set-ntp true",
        )
    }
}

fn versions(members: &[Member]) -> Check {
    let versions: BTreeSet<&str> = members.iter().map(|member| member.version.as_str()).collect();
    let list = versions.iter().copied().collect::<Vec<_>>().join(", ");
    if versions.len() <= 1 {
        good(format!("one version runs everywhere ({list})"))
    } else {
        bad(
            format!("several versions run: {list}"),
            "upgrade the older hosts one by one: shoal mesh members -o json says who",
        )
    }
}

fn names(members: &[Member]) -> Check {
    let mut ids: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for member in members {
        ids.entry(member.name.as_str()).or_default().push(member.id.to_string());
    }
    let twice: Vec<String> =
        ids.iter().filter(|(_, ids)| ids.len() > 1).map(|(name, ids)| format!("{name} ({})", ids.join(", "))).collect();
    if twice.is_empty() {
        return good("every node has a name of its own");
    }
    bad(
        format!("nodes share a name: {}", twice.join("; ")),
        "start one with another name: shoal mesh up --name NAME; if one is gone for good: shoal mesh evict ID",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_silent_member_is_told_apart_by_what_its_port_says() {
        let address = dialled("/ip4/10.0.0.2/tcp/4700/p2p/abc");
        assert_eq!(address, Some(SocketAddr::from(([10, 0, 0, 2], 4700))));
        let said = |answer| silence("n2", address, Some(answer));
        assert!(said(Err(ErrorKind::ConnectionRefused)).what.contains("the node is not"));
        assert!(said(Err(ErrorKind::TimedOut)).hint.is_some_and(|hint| hint.contains("4700/tcp and 4700/udp")));
        assert!(said(Ok(())).what.contains("its port 10.0.0.2:4700 is open"));
        assert!(dialled("/dns4/host/tcp/1").is_none());
    }

    #[test]
    fn a_mirror_that_fails_or_has_no_node_is_bad() {
        let view = |site: &str, error: &str| -> MirrorView {
            serde_json::from_value(serde_json::json!({
                "policy": {"v": 1, "name": "m", "from": "a/b", "to": "c/d", "every_ms": 1000, "site": site},
                "state": {"v": 1, "policy_id": "p", "name": "m", "running": false, "began_ms": 0, "error": error},
            }))
            .expect("a view")
        };
        let node: NodeView = serde_json::from_value(serde_json::json!({
            "id": "n", "name": "n", "site": "a", "liveness": "alive", "availability": "active", "labels": {}, "arch": "amd64",
            "capacity": {}, "reserved": {}, "instances": 0, "version": "1", "addresses": [], "is_self": true,
        }))
        .expect("a node");
        let nodes = std::slice::from_ref(&node);
        assert!(mirrors(&[view("a", "")], nodes).hint.is_none());
        assert!(mirrors(&[view("a", "refused")], nodes).what.contains("mirror m fails: refused"));
        assert!(mirrors(&[view("far", "")], nodes).what.contains("no node of far"));
        assert!(mirrors(&[], nodes).hint.is_none());
        assert!(ports(&[], &[(80, Protocol::Tcp)]).what.contains("port 80/tcp is in use"));
        assert!(ports(&[], &[]).hint.is_none());
    }

    #[test]
    fn little_room_few_inodes_and_few_descriptors_are_bad() {
        assert!(judge_room("/d", 1 << 20, 10, 10).hint.is_some());
        assert!(judge_room("/d", 1 << 40, 1, 1_000).hint.is_some());
        assert!(judge_room("/d", 1 << 40, 0, 0).hint.is_none(), "no fixed number of inodes");
        assert!(
            open_files("Max open files            1024                 1024                 files\n").hint.is_some()
        );
        assert!(
            open_files("Max open files            1024                 524288               files\n").hint.is_none()
        );
    }

    #[test]
    fn a_small_mtu_a_host_that_does_not_forward_and_no_cgroups_are_bad() {
        assert!(mtu(&[("eth0".to_owned(), 1_200)]).what.contains("eth0 (1200)"));
        assert!(mtu(&[("eth0".to_owned(), 1_500)]).hint.is_none());
        assert!(forwarding("0\n").hint.is_some_and(|hint| hint.contains("net.ipv4.ip_forward=1")));
        assert!(cgroups("proc /proc proc rw 0 0\n").what.contains("no cgroup tree"));
    }
}
