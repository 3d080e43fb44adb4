//! `shoal image unpack`: an image becomes a bundle for any OCI runtime.

use super::registry_args::ProgressArgs;
use crate::commands::Global;
use crate::error::Error;
use crate::progress::Reporter;
use oci::conversion::{self, Namespace, Wish};
use oci::spec::User;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The largest /etc/passwd or /etc/group that is read, in bytes.
const ACCOUNTS_BYTES_MAX: u64 = 4 << 20;

/// Unpack an image into a bundle: DIR/rootfs and DIR/config.json
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the root file system, straight into DIR
    #[arg(long)]
    rootfs_only: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The bundle; made when it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let image = store.find(&args.image)?;
    let reporter = Reporter::new(args.progress.progress, args.progress.quiet, "Unpacked");
    if args.rootfs_only {
        store.unpack(&image, &args.dir, &reporter)?;
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.dir)
        .map_err(|error| Error::from(error).context(format!("failed to make {}", args.dir.display())))?;
    let root = args.dir.join("rootfs");
    store.unpack(&image, &root, &reporter)?;
    let config = store.config(&image)?.config;
    let read = |name: &str| accounts(&root, name);
    let account = engine::account::resolve(&config.user, &[], &read("etc/passwd")?, &read("etc/group")?)?;
    let entrypoint = config.entrypoint.clone().unwrap_or_default();
    let cmd = config.cmd.clone().unwrap_or_default();
    let shell = || vec!["sh".to_owned()];
    let argv = if entrypoint.is_empty() && cmd.is_empty() { shell() } else { [entrypoint, cmd].concat() };
    let wish = Wish {
        rootfs: "rootfs".to_owned(),
        args: argv,
        env: conversion::environment(&config.env, &[], "shoal", false),
        cwd: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
        user: User { ..account.user },
        hostname: "shoal".to_owned(),
        network: Namespace::Private,
        pid: Namespace::Private,
        ipc: Namespace::Private,
        uts: Namespace::Private,
        ..Wish::default()
    };
    let spec = conversion::spec(&wish)?;
    let path = args.dir.join("config.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&spec)?)
        .map_err(|error| Error::from(error).context(format!("failed to write {}", path.display())))?;
    Ok(ExitCode::SUCCESS)
}

/// A file of the image, never one of the host: links are resolved with the image's root as `/`.
fn accounts(root: &Path, name: &str) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::from(error).context(format!("failed to read the image's /{name}"));
    let Some(file) = image::layer::open_in(root, name).map_err(failed)? else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    File::from(file).take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
