//! `shoal service ls|ps|inspect|logs|explain`, with docker's tables.

use super::wait::state_word;
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::commands::mesh::show::{Entry, Inspection, Output, short};
use crate::error::Error;
use clap::Args;
use scheduler::model::Phase;
use scheduler::node::api::view::{InstanceView, ServiceView};
use scheduler::quantity::show_ago;
use scheduler::service::{Mode, Port, PortMode};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// `shoal service ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only those that match: name=…, label=…, mode=…, id=…
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

/// `shoal service ps`
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// The services
    #[arg(required = true)]
    services: Vec<String>,
    /// Only those that match: node=…, name=…, desired-state=running|shutdown
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

/// `shoal service inspect`
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The services
    #[arg(required = true)]
    services: Vec<String>,
    /// In words instead of JSON
    #[arg(long, conflicts_with_all = ["format", "output"])]
    pretty: bool,
    #[command(flatten)]
    how: Inspection,
    #[command(flatten)]
    at: At,
}

/// `shoal service logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service
    service: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// The last lines of each instance only
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Without the instance before each line
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    at: At,
}

/// `shoal service explain`
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The service
    service: String,
    #[command(flatten)]
    at: At,
}

/// Lists services.
pub(crate) fn ls(global: &Global, ls: &Ls) -> Result<ExitCode, Error> {
    let filters = Filters::new(&ls.filter, &["name", "label", "mode", "id"])?;
    let mut services: Vec<ServiceView> = Client::new(global, &ls.at)?.get("/v1/services")?;
    services.retain(|view| {
        let spec = &view.service.spec;
        filters.all(|key, value| match key {
            "name" => spec.name.contains(value),
            "id" => view.service.id.starts_with(value),
            "mode" => mode(view) == value,
            _ => match value.split_once('=') {
                Some((key, value)) => spec.labels.get(key).is_some_and(|label| label == value),
                None => spec.labels.contains_key(value),
            },
        })
    });
    print_services(&ls.output, &services)
}

/// Prints services in docker's table.
pub(crate) fn print_services(output: &Output, services: &[ServiceView]) -> Result<ExitCode, Error> {
    let entries: Vec<Entry> = services
        .iter()
        .map(|view| Entry {
            id: view.service.id.clone(),
            name: view.service.spec.name.clone(),
            cells: vec![
                tail_of(&view.service.id, output.no_trunc),
                view.service.spec.name.clone(),
                mode(view).to_owned(),
                format!("{}/{}", view.running, view.wanted),
                view.service.spec.template.image.clone(),
                ports(&view.service.spec.ports),
            ],
        })
        .collect();
    output.print(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"], &entries, services)?;
    Ok(ExitCode::SUCCESS)
}

fn mode(view: &ServiceView) -> &'static str {
    match view.service.spec.mode {
        Mode::Replicated { .. } => "replicated",
        Mode::Global => "global",
    }
}

/// The digits of an id that differ: its last twelve (the first tell the time).
fn tail_of(id: &str, no_trunc: bool) -> String {
    if no_trunc || id.len() <= 12 { id.to_owned() } else { id[id.len() - 12..].to_owned() }
}

