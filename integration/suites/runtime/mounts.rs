//! Mounts, propagation, masked and read-only paths, devices. runtime-spec config.md "Mounts", config-linux.md "Default Devices".

use crate::case::cases;
use crate::subject::Subject;
use integration::Scratch;
use integration::bundle::Bundle;
use serde_json::{Value, json};

cases! { "mounts":
    mounts_appear_in_order_with_their_options,
    a_bind_mount_shows_the_hosts_files,
    a_bind_mount_of_a_file_makes_its_target,
    a_read_only_bind_cannot_be_written,
    a_recursive_read_only_bind_covers_submounts ["runc": "1.1 predates rro"],
    a_read_only_root_cannot_be_written,
    tmpfs_options_are_kept,
    tmpcopyup_keeps_what_was_there ["crun": "1.8 needs it spelt differently"],
    masked_paths_are_empty,
    readonly_paths_cannot_be_written,
    default_devices_are_there_and_work,
    default_links_are_there,
    configured_devices_are_made,
    propagation_of_the_root_is_set ["runc": "1.1 leaves / private when it should be shared"],
    a_shared_bind_propagates ["crun": "1.8 leaves it private"],
    mounts_do_not_leak_to_the_host,
    an_idmapped_bind_shifts_owners ["runc": "1.1 predates idmapped mounts", "crun": "1.8 spells the option otherwise"],
    a_missing_source_is_an_error,
    a_relative_destination_is_below_the_root,
    nosymfollow_and_noatime_reach_the_kernel ["runc": "1.1 predates nosymfollow", "crun": "1.8 hands nosymfollow to the file system"],
}

fn probe(sections: &[&str]) -> Bundle {
    let mut args = vec!["probe", "report"];
    args.extend(sections);
    Bundle::new(&args)
}

fn find<'a>(report: &'a Value, destination: &str) -> &'a Value {
    report["mounts"]
        .as_array()
        .expect("a list")
        .iter()
        .rev()
        .find(|mount| mount["destination"] == destination)
        .unwrap_or_else(|| panic!("{destination} is not mounted: {report}"))
}

fn has(mount: &Value, option: &str) -> bool {
    ["options", "super"]
        .iter()
        .any(|field| mount[field].as_array().is_some_and(|list| list.iter().any(|item| item == option)))
}

fn mounts_appear_in_order_with_their_options(subject: &Subject) {
    let mut bundle = probe(&["mounts"]);
    bundle.mount(json!({"destination": "/a", "type": "tmpfs", "source": "first", "options": ["nosuid", "nodev", "noexec", "ro"]}));
    bundle.mount(json!({"destination": "/a/b", "type": "tmpfs", "source": "second"}));
    std::fs::create_dir_all(bundle.rootfs().join("a/b")).expect("writable");
    bundle.config["mounts"].as_array_mut().expect("a list").pop();
    let report = subject.report(&bundle);
    let mount = find(&report, "/a");
    assert_eq!((&mount["type"], &mount["source"]), (&json!("tmpfs"), &json!("first")));
    for option in ["nosuid", "nodev", "noexec", "ro"] {
        assert!(has(mount, option), "{option}: {mount}");
    }
}

fn a_bind_mount_shows_the_hosts_files(subject: &Subject) {
    let scratch = Scratch::new("bind");
    std::fs::write(scratch.join("file"), "from the host").expect("writable");
    let mut bundle = Bundle::new(&["sh", "-c", "cat /mnt/there/file; echo back > /mnt/there/answer"]);
    bundle.mount(json!({"destination": "/mnt/there", "type": "bind", "source": scratch.path(), "options": ["rbind"]}));
    assert_eq!(subject.run(&bundle).expect_success().stdout, "from the host");
    assert_eq!(std::fs::read_to_string(scratch.join("answer")).expect("written from inside"), "back\n");
}

