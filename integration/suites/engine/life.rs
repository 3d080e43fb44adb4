//! A container's life: detached runs, logs, exec, stop, kill, pause, restart policies, names, removal.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use std::time::{Duration, Instant};

#[test]
fn a_detached_container_is_logged_and_its_log_can_be_cut_and_followed() {
    let place = Place::new("logs");
    let id = place.ok(
        "run -d --name talk BB sh -c 'echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 0.5; echo four'",
    );
    assert_eq!(id.len(), 64);
    let followed = place.run("logs -f talk").expect_success();
    assert_eq!((followed.stdout.as_str(), followed.stderr.as_str()), ("one\nthree\nfour\n", "two\n"));
    assert_eq!(place.ok("logs --tail 1 talk"), "four");
    assert_eq!(place.ok("logs -n 2 talk"), "three\nfour");
    assert_eq!(place.ok("logs --tail 0 talk"), "");
    let stamped = place.ok("logs -t talk");
    assert!(stamped.lines().all(|line| line.split(' ').next().is_some_and(|word| word.ends_with('Z'))), "{stamped}");
    assert_eq!(place.ok("logs --since 1h talk"), "one\nthree\nfour");
    assert_eq!(place.ok("logs --until 2020-01-01T00:00:00Z talk"), "");
    place.refused("logs nobody", 1, "nobody");
    let _ = place.ok("run --name silent --log-driver none BB echo x");
    let _ = place.run("logs silent").expect_failure();
}

#[test]
fn a_log_is_bounded_by_rotation() {
    let place = Place::new("rotate");
    let _ = place.ok("run --name big --log-opt max-size=20k --log-opt max-file=2 BB sh -c 'i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done'");
    assert!(place.ok("logs --tail 1 big").ends_with("4999"));
    let id = place.ok("ps -aq --no-trunc");
    let bytes: u64 = std::fs::read_dir(place.host.root().join("data/containers").join(id))
        .expect("the container's folder")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("log"))
        .map(|entry| entry.metadata().expect("a file").len())
        .sum();
    assert!(bytes < 60_000, "{bytes} bytes of log");
}

#[test]
fn exec_runs_beside_with_its_own_variables_user_folder_and_terminal() {
    let place = Place::new("exec");
    let _ = place.ok("run -d --name box -e ONE=1 BB sleep 1000");
    assert_eq!(place.ok("exec -e TWO=2 box sh -c 'echo $ONE $TWO'"), "1 2");
    assert_eq!(place.ok("exec -u user box id -un"), "user");
    assert_eq!(place.ok("exec -w /tmp box pwd"), "/tmp");
    assert_eq!(place.ok("exec -t box tty"), "/dev/pts/0");
    assert_eq!(place.cmd("exec -i box cat").input("through").ok(), "through");
    let _ = place.run("exec box sh -c 'exit 42'").expect_code(42);
    let _ = place.run("exec box no-such").expect_code(127);
    let _ = place.run("exec box /etc/passwd").expect_code(126);
    let _ = place.ok("exec -d box sh -c 'echo later > /tmp/later'");
    eventually("the detached exec wrote", PATIENCE, || {
        place.run("exec box cat /tmp/later").status.success().then_some(())
    });
    let privileged = place.ok("exec --privileged box grep CapEff /proc/self/status");
    assert!(!privileged.ends_with("00000000a80425fb"), "{privileged}");
    let _ = place.ok("stop -t 0 box");
    place.refused("exec box true", 1, "not running");
}

