//! What may go wrong with a mesh, on real processes: cuts that heal, holders of images that die, full nodes, crash loops, all
//! nodes at once. Each test says in the end that what was wanted runs, once.

use crate::rig::{IMAGE, Mesh, Node, PATIENCE, addresses_in, noise};
use integration::{Scratch, eventually, soon};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SLOW: Duration = Duration::from_secs(60);

/// The instances of a service as a node sees them.
fn instances(node: &Node, name: &str) -> Vec<Value> {
    let out = node.shoal(["service", "ps", name, "-o", "json"]).run();
    serde_json::from_str(&out.stdout).unwrap_or_default()
}

/// What runs of a service on a node, as its engine sees it.
fn here(node: &Node, name: &str) -> BTreeSet<String> {
    let filter = format!("label=shoal.service={name}");
    let ids = node.shoal(["ps", "-q", "--no-trunc", "--filter", &filter]).run().stdout;
    ids.split_whitespace().map(str::to_owned).collect()
}

fn everywhere(mesh: &Mesh, name: &str) -> usize {
    mesh.nodes.iter().map(|node| here(node, name).len()).sum()
}

fn alive(node: &Node) -> u64 {
    node.json(&["mesh", "status"])["alive"].as_u64().unwrap_or(0)
}

/// Polls until `check` finds something; a failure says what `told` knows.
fn eventually_or<T>(what: &str, limit: Duration, told: impl Fn() -> String, check: impl Fn() -> Option<T>) -> T {
    soon(limit, check).unwrap_or_else(|| panic!("not within {limit:?}: {what}: {}", told()))
}

/// What a node says of a service, for a failure.
fn said(node: &Node, name: &str) -> String {
    let members = node.shoal(["mesh", "members"]).run().stdout;
    format!("{members}\n{}", node.shoal(["service", "ps", "--no-trunc", name]).run().stdout)
}

/// The addresses behind a name, asked of the node's own resolver.
fn addresses(node: &Node, name: &str) -> BTreeSet<String> {
    let format = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = node.shoal(["network", "inspect", "--format", format, "mesh"]).run().stdout;
    addresses_in(&node.host.cmd("busybox").args(["nslookup", name, gateway.trim()]).run().stdout, false)
}

fn view(node: &Node, name: &str) -> Value {
    node.json(&["service", "inspect", name])[0].clone()
}

#[test]
fn a_cut_heals_to_one_service_although_both_sides_changed_it() {
    let mesh = Mesh::new();
    mesh.serve("web", 8090, 3);
    // A node resolves names for its containers: each has one throughout.
    let agent = ["service", "create", "--name", "agent", "--global", "--wait", IMAGE, "sleep", "1000"];
    let _ = mesh.nodes[0].shoal(agent).deadline(SLOW).ok();
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };

    mesh.lan.cable(third.plug, false);
    eventually("both sides know", PATIENCE, || (alive(first) == 2 && alive(third) == 1).then_some(()));
    // Each side runs all of it, and takes an operator's word.
    eventually("both sides run three", PATIENCE, || {
        (here(first, "web").len() + here(second, "web").len() == 3 && here(third, "web").len() == 3).then_some(())
    });
    for (node, version) in [(first, "near"), (third, "far")] {
        let version = format!("VERSION={version}");
        let update = ["service", "update", "web", "--env-add", &version, "--update-parallelism", "0"];
        let _ = node.shoal(update).args(["--update-monitor", "500ms", "--wait"]).deadline(SLOW).ok();
    }
    let own = third.host.netns_path();
    eventually("the far side answers with its own version", PATIENCE, || {
        crate::rig::ask(&own, third.address, 8090).filter(|text| text.contains(" far "))
    });
    assert!(mesh.answers(first, 8090).contains(" near "));

    mesh.lan.cable(third.plug, true);
    let began = Instant::now();
    mesh.all_alive();
    eventually("three run, once", PATIENCE, || (everywhere(&mesh, "web") == 3).then_some(()));
    println!("a cut of 1 against 2 healed: extra replicas gone after {:?}", began.elapsed());
    let named = || -> Vec<BTreeSet<String>> { mesh.nodes.iter().map(|node| addresses(node, "tasks.web")).collect() };
    let told = || format!("{:?} {}", named(), said(first, "web"));
    let named = eventually_or("every node knows the same three addresses", PATIENCE, told, || {
        let all = named();
        (all[0].len() == 3 && all.iter().all(|one| *one == all[0])).then(|| all[0].clone())
    });
    println!("names right after {:?}", began.elapsed());
    // One of the two words holds everywhere, the other is kept and shown.
    let (spec, current) = eventually("one version holds", PATIENCE, || {
        let views: Vec<Value> = mesh.nodes.iter().map(|node| view(node, "web")).collect();
        let same = views.iter().all(|one| one["service"] == views[0]["service"]);
        (same && views[0]["current"] == 3 && views[0]["running"] == 3)
            .then(|| (views[0]["service"]["spec"].to_string(), views[0]["current"].clone()))
    });
    assert_eq!(current, 3);
    let wins = if spec.contains("VERSION=far") { " far " } else { " near " };
    for node in &mesh.nodes {
        for _ in 0..4 {
            let said = mesh.answers(node, 8090);
            assert!(said.contains(wins), "{}: {said} is not{wins}", node.name);
        }
        let conflicts = node.shoal(["mesh", "conflicts", "ls"]).ok();
        assert!(conflicts.contains("service") && conflicts.contains("web"), "{}: {conflicts}", node.name);
    }
    // What the names say is what runs.
    for node in &mesh.nodes {
        for id in here(node, "web") {
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            let address = node.shoal(["inspect", "--format", format, &id]).ok();
            let now = addresses(node, "tasks.web");
            assert!(now.contains(address.trim()) || named.contains(address.trim()), "{address} {now:?}");
        }
    }
}

