//! The engine's processes killed at random points, and a host on which nothing of their containers is left after `rm -f`.
//!
//! In: how many kills. Out: a line a round, and what was found that should not be there. Each round begins one command, waits a
//! random part of the time it takes, kills one process of ours (or all of them) with SIGKILL, removes every container by
//! `rm -f` and compares the host with what it was: mounts, cgroups, links, nftables, files, processes. It works in mount and
//! network namespaces of its own.

use super::census::in_own_mounts;
use crate::shell::{self, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the process inside the network namespace.
const INSIDE: &str = "SHOAL_SOAK_ENGINE_INSIDE";
const IMAGE: &str = "localhost/soak:1";
/// A command that takes longer than this hangs.
const HANG: Duration = Duration::from_secs(60);
/// How long the kernel may take to forget what was removed.
const SETTLE: Duration = Duration::from_secs(5);
/// The programs that are ours.
const OURS: [&str; 3] = ["shoal", "shoal-monitor", "shoal-runtime"];

/// What is begun before the kill: what it needs, the command itself. `rm -f` of everything follows each.
const OPERATIONS: &[(&[&str], &str)] = &[
    (&[], "run --rm IMAGE true"),
    (&[], "run --rm -p 8080:80 IMAGE sh -c exit"),
    (&[], "run -d --name box -p 8080:80 -p 8081:81/udp -v data:/data --tmpfs /t IMAGE sleep 1000"),
    (&[], "run -d --name box --network soak --network-alias other --ipc shareable IMAGE sleep 1000"),
    (&[], "create --name box -v /anonymous -p 8080:80 IMAGE sleep 1000"),
    (&["create --name box -p 8080:80 -v data:/data IMAGE sleep 1000"], "start box"),
    (&["run -d --name box -p 8080:80 IMAGE sleep 1000"], "stop -t 0 box"),
    (&["run -d --name box -p 8080:80 --network soak IMAGE sleep 1000"], "restart -t 0 box"),
    (&["run -d --name box -p 8080:80 -v /anonymous IMAGE sleep 1000"], "rm -f -v box"),
    (&["run -d --name box -p 8080:80 IMAGE sleep 1000"], "exec box sh -c exit"),
    (&["run -d --name box IMAGE sleep 1000"], "network connect soak box"),
    (&["run -d --name box --network soak IMAGE sleep 1000"], "network disconnect soak box"),
    (&["run -d --name box IMAGE sleep 1000"], "cp box:/bin/busybox COPY"),
    (&["create --name box IMAGE true"], "cp /etc/hostname box:/"),
    (&["run -d --name box --restart always IMAGE sh -c exit"], "ps -a"),
    (&["run -d --name box --restart always IMAGE sh -c exit"], "stop -t 0 box"),
    (&["run -d --name box IMAGE sleep 1000"], "pause box"),
    (&["run -d --name box IMAGE sleep 1000"], "rename box crate"),
    (&["run -d --name box --health-cmd true --health-interval 50ms IMAGE sleep 1000"], "healthcheck run box"),
    (&[], "run --rm --userns auto IMAGE true"),
    (&[], "run --rm --network none IMAGE true"),
];

/// Kills `kills` times.
pub(crate) fn run(kills: u32, args: &[String]) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command.arg(me).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        return shell::status(command);
    }
    if !in_own_mounts()? {
        return Ok(());
    }
    let given = args.iter().position(|arg| arg == "--seed").and_then(|at| args.get(at + 1)?.parse().ok());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = given.unwrap_or(now);
    println!("soak engine kills={kills} seed={seed}");
    let place = Place::make()?;
    let outcome = place.soak(kills, Random(seed | 1));
    let cleaned = place.clean();
    outcome.and(cleaned)
}

struct Place {
    folder: PathBuf,
    shoal: PathBuf,
}

