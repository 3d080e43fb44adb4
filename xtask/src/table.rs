//! The runtime suite for runc, crun and ours, in every view of cgroups, as one page of documentation.
//!
//! In: the suite's lines of JSON, one run a view. Out: `docs/runtime-table.md`. It judges nothing: a failure is printed.

use crate::shell::{self, Result};
use crate::suite;
use crate::view::View;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The runtimes, as the suite names them in its lines.
const SUBJECTS: [&str; 3] = ["runc", "crun", "ours"];

/// What a view gave: case → line.
type Lines = BTreeMap<String, Value>;

/// The views in the order of the columns.
const VIEWS: [&str; 4] = ["v1", "hybrid", "v2", "cgroup2"];

/// Runs the suite in every view (`--view NAME`: in one) and writes the page of all that is kept of the views; with a filter
/// the cases it names are asked anew, and the others stay as they were.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.first().map(String::as_str) != Some("runtime") {
        return Err("table takes: runtime".into());
    }
    let only = crate::bench::value(args, "--view");
    let filter = args.get(1).map(String::as_str).filter(|word| !word.starts_with("--"));
    let suite = suite::binary("runtime")?;
    for view in VIEWS.into_iter().filter(|view| only.is_none_or(|only| only == *view)) {
        let Some(command) = command(view)? else { continue };
        lines(command, &suite, filter, view)?;
    }
    let mut views: Vec<(&str, Lines)> = VIEWS.into_iter().map(|view| (view, known(view))).collect();
    views.retain(|(_, lines)| !lines.is_empty());
    let path = shell::top().join("docs/runtime-table.md");
    std::fs::write(&path, page(&views)?).map_err(|error| format!("write {}: {error}", path.display()))?;
    println!("{} written", path.display());
    Ok(())
}

/// Where the lines of a view are kept between runs.
fn kept(view: &str) -> PathBuf {
    shell::target().join("table").join(format!("{view}.jsonl"))
}

/// What was kept of a view.
fn known(view: &str) -> Lines {
    let text = std::fs::read_to_string(kept(view)).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter_map(|line| Some((line["case"].as_str()?.to_owned(), line))).collect()
}

fn keep(view: &str, lines: &Lines) -> Result<()> {
    let path = kept(view);
    let text: String = lines.values().map(|line| format!("{line}\n")).collect();
    std::fs::create_dir_all(shell::target().join("table"))
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| format!("write {}: {error}", path.display()))
}

/// The command that goes into a view; none where this host has no such view.
fn command(view: &str) -> Result<Option<Command>> {
    Ok(match view {
        "v1" => View::V1.lacking().is_none().then(|| View::V1.command()),
        "cgroup2" => Some(View::V2.command()),
        "hybrid" => Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists().then(|| Command::new("env")),
        _ => {
            let me = std::env::current_exe().map_err(|error| format!("find xtask itself: {error}"))?;
            let mut machine = Command::new(me);
            machine.args(["vm", "--"]);
            Some(machine)
        }
    })
}

/// Runs the suite in a view; what it says is kept as it comes, so that a run that is cut short has told what it knows.
fn lines(mut command: Command, suite: &Path, filter: Option<&str>, view: &str) -> Result<()> {
    command.arg(suite).arg("--table").args(filter).env("SHOAL_BIN_DIR", shell::bin_dir());
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("start the suite: {error}"))?;
    let mut lines = if filter.is_some() { known(view) } else { Lines::new() };
    let mut said = false;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    for line in output.lines().map_while(std::result::Result::ok) {
        let Ok(line) = serde_json::from_str::<Value>(line.trim()) else { continue };
        if let Some(case) = line["case"].as_str() {
            let words = SUBJECTS.map(|name| if line[name].is_null() { "pass" } else { "FAIL" });
            eprintln!("{case:80} {}", words.join(" "));
            lines.insert(case.to_owned(), line);
            keep(view, &lines)?;
            said = true;
        }
    }
    // A failing case makes the suite fail; the table says which.
    let _ = child.wait();
    if said { Ok(()) } else { Err("the suite printed no case".into()) }
}

