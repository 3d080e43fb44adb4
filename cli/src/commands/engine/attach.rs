//! `shoal attach` and `shoal start`.

use super::{each, explain, open, warn};
use crate::commands::Global;
use crate::error::Error;
use engine::{AttachEnd, AttachOptions, Engine, Launch};
use std::process::ExitCode;

/// Connect this terminal to a running container
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Do not send stdin
    #[arg(long)]
    no_stdin: bool,
    /// The keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Forward signals to it
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    /// The container
    container: String,
}

/// Start containers
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Stay attached to its output; forward signals
    #[arg(short, long)]
    attach: bool,
    /// Send stdin
    #[arg(short, long)]
    interactive: bool,
    /// The keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// The containers
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let container = engine.find(&args.container).map_err(explain)?;
    let wish = &container.record.wish;
    let stdin = wish.interactive && !args.no_stdin;
    if container.state.status == engine::record::Status::Paused {
        return Err(Error::new(format!("container {} is paused: unpause it first", args.container)));
    }
    if stdin && wish.tty && !engine::stdin_is_terminal() {
        return Err(Error::new("the input device is not a TTY").hint("use --no-stdin"));
    }
    let detach_keys = engine::detach_keys(&args.detach_keys).map_err(explain)?;
    let launch = engine.attach(container.id(), engine::own_streams(stdin, wish.tty)).map_err(explain)?;
    let options = AttachOptions { stdin, tty: wish.tty, signals: args.sig_proxy, detach_keys };
    finish_foreign(&engine, launch, &options)
}

pub(crate) fn start(global: &Global, args: &StartArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    if !args.attach && !args.interactive {
        return each(&args.containers, |name| {
            warn(&engine.start(name)?);
            Ok(Some(name.to_owned()))
        });
    }
    let [name] = &args.containers[..] else {
        return Err(Error::new("you cannot start and attach multiple containers at once"));
    };
    let detach_keys = engine::detach_keys(&args.detach_keys).map_err(explain)?;
    let container = engine.find(name).map_err(explain)?;
    let active = container.state.status.is_active();
    let wish = container.record.wish;
    let stdin = args.interactive && wish.interactive;
    if active {
        // As docker: what runs is attached to.
        let launch = engine.attach(name, engine::own_streams(stdin, wish.tty)).map_err(explain)?;
        return finish_foreign(&engine, launch, &AttachOptions { stdin, tty: wish.tty, signals: true, detach_keys });
    }
    let launch = engine.start_attached(name, engine::own_streams(stdin, wish.tty)).map_err(|error| match error {
        engine::EngineError::Start { code, .. } => explain(error).code(code),
        other => explain(other),
    })?;
    warn(&launch.warnings);
    finish(&engine, launch, &AttachOptions { stdin, tty: wish.tty, signals: true, detach_keys })
}

/// Carries bytes until the end; this command cleans up.
pub(crate) fn finish(engine: &Engine, mut launch: Launch, options: &AttachOptions) -> Result<ExitCode, Error> {
    let end = engine::proxy(&mut launch.client, options)?;
    let code = match end {
        AttachEnd::Exited { code, last: true } => {
            clean_up(engine, launch);
            code
        }
        AttachEnd::Exited { code, last: false } => code,
        AttachEnd::Detached => {
            engine.event(&launch.container.record, "detach", &[]);
            0
        }
        AttachEnd::Lost => match engine.load(launch.container.id()) {
            Ok(container) if container.state.status.is_active() => {
                let message = format!("the monitor of {} went away; the container goes on", container.name());
                return Err(Error::new(message).code(125));
            }
            now => {
                clean_up(engine, launch);
                now.map_or(255, |container| container.state.exit_code)
            }
        },
    };
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)))
}

fn clean_up(engine: &Engine, launch: Launch) {
    if let Err(error) = engine.after_end(launch) {
        explain(error).report();
    }
}

fn finish_foreign(engine: &Engine, mut launch: Launch, options: &AttachOptions) -> Result<ExitCode, Error> {
    let code = match engine::proxy(&mut launch.client, options)? {
        AttachEnd::Exited { code, .. } => code,
        AttachEnd::Detached => {
            engine.event(&launch.container.record, "detach", &[]);
            0
        }
        AttachEnd::Lost => match engine.load(launch.container.id()) {
            Ok(container) if container.state.status.is_active() => {
                let name = container.name();
                return Err(Error::new(format!("the monitor of {name} closed the connection; the container goes on")));
            }
            Ok(container) => container.state.exit_code,
            // Removed in between.
            Err(_) => 0,
        },
    };
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)))
}
