//! Archives: images as one file or directory that other tools write and read.
//!
//! In: `docker save` archives, oci-archives and OCI layout directories, plain or compressed, from a file or a stream. Out:
//! the same. Manifests, configs and layers go through byte for byte, so digests stay.

mod import;
mod load;
mod save;

pub use import::{ImportOptions, import};
pub use load::{Loaded, load, load_judged, load_layout};
pub use save::{Format, save, save_labelled, save_layout};

use crate::store::StoreError;

/// The largest JSON document of an archive that is read, in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// docker's list of images in an archive. Field names are docker's.
pub(crate) const DOCKER_MANIFEST: &str = "manifest.json";

/// One image of a docker archive's `manifest.json`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    /// The path of the config.
    pub(crate) config: String,
    /// `name:tag`, as docker shows it.
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    /// The paths of the layers, base first.
    #[serde(default)]
    pub(crate) layers: Option<Vec<String>>,
}

/// Gives a file that was written beside it its name, durable when this returns.
pub fn place(temporary: &std::path::Path, path: &std::path::Path) -> std::io::Result<()> {
    std::fs::File::open(temporary)?.sync_all()?;
    std::fs::rename(temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    crate::store::sys::sync_dir(folder.unwrap_or_else(|| std::path::Path::new(".")))
}

fn refused(reason: impl Into<String>) -> StoreError {
    StoreError::Archive { reason: reason.into() }
}
