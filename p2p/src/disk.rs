//! The mesh's folder: identity, cluster, table. In: what to keep. Out: what was kept. The only place of the crate that
//! touches files.

pub mod store;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use libp2p::identity::ed25519;
use serde::{Deserialize, Serialize};

use crate::id::ClusterId;
use crate::mesh::Error;

/// Format of [`ClusterFile`].
pub const CLUSTER_FORMAT: u32 = 1;
const IDENTITY_HEAD: &str = "shoal-identity/1";
/// Both small files are bounded before they are read.
const FILE_MAX: u64 = 256 * 1024;

/// What a node remembers of its membership: `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// [`CLUSTER_FORMAT`].
    pub format: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// BLAKE3 hash of the root's public key, as hex.
    pub root_hash: String,
    /// This node's certificates, its own first, as hex.
    pub chain: Vec<String>,
    /// Addresses to try when no member can be reached.
    pub bootstrap: Vec<String>,
    /// Fields of newer builds.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The folder of one node.
#[derive(Debug, Clone)]
pub struct Folder {
    dir: PathBuf,
}

fn failed(step: &'static str, path: &Path, error: impl std::fmt::Display) -> Error {
    Error::Disk { step, path: path.display().to_string(), reason: error.to_string() }
}

impl Folder {
    /// Opens the folder, making it (0700) when it is not there.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| failed("make folder", dir, error))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where the table is kept.
    #[must_use]
    pub fn table(&self) -> PathBuf {
        self.dir.join("table.redb")
    }

    fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.dir.join(name);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, error)),
            Ok(meta) if meta.len() > FILE_MAX => return Err(failed("read", &path, "it is too large")),
            Ok(_) => {}
        }
        std::fs::read_to_string(&path).map(Some).map_err(|error| failed("read", &path, error))
    }

    /// Writes beside, syncs, renames, syncs the folder: a cut leaves the old file or the new one.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let (path, beside) = (self.dir.join(name), self.dir.join(format!(".{name}.new")));
        let write = || -> std::io::Result<()> {
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            std::fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|error| failed("write", &path, error))
    }

    /// This node's key, made from `fresh` at the first start and kept readable for its owner only.
    ///
    /// # Errors
    /// [`Error::Disk`], also when the file is no key or others may read it.
    pub fn identity(&self, fresh: impl FnOnce() -> ed25519::Keypair) -> Result<ed25519::Keypair, Error> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join("identity.key");
        if let Some(text) = self.read("identity.key")? {
            let mode = std::fs::metadata(&path).map_err(|error| failed("read", &path, error))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(failed(
                    "read",
                    &path,
                    format!("others may read it (mode {:o}); run: chmod 600", mode & 0o777),
                ));
            }
            let bad = || failed("read", &path, "it is no identity of this program; move it away to get a new one");
            let hex = text.strip_prefix(IDENTITY_HEAD).ok_or_else(bad)?.trim();
            let bytes: [u8; 32] = hex::decode(hex).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)?;
            let secret = ed25519::SecretKey::try_from_bytes(bytes).map_err(|_| bad())?;
            return Ok(ed25519::Keypair::from(secret));
        }
        let pair = fresh();
        self.write("identity.key", &format!("{IDENTITY_HEAD}\n{}\n", hex::encode(pair.secret().as_ref())))?;
        Ok(pair)
    }

    /// The membership, if there is one.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn cluster(&self) -> Result<Option<ClusterFile>, Error> {
        let Some(text) = self.read("cluster.json")? else { return Ok(None) };
        let path = self.dir.join("cluster.json");
        let file: ClusterFile = serde_json::from_str(&text).map_err(|error| failed("read", &path, error))?;
        if file.format > CLUSTER_FORMAT {
            return Err(failed("read", &path, "it was written by a newer version of this program"));
        }
        Ok(Some(file))
    }

    /// Keeps the membership.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn keep_cluster(&self, file: &ClusterFile) -> Result<(), Error> {
        self.write("cluster.json", &serde_json::to_string_pretty(file).expect("plain data with text keys"))
    }

    /// Forgets the membership, the table and the identity: the next start is a new node.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn forget(&self) -> Result<(), Error> {
        for name in ["cluster.json", "table.redb", "identity.key"] {
            let path = self.dir.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("mesh")).unwrap();
        let first = folder.identity(ed25519::Keypair::generate).unwrap();
        let again = folder.identity(|| panic!("it is there")).unwrap();
        assert_eq!(first.public().to_bytes(), again.public().to_bytes());
        let path = dir.path().join("mesh/identity.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(folder.identity(ed25519::Keypair::generate).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_membership_of_a_newer_build_keeps_its_fields_and_a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.cluster().unwrap(), None);
        let mut other = serde_json::Map::new();
        other.insert("later".into(), 7.into());
        let file = ClusterFile {
            format: CLUSTER_FORMAT,
            cluster: ClusterId(5),
            root_hash: String::new(),
            chain: vec![],
            bootstrap: vec![],
            other,
        };
        folder.keep_cluster(&file).unwrap();
        assert_eq!(folder.cluster().unwrap(), Some(file.clone()));
        folder.keep_cluster(&ClusterFile { format: 2, ..file }).unwrap();
        assert!(folder.cluster().is_err());
    }
}
