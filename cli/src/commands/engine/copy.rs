//! `diff`, `export`, `commit`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use engine::CommitWish;
use oci::Reference;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a container has changed in its root file system
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The container
    container: String,
}

pub(crate) fn diff(global: &Global, args: &DiffArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    for change in engine.diff(&args.container).map_err(explain)? {
        println!("{} {}", change.kind, change.path);
    }
    Ok(ExitCode::SUCCESS)
}

/// Write a container's whole file system as a tar
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Into a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container
    container: String,
}

pub(crate) fn export(global: &Global, args: &ExportArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let Some(path) = &args.output else {
        if std::io::stdout().is_terminal() {
            return Err(Error::new("a tar is not for a terminal").hint("use -o FILE or redirect stdout"));
        }
        engine.export(&args.container, std::io::stdout().lock()).map_err(explain)?;
        return Ok(ExitCode::SUCCESS);
    };
    // Beside it and renamed when whole: half a tar never has the name.
    let mut draft = path.clone().into_os_string();
    draft.push(format!(".{}.partial", std::process::id()));
    let file = File::create(&draft).map_err(|error| Error::from(error).context(format!("make {}", path.display())))?;
    let mut out = BufWriter::new(file);
    let written = engine.export(&args.container, &mut out).map_err(explain);
    let finished = written.and_then(|()| Ok(out.flush()?)).and_then(|()| Ok(std::fs::rename(&draft, path)?));
    if finished.is_err() {
        // The failure itself is what is told; what cannot be removed only takes space.
        std::fs::remove_file(&draft).ok();
    }
    finished.map(|()| ExitCode::SUCCESS)
}

/// Make an image of a container's changes
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Who made it
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    author: String,
    /// Change the config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A remark for the history
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Freeze the container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pause: bool,
    /// The container
    container: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

pub(crate) fn commit(global: &Global, args: &CommitArgs) -> Result<ExitCode, Error> {
    let wish = CommitWish {
        name: args.name.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        no_pause: !args.pause,
    };
    println!("{}", open(global)?.commit(&args.container, &wish).map_err(explain)?);
    Ok(ExitCode::SUCCESS)
}