#[test]
fn an_image_comes_from_who_is_left_when_a_holder_dies_half_way() {
    let mesh = Mesh::new();
    let [first, second, third] = &mesh.nodes[..] else { panic!("three nodes") };
    let scratch = Scratch::new("holders");
    // Two hold one image, one alone holds another; slow enough to be interrupted.
    for (tag, mebibytes, holders) in [("both", 16, vec![first, second]), ("alone", 12, vec![second])] {
        let archive = noise(scratch.path(), &format!("localhost/{tag}:1"), mebibytes);
        for node in holders {
            let _ = node.shoal(["load", "-i"]).arg(&archive).ok();
        }
    }
    let slow = |node: &Node| {
        let limit =
            ["qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "10mbit", "burst", "64kb", "latency", "100ms"];
        let _ = node.host.cmd("tc").args(limit).ok();
    };
    slow(first);
    slow(second);
    let sent = |node: &Node| {
        let links: Value =
            serde_json::from_str(&node.host.cmd("ip").args(["-s", "-j", "link", "show", "dev", "eth0"]).ok())
                .expect("ip speaks JSON");
        links[0]["stats64"]["tx"]["bytes"].as_u64().expect("a count")
    };
    let create = |name: &str, image: &str| {
        let args = ["service", "create", "--name", name, "--constraint", "node.name == n3", "--restart-delay", "500ms"];
        let _ = third.shoal(args).args([image, "sleep", "1000"]).ok();
    };
    let before = sent(first);
    create("both", "localhost/both:1");
    eventually("the first holder has sent a part", PATIENCE, || (sent(first) > before + (2 << 20)).then_some(()));
    assert!(here(third, "both").is_empty(), "the image cannot be there yet");
    mesh.lan.cable(first.plug, false);
    first.kill();
    let began = Instant::now();
    let fast = |node: &Node| node.host.cmd("tc").args(["qdisc", "del", "dev", "eth0", "root"]).ok();
    let _ = fast(second);
    eventually_or(
        "it runs with what the other holder had",
        SLOW,
        || said(third, "both"),
        || (here(third, "both").len() == 1).then_some(()),
    );
    println!("a holder of two died during a pull: runs after {:?}", began.elapsed());

    slow(second);
    // The only holder: the instance says what it lacks, is tried again, and runs when the holder is back.
    let before = sent(second);
    create("alone", "localhost/alone:1");
    eventually("the only holder has sent a part", PATIENCE, || (sent(second) > before + (2 << 20)).then_some(()));
    mesh.lan.cable(second.plug, false);
    second.kill();
    let why = eventually("the instance says why", SLOW, || {
        let failed = instances(third, "alone").into_iter().find(|view| view["instance"]["phase"] == "failed")?;
        Some(failed["instance"]["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(!why.is_empty());
    let _ = fast(second);
    mesh.lan.cable(second.plug, true);
    second.up(None);
    eventually_or(
        "it runs when the holder is back",
        SLOW,
        || said(third, "alone"),
        || (here(third, "alone").len() == 1).then_some(()),
    );
    let verify = third.shoal(["image", "verify"]).ok();
    assert!(verify.ends_with("0 problems\n"), "{verify}");
}

#[test]
fn full_nodes_refuse_and_loops_disturb_nobody() {
    let mesh = Mesh::new();
    mesh.serve("web", 8092, 2);
    // Four slots, room for three: both services are made at the same moment on different nodes.
    std::thread::scope(|scope| {
        for (node, name) in [(&mesh.nodes[0], "left"), (&mesh.nodes[2], "right")] {
            scope.spawn(move || {
                let args = ["service", "create", "--name", name, "--replicas", "2", "--reserve-memory", "1500m"];
                let _ = node.shoal(args).args([IMAGE, "sleep", "1000"]).ok();
            });
        }
    });
    // Asked in one go: what moves between two questions would be counted twice.
    let big = |node: &Node| {
        let said = node.shoal(["ps", "--format", "{{.Label \"shoal.service\"}}"]).run().stdout;
        said.lines().filter(|name| ["left", "right"].contains(name)).count()
    };
    eventually("three run", PATIENCE, || {
        let counts: Vec<usize> = mesh.nodes.iter().map(big).collect();
        assert!(counts.iter().all(|count| *count <= 1), "a node took more than it has: {counts:?}");
        (counts.iter().sum::<usize>() == 3).then_some(())
    });
    // What loops: a command that fails, an image that nobody has, a port that is taken.
    let loops: [(&str, Vec<&str>); 2] =
        [("crash", vec![IMAGE, "sh", "-c", "exit 3"]), ("nowhere", vec!["127.0.0.1:9/none:1", "true"])];
    let began = Instant::now();
    for (name, words) in &loops {
        let _ = mesh.nodes[1].shoal(["service", "create", "--name", name]).args(words).ok();
    }
    let ends = |name: &str| {
        let rows = instances(&mesh.nodes[0], name);
        let attempt = rows.iter().filter_map(|view| view["instance"]["attempt"].as_u64()).max().unwrap_or(0);
        (rows.len(), attempt)
    };
    // An image that nobody has is asked of every peer first, each time.
    eventually("both have failed three times", SLOW, || (ends("crash").1 >= 2 && ends("nowhere").1 >= 2).then_some(()));
    // One, two, four seconds between the ends: never more attempts than the time allows, and few rows.
    for (name, _) in &loops {
        let (rows, attempt) = ends(name);
        let seconds = began.elapsed().as_secs();
        assert!((1 << attempt) <= seconds + 2, "{name}: attempt {attempt} after {seconds} s");
        assert!(rows <= 12, "{name}: {rows} rows");
    }
    let counts: Vec<usize> = mesh.nodes.iter().map(big).collect();
    assert_eq!((counts.iter().sum::<usize>(), counts.iter().max()), (3, Some(&1)), "{counts:?}");
    let one = view(&mesh.nodes[1], "left");
    let full = if one["running"] == 2 { view(&mesh.nodes[1], "right") } else { one };
    let why = full["no_fit"].as_str().unwrap_or_default();
    assert!(why.contains("3 short of memory"), "{full}");
    for node in &mesh.nodes {
        let _ = mesh.answers(node, 8092);
    }
    // Room again: the one that waited goes in.
    let waits = full["service"]["spec"]["name"].as_str().expect("a name").to_owned();
    let other = if waits == "left" { "right" } else { "left" };
    let _ = mesh.nodes[1].shoal(["service", "rm", other, "crash", "nowhere"]).ok();
    eventually("what waited runs", PATIENCE, || (everywhere(&mesh, &waits) == 2).then_some(()));
}

#[test]
fn all_nodes_at_once_lose_their_process_and_then_their_power() {
    let mesh = Mesh::new();
    mesh.serve("web", 8093, 3);
    let _ = mesh.nodes[0].shoal(["kv", "put", "color", "blue"]).ok();
    let ids = || -> Vec<BTreeSet<String>> { mesh.nodes.iter().map(|node| here(node, "web")).collect() };
    let before = ids();

    // The nodes' own processes: containers run on, and are taken over.
    for node in &mesh.nodes {
        let agent = node.agent();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent), nix::sys::signal::Signal::SIGKILL).expect("ours");
    }
    for node in &mesh.nodes {
        assert!(mesh.ask(node, 8093).is_some(), "{} answers without its process", node.name);
    }
    for node in mesh.nodes.iter().rev() {
        node.up(None);
    }
    mesh.all_alive();
    let _ = mesh.nodes[2].shoal(["service", "wait", "web"]).deadline(SLOW).ok();
    assert_eq!(ids(), before, "what runs is taken over");

    // Everything on all of them.
    for node in &mesh.nodes {
        node.kill();
    }
    let began = Instant::now();
    for node in &mesh.nodes {
        node.up(None);
    }
    mesh.all_alive();
    eventually("three run again", SLOW, || (everywhere(&mesh, "web") == 3).then_some(()));
    let _ = mesh.nodes[1].shoal(["service", "wait", "web"]).deadline(SLOW).ok();
    println!("all nodes lost power: three replicas after {:?}", began.elapsed());
    for node in &mesh.nodes {
        let _ = mesh.answers(node, 8093);
        assert_eq!(node.shoal(["kv", "get", "color"]).ok().trim(), "blue");
    }
    assert_eq!(everywhere(&mesh, "web"), 3);
}

#[test]
fn traffic_comes_to_what_listens_and_placeholders_are_filled() {
    let mesh = Mesh::new();
    let first = &mesh.nodes[0];
    let out = first.shoal(["service", "create", "--name", "bad", "--hostname", "{{.Node.Name}}", IMAGE, "true"]);
    let out = out.run().expect_failure();
    assert!(
        out.stderr.contains("{{.Node.Name}} is not known") && out.stderr.contains(".Node.Hostname"),
        "{}",
        out.stderr
    );

    // No check, and a server that needs two seconds before it listens.
    let words = "VERSION=$WORDS exec probe serve 8000";
    let slow = format!("sleep 2; {words}");
    let args =
        ["service", "create", "--name", "web", "--replicas", "2", "-p", "8094:8000", "--stop-grace-period", "1s"];
    let swift = ["--update-monitor", "500ms", "--update-parallelism", "0"];
    let filled =
        ["--hostname", "{{.Node.Hostname}}-{{.Task.Slot}}", "-e", "WORDS={{.Service.Name}}/{{.Node.Platform.OS}}"];
    let create =
        first.shoal(args).args(swift).args(filled).args(["--wait", "--wait-timeout", "40s", IMAGE, "sh", "-c", &slow]);
    let _ = create.deadline(SLOW).ok();
    let mut hosts = BTreeSet::new();
    for node in &mesh.nodes {
        // Once this node knows of the instances:
        let _ = mesh.answers(node, 8094);
        for _ in 0..10 {
            // At the first try: nothing that does not listen is behind the port.
            let said = mesh.ask(node, 8094).unwrap_or_else(|| panic!("no answer through {}", node.name));
            let words: Vec<&str> = said.split_whitespace().collect();
            assert_eq!(words[1], "web/linux", "{said}");
            hosts.insert(words[0].to_owned());
        }
    }
    let slots: BTreeSet<&str> = hosts.iter().filter_map(|host| host.split_once('-')).map(|(_, slot)| slot).collect();
    assert_eq!(slots, BTreeSet::from(["1", "2"]), "{hosts:?}");
    assert!(hosts.iter().all(|host| mesh.nodes.iter().any(|node| host.starts_with(&node.name))), "{hosts:?}");
    // Names are answered on every node, also on the one that runs none of it.
    for node in &mesh.nodes {
        eventually(&format!("{} knows web", node.name), PATIENCE, || (addresses(node, "web").len() == 2).then_some(()));
    }

    // A tag means the same everywhere, whatever a node has under it, until it is named again.
    let scratch = Scratch::new("moved");
    let moved = noise(scratch.path(), IMAGE, 1);
    let third = &mesh.nodes[2];
    let _ = third.shoal(["load", "-i"]).arg(&moved).ok();
    let image =
        |node: &Node| view(node, "web")["service"]["spec"]["template"]["image"].as_str().unwrap_or("").to_owned();
    let ids = || -> Vec<String> {
        let of = |node: &Node| {
            let inspect = |id: &String| node.shoal(["inspect", "--format", "{{.Image}}", id]).run().stdout;
            here(node, "web").iter().map(inspect).collect::<Vec<_>>()
        };
        mesh.nodes.iter().flat_map(of).collect()
    };
    let one_of_each = || ids().into_iter().collect::<BTreeSet<_>>();
    let (pinned, before) = (image(first), one_of_each());
    assert!(pinned.starts_with(&format!("{IMAGE}@sha256:")) && before.len() == 1, "{pinned} {before:?}");
    let shown = first.shoal(["service", "ls"]).ok() + &first.shoal(["service", "ps", "web"]).ok();
    assert!(shown.contains(IMAGE) && !shown.contains("sha256"), "{shown}");
    let containers = || mesh.nodes.iter().flat_map(|node| here(node, "web")).collect::<BTreeSet<_>>();
    let old = containers();
    assert_eq!(third.shoal(["service", "restart", "web", "--wait"]).deadline(SLOW).ok().trim(), "web");
    eventually("all are new", PATIENCE, || (containers().is_disjoint(&old) && containers().len() == 2).then_some(()));
    assert_eq!(one_of_each(), before, "a restart names no image");
    let update = ["service", "update", "--image", IMAGE, "web"];
    let _ = third.shoal(update).arg("--wait").deadline(SLOW).ok();
    assert_ne!(image(third), pinned);
    eventually("all have what the name means now", PATIENCE, || {
        let now = one_of_each();
        (now.len() == 1 && now != before).then_some(())
    });

    // What cannot be is refused, and what may surprise is said.
    let ask = |args: &[&str]| {
        let words = [&["service", "create", "--replicas", "0"], args, &["127.0.0.1:9/none:1", "true"]].concat();
        first.shoal(words).run()
    };
    let out = ask(&["--name", "odd", "--network", "nosuch"]).expect_failure();
    assert!(out.stderr.contains("no node has a network nosuch"), "{}", out.stderr);
    let mut program =
        mesh.nodes[1].host.cmd("busybox").args(["nc", "-l", "-p", "8199"]).command().spawn().expect("it starts");
    eventually("the program listens", PATIENCE, || {
        mesh.nodes[1].host.cmd("ss").args(["-ltn"]).ok().contains(":8199").then_some(())
    });
    let out = ask(&["--name", "odd", "-p", "8199:80"]).expect_success();
    let _ = (program.kill(), program.wait());
    assert!(out.stderr.contains("port 8199/tcp is in use by a program of n2"), "{}", out.stderr);
    assert!(out.stderr.contains("could not be accessed on a registry to record its digest"), "{}", out.stderr);

    // What was just started is asked for its log, and nothing but lines comes.
    let _ = first.shoal(["service", "scale", "web=6"]).ok();
    let logs = mesh.nodes[2].shoal(["service", "logs", "web"]).run().expect_success();
    assert!(!logs.stderr.contains("connection"), "{}", logs.stderr);

    // A node ends although it stops a container that takes its time.
    let deaf = ["sh", "-c", "trap 'echo told' TERM; while :; do sleep 0.1; done"];
    let args = ["service", "create", "--name", "deaf", "--constraint", "node.name == n1", "--wait"];
    let _ = first.shoal(args).args(["--stop-grace-period", "300s", IMAGE]).args(deaf).deadline(SLOW).ok();
    let id = here(first, "deaf").pop_first().expect("it runs here");
    let _ = first.shoal(["service", "rm", "deaf"]).ok();
    eventually("it is told to stop", PATIENCE, || {
        first.shoal(["logs", &id]).run().stdout.contains("told").then_some(())
    });
    let _ = first.shoal(["mesh", "down"]).deadline(SLOW).ok();
}
