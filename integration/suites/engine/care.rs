//! What is there already is taken care of: files and modes in a container, its volumes, the caller's terminal and files, the old
//! container under a name that a new one wants.

use crate::case::{PATIENCE, Place};
use integration::{eventually, scratch};
use std::fs;

/// A line for this host's shell; `SHOAL` is the program.
fn shell(place: &Place, script: &str) -> integration::Outcome {
    let program = integration::binaries::shoal();
    let script = script.replace("SHOAL", &program.to_string_lossy()).replace('~', &place.host.root().to_string_lossy());
    place.host.cmd("bash").args(["-o", "pipefail", "-c", &script]).run()
}

#[test]
fn a_tar_changes_no_directory_that_it_does_not_name() {
    let place = Place::new("cp-implied");
    let _ = place.ok(
        "run -d --name box BB sh -c 'mkdir -m 1777 /spool; mkdir -m 700 /home/app; chown 1000 /home/app; sleep 1000'",
    );
    let script = "mkdir -p ~/t/spool ~/t/home/app/new; echo x > ~/t/spool/f; echo y > ~/t/home/app/new/key;
        tar -C ~/t -cf - spool/f home/app/new/key | SHOAL cp - box:/";
    let _ = shell(&place, script).expect_success();
    let asked = "exec box stat -c '%a %u' /spool /home/app /home/app/new";
    assert_eq!(place.ok(asked), "1777 0\n700 1000\n755 0");
    assert_eq!(place.ok("exec box cat /spool/f /home/app/new/key"), "x\ny");
}

