//! The life of a mesh: joined, served, two of three killed, back, left.

use crate::rig::{IMAGE, Mesh, PATIENCE, addresses_in, ask};
use integration::eventually;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

#[test]
fn three_nodes_serve_each_other_and_outlive_two() {
    let mut mesh = Mesh::new();
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };

    // A key written at one is read at another.
    let _ = first.shoal(["kv", "put", "color", "blue"]).ok();
    eventually("the key is at the third node", PATIENCE, || {
        (third.shoal(["kv", "get", "color"]).run().stdout.trim() == "blue").then_some(())
    });

    // Three replicas of an image that one node alone has: all nodes run one and hold the image now.
    mesh.serve("web", 8080, 3);
    let client = mesh.client_address.to_string();
    for node in &mesh.nodes {
        assert!(node.shoal(["images"]).ok().contains("localhost/mesh"), "{} has the image", node.name);
        let mut hosts = BTreeSet::new();
        eventually(&format!("all instances answer through {}", node.name), PATIENCE, || {
            let text = mesh.ask(node, 8080)?;
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(words.last(), Some(&client.as_str()), "{text}");
            hosts.insert(words[0].to_owned());
            (hosts.len() == 3).then_some(())
        });
    }

    // Names resolve in every container, to addresses that answer.
    for node in &mesh.nodes {
        let ids = node.shoal(["ps", "-q", "--no-trunc"]).ok();
        let id = ids.split_whitespace().next().expect("an instance runs on every node").to_owned();
        // Busybox's own look-up: a static C library cannot resolve names.
        let mut addresses = BTreeSet::new();
        for name in ["web", "tasks.web", "web.mesh"] {
            addresses = eventually(&format!("{name} is known in a container of {}", node.name), PATIENCE, || {
                let found = addresses_in(&node.shoal(["exec", &id, "nslookup", name]).run().stdout, false);
                (found.len() == 3).then_some(found)
            });
        }
        for address in addresses {
            let netns = node.host.root().join("run/containers").join(&id).join("netns");
            let address: Ipv4Addr = address.parse().expect("an address");
            let said = ask(&netns, address, 8000);
            assert!(said.is_some(), "{address} does not answer in a container of {}", node.name);
        }
    }

    // Two die with everything on them and their cables: the last still writes, and runs what fits.
    for node in [second, third] {
        mesh.lan.cable(node.plug, false);
        node.kill();
    }
    let began = Instant::now();
    let _ = first.shoal(["kv", "put", "color", "red"]).deadline(Duration::from_secs(5)).ok();
    // Services too: each within a second, and what fits runs.
    for words in
        [&["service", "create", "--name", "late", IMAGE, "sleep", "1000"][..], &["service", "scale", "late=2"][..]]
    {
        let asked = Instant::now();
        let _ = first.shoal(words).ok();
        // No quorum is waited for, but a moment for those who were there just now; the goal is a second.
        println!("two of three killed: {words:?} took {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(10), "{words:?} took {:?}", asked.elapsed());
    }
    eventually("the last node runs all three", PATIENCE, || {
        (first.shoal(["ps", "-q"]).ok().split_whitespace().count() == 5).then_some(())
    });
    println!("two of three killed: all replicas on the last after {:?}", began.elapsed());
    let _ = first.shoal(["service", "rm", "late"]).ok();
    assert!(mesh.answers(first, 8080).contains(" one "));

    // They come back, and all are equal.
    for node in &mesh.nodes[1..] {
        mesh.lan.cable(node.plug, true);
        node.up(None);
    }
    mesh.all_alive();
    eventually("equal digests", PATIENCE, || {
        let digests: BTreeSet<String> =
            mesh.nodes.iter().map(|node| node.json(&["mesh", "status"])["root"].to_string()).collect();
        (digests.len() == 1).then_some(())
    });
    assert_eq!(mesh.nodes[2].shoal(["kv", "get", "color"]).ok().trim(), "red");

    // Removing the service leaves nothing.
    let _ = mesh.nodes[1].shoal(["service", "rm", "web"]).ok();
    for node in &mesh.nodes {
        eventually(&format!("no container is left on {}", node.name), PATIENCE, || {
            node.shoal(["ps", "-aq"]).ok().trim().is_empty().then_some(())
        });
    }
    assert!(mesh.ask(&mesh.nodes[0], 8080).is_none());

    // A node that lives is not removed by mistake.
    let kept = mesh.nodes[0].shoal(["node", "rm", "n3"]).run().expect_failure();
    assert!(kept.stderr.contains("node n3 is not down and can't be removed"), "{}", kept.stderr);

    // A node that leaves takes its part of the network along.
    let mut last = mesh.nodes.pop().expect("three nodes");
    let _ = last.shoal(["mesh", "leave", "--yes"]).ok();
    eventually("the node has ended", PATIENCE, || {
        let links = last.host.cmd("ip").args(["link", "show"]).ok();
        (!links.contains("sh-")).then_some(())
    });
    eventually("two members are left", PATIENCE, || {
        let members = mesh.nodes[0].json(&["mesh", "members"]);
        (members.as_array().is_some_and(|all| all.len() == 2)).then_some(())
    });

    // A token that was cut joins nobody, and a name that a living node has is no name for another.
    let token = mesh.nodes[0].shoal(["mesh", "token", "create"]).ok();
    let token = token.split_whitespace().last().expect("a token");
    let join = |token: &str| {
        let args =
            ["mesh", "up", "--detach", "--name", "n2", "--listen", &format!("{}:4700", last.address), "--join", token];
        last.shoal(args).run().expect_failure().stderr
    };
    let said = join(&token[..60]);
    assert!(said.contains("its end is missing"), "{said}");
    let said = join(token);
    assert!(said.contains("a living node of the mesh is called n2 already"), "{said}");
    last.name = "n4".to_owned();
    last.up(Some(token));
    eventually("three members again", PATIENCE, || {
        (mesh.nodes[0].json(&["mesh", "status"])["alive"] == 3).then_some(())
    });
    last.kill();
    mesh.lan.cable(last.plug, false);
    eventually("it is down", PATIENCE, || mesh.nodes[0].shoal(["node", "ls"]).ok().contains(" Down ").then_some(()));
    assert_eq!(mesh.nodes[1].shoal(["node", "rm", "n4"]).ok().trim(), "n4");
    eventually("it is forgotten", PATIENCE, || {
        (!mesh.nodes[0].shoal(["node", "ls"]).ok().contains("n4")).then_some(())
    });
}
