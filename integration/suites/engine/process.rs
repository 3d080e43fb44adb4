//! What a container's process is given: arguments, variables, user, folder, names, terminal; how its end is told.

use crate::case::Place;

#[test]
fn the_exit_code_is_the_containers_own_and_failures_of_ours_have_dockers_codes() {
    let place = Place::new("codes");
    assert_eq!(place.ok("run --rm BB echo hello"), "hello");
    let _ = place.run("run --rm BB sh -c 'exit 7'").expect_code(7);
    let _ = place.run("run --rm BB no-such-program").expect_code(127);
    let _ = place.run("run --rm BB /no/such/program").expect_code(127);
    let _ = place.run("run --rm BB /etc/passwd").expect_code(126);
    let _ = place.run("run --rm BB /etc").expect_code(126);
    place.refused("run --rm --no-such-flag BB true", 125, "--no-such-flag");
    place.refused("run --rm --pull never localhost/missing:1 true", 125, "missing");
    assert_eq!(place.ok("ps -aq"), "", "--rm leaves nothing, also after a failed start");
}

#[test]
fn output_and_errors_arrive_apart_and_input_arrives_whole() {
    let place = Place::new("streams");
    let both = place.run("run --rm BB sh -c 'echo out; echo err >&2'").expect_success();
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let big = "x".repeat(1 << 20);
    let counted = place.cmd("run --rm -i BB wc -c").input(big).ok();
    assert_eq!(counted.trim(), "1048576");
    assert_eq!(place.cmd("run --rm BB cat").input("not passed on").ok(), "", "without -i stdin is empty");
    let much = place.ok("run --rm BB sh -c 'i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done'");
    assert_eq!(much.lines().count(), 20_000);
}

#[test]
fn variables_come_from_flags_files_the_image_and_this_process() {
    let place = Place::new("env");
    let file = place.file("env", "# comment\nFROM_FILE=a b\nCALLER\nBOTH=file\n");
    let env = place
        .cmd("run --rm -e ONE=1 -e EMPTY= -e BOTH=flag -e GIVEN -e ABSENT --env-file ~/env BB env")
        .env("GIVEN", "caller's")
        .env("CALLER", "too")
        .ok();
    for line in ["ONE=1", "EMPTY=", "BOTH=flag", "GIVEN=caller's", "FROM_FILE=a b", "CALLER=too", "HOME=/root"] {
        assert!(env.lines().any(|own| own == line), "{line} is missing: {env}");
    }
    assert!(!env.contains("ABSENT") && !env.contains("SHOAL_ROOT"), "{env}");
    std::fs::remove_file(file).expect("was written");
    place.refused("run --rm --env-file ~/env BB env", 125, "env");
}

#[test]
fn user_group_and_folder_are_as_asked() {
    let place = Place::new("user");
    assert_eq!(place.ok("run --rm BB id -u"), "0");
    assert_eq!(place.sh("-u user", "id -u; id -g; id -G | tr ' ' '\\n' | grep -x 2000"), "1000\n1000\n2000");
    assert_eq!(place.sh("-u 1234:77", "id -u; id -g"), "1234\n77");
    assert_eq!(place.sh("-u user", "echo $HOME"), "/home");
    assert!(place.sh("--group-add extra --group-add 99", "id -G").split(' ').any(|group| group == "2000"));
    place.refused("run --rm -u nobody-knows BB id", 125, "nobody-knows");
    assert_eq!(place.ok("run --rm -w /tmp BB pwd"), "/tmp");
    assert_eq!(place.ok("run --rm -w /made/anew BB pwd"), "/made/anew");
    place.refused("run --rm -w relative BB pwd", 125, "absolute");
}

#[test]
fn host_name_entrypoint_and_arguments() {
    let place = Place::new("names");
    assert_eq!(place.ok("run --rm -h box BB hostname"), "box");
    assert!(place.sh("-h box", "cat /etc/hostname /etc/hosts").contains("\tbox"));
    let id = place.ok("run -d BB sleep 100");
    assert_eq!(place.ok(&format!("exec {id} hostname")), id[..12]);
    assert_eq!(place.ok("run --rm --entrypoint echo BB a 'b c'"), "a b c");
    let _ = place.run("run --rm --entrypoint /bin/false BB").expect_code(1);
    assert_eq!(place.ok("run --rm --entrypoint '' BB echo plain"), "plain");
    assert_eq!(place.ok("run --rm --domainname example.org -h box BB cat /proc/sys/kernel/domainname"), "example.org");
}

