//! Looking: ps with its filters and formats, inspect, top, stats, port, diff, events, system.

use crate::case::Place;

#[test]
fn ps_prints_dockers_table_filters_and_formats() {
    let place = Place::new("ps");
    let id = place.ok("run -d --name web -l tier=front -p 8080:80 BB sleep 1000");
    let _ = place.ok("run --name done -l tier=back BB true");
    let table = place.ok("ps");
    let head = table.lines().next().unwrap_or_default();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>().join(" "),
        "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES"
    );
    let row = table.lines().nth(1).unwrap_or_default();
    for part in [&id[..12], "localhost/bb:1", "\"sleep 1000\"", "Up ", "0.0.0.0:8080->80/tcp", "web"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    assert!(!table.contains("done"));
    let names = |flags: &str| place.ok(&format!("ps {flags} --format '{{{{.Names}}}}'"));
    assert_eq!(names("-a"), "done\nweb");
    assert_eq!(names("-a --filter status=exited"), "done");
    assert_eq!(names("-a --filter exited=0"), "done");
    assert_eq!(names("-a --filter label=tier"), "done\nweb");
    assert_eq!(names("-a --filter label=tier=front"), "web");
    assert_eq!(names("-a --filter name=we --filter name=do"), "done\nweb");
    assert_eq!(names("-a --filter ancestor=localhost/bb:1 --filter status=running"), "web");
    assert_eq!(names("-a --filter publish=8080"), "web");
    assert_eq!(names("-a --filter before=done"), "web");
    assert_eq!(names("-a --filter since=web"), "done");
    assert_eq!(names("-a --filter network=bridge"), "done\nweb");
    assert_eq!(names("-l"), "done");
    assert_eq!(names("-n 1"), "done");
    assert_eq!(place.ok("ps -q --no-trunc"), id);
    assert_eq!(place.ok("ps -a --format '{{.Names}} {{.Label \"tier\"}}'"), "done back\nweb front");
    let json: serde_json::Value = serde_json::from_str(&place.ok("ps --format json")).expect("a document");
    assert_eq!((json["Names"].as_str(), json["State"].as_str()), (Some("web"), Some("running")));
    assert!(place.ok("ps --format 'table {{.Names}}'").starts_with("NAMES"));
    place.refused("ps --filter colour=red", 1, "colour");
    assert!(place.ok("ps -a").contains("Exited (0)"));
    assert_eq!(place.ok("container ls -q"), place.ok("ps -q"));
    assert!(place.ok("ps -s").contains("virtual"));
}

