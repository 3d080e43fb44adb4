//! Edges of everyday verbs, each of which was wrong once: what follows the image, links in volumes, input that comes early,
//! commands that are killed half way, limits that nothing could run under.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn what_follows_the_image_is_the_containers_although_run_has_such_a_flag() {
    let place = Place::new("behind");
    assert_eq!(place.ok("run --rm --entrypoint echo BB --init -d --help"), "--init -d --help");
    assert_eq!(place.ok("run --rm BB echo --rm -- -x"), "--rm -- -x");
    let _ = place.ok("create --name box --entrypoint echo BB --name other");
    assert_eq!(place.ok("start -a box"), "--name other");
    let _ = place.ok("run -d --name up BB sleep 1000");
    let _ = place.run("exec up -d").expect_code(127);
    let version = place.cmd("version --format '{{.Client.Os}}'").env("SHOAL_ROOT", "").ok();
    assert_eq!(version.trim(), "linux", "an empty SHOAL_ROOT is none");
}

#[test]
fn a_part_of_a_volume_is_looked_up_inside_it_and_stays_what_it_was() {
    let place = Place::new("subpath");
    let secret = place.host.root().join("secret");
    fs::create_dir(&secret).expect("the scratch folder is writable");
    fs::write(secret.join("file"), "of the host").expect("writable");
    let _ = place.sh("-v vol:/v", "mkdir /v/sub; echo in > /v/sub/file; ln -s / /v/all; ln -s ~ /v/out");
    let part = |name: &str| format!("--mount type=volume,src=vol,dst=/mnt,volume-subpath={name}");
    assert_eq!(place.sh(&part("sub"), "cat /mnt/file"), "in");
    let all = place.sh(&part("all"), "ls /mnt");
    assert!(all.lines().any(|name| name == "sub"), "the volume's own root: {all}");
    place.refused(&format!("run --rm {} BB true", part("absent")), 125, "absent");
    // Another container puts a link in its place between two starts.
    let swap = format!("rm -r /v/sub; ln -s {} /v/sub", secret.display());
    let _ =
        place.ok(&format!("run -d --name box --restart always {} BB sh -c 'cat /mnt/file; sleep 1000'", part("sub")));
    eventually("it has read", PATIENCE, || (place.ok("logs box") == "in").then_some(()));
    let _ = place.ok(&format!("create --name idle {} BB true", part("sub")));
    let _ = place.ok("start idle");
    let _ = place.sh("-v vol:/v", &swap);
    let _ = place.ok("kill box");
    // What the link names is nothing inside the volume.
    place.refused("start box", 1, "sub");
    let logged = place.ok("logs box");
    assert!(!logged.contains("of the host"), "{logged}");
    fs::write(place.host.root().join("mine"), "copied").expect("writable");
    let _ = place.run("cp ~/mine idle:/mnt/mine");
    assert!(!secret.join("mine").exists(), "cp went to the host");
    let _ = place.ok("rm -f -v box idle");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
    assert_eq!(place.sh("-v vol:/v", "ls -d /v/all"), "/v/all", "the volume itself is whole");
}

#[test]
fn input_that_comes_with_the_attachment_arrives_and_its_end_is_its_own() {
    let place = Place::new("early");
    let _ = place.ok("run -d -i --name box BB sh -c 'while read line; do echo got $line; done; echo end'");
    for word in ["one", "two"] {
        // Nobody waits between connecting and writing; the end of this input is not that of the container's.
        let mut client = place
            .cmd("attach box")
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("shoal starts");
        client.stdin.take().expect("piped").write_all(format!("{word}\n").as_bytes()).expect("it reads");
        eventually("it arrives", PATIENCE, || place.ok("logs box").contains(&format!("got {word}")).then_some(()));
        client.kill().expect("a child of ours");
        let _ = client.wait();
    }
    assert_eq!(place.state("box", "Status"), "running");
    // Where it is the first client's alone, it ends with it.
    assert_eq!(place.cmd("run --rm -i BB cat").input("through").ok(), "through");
}

