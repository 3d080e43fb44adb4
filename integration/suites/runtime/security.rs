//! The known attacks: what must hold while the payload, the image or a racer is hostile.

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use integration::{Cmd, Scratch};
use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

cases! { "security":
    cve_2024_21626_a_cwd_through_a_descriptor_is_refused ["runc": "1.1.5 is vulnerable unless patched by the distribution"],
    cve_2024_21626_a_leaked_descriptor_is_not_passed,
    cve_2019_16884_a_volume_over_proc_is_refused ["crun": "1.8 starts it"],
    cve_2019_18837_proc_and_sys_as_symlinks_make_nothing_outside,
    cve_2025_31133_a_masked_file_is_not_writable_when_dev_null_is_a_link ["runc": "1.1.5 is vulnerable", "crun": "1.8 is vulnerable"],
    cve_2026_41579_a_dev_symlink_makes_no_node_outside ["runc": "1.1.5 is vulnerable", "crun": "1.8 is vulnerable"],
    cve_2021_43784_many_id_mappings_are_a_clean_error,
    ghsa_g54h_without_device_rules_nodes_are_unusable ["runc": "1.1 allows by default", "crun": "1.8 allows by default"],
    standard_paths_as_links_fifos_and_files_never_reach_the_host ["runc": "1.1 makes the links of /dev on the host when /dev is a link", "crun": "1.8 is vulnerable"],
    cve_2019_5736_the_binary_cannot_be_opened_for_writing,
    a_mount_that_becomes_writable_later_shows_no_binary_to_write ["crun": "1.8 is vulnerable"],
    cve_2023_28642_proc_and_sys_as_symlinks_are_refused ["crun": "1.8 mounts behind the link"],
    a_look_alike_in_place_of_proc_is_refused ["crun": "1.8 masks the look-alike"],
    a_proc_moved_away_before_the_masks_is_refused ["crun": "1.8 masks nothing then"],
    a_link_to_proc_among_the_readonly_paths_uncovers_nothing,
    a_cgroup_for_exec_cannot_climb,
    links_under_the_root_lead_nowhere,
}

/// A folder on the host that a hostile image points at, and the proof that nothing was made in it.
struct Canary {
    scratch: Scratch,
}

impl Canary {
    fn new() -> Self {
        Self { scratch: Scratch::new("canary") }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn untouched(&self) {
        let made: Vec<_> =
            std::fs::read_dir(self.path()).expect("the canary is there").flatten().map(|entry| entry.path()).collect();
        assert!(made.is_empty(), "made on the host: {made:?}");
    }
}

fn cve_2024_21626_a_cwd_through_a_descriptor_is_refused(subject: &Subject) {
    for number in 3..12 {
        let mut bundle = Bundle::new(&["cat", "../../../../../../etc/machine-id"]);
        bundle.config["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
        let _ = subject.run(&bundle).expect_failure();
    }
}

fn cve_2024_21626_a_leaked_descriptor_is_not_passed(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "report", "fds"]);
    bundle.write();
    let runtime = subject.cmd(["run", "--bundle"]).arg(bundle.path()).arg(bundle.id()).line();
    let outcome = integration::Cmd::new("sh").args(["-c", &format!("exec 9</; exec {runtime}")]).run().expect_success();
    assert!(!outcome.stdout.contains("\"9\""), "{}", outcome.stdout);
}

fn cve_2019_16884_a_volume_over_proc_is_refused(subject: &Subject) {
    let fake = Scratch::new("proc");
    std::fs::create_dir_all(fake.join("self/attr")).expect("writable");
    std::fs::write(fake.join("self/attr/exec"), "").expect("writable");
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.mount(json!({"destination": "/proc", "type": "bind", "source": fake.path(), "options": ["bind"]}));
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let _ = subject.run(&bundle).expect_failure();
    assert_eq!(std::fs::read_to_string(fake.join("self/attr/exec")).expect("readable"), "");
}

/// A bundle whose hook changes the root file system from outside, between the mounts and the masks: what somebody who
/// shares the folder could do at just that moment. The program would show the first bytes of the masked file.
fn changed_between_mounts_and_masks(change: &str) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", "cat /proc/filesystems /gone/filesystems 2>/dev/null; true"]);
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/filesystems"]);
    let script = bundle.path().join("change");
    std::fs::write(&script, format!("#!/bin/sh\nset -e\ncd {}\n{change}\n", bundle.rootfs().display())).expect("ours");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("ours");
    bundle.config["hooks"] = json!({"createRuntime": [{"path": script}]});
    bundle
}

fn a_look_alike_in_place_of_proc_is_refused(subject: &Subject) {
    let bundle = changed_between_mounts_and_masks("mv proc gone; mkdir proc; echo look-alike > proc/filesystems");
    let outcome = subject.run(&bundle);
    assert!(!outcome.stdout.contains("tmpfs"), "the masked file is open elsewhere: {}", outcome.stdout);
    let _ = outcome.expect_failure();
}

