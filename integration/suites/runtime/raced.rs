//! The known attacks that are a race: something hostile swaps or looks while the runtime works, round after round.
//!
//! `SHOAL_ROUNDS` sets the rounds of each case; the default is what CI has time for.

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use integration::{Scratch, binaries};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

cases! { "raced":
    cve_2021_30465_a_swapped_mount_point_makes_nothing_on_the_host,
    cve_2024_45310_a_swapped_parent_makes_no_file_on_the_host,
    cve_2025_31133_a_swapped_dev_null_masks_all_the_same ["runc": "1.1.5 is vulnerable", "crun": "1.8 is vulnerable"],
    cve_2025_52565_a_swapped_console_is_a_terminal_of_ours ["runc": "1.1.5 is vulnerable"],
    cve_2025_52881_a_swapped_mount_over_procfs_takes_no_write ["runc": "1.1.5 is vulnerable", "crun": "1.8 is vulnerable"],
    cve_2019_5736_the_binary_is_never_open_for_writing_while_exec_goes_on,
    cve_2016_9962_an_exec_cannot_be_looked_into_from_its_user_namespace,
    cve_2016_9962_a_create_into_a_joined_user_and_pid_namespace_cannot_be_looked_into ["runc": "1.1 wants mappings of a joined namespace too", "crun": "1.8 is vulnerable"],
    a_new_user_namespace_cannot_be_looked_into_from_the_hosts_pid_namespace ["runc": "1.1.5 is vulnerable", "crun": "1.8 is vulnerable"],
    cve_2023_27561_a_swapped_proc_is_never_a_link,
}

/// Rounds of a race in CI: each takes some tens of milliseconds, and there are ten races.
const ROUNDS_IN_CI: u32 = 25;

fn rounds() -> std::ops::Range<u32> {
    0..std::env::var("SHOAL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS_IN_CI)
}

/// A process that exchanges two paths as fast as it can.
struct Racer {
    child: Child,
    paths: [std::path::PathBuf; 2],
}

impl Racer {
    fn new(a: &Path, b: &Path) -> Self {
        let paths = [a.to_owned(), b.to_owned()];
        Self { child: Self::spawn(&paths), paths }
    }

    fn spawn(paths: &[std::path::PathBuf; 2]) -> Child {
        Command::new(binaries::probe()).arg("swap").args(paths).stdout(Stdio::null()).spawn().expect("the probe starts")
    }

    /// Sees to it that it still runs: it gives up after a minute.
    fn goes_on(&mut self) {
        if self.child.try_wait().expect("a child of ours").is_some() {
            self.child = Self::spawn(&self.paths);
        }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn cve_2021_30465_a_swapped_mount_point_makes_nothing_on_the_host(subject: &Subject) {
    // A volume another container shares: there `point` is a directory one moment and a link out the next.
    let (canary, volume) = (Scratch::new("canary"), Scratch::new("volume"));
    std::fs::create_dir(volume.join("point")).expect("writable");
    symlink(canary.path(), volume.join("link")).expect("free");
    let mut racer = Racer::new(&volume.join("point"), &volume.join("link"));
    let mut bundle = Bundle::new(&["sh", "-c", "cat /proc/self/mountinfo"]);
    bundle.mount(json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["rbind"]}));
    bundle.mount(json!({"destination": "/volume/point", "type": "tmpfs", "source": "mine"}));
    bundle.mount(json!({"destination": "/volume/point/deep/er", "type": "tmpfs", "source": "mine"}));
    for round in rounds() {
        racer.goes_on();
        let _ = subject.run(&bundle);
        assert!(names(canary.path()).is_empty(), "round {round}: made on the host: {:?}", names(canary.path()));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        assert!(!mounts.contains(&canary.path().display().to_string()), "round {round}: mounted on the host");
    }
}

fn cve_2024_45310_a_swapped_parent_makes_no_file_on_the_host(subject: &Subject) {
    let (canary, volume) = (Scratch::new("canary"), Scratch::new("volume"));
    std::fs::create_dir(volume.join("parent")).expect("writable");
    symlink(canary.path(), volume.join("link")).expect("free");
    let mut racer = Racer::new(&volume.join("parent"), &volume.join("link"));
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.mount(json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["rbind"]}));
    // A file and a directory that are not there yet, and a working directory.
    bundle.mount(
        json!({"destination": "/volume/parent/file", "type": "bind", "source": "/etc/hostname", "options": ["bind"]}),
    );
    bundle.mount(
        json!({"destination": "/volume/parent/a/b", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]}),
    );
    bundle.config["process"]["cwd"] = "/volume/parent/work".into();
    for round in rounds() {
        racer.goes_on();
        let _ = subject.run(&bundle);
        assert!(names(canary.path()).is_empty(), "round {round}: made on the host: {:?}", names(canary.path()));
        for made in ["file", "a", "work"] {
            for parent in ["parent", "link"] {
                let path = volume.join(parent).join(made);
                let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            }
        }
    }
}