#[test]
fn a_terminal_is_given_only_when_asked_for() {
    let place = Place::new("tty");
    let tty = place.ok("run --rm -t BB sh -c 'test -t 0 && tty; echo $TERM'");
    assert_eq!(tty, "/dev/pts/0\r\nxterm");
    let _ = place.run("run --rm BB test -t 0").expect_code(1);
    let refused = place.cmd("run --rm -it BB sh").input("exit 3\n").run();
    assert!(refused.stderr.contains("the input device is not a TTY"), "{}", refused.stderr);
}

#[test]
fn an_init_reaps_orphans_and_is_the_first_process() {
    let place = Place::new("init");
    let seen = place.sh("--init", "cat /proc/1/cmdline | tr '\\0' ' '");
    assert!(seen.contains("docker-init") && seen.contains("sh -c"), "{seen}");
    let zombies = place.sh("--init", "(sleep 0 & exec true); sleep 0.3; ps -o stat | grep -c Z || true");
    assert_eq!(zombies, "0");
    let _ = place.run("run --rm --init BB sh -c 'exit 9'").expect_code(9);
}

#[test]
fn capabilities_are_dockers_and_can_be_added_and_dropped() {
    let place = Place::new("caps");
    let effective = |flags: &str| place.sh(flags, "grep CapEff /proc/self/status | cut -f2");
    assert_eq!(effective(""), "00000000a80425fb", "docker's fourteen");
    assert_eq!(effective("--cap-drop ALL"), "0000000000000000");
    assert_eq!(effective("--cap-drop all --cap-add net_admin"), "0000000000001000");
    assert_eq!(effective("--cap-add CAP_SYS_PTRACE"), "00000000a80c25fb");
    assert_eq!(effective("-u user"), "0000000000000000");
    let bound = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let bound = bound.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a line").trim().to_owned();
    assert_eq!(effective("--privileged"), bound, "all that this host has to give");
    place.refused("run --rm --cap-add NO_SUCH BB true", 125, "NO_SUCH");
}

#[test]
fn security_defaults_hold_and_can_be_lifted() {
    let place = Place::new("security");
    assert_eq!(place.sh("", "grep Seccomp: /proc/self/status | cut -f2"), "2");
    assert_eq!(place.sh("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status | cut -f2"), "0");
    assert_eq!(place.sh("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status | cut -f2"), "1");
    let _ = place.run("run --rm BB unshare -U true").expect_failure();
    let _ = place.run("run --rm BB mount -t tmpfs none /tmp").expect_failure();
    assert_eq!(place.sh("", "ls /sys/firmware /proc/scsi 2>/dev/null | grep -v : | wc -w"), "0", "masked");
    let _ = place.run("run --rm BB sh -c 'echo 1 > /proc/sys/kernel/printk'").expect_failure();
    let _ = place.run("run --rm BB sh -c 'echo b > /proc/sysrq-trigger'").expect_failure();
    let _ = place.run("run --rm --read-only BB touch /file").expect_failure();
    assert_eq!(place.sh("--read-only --tmpfs /tmp", "touch /tmp/file && echo yes"), "yes");
}

#[test]
fn a_seccomp_profile_of_the_users_is_applied() {
    let place = Place::new("seccomp");
    let _ = place.file(
        "profile.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1,"excludes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","includes":{"arches":["no-such-arch"]}}]}"#,
    );
    let _ = place.run("run --rm --security-opt seccomp=~/profile.json BB mkdir /tmp/new").expect_failure();
    assert_eq!(
        place.sh("--security-opt seccomp=~/profile.json --cap-add SYS_ADMIN", "mkdir /tmp/n && echo made"),
        "made"
    );
    assert_eq!(place.sh("--security-opt seccomp=~/profile.json", "chmod 600 /etc/passwd && echo done"), "done");
    let _ = place.file("bad.json", "{");
    place.refused("run --rm --security-opt seccomp=~/bad.json BB true", 125, "seccomp");
}