#[test]
fn an_exec_never_holds_the_callers_terminal_or_files() {
    let place = Place::new("exec-pipes");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let program = integration::binaries::shoal();
    let line = format!("{} exec box ls -l /proc/self/fd", program.display());
    let seen = place.host.cmd("script").args(["-qec", &line, "/dev/null"]).ok();
    assert_eq!(seen.matches("pipe:[").count(), 2, "{seen:?}");
    let seen = shell(
        &place,
        "echo of the host > ~/in; SHOAL exec -i box sh -c 'readlink /proc/self/fd/0; cat' < ~/in > ~/out; cat ~/out",
    );
    let seen = seen.expect_success().stdout;
    assert!(seen.starts_with("pipe:[") && seen.ends_with("of the host\n"), "{seen:?}");
    // Everything comes out, nobody waits for a child that goes on, and whoever reads no more ends it.
    let script = "SHOAL exec box sh -c 'sleep 1000 & seq 1 100000' > ~/out; tail -n 1 ~/out; SHOAL exec -i box sh -c 'cat; exit 5' < ~/out | md5sum; md5sum < ~/out";
    let sums = shell(&place, script).stdout;
    let lines: Vec<&str> = sums.lines().collect();
    assert!(lines[0] == "100000" && lines[1] == lines[2], "{sums}");
    let _ = shell(&place, "SHOAL exec box sh -c 'while :; do echo y; done' | head -n 1 > ~/one");
    // One that was killed leaves its folder to the next.
    let _ = shell(&place, "timeout -s KILL 0.5 SHOAL exec box sleep 1000");
    let _ = place.ok("exec box true");
    let folder = place.host.root().join("run/containers").join(place.ok("ps -q --no-trunc"));
    let left = fs::read_dir(folder).expect("there").flatten();
    let left: Vec<_> =
        left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("exec-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_old_container_goes_only_for_a_new_one_that_can_be() {
    let place = Place::new("replace");
    let old = place.ok("run -d --name db -v /data BB sleep 1000");
    let volume = place.ok("volume ls -q");
    for wrong in ["--pull never localhost/typo:1", "--network nosuch BB", "--memory 1k BB", "-v /x:/y:nosuch BB"] {
        let _ = place.run(&format!("run -d --replace --name db {wrong} sleep 1000")).expect_failure();
        assert_eq!(place.ok("ps -q --no-trunc"), old, "{wrong}");
    }
    let new = place.ok("run -d --replace --name db BB sleep 1000");
    assert_eq!(place.ok("ps -aq --no-trunc"), new);
    assert_eq!(place.ok("volume ls -q"), volume);
}

#[test]
fn what_was_changed_stays_changed_over_restarts() {
    let place = Place::new("restarts");
    let _ = place.ok("run -d --name box --restart always -m 64m BB sleep 1000");
    let _ = place.ok("update -m 128m --memory-swap 256m box");
    let first = nix::unistd::Pid::from_raw(place.pid("box"));
    nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    eventually("it was started again", PATIENCE, || {
        let again = place.ok("inspect -f '{{.RestartCount}} {{.State.Running}}' box") == "1 true";
        let pid = place.pid("box");
        (again && pid > 0 && pid != first.as_raw()).then_some(())
    });
    assert_eq!(place.knob("box", ("memory", "memory.limit_in_bytes"), "memory.max"), "134217728");
    // What a container has removed from a volume does not come back with the image.
    let _ = place.ok("run --name page BB sh -c 'mkdir /srv; echo x > /srv/page'");
    let _ = place.ok("commit page localhost/page:1");
    let _ = place.ok("run -d --name web -v site:/srv localhost/page:1 sleep 1000");
    assert_eq!(place.ok("exec web ls /srv"), "page");
    let _ = place.ok("exec web rm /srv/page");
    let _ = place.ok("restart -t 0 web");
    assert_eq!(place.ok("exec web ls /srv"), "");
}

#[test]
fn stop_changes_nothing_of_what_does_not_run_and_its_word_is_true() {
    let place = Place::new("stopping");
    let _ = place.ok("create --rm --name made BB true");
    let _ = place.ok("stop made");
    assert_eq!(place.state("made", "Status"), "created");
    assert_eq!(place.ok("events --since 1h --until 0s --filter event=stop"), "");
    // Frozen on its way out it is thawed, and its exit code is its own.
    let slow = "'trap \"sleep 1; exit 7\" TERM; while :; do sleep 0.1; done'";
    let _ = place.ok(&format!("run -d --name slow BB sh -c {slow}"));
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| place.ok("stop -t 60 slow"));
        let mut said = String::new();
        eventually("it is not to be frozen", PATIENCE, || {
            said = place.run("pause slow").stderr;
            (!said.is_empty()).then_some(())
        });
        assert_eq!(stopped.join().expect("it stops"), "slow");
    });
    assert_eq!(place.state("slow", "ExitCode"), "7");
    // Its monitor dies while it is being stopped.
    let id = place.ok("run -d --name deaf BB sh -c 'trap : TERM; while :; do sleep 0.1; done'");
    let process = place.pid("deaf");
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| place.ok("stop -t 100 deaf"));
        let folder = place.host.root().join("run/containers").join(&id);
        let monitor = crate::faults::monitor(&place, &id);
        // The stop is with the monitor once its client has connected.
        eventually("somebody asks", PATIENCE, || {
            let fds = fs::read_dir(format!("/proc/{monitor}/fd")).ok()?;
            let sockets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            (sockets.filter(|link| link.to_string_lossy().starts_with("socket:")).count() > 1).then_some(())
        });
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).expect("ours");
        assert_eq!(stopped.join().expect("it stops"), "deaf");
        assert!(!folder.exists());
    });
    // Where nobody has reaped it yet there is no program behind it.
    assert!(fs::read_link(format!("/proc/{process}/exe")).is_err(), "it runs on");
    let names: Vec<String> =
        ["one", "two", "three"].map(|name| place.ok(&format!("create --name {name} BB true"))).to_vec();
    assert_eq!(place.ok("rm -f three nosuch one two"), "three\none\ntwo");
    assert!(names.iter().all(|id| !place.host.root().join("data/containers").join(id).exists()));
    assert!(scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}

