//! The engine against Debian's podman: `run`, many at once, `ps`, ports, what a monitor costs, pages of one image.
//!
//! Both sides run in one view: a mount namespace without the split cgroup2 mount (podman starts only there), a network namespace
//! of its own, folders below one temporary folder. `--quick` takes a tenth of everything.

use super::figure::Figures;
use super::measured::{Cost, cost, least_and_median, whole_cost};
use super::value;
use crate::shell::{self, Result};
use crate::view::View;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the process that runs inside the namespaces.
const INSIDE: &str = "SHOAL_BENCH_INSIDE";
/// Rounds of `run --rm` after two of warm-up.
const ROUNDS: usize = 11;
/// Runs at once.
const AT_ONCE: usize = 16;
/// Detached runs at once.
const MANY: usize = 500;
/// Containers that `ps` lists; podman, which needs a third of a second to make each, lists a tenth.
const LISTED: usize = 1_000;
/// Published ports that are there already when one more is published.
const PORTS: usize = 1_000;
/// Containers that read one file of the image.
const READERS: usize = 100;
/// The file they read, in bytes: well above what else a container reads.
const FILE_BYTES: usize = 64 << 20;
/// The image.
const IMAGE: &str = "localhost/bench:1";

/// Takes and prints the figures.
pub(super) fn run(args: &[String]) -> Result<()> {
    if std::env::var_os(INSIDE).is_none() {
        return enter(args);
    }
    let mut figures = Figures::default();
    let bench = Bench::make(args.iter().any(|arg| arg == "--quick"))?;
    let result = bench.take(&mut figures);
    bench.clean();
    result?;
    let Some(path) = value(args, "--json") else { return Ok(()) };
    std::fs::write(path, figures.json()?).map_err(|error| format!("write {path}: {error}"))
}

