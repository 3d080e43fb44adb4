//! Checks a store: every blob is what its digest says, every name leads to a whole image, every layer is the one promised,
//! and every manifest of the registry has what it names.
//!
//! In: a store. Out: a list of problems. Changes nothing.

use crate::store::layers::Form;
use crate::store::{Store, StoreError};
use oci::digest::{Algorithm, Hasher};
use oci::manifest::media;
use oci::{Descriptor, Digest};
use std::collections::HashSet;
use std::io::Read;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many blobs were read.
    pub blobs: usize,
    /// How many layers were read.
    pub layers: usize,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

impl Store {
    /// Reads everything in the store and says what is wrong with it.
    pub fn check(&self) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        for algorithm in Algorithm::ALL {
            let dir = self.path().join("blobs").join(algorithm.name());
            for entry in std::fs::read_dir(&dir).map_err(StoreError::io("read the directory", &dir))? {
                let entry = entry.map_err(StoreError::io("read the directory", &dir))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                match format!("{}:{name}", algorithm.name()).parse::<Digest>() {
                    Ok(digest) => {
                        checked.blobs += 1;
                        match self.verify_blob(&digest) {
                            Ok(true) => {}
                            Ok(false) => checked.problems.push(format!("blob {digest} is damaged")),
                            // Collected while it was looked at.
                            Err(StoreError::Missing { .. }) => checked.blobs -= 1,
                            Err(error) => checked.problems.push(format!("blob {digest}: {error}")),
                        }
                    }
                    Err(_) => checked.problems.push(format!("{} is no blob", entry.path().display())),
                }
            }
        }
        let mut seen = HashSet::new();
        for entry in self.layout().index()?.manifests {
            let name = entry.ref_name().map_or_else(|| entry.digest.to_string(), str::to_owned);
            if let Some(Ok(reference)) = entry.ref_name().map(str::parse::<oci::Reference>)
                && let Err(error) = crate::store::names::pinned(&reference, &entry.digest)
            {
                checked.problems.push(error.to_string());
            }
            self.check_tree(&entry, &name, &mut seen, &mut checked, true);
        }
        self.check_layers(&mut checked)?;
        let registry = self.path().join("registry");
        let read = |digest: &Digest| match self.read_blob(digest, oci::manifest::MANIFEST_BYTES_MAX) {
            Err(StoreError::Missing { .. }) => Ok(None),
            other => other.map(Some),
        };
        // What cannot be asked is there: its own problem is said above.
        let has = |digest: &Digest| self.has(digest).unwrap_or(true);
        let lost = crate::registry::shelf::lost(&registry, &read, &has);
        checked.problems.extend(lost.map_err(StoreError::io("read the registry's folder", &registry))?);
        Ok(checked)
    }

    fn check_tree(
        &self,
        target: &Descriptor,
        name: &str,
        seen: &mut HashSet<Digest>,
        checked: &mut Checked,
        must_exist: bool,
    ) {
        if !seen.insert(target.digest) {
            return;
        }
        let declared = Some(target.media_type.as_str()).filter(|text| !text.is_empty());
        let manifest = match self.manifest(&target.digest, declared) {
            Ok(manifest) => manifest,
            Err(StoreError::Missing { .. }) if !must_exist => return,
            Err(error) => {
                checked.problems.push(format!("{name}: {error}"));
                return;
            }
        };
        let is_index = manifest.index().is_some();
        for child in manifest.children() {
            if media::is_manifest(&child.media_type) || media::is_index(&child.media_type) {
                self.check_tree(child, name, seen, checked, !is_index);
                continue;
            }
            match self.blob_size(&child.digest) {
                Ok(Some(size)) if size == child.size => {}
                Ok(Some(size)) => checked.problems.push(format!(
                    "{name}: blob {} has {size} bytes but its descriptor says {}",
                    child.digest, child.size
                )),
                Ok(None) if is_index || media::is_foreign_layer(&child.media_type) => {}
                Ok(None) => checked.problems.push(format!("{name}: blob {} is missing", child.digest)),
                Err(error) => checked.problems.push(format!("{name}: {error}")),
            }
        }
    }

    /// The tars of layers in index form are read again; unpacked trees cannot be told from their digest.
    fn check_layers(&self, checked: &mut Checked) -> Result<(), StoreError> {
        let dir = self.path().join("layers");
        for entry in std::fs::read_dir(&dir).map_err(StoreError::io("read the directory", &dir))? {
            let name = entry.map_err(StoreError::io("read the directory", &dir))?.file_name();
            let name = name.to_string_lossy();
            let Some(digest) = name.strip_suffix(".i").and_then(|stem| stem.replacen('-', ":", 1).parse().ok()) else {
                continue;
            };
            let digest: Digest = digest;
            if self.is_of_another_boot(&digest, Form::Index) {
                // It is made again before anybody uses it.
                continue;
            }
            let Some(layer) = self.layer(&digest, Form::Index)? else {
                checked.problems.push(format!("layer {name} has no readable meta.json"));
                continue;
            };
            if layer.meta.below.needs.is_some() {
                // It has no tree of its own.
                continue;
            }
            checked.layers += 1;
            let path = layer.tar();
            let mut hasher = Hasher::new(digest.algorithm());
            let file = std::fs::File::open(&path).map_err(StoreError::io("open", &path))?;
            std::io::copy(&mut file.take(layer.meta.plain), &mut hasher).map_err(StoreError::io("read", &path))?;
            if hasher.finish() != digest {
                checked.problems.push(format!("layer {name} is damaged: remove its folder, it is made again"));
            }
        }
        Ok(())
    }
}