fn a_proc_moved_away_before_the_masks_is_refused(subject: &Subject) {
    let outcome = subject.run(&changed_between_mounts_and_masks("mv proc gone; mkdir proc"));
    assert!(!outcome.stdout.contains("tmpfs"), "the masked file is open elsewhere: {}", outcome.stdout);
    let _ = outcome.expect_failure();
}

fn a_link_to_proc_among_the_readonly_paths_uncovers_nothing(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "cat /proc/filesystems /gone/filesystems 2>/dev/null; true"]);
    symlink("proc", bundle.rootfs().join("link")).expect("free");
    bundle.config["linux"]["readonlyPaths"] = json!(["/link"]);
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/filesystems"]);
    let outcome = subject.run(&bundle);
    assert!(!outcome.stdout.contains("tmpfs"), "the masked file is open: {}", outcome.stdout);
}

fn cve_2019_18837_proc_and_sys_as_symlinks_make_nothing_outside(subject: &Subject) {
    for name in ["proc", "sys", "dev/pts", "dev/shm"] {
        let canary = Canary::new();
        let bundle = Bundle::new(&["probe", "true"]);
        let place = bundle.rootfs().join(name);
        let _ = std::fs::remove_dir(&place);
        std::fs::create_dir_all(place.parent().expect("a parent")).expect("writable");
        symlink(canary.path(), &place).expect("the place is free");
        let _ = subject.run(&bundle);
        canary.untouched();
    }
}

fn cve_2025_31133_a_masked_file_is_not_writable_when_dev_null_is_a_link(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "echo owned > /etc/secret; wc -c < /etc/secret"]);
    std::fs::write(bundle.rootfs().join("etc/secret"), "secret").expect("writable");
    std::fs::write(bundle.rootfs().join("target"), "target").expect("writable");
    let mounts = bundle.config["mounts"].as_array_mut().expect("a list");
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
    symlink("/target", bundle.rootfs().join("dev/null")).expect("the place is free");
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret"]);
    let outcome = subject.run(&bundle);
    assert_eq!(std::fs::read_to_string(bundle.rootfs().join("target")).expect("readable"), "target");
    assert_eq!(std::fs::read_to_string(bundle.rootfs().join("etc/secret")).expect("readable"), "secret");
    assert!(!outcome.status.success() || outcome.stdout.trim() == "0", "{}", outcome.stdout);
}

fn cve_2026_41579_a_dev_symlink_makes_no_node_outside(subject: &Subject) {
    let canary = Canary::new();
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["mounts"]
        .as_array_mut()
        .expect("a list")
        .retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
    std::fs::remove_dir(bundle.rootfs().join("dev")).expect("empty");
    symlink(canary.path(), bundle.rootfs().join("dev")).expect("the place is free");
    let _ = subject.run(&bundle);
    canary.untouched();
}

fn cve_2021_43784_many_id_mappings_are_a_clean_error(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
    let many: Vec<_> = (0..70_000).map(|id| json!({"containerID": id, "hostID": 100_000 + id, "size": 1})).collect();
    bundle.config["linux"]["uidMappings"] = many.clone().into();
    bundle.config["linux"]["gidMappings"] = many.into();
    let _ = subject.run(&bundle).expect_failure();
    let _ = subject.cmd(["state", bundle.id()]).run().expect_failure();
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"type": "ipc", "path": "x".repeat(100_000)}));
    let _ = subject.run(&bundle).expect_failure();
}

fn ghsa_g54h_without_device_rules_nodes_are_unusable(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "mknod /tmp/kmsg c 1 11; probe open /tmp/kmsg /dev/null"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
    }
    bundle.config["linux"].as_object_mut().expect("a map").remove("resources");
    let text = subject.run(&bundle).stdout;
    assert!(text.contains("/tmp/kmsg errno 1\n") || text.contains("/tmp/kmsg errno 2\n"), "{text}");
    assert!(text.contains("/dev/null ok"), "{text}");
}

fn standard_paths_as_links_fifos_and_files_never_reach_the_host(subject: &Subject) {
    let paths =
        ["proc", "sys", "dev", "dev/pts", "dev/shm", "dev/mqueue", "dev/null", "dev/console", "dev/ptmx", "etc", "tmp"];
    for path in paths {
        for kind in ["link", "chain", "fifo", "file"] {
            let canary = Canary::new();
            let bundle = Bundle::new(&["/bin/probe", "true"]);
            let place = bundle.rootfs().join(path);
            std::fs::create_dir_all(place.parent().expect("a parent")).expect("writable");
            if place.exists() {
                std::fs::remove_dir_all(&place).expect("ours");
            }
            match kind {
                "link" => symlink(canary.path(), &place).expect("free"),
                "chain" => {
                    symlink(format!("/tmp/../hop-{}", path.replace('/', "-")), &place).expect("free");
                    symlink(
                        Path::new("../../../../..").join(canary.path().strip_prefix("/").expect("absolute")),
                        bundle.rootfs().join(format!("hop-{}", path.replace('/', "-"))),
                    )
                    .expect("free");
                }
                "fifo" => nix::unistd::mkfifo(&place, nix::sys::stat::Mode::from_bits_truncate(0o644)).expect("free"),
                _ => std::fs::write(&place, "a file").expect("free"),
            }
            let outcome = subject.run(&bundle);
            canary.untouched();
            assert!(outcome.status.success() || !outcome.stderr.is_empty(), "{path} as {kind}: failed without a word");
        }
    }
}

