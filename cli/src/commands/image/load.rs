//! `shoal load`.

use super::registry_args::policy;
use crate::commands::Global;
use crate::error::Error;
use image::archive::{self, Loaded};
use image::policy::Local;
use oci::Reference;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
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
    /// Judge the archive by this containers policy.json [default: the user's, then /etc/containers/policy.json]
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let name = args.name.as_ref();
    let policy = policy(args.signature_policy.as_ref())?;
    if !args.quiet && std::io::stderr().is_terminal() {
        let from = args.input.as_deref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        eprintln!("Loading from {from}");
    }
    let loaded = match &args.input {
        Some(path) if path.as_os_str() != "-" => {
            if path.is_dir() {
                if let Some(policy) = &policy {
                    policy.check_local(Local::Layout(path, None))?;
                }
                archive::load_layout(&store, path, None, name)?
            } else {
                let file = std::fs::File::open(path)
                    .map_err(|error| Error::from(error).context(format!("failed to open {}", path.display())))?;
                archive::load_judged(&store, file, name, policy.as_ref(), path)?
            }
        }
        _ if std::io::stdin().is_terminal() => {
            return Err(Error::new("standard input is a terminal").hint("shoal load -i FILE").code(2));
        }
        _ => archive::load_judged(&store, std::io::stdin(), name, policy.as_ref(), Path::new("-"))?,
    };
    for image in &loaded {
        let id = image.id.unwrap_or(image.target.digest);
        super::happened(global, "load", id, id);
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
