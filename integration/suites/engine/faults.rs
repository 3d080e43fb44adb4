//! Faults: clients and monitors that are killed, many commands at once, commands against each other.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// The monitor of a container: the process whose command line names its run folder.
fn monitor(place: &Place, id: &str) -> i32 {
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
fn twenty_runs_at_once_and_twenty_removals() {
    let place = Place::new("parallel");
    let all = |line: &str| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..20)
                .map(|n| {
                    scope.spawn({
                        let line = line.replace('N', &n.to_string());
                        let place = &place;
                        move || place.ok(&line)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("it succeeds")).collect::<Vec<_>>()
        })
    };
    let ids = all("run -d --name boxN BB sleep 1000");
    assert_eq!(place.ok("ps -q").lines().count(), 20);
    let mut addresses: Vec<String> =
        ids.iter().map(|id| place.ok(&format!("inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {id}"))).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20, "{addresses:?}");
    let _ = all("rm -f boxN");
    assert_eq!(place.ok("ps -aq"), "");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
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
