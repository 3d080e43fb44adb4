//! Stacks from compose files, names, UDP and the size of packets: what containers of several nodes see of each other.

use crate::rig::{IMAGE, Mesh, Node, PATIENCE, addresses_in, at};
use integration::{Scratch, eventually};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const SLOW: Duration = Duration::from_secs(60);

/// What a name means to a program that asks `server`, asked with busybox's own look-up.
fn lookup(node: &Node, container: Option<&str>, name: &str, server: &str) -> String {
    match container {
        Some(id) => node.shoal(["exec", id, "nslookup", name]).run().stdout,
        None => node.host.cmd("busybox").args(["nslookup", name, server]).run().stdout,
    }
}

fn containers(node: &Node, service: &str) -> Vec<String> {
    let filter = format!("label=shoal.service={service}");
    let ids = node.shoal(["ps", "-q", "--no-trunc", "--filter", &filter]).ok();
    ids.split_whitespace().map(str::to_owned).collect()
}

/// The text that a UDP service answers to the client, through a node.
fn ask_udp(mesh: &Mesh, node: Ipv4Addr, port: u16) -> Option<String> {
    at(&mesh.client.netns_path(), move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        socket.connect(SocketAddr::from((node, port))).ok()?;
        socket.send(b"who").ok()?;
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
    })
}

