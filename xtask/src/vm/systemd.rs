//! QEMU in software with Debian's cloud kernel, systemd as the first process, on the live file system.
//!
//! In: a folder for this run and a line for the shell. Out: the line's output and exit code. The live root is shared into the
//! machine by virtiofs and lies, read-only, under an overlay whose upper layer is memory: nothing inside reaches the host.
//! No service of the host starts inside; the machine has its own two units.

use super::archive::Archive;
use super::outcome;
use crate::shell::{self, Result};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Memory of the machine, MiB: systemd, a few containers, and everything they write.
const MEMORY: u32 = 1536;

/// The package whose dependency is the newest cloud kernel.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Modules that the first script loads, in the order of their needs: the shared root and the overlay on it.
const FIRST: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "fs/overlayfs/overlay",
];

/// Modules loaded for the command: what containers and CRIU need and the kernel would not load by itself.
const LATER: &str = "veth tun bridge unix_diag inet_diag tcp_diag udp_diag raw_diag af_packet_diag netlink_diag nf_tables \
                     nft_chain_nat nf_conntrack_netlink loop";

/// Units of the host's systemd that cost seconds in software and that no test looks at.
const MASKED: &str = "systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-udev-trigger.service systemd-journal-flush.service systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service \
    systemd-tmpfiles-clean.timer systemd-update-utmp.service systemd-sysusers.service systemd-hwdb-update.service \
    systemd-binfmt.service systemd-modules-load.service systemd-random-seed.service systemd-pstore.service systemd-sysctl.service \
    modprobe@.service kmod-static-nodes.service systemd-firstboot.service systemd-machine-id-commit.service \
    systemd-journal-catalog-update.service systemd-remount-fs.service systemd-ask-password-console.path \
    systemd-ask-password-wall.path sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount systemd-network-generator.service \
    keyboard-setup.service console-setup.service apparmor.service ifupdown-pre.service networking.service";

/// How long the sharing process may take to listen.
const SOON: Duration = Duration::from_secs(20);

/// Boots the machine, runs `line` in it, and fails as the line does.
pub(super) fn boot(folder: &Path, line: &str) -> Result<()> {
    let kernel = Kernel::find()?;
    let (initrd, status, log) = (folder.join("initrd"), folder.join("status"), folder.join("log"));
    write(&initrd, &kernel.initrd(line)?)?;
    write(&status, b"")?;
    let socket = folder.join("root.sock");
    let mut share = share(&socket)?;
    let ended = qemu(&kernel, &initrd, &socket, &status, &log);
    // It ends with the machine; when the machine could not start, it is ours to end.
    let _ = share.kill();
    let _ = share.wait();
    ended.and_then(|()| outcome(&status)).inspect_err(|_| {
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(20);
        eprintln!("the last lines of the machine's console:\n{}", lines[last..].join("\n"));
    })
}

fn qemu(kernel: &Kernel, initrd: &Path, socket: &Path, status: &Path, log: &Path) -> Result<()> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2", "-m", &MEMORY.to_string()]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
    command.args([
        "-object",
        &format!("memory-backend-memfd,id=mem,size={MEMORY}M,share=on"),
        "-numa",
        "node,memdev=mem",
    ]);
    command.args(["-chardev", &format!("socket,id=root,path={}", socket.display())]);
    command.args(["-device", "vhost-user-fs-pci,chardev=root,tag=root"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    command.args([
        "-append",
        "console=ttyS0 quiet panic=-1 systemd.unit=shoal-vm.target systemd.show_status=0 systemd.log_level=warning \
         random.trust_cpu=on mitigations=off apparmor=0 selinux=0",
    ]);
    // Three serial lines: the console, the command's output, its exit code.
    command.args(["-serial", &format!("file:{}", log.display()), "-serial", "stdio"]);
    command.args(["-serial", &format!("file:{}", status.display())]);
    let mut machine = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("start qemu-system-x86_64: {error}; run: apt-get install qemu-system-x86"))?;
    let output = machine.stdout.take().expect("stdout is piped");
    for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
        println!("{}", String::from_utf8_lossy(&line).trim_end_matches('\r'));
    }
    let ended = machine.wait().map_err(|error| format!("wait for the machine: {error}"))?;
    if ended.success() { Ok(()) } else { Err(format!("qemu-system-x86_64: {ended}")) }
}

