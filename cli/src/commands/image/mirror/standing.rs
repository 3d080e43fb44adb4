//! `shoal image mirror add|ls|status|rm`: mirrors that the mesh keeps for as long as they are wanted.

use super::bytes;
use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::commands::mesh::show::{Entry, Output};
use crate::error::Error;
use clap::{ArgAction, Args, Subcommand};
use scheduler::mirror::Policy;
use scheduler::node::api::view::{Done, MirrorView};
use scheduler::quantity::{parse_duration_ms, show_ago};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// The verbs of standing mirrors.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Keep a repository equal somewhere else from now on: one node of the mesh looks and copies, another when it dies
    Add(Add),
    /// List standing mirrors
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// How far a standing mirror is
    Status(Status),
    /// End standing mirrors; what they copied stays
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// The mirror's name
    name: String,
    /// The repository to read
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The repository to write
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Everything that refers to an image too (signatures, SBOMs)
    #[arg(short, long)]
    all: bool,
    /// Only tags that match this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// No tag that matches this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Use at most this many bytes a second in each direction (K, M and G are understood)
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bandwidth: Option<u64>,
    /// Verify certificates and refuse plain HTTP (loopback excepted)
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    tls_verify: bool,
    /// Time between two looks at the source
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    every: String,
    /// Only nodes of this site do it
    #[arg(long)]
    site: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The mirror's name
    name: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The mirrors' names
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, verb: &Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Add(add) => {
            let policy = Policy {
                v: 1,
                name: add.name.clone(),
                from: super::repository(&add.source)?.name(),
                to: super::repository(&add.destination)?.name(),
                include: add.include.clone(),
                exclude: add.exclude.clone(),
                all: add.all,
                bandwidth: add.bandwidth,
                insecure: !add.tls_verify,
                every_ms: parse_duration_ms(&add.every)?,
                site: add.site.clone(),
                ..Policy::default()
            };
            let body = serde_json::to_vec(&policy)?;
            let view: MirrorView = Client::new(global, &add.at)?.send("POST", "/v1/mirrors", &body)?.json()?;
            println!("{}", view.policy.name);
        }
        Verb::Ls(ls) => {
            let views: Vec<MirrorView> = Client::new(global, &ls.at)?.get("/v1/mirrors")?;
            print(&ls.output, &views)?;
        }
        Verb::Status(status) => {
            let client = Client::new(global, &status.at)?;
            let view: MirrorView = client.get(&format!("/v1/mirrors/{}", encode(&status.name)))?;
            let reasons = view.state.iter().flat_map(|state| state.report.reasons.iter().chain([&state.error]));
            let mut reasons: Vec<String> = reasons.filter(|reason| !reason.is_empty()).cloned().collect();
            reasons.dedup();
            print(&status.output, &[view])?;
            for reason in reasons {
                eprintln!("shoal: {}: {reason}", status.name);
            }
        }
        Verb::Rm(rm) => {
            let client = Client::new(global, &rm.at)?;
            for name in &rm.names {
                let done: Done = client.send("DELETE", &format!("/v1/mirrors/{}", encode(name)), &[])?.json()?;
                println!("{}", done.subject);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(output: &Output, views: &[MirrorView]) -> Result<(), Error> {
    let entries: Vec<Entry> = views
        .iter()
        .map(|view| {
            let (last, tags) = match &view.state {
                Some(state) if state.ended_ms > 0 || state.running => (
                    show_ago(now_ms().saturating_sub(state.ended_ms.max(state.began_ms))),
                    format!("{}/{}", state.report.tags - state.report.failed, state.report.tags),
                ),
                _ => ("never".to_owned(), "-".to_owned()),
            };
            Entry {
                id: view.policy.id.clone(),
                name: view.policy.name.clone(),
                cells: vec![
                    view.policy.name.clone(),
                    view.policy.from.clone(),
                    view.policy.to.clone(),
                    view.node_name.clone().unwrap_or_else(|| "-".to_owned()),
                    word(view).to_owned(),
                    tags,
                    last,
                    error(view),
                ],
            }
        })
        .collect();
    output.print(&["NAME", "SOURCE", "DESTINATION", "NODE", "STATE", "TAGS", "LAST", "ERROR"], &entries, views)
}

fn word(view: &MirrorView) -> &'static str {
    match &view.state {
        None => "waiting",
        Some(state) if !state.error.is_empty() => "failed",
        Some(state) if state.report.failed > 0 => "partly failed",
        Some(state) if state.running => "copying",
        Some(_) => "equal",
    }
}

/// Why the last run failed, cut to fit a table; `status` says it whole.
fn error(view: &MirrorView) -> String {
    const CHARS_MAX: usize = 60;
    let Some(state) = &view.state else { return String::new() };
    let reason = if state.error.is_empty() { state.report.reasons.first() } else { Some(&state.error) };
    let reason = reason.map_or("", String::as_str);
    if reason.chars().count() <= CHARS_MAX {
        return reason.to_owned();
    }
    reason.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
