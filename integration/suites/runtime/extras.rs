//! What goes beyond the peers: batches, mounts of a running container, error reports, network devices, landlock.

use crate::case::cases;
use crate::subject::Subject;
use integration::bundle::Bundle;
use integration::{Host, Scratch};
use serde_json::{Value, json};

cases! { "extras":
    a_batch_starts_all_it_can ["runc": "has no batch", "crun": "has no batch"],
    mounts_are_added_to_a_running_container_and_removed ["runc": "has no mounts command", "crun": "1.8 has no mounts command"],
    a_failing_mount_takes_back_those_before_it ["runc": "has no mounts command", "crun": "1.8 has no mounts command"],
    a_json_log_reports_phase_operation_path_errno_and_hint ["runc": "has no report", "crun": "has no report"],
    a_label_of_a_missing_security_module_is_refused_in_words ["runc": "1.1 passes the kernel's words", "crun": "1.8 passes the kernel's words"],
    checkpoint_and_restore_say_what_criu_says ["runc": "words of its own", "crun": "1.8 links CRIU and has none"],
    a_checkpoint_writes_its_list_through_no_link ["runc": "1.1 follows it"],
    landlock_confines_a_container_and_its_execs ["runc": "has no landlock", "crun": "has no landlock"],
    a_network_device_keeps_its_addresses_and_is_up ["runc": "1.1 predates netDevices", "crun": "1.8 predates netDevices"],
}

fn a_batch_starts_all_it_can(subject: &Subject) {
    let bundles: Vec<Bundle> = (0..3).map(|_| Bundle::new(&["probe", "pause"])).collect();
    for bundle in &bundles {
        let _ = bundle.write();
    }
    std::fs::remove_file(bundles[1].path().join("config.json")).expect("written above");
    let words = bundles.iter().map(|bundle| format!("{}={}", bundle.id(), bundle.path().display()));
    let outcome = subject.cmd(["run", "--batch"]).args(words).run();
    for bundle in &bundles {
        let _ = subject.cmd(["delete", "--force", bundle.id()]).ok();
    }
    let outcome = outcome.expect_code(1);
    let lines: Vec<Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let pids: Vec<bool> = lines.iter().map(|line| line["pid"].as_i64().is_some_and(|pid| pid > 1)).collect();
    assert_eq!(pids, [true, false, true], "{}", outcome.stdout);
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.contains("config.json")), "{}", lines[1]);
}

fn mounts_are_added_to_a_running_container_and_removed(subject: &Subject) {
    let shared = Scratch::new("mounts");
    std::fs::write(shared.join("file"), "seen").expect("writable");
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let list = json!([
        {"destination": "/added/dir", "type": "bind", "source": shared.path(), "options": ["rbind", "ro"]},
        {"destination": "/added/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700"]}
    ]);
    let _ = container.subject_cmd(["mounts", "add", &container.id, "-"]).input(list.to_string()).ok();
    assert_eq!(container.exec(&["cat", "/added/dir/file"]).expect_success().stdout, "seen");
    let _ = container.exec(&["touch", "/added/dir/new"]).expect_failure();
    let _ = container.exec(&["touch", "/added/tmp/new"]).expect_success();
    let _ = container.subject_cmd(["mounts", "remove", &container.id, "/added/dir", "/added/tmp"]).ok();
    assert_eq!(container.exec(&["ls", "/added/dir"]).expect_success().stdout, "");
    let _ = container.subject_cmd(["mounts", "remove", &container.id, "/added/dir"]).run().expect_failure();
}

