//! `run`: create and start, and in the foreground stay until the end.

use std::mem::ManuallyDrop;

use lexopt::Parser;
use runtime::host::foreground::{self, Signals};
use runtime::host::launch::{Prepared, Request};
use runtime::host::{delete, launch, notify, start};

use super::create::{Flags, prepare, print_plan};
use super::{Context, Failure};

/// `run`; its exit code is the process's.
#[inline(never)]
pub(crate) fn run(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    let flags = Flags::read(parser, true)?;
    if flags.batch.is_some() {
        return super::batch::run(context, &flags);
    }
    let request = flags.request(context)?;
    // Never taken apart: the process ends soon after it was of use.
    let prepared = ManuallyDrop::new(prepare(context, &request)?);
    if flags.plan {
        return print_plan(&prepared);
    }
    if flags.detach {
        return detached(context, &request, &prepared).map(|_| 0);
    }
    let signals = ManuallyDrop::new(Signals::take()?);
    let (relay, console) = if prepared.plan.process.terminal && request.console_socket.is_none() {
        let (relay, console) = foreground::relay()?;
        (Some(relay), Some(console))
    } else {
        (None, None)
    };
    if !flags.no_subreaper {
        foreground::become_subreaper()?;
    }
    let launched = launch::launch(&request, &prepared, console, false)?;
    launched.warnings.iter().for_each(|warning| context.log.warn(warning));
    // The host watches this command, which ends with the container.
    let main = if launched.record.notify.is_some() { std::process::id() } else { 0 };
    let notify = match notify::Relay::listen(&launched.directory, &launched.record, main) {
        Ok(notify) => notify,
        Err(error) => {
            let _ = delete::destroy(launched.directory, &launched.record);
            return Err(error.into());
        }
    };
    let ended = foreground::accompany(&launched.born, &signals, relay.as_ref(), notify.as_ref(), || {
        for error in launched.start()? {
            context.log.warn(&error.to_string());
        }
        launched.directory.unlock()
    });
    if flags.keep && ended.is_ok() {
        return Ok(u8::try_from(ended?).unwrap_or(1));
    }
    if !launched.directory.lock_again()? {
        return Ok(u8::try_from(ended?).unwrap_or(1));
    }
    let (directory, record) = launched.into_record();
    let odd = delete::destroy(directory, &record);
    let code = ended?;
    for error in odd? {
        context.log.warn(&error.to_string());
    }
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Makes and starts a container that nobody accompanies; the pid of its first process.
pub(crate) fn detached(context: &Context<'_>, request: &Request, prepared: &Prepared) -> Result<i32, Failure> {
    let launched = launch::launch(request, prepared, None, false)?;
    launched.warnings.iter().for_each(|warning| context.log.warn(warning));
    let started = notify::Relay::listen(&launched.directory, &launched.record, launched.born.pid.unsigned_abs())
        .and_then(|relay| Ok((relay, launched.start()?)));
    let relay = match started {
        Ok((relay, odd)) => {
            odd.iter().for_each(|error| context.log.warn(&error.to_string()));
            relay
        }
        Err(error) => {
            let _ = delete::destroy(launched.directory, &launched.record);
            return Err(error.into());
        }
    };
    if let Err(error) = start::until_ready(relay.as_ref(), &launched.directory, &launched.record) {
        context.log.warn(&error.to_string());
    }
    Ok(launched.record.pid)
}
