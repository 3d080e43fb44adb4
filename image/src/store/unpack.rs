//! Unpacks a whole image into one directory: the rootfs of a bundle for any runtime.
//!
//! In: an image record and a directory that is empty or not there. Out: the merged tree with whiteouts applied; after a
//! failure nothing.

use crate::layer::extract::{Extractor, Options, Whiteouts};
use crate::layer::tar::Reader;
use crate::progress::Progress;
use crate::store::{ImageRecord, Store, StoreError, sys};
use std::path::Path;

impl Store {
    /// Unpacks every layer of `image` into the directory `root`, base first. As root, owners, devices and all xattrs are
    /// kept; otherwise everything belongs to the caller and devices are left out.
    pub fn unpack(&self, image: &ImageRecord, root: &Path, progress: &dyn Progress) -> Result<(), StoreError> {
        let diff_ids = self.diff_ids(image)?;
        let there = root.exists();
        if there {
            let mut entries = std::fs::read_dir(root).map_err(StoreError::io("read the directory", root))?;
            if entries.next().is_some() {
                let source = std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty);
                return Err(StoreError::Io { step: "unpack into", path: root.to_owned(), source });
            }
        }
        sys::create_dirs(root).map_err(StoreError::io("create", root))?;
        let unpacked = self.unpack_layers(image, &diff_ids, root, progress);
        if unpacked.is_err() {
            // What was there before is emptied, what was made goes: half a tree is of no use to anyone.
            let _ = if there { super::clear_tree(root) } else { super::remove_tree(root) };
        }
        unpacked
    }

    fn unpack_layers(
        &self,
        image: &ImageRecord,
        diff_ids: &[oci::Digest],
        root: &Path,
        progress: &dyn Progress,
    ) -> Result<(), StoreError> {
        let dir = sys::open_dir(root).map_err(StoreError::io("open", root))?;
        rustix::fs::fchmod(&dir, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(StoreError::errno("change the mode of", root))?;
        let owners = sys::keeps_owners();
        let mut extractor = Extractor::new(dir, Options { whiteouts: Whiteouts::Apply, owners });
        for (blob, diff_id) in image.layers.iter().zip(diff_ids) {
            self.read_layer(blob, diff_id, progress, |plain| {
                let mut reader = Reader::new(plain);
                extractor.layer(&mut reader)?;
                Ok(reader.drain()?)
            })?;
        }
        Ok(())
    }

    /// The digests of the plain layers, as many as the manifest has layers.
    pub(crate) fn diff_ids(&self, image: &ImageRecord) -> Result<Vec<oci::Digest>, StoreError> {
        let diff_ids = self.config(image)?.rootfs.diff_ids;
        if diff_ids.len() == image.layers.len() {
            return Ok(diff_ids);
        }
        Err(StoreError::Invalid {
            name: image.display_name(),
            reason: format!("its manifest has {} layers but its config has {}", image.layers.len(), diff_ids.len()),
        })
    }

    /// Bytes of the image's plain layers, base first; `None` for those that were never made on this host.
    pub fn plain_sizes(&self, image: &ImageRecord) -> Result<Vec<Option<u64>>, StoreError> {
        let diff_ids = self.config(image)?.rootfs.diff_ids;
        diff_ids
            .iter()
            .map(|diff_id| {
                for form in [crate::store::layers::Form::Index, crate::store::layers::Form::Directory] {
                    if let Some(layer) = self.layer(diff_id, form)? {
                        return Ok(Some(layer.meta.plain));
                    }
                }
                Ok(None)
            })
            .collect()
    }

    /// The ids of the containers that use this image.
    pub fn users(&self, image: &ImageRecord) -> Result<Vec<String>, StoreError> {
        let uses = crate::store::rootfs::uses(self, false)?;
        Ok(uses.into_iter().filter(|(_, used)| used.config == image.config.digest).map(|(id, _)| id).collect())
    }
}
