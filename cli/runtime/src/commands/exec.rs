//! `exec`: one more process in a running container.

use std::mem::ManuallyDrop;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use oci::spec::Process;
use runtime::host::exec::{self, Request, What};
use runtime::host::foreground::{self, Signals};
use runtime::plan::exec::Changes;

use runtime::error::words;

use super::{Context, Failure, need_id};

/// runc's exit code for a process that could not be executed.
const NOT_EXECUTED: u8 = 255;

/// Whether a process document has this member at all: one that leaves it out means the container's.
#[derive(serde::Deserialize)]
struct NoNewPrivileges {
    #[serde(rename = "noNewPrivileges")]
    no_new_privileges: Option<bool>,
}

/// `exec`; its exit code is the process's.
#[inline(never)]
pub(crate) fn exec(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    let (request, detach) = read(context, parser)?;
    execute(context, &request, detach).map_err(|failure| Failure {
        error: format!("exec failed: {}", failure.error),
        code: NOT_EXECUTED,
        ..failure
    })
}

fn execute(context: &Context<'_>, request: &Request, detach: bool) -> Result<u8, Failure> {
    // Never taken apart: the process ends soon after it was of use.
    let prepared = ManuallyDrop::new(exec::prepare(request)?);
    for warning in &prepared.warnings {
        context.log.warn(warning);
    }
    if detach {
        exec::launch(request, &prepared, None)?.start()?;
        return Ok(0);
    }
    let signals = Signals::take()?;
    let wants_relay = prepared.process.terminal && request.console_socket.is_none();
    let (relay, console) =
        if wants_relay { foreground::relay().map(|(a, b)| (Some(a), Some(b)))? } else { (None, None) };
    let launched = exec::launch(request, &prepared, console)?;
    let code = foreground::accompany(&launched.born, &signals, relay.as_ref(), None, || launched.start())?;
    Ok(u8::try_from(code).unwrap_or(NOT_EXECUTED))
}

fn read(context: &Context<'_>, mut parser: Parser) -> Result<(Request, bool), Failure> {
    let (mut id, mut file, mut detach) = (None::<String>, None::<PathBuf>, false);
    let mut changes = Changes::default();
    let (mut console_socket, mut pidfd_socket, mut pid_file) = (None, None, None);
    let (mut preserve_fds, mut cgroup, mut ignore_paused) = (0, None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("console-socket") => console_socket = Some(parser.value()?.into()),
            Arg::Long("pidfd-socket") => pidfd_socket = Some(parser.value()?.into()),
            Arg::Long("cwd") => changes.cwd = Some(parser.value()?.string()?),
            Arg::Short('e') | Arg::Long("env") => changes.env.push(parser.value()?.string()?),
            Arg::Short('t') | Arg::Long("tty") => changes.terminal = !is_false(&mut parser)?,
            Arg::Short('u') | Arg::Long("user") => changes.user = Some(parser.value()?.string()?),
            Arg::Short('g') | Arg::Long("additional-gids") => changes.additional_gids.push(parser.value()?.parse()?),
            Arg::Short('p') | Arg::Long("process") => file = Some(parser.value()?.into()),
            Arg::Short('d') | Arg::Long("detach") => detach = !is_false(&mut parser)?,
            Arg::Long("pid-file") => pid_file = Some(parser.value()?.into()),
            Arg::Long("process-label") => changes.selinux_label = Some(parser.value()?.string()?),
            Arg::Long("apparmor") => changes.apparmor_profile = Some(parser.value()?.string()?),
            Arg::Long("no-new-privs") => changes.no_new_privileges = Some(!is_false(&mut parser)?),
            Arg::Short('c') | Arg::Long("cap") => changes.capabilities.push(parser.value()?.string()?),
            Arg::Long("preserve-fds") => preserve_fds = parser.value()?.parse()?,
            Arg::Long("cgroup") => cgroup = Some(parser.value()?.string()?),
            Arg::Long("ignore-paused") => ignore_paused = true,
            Arg::Value(value) => {
                id = Some(value.string()?);
                // Everything after the container is the program's, flags too.
                for word in parser.raw_args()? {
                    changes.args.push(word.string()?);
                }
                break;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let what = match file {
        Some(path) => {
            let text = std::fs::read(&path)
                .map_err(|cause| Failure::usage(format!("read {}: {}", path.display(), words(&cause))))?;
            let process: Process =
                oci::spec::parse(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            let said: NoNewPrivileges = serde_json::from_slice(&text)
                .map_err(|cause| Failure::usage(format!("{}: {cause}", path.display())))?;
            What::Whole { process: Box::new(process), no_new_privileges: said.no_new_privileges }
        }
        None if changes.args.is_empty() => return Err(Failure::usage("process args cannot be empty")),
        None => What::Changed(changes),
    };
    let id = need_id(id)?;
    let root = context.root();
    let request =
        Request { root, id, what, console_socket, pidfd_socket, pid_file, preserve_fds, cgroup, ignore_paused };
    Ok((request, detach))
}

/// Whether a flag was written as `--flag=false`.
fn is_false(parser: &mut Parser) -> Result<bool, Failure> {
    match parser.optional_value() {
        None => Ok(false),
        Some(value) => match value.string()?.as_str() {
            "true" | "1" => Ok(false),
            "false" | "0" => Ok(true),
            other => Err(Failure::usage(format!("{other:?} is neither true nor false"))),
        },
    }
}
