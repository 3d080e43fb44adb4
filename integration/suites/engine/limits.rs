//! Limits and kernel settings: asserted in the cgroup or inside, and by what happens at the limit.

use crate::case::Place;

#[test]
fn memory_cpus_and_processes_are_limited_in_the_cgroup() {
    let place = Place::new("limits");
    let _ = place.ok("run -d --name box -m 64m --cpus 0.5 --pids-limit 50 --cpu-shares 512 BB sleep 1000");
    assert_eq!(place.knob("box", ("memory", "memory.limit_in_bytes"), "memory.max"), "67108864");
    assert_eq!(place.knob("box", ("pids", "pids.max"), "pids.max"), "50");
    let quota = place.knob("box", ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    let _ = place.ok("update -m 128m --memory-swap 256m --cpus 1 --pids-limit 60 box");
    assert_eq!(place.knob("box", ("memory", "memory.limit_in_bytes"), "memory.max"), "134217728");
    assert_eq!(place.knob("box", ("pids", "pids.max"), "pids.max"), "60");
    assert_eq!(place.inspect("box")["HostConfig"]["Memory"], 134_217_728);
    let _ = place.ok("restart -t 0 box");
    assert_eq!(place.knob("box", ("pids", "pids.max"), "pids.max"), "60", "kept over a restart");
}

#[test]
fn a_hog_is_killed_and_its_end_is_told_as_out_of_memory() {
    let place = Place::new("oom");
    let outcome = place.run("run --name hog -m 32m --memory-swap 32m BB probe hog 200");
    assert_eq!(outcome.status.code(), Some(137), "{}", outcome.stderr);
    assert_eq!(place.state("hog", "OOMKilled"), "true");
    let events = place.ok("events --since 1h --until 0s --format '{{.Action}}'");
    assert!(events.lines().any(|action| action == "oom"), "{events}");
}

#[test]
fn a_kill_for_want_of_memory_is_told_while_the_container_goes_on() {
    let place = Place::new("oom-live");
    let _ = place.ok("run -d --name hog -m 32m --memory-swap 32m BB sh -c 'probe hog 200; sleep 1000'");
    let told = || place.ok("events --since 1h --until 0s --filter event=oom --format '{{.Actor.Attributes.name}}'");
    integration::eventually("it is told", crate::case::PATIENCE, || {
        told().lines().any(|name| name == "hog").then_some(())
    });
    place.await_state("hog", "OOMKilled", "true");
    assert_eq!(place.state("hog", "Status"), "running");
}

#[test]
fn the_cgroups_above_go_with_the_last_container() {
    let place = Place::new("parents");
    let _ = place.ok("run -d --name one BB sleep 1000");
    let _ = place.ok("run -d --name two BB sleep 1000");
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", place.pid("one"))).expect("it runs");
    let parents: Vec<std::path::PathBuf> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let parent = std::path::Path::new(path).parent()?.to_str()?.trim_start_matches('/').to_owned();
            let mount = std::path::Path::new("/sys/fs/cgroup");
            let below = mount.join(controllers.trim_start_matches("name=")).join(&parent);
            Some(if below.is_dir() { below } else { mount.join(parent) })
        })
        .filter(|path| path.to_string_lossy().contains("/shoal/"))
        .collect();
    assert!(parents.iter().any(|parent| parent.is_dir()), "{parents:?}");
    let _ = place.ok("rm -f one");
    assert!(parents.iter().any(|parent| parent.is_dir()));
    let _ = place.ok("rm -f two");
    assert!(parents.iter().all(|parent| !parent.exists()), "{parents:?}");
}

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    let place = Place::new("forks");
    let made: u32 = place.ok("run --rm --pids-limit 20 BB probe forks 200").parse().expect("a number");
    assert!(made < 20, "{made}");
}

#[test]
fn ulimits_sysctls_shared_memory_and_score() {
    let place = Place::new("ulimit");
    assert_eq!(place.sh("--ulimit nofile=123:456", "ulimit -n; ulimit -Hn"), "123\n456");
    assert_eq!(place.sh("--ulimit core=0", "ulimit -c"), "0");
    assert_eq!(place.sh("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward"), "1");
    assert_eq!(place.sh("--sysctl kernel.msgmax=4096", "cat /proc/sys/kernel/msgmax"), "4096");
    assert_eq!(place.sh("--shm-size 8m", "df -k /dev/shm | tail -1 | awk '{print $2}'"), "8192");
    assert_eq!(place.sh("--oom-score-adj 500", "cat /proc/self/oom_score_adj"), "500");
    assert_eq!(place.sh("--cpuset-cpus 0", "grep Cpus_allowed_list /proc/self/status | cut -f2"), "0");
    place.refused("run --rm --ulimit nofile BB true", 125, "nofile");
    place.refused("run --rm --sysctl kernel.hostname=x BB true", 125, "kernel.hostname");
    place.refused("run --rm -m 100 BB true", 125, "512k");
    place.refused("run --rm -m lots BB true", 125, "lots");
    place.refused("run --rm --cpus 100000 BB true", 125, "cpus");
}

#[test]
fn devices_are_offered_by_name_and_others_denied() {
    let place = Place::new("device");
    let _ = place.run("run --rm BB sh -c 'mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg'").expect_failure();
    assert_eq!(
        place.sh("--device /dev/null:/dev/mynull", "test -c /dev/mynull && echo x > /dev/mynull && echo fine"),
        "fine"
    );
    place.refused("run --rm --device /dev/no-such BB true", 125, "/dev/no-such");
}