/// Starts the process that shares the live root, and waits until it listens.
fn share(socket: &Path) -> Result<Child> {
    const PROGRAM: &str = "/usr/lib/qemu/virtiofsd";
    let mut child = Command::new(PROGRAM)
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot", "--rlimit-nofile=0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("start {PROGRAM}: {error}; run: apt-get install qemu-system-common"))?;
    let deadline = Instant::now() + SOON;
    while !socket.exists() {
        if Instant::now() > deadline || child.try_wait().is_ok_and(|ended| ended.is_some()) {
            let _ = child.kill();
            return Err(format!("{PROGRAM} does not listen on {}; it needs root", socket.display()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// Debian's cloud kernel, unpacked.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

impl Kernel {
    /// Finds the kernel that an earlier run unpacked, or fetches its package.
    fn find() -> Result<Self> {
        let folder = shell::target().join("vm/kernel");
        Self::in_folder(&folder).map_or_else(|| Self::fetch(&folder), Ok)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let names = fs::read_dir(folder.join("boot")).ok()?.flatten().map(|entry| entry.file_name());
        let version = names.filter_map(|name| name.to_str()?.strip_prefix("vmlinuz-").map(str::to_owned)).max()?;
        let modules = folder.join("lib/modules");
        modules.join(&version).join("modules.dep").exists().then(|| Self {
            image: folder.join("boot").join(format!("vmlinuz-{version}")),
            modules,
            version,
        })
    }

    /// Fetches the package, unpacks it beside its place, and moves it there whole.
    fn fetch(folder: &Path) -> Result<Self> {
        let fresh = folder.with_extension(format!("new-{}", std::process::id()));
        fs::create_dir_all(&fresh).map_err(|error| format!("make {}: {error}", fresh.display()))?;
        let depends = shell::output("apt-cache", &["depends", KERNEL])?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned);
        let package = package.ok_or_else(|| format!("apt-cache knows no {KERNEL}; run: apt-get update"))?;
        let mut download = Command::new("apt-get");
        shell::status({
            download.args(["download", "-q", "-o", "APT::Sandbox::User=root", &package]).current_dir(&fresh);
            download
        })?;
        let found = fs::read_dir(&fresh).map_err(|error| format!("list {}: {error}", fresh.display()))?;
        let deb =
            found.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ext| ext == "deb"));
        let deb = deb.ok_or("apt-get download left no package")?;
        let fresh_text = fresh.to_string_lossy().into_owned();
        let _ = shell::output("dpkg-deb", &["-x", &deb.to_string_lossy(), &fresh_text])?;
        let _ = fs::remove_file(deb);
        let version = package.trim_start_matches("linux-image-");
        let _ = shell::output("/sbin/depmod", &["-b", &fresh_text, version])?;
        // Somebody else may have been sooner: theirs is as good.
        if fs::rename(&fresh, folder).is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        Self::in_folder(folder).ok_or_else(|| format!("{package} has no kernel and modules in {}", folder.display()))
    }

    /// The first file system: busybox, the modules for the shared root, and the script that goes over to it.
    fn initrd(&self, line: &str) -> Result<Vec<u8>> {
        let read = |path: &Path| fs::read(path).map_err(|error| format!("read {}: {error}", path.display()));
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.exists());
        let mut archive = Archive::default();
        for name in ["bin", "m", "proc", "lower", "upper", "new"] {
            archive.folder(name);
        }
        archive.file("bin/busybox", &read(busybox.ok_or("busybox is missing; run: apt-get install busybox-static")?)?);
        for module in FIRST {
            let name = module.rsplit('/').next().expect("a split has a last part");
            let path = self.modules.join(&self.version).join("kernel").join(format!("{module}.ko"));
            archive.file(&format!("m/{name}.ko"), &read(&path)?);
        }
        archive.file("command", command(line).as_bytes());
        archive.file("init", self.init().as_bytes());
        Ok(archive.finish())
    }

    fn init(&self) -> String {
        let first = FIRST.map(|module| module.rsplit('/').next().expect("a split has a last part")).join(" ");
        format!(
            "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
fail() {{ echo \"$1\"; poweroff -f; }}
mount -t proc proc /proc
for m in {first}; do insmod /m/$m.ko || fail \"module $m\"; done
mount -t virtiofs -o ro root /lower || fail 'mount the shared root'
mount -t tmpfs -o size=80% upper /upper
mkdir /upper/u /upper/w
mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay /new || fail 'mount the overlay'
cd /new
# A file of the container that the host may be: it would make systemd ignore the kernel's command line.
rm -f .dockerenv
rm -rf etc/systemd/system etc/systemd/user
mkdir -p etc/systemd/system
for u in {MASKED}; do ln -s /dev/null etc/systemd/system/$u; done
: > etc/fstab
: > etc/machine-id
rm -f usr/sbin/policy-rc.d
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p usr/lib/modules shoal-vm
mount --bind /new{modules} usr/lib/modules
cp /command shoal-vm/command
cat > etc/systemd/system/shoal-vm.service <<END
[Unit]
Description=The command of cargo xtask vm
Requires=dbus.service
After=dbus.service basic.target
[Service]
Type=oneshot
ExecStart=/shoal-vm/command
ExecStopPost=/bin/systemctl --force --force poweroff
StandardInput=null
StandardOutput=file:/dev/ttyS1
StandardError=inherit
TimeoutStartSec=infinity
END
cat > etc/systemd/system/shoal-vm.target <<END
[Unit]
Description=cargo xtask vm
Requires=basic.target shoal-vm.service
END
umount /proc
exec switch_root /new /lib/systemd/systemd
",
            modules = self.modules.display(),
        )
    }
}

/// The script that systemd starts.
fn command(line: &str) -> String {
    format!(
        "#!/bin/sh
export PATH='{path}' HOME=/root TERM=dumb
for m in {LATER}; do modprobe -q $m; done
ip link set lo up
cd '{top}'
{line} </dev/null
echo $? > /dev/ttyS2
",
        path = std::env::var("PATH").unwrap_or_default(),
        top = shell::top().display(),
    )
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).map_err(|error| format!("write {}: {error}", path.display()))
}