fn cve_2025_31133_a_swapped_dev_null_masks_all_the_same(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "echo owned > /etc/secret; wc -c < /etc/secret"]);
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    let rootfs = bundle.rootfs();
    for name in ["etc/secret", "target"] {
        std::fs::write(rootfs.join(name), name).expect("writable");
    }
    let null = nix::sys::stat::makedev(1, 3);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::sys::stat::mknod(&rootfs.join("dev/null"), nix::sys::stat::SFlag::S_IFCHR, mode, null)
        .expect("root makes nodes");
    symlink("/target", rootfs.join("dev/link")).expect("free");
    let mut racer = Racer::new(&rootfs.join("dev/null"), &rootfs.join("dev/link"));
    for round in rounds() {
        racer.goes_on();
        let outcome = subject.run(&bundle);
        for name in ["etc/secret", "target"] {
            assert_eq!(std::fs::read_to_string(rootfs.join(name)).expect("readable"), name, "round {round}");
        }
        assert!(!outcome.status.success() || outcome.stdout.trim() == "0", "round {round}: {}", outcome.stdout);
    }
}

fn cve_2025_52565_a_swapped_console_is_a_terminal_of_ours(subject: &Subject) {
    // /dev/console of the image is a file one moment and a link into procfs the next.
    let mut bundle = Bundle::new(&["sh", "-c", "tty; ls -ln /proc/version"]);
    bundle.config["process"]["terminal"] = true.into();
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !["/dev", "/dev/shm", "/dev/mqueue"].iter().any(|path| mount["destination"] == *path));
    let rootfs = bundle.rootfs();
    std::fs::write(rootfs.join("dev/console"), "").expect("writable");
    symlink("/proc/version", rootfs.join("dev/link")).expect("free");
    let mut racer = Racer::new(&rootfs.join("dev/console"), &rootfs.join("dev/link"));
    let run = || {
        let outcome = subject.run(&bundle);
        if !outcome.status.success() {
            return false;
        }
        let tty = outcome.stdout.lines().next().unwrap_or_default();
        assert!(tty.starts_with("/dev/pts/0") || tty.starts_with("/dev/console"), "{}", outcome.stdout);
        let covered = outcome.stdout.lines().find(|line| line.trim_end().ends_with("/proc/version"));
        assert!(covered.is_some_and(|line| line.starts_with('-')), "covered: {covered:?}");
        true
    };
    for _ in rounds() {
        racer.goes_on();
        let _ = run();
    }
    // Standing still, the link is refused and the file is used.
    drop(racer);
    let is_link = std::fs::symlink_metadata(rootfs.join("dev/console")).expect("it is there").is_symlink();
    assert_eq!(run(), !is_link);
    std::fs::rename(rootfs.join("dev/link"), rootfs.join("dev/other")).expect("ours");
    std::fs::rename(rootfs.join("dev/console"), rootfs.join("dev/link")).expect("ours");
    std::fs::rename(rootfs.join("dev/other"), rootfs.join("dev/console")).expect("ours");
    assert_eq!(run(), is_link);
}

fn cve_2025_52881_a_swapped_mount_over_procfs_takes_no_write(subject: &Subject) {
    let fake = Scratch::new("fake");
    let (value, attr) = (fake.join("ip_forward"), fake.join("exec"));
    // Where the image has `place`, a volume would go over the container's procfs.
    for (place, over) in
        [("place", "/proc/sys/net/ipv4"), ("place", "/proc/self/attr"), ("place", "/proc/thread-self/attr")]
    {
        let mut bundle = Bundle::new(&["probe", "true"]);
        let rootfs = bundle.rootfs();
        std::fs::create_dir(rootfs.join(place)).expect("writable");
        symlink(over, rootfs.join("link")).expect("free");
        bundle.mount(
            json!({"destination": format!("/{place}"), "type": "bind", "source": fake.path(), "options": ["bind"]}),
        );
        bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let mut racer = Racer::new(&rootfs.join(place), &rootfs.join("link"));
        for round in rounds() {
            racer.goes_on();
            for file in [&value, &attr] {
                std::fs::write(file, "fake").expect("writable");
            }
            let _ = subject.run(&bundle);
            for file in [&value, &attr] {
                assert_eq!(
                    std::fs::read_to_string(file).expect("readable"),
                    "fake",
                    "round {round}: {}",
                    file.display()
                );
            }
        }
    }
}

