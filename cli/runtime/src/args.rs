//! The global flags, and reading a command's own.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use runtime::host::cgroup::Manager;
use runtime::host::probe::Rootless;

use crate::commands::{Failure, incorrect, protect_early};
use crate::usage::{GLOBAL, Wrong};

/// Flags before the command.
#[derive(Debug, Default)]
pub(crate) struct Global {
    /// The whole command line as it was given.
    pub words: Vec<OsString>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--log`.
    pub log: Option<PathBuf>,
    /// `--log-format json`.
    pub log_json: bool,
    /// `--debug`.
    pub debug: bool,
    /// `--systemd-cgroup`, or `--cgroup-manager`.
    pub cgroup_manager: Manager,
    /// `--rootless`.
    pub rootless: Rootless,
    /// `--criu` was given.
    pub criu: bool,
    /// Whether this program's file is safe from containers already.
    pub is_protected: bool,
}

impl Global {
    /// Reads the command line: the flags, the command and what follows it.
    pub(crate) fn read(args: Vec<OsString>) -> Result<(Self, String, Vec<OsString>), Failure> {
        let is_protected = protect_early(&args);
        let mut global = Self { words: args, is_protected, ..Self::default() };
        let mut parser = match GLOBAL.check(global.words.iter().skip(1).cloned().collect()) {
            Ok(plain) => Parser::from_args(plain),
            Err(Wrong::Help) => return Ok((global, "help".into(), Vec::new())),
            Err(Wrong::Said(error)) => return Err(incorrect(&GLOBAL, error)),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Long("root") => global.root = Some(parser.value()?.into()),
                Arg::Long("log") => global.log = Some(parser.value()?.into()),
                Arg::Long("log-format") => {
                    global.log_json = match parser.value()?.string()?.as_str() {
                        "json" => true,
                        "text" | "" => false,
                        other => return Err(Failure::usage(format!("invalid log-format: {other:?}"))),
                    }
                }
                Arg::Long("debug") => global.debug = true,
                Arg::Long("systemd-cgroup") => global.cgroup_manager = Manager::Systemd,
                Arg::Long("cgroup-manager") => {
                    global.cgroup_manager = match parser.value()?.string()?.as_str() {
                        "cgroupfs" => Manager::Cgroupfs,
                        "systemd" => Manager::Systemd,
                        "disabled" => Manager::Disabled,
                        other => return Err(Failure::usage(format!("invalid cgroup-manager: {other:?}"))),
                    }
                }
                Arg::Long("rootless") => {
                    global.rootless = match parser.value()?.string()?.as_str() {
                        "auto" => Rootless::Auto,
                        "true" => Rootless::Told(true),
                        "false" => Rootless::Told(false),
                        other => return Err(Failure::usage(format!("invalid rootless: {other:?}"))),
                    }
                }
                // Written by old callers for CRIU's path.
                Arg::Long("criu") => {
                    let _ = parser.value()?;
                    global.criu = true;
                }
                Arg::Long("version") => return Ok((global, "version".into(), Vec::new())),
                Arg::Value(command) => {
                    let rest = parser.raw_args()?.collect();
                    return Ok((global, command.string()?, rest));
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok((global, "help".into(), Vec::new()))
    }
}
