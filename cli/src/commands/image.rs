//! The verbs of the image group: `shoal pull …` as docker spells them, and `shoal image VERB`.

mod copy;
mod login;
mod logout;
mod mirror;
mod pull;
mod push;
mod registry_args;
mod serve;

use crate::commands::Global;
use crate::error::Error;
use clap::Subcommand;
use std::process::ExitCode;

/// The verbs that docker has at the top.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pull(pull::Args),
    Push(push::Args),
    Login(login::Args),
    Logout(logout::Args),
    /// Images: list, look into, move, serve
    #[command(subcommand)]
    Image(Group),
}

/// The verbs below `shoal image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    Pull(pull::Args),
    Push(push::Args),
    Serve(serve::Args),
    Copy(copy::Args),
    Mirror(mirror::Args),
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Pull(args) | Command::Image(Group::Pull(args)) => pull::run(global, &args),
        Command::Push(args) | Command::Image(Group::Push(args)) => push::run(global, &args),
        Command::Login(args) => login::run(global, &args),
        Command::Logout(args) => logout::run(global, &args),
        Command::Image(Group::Copy(args)) => copy::run(global, &args),
        Command::Image(Group::Mirror(args)) => mirror::run(global, &args),
        Command::Image(Group::Serve(args)) => serve::run(global, &args),
    }
}

/// Opens the image store of these roots.
pub(crate) fn open_store(global: &Global) -> Result<image::Store, Error> {
    let roots = engine::Roots::from_option(global.root.as_deref())?;
    Ok(image::Store::open(&roots.data.join("images"))?)
}
