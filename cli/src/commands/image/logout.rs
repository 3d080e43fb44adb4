//! `shoal logout`.

use super::registry_args::environment;
use crate::commands::Global;
use crate::error::Error;
use image::remote::auth::AuthFile;
use std::path::PathBuf;
use std::process::ExitCode;

/// Forget the credentials of a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    server: String,
    /// The file they are in
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

pub(crate) fn run(_global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let server = super::login::host(&args.server);
    // Every file: what an earlier or later one holds would be used from now on.
    let mut known = false;
    for file in AuthFile::all(args.authfile.as_deref(), environment) {
        known |= file.erase(&server)?;
    }
    if known {
        println!("Removed login credentials for {server}");
    } else {
        println!("Not logged in to {server}");
    }
    Ok(ExitCode::SUCCESS)
}
