//! `shoal load`.

use crate::commands::Global;
use crate::error::Error;
use image::archive::{self, Loaded};
use oci::Reference;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Load images from an archive (docker-archive, oci-archive) or an OCI layout directory
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Read from this archive or directory instead of standard input
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Print only what was loaded, no progress
    #[arg(short, long)]
    quiet: bool,
    /// The name of an image that has none in the archive
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let name = args.name.as_ref();
    let loaded = match &args.input {
        Some(path) if path.as_os_str() != "-" => {
            if path.is_dir() {
                archive::load_layout(&store, path, None, name)?
            } else {
                let file = std::fs::File::open(path)
                    .map_err(|error| Error::from(error).context(format!("failed to open {}", path.display())))?;
                archive::load(&store, file, name)?
            }
        }
        _ if std::io::stdin().is_terminal() => {
            return Err(Error::new("standard input is a terminal").hint("shoal load -i FILE").code(2));
        }
        _ => archive::load(&store, std::io::stdin(), name)?,
    };
    for image in &loaded {
        print(image);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(image: &Loaded) {
    if image.names.is_empty() {
        let id = image.id.unwrap_or(image.target.digest);
        println!("Loaded image ID: {id}");
    }
    for name in &image.names {
        println!("Loaded image: {}", name.familiar());
    }
}
