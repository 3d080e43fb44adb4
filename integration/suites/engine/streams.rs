//! What goes into a container and what comes out of it arrives whole, whoever reads slowly, dies or goes away; and whoever goes
//! leaves nothing behind.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use std::fs;
use std::io::Read;
use std::process::Stdio;

/// A pipeline of this host's shell; `SHOAL` is the program.
fn pipeline(place: &Place, script: &str) -> integration::Outcome {
    let program = integration::binaries::shoal();
    let script = script.replace("SHOAL", &program.to_string_lossy());
    place.host.cmd("bash").args(["-o", "pipefail", "-c", &script]).run()
}

#[test]
fn every_pair_of_bytes_goes_in_and_the_last_byte_too() {
    let place = Place::new("binary");
    let mut bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
    // The beginning of the detach keys, and then the end of input.
    bytes.push(0x10);
    let file = place.host.root().join("bytes");
    fs::write(&file, &bytes).expect("the scratch folder is writable");
    let want = integration::Cmd::new("md5sum").arg(&file).ok();
    let want = want.split(' ').next().expect("a sum");
    assert!(place.cmd("run --rm -i BB md5sum").input(bytes.clone()).ok().starts_with(want));
    let _ = place.ok("create -i --name box BB md5sum");
    assert!(place.cmd("start -ai box").input(bytes).ok().starts_with(want));
}

#[test]
fn more_comes_out_than_goes_in_and_neither_side_waits_for_the_other() {
    let place = Place::new("both");
    let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let said = pipeline(&place, "head -c 3000000 /dev/urandom | SHOAL run --rm -i localhost/bb:1 od -v -c | wc -l");
    // Sixteen bytes a line, and the length at the end.
    assert_eq!(said.expect_success().stdout.trim(), "187501");
    assert_eq!(place.cmd("run --rm -i BB wc -c").input(bytes).ok().trim(), "4000000");
}

#[test]
fn a_reader_that_comes_late_gets_everything_and_nothing_is_left() {
    let place = Place::new("late");
    let said = pipeline(
        &place,
        "SHOAL run --rm --name box -p 18099:80 localhost/bb:1 sh -c 'head -c 400000 /dev/zero; exit 3' | (sleep 4; wc -c)",
    );
    assert_eq!((said.status.code(), said.stdout.trim()), (Some(3), "400000"), "{}", said.stderr);
    assert_eq!(place.ok("ps -aq"), "");
    // While its last words wait for a reader, it has ended for everybody else.
    let mut slow = place.cmd("run --name slow -p 18099:80 BB head -c 1000000 /dev/zero").command();
    let mut slow = slow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    place.await_state("slow", "Running", "true");
    let mut out = slow.stdout.take().expect("piped");
    let mut part = vec![0; 600_000];
    out.read_exact(&mut part).expect("it is sent");
    place.await_state("slow", "Status", "exited");
    let _ = place.ok("start slow");
    let mut rest = Vec::new();
    let _ = out.read_to_end(&mut rest).expect("it is sent");
    assert_eq!(rest.len(), 400_000);
    assert!(slow.wait().expect("a child").success());
    let _ = place.ok("rm -f slow");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}

#[test]
fn a_client_that_dies_before_it_has_cleaned_up_leaves_it_to_the_monitor() {
    use nix::sys::signal::{Signal, kill};
    let place = Place::new("heir");
    let mut client = place.cmd("run --rm --name box -p 18099:80 BB cat /dev/stdin").command();
    let mut client =
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let _ = client.wait().expect("a child");
    assert_eq!(place.ok("ps -aq"), "", "an ordinary end");
    let mut client = place.cmd("run --rm --name box -p 18099:80 BB sleep 1000").command();
    let mut client =
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    place.await_state("box", "Running", "true");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).expect("a process number"));
    kill(pid, Signal::SIGSTOP).expect("a child");
    // The client does not hear of the end, which it has promised to follow.
    let _ = place.ok("kill box");
    place.await_state("box", "Status", "exited");
    kill(pid, Signal::SIGKILL).expect("a child");
    let _ = client.wait().expect("a child");
    eventually("the monitor has removed it", PATIENCE, || place.ok("ps -aq").is_empty().then_some(()));
    let _ = place.ok("run --rm -p 18099:80 BB true");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}

#[test]
fn a_reader_that_has_seen_enough_stops_nothing() {
    let place = Place::new("enough");
    for name in ["one", "two", "three"] {
        let _ = place.ok(&format!("run -d --name {name} BB sleep 1000"));
    }
    for verb in ["ps -a", "inspect one", "network ls", "info", "images", "top one", "events --since 1h"] {
        let said = pipeline(&place, &format!("(sleep 0.2; SHOAL {verb}) | true"));
        assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""), "{verb}");
    }
    let said = pipeline(&place, "(sleep 0.3; SHOAL rm -f one two three) | true");
    assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""));
    assert_eq!(place.ok("ps -aq"), "");
}

