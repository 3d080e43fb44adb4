//! Networks of one host: published ports, isolation, names, volumes' verbs, on real namespaces. Each host is a namespace of its
//! own; servers and clients are sockets that the test opens inside the namespaces of containers and hosts.

use integration::host::Lan;
use integration::image::Builder;
use integration::{Cmd, Host, eventually};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// No step of one host takes longer on two busy cores.
const PATIENCE: Duration = Duration::from_secs(30);
/// Who is connected has said its word after this time.
const ANSWER: Duration = Duration::from_secs(5);

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

/// The archive of the test image, made once.
fn archive() -> &'static Path {
    static ARCHIVE: OnceLock<(integration::Scratch, PathBuf)> = OnceLock::new();
    let made = || {
        let scratch = integration::Scratch::new("image");
        let path = Builder::busybox("localhost/net:1").archive_in(scratch.path());
        (scratch, path)
    };
    &ARCHIVE.get_or_init(made).1
}

/// A host with the image loaded.
fn host(what: &str) -> Host {
    let host = Host::new(what);
    let _ = host.shoal(["load", "-i"]).arg(archive()).ok();
    host
}

/// A running container.
struct Box {
    id: String,
    netns: PathBuf,
}

fn run(host: &Host, flags: &[&str]) -> Box {
    let id = host.shoal(["run", "-d"]).args(flags).args(["localhost/net:1", "sleep", "1000"]).ok().trim().to_owned();
    let netns = host.root().join("run/containers").join(&id).join("netns");
    Box { id, netns }
}

impl Box {
    /// The container's first address on a network, from `inspect`.
    fn ip(&self, host: &Host, network: &str) -> Ipv4Addr {
        let text = host.shoal(["network", "inspect", network]).ok();
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let entry = value[0]["Containers"][&self.id]["IPv4Address"].as_str().expect("an address").to_owned();
        entry.split('/').next().and_then(|ip| ip.parse().ok()).expect("an address")
    }

    /// Serves TCP: says `name` and the client's address to everyone, until the test ends.
    fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = at(&self.netns, move || TcpListener::bind(("::", port)).expect("the port is free inside"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let client = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
                let _ = stream.write_all(format!("{name} {client}").as_bytes());
            }
        });
    }

    /// Serves UDP in the same way.
    fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = at(&self.netns, move || UdpSocket::bind(("0.0.0.0", port)).expect("the port is free inside"));
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
            }
        });
    }
}

