//! Debian's user-mode-linux: up in two seconds, cgroup v2 with cpu, io, memory and pids, no systemd.

use super::outcome;
use crate::shell::{self, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Memory of the machine: a container test needs little, and the host has other work.
const MEMORY: &str = "mem=1024M";

/// Boots the machine, runs `line` in it, and fails as the line does.
pub(super) fn boot(folder: &Path, line: &str) -> Result<()> {
    let kernel = ["/usr/bin/linux.uml", "/usr/bin/linux"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok())
        .ok_or("user-mode-linux is not installed; run: apt-get install user-mode-linux")?;
    let init = folder.join("init");
    // The live root is read-only inside; what must be writable is a tmpfs, and `folder` is the way back out.
    let script = format!(
        "#!/bin/sh
export PATH={path} HOME=/root TERM=dumb
mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t hostfs -o {folder} none /mnt
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts -o newinstance,ptmxmode=0666 pts /dev/pts
ip link set lo up
cd {top}
{line} </dev/null
echo $? > /mnt/status
sync
halt -f -p || poweroff -f
",
        path = std::env::var("PATH").unwrap_or_default(),
        folder = folder.display(),
        top = shell::top().display(),
    );
    fs::write(&init, script).map_err(|error| format!("write {}: {error}", init.display()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("mode of {}: {error}", init.display()))?;
    let mut uml = Command::new(kernel);
    uml.args([MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"])
        .args(["con=null", "con0=fd:0,fd:1", "ssl=null"])
        .arg(format!("init={}", init.display()))
        .env("TMPDIR", folder)
        .stdin(Stdio::null());
    let _ = uml.status().map_err(|error| format!("start {kernel}: {error}"))?;
    outcome(&folder.join("status"))
}
