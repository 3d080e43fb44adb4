//! The API's unix socket. Paths longer than a socket address (108 bytes) work: the folder is opened and named through
//! `/proc/self/fd`.

use super::NodeError;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path that goes into a socket address as it is.
const DIRECT_BYTES_MAX: usize = 100;

/// Connects to a node's socket.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_folder, short) = shorten(path)?;
    UnixStream::connect(short)
}

/// Opens the socket for the owner alone. A socket file without a listener is replaced; one with a listener is an error.
pub fn listen(path: &Path) -> Result<UnixListener, NodeError> {
    let fail = |source| NodeError::Socket { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    if path.exists() {
        if connect(path).is_ok() {
            return Err(NodeError::Running { path: path.to_owned() });
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    let (_folder, short) = shorten(path).map_err(fail)?;
    let listener = UnixListener::bind(short).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// Returns a short name of the path and the folder that must stay open while it is used.
fn shorten(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    if path.as_os_str().len() <= DIRECT_BYTES_MAX {
        return Ok((None, path.to_owned()));
    }
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let folder = File::open(path.parent().unwrap_or_else(|| Path::new("/")))?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok((Some(folder), short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_longer_than_a_socket_address_works() {
        let base = std::env::temp_dir().join(format!("shoal-socket-{}", std::process::id()));
        let path = base.join("d".repeat(120)).join("node.sock");
        let listener = listen(&path).unwrap();
        connect(&path).unwrap();
        assert!(matches!(listen(&path), Err(NodeError::Running { .. })));
        drop(listener);
        listen(&path).unwrap();
        std::fs::remove_dir_all(base).unwrap();
    }
}
