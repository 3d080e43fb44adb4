//! `shoal create`, and what `run` shares with it: the image is there, the name is free, the id is written.

use super::flags::Flags;
use super::{explain, open, warn};
use crate::commands::Global;
use crate::error::Error;
use engine::wish::Wish;
use engine::{Created, Engine};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Make a container without starting it
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(global: &Global, args: Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let (pull, cidfile, replace) = (args.flags.pull.clone(), args.flags.cidfile.clone(), args.flags.replace);
    let wish = args.flags.wish()?;
    let made = create(global, &engine, &wish, &pull, cidfile.as_deref(), replace)?;
    println!("{}", made.id);
    Ok(ExitCode::SUCCESS)
}

/// Makes a container, pulling its image first when that is asked for.
pub(crate) fn create(
    global: &Global,
    engine: &Engine,
    wish: &Wish,
    pull: &str,
    cidfile: Option<&Path>,
    replace: bool,
) -> Result<Created, Error> {
    let fail = |error| explain(error).code(125);
    let cidfile = match cidfile {
        // Made before anything else: two commands with one file must not both make a container.
        Some(path) => Some((
            fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
                Error::from(error).context(format!("container ID file {}", path.display())).code(125)
            })?,
            path,
        )),
        None => None,
    };
    let made = (|| {
        let here = !wish.rootfs && pull != "always" && engine.has_image(wish).map_err(fail)?;
        if !wish.rootfs && !here && pull != "never" {
            if pull == "missing" {
                eprintln!("Unable to find image '{}' locally", wish.image);
            }
            fetch(global, wish)?;
        }
        if replace && !wish.name.is_empty() {
            // Only once it is known that there can be a new one. What the old one kept in volumes stays.
            engine.check(wish).map_err(fail)?;
            match engine.remove(&wish.name, true, false) {
                Ok(()) | Err(engine::EngineError::NoSuchContainer { .. }) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        engine.create(wish).map_err(fail)
    })();
    match (made, cidfile) {
        (Ok(made), Some((mut file, _))) => {
            file.write_all(made.id.as_bytes())?;
            warn(&made.warnings);
            Ok(made)
        }
        (Ok(made), None) => {
            warn(&made.warnings);
            Ok(made)
        }
        (Err(error), Some((_, path))) => {
            fs::remove_file(path).ok();
            Err(error)
        }
        (Err(error), None) => Err(error),
    }
}

/// Pulls with `shoal pull`, whose words go to stderr: stdout belongs to the container.
fn fetch(global: &Global, wish: &Wish) -> Result<(), Error> {
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(root) = &global.root {
        command.arg("--root").arg(root);
    }
    command.arg("pull");
    if !wish.platform.is_empty() {
        command.args(["--platform", &wish.platform]);
    }
    let status = command.arg(&wish.image).stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr())).status()?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("cannot pull {}", wish.image)).code(125)) }
}
