//! `run --batch ID=BUNDLE…`: many containers by one process, detached.
//!
//! One line of JSON a container on stdout, in the order given: `{"id":…,"pid":…}` or `{"id":…,"error":…}`. One that fails
//! leaves nothing behind and does not stop the others; the exit code is 1 when any has failed.

use std::io::{Read, Write};

use serde::Serialize;

use super::create::{Flags, prepare};
use super::{Context, Failure, run};

/// A line of the answer.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Words from stdin beyond this are no batch: 10,000 containers of 1 KiB paths.
const INPUT_LEN_MAX: u64 = 10 << 20;

/// Runs the batch of `flags`.
#[inline(never)]
pub(crate) fn run(context: &Context<'_>, flags: &Flags) -> Result<u8, Failure> {
    for (given, flag) in [
        (flags.bundle.is_some(), "--bundle"),
        (flags.console_socket.is_some(), "--console-socket"),
        (flags.pidfd_socket.is_some(), "--pidfd-socket"),
        (flags.pid_file.is_some(), "--pid-file"),
        (flags.plan, "--plan"),
        (flags.keep, "--keep"),
    ] {
        if given {
            return Err(Failure::usage(format!("{flag} means one container and cannot go with --batch")));
        }
    }
    let words = words(flags.batch.clone().unwrap_or_default())?;
    if words.is_empty() {
        return Err(Failure::usage("a batch needs words of the form ID=BUNDLE, or - for lines of them on stdin"));
    }
    let mut code = 0;
    for word in &words {
        let id = word.split_once('=').map_or(word.as_str(), |(id, _)| id);
        let line = match one(context, flags, word) {
            Ok(pid) => Line { id, pid: Some(pid), error: None },
            Err(failure) => {
                code = 1;
                Line { id, pid: None, error: Some(failure.error) }
            }
        };
        let text = serde_json::to_string(&line).map_err(|cause| Failure::usage(cause.to_string()))?;
        // A reader that has gone away must not stop the others' start.
        let _ = writeln!(std::io::stdout(), "{text}");
    }
    Ok(code)
}

fn words(given: Vec<String>) -> Result<Vec<String>, Failure> {
    if given != ["-"] {
        return Ok(given);
    }
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(INPUT_LEN_MAX);
    input
        .read_to_string(&mut text)
        .map_err(|cause| Failure::usage(format!("read the batch: {}", runtime::error::words(&cause))))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn one(context: &Context<'_>, flags: &Flags, word: &str) -> Result<i32, Failure> {
    let request = flags.batch_request(context, word)?;
    let prepared = prepare(context, &request)?;
    run::detached(context, &request, &prepared)
}
