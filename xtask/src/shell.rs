//! Running programs from the top of the workspace, each line shown before it runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a verb failed, as one line.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Returns the top of the workspace.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the workspace")
}

/// Returns cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top().join("target"), PathBuf::from)
}

/// Returns the folder of the built binaries.
pub(crate) fn bin_dir() -> PathBuf {
    std::env::var_os("SHOAL_BIN_DIR").map_or_else(|| target().join("release"), PathBuf::from)
}

/// Runs `program` with `args` and fails when it does.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<()> {
    let mut command = Command::new(program);
    command.current_dir(top()).args(args);
    status(command)
}

/// Runs cargo with `args` followed by `more`.
pub(crate) fn cargo(args: &[&str], more: &[String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(top()).args(args).args(more);
    status(command)
}

/// Shows and runs a command.
pub(crate) fn status(mut command: Command) -> Result<()> {
    let line = line(&command);
    eprintln!("+ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{line}: {status}")),
        Err(error) => Err(format!("{line}: {error}")),
    }
}

/// Returns the standard output of a program that must succeed.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