/// Runs this benchmark again in namespaces of its own.
fn enter(args: &[String]) -> Result<()> {
    let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
    let mut command = View::V1.command();
    command.args(["unshare", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(me);
    command.args(["bench", "engine"]).args(args).env(INSIDE, "1").env("SHOAL_BIN_DIR", shell::bin_dir());
    shell::status(command)
}

/// A command line tool under measurement.
#[derive(Debug, Clone)]
struct Tool {
    name: &'static str,
    program: PathBuf,
    /// What stands before every verb.
    head: Vec<OsString>,
}

impl Tool {
    fn line(&self, args: &[&str]) -> Vec<OsString> {
        let program = std::iter::once(self.program.clone().into_os_string());
        program.chain(self.head.iter().cloned()).chain(args.iter().map(OsString::from)).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.head).args(args).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Result<String> {
        let output = self.command(args).output().map_err(|error| format!("{}: {error}", self.name))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(format!("{} {}: {}", self.name, args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }
}

struct Bench {
    folder: PathBuf,
    ours: Tool,
    podman: Option<Tool>,
    /// One, or ten with `--quick`.
    part: usize,
}

impl Bench {
    fn make(quick: bool) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("shoal-bench-engine-{}", std::process::id()));
        let io = |error: std::io::Error| format!("prepare {}: {error}", folder.display());
        fs::create_dir_all(folder.join("rootfs/bin")).map_err(io)?;
        fs::copy(shell::bin_dir().join("probe"), folder.join("rootfs/bin/probe")).map_err(io)?;
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.ok_or("busybox-static is not installed")?;
        fs::copy(busybox, folder.join("rootfs/bin/busybox")).map_err(io)?;
        for name in ["true", "sleep", "cat"] {
            std::os::unix::fs::symlink("busybox", folder.join("rootfs/bin").join(name)).map_err(io)?;
        }
        fs::write(folder.join("rootfs/big"), vec![7u8; FILE_BYTES]).map_err(io)?;
        let head = vec!["--root".into(), folder.join("shoal").into_os_string()];
        let ours = Tool { name: "shoal", program: shell::bin_dir().join("shoal"), head };
        let mut bench = Self { folder, ours, podman: None, part: if quick { 10 } else { 1 } };
        bench.import(&bench.ours)?;
        bench.podman = bench.podman_tool()?;
        Ok(bench)
    }

    /// podman with folders of its own, when it is installed and starts a container here.
    fn podman_tool(&self) -> Result<Option<Tool>> {
        let program = PathBuf::from("/usr/bin/podman");
        if !program.exists() {
            return Ok(None);
        }
        let conf = self.folder.join("containers.conf");
        // Raising limits above this process's own hard ones is refused without CAP_SYS_RESOURCE.
        let text = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        fs::write(&conf, text).map_err(|error| format!("write {}: {error}", conf.display()))?;
        let place = |name: &str| self.folder.join("podman").join(name).into_os_string();
        let mut head: Vec<OsString> = vec![format!("CONTAINERS_CONF={}", conf.display()).into(), program.into()];
        for (flag, value) in [
            ("--root", place("root")),
            ("--runroot", place("run")),
            ("--tmpdir", place("tmp")),
            ("--network-config-dir", place("net")),
        ] {
            head.extend([flag.into(), value]);
        }
        head.extend(["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"].map(OsString::from));
        let tool = Tool { name: "podman", program: "/usr/bin/env".into(), head };
        self.import(&tool)?;
        match tool.output(&["run", "--rm", IMAGE, "true"]) {
            Ok(_) => Ok(Some(tool)),
            Err(error) => {
                println!("podman does not start a container here: {error}");
                Ok(None)
            }
        }
    }

    fn import(&self, tool: &Tool) -> Result<()> {
        let tar = self.folder.join("image.tar");
        if !tar.exists() {
            let (tar, rootfs) = (tar.to_string_lossy(), self.folder.join("rootfs"));
            let _ = shell::output("tar", &["-C", &rootfs.to_string_lossy(), "-cf", &tar, "."])?;
        }
        tool.output(&["import", &tar.to_string_lossy(), IMAGE]).map(|_| ())
    }

    fn tools(&self) -> impl Iterator<Item = &Tool> {
        std::iter::once(&self.ours).chain(&self.podman)
    }

    fn take(&self, figures: &mut Figures) -> Result<()> {
        for tool in self.tools() {
            println!("version {} {}", tool.name, tool.output(&["--version"]).unwrap_or_default());
        }
        if self.podman.is_none() {
            figures.unmeasured("podman", "podman is not installed or starts no container here");
        }
        self.one_and_many(figures)?;
        self.detached(figures)?;
        self.monitor(figures)?;
        self.listing(figures)?;
        self.network(figures)?;
        self.pages(figures)
    }

    /// `run --rm IMAGE true` alone, interleaved, and 16 at once.
    fn one_and_many(&self, figures: &mut Figures) -> Result<()> {
        let tools: Vec<&Tool> = self.tools().collect();
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); tools.len()];
        for round in 0..ROUNDS + 2 {
            for (at, tool) in tools.iter().enumerate() {
                let cost = whole_cost(&tool.line(&["run", "--rm", IMAGE, "true"]))?;
                if round >= 2 {
                    costs[at].push(cost);
                }
            }
        }
        let least =
            |costs: &[Cost], value: fn(&Cost) -> f64| least_and_median(&costs.iter().map(value).collect::<Vec<_>>());
        let (wall, cpu) = (least(&costs[0], |cost| cost.wall_ms), least(&costs[0], |cost| cost.cpu_ms));
        if let Some(theirs) = costs.get(1) {
            let (their_wall, their_cpu) = (least(theirs, |cost| cost.wall_ms), least(theirs, |cost| cost.cpu_ms));
            figures.ratio("run-rm-wall-min", "ms", wall.0, "podman", their_wall.0, Some(0.25));
            figures.ratio("run-rm-wall-median", "ms", wall.1, "podman", their_wall.1, Some(0.25));
            figures.ratio("run-rm-cpu-min", "ms", cpu.0, "podman", their_cpu.0, Some(0.25));
            figures.ratio("run-rm-cpu-median", "ms", cpu.1, "podman", their_cpu.1, Some(0.25));
        }
        let mut walls = Vec::new();
        for tool in &tools {
            let (taken, failed) = at_once(tool, AT_ONCE, &["run", "--rm", IMAGE, "true"]);
            if failed > 0 {
                figures.unmeasured(&format!("run-rm-16-{}", tool.name), &format!("{failed} of {AT_ONCE} failed"));
            }
            walls.push(taken);
        }
        #[expect(clippy::cast_precision_loss, reason = "processors are few")]
        let rounds = AT_ONCE as f64 / std::thread::available_parallelism().map_or(1, usize::from) as f64;
        figures.bound("run-rm-16-per-core", "x", walls[0] / (wall.1 * rounds), 2.0);
        if let Some(theirs) = walls.get(1) {
            figures.ratio("run-rm-16-wall", "ms", walls[0], "podman", *theirs, None);
        }
        Ok(())
    }

    /// Many `run -d` at once: how many fail.
    fn detached(&self, figures: &mut Figures) -> Result<()> {
        let count = MANY / self.part;
        for tool in self.tools() {
            let ours = tool.name == self.ours.name;
            // What podman does with 500 at once takes a quarter of an hour here; a tenth shows it.
            let count = if ours { count } else { count / 10 };
            let (taken, failed) = at_once(tool, count, &["run", "-d", IMAGE, "sleep", "1000"]);
            println!("{}: {count} x run -d in {taken:.0} ms, {failed} failed", tool.name);
            if ours {
                #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
                figures.bound("run-d-parallel-failures", "", failed as f64, 0.0);
            }
            self.remove_all(tool)?;
        }
        Ok(())
    }

    /// What a monitor holds and does while its container sleeps.
    fn monitor(&self, figures: &mut Figures) -> Result<()> {
        // Beside another one, as on any host: pages of the program's file are shared and nobody's own.
        let _ = self.ours.output(&["run", "-d", IMAGE, "sleep", "1000"])?;
        let id = self.ours.output(&["run", "-d", IMAGE, "sleep", "1000"])?;
        let pid = monitor_of(&id).ok_or("the container's monitor is not found")?;
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(|error| error.to_string())?;
        let kilobytes = |name: &str| -> f64 {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
        };
        figures.bound("monitor-rss", "KB", kilobytes("Rss:"), 1500.0);
        figures.bound("monitor-private", "KB", kilobytes("Private_Dirty:") + kilobytes("Private_Clean:"), 300.0);
        figures.bound("monitor-private-dirty", "KB", kilobytes("Private_Dirty:"), 300.0);
        let switches = || -> f64 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(f64::NAN)
        };
        let (before, period) = (switches(), Duration::from_secs(5));
        // A figure over time, not a wait for something.
        std::thread::sleep(period);
        figures.bound("monitor-wakeups", "/s", (switches() - before) / period.as_secs_f64(), 0.0);
        self.remove_all(&self.ours)
    }

    /// `ps -a` over many containers.
    fn listing(&self, figures: &mut Figures) -> Result<()> {
        let fill = |tool: &Tool, count: usize| -> Result<()> {
            (0..count).try_for_each(|_| tool.output(&["create", IMAGE, "true"]).map(|_| ()))
        };
        let list = |tool: &Tool| -> Result<(f64, f64)> {
            let mut taken = Vec::new();
            for _ in 0..ROUNDS {
                taken.push(cost(&tool.line(&["ps", "-a"]))?.wall_ms);
            }
            Ok(least_and_median(&taken))
        };
        let (few, many) = (LISTED / self.part / 10, LISTED / self.part);
        fill(&self.ours, few)?;
        let ours = list(&self.ours)?;
        fill(&self.ours, many - few)?;
        let all = list(&self.ours)?;
        self.remove_all(&self.ours)?;
        figures.bound("ps-1000-min", "ms", all.0, 50.0);
        figures.bound("ps-1000-median", "ms", all.1, 50.0);
        match &self.podman {
            Some(podman) => {
                fill(podman, few)?;
                let theirs = list(podman)?;
                self.remove_all(podman)?;
                figures.ratio("ps-100-min", "ms", ours.0, "podman", theirs.0, Some(0.1));
                figures.ratio("ps-100-median", "ms", ours.1, "podman", theirs.1, Some(0.1));
            }
            None => figures.unmeasured("ps-ratio", "no podman"),
        }
        Ok(())
    }

    /// What a network with a published port adds to a run, and with a thousand ports present.
    fn network(&self, figures: &mut Figures) -> Result<()> {
        // The start alone: what a network costs when it goes is no part of setting it up.
        let with = |tool: &Tool, flags: &[&str]| -> Result<(f64, f64)> {
            let mut taken = Vec::new();
            for round in 0..ROUNDS + 1 {
                let mut line = vec!["create", "--name", "measured"];
                line.extend(flags);
                line.extend([IMAGE, "sleep", "1000"]);
                let _ = tool.output(&line)?;
                let cost = cost(&tool.line(&["start", "measured"]))?;
                let quick: &[&str] = if tool.name == "podman" { &["rm", "-f", "-t", "0"] } else { &["rm", "-f"] };
                let _ = tool.output(&[quick, &["measured"]].concat())?;
                if round > 0 {
                    taken.push(cost.wall_ms);
                }
            }
            Ok(least_and_median(&taken))
        };
        // Something keeps the bridge there, so that the network itself is not made and removed each time.
        for tool in self.tools() {
            let _ = tool.output(&["run", "-d", IMAGE, "sleep", "1000"])?;
        }
        let added = |tool: &Tool| -> Result<(f64, f64)> {
            let (none, port) = (with(tool, &["--network", "none"])?, with(tool, &["-p", "18080:80"])?);
            Ok((port.0 - none.0, port.1 - none.1))
        };
        let ours = added(&self.ours)?;
        // Told from inside: what a difference of two runs shows is mostly noise, and taking links down.
        let trace = self.folder.join("trace");
        let told = |step: &str| -> Result<(f64, f64)> {
            fs::remove_file(&trace).ok();
            for round in 0..ROUNDS + 1 {
                let flags = ["create", "--name", "measured", "-p", "18080:80", IMAGE, "sleep", "1000"];
                let _ = self.ours.output(&flags)?;
                let mut start = self.ours.command(&["start", "measured"]);
                start.env("SHOAL_TRACE", if round > 0 { trace.as_os_str() } else { "".as_ref() }).stdout(Stdio::null());
                shell::status(start)?;
                let _ = self.ours.output(&["rm", "-f", "measured"])?;
            }
            let text = fs::read_to_string(&trace).map_err(|error| format!("read {}: {error}", trace.display()))?;
            let times = text.lines().filter_map(|line| line.strip_prefix(step)?.trim().parse::<f64>().ok());
            Ok(least_and_median(&times.map(|ns| ns / 1e6).collect::<Vec<_>>()))
        };
        let (set_up, publish) = (told("network")?, told("publish")?);
        figures.bound("network-set-up-min", "ms", set_up.0, 15.0);
        figures.bound("network-set-up-median", "ms", set_up.1, 15.0);
        println!("publishing one port beside none: {:.3} ms, median {:.3} ms", publish.0, publish.1);
        if let Some(podman) = &self.podman {
            let theirs = added(podman)?;
            figures.ratio("network-in-a-start-min", "ms", ours.0, "podman", theirs.0, None);
            figures.ratio("network-in-a-start-median", "ms", ours.1, "podman", theirs.1, None);
        }
        let ports = format!("20000-{0}:20000-{0}", 20_000 + PORTS / self.part - 1);
        let _ = self.ours.output(&["run", "-d", "-p", &ports, IMAGE, "sleep", "1000"])?;
        let (set_up, publish) = (told("network")?, told("publish")?);
        figures.bound("publish-beside-1000-ports-min", "ms", publish.0, 0.1);
        figures.bound("publish-beside-1000-ports-median", "ms", publish.1, 0.1);
        figures.bound("network-set-up-beside-1000-ports-min", "ms", set_up.0, 15.0);
        self.remove_all(&self.ours)?;
        self.podman.as_ref().map_or(Ok(()), |podman| self.remove_all(podman))
    }

    /// How many pages of one image the containers that read it take together: what the kernel charged their cgroups.
    fn pages(&self, figures: &mut Figures) -> Result<()> {
        // All of them live at once, so that the layer stays mounted and what one has read is there for the next.
        let read = || -> Result<f64> {
            let id = self.ours.output(&["run", "-d", "--network", "none", IMAGE, "sleep", "1000"])?;
            let _ = self.ours.output(&["exec", &id, "cat", "/big"])?;
            let stat = self.ours.output(&["exec", &id, "cat", "/sys/fs/cgroup/memory/memory.stat"])?;
            let cache = stat.lines().find_map(|line| line.strip_prefix("total_cache ")?.parse().ok());
            cache.ok_or_else(|| format!("memory.stat of {id} has no total_cache: {stat}"))
        };
        // The first reader may find the file in memory since the image was made: then it is charged to nobody here.
        let _ = read()?;
        let mut others = 0.0;
        for _ in 1..READERS / self.part {
            others += read()?;
        }
        self.remove_all(&self.ours)?;
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let file = FILE_BYTES as f64;
        figures.bound("image-pages-of-100-containers", "x", (file + others) / file, 1.1);
        Ok(())
    }

    fn remove_all(&self, tool: &Tool) -> Result<()> {
        let ids = tool.output(&["ps", "-aq"])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        for part in ids.chunks(100) {
            let mut line = vec!["rm", "-f"];
            if tool.name == "podman" {
                line.extend(["-t", "0"]);
            }
            line.extend(part);
            let _ = tool.output(&line)?;
        }
        Ok(())
    }

    fn clean(&self) {
        for tool in self.tools() {
            if let Err(error) = self.remove_all(tool) {
                eprintln!("clean up: {error}");
            }
        }
        // podman keeps its graph mounted; both go with this process's mount namespace.
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("remove {}: {error}", self.folder.display());
        }
    }
}

/// Runs a command many times at once; returns the wall time in ms and how many failed.
fn at_once(tool: &Tool, count: usize, args: &[&str]) -> (f64, usize) {
    let begun = Instant::now();
    let children: Vec<_> =
        (0..count).map(|_| tool.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn()).collect();
    let failed = children.into_iter().filter_map(|child| child.ok()?.wait().ok()).filter(|status| status.success());
    let failed = count - failed.count();
    (begun.elapsed().as_secs_f64() * 1e3, failed)
}

/// The process that holds a container: the one whose command line names its folder.
fn monitor_of(id: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("shoal-monitor") && line.contains(id)
    })
}
