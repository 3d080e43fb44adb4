//! Flags of `run` that no other case needs, each by an effect seen inside the container, in its cgroup or in its record.

use crate::case::{PATIENCE, Place};
use integration::eventually;
use integration::image::Builder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn labels_and_annotations_come_from_files_and_flags() {
    let place = Place::new("label-file");
    let _ = place.file("labels", "# a remark\nfrom=file\nbare\n\nover=file\n");
    let id = place
        .ok("run -d --name box --label-file ~/labels -l over=flag --annotation org.example.key=value BB sleep 1000");
    let labels = place.inspect("box")["Config"]["Labels"].clone();
    assert_eq!(
        (labels["from"].as_str(), labels["bare"].as_str(), labels["over"].as_str()),
        (Some("file"), Some(""), Some("flag"))
    );
    let config = std::fs::read_to_string(place.host.root().join("run/containers").join(id).join("config.json"));
    let config: serde_json::Value = serde_json::from_str(&config.expect("it runs")).expect("JSON");
    assert_eq!(config["annotations"]["org.example.key"], "value");
    place.refused("run --rm --label-file ~/nothing BB true", 125, "nothing");
}

#[test]
fn the_long_spellings_of_limits_reach_the_cgroup() {
    let place = Place::new("long");
    let _ = place.ok("run -d --name box --memory 64m --memory-reservation 32m --cpu-period 50000 --cpu-quota 25000 --cpuset-mems 0 BB sleep 1000");
    assert_eq!(place.knob("box", ("memory", "memory.limit_in_bytes"), "memory.max"), "67108864");
    assert_eq!(place.knob("box", ("memory", "memory.soft_limit_in_bytes"), "memory.low"), "33554432");
    let quota = place.knob("box", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "25000" || quota == "25000 50000", "{quota}");
    assert_eq!(place.ok("exec box grep Mems_allowed_list /proc/self/status").split_whitespace().last(), Some("0"));
}

#[test]
fn a_probe_has_a_time_limit_and_a_start_period_forgives() {
    let place = Place::new("probe-time");
    let _ = place.ok("run -d --name slow --health-cmd 'sleep 30' --health-interval 100ms --health-timeout 300ms --health-retries 1 BB sleep 1000");
    let _ = place.ok("run -d --name young --health-cmd false --health-interval 100ms --health-retries 1 --health-start-period 1h BB sleep 1000");
    place.await_state("slow", "Health.Status", "unhealthy");
    let log = place.inspect("slow")["State"]["Health"]["Log"].to_string();
    assert!(log.contains("exceeded timeout"), "{log}");
    eventually("it was probed more than once", PATIENCE, || {
        let probes: usize = place.ok("inspect -f '{{len .State.Health.Log}}' young").parse().ok()?;
        (probes >= 2).then_some(())
    });
    assert_eq!(place.state("young", "Health.Status"), "starting");
}

#[test]
fn an_images_health_check_can_be_switched_off() {
    let place = Place::new("no-health");
    let mut builder = Builder::busybox("localhost/sick:1");
    builder.config["Healthcheck"] = json!({"Test": ["CMD", "false"], "Interval": 100_000_000, "Retries": 1});
    let archive = builder.archive_in(place.host.root());
    let _ = place.host.shoal(["load", "-q", "-i"]).arg(archive).ok();
    let _ = place.ok("run -d --name sick localhost/sick:1 sleep 1000");
    let _ = place.ok("run -d --name calm --no-healthcheck localhost/sick:1 sleep 1000");
    place.await_state("sick", "Health.Status", "unhealthy");
    assert!(place.inspect("calm")["State"]["Health"].is_null());
    let _ = place.run("healthcheck run calm").expect_code(1);
}

#[test]
fn a_container_has_its_own_stop_timeout() {
    let place = Place::new("stop-timeout");
    let _ = place.ok("run -d --name deaf --stop-timeout 1 BB sh -c 'trap : TERM; while :; do sleep 0.1; done'");
    let before = Instant::now();
    let _ = place.ok("stop deaf");
    assert!(before.elapsed() < Duration::from_secs(9), "docker's ten seconds were waited for: {:?}", before.elapsed());
    assert_eq!(place.state("deaf", "ExitCode"), "137");
}

#[test]
fn cgroups_are_seen_whole_or_not_and_hang_where_they_are_told() {
    let place = Place::new("cgroupns");
    assert!(place.sh("--cgroupns host", "cat /proc/self/cgroup").contains("/shoal/"));
    assert!(!place.sh("--cgroupns private", "cat /proc/self/cgroup").contains("/shoal/"));
    let parent = format!("shoal-test-{}", std::process::id());
    let _ = place.ok(&format!("run -d --name box --cgroup-parent /{parent} BB sleep 1000"));
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", place.pid("box"))).expect("it runs");
    assert!(text.contains(&format!("/{parent}/shoal-")), "{text}");
    let _ = place.ok("rm -f box");
    // The user's own parent stays; this test made it.
    let found = integration::Cmd::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &parent]).run().stdout;
    for folder in found.lines() {
        std::fs::remove_dir(folder).expect("empty");
    }
}