fn a_failing_mount_takes_back_those_before_it(subject: &Subject) {
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    let list = json!([
        {"destination": "/first", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/second", "type": "no-such-fs", "source": "x"}
    ]);
    let outcome = container.subject_cmd(["mounts", "add", &container.id, "-"]).input(list.to_string()).run();
    let outcome = outcome.expect_failure();
    assert!(outcome.stderr.contains("no-such-fs"), "{}", outcome.stderr);
    let mounts = container.exec(&["cat", "/proc/self/mountinfo"]).expect_success().stdout;
    assert!(!mounts.contains("/first"), "{mounts}");
}

fn a_json_log_reports_phase_operation_path_errno_and_hint(subject: &Subject) {
    let report = |bundle: &Bundle| -> Value {
        let outcome = subject.cmd(["--log-format", "json", "run", "--bundle"]).arg(bundle.path()).arg(bundle.id());
        let outcome = outcome.run().expect_failure();
        let line = outcome.stderr.lines().last().expect("an error");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    let found = report(bundle.write());
    assert_eq!((&found["level"], &found["phase"], &found["errno"]), (&json!("error"), &json!("setup"), &json!(2)));
    for member in ["msg", "time", "operation", "path", "hint"] {
        assert!(found[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {found}");
    }
    let mut bundle = Bundle::new(&["probe", "true"]);
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}]);
    let found = report(bundle.write());
    assert_eq!(found["phase"], "config");
    assert!(found["path"].as_str().is_some_and(|path| path.starts_with("process.rlimits")), "{found}");
}

fn a_network_device_keeps_its_addresses_and_is_up(subject: &Subject) {
    let host = Host::new("netdev");
    let name = format!("sn{}", std::process::id());
    let ip = |args: &str| integration::Cmd::new("ip").args(args.split(' ')).ok();
    let _ = ip(&format!("link add {name} type veth peer name {name}p"));
    let guard = Link(name.clone());
    let _ = ip(&format!("addr add 10.231.7.9/24 dev {name}"));
    let _ = ip(&format!("-6 addr add fd31:7::9/64 dev {name} nodad"));
    let mut bundle = Bundle::new(&["sh", "-c", "ip addr show dev inside"]);
    bundle.config["linux"]["netDevices"] = json!({name: {"name": "inside"}});
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("a list") {
        if namespace["type"] == "network" {
            namespace["path"] = json!(host.netns_path());
        }
    }
    let seen = subject.run(&bundle).expect_success().stdout;
    drop(guard);
    assert!(seen.contains("10.231.7.9/24") && seen.contains("fd31:7::9/64"), "{seen}");
    assert!(seen.contains(",UP"), "{seen}");
}

/// A link that is removed if the container has not taken it.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = integration::Cmd::new("ip").args(["link", "delete", &self.0]).attempt();
    }
}

/// CRIU does not work on every kernel: then its own words and the place of its log are the answer, and the container
/// goes on as if nothing had been asked.
fn a_checkpoint_writes_its_list_through_no_link(subject: &Subject) {
    let (images, victim) = (Scratch::new("images"), Scratch::new("victim"));
    std::fs::write(victim.join("file"), "mine").expect("writable");
    std::os::unix::fs::symlink(victim.join("file"), images.join("descriptors.json")).expect("free");
    let bundle = Bundle::new(&["probe", "pause"]);
    let container = subject.start(&bundle);
    // Whether CRIU works here is another case's.
    let _ = container.subject_cmd(["checkpoint", "--image-path"]).arg(images.path()).arg(&container.id).run();
    assert_eq!(std::fs::read_to_string(victim.join("file")).expect("readable"), "mine");
}

