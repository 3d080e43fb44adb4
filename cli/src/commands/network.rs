//! `network` and `volume`: docker's verbs over the engine's networks and volumes of this host.

mod connect;
mod create;
pub(crate) mod inspect;
mod ls;
mod prune;
mod volume;

use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use engine::{Engine, Roots};
use std::process::ExitCode;

/// The verbs of the network group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manage the networks of this host
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Manage the volumes of this host
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
}

/// `shoal network …`
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(create::Create),
    Ls(ls::Ls),
    Inspect(inspect::Inspect),
    Rm(Rm),
    Prune(prune::Prune),
    Connect(connect::Connect),
    Disconnect(connect::Disconnect),
    /// Make bridges, firewall elements and published ports of running containers present again
    Reload,
}

/// Remove networks
#[derive(Debug, Args)]
#[command(visible_alias = "remove")]
pub(crate) struct Rm {
    /// Do not fail on networks that do not exist
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    let roots = Roots::from_option(global.root.as_deref())?;
    let engine = Engine::open(&roots)?;
    match command {
        Command::Network(command) => network(&engine, command),
        Command::Volume(command) => volume::run(&engine, command),
    }
}

fn network(engine: &Engine, command: NetworkCommand) -> Result<ExitCode, Error> {
    let networks = engine.networks();
    match command {
        NetworkCommand::Create(create) => create::run(engine, &create),
        NetworkCommand::Ls(ls) => ls::run(&networks, &ls),
        NetworkCommand::Inspect(inspect) => inspect::run(&networks, &inspect),
        NetworkCommand::Rm(rm) => remove(engine, &rm),
        NetworkCommand::Prune(prune) => prune::run(engine, &prune),
        NetworkCommand::Connect(connect) => connect::connect(engine, &connect),
        NetworkCommand::Disconnect(disconnect) => connect::disconnect(engine, &disconnect),
        NetworkCommand::Reload => {
            warn(&engine.network_reload()?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn remove(engine: &Engine, rm: &Rm) -> Result<ExitCode, Error> {
    each(&rm.networks, |name| match engine.networks().remove(name) {
        Ok(network) => {
            engine.network_event(&network, "destroy", None);
            Ok(Some(name.to_owned()))
        }
        Err(engine::network::Error::NotFound { .. }) if rm.force => Ok(None),
        Err(error) => Err(error.into()),
    })
}

/// Does one thing to each name and prints what comes back; goes on after a failure and fails at the end.
fn each(names: &[String], mut act: impl FnMut(&str) -> Result<Option<String>, Error>) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(name) {
            Ok(done) => done.iter().for_each(|line| println!("{line}")),
            Err(error) => code = error.report(),
        }
    }
    Ok(code)
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("shoal: warning: {warning}");
    }
}

/// Splits `KEY=VALUE`; a bare key has an empty value.
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("KEY=VALUE is expected".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

/// Whether labels match every `label=KEY[=VALUE]` of the filters.
fn labels_match(labels: &std::collections::BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// Prints documents as `inspect` does: pretty, `json`, or one rendering of a template each.
fn print_documents(documents: &[serde_json::Value], format: Option<&str>) -> Result<(), Error> {
    match format {
        None | Some("") => println!("{}", serde_json::to_string_pretty(documents)?),
        Some("json") => println!("{}", serde_json::to_string(documents)?),
        Some(text) => {
            let template = crate::output::Template::parse(text)?;
            for document in documents {
                println!("{}", template.render(document)?);
            }
        }
    }
    Ok(())
}

/// What `system prune` does to networks.
pub(crate) fn prune_networks(engine: &Engine, filters: &[String]) -> Result<(), Error> {
    let filters = filters.iter().map(|text| prune::Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    prune::remove_unused(engine, &filters)
}

/// What `system prune --volumes` does: those without a name go.
pub(crate) fn prune_volumes(engine: &Engine, filters: &[String]) -> Result<u64, Error> {
    let filters = filters.iter().map(|text| prune::Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    volume::remove_unused(engine, false, &filters)
}