#[test]
fn inspect_tells_what_was_asked_and_what_is() {
    let place = Place::new("inspect");
    let _ = place.ok("run -d --name box -e A=b -v /tmp:/host:ro -p 127.0.0.1:9000:90 --restart on-failure:3 -l k=v --cap-add NET_ADMIN -m 64m BB sleep 1000");
    let seen = place.inspect("box");
    assert_eq!(seen["Name"], "/box");
    assert_eq!(seen["State"]["Running"], true);
    assert_eq!(seen["Config"]["Image"], "localhost/bb:1");
    assert_eq!(seen["Config"]["Labels"]["k"], "v");
    assert!(seen["Config"]["Env"].as_array().is_some_and(|env| env.iter().any(|entry| entry == "A=b")));
    assert_eq!(seen["HostConfig"]["Memory"], 67_108_864);
    assert_eq!(seen["HostConfig"]["RestartPolicy"]["Name"], "on-failure");
    assert_eq!(seen["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
    assert_eq!(seen["Mounts"][0]["Destination"], "/host");
    assert_eq!(seen["Mounts"][0]["RW"], false);
    assert_eq!(seen["NetworkSettings"]["Ports"]["90/tcp"][0]["HostPort"], "9000");
    let address = place.ok("inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' box");
    assert!(place.ok("exec box ip addr").contains(&format!("inet {address}/")), "{address}");
    assert_eq!(place.ok("inspect -f '{{range .Config.Cmd}}{{.}} {{end}}' box"), "sleep 1000");
    assert_eq!(place.ok("inspect --format '{{json .State.Running}}' box"), "true");
    assert_eq!(place.ok("inspect --type image -f '{{.Os}}' BB"), "linux");
    assert_eq!(place.ok("inspect -f '{{.Driver}}' --type network bridge"), "bridge");
    assert_eq!(place.ok("container inspect -f '{{.Name}}' box"), "/box");
    let partly = place.run("inspect box nobody").expect_code(1);
    assert!(partly.stdout.contains("\"/box\"") && partly.stderr.contains("nobody"));
    place.refused("inspect -f '{{.No.Such}}' box", 1, "No");
}

#[test]
fn top_stats_port_and_diff_look_inside() {
    let place = Place::new("top");
    let _ = place.ok("run -d --name box -p 8001:80 -p 8002:53/udp BB sh -c 'touch /new; rm /etc/group; echo x >> /etc/passwd; sleep 1000'");
    integration::eventually("the changes are made", crate::case::PATIENCE, || {
        place.run("exec box grep -q x$ /etc/passwd").status.success().then_some(())
    });
    let top = place.ok("top box");
    assert!(top.starts_with("UID") && top.contains("sleep 1000"), "{top}");
    assert!(place.ok("top box -o pid,args").contains("sleep 1000"));
    let stats = place.ok("stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' box");
    assert!(stats.starts_with("box ") && stats.ends_with(" 1"), "{stats}");
    assert!(place.ok("stats --no-stream").contains("MEM USAGE"));
    let ports = place.ok("port box");
    assert!(ports.contains("80/tcp -> 0.0.0.0:8001") && ports.contains("53/udp -> 0.0.0.0:8002"), "{ports}");
    assert!(place.ok("port box 80").contains("0.0.0.0:8001"));
    let _ = place.run("port box 81").expect_code(1);
    let diff = place.ok("diff box");
    assert_eq!(diff, "C /etc\nD /etc/group\nC /etc/passwd\nA /new", "nothing of what is mounted for every container");
    let _ = place.ok("run --name still BB true");
    assert_eq!(place.ok("diff still"), "");
}

#[test]
fn events_tell_what_happened_and_can_be_followed() {
    let place = Place::new("events");
    // What it missed before it looked is told first.
    let follower = place
        .cmd("events --since 1h --filter container=box --format '{{.Action}}'")
        .command()
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("shoal starts");
    let follower = Watched(follower);
    let _ = place.run("run --rm --name box BB sh -c 'exit 2'").expect_code(2);
    let told = place.ok("events --since 1h --until 0s --format '{{.Action}} {{.Actor.Attributes.name}}'");
    for action in ["create box", "start box", "die box", "destroy box"] {
        assert!(told.lines().any(|line| line == action), "{action}: {told}");
    }
    assert_eq!(
        place.ok("events --since 1h --until 0s --filter event=die --format '{{.Actor.Attributes.exitCode}}'"),
        "2"
    );
    follower.says("destroy");
}

/// A child that is killed when the test ends.
struct Watched(std::process::Child);

impl Watched {
    /// Waits until it writes this line.
    fn says(mut self, wanted: &'static str) {
        use std::io::BufRead;
        let pipe = self.0.stdout.take().expect("stdout is piped");
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let found = std::io::BufReader::new(pipe).lines().map_while(Result::ok).any(|line| line == wanted);
            // Nobody listens any more when the test has failed.
            let _ = sender.send(found);
        });
        assert_eq!(said.recv_timeout(crate::case::PATIENCE), Ok(true), "{wanted:?} was not written");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn system_shows_and_gives_back_space() {
    let place = Place::new("system");
    let _ = place.ok("run --name aa -v /anon BB sh -c 'head -c 100000 /dev/zero > /file'");
    let _ = place.ok("network create unused");
    let df = place.ok("system df");
    for row in ["Images", "Containers", "Local Volumes"] {
        assert!(df.contains(row), "{df}");
    }
    place.refused("system prune -f --filter colour=red", 2, "colour");
    place.refused("system prune -f --volumes --filter until=1h", 2, "until");
    assert!(!place.ok("system prune -f --filter label=nobody").contains("Deleted"));
    let pruned = place.ok("system prune -f --volumes");
    for part in ["Deleted Containers:", "Deleted Networks:\nunused", "Deleted Volumes:", "Total reclaimed space: "] {
        assert!(pruned.contains(part), "{part:?}: {pruned}");
    }
    assert_eq!(place.ok("volume ls -q"), "");
    assert_eq!(place.ok("ps -aq"), "");
    assert!(!place.ok("network ls").contains("unused"));
    assert!(place.ok("images").contains("localhost/bb"), "a tagged image stays");
    let _ = place.ok("system prune -a -f");
    assert!(!place.ok("images").contains("localhost/bb"));
    assert!(place.ok("info").contains("Containers"));
    assert!(place.ok("version").contains("shoal") || place.ok("version").contains("Version"));
}

#[test]
fn volumes_and_networks_are_shown_by_template() {
    let place = Place::new("templates");
    let _ = place.ok("volume create data --label kind=test");
    let _ = place.ok("network create --label kind=test red");
    assert_eq!(place.ok("volume inspect -f '{{.Name}} {{.Labels.kind}} {{.Driver}}' data"), "data test local");
    assert!(place.ok("volume inspect --format json data").starts_with("[{"));
    assert_eq!(place.ok("volume ls --format '{{.Name}} {{.Label \"kind\"}}'"), "data test");
    assert!(place.ok("volume ls --format 'table {{.Name}}\t{{.Driver}}'").starts_with("VOLUME NAME"));
    assert_eq!(place.ok("network inspect -f '{{.Driver}} {{index .Labels \"kind\"}}' red"), "bridge test");
    assert_eq!(
        place.ok("network ls --filter name=red --format '{{.Name}}: {{.Label \"kind\"}} {{upper .Scope}}'"),
        "red: test LOCAL"
    );
    place.refused("volume inspect -f '{{.Nothing}}' data", 1, "Nothing");
}

#[test]
fn boot_starts_what_should_run() {
    let place = Place::new("boot");
    let _ = place.ok("run -d --name always --restart always BB sleep 1000");
    let _ = place.ok("run -d --name never BB sleep 1000");
    let unit = place.ok("generate systemd always");
    assert!(unit.contains("ExecStart=") && unit.contains("always"), "{unit}");
    let _ = place.ok("boot");
    assert_eq!(place.state("always", "Status"), "running");
}
