//! The engine of a user without root's rights: a user namespace of the user's own, folders of the user's own, slirp4netns.
//!
//! An account of the test's own is made and removed again. The host is a network namespace, as everywhere.

use crate::case::{IMAGE, PATIENCE, archive};
use integration::user::User;
use integration::{Cmd, Host, Outcome, binaries, eventually};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

struct Place {
    host: Host,
    user: User,
    shoal: PathBuf,
    env: Vec<String>,
}

impl Place {
    fn new(what: &str) -> Self {
        let host = Host::new(what);
        let user = User::new(what);
        let mut shoal = binaries::shoal();
        if !user.can_execute(&shoal) {
            // The folder of built binaries is closed to others.
            for name in ["shoal", "shoal-monitor", "shoal-runtime"] {
                let _ = std::fs::copy(binaries::built(name), host.root().join(name)).expect("copied");
            }
            shoal = host.root().join("shoal");
        }
        let tar = host.root().join("image.tar");
        let _ = std::fs::copy(archive(), &tar).expect("copied");
        user.own(host.root());
        let root = host.root().display();
        let env = vec!["PATH=/usr/sbin:/usr/bin:/bin".to_owned(), format!("SHOAL_ROOT={root}"), format!("HOME={root}")];
        let device = nix::sys::stat::makedev(10, 200);
        let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
        nix::sys::stat::mknod(&host.root().join("tun"), kind, mode, device).expect("root may make devices");
        std::fs::set_permissions(host.root().join("tun"), std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .expect("ours");
        let place = Self { host, user, shoal, env };
        let _ = place.run(&["load", "-q", "-i", &tar.to_string_lossy()]).expect_success();
        place
    }

    fn cmd(&self, args: &[&str]) -> Cmd {
        let env: Vec<&str> = self.env.iter().map(String::as_str).collect();
        let words = self.user.words(&env);
        let tun = "mount --bind \"$0\" /dev/net/tun && exec \"$@\"";
        // The device is everybody's on usual hosts, and root's alone on some that tests run on.
        let line = self.host.cmd("unshare").args(["--mount", "--propagation", "slave", "--", "sh", "-c", tun]);
        line.arg(self.host.root().join("tun")).args(words).arg(&self.shoal).args(args).folder(self.host.root())
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.cmd(args).run()
    }

    fn ok(&self, args: &[&str]) -> String {
        self.run(args).expect_success().stdout.trim_end().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ids = self.run(&["ps", "-aq"]).stdout;
        for id in ids.split_whitespace() {
            let _ = self.run(&["rm", "-f", "-v", id]);
        }
        // The process that holds the user's namespaces, known by its record.
        let text = std::fs::read_to_string(self.host.root().join("run/rootless.json")).unwrap_or_default();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(pid) = record["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[test]
fn an_ordinary_user_runs_a_container_as_its_root_and_owns_what_it_makes() {
    let place = Place::new("rl-run");
    assert_eq!(place.ok(&["run", "--rm", IMAGE, "id", "-u"]), "0");
    let map = place.ok(&["run", "--rm", IMAGE, "cat", "/proc/self/uid_map"]);
    let (first, count) = place.user.subordinate("/etc/subuid");
    let numbers: Vec<u32> = map.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert_eq!(numbers, [0, place.user.uid, 1, 1, first, count], "{map}");
    std::fs::create_dir(place.host.root().join("shared")).expect("ours");
    place.user.own(&place.host.root().join("shared"));
    let bind = format!("{}:/s", place.host.root().join("shared").display());
    let _ = place.ok(&[
        "run",
        "--rm",
        "-v",
        &bind,
        IMAGE,
        "sh",
        "-c",
        "touch /s/mine; touch /s/others; chown 77 /s/others",
    ]);
    let owner = |name: &str| std::fs::metadata(place.host.root().join("shared").join(name)).expect("made").uid();
    assert_eq!((owner("mine"), owner("others")), (place.user.uid, first + 76));
    assert_eq!(place.ok(&["run", "--rm", "-u", "user", IMAGE, "id", "-un"]), "user");
    assert_eq!(place.run(&["run", "--rm", IMAGE, "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(place.ok(&["ps", "-aq"]), "");
    assert_eq!(place.ok(&["run", "--rm", "--network", "none", IMAGE, "ls", "/sys/class/net"]), "lo");
}

#[test]
fn a_detached_container_of_a_user_is_logged_entered_stopped_and_removed_whole() {
    let place = Place::new("rl-life");
    let id =
        place.ok(&["run", "-d", "--name", "box", "-v", "data:/data", IMAGE, "sh", "-c", "echo up; exec sleep 1000"]);
    eventually("it talks", PATIENCE, || (place.ok(&["logs", "box"]) == "up").then_some(()));
    assert!(place.ok(&["ps"]).contains("box"));
    assert_eq!(place.ok(&["exec", "box", "sh", "-c", "echo kept > /data/file; id -u"]), "0");
    assert_eq!(place.ok(&["inspect", "-f", "{{.State.Status}}", "box"]), "running");
    let _ = place.ok(&["cp", "box:/data/file", &place.host.root().join("out").to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(place.host.root().join("out")).expect("copied"), "kept\n");
    let _ = place.ok(&["stop", "-t", "0", "box"]);
    let _ = place.ok(&["start", "box"]);
    assert_eq!(place.ok(&["exec", "box", "cat", "/data/file"]), "kept");
    let _ = place.ok(&["rm", "-f", "box"]);
    assert_eq!(place.ok(&["run", "--rm", "-v", "data:/d", IMAGE, "cat", "/d/file"]), "kept");
    for folder in ["run/containers", "data/containers"] {
        assert!(!place.host.root().join(folder).join(&id).exists(), "{folder}");
    }
    let left = place.host.cmd("ip").args(["netns", "pids", &place.host.netns]).run().stdout;
    for pid in left.split_whitespace() {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!line.contains("slirp4netns"), "{line}");
    }
}

#[test]
fn a_user_publishes_ports_and_reaches_the_host_through_slirp4netns() {
    let place = Place::new("rl-net");
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    let _ = place.ok(&["run", "-d", "--name", "web", "-p", "127.0.0.1:18080:80", IMAGE, "sh", "-c", script]);
    let get = || {
        let fetch = place.host.cmd("curl").args(["-s", "-m", "2", "http://127.0.0.1:18080/"]).run();
        (fetch.stdout == "hello\n").then_some(())
    };
    eventually("the published port answers", PATIENCE, get);
    assert_eq!(place.ok(&["port", "web", "80"]), "127.0.0.1:18080");
    let taken = place.run(&["run", "-d", "-p", "127.0.0.1:18080:80", IMAGE, "true"]).expect_code(125);
    assert!(taken.stderr.contains("18080"), "{}", taken.stderr);
    let _ = place.ok(&["restart", "-t", "0", "web"]);
    eventually("it answers again", PATIENCE, get);
    let own = place.run(&["run", "--rm", "--network", "mine", IMAGE, "true"]).expect_code(125);
    assert!(own.stderr.contains("need root"), "{}", own.stderr);
}

#[test]
fn keep_id_is_the_user_inside_and_outside() {
    let place = Place::new("rl-keep");
    let shared = place.host.root().join("shared");
    std::fs::create_dir(&shared).expect("ours");
    place.user.own(&shared);
    let bind = format!("{}:/s", shared.display());
    let script = "id -u; id -g; touch /s/file; stat -c %u /bin/busybox";
    let refused = place.run(&["run", "--rm", "--userns", "keep-id", IMAGE, "true"]).expect_code(125);
    assert!(refused.stderr.contains("--network host"), "{}", refused.stderr);
    let said =
        place.ok(&["run", "--rm", "--userns", "keep-id", "--network", "host", "-v", &bind, IMAGE, "sh", "-c", script]);
    let (uid, gid) = (place.user.uid.to_string(), place.user.gid.to_string());
    assert_eq!(said.lines().collect::<Vec<_>>(), [uid.as_str(), gid.as_str(), "0"]);
    assert_eq!(std::fs::metadata(shared.join("file")).expect("made").uid(), place.user.uid);
    assert_eq!(
        place.ok(&[
            "run",
            "--rm",
            "--userns",
            "keep-id",
            "--network",
            "host",
            "-u",
            "0",
            IMAGE,
            "sh",
            "-c",
            "touch /bin/new && id -u"
        ]),
        "0"
    );
}

#[test]
fn a_run_folder_in_tmp_that_is_somebody_elses_is_refused() {
    let place = Place::new("rl-tmp");
    let folder = PathBuf::from(format!("/tmp/shoal-{}", place.user.uid));
    // Somebody else was there first, and would let the user in.
    std::fs::create_dir(&folder).expect("nobody uses this id");
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("ours");
    let home = format!("HOME={}", place.host.root().display());
    let words = place.user.words(&["PATH=/usr/bin:/bin", &home]);
    let said = Cmd::new(&words[0]).args(&words[1..]).arg(&place.shoal).arg("ps").run();
    let made = std::fs::read_dir(&folder).expect("there").count();
    std::fs::remove_dir_all(&folder).expect("made above");
    assert!(said.stderr.contains("belongs to user 0") && said.stderr.contains("XDG_RUNTIME_DIR"), "{}", said.stderr);
    assert_eq!((said.status.success(), made), (false, 0));
}