#[test]
fn neither_the_callers_umask_nor_its_open_files_are_the_containers() {
    let place = Place::new("caller");
    let script = "umask 077; SHOAL run --rm -u 1000 -v um:/data -v ~/made/deep:/made localhost/bb:1 sh -c \
        'cat /etc/resolv.conf /etc/hosts /etc/hostname > /dev/null && stat -c %a /data /made'; stat -c %a ~/made";
    assert_eq!(shell(&place, script).expect_success().stdout, "755\n755\n755\n");
    let script = "flock -n ~/lk SHOAL run -d --network none --name box localhost/bb:1 sleep 1000 && flock -n ~/lk true";
    let _ = shell(&place, script).expect_success();
    // A real-time signal has a number and no name.
    let trap = "'trap \"exit 9\" 34; while :; do sleep 0.05; done'";
    let _ = place.ok(&format!("run -d --name rt --init BB sh -c {trap}"));
    eventually("it ends as it wants to", PATIENCE, || {
        let _ = place.run("kill -s RTMIN rt");
        (place.state("rt", "ExitCode") == "9").then_some(())
    });
    assert_eq!(place.run("run --rm --init BB sh -c 'kill -34 $$; sleep 100'").status.code(), Some(162));
    // A command of several lines is one line of a list.
    let command = "a=1\nsleep 1000 # \u{1b}[31m";
    let _ = place.cmd("create --name lines BB sh -c").arg(command).ok();
    let shown = place.ok("ps -a --no-trunc --filter name=lines --format '{{.Command}}'");
    assert_eq!(shown, r#""sh -c a=1\nsleep 1000 # \x1b[31m""#);
    place.refused("run --health-cmd true --health-interval 1us BB true", 125, "1ms");
}

#[test]
fn an_exec_keeps_its_terminal_whatever_becomes_of_its_client() {
    let place = Place::new("exec-held");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let _ = place.ok("exec -dt box sh -c 'sleep 0.3; echo said; touch /tmp/background'");
    // Its client is killed, as a closed session does.
    let program = integration::binaries::shoal();
    let inside = "touch /tmp/begun; sleep 1; echo said; touch /tmp/alone; sleep 1000";
    let line = format!("{} exec -it box sh -c '{inside}'", program.display());
    let client = place.host.cmd("script").args(["-qec", &line, "/dev/null"]).command().spawn();
    let mut client = client.expect("script is installed");
    let there = |name: &str| place.run(&format!("exec box test -e /tmp/{name}")).status.success();
    eventually("it has begun", PATIENCE, || there("begun").then_some(()));
    client.kill().expect("it runs");
    let _ = client.wait();
    for name in ["background", "alone"] {
        eventually(&format!("{name} goes on"), PATIENCE, || there(name).then_some(()));
    }
    let _ = place.ok("rm -f box");
}

#[test]
fn a_start_that_fails_forgets_nothing_and_start_attaches_to_what_runs() {
    let place = Place::new("failed-start");
    let folder = place.host.root().join("source");
    fs::create_dir(&folder).expect("ours");
    let _ = place
        .ok("run -d --name box --restart always --mount type=bind,src=~/source,dst=/s BB sh -c 'echo up; sleep 1000'");
    let attached =
        place.cmd("start -a box").command().stdout(std::process::Stdio::piped()).spawn().expect("shoal starts");
    let asked = "events --since 1h --until 0s --filter event=attach --format '{{.Action}}'";
    eventually("it is attached", PATIENCE, || (!place.ok(asked).is_empty()).then_some(()));
    let _ = place.ok("kill box");
    assert!(attached.wait_with_output().expect("it ends").status.code() == Some(137), "as the container");
    let started = place.state("box", "StartedAt");
    fs::remove_dir(&folder).expect("ours");
    let refused = place.run("start box").expect_failure();
    assert!(refused.stderr.contains("does not exist"), "{}", refused.stderr);
    assert_eq!((place.state("box", "Status"), place.state("box", "StartedAt")), ("exited".to_owned(), started));
    fs::create_dir(&folder).expect("ours");
    let _ = place.ok("boot");
    assert_eq!(place.state("box", "Status"), "running");
    // A time without a zone is the caller's.
    let since = place.host.cmd("date").args(["-d", "-1 min", "+%Y-%m-%dT%H:%M:%S"]).env("TZ", "Asia/Tokyo").ok();
    let line = format!("logs --since {} box", since.trim());
    eventually("it is told", PATIENCE, || (place.cmd(&line).env("TZ", "Asia/Tokyo").ok().contains("up")).then_some(()));
    place.refused("run --rm --network container:box -p 80:80 BB true", 125, "-p");
    let _ = place.ok("run --rm=true --privileged=false --network none BB true");
}