fn cve_2019_5736_the_binary_cannot_be_opened_for_writing(subject: &Subject) {
    let binary = subject.binary();
    let before = std::fs::read(binary).expect("readable");
    let mut bundle = Bundle::new(&["/proc/self/exe", "--version"]);
    let _ = subject.run(&bundle);
    bundle = Bundle::new(&["sh", "-c", "probe write-exe & sleep 1000"]);
    let container = subject.start(&bundle);
    for _ in 0..50 {
        let _ = container.exec(&["/proc/self/exe", "--version"]);
    }
    drop(container);
    assert!(std::fs::read(binary).expect("readable") == before, "the host's binary was changed");
}

/// A folder of the host that is a read-only mount of itself.
struct ReadOnly(Scratch);

impl ReadOnly {
    fn new(file: &Path) -> (Self, PathBuf) {
        let scratch = Scratch::new("read-only");
        let inside = scratch.path().join(file.file_name().expect("a file has a name"));
        std::fs::copy(file, &inside).expect("a copy");
        let _ = Cmd::new("mount").arg("--bind").args([scratch.path(), scratch.path()]).ok();
        let mounted = Self(scratch);
        mounted.remount("ro");
        (mounted, inside)
    }

    fn remount(&self, how: &str) {
        let _ = Cmd::new("mount").args(["-o", &format!("remount,bind,{how}")]).arg(self.0.path()).ok();
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg("--lazy").arg(self.0.path()).attempt();
    }
}

fn a_mount_that_becomes_writable_later_shows_no_binary_to_write(subject: &Subject) {
    let (place, binary) = ReadOnly::new(subject.binary());
    let before = std::fs::read(&binary).expect("readable");
    let elsewhere = Subject::new(binary.clone());
    let bundle = Bundle::new(&["probe", "true"]);
    let container = elsewhere.create(&bundle);
    // What a process inside could keep of a runtime that it sees.
    let kept = std::fs::File::open(format!("/proc/{}/exe", container.state()["pid"])).expect("root may look");
    drop(container);
    place.remount("rw");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
    let opened = std::fs::File::options().append(true).open(path);
    let written = opened.and_then(|mut file| std::io::Write::write_all(&mut file, b"owned"));
    let after = std::fs::read(&binary).expect("readable");
    assert!(after == before && written.is_err(), "the host's binary was written to");
}

fn cve_2023_28642_proc_and_sys_as_symlinks_are_refused(subject: &Subject) {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new(&["/bin/probe", "true"]);
        std::fs::remove_dir(bundle.rootfs().join(name)).expect("empty");
        std::fs::create_dir(bundle.rootfs().join("elsewhere")).expect("writable");
        symlink("/elsewhere", bundle.rootfs().join(name)).expect("free");
        let _ = subject.run(&bundle).expect_failure();
        let made = std::fs::read_dir(bundle.rootfs().join("elsewhere")).expect("it is there").count();
        assert_eq!(made, 0, "{name}");
    }
}

fn a_cgroup_for_exec_cannot_climb(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    for path in ["../..", "../../", "a/../../..", "../../../../../../../../", "memory:../.."] {
        let climb = ["exec", "--cgroup", path, &container.id, "cat", "/proc/self/cgroup"];
        let outcome = container.subject_cmd(climb).run();
        let _ = outcome.expect_failure();
    }
}

fn links_under_the_root_lead_nowhere(subject: &Subject) {
    let canary = Canary::new();
    let bundle = Bundle::new(&["probe", "true"]);
    bundle.write();
    let id = bundle.id();
    std::fs::create_dir_all(subject.root()).expect("writable");
    // The directory of a container is a link.
    symlink(canary.path(), subject.root().join(id)).expect("free");
    let _ = subject.cmd(["create", "--bundle"]).arg(bundle.path()).arg(id).run().expect_failure();
    for verb in ["state", "start", "kill", "delete"] {
        let _ = subject.cmd([verb, id]).run().expect_failure();
    }
    let _ = subject.cmd(["delete", "--force", id]).run();
    canary.untouched();
    assert!(canary.path().exists());
    let _ = std::fs::remove_file(subject.root().join(id));
    // The files in it are.
    let kept = canary.path().join("kept");
    std::fs::write(&kept, "kept").expect("writable");
    std::fs::create_dir(subject.root().join(id)).expect("free");
    for name in ["state.json", "state.json.new", "config.json", "config.json.new", "start", "exec.fifo", "status"] {
        symlink(&kept, subject.root().join(id).join(name)).expect("free");
    }
    for args in [&["state"][..], &["start"], &["exec"], &["delete"], &["delete", "--force"]] {
        let cmd = subject.cmd(args).arg(id);
        let _ = if args[0] == "exec" { cmd.arg("true").run() } else { cmd.run() };
    }
    assert_eq!(std::fs::read_to_string(&kept).expect("it is there"), "kept");
    let _ = std::fs::remove_dir_all(subject.root().join(id));
}
