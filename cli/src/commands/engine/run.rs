//! `shoal run`: make, start, stay attached; or start a bundle with `--bundle`.

use super::attach::finish;
use super::create::create;
use super::flags::Flags;
use super::{explain, open, warn};
use crate::commands::Global;
use crate::error::Error;
use engine::{AttachOptions, Engine, EngineError};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Make a container and start it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Leave it running in the background and print its id
    #[arg(short, long)]
    detach: bool,
    /// Attach only to stdin, stdout or stderr
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"], ignore_case = true)]
    attach: Vec<String>,
    /// The keys that leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Forward signals to it
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    /// Run an OCI bundle: the "image" is its id, as in `shoal-runtime run --bundle DIR ID`
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    if let Some(bundle) = &args.bundle {
        let mut command = Command::new(engine.runtime().map_err(|error| explain(error).code(125))?);
        command.arg("--root").arg(engine.roots().runtime()).arg("run").arg("--bundle").arg(bundle);
        if args.detach {
            command.arg("--detach");
        }
        std::fs::create_dir_all(engine.roots().runtime())?;
        return Err(Error::from(command.arg(&args.flags.image).exec()).code(125));
    }
    let keys = engine::detach_keys(&args.detach_keys).map_err(|error| explain(error).code(125))?;
    if args.detach && !args.attach.is_empty() {
        return Err(Error::new("-d and --attach exclude each other").code(125));
    }
    let (interactive, tty) = (args.flags.interactive, args.flags.tty);
    if !args.detach && interactive && tty && !engine::stdin_is_terminal() {
        return Err(Error::new("the input device is not a TTY")
            .hint("leave -t out when stdin is a pipe or a file")
            .code(125));
    }
    let (pull, cidfile, replace) = (args.flags.pull.clone(), args.flags.cidfile.clone(), args.flags.replace);
    let mut wish = args.flags.wish().map_err(|error| error.code(125))?;
    wish.detach = args.detach;
    let wants =
        |stream: &str| args.attach.is_empty() || args.attach.iter().any(|name| name.eq_ignore_ascii_case(stream));
    let stdin = if args.attach.is_empty() { interactive } else { interactive && wants("stdin") };
    let made = create(global, &engine, &wish, &pull, cidfile.as_deref(), replace)?;
    if args.detach {
        match engine.start(&made.id) {
            Ok(warnings) => warn(&warnings),
            Err(error) => {
                println!("{}", made.id);
                return failed(&engine, &made.id, wish.remove, error);
            }
        }
        println!("{}", made.id);
        return Ok(ExitCode::SUCCESS);
    }
    let mut streams = engine::own_streams(stdin, tty);
    (streams.stdout, streams.stderr) = (wants("stdout"), wants("stderr"));
    let launch = match engine.start_attached(&made.id, streams) {
        Ok(launch) => launch,
        Err(error) => return failed(&engine, &made.id, wish.remove, error),
    };
    warn(&launch.warnings);
    let options = AttachOptions { stdin, tty, signals: args.sig_proxy, detach_keys: keys };
    finish(&engine, launch, &options)
}

/// A container that did not start: with `--rm` nothing of it stays.
fn failed(engine: &Engine, id: &str, remove: bool, error: EngineError) -> Result<ExitCode, Error> {
    let code = match &error {
        EngineError::Start { code, .. } => *code,
        _ => 125,
    };
    if remove && let Err(also) = engine.remove(id, true, true) {
        explain(also).report();
    }
    Err(explain(error).code(code))
}