fn a_bind_mount_of_a_file_makes_its_target(subject: &Subject) {
    let scratch = Scratch::new("bind");
    std::fs::write(scratch.join("file"), "one file").expect("writable");
    let mut bundle = Bundle::new(&["cat", "/etc/made/for/it"]);
    bundle.mount(json!({"destination": "/etc/made/for/it", "type": "none", "source": scratch.join("file"), "options": ["bind", "ro"]}));
    assert_eq!(subject.run(&bundle).expect_success().stdout, "one file");
}

fn a_read_only_bind_cannot_be_written(subject: &Subject) {
    let scratch = Scratch::new("bind");
    let mut bundle = Bundle::new(&["touch", "/mnt/file"]);
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": scratch.path(), "options": ["bind", "ro"]}));
    let outcome = subject.run(&bundle).expect_failure();
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}

fn a_recursive_read_only_bind_covers_submounts(subject: &Subject) {
    let scratch = Scratch::new("bind");
    std::fs::create_dir(scratch.join("sub")).expect("writable");
    let _ = integration::Cmd::new("mount").args(["-t", "tmpfs", "sub"]).arg(scratch.join("sub")).ok();
    let mut bundle = Bundle::new(&["touch", "/mnt/sub/file"]);
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": scratch.path(), "options": ["rbind", "rro"]}));
    let outcome = subject.run(&bundle).expect_failure();
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}

fn a_read_only_root_cannot_be_written(subject: &Subject) {
    let mut bundle = Bundle::new(&["touch", "/file"]);
    bundle.config["root"]["readonly"] = true.into();
    let outcome = subject.run(&bundle).expect_failure();
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}

fn tmpfs_options_are_kept(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "stat -c %a /scratch; grep ' /scratch ' /proc/mounts"]);
    bundle.mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=700", "nr_inodes=50"]}));
    let text = subject.run(&bundle).expect_success().stdout;
    assert!(text.starts_with("700\n") && text.contains("size=1024k") && text.contains("nr_inodes=50"), "{text}");
}

fn tmpcopyup_keeps_what_was_there(subject: &Subject) {
    let mut bundle = Bundle::new(&["cat", "/filled/deep/file"]);
    std::fs::create_dir_all(bundle.rootfs().join("filled/deep")).expect("writable");
    std::fs::write(bundle.rootfs().join("filled/deep/file"), "kept").expect("writable");
    bundle.mount(json!({"destination": "/filled", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    assert_eq!(subject.run(&bundle).expect_success().stdout, "kept");
}

fn masked_paths_are_empty(subject: &Subject) {
    let mut bundle =
        Bundle::new(&["sh", "-c", "wc -c < /etc/secret; ls /vault | wc -l; cat /no/such 2>/dev/null; exit 0"]);
    std::fs::write(bundle.rootfs().join("etc/secret"), "secret").expect("writable");
    std::fs::create_dir(bundle.rootfs().join("vault")).expect("writable");
    std::fs::write(bundle.rootfs().join("vault/key"), "secret").expect("writable");
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/vault", "/no/such"]);
    let text = subject.run(&bundle).expect_success().stdout;
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "0"]);
}

fn readonly_paths_cannot_be_written(subject: &Subject) {
    let mut bundle = Bundle::new(&["sh", "-c", "touch /tree/file"]);
    std::fs::create_dir(bundle.rootfs().join("tree")).expect("writable");
    bundle.config["linux"]["readonlyPaths"] = json!(["/tree", "/no/such"]);
    let outcome = subject.run(&bundle).expect_failure();
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
}

fn default_devices_are_there_and_work(subject: &Subject) {
    let mut bundle = probe(&["devices"]);
    let devices = subject.report(&bundle)["devices"].clone();
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        assert_eq!(
            (&devices[name]["major"], &devices[name]["minor"], &devices[name]["mode"]),
            (&json!(major), &json!(minor), &json!(0o666)),
            "{name}"
        );
    }
    bundle = Bundle::new(&[
        "sh",
        "-c",
        "head -c 4 /dev/zero | wc -c; echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo x > /dev/full",
    ]);
    let outcome = subject.run(&bundle).expect_failure();
    assert_eq!(outcome.stdout.split_whitespace().collect::<Vec<_>>(), ["4", "4"]);
    assert!(outcome.stderr.contains("No space left"), "{}", outcome.stderr);
}

