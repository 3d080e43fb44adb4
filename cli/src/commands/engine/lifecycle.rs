//! `stop`, `restart`, `kill`, `pause`, `unpause`, `rm`, `wait`.

use super::{each, each_at_once, explain, open, warn};
use crate::commands::Global;
use crate::error::Error;
use engine::EngineError;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Stop containers: their stop signal, then SIGKILL
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Signal to begin with
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds until SIGKILL; -1 waits for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Stop containers and start them again
#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    stop: StopArgs,
}

/// Send a signal to containers
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// The signal
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Freeze all processes of containers
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Thaw all processes of containers
#[derive(Debug, clap::Args)]
pub(crate) struct UnpauseArgs {
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Remove containers
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Kill running ones; a missing one is no error
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Wait until containers end and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) fn stop(global: &Global, args: &StopArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    each_at_once(&args.containers, |name| {
        engine.stop(name, args.signal.as_deref(), args.timeout)?;
        Ok(Some(name.to_owned()))
    })
}

pub(crate) fn restart(global: &Global, args: &RestartArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let args = &args.stop;
    // In the order given: one may live in the namespaces of another.
    each(&args.containers, |name| {
        warn(&engine.restart(name, args.signal.as_deref(), args.timeout)?);
        Ok(Some(name.to_owned()))
    })
}

pub(crate) fn kill(global: &Global, args: &KillArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    each_at_once(&args.containers, |name| {
        engine.kill(name, &args.signal)?;
        Ok(Some(name.to_owned()))
    })
}

pub(crate) fn pause(global: &Global, args: &PauseArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    each_at_once(&args.containers, |name| {
        engine.pause(name)?;
        Ok(Some(name.to_owned()))
    })
}

pub(crate) fn unpause(global: &Global, args: &UnpauseArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    each_at_once(&args.containers, |name| {
        engine.unpause(name)?;
        Ok(Some(name.to_owned()))
    })
}

/// Among how many other containers a removal that found its own looks for what killed commands have left. Beyond, `container prune`
/// does.
const SWEPT_ALONG_MAX: usize = 16;

pub(crate) fn rm(global: &Global, args: &RmArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let whole = AtomicBool::new(true);
    let code = each_at_once(&args.containers, |name| match engine.remove(name, args.force, args.volumes) {
        Err(error) => {
            whole.store(false, Ordering::Relaxed);
            if args.force && matches!(error, EngineError::NoSuchContainer { .. }) { Ok(None) } else { Err(error) }
        }
        Ok(()) => Ok(Some(name.to_owned())),
    })?;
    // Among many that are removed one after the other each would look at all the others.
    if args.force && (!whole.load(Ordering::Relaxed) || engine.ids().map_err(explain)?.len() <= SWEPT_ALONG_MAX) {
        // What killed commands have left of containers that no name leads to.
        engine.sweep_folders().map_err(explain)?;
    }
    Ok(code)
}

pub(crate) fn wait(global: &Global, args: &WaitArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    each_at_once(&args.containers, |name| Ok(Some(engine.wait(name)?.to_string())))
}
