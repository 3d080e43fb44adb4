//! `delete` and `kill`.

use lexopt::{Arg, Parser, ValueExt};
use runtime::host;

use super::{Context, Failure, need_id};

/// `delete [--force] ID`.
pub(crate) fn delete(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut force) = (None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('f') | Arg::Long("force") => force = true,
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    for error in host::delete::delete(&context.root(), &need_id(id)?, force)? {
        context.log.warn(&error.to_string());
    }
    Ok(0)
}

/// `kill [--all] ID [SIGNAL]`.
pub(crate) fn kill(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut signal, mut all) = (None, None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('a') | Arg::Long("all") => all = true,
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            Arg::Value(value) if signal.is_none() => signal = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let signal = signal_number(signal.as_deref().unwrap_or("SIGTERM"))?;
    let (root, id) = (context.root(), need_id(id)?);
    if all {
        host::kill::kill_all(&root, &id, signal)?;
    } else {
        host::kill::kill(&root, &id, signal)?;
    }
    Ok(0)
}

/// Reads `9`, `KILL`, `SIGKILL` or `SIGRTMIN+1`.
fn signal_number(text: &str) -> Result<i32, Failure> {
    host::kill::signal_number(text).ok_or_else(|| Failure::usage(format!("unknown signal {text:?}")))
}
