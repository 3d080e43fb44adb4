//! Faults: clients and monitors that are killed, many commands at once, commands against each other.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

/// The monitor of a container: the process whose command line names its run folder.
pub(crate) fn monitor(place: &Place, id: &str) -> i32 {
    let run = place.host.root().join("run/containers").join(id).to_string_lossy().into_owned();
    let pids = fs::read_dir("/proc").expect("proc is mounted").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.contains("shoal-monitor") && line.contains(&run)
        })
        .expect("a running container has a monitor")
}

#[test]
fn a_killed_client_leaves_its_container_running_and_logged() {
    let place = Place::new("client");
    let mut client = place
        .cmd("run --name box BB sh -c 'while :; do echo tick; sleep 0.05; done'")
        .command()
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("shoal starts");
    eventually("it talks", PATIENCE, || place.run("logs box").stdout.contains("tick").then_some(()));
    client.kill().expect("a child of ours");
    let _ = client.wait();
    let before = place.ok("logs box").lines().count();
    eventually("it goes on", PATIENCE, || (place.ok("logs box").lines().count() > before + 3).then_some(()));
    assert_eq!(place.state("box", "Status"), "running");
}

#[test]
fn a_killed_monitor_is_seen_and_cleaned_up_after() {
    let place = Place::new("monitor");
    let id = place.ok("run -d --name box -p 8080:80 BB sleep 1000");
    let process = place.pid("box");
    kill(Pid::from_raw(monitor(&place, &id)), Signal::SIGKILL).expect("a process of ours");
    eventually("it is told", PATIENCE, || place.state("box", "Error").contains("monitor was killed").then_some(()));
    let _ = place.ok("restart -t 0 box");
    assert_eq!(place.state("box", "Status"), "running");
    eventually("the former process is gone", PATIENCE, || {
        (!fs::exists(format!("/proc/{process}")).unwrap_or(true)).then_some(())
    });
    kill(Pid::from_raw(monitor(&place, &id)), Signal::SIGKILL).expect("a process of ours");
    let _ = place.ok("rm -f box");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
    assert!(!place.host.cmd("ip").args(["-o", "link"]).ok().contains("veth"));
    let _ = place.ok("run -d --name box -p 8080:80 BB sleep 1000");
}

#[test]
fn a_stopped_monitor_keeps_nobody_waiting() {
    let place = Place::new("sigstop");
    for (verb, after) in [("rm -f box", None), ("stop -t 0 box", Some("exited"))] {
        let id = place.ok("run -d --name box -p 8080:80 BB sleep 1000");
        let process = place.pid("box");
        kill(Pid::from_raw(monitor(&place, &id)), Signal::SIGSTOP).expect("a process of ours");
        let began = std::time::Instant::now();
        let _ = place.ok(verb);
        assert!(began.elapsed() < PATIENCE, "{verb} took {:?}", began.elapsed());
        // Whoever adopts it takes it in when it likes.
        let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{verb}: its process has ended: {state}");
        match after {
            Some(status) => assert_eq!(place.state("box", "Status"), status),
            None => assert_eq!(place.ok("ps -aq"), ""),
        }
    }
    let _ = place.ok("start box");
    assert_eq!(place.state("box", "Status"), "running");
}

