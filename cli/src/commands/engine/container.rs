//! `shoal container …`: the same verbs, and `ls`, `inspect`, `prune`.

use super::{Verb, explain, inspect, open, ps, run_verb};
use crate::commands::Global;
use crate::error::Error;
use clap::Subcommand;
use engine::wish::human_decimal;
use engine::{Engine, Filter};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// `shoal container …`
#[derive(Debug, Subcommand)]
pub(crate) enum Container {
    #[command(flatten)]
    Verb(Verb),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Args),
    /// Look into containers
    Inspect(inspect::Args),
    /// Remove all containers that do not run
    Prune(PruneArgs),
    /// Give back what a container that ended still holds
    #[command(hide = true)]
    Cleanup {
        /// Its id
        container: String,
    },
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only these: label, until
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub(crate) fn run(global: &Global, verb: Container) -> Result<ExitCode, Error> {
    match verb {
        Container::Verb(verb) => run_verb(global, verb),
        Container::Ls(args) => ps::run(global, &args),
        Container::Inspect(args) => inspect::run(global, &args),
        Container::Prune(args) => {
            if !args.force && !confirmed("This will remove all stopped containers.")? {
                return Ok(ExitCode::FAILURE);
            }
            let (removed, bytes) = prune(&open(global)?, &args.filter)?;
            if !removed.is_empty() {
                println!("Deleted Containers:\n{}\n", removed.join("\n"));
            }
            println!("Total reclaimed space: {}", human_decimal(bytes));
            Ok(ExitCode::SUCCESS)
        }
        Container::Cleanup { container } => {
            open(global)?.cleanup(&container).map_err(explain)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Removes every container that does not run; returns ids and freed bytes.
pub(crate) fn prune(engine: &Engine, filters: &[String]) -> Result<(Vec<String>, u64), Error> {
    let now = engine::time::now();
    let (mut rest, mut until) = (Vec::new(), None);
    for filter in filters {
        match filter.strip_prefix("until=") {
            Some(text) => {
                until = Some(
                    engine::time::parse_local(text, now)
                        .ok_or_else(|| Error::new(format!("filter until={text}: no time")))?,
                );
            }
            None => rest.push(filter.clone()),
        }
    }
    let filter = Filter::parse(&rest).map_err(explain)?;
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for container in engine.list(true, None, &filter).map_err(explain)?.containers {
        if container.monitored
            || container.state.status.is_active()
            || until.is_some_and(|until| container.record.created > until)
        {
            continue;
        }
        let size = engine.upper(&container).map_or(0, |upper| ps::folder_bytes(&upper));
        // Started or removed by somebody else in between: not ours to remove any more.
        if engine.remove(container.id(), false, false).is_ok() {
            removed.push(container.record.id.clone());
            bytes += size;
        }
    }
    // Also what killed commands have left.
    engine.sweep_folders().map_err(explain)?;
    Ok((removed, bytes))
}

/// Asks on the terminal; without one the answer is no.
pub(crate) fn confirmed(what: &str) -> Result<bool, Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new("not confirmed: stdin is no terminal").hint("use -f"));
    }
    eprint!("WARNING! {what}\nAre you sure you want to continue? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