#[test]
fn stop_kill_and_their_signals() {
    let place = Place::new("stop");
    let trap =
        |signal: &str| format!("'trap \"echo got {signal}; exit 5\" {signal}; echo up; while :; do sleep 0.05; done'");
    let up = |name: &str| {
        eventually("it is up", PATIENCE, || place.ok(&format!("logs {name}")).contains("up").then_some(()))
    };
    let _ = place.ok(&format!("run -d --name term BB sh -c {}", trap("TERM")));
    up("term");
    assert_eq!(place.ok("stop term"), "term");
    assert!(place.ok("logs term").contains("got TERM"));
    assert_eq!(place.state("term", "ExitCode"), "5");
    assert_eq!(place.state("term", "Status"), "exited");
    let _ = place.ok(&format!("run -d --name int --stop-signal INT BB sh -c {}", trap("INT")));
    up("int");
    let _ = place.ok("stop int");
    assert!(place.ok("logs int").contains("got INT"));
    let _ = place.ok("run -d --name deaf BB sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    let began = Instant::now();
    let _ = place.ok("stop -t 1 deaf");
    assert!(began.elapsed() >= Duration::from_millis(900), "SIGKILL only after a second");
    assert_eq!(place.state("deaf", "ExitCode"), "137");
    let _ = place.ok(&format!("run -d --name usr BB sh -c {}", trap("USR1")));
    up("usr");
    let _ = place.ok("kill -s USR1 usr");
    assert_eq!(place.ok("wait usr"), "5");
    place.refused("kill usr", 1, "not running");
    let _ = place.ok("run -d --name kk BB sleep 100");
    let _ = place.ok("kill kk");
    assert_eq!(place.ok("wait kk"), "137");
    place.refused("kill -s NOSUCH kk", 1, "NOSUCH");
}

#[test]
fn start_restart_and_attach() {
    let place = Place::new("start");
    let _ = place.ok("create --name job BB sh -c 'echo run >> /tmp/count; wc -l < /tmp/count'");
    assert_eq!(place.state("job", "Status"), "created");
    assert_eq!(place.ok("start -a job"), "1");
    assert_eq!(place.ok("start -a job"), "2", "what was written stays");
    let _ = place.ok("run -d --name box BB sleep 1000");
    let before = place.pid("box");
    assert_eq!(place.ok("restart -t 0 box"), "box");
    assert_ne!(place.pid("box"), before);
    assert_eq!(place.ok("start box"), "box", "already running is no error");
    let _ = place.ok("create -i --name cat BB cat");
    assert_eq!(place.cmd("start -ai cat").input("hello").ok(), "hello");
}

#[test]
fn pause_freezes_and_unpause_goes_on() {
    let place = Place::new("pause");
    let _ = place.ok("run -d --name tick BB sh -c 'while :; do echo x >> /tmp/ticks; sleep 0.02; done'");
    let _ = place.ok("pause tick");
    assert_eq!(place.state("tick", "Status"), "paused");
    assert!(place.ok("ps").contains("(Paused)"));
    let stat = format!("/proc/{}/stat", place.pid("tick"));
    integration::unchanged("a frozen process", Duration::from_millis(200), || {
        std::fs::read_to_string(&stat).expect("running")
    });
    let _ = place.run("exec tick true").expect_failure();
    let _ = place.run("pause tick").expect_failure();
    let _ = place.ok("unpause tick");
    let _ = place.ok("exec tick true");
    let _ = place.run("unpause tick").expect_failure();
    let _ = place.ok("pause tick");
    let _ = place.ok("rm -f tick");
}

#[test]
fn restart_policies_count_back_off_and_stop_by_hand() {
    let place = Place::new("restart");
    let _ = place.ok("run -d --name fail --restart on-failure:2 BB sh -c 'echo try; exit 3'");
    place.await_state("fail", "Status", "exited");
    assert_eq!(place.ok("logs fail").lines().count(), 3);
    assert_eq!(place.ok("inspect -f '{{.RestartCount}}' fail"), "2");
    let _ = place.ok("run -d --name fine --restart on-failure BB true");
    place.await_state("fine", "Status", "exited");
    let _ = place.ok("run -d --name always --restart always BB sh -c 'echo again; sleep 0.1'");
    eventually("it came back", PATIENCE, || (place.ok("logs always").lines().count() >= 3).then_some(()));
    let _ = place.ok("stop -t 0 always");
    assert_eq!(place.state("always", "Status"), "exited", "a stop by hand holds");
    place.refused("run --rm --restart always BB true", 125, "--rm");
    place.refused("run --restart sometimes BB true", 125, "sometimes");
    let _ = place.ok("run -d --name change BB sleep 1000");
    let _ = place.ok("update --restart always change");
    let before = place.pid("change");
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL);
    eventually("it came back", PATIENCE, || {
        (place.state("change", "Status") == "running" && place.pid("change") != before).then_some(())
    });
}

