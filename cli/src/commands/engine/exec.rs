//! `shoal exec`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use engine::{EngineError, ExecWish};
use std::path::PathBuf;
use std::process::ExitCode;

/// Run one more process in a running container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave it running in the background
    #[arg(short, long)]
    detach: bool,
    /// The keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Set a variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep stdin open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// User: NAME|ID[:GROUP]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The container
    container: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    if args.tty && args.interactive && !args.detach && !engine::stdin_is_terminal() {
        return Err(Error::new("the input device is not a TTY")
            .hint("leave -t out when stdin is a pipe or a file")
            .code(1));
    }
    let mut env = Vec::new();
    for file in &args.env_file {
        env.extend(super::flags::environment(&super::flags::read(file)?, file)?);
    }
    for entry in args.env {
        match entry.contains('=') {
            true => env.push(entry),
            // Not set here: not set there.
            false => env.push(std::env::var(&entry).map_or_else(|_| entry.clone(), |value| format!("{entry}={value}"))),
        }
    }
    let wish = ExecWish {
        args: args.command,
        env,
        workdir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        tty: args.tty,
        interactive: args.interactive,
        detach: args.detach,
        privileged: args.privileged,
        detach_keys: engine::detach_keys(&args.detach_keys).map_err(explain)?,
    };
    let code = engine.exec(&args.container, &wish).map_err(|error| match error {
        EngineError::Start { code, .. } => explain(error).code(code),
        other => explain(other),
    })?;
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)))
}
