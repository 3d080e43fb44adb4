//! The configuration `spec` writes: a shell with a terminal on a read-only root. Pure.

use oci::spec::{
    Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxResources, Mount, OCI_VERSION,
    PosixRlimit, Process, Root, Spec,
};

/// The template; for a user without privileges with that user's ids.
pub fn spec(rootless: Option<(u32, u32)>) -> Spec {
    let mut spec = rootful();
    if let Some((uid, gid)) = rootless {
        make_rootless(&mut spec, uid, gid);
    }
    spec
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: Some(kind.into()),
        source: Some(source.into()),
        options: strings(options),
        ..Mount::default()
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn namespaces(kinds: &[&str]) -> Vec<LinuxNamespace> {
    kinds.iter().map(|kind| LinuxNamespace { kind: (*kind).into(), path: None }).collect()
}

fn rootful() -> Spec {
    let capabilities = strings(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let process = Process {
        terminal: true,
        args: strings(&["sh"]),
        env: strings(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
        cwd: "/".into(),
        capabilities: Some(LinuxCapabilities {
            bounding: capabilities.clone(),
            effective: capabilities.clone(),
            permitted: capabilities,
            ..LinuxCapabilities::default()
        }),
        rlimits: vec![PosixRlimit { kind: "RLIMIT_NOFILE".into(), hard: 1024, soft: 1024 }],
        no_new_privileges: true,
        ..Process::default()
    };
    let linux = Linux {
        resources: Some(LinuxResources {
            devices: vec![LinuxDeviceCgroup { access: Some("rwm".into()), ..LinuxDeviceCgroup::default() }],
            ..LinuxResources::default()
        }),
        namespaces: namespaces(&["pid", "network", "ipc", "uts", "mount", "cgroup"]),
        masked_paths: strings(&[
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
            "/proc/scsi",
        ]),
        readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
        ..Linux::default()
    };
    Spec {
        oci_version: OCI_VERSION.into(),
        process: Some(process),
        root: Some(Root { path: "rootfs".into(), readonly: true }),
        hostname: Some("shoal".into()),
        mounts: mounts(),
        linux: Some(linux),
        ..Spec::default()
    }
}

fn mounts() -> Vec<Mount> {
    let quiet = ["nosuid", "noexec", "nodev"];
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// Only the user's own ids exist inside; the host's network is shared, so sysfs is the host's too.
fn make_rootless(spec: &mut Spec, uid: u32, gid: u32) {
    let linux = spec.linux.get_or_insert_default();
    linux.resources = None;
    linux.namespaces = namespaces(&["pid", "ipc", "uts", "mount", "cgroup", "user"]);
    linux.uid_mappings = vec![LinuxIdMapping { container_id: 0, host_id: uid, size: 1 }];
    linux.gid_mappings = vec![LinuxIdMapping { container_id: 0, host_id: gid, size: 1 }];
    for mount in &mut spec.mounts {
        match mount.destination.as_str() {
            "/sys" => {
                mount.kind = Some("none".into());
                mount.source = Some("/sys".into());
                mount.options = strings(&["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
            // The group of terminals is not mapped.
            _ => mount.options.retain(|option| !option.starts_with("gid=")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_accepted() {
        for template in [spec(None), spec(Some((1000, 1000)))] {
            let id = "x".parse().expect("an id");
            let accepted = crate::container::Container::accept(id, std::path::Path::new("/b"), template);
            assert!(accepted.is_ok(), "{accepted:?}");
        }
    }
}
