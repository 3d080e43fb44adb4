//! `shoal node …`: the nodes services run on.

use super::each;
use super::list::print_instances;
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::commands::mesh::duration;
use crate::commands::mesh::show::{Entry, Inspection, Output};
use crate::error::Error;
use clap::{Args, Subcommand, ValueEnum};
use scheduler::model::{Availability, Liveness};
use scheduler::node::api::view::{Done, InstanceView, NodePatch, NodeView};
use scheduler::node::means::Means;
use scheduler::quantity::{show_bytes, show_cpus};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `shoal node …`
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show nodes in whole
    Inspect(Inspect),
    /// List the instances on nodes, by default on this one
    Ps(Ps),
    /// Change availability and labels
    Update(Update),
    /// Move everything away from nodes
    Drain(Drain),
    /// Let services run on nodes again
    Activate(Names),
    /// Keep what runs on nodes, and let nothing new come
    Pause(Names),
    /// Evict nodes that are down: they are forgotten, and never members again
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

#[derive(Debug, Args)]
struct Ls {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Inspect {
    /// Names, ids, or `self`
    #[arg(required = true)]
    nodes: Vec<String>,
    #[command(flatten)]
    how: Inspection,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Ps {
    /// Names, ids, or `self`
    #[arg(default_value = "self")]
    nodes: Vec<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Names {
    /// Names, ids, or `self`
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    names: Names,
    /// Wait until nothing of a service runs on them any more
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    wait_timeout: u64,
}

#[derive(Debug, Args)]
struct Rm {
    /// Names or ids
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Nodes that are alive, too
    #[arg(short, long)]
    force: bool,
    /// Say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AvailabilityName {
    /// Services may run there
    Active,
    /// What runs stays, nothing new comes
    Pause,
    /// What runs moves away
    Drain,
}

#[derive(Debug, Args)]
struct Update {
    /// What may run on it
    #[arg(long, value_enum)]
    availability: Option<AvailabilityName>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
    /// Its name, its id, or `self`
    node: String,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, node: Node) -> Result<ExitCode, Error> {
    match node.verb {
        Verb::Ls(ls) => list(global, &ls),
        Verb::Inspect(some) => {
            let client = Client::new(global, &some.at)?;
            let mut views = Vec::new();
            for node in &some.nodes {
                views.push(client.get::<NodeView>(&format!("/v1/nodes/{}", encode(node)))?);
            }
            some.how.print(&views)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Ps(ps) => {
            let client = Client::new(global, &ps.at)?;
            let mut views: Vec<InstanceView> = Vec::new();
            for node in &ps.nodes {
                views.extend(client.get::<Vec<InstanceView>>(&format!("/v1/instances?node={}", encode(node)))?);
            }
            print_instances(&ps.output, &views)
        }
        Verb::Update(update) => {
            let availability = update.availability.map(|availability| match availability {
                AvailabilityName::Active => Availability::Active,
                AvailabilityName::Pause => Availability::Pause,
                AvailabilityName::Drain => Availability::Drain,
            });
            let mut patch = NodePatch { availability, label_rm: update.label_rm, ..NodePatch::default() };
            for label in &update.label_add {
                let (key, value) = label
                    .split_once('=')
                    .ok_or_else(|| Error::new(format!("--label-add {label:?} is not KEY=VALUE")).code(2))?;
                patch.label_add.insert(key.to_owned(), value.to_owned());
            }
            if patch == NodePatch::default() {
                return Err(Error::new("nothing to change").hint("--availability, --label-add, --label-rm").code(2));
            }
            change(global, &update.at, &[update.node], &patch, update.dry_run)
        }
        Verb::Drain(some) => {
            let _ = set(global, &some.names, Availability::Drain)?;
            if some.wait { emptied(global, &some) } else { Ok(ExitCode::SUCCESS) }
        }
        Verb::Activate(names) => set(global, &names, Availability::Active),
        Verb::Pause(names) => set(global, &names, Availability::Pause),
        Verb::Rm(rm) => remove(global, &rm),
    }
}

fn set(global: &Global, names: &Names, availability: Availability) -> Result<ExitCode, Error> {
    let patch = NodePatch { availability: Some(availability), ..NodePatch::default() };
    change(global, &names.at, &names.nodes, &patch, names.dry_run)
}

fn change(global: &Global, at: &At, nodes: &[String], patch: &NodePatch, dry_run: bool) -> Result<ExitCode, Error> {
    let client = Client::new(global, at)?;
    for node in nodes {
        let path = format!("/v1/nodes/{}", encode(node));
        if dry_run {
            would(&client, &client.get(&path)?, patch)?;
        } else {
            println!("{}", client.send("PATCH", &path, &serde_json::to_vec(patch)?)?.json::<Done>()?.subject);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Evicts nodes; one that lives only when told so. Goes on with the others when one cannot be removed.
fn remove(global: &Global, rm: &Rm) -> Result<ExitCode, Error> {
    let client = Client::new(global, &rm.at)?;
    each(&rm.nodes, |node| {
        client.get::<NodeView>(&format!("/v1/nodes/{}", encode(node))).and_then(|view| {
            if matches!(view.liveness, Liveness::Alive | Liveness::Suspect) && !rm.force {
                let hint =
                    format!("on that node: shoal mesh leave; if it is lost to you: shoal node rm --force {node}");
                return Err(Error::new(format!("node {} is not down and can't be removed", view.name)).hint(hint));
            }
            if !rm.dry_run {
                client.send("DELETE", &format!("/v1/members/{}", encode(&view.id)), &[])?.json::<Done>()?;
            }
            Ok(view.name)
        })
    })
}

/// Says what a change would do to a node, and what would have to move.
fn would(client: &Client, view: &NodeView, patch: &NodePatch) -> Result<(), Error> {
    if let Some(availability) = patch.availability.filter(|availability| *availability != view.availability) {
        println!("{}: {} would become {}", view.name, view.availability.word(), availability.word());
    }
    for (key, value) in &patch.label_add {
        println!("{}: label {key}={value} would be set", view.name);
    }
    for key in &patch.label_rm {
        println!("{}: label {key} would be removed", view.name);
    }
    if patch.availability == Some(Availability::Drain) {
        for instance in on_node(client, &view.id)? {
            println!("{}: {} would move", view.name, instance.name);
        }
    }
    Ok(())
}

/// What still runs on a node, also what is being stopped.
fn on_node(client: &Client, node: &str) -> Result<Vec<InstanceView>, Error> {
    let mut instances: Vec<InstanceView> = client.get(&format!("/v1/instances?node={}", encode(node)))?;
    instances.retain(|view| !view.instance.phase.ended());
    Ok(instances)
}

/// Waits until nothing of a service runs on drained nodes. Exit code 4 when time runs out.
fn emptied(global: &Global, drain: &Drain) -> Result<ExitCode, Error> {
    let client = Client::new(global, &drain.names.at)?;
    let deadline = Instant::now() + Duration::from_millis(drain.wait_timeout);
    for node in &drain.names.nodes {
        let mut shown = usize::MAX;
        loop {
            let left = on_node(&client, node)?;
            if left.is_empty() {
                break;
            }
            if left.len() != shown {
                shown = left.len();
                eprintln!("{node}: {shown} still there");
            }
            if Instant::now() > deadline {
                let names: Vec<String> = left.into_iter().map(|instance| instance.name).collect();
                let text = format!("{node} is not empty after {} s: {}", drain.wait_timeout / 1000, names.join(", "));
                return Err(Error::new(text).hint("`shoal service explain NAME` says why one does not move").code(4));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How much of a host's disk is used, like reserved means: `used/all`.
fn disk(means: &Means) -> String {
    let used = means.disk_bytes.saturating_sub(means.disk_free_bytes);
    format!("{}/{}", show_bytes(used), show_bytes(means.disk_bytes))
}

fn list(global: &Global, ls: &Ls) -> Result<ExitCode, Error> {
    let nodes: Vec<NodeView> = Client::new(global, &ls.at)?.get("/v1/nodes")?;
    let entries: Vec<Entry> = nodes
        .iter()
        .map(|view| {
            let status = match view.liveness {
                Liveness::Alive => "Ready",
                Liveness::Suspect => "Suspect",
                Liveness::Down => "Down",
                Liveness::Left => "Left",
            };
            let cpus = format!("{}/{}", show_cpus(view.reserved.cpu_nanos), show_cpus(view.capacity.cpu_nanos));
            let memory =
                format!("{}/{}", show_bytes(view.reserved.memory_bytes), show_bytes(view.capacity.memory_bytes));
            Entry {
                id: view.id.clone(),
                name: view.name.clone(),
                cells: vec![
                    format!("{}{}", view.id, if view.is_self { " *" } else { "" }),
                    view.name.clone(),
                    status.to_owned(),
                    view.availability.word().to_owned(),
                    view.site.clone(),
                    view.instances.to_string(),
                    cpus,
                    memory,
                    view.means.as_ref().map_or_else(|| "-".to_owned(), disk),
                    view.version.clone(),
                ],
            }
        })
        .collect();
    let headings =
        ["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "SITE", "INSTANCES", "CPUS", "MEMORY", "DISK", "VERSION"];
    ls.output.print(&headings, &entries, &nodes)?;
    Ok(ExitCode::SUCCESS)
}
