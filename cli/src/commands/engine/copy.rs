//! `cp`, `diff`, `export`, `commit`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use engine::wish::human_decimal;
use engine::{CommitWish, CopyWish};
use oci::Reference;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
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

/// Copy files between a container and this host: `-` is a tar on stdin or stdout
#[derive(Debug, clap::Args)]
pub(crate) struct CpArgs {
    /// Keep owners and attributes
    #[arg(short, long)]
    archive: bool,
    /// Follow a link that is named as the source
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, PATH or -
    #[arg(value_name = "SOURCE")]
    source: String,
    /// PATH, CONTAINER:PATH or -
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// One end of `cp`.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Container(&'a str, &'a Path),
    Host(&'a Path),
    Stream,
}

impl<'a> End<'a> {
    /// As docker: `a:b` is a container's unless it begins with `/` or `.`.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            Some((name, path)) if !name.is_empty() && !text.starts_with(['/', '.']) => {
                Self::Container(name, Path::new(if path.is_empty() { "/" } else { path }))
            }
            _ => Self::Host(Path::new(text)),
        }
    }
}

pub(crate) fn cp(global: &Global, args: &CpArgs) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let wish = CopyWish { archive: args.archive, follow: args.follow_link };
    let bytes = match (End::parse(&args.source), End::parse(&args.destination)) {
        (End::Container(name, path), End::Host(to)) => engine.copy_out(name, path, to, wish),
        (End::Host(from), End::Container(name, path)) => engine.copy_in(name, from, path, wish),
        (End::Container(name, path), End::Stream) => {
            if std::io::stdout().is_terminal() {
                return Err(Error::new("a tar is not for a terminal").hint("redirect stdout"));
            }
            engine.copy_out_tar(name, path, wish, BufWriter::new(std::io::stdout())).map_err(explain)?;
            return Ok(ExitCode::SUCCESS);
        }
        (End::Stream, End::Container(name, path)) => engine.copy_in_tar(name, std::io::stdin(), path),
        (End::Container(..), End::Container(..)) => {
            return Err(Error::new("copying between containers is not supported").hint("copy to this host and on"));
        }
        _ => return Err(Error::new("must specify at least one container source").hint("CONTAINER:PATH").code(1)),
    };
    let bytes = bytes.map_err(explain)?;
    if !args.quiet {
        eprintln!("Successfully copied {} to {}", human_decimal(bytes), args.destination);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_names_a_container_unless_the_text_is_a_path() {
        assert_eq!(End::parse("box:/tmp"), End::Container("box", Path::new("/tmp")));
        assert_eq!(End::parse("box:"), End::Container("box", Path::new("/")));
        assert_eq!(End::parse("./a:b"), End::Host(Path::new("./a:b")));
        assert_eq!(End::parse("/a:b"), End::Host(Path::new("/a:b")));
        assert_eq!(End::parse("file"), End::Host(Path::new("file")));
        assert_eq!(End::parse("-"), End::Stream);
    }
}
