//! The runtime against Debian's runc and crun, youki, and a floor program of ours: on cgroup v1, on v2, and in the machine.

mod calls;
mod limits;
mod profile;
mod resident;
mod tool;
mod verbs;

use super::bundle::Bundle;
use super::figure::Figures;
use super::measured::{Cost, cost, least_and_median, rss_mb, words};
use super::{value, youki};
use crate::shell::{self, Result};
use crate::view::View;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use tool::{Bench, Tool, find, interleave};

/// The size below which the static binary stays, bytes.
const SIZE_MAX: f64 = 1.5e6;

/// What a view's figures end with on their line of JSON.
const JSON: &str = "figures-json ";

/// Takes the figures of every view, each in a process of its own; `--view` names one, `--vm` adds the machine.
pub(super) fn run(args: &[String]) -> Result<()> {
    if let Some(inside) = value(args, "--inside") {
        return inside_view(inside);
    }
    if args.iter().any(|arg| arg == "--build-youki") {
        youki::build()?;
    }
    let only = value(args, "--view");
    let mut all: Vec<serde_json::Value> = Vec::new();
    for view in [View::V1, View::V2] {
        if only.is_some_and(|only| only != view.word()) {
            continue;
        }
        match view.lacking() {
            Some(why) => println!("figure {}/run unmeasured: {why}", view.word()),
            None => all.extend(child(view.command(), view.word())?),
        }
    }
    if only == Some("vm") || args.iter().any(|arg| arg == "--vm") {
        let mut command = Command::new(std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?);
        command.args(["vm", "--"]);
        all.extend(child(command, "vm")?);
    }
    let Some(path) = value(args, "--json") else { return Ok(()) };
    let text = serde_json::to_string_pretty(&all).map_err(|error| format!("figures as JSON: {error}"))?;
    std::fs::write(path, text).map_err(|error| format!("write {path}: {error}"))
}

/// Runs this benchmark again behind `command`, prints its lines and returns its figures.
fn child(mut command: Command, view: &str) -> Result<Vec<serde_json::Value>> {
    let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
    command.arg(me).args(["bench", "runtime", "--inside", view]).env("SHOAL_BIN_DIR", shell::bin_dir());
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| format!("start the view {view}: {error}"))?;
    let mut figures = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines().map_while(std::result::Result::ok)
    {
        match line.trim_end().strip_prefix(JSON) {
            Some(json) => {
                figures = serde_json::from_str(json).map_err(|error| format!("figures of {view}: {error}"))?
            }
            None => println!("{line}"),
        }
    }
    let status = child.wait().map_err(|error| format!("wait for the view {view}: {error}"))?;
    if status.success() { Ok(figures) } else { Err(format!("the view {view}: {status}")) }
}

/// The benchmark itself, in the view it is in.
fn inside_view(view: &str) -> Result<()> {
    let mut figures = Figures::of_view(view, if view == "vm" { " vm=user-mode-linux" } else { "" });
    let bundle = Bundle::make()?;
    bundle.state_in_memory()?;
    let ours = Tool { name: "shoal", path: shell::bin_dir().join("shoal-runtime") };
    let mut tools = vec![ours];
    for name in ["crun", "runc", "youki"] {
        let Some(path) = find(name).or_else(|| (name == "youki").then(youki::built).flatten()) else {
            let hint = if name == "youki" { "; --build-youki builds it" } else { "" };
            figures.unmeasured(&format!("run-{name}"), &format!("{name} is not in PATH{hint}"));
            continue;
        };
        let tool = Tool { name, path };
        if cost(&tool.run_once(&bundle, 0)).is_ok() {
            tools.push(tool);
        } else {
            let said = words(&tool.run_once(&bundle, 1));
            figures.unmeasured(&format!("run-{name}"), &format!("{name} starts no container in this view: {said}"));
        }
    }
    for tool in &tools {
        let version = shell::output(&tool.path.to_string_lossy(), &["--version"]).unwrap_or_default();
        println!("version {} {}", tool.name, version.lines().next().unwrap_or_default());
    }
    let bench = Bench { tools, bundle, view: view.to_owned() };
    no_op(&mut figures, &bench)?;
    verbs::take(&mut figures, &bench)?;
    profile::take(&mut figures, &bench)?;
    calls::take(&mut figures, &bench)?;
    limits::take(&mut figures, &bench)?;
    resident::take(&mut figures, &bench)?;
    let path = &bench.ours().path;
    let size = std::fs::metadata(path).map_err(|error| format!("size of {}: {error}", path.display()))?.len();
    #[expect(clippy::cast_precision_loss, reason = "a binary's size lies far below 2^52")]
    figures.bound("binary-size", "B", size as f64, SIZE_MAX);
    println!("{JSON}{}", figures.json()?);
    Ok(())
}

/// `run` of a static no-op, interleaved, with the floor as one more tool.
fn no_op(figures: &mut Figures, bench: &Bench) -> Result<()> {
    let floor = Tool { name: "floor", path: shell::bin_dir().join("probe") };
    let tools: Vec<&Tool> = bench.tools.iter().chain([&floor]).collect();
    let costs = interleave(&tools, bench.rounds(25), 2, |tool, round| {
        cost(&if tool.name == "floor" { tool.floor(&bench.bundle) } else { tool.run_once(&bench.bundle, round + 2) })
    });
    let mut costs = costs.into_iter();
    let mine = summary(&costs.next().expect("ours is the first tool")?);
    let rss = rss_mb(&bench.ours().run_once(&bench.bundle, 1_000))?;
    for (tool, theirs) in tools[1..].iter().zip(costs) {
        let theirs = match theirs {
            Ok(costs) => summary(&costs),
            Err(why) => {
                figures.unmeasured(&format!("run-{}", tool.name), &why);
                continue;
            }
        };
        let (cpu, wall) = (bench.goal(tool, 0.35), bench.goal(tool, if bench.view == "v1" { 0.9 } else { 0.4 }));
        figures.ratio("run-cpu-min", "ms", mine.cpu.0, tool.name, theirs.cpu.0, cpu);
        figures.ratio("run-cpu-median", "ms", mine.cpu.1, tool.name, theirs.cpu.1, cpu);
        figures.ratio("run-wall-min", "ms", mine.wall.0, tool.name, theirs.wall.0, wall);
        figures.ratio("run-wall-median", "ms", mine.wall.1, tool.name, theirs.wall.1, wall);
        if tool.name != "floor" {
            let theirs = rss_mb(&tool.run_once(&bench.bundle, 1_000))?;
            figures.ratio("run-rss", "MB", rss, tool.name, theirs, None);
        }
    }
    figures.bound("run-rss", "MB", rss, 1.5);
    Ok(())
}

struct Summary {
    cpu: (f64, f64),
    wall: (f64, f64),
}

fn summary(costs: &[Cost]) -> Summary {
    let of = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<_>>();
    Summary { cpu: least_and_median(&of(|cost| cost.cpu_ms)), wall: least_and_median(&of(|cost| cost.wall_ms)) }
}