fn cve_2019_5736_the_binary_is_never_open_for_writing_while_exec_goes_on(subject: &Subject) {
    let binary = subject.binary();
    let before = std::fs::read(binary).expect("readable");
    let mut bundle = Bundle::new(&["sh", "-c", "while :; do probe write-exe; done > /tmp/said"]);
    // All that a container can be given: the file must be safe from a privileged one too.
    let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_KILL"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = all.clone();
    }
    let container = subject.start(&bundle);
    for _ in rounds() {
        let _ = container.exec(&["/proc/self/exe", "--version"]);
    }
    drop(container);
    assert!(std::fs::read(binary).expect("readable") == before, "the host's binary was changed");
    let said = std::fs::read_to_string(bundle.rootfs().join("tmp/said")).expect("the attacker ran");
    assert!(!said.contains("written"), "{said}");
}

fn cve_2016_9962_an_exec_cannot_be_looked_into_from_its_user_namespace(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "while :; do probe peek; done > /tmp/said"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    for set in ["bounding", "effective", "permitted"] {
        let set: &mut Value = &mut bundle.config["process"]["capabilities"][set];
        set.as_array_mut().expect("a list").push("CAP_SYS_PTRACE".into());
    }
    let container = subject.start(&bundle);
    for _ in rounds() {
        let _ = container.exec(&["probe", "true"]).expect_success();
    }
    drop(container);
    let said = std::fs::read_to_string(bundle.rootfs().join("tmp/said")).expect("the attacker ran");
    assert!(said.is_empty(), "seen from inside: {said}");
}

/// A user namespace in which every id is itself, and a process that looks into every other one as far as it may.
fn peeker(users: bool, capabilities: &[&str], token: &str) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", &format!("while :; do probe peek {token}; done > /tmp/said")]);
    if users {
        bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        map_to_itself(&mut bundle);
    }
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(capabilities);
    }
    bundle
}

fn map_to_itself(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
}

/// What the process of [`peeker`] saw while `bundle` was run as often as asked.
fn seen(subject: &Subject, peeker: &Bundle, container: crate::subject::Container<'_>, bundle: &Bundle) {
    for _ in rounds() {
        let _ = subject.run(bundle).expect_success();
    }
    drop(container);
    let said = std::fs::read_to_string(peeker.rootfs().join("tmp/said")).expect("the attacker ran");
    assert!(said.is_empty(), "seen from inside: {said}");
}

fn cve_2016_9962_a_create_into_a_joined_user_and_pid_namespace_cannot_be_looked_into(subject: &Subject) {
    // As in a pod: the second container joins two namespaces of the first and makes its own mounts.
    let mut bundle = Bundle::new(&["/bin/probe", "true"]);
    let peeker = peeker(true, &["CAP_SYS_PTRACE"], bundle.id());
    let container = subject.start(&peeker);
    let pid = &container.state()["pid"];
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    for kind in ["user", "pid"] {
        namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{kind}")}));
    }
    seen(subject, &peeker, container, &bundle);
}

fn a_new_user_namespace_cannot_be_looked_into_from_the_hosts_pid_namespace(subject: &Subject) {
    // The user who makes a user namespace may do everything in it, also without a capability of his own.
    let mut bundle = Bundle::new(&["/bin/probe", "true"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    map_to_itself(&mut bundle);
    let mut peeker = peeker(false, &[], bundle.id());
    peeker.config["linux"]["namespaces"].as_array_mut().expect("a list").retain(|other| other["type"] != "pid");
    let container = subject.start(&peeker);
    seen(subject, &peeker, container, &bundle);
}

fn cve_2023_27561_a_swapped_proc_is_never_a_link(subject: &Subject) {
    for name in ["proc", "sys"] {
        let canary = Scratch::new("canary");
        let bundle = Bundle::new(&["/bin/probe", "true"]);
        let rootfs = bundle.rootfs();
        std::fs::create_dir(rootfs.join("elsewhere")).expect("writable");
        symlink("/elsewhere", rootfs.join("link")).expect("free");
        let mut racer = Racer::new(&rootfs.join(name), &rootfs.join("link"));
        for round in rounds() {
            racer.goes_on();
            let outcome = subject.run(&bundle);
            assert!(names(&rootfs.join("elsewhere")).is_empty(), "round {round}: made behind the link");
            assert!(names(canary.path()).is_empty());
            // Refused by name, or mounted on the directory itself.
            assert!(outcome.status.success() || !outcome.stderr.is_empty(), "round {round}: failed without a word");
        }
    }
}
