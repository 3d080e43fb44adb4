//! A command in a small virtual machine: Debian's user-mode-linux on the live file system, with pure cgroup v2.

use crate::shell::{self, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// Memory of the machine: a container test needs little, and the host has other work.
const MEMORY: &str = "mem=1024M";

/// Runs the words after `--` in the machine and fails as they do.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let command = match args.split_first() {
        Some((dashes, command)) if dashes == "--" && !command.is_empty() => command,
        _ => return Err("usage: cargo xtask vm -- COMMAND…".into()),
    };
    let kernel = ["/usr/bin/linux.uml", "/usr/bin/linux"]
        .into_iter()
        .find(|path| fs::metadata(path).is_ok())
        .ok_or("user-mode-linux is not installed; run: apt-get install user-mode-linux")?;
    let folder = std::env::temp_dir().join(format!("shoal-vm-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    let outcome = boot(kernel, &folder, command);
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn boot(kernel: &str, folder: &std::path::Path, command: &[String]) -> Result<()> {
    let (init, status) = (folder.join("init"), folder.join("status"));
    let line = command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect::<Vec<_>>().join(" ");
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
{env}{line} </dev/null
echo $? > /mnt/status
sync
halt -f -p || poweroff -f
",
        path = std::env::var("PATH").unwrap_or_default(),
        folder = folder.display(),
        top = shell::top().display(),
        env = std::env::var("SHOAL_BIN_DIR").map(|dir| format!("SHOAL_BIN_DIR='{dir}' ")).unwrap_or_default(),
    );
    fs::write(&init, script).map_err(|error| format!("write {}: {error}", init.display()))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("mode of {}: {error}", init.display()))?;
    let mut uml = Command::new(kernel);
    uml.args([
        MEMORY,
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        "quiet",
        "con=null",
        "con0=fd:0,fd:1",
        "ssl=null",
    ])
    .arg(format!("init={}", init.display()))
    .env("TMPDIR", folder)
    .stdin(Stdio::null());
    let _ = uml.status().map_err(|error| format!("start {kernel}: {error}"))?;
    match fs::read_to_string(&status).map(|text| text.trim().to_owned()) {
        Ok(code) if code == "0" => Ok(()),
        Ok(code) => Err(format!("the command ended with {code} in the machine")),
        Err(_) => Err("the machine ended before the command did".into()),
    }
}
