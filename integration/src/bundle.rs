//! Bundles for runtime tests: a rootfs of busybox and the probe, and a `config.json` that a test edits as JSON.

use crate::{Cmd, Scratch, binaries};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A bundle in a scratch folder of its own.
#[derive(Debug)]
pub struct Bundle {
    scratch: Scratch,
    /// The document that [`Bundle::write`] puts into `config.json`.
    pub config: Value,
}

impl Bundle {
    /// Makes a bundle whose process is `args`, with the default namespaces, mounts and limits of `runc spec`, no terminal.
    pub fn new(args: &[&str]) -> Self {
        let scratch = Scratch::new("bundle");
        fill_rootfs(&scratch.join("rootfs"));
        let mut config = default_config();
        config["process"]["args"] = json!(args);
        Self { scratch, config }
    }

    /// Returns the bundle's folder.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Returns the rootfs on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.scratch.join("rootfs")
    }

    /// Returns an id for this bundle's container that no other test uses.
    pub fn id(&self) -> &str {
        self.scratch.id()
    }

    /// Writes `config.json`.
    pub fn write(&self) -> &Self {
        let text = serde_json::to_string_pretty(&self.config).expect("a JSON value is printable");
        std::fs::write(self.scratch.join("config.json"), text).expect("the scratch folder is writable");
        self
    }

    /// Appends a mount.
    pub fn mount(&mut self, mount: Value) -> &mut Self {
        self.config["mounts"].as_array_mut().expect("mounts is a list").push(mount);
        self
    }
}

/// Fills `rootfs` with busybox (all applets in /bin), the probe, and the usual folders and account files.
pub fn fill_rootfs(rootfs: &Path) {
    for folder in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "var", "run"] {
        std::fs::create_dir_all(rootfs.join(folder)).expect("the scratch folder is writable");
    }
    let busybox = binaries::tool("busybox", "busybox-static");
    std::fs::copy(&busybox, rootfs.join("bin/busybox")).expect("busybox can be copied");
    let applets = Cmd::new(&busybox).arg("--list").ok();
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).expect("an applet's link is new");
    }
    std::fs::copy(binaries::probe(), rootfs.join("bin/probe")).expect("the probe can be copied");
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
        .expect("etc is writable");
    std::fs::write(rootfs.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n").expect("etc is writable");
}

/// The configuration that `runc spec` writes, without a terminal.
pub fn default_config() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "guest",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
