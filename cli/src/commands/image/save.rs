//! `shoal save`.

use crate::commands::Global;
use crate::error::Error;
use clap::ValueEnum;
use image::archive::{self, Format};
use image::{ImageRecord, Store};
use oci::Reference;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Save images to an archive, byte for byte
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to this file (or directory) instead of standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The form of the archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Form,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Forms of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// What docker load takes, and every reader of oci-archives
    DockerArchive,
    /// An OCI layout in a tar
    OciArchive,
    /// An OCI layout as a directory
    OciDir,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let images = find(&store, &args.images)?;
    let format = match args.format {
        Form::DockerArchive => Format::Docker,
        Form::OciArchive => Format::Oci,
        Form::OciDir => {
            let Some(path) = &args.output else {
                return Err(Error::new("a directory cannot be written to standard output")
                    .hint("shoal save --format oci-dir -o DIR IMAGE")
                    .code(2));
            };
            archive::save_layout(&store, &images, path, None)?;
            saved(global, &images);
            return Ok(ExitCode::SUCCESS);
        }
    };
    match &args.output {
        Some(path) if path.as_os_str() != "-" => {
            let failed =
                |error: std::io::Error| Error::from(error).context(format!("failed to write {}", path.display()));
            // Written beside the file and renamed: an archive under its name is whole.
            let temporary = path.with_added_extension(format!("{}.partial", std::process::id()));
            let file = File::create(&temporary).map_err(failed)?;
            let saved = archive::save(&store, &images, format, file).map_err(Error::from);
            let done = saved.and_then(|_| archive::place(&temporary, path).map_err(failed));
            if done.is_err() {
                let _ = std::fs::remove_file(&temporary);
            }
            done?;
        }
        _ if std::io::stdout().is_terminal() => {
            return Err(Error::new("refusing to write an archive to a terminal")
                .hint("shoal save -o FILE IMAGE, or redirect the output")
                .code(2));
        }
        _ => {
            let out = BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            archive::save(&store, &images, format, out)?.flush()?;
        }
    }
    saved(global, &images);
    Ok(ExitCode::SUCCESS)
}

fn saved(global: &Global, images: &[(ImageRecord, Vec<Reference>)]) {
    images.iter().for_each(|(image, _)| super::happened(global, "save", image.id, image.id));
}

/// Images with the names that were typed; an image that was typed twice gets both names.
fn find(store: &Store, typed: &[String]) -> Result<Vec<(ImageRecord, Vec<Reference>)>, Error> {
    let mut images: Vec<(ImageRecord, Vec<Reference>)> = Vec::new();
    for text in typed {
        let image = store.find(text)?;
        let name: Vec<Reference> = text.parse().into_iter().filter(|name| image.names.contains(name)).collect();
        match images.iter_mut().find(|(other, _)| other.target.digest == image.target.digest) {
            Some((_, names)) => names.extend(name),
            None => images.push((image, name)),
        }
    }
    Ok(images)
}
