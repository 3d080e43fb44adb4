//! `network prune`.

use super::labels_match;
use crate::error::Error;
use clap::Args;
use engine::Engine;
use engine::network::{DEFAULT, Mode};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Remove all networks that no container uses
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that match: label=KEY[=VALUE], label!=KEY[=VALUE], until=10m
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Asks on a terminal; elsewhere `--force` is needed, for nobody can answer.
pub(super) fn agreed(what: &str, force: bool) -> Result<bool, Error> {
    if force {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new("nobody can answer on this input").hint("say --force").code(2));
    }
    eprint!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// One filter of `prune`.
pub(super) enum Filter {
    Label(String),
    NoLabel(String),
    Until(u64),
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if let Some(label) = text.strip_prefix("label!=") {
            return Ok(Self::NoLabel(label.to_owned()));
        }
        if let Some(label) = text.strip_prefix("label=") {
            return Ok(Self::Label(label.to_owned()));
        }
        if let Some(time) = text.strip_prefix("until=") {
            return engine::time::parse_local(time, engine::time::now())
                .map(Self::Until)
                .ok_or_else(|| Error::new(format!("until={time}: neither a time nor a duration")).code(2));
        }
        Err(Error::new(format!("invalid filter '{text}'")).hint("label=, label!= and until= are known").code(2))
    }

    pub(super) fn fits(&self, labels: &std::collections::BTreeMap<String, String>, created: u64) -> bool {
        match self {
            Self::Label(wanted) => labels_match(labels, wanted),
            Self::NoLabel(wanted) => !labels_match(labels, wanted),
            Self::Until(time) => created < *time,
        }
    }
}

/// Removes them and prints their names.
pub(super) fn run(engine: &Engine, args: &Prune) -> Result<ExitCode, Error> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if !agreed("all networks not used by at least one container", args.force)? {
        return Ok(ExitCode::SUCCESS);
    }
    remove_unused(engine, &filters)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes networks that no container is on, now or at its next start; prints docker's list.
pub(super) fn remove_unused(engine: &Engine, filters: &[Filter]) -> Result<(), Error> {
    let mut used = BTreeSet::from([DEFAULT.to_owned()]);
    for container in engine.all()?.0 {
        if let Ok(Mode::Networks(names)) = Mode::parse(&container.record.wish.networks) {
            used.extend(names);
        }
    }
    let networks = engine.networks();
    let mut removed = Vec::new();
    for network in networks.list()? {
        let wanted = filters.iter().all(|filter| filter.fits(&network.labels, network.created));
        let free = !used.contains(&network.name) && !networks.is_kept(&network);
        if wanted && free && networks.remove(&network.name).is_ok() {
            engine.network_event(&network, "destroy", None);
            removed.push(network.name);
        }
    }
    if !removed.is_empty() {
        println!("Deleted Networks:\n{}\n", removed.join("\n"));
    }
    Ok(())
}
