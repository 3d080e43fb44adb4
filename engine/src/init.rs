//! `run --init`: a first process that starts the real one, hands signals on and reaps orphans.
//!
//! In: the command line. Out: the exit code of the command, 128 + signal when a signal ended it. docker's `tini`.

use crate::host::sys;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Runs a command as the only child that matters; 127 and 126 say it was not found or not executable.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let arguments = match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    };
    let Some((program, rest)) = arguments.split_first() else {
        eprintln!("docker-init: no command");
        return ExitCode::from(125);
    };
    let started = Command::new(program).args(rest).process_group(0).spawn();
    let child = match started {
        Ok(child) => child,
        Err(error) => {
            eprintln!("docker-init: {}: {error}", program.display());
            return ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process numbers fit 22 bits"));
    // The command owns the terminal, when there is one: without this it would stop at its first read.
    let signals = SigSet::all();
    signals.thread_block().ok();
    nix::unistd::tcsetpgrp(std::io::stdin(), pid).ok();
    loop {
        while let Some((ended, code)) = reap() {
            if ended == pid.as_raw() {
                return ExitCode::from(code);
            }
        }
        match sys::wait_signal(&signals) {
            Ok(libc::SIGCHLD) | Err(_) => {}
            Ok(signal) => drop(sys::send_signal(pid.as_raw(), signal)),
        }
    }
}

/// Reaps one process that has ended.
fn reap() -> Option<(i32, u8)> {
    let (pid, code) = sys::wait_child(-1, libc::WNOHANG).ok()??;
    Some((pid, u8::try_from(code).unwrap_or(255)))
}
