//! `shoal image mount`, `shoal image unmount`: an image's root file system without a container.

use crate::commands::Global;
use crate::error::Error;
use image::progress::Silent;
use image::rootfs::{self, RootfsRequest};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Mount an image's root file system; changes to it are thrown away by `unmount`
#[derive(Debug, clap::Args)]
pub(crate) struct MountArgs {
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where; made when it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn mount(global: &Global, args: &MountArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let image = store.find(&args.image)?;
    let rootfs = rootfs::prepare(&store, &image, &request(global, &args.dir)?, &Silent)?;
    println!("{}", rootfs.path.display());
    Ok(ExitCode::SUCCESS)
}

/// Unmount what `shoal image mount` mounted
#[derive(Debug, clap::Args)]
pub(crate) struct UnmountArgs {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn unmount(global: &Global, args: &UnmountArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let request = request(global, &args.dir)?;
    if !request.dir.exists() {
        return Err(Error::new(format!("{} is not mounted by shoal", args.dir.display())).code(5));
    }
    rootfs::remove(&store, &request)?;
    image::store::remove_tree(&request.dir)
        .map_err(|error| Error::from(error).context(format!("failed to remove {}", request.dir.display())))?;
    Ok(ExitCode::SUCCESS)
}

/// The place decides the id, so that `unmount` finds what `mount` made.
fn request(global: &Global, dir: &Path) -> Result<RootfsRequest, Error> {
    let roots = engine::Roots::from_option(global.root.as_deref())?;
    let mount = std::path::absolute(dir)?;
    let id = format!("mount-{}", oci::Digest::sha256(mount.as_os_str().as_encoded_bytes()).short());
    Ok(RootfsRequest { dir: roots.data.join("mounts").join(&id), id, mount, layers: roots.run.join("layers") })
}
