//! Nodes behind masquerading routers: reached through a relay they are told of, and directly once both have dialled at the same
//! moment (hole punching): then the relay may die.

use super::{Mesh, Node, PATIENCE};
use integration::{Host, eventually};
use std::net::SocketAddr;
use std::time::Duration;

/// A mesh of one node in the open, and two behind a router each that listen through it.
struct Behind {
    mesh: Mesh,
    inner: Vec<(Node, Host)>,
}

/// Lets in what answers or begins inside, and masquerades what goes out. What comes unasked is dropped, as routers at home do.
const ROUTER: &str = "
    table ip nat {
        chain outward {
            type nat hook postrouting priority 100;
            oifname \"eth0\" masquerade;
        }
    }
    table ip filter {
        chain passing {
            type filter hook forward priority 0; policy drop;
            iifname \"in0\" accept;
            ct state established,related accept;
        }
        chain own {
            type filter hook input priority 0; policy accept;
            iifname \"eth0\" ct state established,related accept;
            iifname \"eth0\" drop;
        }
    }
";

impl Behind {
    fn new() -> Self {
        let mesh = Mesh::new(1);
        let relay = &mesh.nodes[0];
        let address: SocketAddr = relay.address.parse().expect("an address");
        let peer = eventually("the relay's peer id", PATIENCE, || {
            let told = relay.status()["peer"].as_str()?.to_owned();
            (!told.is_empty()).then_some(told)
        });
        let circuit = format!("/ip4/{}/tcp/{}/p2p/{peer}/p2p-circuit", address.ip(), address.port());
        let token = relay.token(&[]);
        let mut inner = Vec::new();
        for number in 2..=3u32 {
            // A router on the switch, and a host behind it that nobody can reach from outside.
            let router = Host::new("router");
            let _ = mesh.lan.plug(&router);
            let host = Host::new("inside");
            let subnet = format!("192.168.{number}");
            let _ = router
                .cmd("ip")
                .args(["link", "add", "in0", "type", "veth", "peer", "name", "eth0", "netns", &host.netns])
                .ok();
            let _ = router.cmd("ip").args(["addr", "add", &format!("{subnet}.1/24"), "dev", "in0"]).ok();
            let _ = router.cmd("ip").args(["link", "set", "in0", "up"]).ok();
            let _ = host.cmd("ip").args(["addr", "add", &format!("{subnet}.2/24"), "dev", "eth0"]).ok();
            let _ = host.cmd("ip").args(["link", "set", "eth0", "up"]).ok();
            let _ = host.cmd("ip").args(["route", "add", "default", "via", &format!("{subnet}.1")]).ok();
            let _ = router.cmd("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).ok();
            let _ = router.cmd("nft").args(["-f", "-"]).input(ROUTER).ok();
            let node = Node { host, name: format!("n{number}"), address: format!("{subnet}.2:4700"), plug: 0 };
            let _ = node.up_with(&["--listen", &circuit, "--join", &token]).ok();
            inner.push((node, router));
        }
        for (node, _) in &inner {
            eventually(&format!("{} is linked with all", node.name), PATIENCE, || {
                let status = node.status();
                (status["alive"] == 3 && status["connections"] == 2).then_some(())
            });
        }
        Self { mesh, inner }
    }
}

#[test]
fn two_nodes_behind_masquerading_routers_reach_each_other_through_a_relay() {
    let behind = Behind::new();
    let inner = &behind.inner;
    let _ = inner[0].0.put("through", "the relay");
    eventually("the key is at the other side", PATIENCE, || inner[1].0.get("through"));
}

#[test]
fn two_nodes_behind_masquerading_routers_punch_through_and_outlive_their_relay() {
    let behind = Behind::new();
    let [(one, _), (two, _)] = &behind.inner[..] else { panic!("two") };
    eventually("a direct connection stands beside the relayed one", PATIENCE, || {
        (one.status()["counters"]["holes_punched"].as_u64() > Some(0)).then_some(())
    });
    behind.mesh.nodes[0].kill();
    // The two miss the relay, and never each other.
    eventually("the relay is down to both", Duration::from_secs(20), || {
        let seen = |node: &Node| (node.status()["alive"].clone(), node.status()["down"].clone());
        (seen(one) == (2.into(), 1.into()) && seen(two) == (2.into(), 1.into())).then_some(())
    });
    let _ = one.put("without", "the relay");
    eventually("the key is at the other side", PATIENCE, || two.get("without"));
}
