//! `shoal import`.

use crate::commands::Global;
use crate::error::Error;
use image::archive::{self, ImportOptions};
use oci::{Platform, Reference};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

/// Make an image from a tar of a root file system
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change the config: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A remark for the history
    #[arg(short, long)]
    message: Option<String>,
    /// What the files were built for
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// A file, or - for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let mut config = oci::config::ContainerConfig::default();
    for change in &args.change {
        image::change::apply(&mut config, change)?;
    }
    let options = ImportOptions {
        config,
        message: Some(args.message.clone().unwrap_or_else(|| format!("Imported from {}", args.file))),
        created: Some(engine::time::rfc3339(engine::time::now())),
        platform: args.platform.clone(),
    };
    let target = if args.file == "-" {
        archive::import(&store, std::io::stdin(), options)?
    } else {
        let path = Path::new(&args.file);
        let file = File::open(path)
            .map_err(|error| Error::from(error).context(format!("failed to open {}", path.display())))?;
        archive::import(&store, file, options)?
    };
    match &args.name {
        Some(name) => store.tag(name, &target)?,
        None => store.keep(&target)?,
    }
    let id = store.record(&target, &Platform::host())?.id;
    super::happened(global, "import", id, id);
    println!("{id}");
    Ok(ExitCode::SUCCESS)
}
