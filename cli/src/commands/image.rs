//! The verbs of the image group: `shoal pull …` as docker spells them, and `shoal image VERB`.

mod copy;
mod import;
mod list;
mod load;
mod login;
mod logout;
mod maintain;
mod mirror;
mod mount;
mod pull;
mod push;
mod registry_args;
mod rmi;
mod save;
mod serve;
mod show;
mod tag;
mod unpack;

pub(crate) use maintain::prune_for_system;

use crate::commands::Global;
use crate::error::Error;
use clap::Subcommand;
use std::process::ExitCode;

/// The verbs that docker has at the top.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pull(pull::Args),
    Push(push::Args),
    Images(list::Args),
    Rmi(rmi::Args),
    Tag(tag::Args),
    History(show::HistoryArgs),
    Save(save::Args),
    Load(load::Args),
    Import(import::Args),
    Login(login::Args),
    Logout(logout::Args),
    /// Images: list, look into, move, serve
    #[command(subcommand)]
    Image(Group),
}

/// The verbs below `shoal image`.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    #[command(visible_alias = "list")]
    Ls(list::Args),
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    Tag(tag::Args),
    Inspect(show::InspectArgs),
    History(show::HistoryArgs),
    Save(save::Args),
    Load(load::Args),
    Import(import::Args),
    Unpack(unpack::Args),
    Mount(mount::MountArgs),
    #[command(visible_alias = "umount")]
    Unmount(mount::UnmountArgs),
    Prune(maintain::PruneArgs),
    Gc(maintain::GcArgs),
    Verify(maintain::VerifyArgs),
    Pull(pull::Args),
    Push(push::Args),
    Serve(serve::Args),
    Copy(copy::Args),
    Mirror(Box<mirror::Args>),
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Pull(args) | Command::Image(Group::Pull(args)) => pull::run(global, &args),
        Command::Push(args) | Command::Image(Group::Push(args)) => push::run(global, &args),
        Command::Images(args) | Command::Image(Group::Ls(args)) => list::run(global, &args),
        Command::Rmi(args) | Command::Image(Group::Rm(args)) => rmi::run(global, &args),
        Command::Tag(args) | Command::Image(Group::Tag(args)) => tag::run(global, &args),
        Command::History(args) | Command::Image(Group::History(args)) => show::history(global, &args),
        Command::Save(args) | Command::Image(Group::Save(args)) => save::run(global, &args),
        Command::Load(args) | Command::Image(Group::Load(args)) => load::run(global, &args),
        Command::Import(args) | Command::Image(Group::Import(args)) => import::run(global, &args),
        Command::Image(Group::Inspect(args)) => show::inspect(global, &args),
        Command::Image(Group::Unpack(args)) => unpack::run(global, &args),
        Command::Image(Group::Mount(args)) => mount::mount(global, &args),
        Command::Image(Group::Unmount(args)) => mount::unmount(global, &args),
        Command::Image(Group::Prune(args)) => maintain::prune(global, &args),
        Command::Image(Group::Gc(args)) => maintain::gc(global, &args),
        Command::Image(Group::Verify(args)) => maintain::verify(global, &args),
        Command::Login(args) => login::run(global, &args),
        Command::Logout(args) => logout::run(global, &args),
        Command::Image(Group::Copy(args)) => copy::run(global, &args),
        Command::Image(Group::Mirror(args)) => mirror::run(global, &args),
        Command::Image(Group::Serve(args)) => serve::run(global, &args),
    }
}

/// Writes down what happened to an image.
pub(super) fn happened(global: &Global, action: &str, id: impl std::fmt::Display, name: impl std::fmt::Display) {
    if let Ok(roots) = engine::Roots::from_option(global.root.as_deref()) {
        engine::events::image(&roots.run, action, &id.to_string(), &name.to_string());
    }
}

/// Opens the image store of these roots.
pub(crate) fn open_store(global: &Global) -> Result<image::Store, Error> {
    let roots = engine::Roots::from_option(global.root.as_deref())?;
    Ok(image::Store::open(&roots.data.join("images"))?)
}