#[test]
fn platforms_secrets_links_and_addresses() {
    let place = Place::new("rest");
    assert_eq!(place.sh("--platform linux/amd64", "uname -m"), "x86_64");
    let _ = place.file("password", "secret");
    assert_eq!(place.sh("--secret ~/password", "cat /run/secrets/password"), "secret");
    let _ = place
        .run(&format!(
            "run --rm --secret {}/password BB sh -c 'echo x > /run/secrets/password'",
            place.host.root().display()
        ))
        .expect_failure();
    let _ = place.ok("run -d --name db BB sleep 1000");
    let linked = place.run("run --rm --link db:database BB sh -c 'grep database /etc/hosts'").expect_success();
    assert!(linked.stdout.contains(&place.ok("inspect -f '{{.NetworkSettings.IPAddress}}' db")), "{linked:?}");
    let _ = place.ok("network create --ipv6 --subnet 10.77.0.0/24 --subnet fd77::/64 six");
    assert!(place.sh("--network six --ip6 fd77::77", "ip -6 addr show dev eth0").contains("fd77::77/64"));
    place.refused("run --rm --network six --ip6 fd78::1 BB true", 125, "--ip6");
}

#[test]
fn an_attached_client_takes_the_streams_and_signals_it_asked_for() {
    let place = Place::new("attach-one");
    let only = place.run("run --rm -a stderr BB sh -c 'echo out; echo err >&2'").expect_success();
    assert_eq!((only.stdout.as_str(), only.stderr.trim_end()), ("", "err"));
    let mut client = place
        .cmd(
            "run --name box --sig-proxy=false BB sh -c 'trap \"exit 9\" TERM; while :; do echo tick; sleep 0.05; done'",
        )
        .command()
        .stdout(Stdio::null())
        .spawn()
        .expect("shoal starts");
    eventually("it talks", PATIENCE, || place.run("logs box").stdout.contains("tick").then_some(()));
    kill(Pid::from_raw(i32::try_from(client.id()).expect("a process number")), Signal::SIGTERM)
        .expect("a child of ours");
    let _ = client.wait();
    assert_eq!(place.state("box", "Status"), "running", "the signal ended the client alone");
}

#[test]
fn rates_of_devices_reach_the_cgroup_and_a_weight_is_set_or_refused() {
    let place = Place::new("blkio");
    let device = std::fs::read_dir("/sys/block").expect("sysfs is mounted").flatten();
    let device = device
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| std::path::Path::new("/dev").join(name).exists());
    let device = device.expect("this host has a block device");
    let number = std::fs::read_to_string(format!("/sys/block/{device}/dev")).expect("its numbers").trim().to_owned();
    let _ = place.ok(&format!(
        "run -d --name box --device-read-bps /dev/{device}:1mb --device-write-bps /dev/{device}:2mb --device-read-iops /dev/{device}:100 --device-write-iops /dev/{device}:200 BB sleep 1000"
    ));
    for (v1, v2, rate) in [
        ("blkio.throttle.read_bps_device", "rbps=", "1048576"),
        ("blkio.throttle.write_bps_device", "wbps=", "2097152"),
        ("blkio.throttle.read_iops_device", "riops=", "100"),
        ("blkio.throttle.write_iops_device", "wiops=", "200"),
    ] {
        let text = place.knob("box", ("blkio", v1), "io.max");
        let set = text.contains(&format!("{number} {rate}")) || text.contains(&format!("{v2}{rate}"));
        assert!(text.contains(&number) && set, "{v1}: {text}");
    }
    place.refused("run --rm --device-read-bps /dev/null:1mb BB true", 125, "not a block device");
    let weighed = place.run("run -d --name heavy --blkio-weight 300 BB sleep 1000");
    if weighed.status.success() {
        let files = [("blkio", "blkio.bfq.weight"), ("blkio", "blkio.weight")];
        let set = files.into_iter().any(|v1| {
            std::panic::catch_unwind(|| place.knob("heavy", v1, "io.bfq.weight")).is_ok_and(|text| text.contains("300"))
        });
        assert!(set, "the weight is nowhere");
    } else {
        assert!(weighed.stderr.contains("weight"), "{}", weighed.stderr);
    }
    place.refused("run --rm --blkio-weight 5000 BB true", 125, "weight");
}

#[test]
fn keys_of_the_users_own_leave_a_terminal_and_the_usual_ones_are_typed() {
    use std::io::Write;
    let place = Place::new("keys");
    let script = place.file(
        "client.sh",
        &format!(
            "#!/bin/sh\nexec {} run -it --name box --detach-keys ctrl-a,x {} sh -c 'stty raw -echo; echo ready; exec cat > /typed'\n",
            integration::binaries::shoal().display(),
            crate::case::IMAGE
        ),
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let mut client = place
        .host
        .cmd("socat")
        .arg("-")
        .arg(format!("EXEC:{},pty,setsid,ctty,raw,echo=0", script.display()))
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("socat is installed");
    eventually("it listens", PATIENCE, || place.run("logs box").stdout.contains("ready").then_some(()));
    let mut keyboard = client.stdin.take().expect("piped");
    keyboard.write_all(b"a\x10\x11b").expect("typed");
    eventually("the usual keys arrive inside", PATIENCE, || {
        (place.run("exec box cat /typed").stdout == "a\x10\x11b").then_some(())
    });
    keyboard.write_all(b"\x01x").expect("typed");
    eventually("the client has left", PATIENCE, || client.try_wait().expect("a child of ours"));
    assert_eq!(place.state("box", "Status"), "running");
    assert_eq!(place.ok("exec box cat /typed"), "a\u{10}\u{11}b", "the keys themselves stay outside");
}