impl Place {
    fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("shoal-soak-engine-{}", std::process::id()));
        let io = |error: std::io::Error| format!("prepare {}: {error}", folder.display());
        fs::create_dir_all(folder.join("rootfs/bin")).map_err(io)?;
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        fs::copy(busybox.ok_or("busybox-static is not installed")?, folder.join("rootfs/bin/busybox")).map_err(io)?;
        for name in ["sh", "true", "sleep", "cat"] {
            std::os::unix::fs::symlink("busybox", folder.join("rootfs/bin").join(name)).map_err(io)?;
        }
        let place = Self { shoal: shell::bin_dir().join("shoal"), folder };
        let tar = place.folder.join("image.tar").to_string_lossy().into_owned();
        let _ = shell::output("tar", &["-C", &place.folder.join("rootfs").to_string_lossy(), "-cf", &tar, "."])?;
        place.ok(&format!("import {tar} {IMAGE}"))?;
        place.ok("network create soak")?;
        place.ok("volume create data")?;
        Ok(place)
    }

    fn soak(&self, kills: u32, mut random: Random) -> Result<()> {
        // What the first runs make once and for all, and how long each takes.
        let mut takes = Vec::new();
        for (before, operation) in OPERATIONS {
            before.iter().try_for_each(|line| self.ok(line))?;
            let begun = Instant::now();
            self.ok(operation)?;
            takes.push(begun.elapsed());
            self.remove_all()?;
        }
        let mut before = self.settled(None)?;
        let (mut found, mut killed, mut hangs) = (0, 0, 0);
        for round in 0..kills {
            let at = random.below(OPERATIONS.len());
            let (needs, operation) = OPERATIONS[at];
            needs.iter().try_for_each(|line| self.ok(line))?;
            let mut child = self.command(operation).spawn().map_err(|error| format!("start shoal: {error}"))?;
            let part = u32::try_from(random.below(1200)).unwrap_or(0);
            std::thread::sleep(takes[at] * part / 1000);
            let victims = self.ours();
            let all = random.below(4) == 0;
            let chosen: Vec<_> = match victims.len() {
                0 => Vec::new(),
                _ if all => victims,
                count => victims.into_iter().skip(random.below(count)).take(1).collect(),
            };
            for (pid, _) in &chosen {
                // It may have ended by itself: then this was no kill.
                killed += u32::from(kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok());
            }
            let names: Vec<_> = chosen.iter().map(|(_, name)| name.as_str()).collect();
            let what = format!("round {round}: {operation}, at {part}/1000 killed {}", names.join(" "));
            if let Err(error) = wait(&mut child) {
                hangs += 1;
                println!("{what}: {error}");
            }
            if let Err(error) = self.remove_all() {
                found += 1;
                println!("{what}: {error}");
                continue;
            }
            let after = self.settled(Some(&before))?;
            if after != before {
                found += 1;
                print!("{what}: left behind\n{}", difference(&before, &after));
                // Told once.
                before = after;
            }
        }
        println!("soak engine rounds={kills} killed={killed} hangs={hangs} rounds-with-leavings={found}");
        if found == 0 && hangs == 0 { Ok(()) } else { Err("something was left behind, or hung".into()) }
    }

    /// The host as far as it is ours, once it stands still or is as wanted.
    fn settled(&self, wanted: Option<&BTreeSet<String>>) -> Result<BTreeSet<String>> {
        let deadline = Instant::now() + SETTLE;
        let mut now = self.census()?;
        loop {
            let next = self.census()?;
            let done = wanted.map_or_else(|| next == now, |wanted| next == *wanted);
            if done || Instant::now() >= deadline {
                return Ok(next);
            }
            now = next;
        }
    }

    fn census(&self) -> Result<BTreeSet<String>> {
        reap();
        let mut all = BTreeSet::new();
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("read {path}: {error}"));
        let folder = self.folder.to_string_lossy().into_owned();
        for line in read("/proc/self/mountinfo")?.lines().filter(|line| line.contains(&folder)) {
            all.insert(format!("mount {}", line.split(' ').nth(4).unwrap_or(line)));
        }
        for line in read("/proc/thread-self/net/dev")?.lines().skip(2) {
            all.insert(format!("link {}", line.split(':').next().unwrap_or_default().trim()));
        }
        let hash = format!("{:016x}", fnv(self.folder.join("shoal/run").as_os_str().as_encoded_bytes()));
        for line in found(&["/sys/fs/cgroup", "-type", "d", "-path", &format!("*{hash}*")])?.lines() {
            all.insert(format!("cgroup {line}"));
        }
        for (at, line) in shell::output("nft", &["list", "ruleset"])?.lines().enumerate() {
            all.insert(format!("nft {at:04} {line}"));
        }
        for place in ["data", "run"] {
            let root = self.folder.join("shoal").join(place);
            // Locks of the folder of names stay once they are made. The store's temporary files go with its next collection, as everywhere.
            let text = found(&[&root.to_string_lossy(), "-not", "-path", "*/data/images/*", "-not", "-name", "#*"])?;
            all.extend(text.lines().map(|line| format!("file {line}")));
        }
        for (pid, name) in descendants() {
            all.insert(format!("process {name} {pid}"));
        }
        Ok(all)
    }

    /// The running processes of ours below this one.
    fn ours(&self) -> Vec<(i32, String)> {
        descendants().into_iter().filter(|(_, name)| OURS.contains(&name.as_str())).collect()
    }

    fn remove_all(&self) -> Result<()> {
        let mut list = self.command("ps -aq --no-trunc");
        let output = list.stdout(Stdio::piped()).output().map_err(|error| format!("ps: {error}"))?;
        if !output.status.success() {
            return Err(format!("ps: {}", output.status));
        }
        // A name that nobody has: the command also takes away what no container owns any more.
        let mut line = "rm -f -v soak-nobody".to_owned();
        for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            line.push(' ');
            line.push_str(id);
        }
        self.ok(&line)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.shoal);
        command.arg("--root").arg(self.folder.join("shoal"));
        let copy = self.folder.join("copy").to_string_lossy().into_owned();
        command.args(line.split(' ').map(|word| match word {
            "IMAGE" => IMAGE,
            "COPY" => &copy,
            word => word,
        }));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn ok(&self, line: &str) -> Result<()> {
        let log = self.folder.join("stderr");
        let file = fs::File::create(&log).map_err(|error| format!("make {}: {error}", log.display()))?;
        let mut child = self.command(line).stderr(file).spawn().map_err(|error| format!("start shoal: {error}"))?;
        let status = wait(&mut child).map_err(|why| format!("{line}: {why}"))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{line}: {status}: {}", fs::read_to_string(&log).unwrap_or_default().trim()))
    }

    fn clean(&self) -> Result<()> {
        self.remove_all()?;
        fs::remove_dir_all(&self.folder).map_err(|error| format!("remove {}: {error}", self.folder.display()))
    }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let deadline = Instant::now() + HANG;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                let waits = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
                // The next rounds need the host: it goes.
                child.kill().ok();
                child.wait().ok();
                return Err(format!("hangs (in {waits})"));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What `find` prints. What vanishes under its eyes, others' work too, is no failure.
fn found(args: &[&str]) -> Result<String> {
    let output = Command::new("find").args(args).output().map_err(|error| format!("find: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Takes in the orphans that have ended: this process has adopted them.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Every process below this one that is no zombie, with its name.
fn descendants() -> Vec<(i32, String)> {
    let mut found = Vec::new();
    let mut next = vec![i32::try_from(std::process::id()).unwrap_or_default()];
    while let Some(parent) = next.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for pid in text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
                next.push(pid);
                let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                if let Some(name) = exe.file_name() {
                    found.push((pid, name.to_string_lossy().into_owned()));
                }
            }
        }
    }
    found
}

fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for line in after.difference(before) {
        let _ = writeln!(text, "  + {line}");
    }
    for line in before.difference(after) {
        let _ = writeln!(text, "  - {line}");
    }
    text
}

/// FNV-1a, by which the engine names its cgroup after its run folder.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// xorshift64: kills need no better chance, and a seed tells which operations came.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % bound
    }
}