#[test]
fn a_log_driver_without_its_daemon_is_refused_and_a_stuck_one_stops_nothing() {
    let place = Place::new("syslog");
    let socket = place.host.root().join("log");
    let flags = format!("--log-driver syslog --log-opt syslog-address=unixgram://{}", socket.display());
    place.refused(&format!("run -d --name none {flags} BB sleep 1000"), 125, "initialize the log driver syslog");
    assert_eq!(place.state("none", "Status"), "created");
    // Nobody ever reads from it.
    let _daemon = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    let script = "'trap \"exit 7\" TERM; seq 1 20000; echo done > /tmp/done; while :; do sleep 0.05; done'";
    let _ = place.ok(&format!("run -d --name box {flags} BB sh -c {script}"));
    eventually("the container goes on", PATIENCE, || {
        place.run("exec box cat /tmp/done").status.success().then_some(())
    });
    let _ = place.ok("stop -t 5 box");
    assert_eq!(place.state("box", "ExitCode"), "7");
}

#[test]
fn boot_takes_away_what_was_to_go_and_leaves_what_was_stopped() {
    use nix::sys::signal::{Signal, kill};
    let place = Place::new("boot");
    let monitor = |name: &str| -> nix::unistd::Pid {
        let folder =
            place.host.root().join("data/containers").join(place.ok(&format!("inspect -f '{{{{.Id}}}}' {name}")));
        let text = fs::read_to_string(folder.join("state.json")).expect("its state");
        let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let pid = state["monitor"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a number");
        nix::unistd::Pid::from_raw(pid)
    };
    let _ = place.ok("run -d --rm --name gone BB sleep 1000");
    let _ = place.ok("run -d --restart unless-stopped --name stopped BB sleep 1000");
    for name in ["gone", "stopped"] {
        let first = place.pid(name);
        kill(monitor(name), Signal::SIGKILL).expect("its monitor");
        if name == "gone" {
            kill(nix::unistd::Pid::from_raw(first), Signal::SIGKILL).expect("its process");
        }
    }
    place.await_state("gone", "Status", "exited");
    let _ = place.ok("stop -t 0 stopped");
    let _ = place.ok("boot");
    assert_eq!(place.ok("ps -a --format '{{.Names}}'"), "stopped");
    assert_eq!(place.state("stopped", "Status"), "exited");
}

#[test]
fn a_joined_namespace_is_held_and_never_looked_up_by_number_again() {
    let place = Place::new("join");
    let _ = place.ok("run -d --name first --ipc shareable BB sleep 1000");
    let id = place.ok("run -d --name second --pid container:first --ipc container:first BB sleep 1000");
    let text =
        fs::read_to_string(place.host.root().join("run/containers").join(&id).join("config.json")).expect("there");
    assert!(!text.contains("/ns/pid\"") && text.contains("/ns-pid\""), "{text}");
    for kind in ["pid", "ipc"] {
        let link = |name: &str| fs::read_link(format!("/proc/{}/ns/{kind}", place.pid(name))).expect("it runs");
        assert_eq!(link("first"), link("second"), "{kind}");
    }
    let _ = place.ok("rm -f first second");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}

#[test]
fn small_things_of_run_and_exec_are_as_docker_has_them() {
    let place = Place::new("small");
    assert_eq!(place.sh("--timeout 18446744073709551615", "echo up"), "up");
    let _ = place.ok("run -d --name box --group-add 29 --stop-timeout -1 -p 18095:80 -p 18095:80 BB sleep 1000");
    assert_eq!(place.ok("port box").lines().count(), 2, "one port, of both families");
    assert_eq!(place.ok("inspect -f '{{.Config.StopTimeout}}' box"), "-1");
    assert!(place.ok("exec -u user box id -G").split(' ').any(|group| group == "29"));
    place.refused("exec -u nosuch box true", 126, "nosuch");
    let said = place.run("exec box no-such").expect_code(127).stderr;
    assert_eq!(said.matches("no-such").count(), 1, "{said}");
    place.refused("run -p 18096:80 -p 18096:81 BB true", 125, "18096");
    let _ = place.cmd("exec -d box sh -c 'sleep 1000; :'").arg("\u{1b}[31mRED").ok();
    let seen = eventually("it runs", PATIENCE, || Some(place.ok("top box")).filter(|text| text.contains("RED")));
    assert!(seen.contains("?[31mRED") && !seen.contains('\u{1b}'), "{seen}");
    let comma = place.host.root().join("a,b");
    fs::create_dir(&comma).expect("ours");
    fs::write(comma.join("file"), "kept").expect("ours");
    let mount = format!("type=bind,\"src={}\",dst=/c", comma.display());
    let said = place.cmd("run --rm --mount").arg(mount).args([crate::case::IMAGE, "cat", "/c/file"]).ok();
    assert_eq!(said, "kept");
}