#[test]
fn a_commit_that_is_killed_leaves_its_container_running() {
    let place = Place::new("thaw");
    let _ = place.ok("run -d --name box BB sh -c 'dd if=/dev/zero of=/big bs=1M count=400 2>/dev/null; echo made; while :; do echo tick; sleep 0.1; done'");
    eventually("it is made", Duration::from_secs(60), || place.ok("logs box").contains("made").then_some(()));
    let mut commit = place.cmd("commit box made:1").command().stdout(Stdio::null()).spawn().expect("shoal starts");
    place.await_state("box", "Status", "paused");
    commit.kill().expect("a child of ours");
    let _ = commit.wait();
    place.await_state("box", "Status", "running");
    let before = place.ok("logs box").lines().count();
    eventually("it goes on", PATIENCE, || (place.ok("logs box").lines().count() > before).then_some(()));
    // One that comes to its end thaws by itself, and what a user froze stays frozen.
    let _ = place.ok("commit box made:2");
    assert_eq!(place.state("box", "Status"), "running");
    let _ = place.ok("pause box");
    let _ = place.ok("commit box made:3");
    assert_eq!(place.state("box", "Status"), "paused");
}

#[test]
fn a_damaged_or_oversized_record_takes_nobodys_name() {
    let place = Place::new("damaged");
    let labels = |name: &str| place.file(name, &format!("{name}={}\n", "x".repeat(3_000_000)));
    let _ = (labels("a"), labels("b"));
    place.refused("create --name giant --label-file ~/a --label-file ~/b BB true", 125, "larger than");
    let _ = place.ok("run -d --name giant -p 8080:80 -v /anonymous BB sleep 1000");
    let _ = place.ok("stop -t 0 giant");
    let id = place.ok("ps -aq --no-trunc");
    fs::write(place.host.root().join("data/containers").join(&id).join("record.json"), "{").expect("ours");
    let _ = place.run("rm giant").expect_failure();
    let _ = place.ok("rm -f giant");
    assert!(!place.host.root().join("data/containers").join(&id).exists());
    assert_eq!(place.ok("volume ls -q"), "", "the volume it had made is gone");
    let _ = place.ok("run -d --name giant -p 8080:80 BB sleep 1000");
}

#[test]
fn who_waits_for_a_stop_or_reads_an_export_holds_nobody_up() {
    let place = Place::new("locks");
    let _ = place.ok("run -d --name box BB sh -c 'trap \"echo told\" TERM; echo up; while :; do sleep 0.1; done'");
    let says = |word: &str| {
        eventually(word, PATIENCE, || place.ok("logs box").lines().any(|line| line == word).then_some(()));
    };
    says("up");
    let mut slow = place.cmd("stop -t 100 box").command().stdout(Stdio::null()).spawn().expect("shoal starts");
    says("told");
    let begun = Instant::now();
    let _ = place.ok("rm -f box");
    assert!(begun.elapsed() < PATIENCE, "rm -f took {:?}", begun.elapsed());
    assert!(slow.wait().expect("a child of ours").success(), "it is stopped all the same");
    let _ = place
        .ok("run -d --name box BB sh -c 'dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; echo made; sleep 1000'");
    says("made");
    let mut export = place.cmd("export box").command().stdout(Stdio::piped()).spawn().expect("shoal starts");
    let mut tar = export.stdout.take().expect("piped");
    let mut head = [0; 512];
    std::io::Read::read_exact(&mut tar, &mut head).expect("it writes");
    let begun = Instant::now();
    let _ = place.ok("stop -t 0 box");
    assert!(begun.elapsed() < PATIENCE, "stop took {:?}", begun.elapsed());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut tar, &mut rest).expect("to its end");
    assert!(export.wait().expect("a child of ours").success() && rest.len() > 4 << 20, "{} bytes", rest.len());
}

