//! What `mesh up` was told, kept for the node's next start: `data/mesh/settings.json`. A node that resumes is called what it was
//! called and listens where it listened, unless told anew.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The version of the file.
const VERSION: u32 = 1;
/// The file, in the mesh's folder.
const FILE: &str = "settings.json";
/// What a member has there: without it there is nothing to resume.
const MEMBERSHIP: &str = "cluster.json";

/// The settings of this host's node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) version: u32,
    /// `--name`.
    pub(super) name: Option<String>,
    /// `--listen`.
    #[serde(default)]
    pub(super) listen: Vec<String>,
    /// `--advertise`.
    #[serde(default)]
    pub(super) advertise: Vec<String>,
    /// `--site`.
    #[serde(default)]
    pub(super) site: Option<String>,
    /// `--label`.
    #[serde(default)]
    pub(super) label: Vec<String>,
    /// `--cpus`.
    #[serde(default)]
    pub(super) cpus: Option<String>,
    /// `--memory`.
    #[serde(default)]
    pub(super) memory: Option<String>,
    /// `--api`.
    #[serde(default)]
    pub(super) api: Option<String>,
    /// What a newer shoal wrote.
    #[serde(flatten)]
    pub(super) unknown: BTreeMap<String, serde_json::Value>,
}

impl Kept {
    /// Reads what a member of a mesh was told; nothing when this host is none.
    pub(super) fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(FILE);
        if !folder.join(MEMBERSHIP).exists() || !path.exists() {
            return Ok(Self::default());
        }
        let failed = |reason: String| {
            Error::new(format!("read {}: {reason}", path.display()))
                .hint("remove it and give --name, --listen, --site and --label anew")
        };
        let text = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
        let kept: Self = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if kept.version > VERSION {
            return Err(failed(format!("its version is {}, this shoal knows {VERSION}", kept.version)));
        }
        Ok(kept)
    }

    /// Writes them for the next start.
    pub(super) fn save(mut self, folder: &Path) -> Result<(), Error> {
        self.version = VERSION;
        let (path, draft) = (folder.join(FILE), folder.join(format!(".{FILE}")));
        let write = || -> std::io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(&self)?)?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)
        };
        write().map_err(|error| Error::new(format!("write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_called_what_it_was_and_who_left_is_not() {
        let folder = std::env::temp_dir().join(format!("shoal-kept-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let kept = Kept { name: Some("n1".to_owned()), label: vec!["disk=ssd".to_owned()], ..Kept::default() };
        kept.clone().save(&folder).expect("it is written");
        assert_eq!(Kept::load(&folder).expect("nothing"), Kept::default(), "no member: nothing to resume");
        std::fs::write(folder.join(MEMBERSHIP), "{}").expect("a membership");
        let read = Kept::load(&folder).expect("it is read");
        assert_eq!((read.name, read.label), (kept.name, kept.label));
        std::fs::write(folder.join(FILE), r#"{"version":99}"#).expect("a newer one");
        assert!(Kept::load(&folder).is_err(), "a newer file is not half read");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
