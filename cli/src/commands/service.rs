//! The verbs about what runs on the mesh: services, the nodes they run on, and stacks of them.

mod change;
mod create;
mod explain;
mod list;
mod logs;
mod node;
mod options;
mod stack;
mod wait;

use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// The verbs of the service group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Services: what shall run on the mesh, and how often
    Service(Service),
    /// Nodes: where services run
    Node(node::Node),
    /// Stacks: services from a compose file
    Stack(stack::Stack),
}

/// `shoal service …`
#[derive(Debug, Args)]
pub(crate) struct Service {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a service
    Create(Box<create::Create>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(list::Ls),
    /// List the instances of services
    Ps(list::Ps),
    /// Show services in whole
    Inspect(list::Inspect),
    /// Change a service
    Update(Box<change::Update>),
    /// Change the number of replicas: NAME=N
    Scale(change::Scale),
    /// Replace every instance, as an update that changes nothing else
    Restart(change::Restart),
    /// Bring the spec before the last change back
    Rollback(change::Rollback),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(change::Rm),
    /// Print what the instances of a service wrote
    Logs(logs::Logs),
    /// Say why a service is not where it should be
    Explain(explain::Explain),
    /// Wait until services are as wanted
    Wait(wait::WaitFor),
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Node(node) => node::run(global, node),
        Command::Stack(stack) => stack::run(global, stack),
        Command::Service(service) => match service.verb {
            Verb::Create(create) => create::run(global, *create),
            Verb::Ls(ls) => list::ls(global, &ls),
            Verb::Ps(ps) => list::ps(global, &ps),
            Verb::Inspect(inspect) => list::inspect(global, &inspect),
            Verb::Update(update) => change::update(global, *update),
            Verb::Scale(scale) => change::scale(global, &scale),
            Verb::Restart(restart) => change::restart(global, &restart),
            Verb::Rollback(rollback) => change::rollback(global, &rollback),
            Verb::Rm(rm) => change::rm(global, &rm),
            Verb::Logs(some) => logs::run(global, &some),
            Verb::Explain(explain) => explain::run(global, &explain),
            Verb::Wait(wait) => wait::run(global, &wait),
        },
    }
}

/// Does one thing for each name and prints what it returns; goes on after a failure, the last of which is the command's.
fn each(names: &[String], mut act: impl FnMut(&str) -> Result<String, Error>) -> Result<ExitCode, Error> {
    let mut failed: Option<Error> = None;
    for name in names {
        match act(name) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    before.report();
                }
            }
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}
