//! The runtime against Debian's runc and crun (and youki where it is installed).

mod calls;
mod limits;
mod profile;
mod verbs;

use super::bundle::Bundle;
use super::figure::Figures;
use super::measured::{Cost, cost, least_and_median};
use crate::shell::{self, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Rounds of each tool after two of warm-up: enough for a stable minimum on a shared machine.
const ROUNDS: usize = 25;

/// The size below which the static binary stays, bytes.
const SIZE_MAX: f64 = 1.5e6;

/// A runtime under measurement.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    path: PathBuf,
}

impl Tool {
    /// The command `TOOL --root DIR VERB…`.
    fn line(&self, bundle: &Bundle, args: &[&str]) -> Vec<OsString> {
        let root = bundle.root().join(self.name);
        let head = [self.path.clone().into(), "--root".into(), root.into_os_string()];
        head.into_iter().chain(args.iter().map(OsString::from)).collect()
    }

    /// The command that runs the bundle's container under the id `id`.
    fn run(&self, bundle: &Bundle, verb: &str, id: &str) -> Vec<OsString> {
        let mut line = self.line(bundle, &[verb, "--bundle"]);
        line.extend([bundle.path().as_os_str().to_owned(), id.into()]);
        line
    }
}

/// Takes and prints the figures.
pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let ours = Tool { name: "shoal", path: shell::bin_dir().join("shoal-runtime") };
    let bundle = Bundle::make()?;
    let mut peers = Vec::new();
    for (name, package) in [("runc", "runc"), ("crun", "crun"), ("youki", "youki")] {
        match find(name) {
            None => figures.unmeasured(&format!("run-{name}"), &format!("{package} is not installed")),
            Some(path) => {
                let tool = Tool { name, path };
                match cost(&run_once(&tool, &bundle, 0)) {
                    Ok(_) => peers.push(tool),
                    Err(_) => figures.unmeasured(
                        &format!("run-{name}"),
                        &format!("{name} does not start a container in this view of cgroups"),
                    ),
                }
            }
        }
    }
    for tool in std::iter::once(&ours).chain(&peers) {
        let version = shell::output(&tool.path.to_string_lossy(), &["--version"]).unwrap_or_default();
        println!("version {} {}", tool.name, version.lines().next().unwrap_or_default());
    }
    no_op(figures, &ours, &peers, &bundle)?;
    verbs::take(figures, &ours, &peers, &bundle)?;
    profile::take(figures, &ours, &peers, &bundle)?;
    calls::take(figures, &ours, &peers, &bundle)?;
    limits::take(figures, &ours, &peers, &bundle)?;
    let size =
        std::fs::metadata(&ours.path).map_err(|error| format!("size of {}: {error}", ours.path.display()))?.len();
    #[expect(clippy::cast_precision_loss, reason = "a binary's size lies far below 2^52")]
    figures.bound("binary-size", "B", size as f64, SIZE_MAX);
    Ok(())
}

/// `run` of a static no-op, interleaved.
fn no_op(figures: &mut Figures, ours: &Tool, peers: &[Tool], bundle: &Bundle) -> Result<()> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); peers.len() + 1];
    for round in 0..ROUNDS + 2 {
        for (at, tool) in std::iter::once(ours).chain(peers).enumerate() {
            let cost = cost(&run_once(tool, bundle, round))?;
            if round >= 2 {
                costs[at].push(cost);
            }
        }
    }
    let mine = summary(&costs[0]);
    for (tool, theirs) in peers.iter().zip(&costs[1..]) {
        let theirs = summary(theirs);
        // The design's goals: against crun 0.35 in CPU; where crun does not start, against runc; wall 0.9 on cgroup v1.
        figures.ratio("run-cpu-min", "ms", mine.cpu.0, tool.name, theirs.cpu.0, Some(0.35));
        figures.ratio("run-cpu-median", "ms", mine.cpu.1, tool.name, theirs.cpu.1, Some(0.35));
        figures.ratio("run-wall-min", "ms", mine.wall.0, tool.name, theirs.wall.0, Some(0.4));
        figures.ratio("run-wall-median", "ms", mine.wall.1, tool.name, theirs.wall.1, Some(0.4));
        figures.ratio("run-rss", "MB", mine.rss, tool.name, theirs.rss, None);
    }
    figures.bound("run-rss", "MB", mine.rss, 1.5);
    Ok(())
}

struct Summary {
    cpu: (f64, f64),
    wall: (f64, f64),
    rss: f64,
}

fn summary(costs: &[Cost]) -> Summary {
    let of = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
    Summary {
        cpu: least_and_median(&of(|cost| cost.cpu_ms)),
        wall: least_and_median(&of(|cost| cost.wall_ms)),
        rss: least_and_median(&of(|cost| cost.rss_mb)).1,
    }
}

fn run_once(tool: &Tool, bundle: &Bundle, round: usize) -> Vec<OsString> {
    tool.run(bundle, "run", &format!("bench-{}-{}-{round}", std::process::id(), tool.name))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}