#[test]
fn filters_are_dockers_expressions_and_know_an_image_by_any_name() {
    let place = Place::new("filters");
    let _ = place.ok("create --name web-1 BB true");
    let _ = place.ok("create --name webs BB true");
    let names = |filter: &str| {
        let mut names: Vec<String> = place
            .ok(&format!("ps -a --filter '{filter}' --format '{{{{.Names}}}}'"))
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        names.join(" ")
    };
    for (filter, found) in [
        ("name=^web-[0-9]+$", "web-1"),
        ("name=web.1", "web-1"),
        ("name=^/webs$", "webs"),
        ("name=web", "web-1 webs"),
        ("name=^eb", ""),
        ("ancestor=localhost/bb", "web-1 webs"),
    ] {
        assert_eq!(names(filter), found, "{filter}");
    }
    place.refused("ps -a --filter 'name=['", 1, "name=[");
    let _ = place.ok("tag BB localhost/other:2");
    assert_eq!(names("ancestor=localhost/other:2"), "web-1 webs");
    let _ = place.ok("commit web-1 localhost/child:1");
    let _ = place.ok("create --name child localhost/child:1 true");
    assert_eq!(names("ancestor=localhost/other:2"), "child web-1 webs", "what was built on it too");
    assert_eq!(names("ancestor=localhost/child:1"), "child");
}

