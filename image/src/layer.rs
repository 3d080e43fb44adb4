//! Layers: tar streams that become trees, and trees that become tar streams.

pub mod compression;
pub mod diff;
pub mod extract;
pub mod tar;
pub mod whiteout;
pub mod write;

pub use extract::ExtractError;
pub use tar::TarError;

/// Opens the regular file `name` in the tree `root` for reading, links resolved with `root` as `/`; `None` when there is
/// none.
pub fn open_in(root: &std::path::Path, name: &str) -> std::io::Result<Option<std::os::fd::OwnedFd>> {
    use rustix::fs::{FileType, OFlags};
    let dir = crate::store::sys::open_dir(root)?;
    match crate::store::sys::open_in_root(&dir, name, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
            if kind == FileType::RegularFile { Ok(Some(fd)) } else { Err(std::io::Error::other("not a regular file")) }
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Why a layer cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream is not a tar that is safe to unpack.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// It could not be unpacked.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The stream could not be read or copied.
    #[error("failed to {step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The plain layer is not what the config promises.
    #[error("its plain content is {actual} but the image's config promises {expected}")]
    DiffId {
        /// The promise.
        expected: String,
        /// The truth.
        actual: String,
    },
    /// The plain layer is larger than is allowed.
    #[error("it unpacks to more than {max} bytes from {packed} bytes: a decompression bomb, or not enough room")]
    Bomb {
        /// The bound.
        max: u64,
        /// The size of the compressed blob.
        packed: u64,
    },
}
