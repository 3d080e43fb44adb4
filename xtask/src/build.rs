//! Building: the command line as a release binary, and the lean ones static, small and quick to start.

use crate::shell::{self, Result};
use std::fs;

/// The target of the lean binaries. Named, so that the static flags below reach them and not the proc-macros.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Static and at a fixed address: the dynamic linker costs 0.3 ms a start.
const STATIC: &str =
    r#"target.x86_64-unknown-linux-gnu.rustflags=["-Ctarget-feature=+crt-static","-Crelocation-model=static"]"#;

/// The same, linked with musl: glibc adds a third to the size, and its start examines the processor, which takes longer
/// than some commands. The tables for unwinding are of no use to a program that a panic ends.
const MUSL: &str = concat!(
    r#"target.x86_64-unknown-linux-gnu.rustflags=["-Ctarget-feature=+crt-static","-Crelocation-model=static","#,
    r#""-Clinker=musl-gcc","-Clink-arg=-Wl,--no-eh-frame-hdr","-Clink-arg=-Wl,-T,"#,
    env!("CARGO_MANIFEST_DIR"),
    r#"/lean.ld"]"#
);

/// The package that can be linked with musl, where Debian's `musl-tools` are installed.
const MUSL_PACKAGE: &str = "shoal-runtime";

/// Packages built lean. Each is built alone, so that no neighbour's features are unified into it.
const LEAN: [&str; 3] = ["shoal-runtime", "shoal-monitor", "probe"];

/// Builds everything a user or an integration test starts, into the folder of the release binaries.
pub(crate) fn all() -> Result<()> {
    lean()?;
    shell::cargo(&["build", "--release", "-p", "shoal"], &[])
}

/// The same binaries unoptimised, into the folder of the debug binaries: minutes sooner, for `SHOAL_BIN_DIR=target/debug` while working.
pub(crate) fn debug() -> Result<()> {
    lean_as("dev", "debug", "debug")?;
    shell::cargo(&["build", "-p", "shoal"], &[])
}

/// Builds the lean binaries and puts them beside the release binary.
pub(crate) fn lean() -> Result<()> {
    lean_as("lean", "lean", "release")
}

/// Builds the lean packages in `profile`, which cargo leaves in `output`, and copies them to `beside`.
fn lean_as(profile: &str, output: &str, beside: &str) -> Result<()> {
    let folder = shell::target().join(beside);
    fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
    for package in LEAN {
        let build = |config, more: &[&str]| {
            let common = ["--config", config, "build", "--profile", profile, "--target", TRIPLE, "-p", package];
            shell::cargo(&[&common, more].concat(), &[])
        };
        let musl = package == MUSL_PACKAGE && profile == "lean" && shell::output("musl-gcc", &["--version"]).is_ok();
        match musl.then(|| build(MUSL, &["--features", "musl"])) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                println!("{package}: {error}; linking with glibc instead");
                build(STATIC, &[])?;
            }
            None => build(STATIC, &[])?,
        }
        let from = shell::target().join(TRIPLE).join(output).join(package);
        // Through a temporary name: a container may be running the old binary at this moment.
        let (fresh, to) = (folder.join(format!(".{package}.new")), folder.join(package));
        fs::copy(&from, &fresh)
            .and_then(|_| fs::rename(&fresh, &to))
            .map_err(|error| format!("place {}: {error}", to.display()))?;
    }
    Ok(())
}
