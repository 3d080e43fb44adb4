//! Every command, grouped by the room it opens. Each group has a file `commands/GROUP.rs` with an enum of its verbs that
//! is flattened here, and a folder `commands/GROUP/` with one file a verb.

pub(crate) mod about;
pub(crate) mod engine;
pub(crate) mod image;
pub(crate) mod mesh;
pub(crate) mod network;
pub(crate) mod service;

use crate::error::Error;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Keep everything below one folder: data/, run/, config.toml, run/node.sock
    #[arg(long, global = true, env = "SHOAL_ROOT", hide_env_values = true, value_name = "DIR", display_order = 990)]
    pub(crate) root: Option<PathBuf>,
}

/// The groups of verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Engine(engine::Command),
    #[command(flatten)]
    Image(image::Command),
    #[command(flatten)]
    Network(network::Command),
    #[command(flatten)]
    Mesh(mesh::Command),
    #[command(flatten)]
    Service(service::Command),
    #[command(flatten)]
    About(about::Command),
}

/// Runs one command and returns its exit code.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    if matches!(command, Command::Engine(_) | Command::Image(_) | Command::Network(_)) {
        engine::enter_rootless(global)?;
    }
    match command {
        Command::Engine(command) => engine::run(global, command),
        Command::Image(command) => image::run(global, command),
        Command::Network(command) => network::run(global, command),
        Command::Mesh(command) => mesh::run(global, command),
        Command::Service(command) => service::run(global, command),
        Command::About(command) => about::run(command),
    }
}
