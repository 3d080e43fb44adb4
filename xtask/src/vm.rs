//! A command in a small virtual machine on the live file system, read-only, with pure cgroup v2.
//!
//! Two machines: user-mode-linux boots in seconds and has no systemd; with `--systemd` QEMU runs Debian's cloud kernel in
//! software, and systemd is its first process.

mod archive;
mod systemd;
mod uml;

use crate::shell::Result;

const USAGE: &str = "usage: cargo xtask vm [--systemd] -- COMMAND…";

/// Runs the words after `--` in the machine and fails as they do.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (systemd, rest) = match args.split_first() {
        Some((flag, rest)) if flag == "--systemd" => (true, rest),
        _ => (false, args),
    };
    let command = match rest.split_first() {
        Some((dashes, command)) if dashes == "--" && !command.is_empty() => command,
        _ => return Err(USAGE.into()),
    };
    let boot = if systemd { systemd::boot } else { uml::boot };
    let folder = Folder::make()?;
    boot(&folder.0, &line(command))
}

/// The folder of one run of the machine, removed when dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("shoal-vm-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("make {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder of a few files below the temporary folder; the machine's outcome counts, not this.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The words as one line of a shell, with the environment that tests need.
fn line(command: &[String]) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let names = ["SHOAL_BIN_DIR", "SHOAL_ROUNDS", "RUST_BACKTRACE"];
    let env =
        names.iter().filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={} ", quoted(&value))));
    let words = command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    format!("{}{words}", env.collect::<String>())
}

/// What the machine left in its status file, as the outcome of the run.
fn outcome(status: &std::path::Path) -> Result<()> {
    match std::fs::read_to_string(status).map(|text| text.trim().to_owned()) {
        Ok(code) if code == "0" => Ok(()),
        Ok(code) if !code.is_empty() => Err(format!("the command ended with {code} in the machine")),
        _ => Err("the machine ended before the command did".into()),
    }
}