/// What a TCP server says to a client in a namespace; `None` when it cannot be reached.
fn ask(netns: &Path, address: impl Into<IpAddr>, port: u16) -> Option<String> {
    let address = SocketAddr::new(address.into(), port);
    at(netns, move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn ask_udp(netns: &Path, address: Ipv4Addr, port: u16) -> Option<String> {
    at(netns, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        socket.send_to(b"?", (address, port)).ok()?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

/// A host, a client on the same LAN, and the host's address.
fn with_client(what: &str, subnet: u8) -> (Lan, Host, Host, Ipv4Addr, Ipv4Addr) {
    let lan = Lan::new(77, subnet);
    let (host, client) = (host(what), Host::new("client"));
    let (address, other) = (lan.plug(&host), lan.plug(&client));
    (lan, host, client, address, other)
}

#[test]
fn a_published_port_answers_outside_here_and_the_container_itself() {
    let (_lan, host, client, address, other) = with_client("publish", 1);
    let web = run(&host, &["-p", "8080:80", "-p", "127.0.0.1:8081:80"]);
    web.serve_tcp(80, "web");
    // Another host, with its own address.
    assert_eq!(ask(&client.netns_path(), address, 8080), Some(format!("web {other}")));
    // This host, by every address it has.
    for own in [Ipv4Addr::LOCALHOST, address] {
        assert!(ask(&host.netns_path(), own, 8080).is_some_and(|text| text.starts_with("web ")), "{own}");
    }
    // Published on localhost alone: here yes, there no.
    assert!(ask(&host.netns_path(), Ipv4Addr::LOCALHOST, 8081).is_some());
    assert_eq!(ask(&client.netns_path(), address, 8081), None);
    // Hairpin: the container calls its own published port.
    assert!(ask(&web.netns, address, 8080).is_some_and(|text| text.starts_with("web ")));
    // Not published: the neighbour who knows the way is not let in.
    let inside = web.ip(&host, "bridge");
    let _ = client.cmd("ip").args(["route", "add", &format!("{inside}/32"), "via", &address.to_string()]).ok();
    assert_eq!(ask(&client.netns_path(), inside, 80), None);
    // Removed: the port is free and nothing of it is left.
    let _ = host.shoal(["rm", "-f", &web.id]).ok();
    assert_eq!(ask(&client.netns_path(), address, 8080), None);
    assert!(!host.cmd("nft").args(["list", "table", "inet", "shoal"]).ok().contains("8080"));
}

#[test]
fn udp_and_ranges_are_published_and_a_new_container_gets_the_old_ones_flows() {
    let (_lan, host, client, address, other) = with_client("udp", 2);
    let first = run(&host, &["-p", "9000-9002:9000-9002/udp"]);
    first.serve_udp(9001, "first");
    let answer = eventually("a datagram is answered", PATIENCE, || ask_udp(&client.netns_path(), address, 9001));
    assert_eq!(answer, format!("first {other}"));
    // One flow from one source port goes on while the container behind it is replaced.
    let socket = at(&client.netns_path(), || UdpSocket::bind("0.0.0.0:5353").expect("free"));
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let say = |socket: &UdpSocket| {
        socket.send_to(b"?", (address, 9001)).ok()?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let answer = eventually("the flow begins", PATIENCE, || say(&socket));
    assert!(answer.starts_with("first"), "{answer}");
    let _ = host.shoal(["rm", "-f", &first.id]).ok();
    let second = run(&host, &["-p", "9001:9001/udp"]);
    second.serve_udp(9001, "second");
    let answer = eventually("the flow reaches the new container", PATIENCE, || say(&socket));
    assert!(answer.starts_with("second"), "{answer}");
}

#[test]
fn a_taken_port_is_refused_with_its_holders_name_and_leaves_nothing() {
    let host = host("taken");
    let _first = run(&host, &["--name", "holder", "-p", "8080:80"]);
    let refused = host
        .shoal(["run", "-d", "--name", "late", "-p", "8079:80", "-p", "8080:80", "localhost/net:1", "sleep", "9"])
        .run()
        .expect_failure();
    assert!(refused.stderr.contains("8080") && refused.stderr.contains("holder"), "{}", refused.stderr);
    let rules = host.cmd("nft").args(["list", "table", "inet", "shoal"]).ok();
    assert!(rules.contains("8080") && !rules.contains("8079"), "{rules}");
    // A program of the host that listens is in the way, too.
    let _listener = at(&host.netns_path(), || TcpListener::bind("0.0.0.0:8090").expect("free"));
    let busy = host.shoal(["run", "-d", "-p", "8090:80", "localhost/net:1", "sleep", "9"]).run().expect_failure();
    assert!(busy.stderr.contains("8090"), "{}", busy.stderr);
}

#[test]
fn networks_are_apart_and_internal_ones_lead_nowhere() {
    let (_lan, host, client, address, other) = with_client("apart", 3);
    let _ = host.shoal(["network", "create", "red"]).ok();
    let _ = host.shoal(["network", "create", "--internal", "inner"]).ok();
    let default = run(&host, &["-p", "8080:80"]);
    let red = run(&host, &["--network", "red"]);
    let red_too = run(&host, &["--network", "red"]);
    let inner = run(&host, &["--network", "inner"]);
    let inner_too = run(&host, &["--network", "inner"]);
    for (container, name) in [(&default, "default"), (&red, "red"), (&inner, "inner")] {
        container.serve_tcp(80, name);
    }
    assert_eq!(ask(&red_too.netns, red.ip(&host, "red"), 80), Some(format!("red {}", red_too.ip(&host, "red"))));
    assert_eq!(ask(&default.netns, red.ip(&host, "red"), 80), None, "another network");
    assert_eq!(ask(&red.netns, default.ip(&host, "bridge"), 80), None, "another network");
    assert!(ask(&red.netns, address, 8080).is_some(), "a published port is open to all");
    assert!(ask(&inner_too.netns, inner.ip(&host, "inner"), 80).is_some(), "its own network");
    let server = at(&client.netns_path(), || TcpListener::bind("0.0.0.0:7000").expect("free"));
    std::thread::spawn(move || {
        for stream in server.incoming().flatten() {
            let mut stream = stream;
            let from = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(from.as_bytes());
        }
    });
    assert_eq!(ask(&red.netns, other, 7000), Some(address.to_string()), "out, under the host's address");
    assert_eq!(ask(&inner.netns, other, 7000), None, "no way out");
}

#[test]
fn ipv6_is_given_published_and_left_under_the_hosts_address() {
    let (_lan, host, client, _, _) = with_client("six", 4);
    let _ = host.cmd("ip").args(["-6", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad"]).ok();
    let _ = client.cmd("ip").args(["-6", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad"]).ok();
    let _ = host.shoal(["network", "create", "--ipv6", "six"]).ok();
    let web = run(&host, &["--network", "six", "-p", "8080:80"]);
    web.serve_tcp(80, "web");
    let address: IpAddr = "2001:db8::1".parse().expect("an address");
    assert_eq!(ask(&client.netns_path(), address, 8080), Some("web 2001:db8::2".to_owned()));
    assert!(ask(&web.netns, address, 8080).is_some(), "hairpin");
}

#[test]
fn names_and_aliases_resolve_while_their_containers_live_and_the_resolver_goes_with_the_last() {
    let host = host("names");
    let _ = host.shoal(["network", "create", "web"]).ok();
    let one = run(&host, &["--network", "web", "--name", "one", "--network-alias", "api"]);
    let two = run(&host, &["--network", "web", "--name", "two", "--network-alias", "api"]);
    let dig = |container: &Box, question: &[&str]| {
        let server = Ipv4Addr::from(u32::from(two.ip(&host, "web")) & 0xffff_ff00 | 1);
        Cmd::new("nsenter")
            .arg(format!("--net={}", container.netns.display()))
            .args(["dig", "+time=5", "+tries=3", &format!("@{server}")])
            .args(question)
            .ok()
    };
    assert_eq!(dig(&two, &["+short", "one"]).trim(), one.ip(&host, "web").to_string());
    assert_eq!(dig(&two, &["+short", "api"]).lines().count(), 2);
    assert_eq!(dig(&two, &["+tcp", "+short", "ONE.web"]).trim(), one.ip(&host, "web").to_string());
    assert!(dig(&two, &["MX", "one"]).contains("status: NOERROR"), "a missing type is not a missing name");
    assert_eq!(dig(&two, &["+short", "-x", &one.ip(&host, "web").to_string()]).trim(), "one.web.");
    // From inside, as programs do it.
    assert!(host.shoal(["exec", "two", "nslookup", "one"]).ok().contains(&one.ip(&host, "web").to_string()));
    let _ = host.shoal(["rm", "-f", "one"]).ok();
    assert_eq!(dig(&two, &["+short", "api"]).trim(), two.ip(&host, "web").to_string());
    let resolvers = || {
        let pids = Cmd::new("ip").args(["netns", "pids", &host.netns]).ok();
        pids.split_whitespace()
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.windows(9).any(|part| part == b"\0resolver"))
            })
            .count()
    };
    assert_eq!(resolvers(), 1);
    let _ = host.shoal(["rm", "-f", "two"]).ok();
    eventually("the resolver ends", PATIENCE, || (resolvers() == 0).then_some(()));
}

#[test]
fn a_resolver_tells_strangers_nothing() {
    let host = host("strangers");
    let _ = host.shoal(["network", "create", "web"]).ok();
    let one = run(&host, &["--network", "web", "--name", "one"]);
    let other = run(&host, &["--name", "other"]);
    let server = Ipv4Addr::from(u32::from(one.ip(&host, "web")) & 0xffff_ff00 | 1);
    let dig = |netns: &Path| {
        let at = format!("@{server}");
        let enter = Cmd::new("nsenter").arg(format!("--net={}", netns.display()));
        enter.args(["dig", "+time=5", "+tries=3", &at, "one"]).run().stdout
    };
    assert!(dig(&other.netns).contains("status: REFUSED"), "{}", dig(&other.netns));
    let address = one.ip(&host, "web").to_string();
    assert!(dig(&one.netns).contains(&address) && dig(&host.netns_path()).contains(&address));
}

#[test]
fn a_container_asks_by_the_network_where_only_the_host_can_ask() {
    let host = host("loopback");
    let conf = host.root().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\n").expect("ours");
    // A server on the host's loopback that answers everything with one address.
    let socket = at(&host.netns_path(), || UdpSocket::bind("127.0.0.1:53")).expect("free");
    let _ = std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut bytes) {
            let question = bytes[12..length].iter().position(|byte| *byte == 0).map_or(length, |end| 12 + end + 5);
            let mut reply = bytes[..question].to_vec();
            reply[2] |= 0x80;
            reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 77]);
            let _ = socket.send_to(&reply, client);
        }
    });
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let line = host.cmd("unshare").args(["--mount", "--propagation", "slave", "--", "sh", "-c", script]).arg(&conf);
    let shoal = host.shoal(["run", "--rm", "localhost/net:1", "nslookup", "-type=a", "somewhere.example."]);
    let words: Vec<String> = shoal.line().split(' ').map(str::to_owned).collect();
    let said = line.args(words).run();
    assert!(said.stdout.contains("192.0.2.77"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn a_running_container_is_connected_and_disconnected() {
    let host = host("connect");
    let _ = host.shoal(["network", "create", "back"]).ok();
    let web = run(&host, &["--name", "web"]);
    let db = run(&host, &["--network", "back", "--name", "db"]);
    db.serve_tcp(80, "db");
    let address = db.ip(&host, "back");
    assert_eq!(ask(&web.netns, address, 80), None);
    let _ = host.shoal(["network", "connect", "--alias", "front", "back", "web"]).ok();
    assert!(ask(&web.netns, address, 80).is_some());
    let _ = host.shoal(["network", "connect", "back", "web"]).run().expect_failure();
    let _ = host.shoal(["network", "rm", "back"]).run().expect_failure();
    let _ = host.shoal(["network", "disconnect", "back", "web"]).ok();
    assert_eq!(ask(&web.netns, address, 80), None);
    let _ = host.shoal(["rm", "-f", "db"]).ok();
    let _ = host.shoal(["network", "rm", "back"]).ok();
}

#[test]
fn a_flushed_ruleset_comes_back_by_reload() {
    let (_lan, host, client, address, _) = with_client("reload", 5);
    let web = run(&host, &["-p", "8080:80"]);
    web.serve_tcp(80, "web");
    let _ = host.cmd("nft").args(["flush", "ruleset"]).ok();
    assert_eq!(ask(&client.netns_path(), address, 8080), None);
    let _ = host.shoal(["network", "reload"]).ok();
    assert!(ask(&client.netns_path(), address, 8080).is_some());
}

#[test]
fn a_foreign_drop_policy_is_named_with_the_rule_to_add() {
    let host = host("foreign");
    let _ = host.cmd("nft").args(["add", "table", "ip", "filter"]).ok();
    let chain = "{ type filter hook forward priority 0 ; policy drop ; }";
    let _ = host.cmd("nft").args(["add", "chain", "ip", "filter", "FORWARD", chain]).ok();
    let told = host.shoal(["run", "--rm", "localhost/net:1", "true"]).run().expect_success();
    assert!(told.stderr.contains("iptables -I FORWARD"), "{}", told.stderr);
    assert!(!told.stderr.contains("dport 53"), "nobody asks the host: {}", told.stderr);
    let rules = host.cmd("nft").args(["list", "table", "ip", "filter"]).ok();
    assert!(!rules.contains("accept"), "others' rules are theirs: {rules}");
    let chain = "{ type filter hook input priority 0 ; policy drop ; }";
    let _ = host.cmd("nft").args(["add", "chain", "ip", "filter", "INPUT", chain]).ok();
    let _ = host.shoal(["network", "create", "names"]).ok();
    let told = || host.shoal(["run", "--rm", "--network", "names", "localhost/net:1", "true"]).run().expect_success();
    assert!(told().stderr.contains("iptables -I INPUT -i 'sh-+' -p udp --dport 53"), "{}", told().stderr);
    let rule = ["add", "rule", "ip", "filter", "INPUT", "iifname", "sh-*", "udp", "dport", "53", "accept"];
    let _ = host.cmd("nft").args(rule).ok();
    assert!(!told().stderr.contains("dport 53"), "{}", told().stderr);
}

#[test]
fn an_interface_of_the_host_never_becomes_a_networks_bridge() {
    let host = host("bridges");
    let bridge = |name: &str| host.cmd("ip").args(["link", "add", name, "type", "bridge"]).ok();
    let create = |network: &str, name: &str| {
        let option = format!("com.docker.network.bridge.name={name}");
        host.shoal(["network", "create", "-o", &option, network]).run()
    };
    let _ = bridge("lan0");
    assert!(create("one", "lan0").expect_failure().stderr.contains("lan0 is an interface of this host"));
    let _ = create("one", "own0").expect_success();
    assert!(create("two", "own0").expect_failure().stderr.contains("network one"));
    // Somebody makes one of that name before the first container does.
    let _ = bridge("own0");
    let refused = host.shoal(["run", "--rm", "--network", "one", "localhost/net:1", "true"]).run().expect_failure();
    assert!(refused.stderr.contains("not made for network one"), "{}", refused.stderr);
    let _ = host.shoal(["network", "rm", "one"]).ok();
    let links = host.cmd("ip").args(["-o", "link"]).ok();
    assert!(links.contains("own0") && links.contains("lan0"), "{links}");
}

#[test]
fn many_ports_are_published_in_one_go() {
    let (_lan, host, client, address, _) = with_client("many", 6);
    let before = Instant::now();
    let web = run(&host, &["-p", "20000-20499:20000-20499"]);
    let took = before.elapsed();
    web.serve_tcp(20_321, "web");
    assert!(ask(&client.netns_path(), address, 20_321).is_some());
    // One by one it was minutes.
    assert!(took < Duration::from_secs(20), "500 ports took {took:?}");
}

#[test]
fn volumes_keep_their_content_and_are_filled_from_the_image() {
    let host = host("volume");
    let _ = host.shoal(["volume", "create", "data", "--label", "kind=test"]).ok();
    let sh = |volume: &str, script: &str| {
        host.shoal(["run", "--rm", "-v", volume, "localhost/net:1", "sh", "-c", script]).ok()
    };
    let _ = sh("data:/d", "echo kept > /d/file");
    assert_eq!(sh("data:/d", "cat /d/file").trim(), "kept");
    // /home of the image is filled in; the second container sees what the first changed.
    assert!(sh("etc:/etc", "cat /etc/passwd; echo changed > /etc/passwd").contains("root:x:0:0"));
    assert_eq!(sh("etc:/etc", "cat /etc/passwd").trim(), "changed");
    assert_eq!(host.shoal(["volume", "ls", "-q"]).ok().lines().collect::<Vec<_>>(), ["data", "etc"]);
    let keeper = host.shoal(["create", "-v", "data:/d", "localhost/net:1"]).ok();
    let used = host.shoal(["volume", "rm", "data"]).run().expect_failure();
    assert!(used.stderr.contains("in use"), "{}", used.stderr);
    let _ = host.shoal(["rm", keeper.trim()]).ok();
    assert!(host.shoal(["volume", "prune", "-a", "-f"]).ok().contains("etc"));
}

#[test]
fn no_container_can_make_itself_the_way_out_for_others_or_for_the_host() {
    let host = host("ra");
    let knob = |place: &[&str], interface: &str, name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
        let text = match place {
            [] => host.cmd("cat").arg(&path).ok(),
            flags => host.shoal(["exec"]).args(flags).args(["cat", &path]).ok(),
        };
        text.trim().to_owned()
    };
    let _plain = run(&host, &["--name", "plain"]);
    let bridge =
        |network: &str| host.shoal(["network", "inspect", "-f", "{{.Bridge}}", network]).ok().trim().to_owned();
    assert_eq!(knob(&["plain"], "eth0", "disable_ipv6"), "1");
    assert_eq!(knob(&[], &bridge("bridge"), "disable_ipv6"), "1");
    let _ =
        host.shoal(["network", "create", "--ipv6", "--subnet", "10.91.0.0/24", "--subnet", "fd91::/64", "six"]).ok();
    let _six = run(&host, &["--name", "six", "--network", "six"]);
    assert_eq!((knob(&["six"], "eth0", "accept_ra"), knob(&["six"], "eth0", "disable_ipv6")), ("0".into(), "0".into()));
    assert_eq!(knob(&[], &bridge("six"), "accept_ra"), "0");
}

#[test]
fn the_way_out_and_the_ports_are_on_a_network_that_leads_out() {
    let host = host("outward");
    for flags in [&["--internal", "inner"][..], &["front"], &["third"]] {
        let _ = host.shoal(["network", "create"]).args(flags).ok();
    }
    let boxed = run(&host, &["--name", "box", "--network", "inner", "--network", "front", "-p", "18080:80"]);
    boxed.serve_tcp(80, "box");
    let route = || host.shoal(["exec", "box", "ip", "route"]).ok();
    let by = |network: &str| {
        boxed.ip(&host, network).octets()[..3].iter().map(|part| format!("{part}.")).collect::<String>()
    };
    let default = |network: &str| {
        let text = route();
        let line = text.lines().find(|line| line.starts_with("default")).unwrap_or_default().to_owned();
        assert!(line.contains(&by(network)), "{network}: {text}");
    };
    default("front");
    assert!(ask(&host.netns_path(), Ipv4Addr::LOCALHOST, 18080).is_some(), "published though the first is internal");
    // The network that leads out goes, and another takes its place.
    let _ = host.shoal(["network", "connect", "third", "box"]).ok();
    let _ = host.shoal(["network", "disconnect", "front", "box"]).ok();
    default("third");
    assert!(ask(&host.netns_path(), Ipv4Addr::LOCALHOST, 18080).is_some(), "published anew");
    let _ = host.shoal(["network", "disconnect", "third", "box"]).ok();
    assert!(!route().contains("default"));
    let _ = host.shoal(["network", "connect", "front", "box"]).ok();
    default("front");
}

#[test]
fn what_connect_gave_is_kept_and_a_new_name_is_known_at_once() {
    let host = host("kept");
    let _ = host.shoal(["network", "create", "--subnet", "10.92.0.0/24", "web"]).ok();
    let _ = run(&host, &["--name", "client", "--network", "web"]);
    let boxed = run(&host, &["--name", "box", "--network-alias", "mine"]);
    let mac = "02:5c:00:00:00:77";
    let fixed = ["--alias", "db", "--ip", "10.92.0.77", "--mac-address", mac, "web", "box"];
    let bad = host.shoal(["network", "connect", "--mac-address", "02:5c", "web", "box"]).run().expect_failure();
    assert!(bad.stderr.contains("02:5c"), "{}", bad.stderr);
    let _ = host.shoal(["network", "connect"]).args(fixed).ok();
    let found = |name: &str| {
        let outcome = host.shoal(["exec", "client", "nslookup", name]).run();
        outcome.status.success() && outcome.stdout.contains("10.92.0.77")
    };
    let check = |when: &str| {
        eventually(when, PATIENCE, || found("db").then_some(()));
        assert!(!found("mine"), "the alias of run is for its own networks");
        assert_eq!(boxed.ip(&host, "web"), Ipv4Addr::new(10, 92, 0, 77));
        assert!(host.shoal(["exec", "box", "ip", "link"]).ok().contains(mac), "{when}");
    };
    check("connected");
    let _ = host.shoal(["restart", "-t", "0", "box"]).ok();
    check("restarted");
    let _ = host.shoal(["rename", "box", "crate"]).ok();
    eventually("the new name is known", PATIENCE, || found("crate").then_some(()));
    assert!(!found("box"), "the former name is free");
    assert!(host.shoal(["network", "inspect", "web"]).ok().contains("\"crate\""));
}

#[test]
fn a_resolver_that_is_killed_comes_back_by_itself() {
    let host = host("revive");
    let _ = host.shoal(["network", "create", "web"]).ok();
    let one = run(&host, &["--name", "one", "--network", "web"]);
    let _ = run(&host, &["--name", "two", "--network", "web"]);
    let id = host.shoal(["network", "inspect", "-f", "{{.Id}}", "web"]).ok();
    let file = host.root().join("run/networks").join(id.trim()).join("resolver.pid");
    let process = || -> Option<i32> {
        let text = std::fs::read(&file).ok()?;
        let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
        i32::try_from(value["pid"].as_i64()?).ok()
    };
    let first = eventually("it says who it is", PATIENCE, process);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).expect("ours");
    eventually("another has taken its place", PATIENCE, || process().filter(|pid| *pid != first));
    let address = one.ip(&host, "web").to_string();
    eventually("names are known", PATIENCE, || {
        host.shoal(["exec", "two", "nslookup", "one"]).run().stdout.contains(&address).then_some(())
    });
}

#[test]
fn ipv6_of_the_host_leads_to_containers_without_it_and_loopback_to_all() {
    use std::net::Ipv6Addr;
    let host = host("forward");
    let plain = run(&host, &["--name", "plain", "-p", "8080:80", "-p", "5353:53/udp", "-p", "[::1]:8081:80"]);
    plain.serve_tcp(80, "plain");
    plain.serve_udp(53, "plain");
    let netns = host.netns_path();
    for port in [8080, 8081] {
        let said = ask(&netns, Ipv6Addr::LOCALHOST, port).unwrap_or_else(|| panic!("[::1]:{port} does not answer"));
        assert!(said.starts_with("plain "), "{said}");
    }
    let answer = at(&netns, || {
        let socket = UdpSocket::bind("[::1]:0").ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.send_to(b"?", (Ipv6Addr::LOCALHOST, 5353)).ok()?;
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from.port()))
    });
    let (said, port) = answer.expect("a datagram comes back");
    assert!(said.starts_with("plain ") && port == 5353, "{said} from {port}");
    let _ = host.cmd("ip").args(["-6", "addr", "add", "fd99::1/64", "dev", "lo"]).ok();
    assert!(ask(&netns, "fd99::1".parse::<Ipv6Addr>().expect("an address"), 8080).is_some());
    // Other programs find them taken, and a container that has IPv6 is led to by the kernel, but for loopback.
    assert!(at(&netns, || TcpListener::bind((Ipv6Addr::LOCALHOST, 8081)).is_err()));
    let _ =
        host.shoal(["network", "create", "--ipv6", "--subnet", "10.94.0.0/24", "--subnet", "fd94::/64", "six"]).ok();
    let six = run(&host, &["--name", "six", "--network", "six", "-p", "8090:80"]);
    six.serve_tcp(80, "six");
    assert!(ask(&netns, Ipv6Addr::LOCALHOST, 8090).is_some_and(|said| said.starts_with("six ")));
    assert!(ask(&netns, "fd99::1".parse::<Ipv6Addr>().expect("an address"), 8090).is_some());
}