fn checkpoint_and_restore_say_what_criu_says(subject: &Subject) {
    let works = integration::Cmd::new(integration::binaries::tool("criu", "criu")).arg("check").run().status.success();
    let images = Scratch::new("images");
    let bundle = Bundle::new(&["sh", "-c", "while :; do sleep 1; done"]);
    let container = subject.start(&bundle);
    let dump = |more: &[&str]| {
        let dump = container.subject_cmd(["checkpoint", "--image-path"]).arg(images.path()).args(more);
        dump.arg(&container.id).run()
    };
    if works {
        let _ = dump(&["--leave-running"]).expect_success();
        assert_eq!(container.status(), "running");
        let _ = dump(&[]).expect_success();
        let restore = container.subject_cmd(["restore", "--detach", "--image-path"]).arg(images.path());
        let _ = restore.arg("--bundle").arg(bundle.path()).arg(&container.id).ok();
        assert_eq!(container.status(), "running");
        return;
    }
    let outcome = dump(&["--tcp-established", "--file-locks", "--manage-cgroups-mode", "full"]).expect_failure();
    assert!(outcome.stderr.contains("criu failed: dump"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("dump.log"), "{}", outcome.stderr);
    assert_eq!(container.status(), "running");
    let id = format!("{}-restored", bundle.id());
    let restore = container.subject_cmd(["restore", "--image-path"]).arg(images.path()).arg("--bundle");
    let outcome = restore.arg(bundle.path()).arg(&id).run().expect_failure();
    assert!(outcome.stderr.contains("criu failed: restore"), "{}", outcome.stderr);
    let _ = container.subject_cmd(["state", &id]).run().expect_failure();
    // Cgroups of others go while it looks, for which it fails.
    let found = integration::Cmd::new("find").args(["/sys/fs/cgroup", "-ignore_readdir_race", "-name", &id]).run();
    assert_eq!(found.stdout, "");
}

/// On a host that has the module the label itself is unknown, which is refused too.
fn a_label_of_a_missing_security_module_is_refused_in_words(subject: &Subject) {
    for (member, module, mark) in [
        ("selinuxLabel", "SELinux", "/sys/fs/selinux/enforce"),
        ("apparmorProfile", "AppArmor", "/sys/kernel/security/apparmor"),
    ] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        bundle.config["process"][member] = json!("no:such:label:s0");
        let outcome = subject.run(&bundle).expect_failure();
        let there = std::path::Path::new(mark).exists();
        let words = format!("this host lacks {module}");
        assert!(there || outcome.stderr.contains(&words), "{}", outcome.stderr);
    }
}

fn landlock_confines_a_container_and_its_execs(subject: &Subject) {
    let annotate = |bundle: &mut Bundle, document: Value| {
        bundle.config["annotations"] = json!({"org.shoal.landlock": document.to_string()});
    };
    let document = json!({
        "ruleset": {"handledAccessFS": ["read_file", "write_file", "truncate", "make_reg"], "handledAccessNetwork": ["bind_tcp"]},
        "rules": {
            "pathBeneath": [
                {"allowedAccess": ["read_file"], "paths": ["/bin", "/proc"]},
                {"allowedAccess": ["read_file", "write_file", "truncate", "make_reg"], "paths": ["/tmp", "/dev/null"]}
            ],
            "netPort": [{"allowedAccess": ["bind_tcp"], "ports": [8080]}]
        },
        "disableBestEffort": true
    });
    let script = "cat /etc/passwd && echo read; echo x > /etc/passwd && echo wrote; touch /etc/new && echo made; \
                  echo fine > /tmp/mine; cat /tmp/mine; \
                  timeout 1 nc -l -p 8080; test $? -ge 124 && echo bound; timeout 1 nc -l -p 8081; test $? -lt 124 && echo refused";
    let mut bundle = Bundle::new(&["sh", "-c", &format!("{script}; true")]);
    annotate(&mut bundle, document.clone());
    assert_eq!(subject.run(&bundle).expect_success().stdout, "fine\nbound\nrefused\n");
    let mut bundle = Bundle::new(&["probe", "pause"]);
    annotate(&mut bundle, document);
    let container = subject.start(&bundle);
    let _ = container.exec(&["cat", "/etc/passwd"]).expect_failure();
    let _ = container.exec(&["sh", "-c", "echo x > /tmp/mine && cat /tmp/mine"]).expect_success();
    drop(container);
    // A document that means nothing starts nothing, and neither does a path that is not there.
    for wrong in [
        json!({}),
        json!({"ruleset": {"handledAccessFS": ["fly"]}}),
        json!({
            "ruleset": {"handledAccessFS": ["execute"]},
            "rules": {"pathBeneath": [{"allowedAccess": ["execute"], "paths": ["/no/such"]}]}
        }),
    ] {
        let mut bundle = Bundle::new(&["probe", "true"]);
        annotate(&mut bundle, wrong);
        let outcome = subject.run(&bundle).expect_failure();
        assert!(outcome.stderr.contains("landlock"), "{}", outcome.stderr);
    }
}