#[test]
fn a_stack_is_deployed_named_reached_and_removed() {
    let mesh = Mesh::new();
    let first = &mesh.nodes[0];
    let scratch = Scratch::new("stack");
    let file = scratch.join("compose.yaml");
    let write = |text: &str| std::fs::write(&file, text).expect("the scratch folder is writable");
    let path = file.display().to_string();
    let deploy = |flags: &[&str]| {
        let args = ["stack", "deploy", "-c", &path, "shop"];
        first.shoal(args).args(flags).deadline(SLOW).run()
    };

    // What is not understood is refused with its place, and nothing is made.
    for (text, place) in [
        ("services:\n  web:\n    image: a\n    gpus: all\n", ":4:5: "),
        ("services:\n  web:\n    image: a\n    deploy:\n      replicsa: 2\n", ":5:7: "),
        ("services:\n  web:\n    image: a\n    ports:\n      - {target: 80, publish: 1}\n", ":5:22: "),
        ("services:\n  web:\n    image: a\nnetworks: {front: {}}\n", ":4:1: "),
    ] {
        write(text);
        let out = deploy(&[]).expect_failure();
        assert!(out.stderr.contains(&format!("{path}{place}")), "{text}: {}", out.stderr);
    }
    assert!(!first.shoal(["service", "ls"]).ok().contains("shop_"));

    let compose = |version: &str, more: &str| {
        format!(
            r#"
services:
  web:
    image: {IMAGE}
    command: ["probe", "serve", "8000"]
    environment: {{VERSION: "{version}", LOG: "1"}}
    ports: ["8086:8000", "8086:8000/udp"]
    stop_grace_period: 1s
    healthcheck: {{test: ["CMD", "probe", "true"], interval: 500ms}}
    deploy:
      mode: replicated
      replicas: 3
      resources: {{limits: {{memory: 64M}}, reservations: {{cpus: "0.1"}}}}
      placement: {{constraints: ["node.role != nobody"], max_replicas_per_node: 1}}
      update_config: {{parallelism: 1, order: start-first, monitor: 500ms}}
      restart_policy: {{condition: any, delay: 1s}}
  db:
    image: {IMAGE}
    command: ["sh", "-c", "date > /data/there; sleep 1000"]
    volumes: ["data:/data"]
    deploy: {{placement: {{constraints: ["node.name == n2"]}}}}
{more}volumes: {{data: {{}}}}
"#
        )
        .replace(r#"constraints: ["node.role != nobody"], "#, "")
    };
    // One replica a node leaves no room for a second one beside the first during an update.
    write(&compose("one", "").replace("order: start-first, ", ""));
    let plan = first.shoal(["stack", "plan", "-c", &path, "shop"]).run().expect_code(10);
    assert!(plan.stdout.contains("create    shop_web"), "{}", plan.stdout);
    let _ = deploy(&["--wait"]).expect_success();
    let plan = first.shoal(["stack", "plan", "-c", &path, "shop"]).run().expect_code(0);
    assert!(plan.stdout.contains("unchanged shop_db"), "{}", plan.stdout);
    eventually("three run", PATIENCE, || {
        let shown = mesh.nodes[2].shoal(["stack", "ps", "shop"]).ok();
        let runs = shown.lines().filter(|line| line.contains("shop_web.") && line.contains(" Running "));
        (runs.count() == 3).then_some(())
    });
    assert!(mesh.nodes[1].shoal(["stack", "ls"]).ok().contains("shop"));
    assert!(mesh.nodes[1].shoal(["stack", "services", "shop"]).ok().contains("shop_db"));

    // Names: on every node, and in every container of the mesh.
    for node in &mesh.nodes {
        let id = containers(node, "shop_web").pop().expect("one instance a node");
        let gateway = node.shoal(["network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "mesh"]).ok();
        for name in ["shop_web", "tasks.shop_web", "web.shop.mesh", "tasks.web.shop.mesh", "web"] {
            for container in [None, Some(id.as_str())] {
                let found = eventually(&format!("{name} is known on {} {container:?}", node.name), PATIENCE, || {
                    let said = lookup(node, container, name, gateway.trim());
                    let (four, six) = (addresses_in(&said, false), addresses_in(&said, true));
                    (four.len() == 3 && six.len() == 3).then(|| four.into_iter().chain(six).collect::<Vec<_>>())
                });
                let ours = |address: &String| address.starts_with("10.") || address.starts_with("fd");
                assert!(found.iter().all(ours), "{found:?}");
            }
        }
    }

    // UDP through every node, from every instance in the end, with the client's address kept.
    let client = mesh.client_address.to_string();
    for node in &mesh.nodes {
        let mut hosts = BTreeSet::new();
        eventually(&format!("all instances answer datagrams through {}", node.name), PATIENCE, || {
            let text = ask_udp(&mesh, node.address, 8086)?;
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(words.last(), Some(&client.as_str()), "{text}");
            hosts.insert(words[0].to_owned());
            (hosts.len() == 3).then_some(())
        });
        assert!(mesh.answers(node, 8086).ends_with(&client));
    }
    let logs = mesh.nodes[1].shoal(["service", "logs", "--raw", "shop_web"]).ok();
    for protocol in ["tcp", "udp"] {
        assert!(logs.contains(&format!("{protocol} {client}")), "{logs}");
    }

    // Packets are as large as the way between the nodes carries, and larger ones arrive in parts.
    let (here, there) = (&mesh.nodes[0], &mesh.nodes[2]);
    let id = containers(here, "shop_web").pop().expect("one instance a node");
    let link = here.shoal(["exec", &id, "ip", "link", "show", "eth0"]).ok();
    assert!(link.contains("mtu 1450"), "{link}");
    let other = containers(there, "shop_web").pop().expect("one instance a node");
    let inspect =
        there.shoal(["inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", &other]);
    let address = inspect.ok().trim().to_owned();
    for size in ["1422", "4000"] {
        let _ = here.shoal(["exec", &id, "ping", "-c", "1", "-W", "2", "-s", size, &address]).ok();
    }

    // The same by IPv6, at the container's own address: it sees whose it is.
    let six = |node: &Node, id: &str| {
        let format = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}";
        node.shoal(["inspect", "--format", format, id]).ok().trim().to_owned()
    };
    let (from, to) = (six(here, &id), six(there, &other));
    assert!(from.starts_with("fd") && to.starts_with("fd") && from != to, "{from} {to}");
    for size in ["1402", "4000"] {
        let _ = here.shoal(["exec", &id, "ping", "-6", "-c", "1", "-W", "2", "-s", size, &to]).ok();
    }
    let said = here.shoal(["exec", &id, "wget", "-q", "-O", "-", &format!("http://[{to}]:8000/")]).ok();
    assert!(said.trim().ends_with(&from), "{said} is not told {from}");

    // What they wrote, of the whole stack, with times, and from now on only.
    let logs = first.shoal(["stack", "logs", "-t", "shop"]).ok();
    let line = logs.lines().find(|line| line.contains("shop_web.")).expect("a line of web");
    assert!(line.split_whitespace().next().is_some_and(|time| time.contains('T') && time.ends_with('Z')), "{line}");
    let later = first.shoal(["service", "logs", "--since", "2099-01-01T00:00:00", "shop_web"]).ok();
    assert_eq!(later, "");

    // A changed file changes what it says; what left the file goes when asked for.
    write(&compose("two", "").replace("order: start-first, ", ""));
    let out = deploy(&["--wait"]).expect_success();
    assert!(out.stdout.contains("update    shop_web") && out.stdout.contains("unchanged shop_db"), "{}", out.stdout);
    assert!(mesh.answers(first, 8086).contains(" two "));
    let text = compose("two", "");
    let (web, rest) = text.split_once("  db:").expect("the file has a db");
    let volumes = &rest[rest.find("volumes: {data").expect("the file has volumes")..];
    write(&format!("{web}{volumes}").replace("order: start-first, ", ""));
    let out = deploy(&["--prune", "--wait"]).expect_success();
    assert!(out.stdout.contains("remove    shop_db"), "{}", out.stdout);

    let _ = mesh.nodes[2].shoal(["stack", "rm", "shop"]).ok();
    for node in &mesh.nodes {
        eventually(&format!("nothing is left on {}", node.name), PATIENCE, || {
            node.shoal(["ps", "-aq"]).ok().trim().is_empty().then_some(())
        });
    }
    let out = first.shoal(["stack", "ps", "shop"]).run().expect_failure();
    assert!(out.stderr.contains("no stack shop"), "{}", out.stderr);
}