#[test]
fn names_are_unique_can_be_changed_and_ids_may_be_short() {
    let place = Place::new("name");
    let id = place.ok("run -d --name web BB sleep 1000");
    let taken = place.refused("run -d --name web BB true", 125, "web");
    assert!(taken.stderr.contains(&id[..12]), "the holder is named: {}", taken.stderr);
    place.refused("run -d --name 'bad name' BB true", 125, "bad name");
    assert_eq!(place.ok(&format!("inspect -f '{{{{.Name}}}}' {}", &id[..6])), "/web");
    let _ = place.ok("rename web front");
    let _ = place.ok("exec front true");
    place.refused("exec web true", 1, "web");
    let _ = place.ok("run -d --name web BB sleep 100");
    place.refused("rename web front", 1, "front");
    let replaced = place.ok("run -d --replace --name web BB sleep 100");
    assert_eq!(place.ok("ps -q --no-trunc --filter name=^web$"), replaced);
    place.refused("exec frnt true", 1, "front");
}

#[test]
fn rm_needs_force_for_what_runs_and_leaves_nothing() {
    let place = Place::new("rm");
    let id = place.ok("run -d --name box BB sleep 1000");
    place.refused("rm box", 1, "running");
    let _ = place.ok("rm -f box");
    for folder in ["data/containers", "run/containers", "run/runtime"] {
        assert!(!place.host.root().join(folder).join(&id).exists(), "{folder} stays");
    }
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
    place.refused("rm box", 1, "box");
    let _ = place.ok("rm -f box");
    let _ = place.ok("run --name aa BB true");
    let _ = place.ok("run -d --name bb BB sleep 1000");
    let pruned = place.ok("container prune -f");
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(place.ok("ps -a --format '{{.Names}}'"), "bb");
}

#[test]
fn cidfile_and_timeout_and_wait() {
    let place = Place::new("cid");
    let id = place.ok("run -d --cidfile ~/cid BB sh -c 'exit 3'");
    assert_eq!(std::fs::read_to_string(place.host.root().join("cid")).expect("written"), id);
    place.refused("run -d --cidfile ~/cid BB true", 125, "cid");
    assert_eq!(place.ok(&format!("wait {id}")), "3");
    let _ = place.ok("run -d --name slow --timeout 1 BB sleep 1000");
    place.await_state("slow", "Status", "exited");
}

#[test]
fn health_is_probed_and_told() {
    let place = Place::new("health");
    let _ = place.ok(
        "run -d --name sick --health-cmd 'test -e /tmp/ok' --health-interval 100ms --health-retries 2 BB sleep 1000",
    );
    assert!(place.ok("inspect -f '{{len .State.Health.Log}}' sick").parse::<u32>().is_ok());
    place.await_state("sick", "Health.Status", "unhealthy");
    assert!(place.ok("ps").contains("(unhealthy)"));
    let _ = place.run("healthcheck run sick").expect_code(1);
    let _ = place.ok("exec sick touch /tmp/ok");
    place.await_state("sick", "Health.Status", "healthy");
    assert_eq!(place.ok("ps -q --filter health=healthy").lines().count(), 1);
    let _ = place.ok("healthcheck run sick");
}

#[test]
fn signals_of_an_attached_client_reach_the_container() {
    let place = Place::new("proxy");
    let mut client = place
        .cmd("run --name box BB sh -c 'trap \"echo hup; exit 4\" HUP; echo up; while :; do sleep 0.05; done'")
        .command()
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("shoal starts");
    eventually("it is up", PATIENCE, || place.run("logs box").stdout.contains("up").then_some(()));
    let pid = i32::try_from(client.id()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP).expect("a child of ours");
    assert_eq!(client.wait().expect("a child of ours").code(), Some(4));
}