fn version(program: &str) -> String {
    let text = shell::output(program, &["--version"]).unwrap_or_default();
    text.lines().next().unwrap_or("not installed").trim().to_owned()
}

fn page(views: &[(&str, Lines)]) -> Result<String> {
    let mut page = String::new();
    let mut notes: Vec<String> = Vec::new();
    let ours = shell::bin_dir().join("shoal-runtime");
    let commit = shell::output("git", &["-C", &shell::top().to_string_lossy(), "rev-parse", "--short", "HEAD"])?;
    let _ = write!(
        page,
        "# The runtime suite, case by case

Made by `cargo xtask table runtime` at {}; do not edit. Every case of `integration/suites/runtime` is asked of Debian's runc and
crun and of ours by the same code. v1: the v1 hierarchies alone; hybrid: v1 with a unified hierarchy beside it (crun refuses such a
host); v2: the small machine of `cargo xtask vm`, whose kernel is older and has neither cpuset, nor time namespaces, nor id-mapped mounts;
cgroup2: a unified hierarchy alone on the host's own kernel, in a mount namespace of its own, where v1 has taken all controllers but hugetlb:
what needs memory, cpu, pids or cpuset fails there for want of them.

- {}
- {}
- {}

| case |",
        commit.trim(),
        version("runc"),
        version("crun"),
        version(&ours.to_string_lossy()),
    );
    let columns: Vec<(usize, &str, &str)> = views
        .iter()
        .enumerate()
        .flat_map(|(at, (view, _))| {
            // crun starts nothing on a hybrid host: a column of failures would say nothing about a case.
            let names = SUBJECTS.into_iter().filter(|name| !(*view == "hybrid" && *name == "crun"));
            names.map(move |name| (at, *view, name))
        })
        .collect();
    for (_, view, name) in &columns {
        let _ = write!(page, " {view} {name} |");
    }
    let _ = writeln!(page, "\n|---|{}", "---|".repeat(columns.len()));
    let mut counts = vec![(0, 0); columns.len()];
    for case in views.first().ok_or("no view was ever run")?.1.keys() {
        let _ = write!(page, "| {} |", case.replace("::", ": ").replace('_', " "));
        for ((at, view, name), count) in columns.iter().zip(&mut counts) {
            let Some(line) = views[*at].1.get(case) else {
                page.push_str(" – |");
                continue;
            };
            count.1 += 1;
            match line[name].as_str() {
                None => {
                    count.0 += 1;
                    page.push_str(" pass |");
                }
                Some(why) => {
                    let note = format!("{name}, {view}: {}", reason(line, name, why));
                    let number = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    let _ = write!(page, " **no** ({}) |", number + 1);
                }
            }
        }
        page.push('\n');
    }
    let sums: Vec<String> = counts.iter().map(|(passed, all)| format!("{passed} of {all}")).collect();
    let _ = writeln!(page, "| **passed** | {} |\n\n## Why not\n", sums.join(" | "));
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(page, "{}. {note}", number + 1);
    }
    Ok(page)
}

/// The known difference of the peer, else the first words of the failure.
fn reason(line: &Value, name: &str, why: &str) -> String {
    let known = line["differs"].as_array().into_iter().flatten().find(|differs| differs["peer"] == name);
    if let Some(known) = known.and_then(|known| known["why"].as_str()) {
        return known.to_owned();
    }
    let said = why.lines().find_map(|line| line.strip_prefix("stderr: ")).or_else(|| why.lines().next());
    let said = said.unwrap_or_default().replace('|', "/");
    // What a log line says is its message; the rest are a time and a level.
    let message = said.split("msg=").nth(1).unwrap_or(&said);
    let mut text: String = message.trim_matches('"').chars().take(160).collect();
    // Names of one run mean nothing later.
    if let Some(at) = text.find("/tmp/") {
        text.truncate(at);
        text.push_str("(a path)");
    }
    text
}