#[test]
fn namespaces_can_be_the_hosts_or_anothers() {
    let place = Place::new("spaces");
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a link").to_string_lossy().into_owned()
    };
    assert_eq!(place.ok("run --rm --pid host BB readlink /proc/self/ns/pid"), own("pid"));
    assert_eq!(place.ok("run --rm --ipc host BB readlink /proc/self/ns/ipc"), own("ipc"));
    assert_eq!(place.ok("run --rm --uts host BB readlink /proc/self/ns/uts"), own("uts"));
    assert_ne!(place.ok("run --rm BB readlink /proc/self/ns/pid"), own("pid"));
    let _ = place.ok("run -d --name one --ipc shareable BB sleep 100");
    for (flag, kind) in [("--pid", "pid"), ("--ipc", "ipc"), ("--network", "net")] {
        let theirs = place.ok(&format!("exec one readlink /proc/self/ns/{kind}"));
        assert_eq!(place.ok(&format!("run --rm {flag} container:one BB readlink /proc/self/ns/{kind}")), theirs);
    }
    let _ = place.ok("exec one sh -c 'echo shared > /dev/shm/file'");
    assert_eq!(place.ok("run --rm --ipc container:one BB cat /dev/shm/file"), "shared");
    let _ = place.ok("run -d --name shy --ipc private BB sleep 100");
    place.refused("run --rm --ipc container:shy BB true", 125, "shareable");
    assert_eq!(place.sh("--ipc none", "mount | grep -c ' /dev/shm ' || true"), "0");
}

#[test]
fn users_of_an_auto_namespace_are_nobody_else() {
    let place = Place::new("userns");
    let range = |name: &str| {
        let _ = place.ok(&format!("run -d --name {name} --userns auto:size=1000 BB sleep 100"));
        let map = place.ok(&format!("exec {name} cat /proc/self/uid_map"));
        let numbers: Vec<u64> = map.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        (numbers[1], numbers[1] + numbers[2])
    };
    let ranges: Vec<_> = ["aa", "bb", "cc"].into_iter().map(range).collect();
    for (at, one) in ranges.iter().enumerate() {
        assert!(one.0 > 65_535, "{one:?}");
        for other in &ranges[at + 1..] {
            assert!(one.1 <= other.0 || other.1 <= one.0, "{one:?} and {other:?} overlap");
        }
    }
    assert_eq!(place.sh("--userns auto", "id -u; touch /tmp/f && ls -n /tmp/f | cut -c1-3"), "0\n-rw");
}

#[test]
fn files_of_a_container_with_users_of_its_own_are_its_roots_and_on_disk_the_images() {
    let place = Place::new("userns-files");
    let _ = place.ok("run -d --name box --userns auto -v data:/data -v etc:/etc BB sleep 1000");
    let script = "stat -c %u:%g /bin/busybox /etc/passwd /data /etc/hosts; touch /made /data/made && chown 77:78 /made && stat -c %u:%g /made";
    assert_eq!(place.cmd("exec box sh -c").arg(script).ok().trim(), "0:0\n0:0\n0:0\n0:0\n77:78");
    // The process is nobody of the host's, the files are as the image's own.
    let status = std::fs::read_to_string(format!("/proc/{}/status", place.pid("box"))).expect("it runs");
    let uid: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .expect("a line")
        .split_whitespace()
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(uid > 65_535, "{uid}");
    let id = place.ok("ps -q --no-trunc");
    let upper = place.host.root().join("data/containers").join(&id).join("rootfs/upper");
    let owner = |name: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(upper.join(name)).expect("made"));
    assert_eq!(owner("made"), 77);
    assert_eq!(place.ok("diff box").lines().filter(|line| line.contains("/bin")).count(), 0);
    // Another container, without, sees the volume's files as they are.
    assert_eq!(place.sh("-v data:/d -v etc:/e", "stat -c %u /d/made /e/passwd"), "0\n0");
    let _ = place.ok("commit box localhost/made:1");
    assert_eq!(place.ok("run --rm localhost/made:1 stat -c %u:%g /made"), "77:78");
    let _ = place.file("given", "given");
    for state in ["running", "stopped"] {
        if state == "stopped" {
            let _ = place.ok("stop -t 0 box");
        }
        let _ = place.ok(&format!("cp ~/given box:/{state}"));
        let _ = place.ok(&format!("cp -a box:/made ~/made-{state}"));
        let made = std::fs::metadata(place.host.root().join(format!("made-{state}"))).expect("copied");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 77, "{state}");
        let _ = place.ok(&format!("export -o ~/{state}.tar box"));
        let list = integration::Cmd::new("tar").args(["--numeric-owner", "-tvf"]);
        let list = list.arg(place.host.root().join(format!("{state}.tar"))).ok();
        let owner = |name: &str| {
            let line = list.lines().find(|line| line.ends_with(&format!(" {name}")));
            line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("absent").to_owned()
        };
        assert_eq!([owner("made"), owner(state), owner("bin/busybox")], ["77/78", "0/0", "0/0"], "{state}: {list}");
    }
    let _ = place.ok("restart -t 0 box");
    assert_eq!(place.ok("exec box stat -c %u:%g /made /running /stopped"), "77:78\n0:0\n0:0");
    let _ = place.ok("rm -f box");
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}