#[test]
fn inspect_has_what_tools_make_containers_anew_from() {
    let place = Place::new("anew");
    let _ = place.ok("create --name box -p 127.0.0.1:8080:80 -p 53/udp -v vol:/v:ro -v ~:/h:rslave --link web:w --health-cmd true BB true");
    assert_eq!(place.ok("inspect -f '{{if .State.Health}}some{{else}}none{{end}}' box"), "none");
    let box_ = place.inspect("box");
    assert_eq!(box_["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
    assert_eq!(box_["HostConfig"]["PortBindings"]["80/tcp"][0]["HostIp"], "127.0.0.1");
    assert_eq!(box_["HostConfig"]["PortBindings"]["53/udp"][0]["HostPort"], "");
    let binds = box_["HostConfig"]["Binds"].to_string();
    assert!(binds.contains("vol:/v:ro") && binds.contains(":/h:rslave"), "{binds}");
    assert_eq!(box_["HostConfig"]["Links"][0], "web:w");
    assert_eq!(box_["Config"]["Healthcheck"]["Test"][1], "true");
    assert!(box_["Mounts"].to_string().contains("\"Propagation\":\"rslave\""));
}

#[test]
fn networks_and_volumes_have_events() {
    let place = Place::new("events");
    let _ = place.ok("network create web");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let _ = place.ok("network connect web box");
    let _ = place.ok("network disconnect web box");
    let _ = place.ok("network rm web");
    let _ = place.ok("volume create data");
    let _ = place.ok("volume rm data");
    let seen = |kind: &str| {
        let all = place.ok("events --since 1h --until 0s --format '{{.Type}} {{.Action}}'");
        let of = all.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')).collect::<Vec<_>>();
        of.join(" ")
    };
    assert_eq!(seen("network"), "create connect disconnect destroy");
    assert_eq!(seen("volume"), "create destroy");
}

#[test]
fn images_attaches_and_execs_have_events() {
    let place = Place::new("more-events");
    let _ = place.ok("tag BB localhost/second:1");
    let _ = place.ok("rmi localhost/second:1");
    let _ = place.ok("save -o ~/saved.tar BB");
    let _ = place.cmd("import - localhost/empty:1").input(vec![0; 1024]).ok();
    let _ = place.ok("rmi localhost/empty:1");
    let list = |flags: &str| {
        place.ok(&format!("events --since 1h --until 0s {flags} --format '{{{{.Action}}}}'")).replace('\n', ", ")
    };
    assert_eq!(list("--filter type=image"), "load, tag, untag, save, import, untag, delete");
    let id = place.ok("images -q --no-trunc BB");
    let tagged =
        place.ok("events --since 1h --until 0s --filter event=tag --format '{{.ID}} {{.Actor.Attributes.name}}'");
    assert_eq!(tagged, format!("{id} localhost/second:1"));
    assert_eq!(list("--filter image=localhost/second:1"), "tag");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let _ = place.run("exec box sh -c 'exit 3'").expect_code(3);
    let execs = "exec_create: sh -c exit 3, exec_start: sh -c exit 3, exec_die";
    assert_eq!(list("--filter container=box"), format!("create, start, {execs}"));
    let code = "events --since 1h --until 0s --filter event=exec_die --format '{{.Actor.Attributes.exitCode}}'";
    assert_eq!(place.ok(code), "3");
    // A terminal has its size before the first look.
    let program = integration::binaries::shoal();
    let line = format!("stty rows 31 cols 97; {} run --rm --name tty -t localhost/bb:1 stty size", program.display());
    let seen = place.host.cmd("script").args(["-qec", &line, "/dev/null"]).ok();
    assert!(seen.contains("31 97"), "{seen:?}");
    let told = list("--filter container=tty");
    assert!(told.starts_with("create, attach, start") && told.ends_with("die, destroy"), "{told}");
    assert!(!place.run("events --filter type=colour").status.success());
}

#[test]
fn labels_and_the_tag_are_written_beside_each_line() {
    let place = Place::new("attrs");
    let _ = place.ok("run --name marked --label colour=blue --log-opt labels=colour --log-opt tag={{.Name}} BB echo x");
    let id = place.ok("inspect -f '{{.Id}}' marked");
    let log = fs::read_to_string(place.host.root().join("data/containers").join(id).join("container-json.log"));
    assert!(log.expect("logged").contains(r#""attrs":{"colour":"blue","tag":"marked"}"#));
}

#[test]
fn what_is_not_offered_is_refused_and_changes_are_checked_like_a_run() {
    let place = Place::new("refused");
    place.refused("run --rm -v ~:/o:O BB true", 125, "not offered");
    place.refused("run --rm -v ~:/o:U BB true", 125, "not offered");
    place.refused("run --rm --log-opt tag={{.Colour}} BB true", 125, "tag");
    let _ = place.ok("create --name box BB true");
    for (change, said) in [("-m 1k", "512k"), ("--cpus 1000", "--cpus"), ("--cpus 1 --cpu-quota 5000", "exclude")] {
        place.refused(&format!("update {change} box"), 1, said);
    }
    let _ = place.ok("start -a box");
}

#[test]
fn variables_are_taken_away_and_home_is_whose_was_asked() {
    let place = Place::new("home");
    let _ = place.ok("create --name box BB true");
    let _ = place.ok("commit --change 'ENV FOO=image' box localhost/env:1");
    assert_eq!(place.ok("run --rm -e FOO localhost/env:1 sh -c 'echo [$FOO]'"), "[]");
    assert_eq!(
        place.cmd("run --rm -e FOO localhost/env:1 sh -c 'echo [$FOO]'").env("FOO", "here").ok().trim(),
        "[here]"
    );
    let _ = place.ok("run -d --name set -e HOME=/data BB sleep 1000");
    assert_eq!(place.ok("exec -u user set sh -c 'echo $HOME'"), "/data");
    assert_eq!(place.ok("exec -u user -e HOME=/x set sh -c 'echo $HOME'"), "/x");
    let _ = place.ok("run -d --name unset BB sleep 1000");
    let home = place.ok("exec -u user unset sh -c 'grep ^user: /etc/passwd | cut -d: -f6; echo $HOME'");
    let (known, given) = home.split_once('\n').expect("two lines");
    assert_eq!(known, given);
}

#[test]
fn a_containers_own_files_are_on_disk_and_not_in_the_hosts_memory() {
    let place = Place::new("files");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let _ = place.ok("exec box sh -c 'echo 192.0.2.7 other >> /etc/hosts'");
    let path = place.ok("inspect -f '{{.HostsPath}}' box");
    assert!(path.starts_with(&*place.host.root().join("data").to_string_lossy()), "{path}");
    assert!(fs::read_to_string(path).expect("there").contains("192.0.2.7"));
    assert!(place.ok("run --rm --network container:box BB cat /etc/hosts").contains("192.0.2.7"));
}