/// A count that a soak sets higher than CI.
fn count(variable: &str, usual: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn many_runs_at_once_and_many_removals() {
    let place = Place::new("parallel");
    let many = count("SHOAL_AT_ONCE", 20);
    let all = |line: &str| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..many)
                .map(|n| {
                    scope.spawn({
                        let line = line.replace('N', &n.to_string());
                        let place = &place;
                        move || place.cmd(&line).deadline(Duration::from_secs(1200)).ok().trim_end().to_owned()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it succeeds")).collect::<Vec<_>>()
        })
    };
    let begun = std::time::Instant::now();
    let ids = all("run -d --name boxN BB sleep 1000");
    println!("{many} runs: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(place.ok("ps -q").lines().count(), many);
    let addresses = place.ok(&format!("inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {}", ids.join(" ")));
    let addresses: std::collections::BTreeSet<&str> = addresses.lines().collect();
    assert_eq!(addresses.len(), many, "{addresses:?}");
    let begun = std::time::Instant::now();
    let _ = all("rm -f boxN");
    println!("{many} removals: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(place.ok("ps -aq"), "");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
    assert!(!place.host.cmd("ip").args(["-o", "link"]).ok().contains("veth"));
}

#[test]
fn a_flood_of_output_is_bounded_by_rotation_and_slows_no_other() {
    let place = Place::new("flood");
    let megabytes = count("SHOAL_LOG_MB", 100);
    let _ = place.ok("run -d --name other BB sh -c 'while :; do echo tick; sleep 0.05; done'");
    let line = format!(
        "run -d --name flood --log-opt max-size=5m --log-opt max-file=2 BB sh -c 'yes 0123456789012345678901234567890123456789 | head -c {megabytes}000000; echo; echo over'"
    );
    let id = place.ok(&line);
    let folder = place.host.root().join("data/containers").join(&id);
    let bytes = || -> u64 {
        let files = fs::read_dir(&folder).expect("there").flatten();
        let logs = files.filter(|entry| entry.file_name().to_string_lossy().contains("json.log"));
        logs.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    };
    let mut ticks = place.ok("logs other").lines().count();
    let mut most = 0;
    eventually("it is over", Duration::from_secs(600), || {
        most = most.max(bytes());
        let begun = std::time::Instant::now();
        eventually("the other goes on", PATIENCE, || (place.ok("logs other").lines().count() > ticks).then_some(()));
        assert!(begun.elapsed() < PATIENCE);
        ticks = place.ok("logs other").lines().count();
        (place.state("flood", "Status") == "exited").then_some(())
    });
    assert!(most <= 11 << 20, "{most} bytes of log");
    assert_eq!(place.ok("logs --tail 1 flood"), "over");
}

/// Changes what is written down of a container's state, as a clock or a boot that changed would leave it.
fn rewrite(place: &Place, id: &str, change: impl Fn(&mut serde_json::Value)) {
    let path = place.host.root().join("data/containers").join(id).join("state.json");
    let mut state = serde_json::from_slice(&fs::read(&path).expect("there")).expect("JSON");
    change(&mut state);
    let half = path.with_extension("half");
    fs::write(&half, state.to_string()).expect("ours");
    fs::rename(&half, &path).expect("ours");
}

#[test]
fn a_clock_that_was_set_confuses_nobody() {
    let place = Place::new("clock");
    let id = place.ok("run -d --name box --restart always BB sh -c 'sleep 5; exit 3'");
    let year = 365 * 86_400 * 1_000_000_000_u64;
    // It was started, by the clock of then, a year from now; and, by another, in 1970.
    for started in [|now: u64, year: u64| now + year, |_: u64, _: u64| 1_000_000_000] {
        rewrite(&place, &id, |state| {
            state["started"] = started(state["started"].as_u64().expect("a time"), year).into()
        });
        let status = place.ok("ps -a --filter name=box --format '{{.Status}}'");
        assert!(status.starts_with("Up ") || status.starts_with("Restarting"), "{status}");
    }
    // What counts time counts it by another clock: it is started again and again, and stops when it shall.
    eventually("it is started again", PATIENCE, || (place.inspect("box")["RestartCount"] != 0).then_some(()));
    let begun = std::time::Instant::now();
    let _ = place.ok("stop -t 2 box");
    assert!(begun.elapsed() < PATIENCE);
    assert!(place.ok("logs --since 1h box").is_empty());
}

#[test]
fn a_host_that_was_restarted_is_recognised_and_boot_starts_what_should_run() {
    let place = Place::new("reboot");
    let run = |name: &str, more: &str| place.ok(&format!("run -d --name {name} {more} BB sleep 1000"));
    let ids = [
        run("always", "--restart always -p 8080:80"),
        run("stopped", "--restart unless-stopped"),
        run("kept", "--restart unless-stopped"),
        run("never", "-v data:/data"),
    ];
    let _ = place.ok("stop -t 0 stopped");
    // The power is cut: every process, everything below run, the links and the packet filter are gone; the disk is as it was.
    for id in &ids {
        let state = place.inspect(id);
        if state["State"]["Running"] == true {
            kill(Pid::from_raw(monitor(&place, id)), Signal::SIGKILL).expect("a process of ours");
            let pid = state["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a number");
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process of ours");
        }
        rewrite(&place, id, |state| state["boot_id"] = "another".into());
    }
    for mount in integration::scratch::mounts_below(&place.host.root().join("run")).iter().rev() {
        nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH).expect("ours");
    }
    fs::remove_dir_all(place.host.root().join("run")).expect("ours");
    let bridge = place.ok("network inspect -f '{{.Bridge}}' bridge");
    let _ = place.host.cmd("ip").args(["link", "del", &bridge]).ok();
    let _ = place.host.cmd("nft").args(["delete", "table", "inet", "shoal"]).ok();
    for name in ["always", "kept", "never"] {
        assert_eq!(place.state(name, "Status"), "exited", "{name}");
        assert_eq!(place.state(name, "ExitCode"), "255", "{name}");
    }
    assert!(place.state("always", "Error").contains("restarted"), "{}", place.state("always", "Error"));
    let _ = place.ok("boot");
    for (name, status) in [("always", "running"), ("kept", "running"), ("stopped", "exited"), ("never", "exited")] {
        assert_eq!(place.state(name, "Status"), status, "{name}");
    }
    assert_eq!(place.ok("port always"), "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    let _ = place.ok("start never");
    let _ = place.ok("rm -f always kept stopped never");
    assert!(!place.host.cmd("ip").args(["-o", "link"]).ok().contains("veth"));
}

#[test]
fn one_name_has_one_winner() {
    let place = Place::new("race");
    let won = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| place.run("run -d --name one BB sleep 1000").status.success())).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    assert_eq!(place.ok("ps -aq").lines().count(), 1);
}

/// A `shoal-monitor` that kills the command that starts it, waits, and becomes the real one.
fn orphaning(place: &Place) -> std::path::PathBuf {
    let real = integration::binaries::shoal().with_file_name("shoal-monitor");
    let script = place.file(
        "monitor.sh",
        &format!(
            "#!/bin/sh\n[ \"$1\" = resolver ] && exec {0} \"$@\"\nkill -9 $PPID; sleep 0.3; exec {0} \"$@\"\n",
            real.display()
        ),
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    script
}

#[test]
fn a_launcher_killed_right_after_the_monitors_birth_leaves_a_container_that_every_verb_sees() {
    let place = Place::new("orphan");
    let script = orphaning(&place);
    let launch = || {
        let _ = place
            .cmd("run -d --name box -p 8080:80 BB sleep 1000")
            .env("SHOAL_MONITOR", &script)
            .run()
            .expect_failure();
    };
    launch();
    let _ = place.ok("rm -f box");
    assert_eq!(place.ok("ps -aq"), "");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
    assert!(!place.host.cmd("ip").args(["-o", "link"]).ok().contains("veth"));
    eventually("no process of it is left", PATIENCE, || {
        let pids = integration::Cmd::new("ip").args(["netns", "pids", &place.host.netns]).ok();
        pids.split_whitespace()
            .all(|pid| !fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("monitor"))
            .then_some(())
    });
    // Left alone it starts, and is a container like any other.
    launch();
    place.await_state("box", "Status", "running");
    let _ = place.ok("stop -t 0 box");
    assert_eq!(place.state("box", "Status"), "exited");
    let _ = place.ok("rm box");
}

#[test]
fn what_could_not_be_disconnected_stays_on_record_and_goes_with_the_next_rm() {
    let place = Place::new("leak");
    let id = place.ok("run -d --name box -p 8080:80 BB sleep 1000");
    let network = place.ok("network inspect -f '{{.Id}}' bridge");
    let run = place.host.root().join("run/networks").join(&network);
    let member = run.join("members").join(format!("{id}.json"));
    // A directory cannot be removed as a file.
    fs::remove_file(&member).expect("enrolled");
    fs::create_dir(&member).expect("ours");
    let _ = place.run("rm -f box").expect_code(1);
    assert!(place.ok("ps -a").contains("Removal"), "it is still there");
    assert!(place.host.root().join("data/containers").join(&id).join("network.json").exists());
    fs::remove_dir(&member).expect("empty");
    let _ = place.ok("rm box");
    assert_eq!(fs::read_dir(run.join("leases")).expect("there").count(), 0);
    let _ = place.ok("run -d --name box -p 8080:80 BB sleep 1000");
}

#[test]
fn a_stop_that_meets_the_natural_end_keeps_its_exit_code() {
    let place = Place::new("meet");
    for round in 0..20 {
        let _ = place.ok(&format!("run -d --name box{round} BB sh -c 'sleep 0.{:02}; exit 3'", round * 3 % 40));
        let _ = place.ok(&format!("stop -t 5 box{round}"));
        assert_eq!(place.state(&format!("box{round}"), "ExitCode"), "3", "round {round}");
    }
}

#[test]
fn a_restart_keeps_a_container_that_is_removed_at_its_end_and_obeys_its_timeout() {
    let place = Place::new("again");
    let id = place.ok("run -d --rm --stop-timeout 100 --name box BB sh -c 'trap : TERM; while :; do sleep 0.1; done'");
    let before = std::time::Instant::now();
    let _ = place.ok("restart -t 1 box");
    assert!(before.elapsed() < std::time::Duration::from_secs(60), "{:?}", before.elapsed());
    assert_eq!(place.ok("ps -q --no-trunc"), id);
    let _ = place.ok("stop -t 0 box");
    assert_eq!(place.ok("ps -aq"), "");
}

#[test]
fn folders_that_killed_commands_left_pin_nothing_and_are_swept() {
    let place = Place::new("sweep");
    let _ = place.ok("volume create data");
    let half = place.host.root().join("data/containers").join("f".repeat(64));
    fs::create_dir_all(&half).expect("ours");
    let users = place.host.root().join("data/volumes/data/users");
    fs::create_dir_all(&users).expect("ours");
    fs::write(users.join("f".repeat(64)), "").expect("ours");
    let _ = place.ok("volume rm data");
    let _ = place.ok("container prune -f");
    assert!(!half.exists());
}

/// Makes directories below each other, further down than a path can name.
fn dig(folder: &std::path::Path) {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut at: std::os::fd::OwnedFd = fs::File::open(folder).expect("there").into();
    for _ in 0..2_000 {
        mkdirat(&at, "0123456789", Mode::S_IRWXU).expect("made");
        at = openat(&at, "0123456789", flags, Mode::empty()).expect("opened");
    }
}

#[test]
fn trees_deeper_than_paths_are_removed_with_their_container() {
    let place = Place::new("deep");
    let _ = place.ok("run --name box -v vol:/vol BB mkdir /made");
    let id = place.ok("inspect -f '{{.Id}}' box");
    dig(&place.host.root().join("data/containers").join(id).join("rootfs/upper/made"));
    dig(&place.host.root().join("data/volumes/vol/_data"));
    let _ = place.ok("rm box");
    let _ = place.ok("volume rm vol");
    assert_eq!(fs::read_dir(place.host.root().join("data/volumes")).expect("there").count(), 0);
}

#[test]
fn a_removed_network_leaves_no_element_also_when_its_bridge_went_first() {
    let place = Place::new("elements");
    let _ = place.ok("network create extra");
    let _ = place.ok("run --rm --network extra BB true");
    let bridge = place.ok("network inspect -f '{{.Bridge}}' extra");
    let elements = || place.host.cmd("nft").args(["list", "table", "inet", "shoal"]).ok();
    assert!(elements().contains(&bridge));
    let _ = place.host.cmd("ip").args(["link", "del", &bridge]).ok();
    let _ = place.ok("network rm extra");
    assert!(!elements().contains(&bridge), "{}", elements());
}