fn default_links_are_there(subject: &Subject) {
    let links = &subject.report(&probe(&["links"]))["links"];
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        assert_eq!(links[name], target);
    }
    assert!(links["/dev/ptmx"].as_str().is_some_and(|target| target.ends_with("pts/ptmx")), "{links}");
}

fn configured_devices_are_made(subject: &Subject) {
    let mut bundle = probe(&["devices"]);
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8}]);
    let devices = &subject.report(&bundle)["devices"]["mine"];
    assert_eq!(*devices, json!({"kind": "c", "major": 1, "minor": 3, "mode": 0o640, "uid": 7, "gid": 8}));
}

fn propagation_of_the_root_is_set(subject: &Subject) {
    for (word, field) in [("private", None), ("slave", Some("master:")), ("shared", Some("shared:"))] {
        let mut bundle = probe(&["mounts"]);
        bundle.config["linux"]["rootfsPropagation"] = word.into();
        let report = subject.report(&bundle);
        let propagation = find(&report, "/")["propagation"].clone();
        match field {
            Some("shared:") => assert!(propagation.to_string().contains("shared:"), "{word}: {propagation}"),
            // A rootfs that was not shared on the host has no master; it must at least not be shared.
            _ => assert!(!propagation.to_string().contains("shared:"), "{word}: {propagation}"),
        }
    }
}

fn a_shared_bind_propagates(subject: &Subject) {
    let mut bundle = probe(&["mounts"]);
    let scratch = Scratch::new("bind");
    bundle.mount(
        json!({"destination": "/mnt", "type": "bind", "source": scratch.path(), "options": ["rbind", "rshared"]}),
    );
    let report = subject.report(&bundle);
    assert!(find(&report, "/mnt")["propagation"].to_string().contains("shared:"));
}

fn mounts_do_not_leak_to_the_host(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.mount(json!({"destination": "/leak", "type": "tmpfs", "source": "tmpfs"}));
    let _ = subject.run(&bundle).expect_success();
    assert_eq!(integration::scratch::mounts_below(bundle.path()), Vec::<std::path::PathBuf>::new());
}

fn an_idmapped_bind_shifts_owners(subject: &Subject) {
    let scratch = Scratch::new("idmap");
    std::fs::write(scratch.join("file"), "").expect("writable");
    let mut bundle = Bundle::new(&["stat", "-c", "%u:%g", "/mnt/file"]);
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": scratch.path(), "options": ["bind"], "uidMappings": map, "gidMappings": map}));
    assert_eq!(subject.run(&bundle).expect_success().stdout.trim(), "5000:5000");
}

fn a_missing_source_is_an_error(subject: &Subject) {
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.mount(json!({"destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    let outcome = subject.run(&bundle).expect_failure();
    assert!(outcome.stderr.contains("/no/such/source"), "{}", outcome.stderr);
}

fn a_relative_destination_is_below_the_root(subject: &Subject) {
    let mut bundle = probe(&["mounts"]);
    bundle.mount(json!({"destination": "/up/../../../relative", "type": "tmpfs", "source": "tmpfs"}));
    let report = subject.report(&bundle);
    assert_eq!(find(&report, "/relative")["type"], "tmpfs");
}

fn nosymfollow_and_noatime_reach_the_kernel(subject: &Subject) {
    let mut bundle = probe(&["mounts"]);
    bundle.mount(
        json!({"destination": "/flags", "type": "tmpfs", "source": "tmpfs", "options": ["nosymfollow", "noatime"]}),
    );
    let report = subject.report(&bundle);
    let mount = find(&report, "/flags");
    assert!(has(mount, "noatime") && has(mount, "nosymfollow"), "{mount}");
}
