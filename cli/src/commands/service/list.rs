//! `shoal service ls|ps|inspect`, with docker's tables.

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
use std::process::ExitCode;

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
                shown_image(&view.service.spec.template.image, output.no_trunc),
                ports(&view.service.spec.ports),
            ],
        })
        .collect();
    output.print(&["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"], &entries, services)?;
    Ok(ExitCode::SUCCESS)
}

/// Says what the node that took a change wants people to know.
pub(crate) fn warn(view: &ServiceView) {
    view.warnings.iter().for_each(|warning| eprintln!("WARNING: {warning}"));
}

/// The image as docker shows it: without the digest that its tag was pinned to, unless nothing is to be cut.
fn shown_image(image: &str, no_trunc: bool) -> String {
    match image.split_once('@') {
        Some((name, _)) if !no_trunc && name.rsplit('/').next().is_some_and(|last| last.contains(':')) => {
            name.to_owned()
        }
        _ => image.to_owned(),
    }
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
                    shown_image(&row.image, output.no_trunc),
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

    #[test]
    fn a_pinned_image_is_shown_by_its_tag() {
        assert_eq!(shown_image("a.b:5000/x:1@sha256:ab", false), "a.b:5000/x:1");
        assert_eq!(shown_image("a.b:5000/x:1@sha256:ab", true), "a.b:5000/x:1@sha256:ab");
        assert_eq!(shown_image("a.b:5000/x@sha256:ab", false), "a.b:5000/x@sha256:ab");
        assert_eq!(shown_image("x:1", false), "x:1");
    }
}