fn ports(ports: &[Port]) -> String {
    let text = |port: &Port| {
        let host = if port.mode == PortMode::Host { " (host)" } else { "" };
        format!("*:{}->{}/{}{host}", port.published, port.target, port.protocol.name())
    };
    ports.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Lists instances.
pub(crate) fn ps(global: &Global, ps: &Ps) -> Result<ExitCode, Error> {
    let client = Client::new(global, &ps.at)?;
    let mut all = Vec::new();
    for service in &ps.services {
        let path = format!("/v1/instances?service={}", encode(service));
        all.extend(client.get::<Vec<InstanceView>>(&path)?);
    }
    let filters = Filters::new(&ps.filter, &["node", "name", "desired-state", "id"])?;
    all.retain(|view| {
        filters.all(|key, value| match key {
            "node" => view.node_name == value || view.instance.node.starts_with(value),
            "name" => view.name.contains(value),
            "id" => view.instance.id.starts_with(value),
            _ => view.desired == (value == "running"),
        })
    });
    print_instances(&ps.output, &all)
}

/// Prints instances in docker's table: older ones of a slot below the newest, with docker's sign.
pub(crate) fn print_instances(output: &Output, views: &[InstanceView]) -> Result<ExitCode, Error> {
    let mut last = String::new();
    let entries: Vec<Entry> = views
        .iter()
        .map(|view| {
            let row = &view.instance;
            let name = if view.name == last { format!(" \\_ {}", view.name) } else { view.name.clone() };
            last.clone_from(&view.name);
            let state = match row.phase {
                Phase::Running if !row.works() => "Starting (health)".to_owned(),
                phase => phase.word().to_owned(),
            };
            let node_word = match view.node_liveness {
                scheduler::model::Liveness::Down if !row.phase.ended() => " (node down)",
                _ => "",
            };
            let error = match (row.phase, row.exit_code) {
                (Phase::Failed, Some(code)) if row.message.is_empty() => format!("\"task: non-zero exit ({code})\""),
                (Phase::Failed, _) => format!("\"{}\"", row.message),
                _ => String::new(),
            };
            let host_ports: Vec<String> = row
                .host_ports
                .iter()
                .map(|port| format!("*:{}->{}/{}", port.published, port.target, port.protocol.name()))
                .collect();
            Entry {
                id: row.id.clone(),
                name: view.name.clone(),
                cells: vec![
                    tail_of(&row.id, output.no_trunc),
                    name,
                    row.image.clone(),
                    view.node_name.clone(),
                    if view.desired { "Running" } else { "Shutdown" }.to_owned(),
                    format!("{state}{node_word} {}", show_ago(view.age_ms).to_lowercase()),
                    if output.no_trunc { error } else { shortened(&error) },
                    host_ports.join(","),
                ],
            }
        })
        .collect();
    let headings = ["ID", "NAME", "IMAGE", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR", "PORTS"];
    output.print(&headings, &entries, views)?;
    Ok(ExitCode::SUCCESS)
}

/// Cuts an error to docker's width; `--no-trunc` and `service explain` show all of it.
fn shortened(error: &str) -> String {
    const CHARS_MAX: usize = 30;
    if error.chars().count() <= CHARS_MAX {
        return error.to_owned();
    }
    error.chars().take(CHARS_MAX - 2).chain("…\"".chars()).collect()
}

/// Shows services in whole.
pub(crate) fn inspect(global: &Global, inspect: &Inspect) -> Result<ExitCode, Error> {
    let client = Client::new(global, &inspect.at)?;
    let mut views = Vec::new();
    for service in &inspect.services {
        views.push(client.get::<ServiceView>(&format!("/v1/services/{}", encode(service)))?);
    }
    if !inspect.pretty {
        inspect.how.print(&views)?;
        return Ok(ExitCode::SUCCESS);
    }
    for view in &views {
        pretty(view);
    }
    Ok(ExitCode::SUCCESS)
}

fn pretty(view: &ServiceView) {
    let spec = &view.service.spec;
    println!("ID:           {}", view.service.id);
    println!("Name:         {}", spec.name);
    println!("Mode:         {}", mode(view));
    println!("Replicas:     {}/{}", view.running, view.wanted);
    println!("Generation:   {} (template {})", view.service.generation, short(&view.revision, false));
    println!("Image:        {}", spec.template.image);
    if !spec.template.args.is_empty() {
        println!("Args:         {}", spec.template.args.join(" "));
    }
    for constraint in &spec.placement.constraints {
        println!("Constraint:   {constraint}");
    }
    if !spec.ports.is_empty() {
        println!("Ports:        {}", ports(&spec.ports));
    }
    if let Some(rollout) = &view.rollout {
        println!("UpdateStatus: {} {}", state_word(rollout.state), rollout.message);
    }
    if let Some(why) = &view.no_fit {
        println!("Waiting:      {why}");
    }
    println!("Promise:      {}", view.guarantee);
}

/// Lines of an instance that are asked for again and again while its log is followed, and remembered to find where it went on.
const RECENT: usize = 1_000;
/// Prints what instances wrote.
pub(crate) fn logs(global: &Global, logs: &Logs) -> Result<ExitCode, Error> {
    let client = Client::new(global, &logs.at)?;
    let tail = logs.tail.map(|tail| format!("?tail={tail}")).unwrap_or_default();
    let path = format!("/v1/services/{}/logs{tail}", encode(&logs.service));
    let whole = format!("/v1/services/{}/logs", encode(&logs.service));
    let recent = format!("/v1/services/{}/logs?tail={RECENT}", encode(&logs.service));
    let mut printed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut first = true;
    loop {
        let asked = if first { &path } else { &recent };
        let tasks: Vec<Wrote> = client.get(asked)?;
        // More came since than was asked for: everything there is tells where it went on.
        let gap = !first && tasks.iter().any(|task| is_gap(printed.get(&task.task), &task.lines));
        let tasks = if gap { client.get(&whole)? } else { tasks };
        print_logs(tasks, &mut printed, logs.raw, first)?;
        first = false;
        if !logs.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What an instance wrote, as its node answers.
#[derive(Debug, serde::Deserialize)]
struct Wrote {
    task: String,
    node: String,
    lines: Vec<String>,
    error: Option<String>,
}

/// Returns how many of the lines there are now were known before; the rest is new.
fn known_of(before: &[String], now: &[String]) -> usize {
    let count = before.len();
    if now.starts_with(before) {
        return count;
    }
    // What is asked for begins later than what is known, or earlier.
    let later = (1..count).find(|gone| now.starts_with(&before[*gone..])).map(|gone| count - gone);
    let earlier = || now.windows(count).rposition(|window| window == before).map(|at| at + count);
    later.or_else(earlier).unwrap_or(0)
}

fn is_gap(before: Option<&Vec<String>>, now: &[String]) -> bool {
    now.len() >= RECENT && before.is_some_and(|before| !before.is_empty() && known_of(before, now) == 0)
}

fn print_logs(
    tasks: Vec<Wrote>,
    printed: &mut BTreeMap<String, Vec<String>>,
    raw: bool,
    first: bool,
) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for task in tasks {
        let name = &task.task;
        if let Some(error) = task.error.as_ref().filter(|_| first) {
            eprintln!("shoal: {name}: {error}");
        }
        if task.lines.is_empty() {
            continue;
        }
        let before = printed.entry(name.clone()).or_default();
        for line in &task.lines[known_of(before, &task.lines)..] {
            let line = line.trim_end_matches('\n');
            if raw {
                writeln!(out, "{line}")?;
            } else {
                writeln!(out, "{name}@{} | {line}", task.node)?;
            }
        }
        *before = task.lines;
        drop(before.drain(..before.len().saturating_sub(RECENT)));
    }
    out.flush()?;
    Ok(())
}

/// Says what is not as wanted, and why.
pub(crate) fn explain(global: &Global, explain: &Explain) -> Result<ExitCode, Error> {
    let client = Client::new(global, &explain.at)?;
    let view: ServiceView = client.get(&format!("/v1/services/{}", encode(&explain.service)))?;
    let name = &view.service.spec.name;
    println!("{name}: {}/{} running, {} with the wanted template", view.running, view.wanted, view.current);
    if let Some(why) = &view.no_fit {
        println!("{why}");
    }
    if let Some(rollout) = view.rollout.as_ref().filter(|rollout| !rollout.message.is_empty()) {
        println!("update {}: {}", state_word(rollout.state), rollout.message);
    }
    let path = format!("/v1/instances?service={}", encode(name));
    for instance in client.get::<Vec<InstanceView>>(&path)? {
        let row = &instance.instance;
        if row.phase == Phase::Failed {
            let ago = show_ago(instance.age_ms);
            println!("{} on {} failed {ago}: {}", instance.name, instance.node_name, row.message);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `--filter KEY=VALUE`: all keys must match; unknown keys are refused.
struct Filters(Vec<(String, String)>);

impl Filters {
    fn new(texts: &[String], known: &[&str]) -> Result<Self, Error> {
        let mut out = Vec::new();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if !known.contains(&key) {
                return Err(Error::new(format!("--filter {key}: it is one of {}", known.join(", "))).code(2));
            }
            out.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(out))
    }

    fn all(&self, test: impl Fn(&str, &str) -> bool) -> bool {
        self.0.iter().all(|(key, value)| test(key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| number.to_string()).collect()
    }

    #[test]
    fn a_log_that_is_followed_goes_on_where_it_was_however_long_it_gets() {
        assert_eq!(known_of(&[], &lines(0..3)), 0);
        assert_eq!(known_of(&lines(0..3), &lines(0..3)), 3);
        assert_eq!(known_of(&lines(0..3), &lines(0..5)), 3);
        // Only recent lines are asked for, and of `--tail` fewer were asked for at first.
        assert_eq!(known_of(&lines(20_000..21_000), &lines(20_100..21_100)), 900);
        assert_eq!(known_of(&lines(990..1_000), &lines(0..1_020)), 1_000);
        let same = vec!["again".to_owned(); 4];
        assert_eq!(known_of(&same[..2], &same), 2);
        assert!(is_gap(Some(&lines(0..50)), &lines(5_000..6_000)));
        assert!(!is_gap(Some(&lines(950..1_000)), &lines(0..1_000)));
    }
}
