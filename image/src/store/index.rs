//! The index form of a layer: the plain tar, and an EROFS image over it.
//!
//! In: a layer's blob. Out: `tar` and `index` in a directory. Whether the kernel can mount them is asked once a process,
//! with a layer of one directory.

use crate::layer::tar::Reader;
use crate::progress::Progress;
use crate::store::erofs::tree::{Tree, TreeError};
use crate::store::erofs::{self, NotIndexable};
use crate::store::layers::{Below, Form, LayerMeta, Plain};
use crate::store::{Store, StoreError, mounts, sys};
use oci::{Descriptor, Digest};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::OnceLock;

/// How much of a layer is read, hashed and written at once, in bytes: within the second-level cache.
const COPY_BYTES: usize = 256 * 1024;

impl Store {
    /// The form in which this host mounts layers: the index where the kernel can mount it from files of this store.
    pub fn layer_form(&self) -> Form {
        static FORM: OnceLock<Form> = OnceLock::new();
        *FORM.get_or_init(|| match std::env::var("SHOAL_LAYER_FORM").as_deref() {
            Ok("directory") => Form::Directory,
            Ok("index") => Form::Index,
            _ if self.probe_index() => Form::Index,
            _ => Form::Directory,
        })
    }

    /// Whether the kernel mounts an index over a tar, both as files of this store (on tmpfs and as a user it does not).
    fn probe_index(&self) -> bool {
        if !sys::is_host_root() {
            return false;
        }
        let probe = || -> Option<()> {
            let dir = self.temporary_dir("probe").ok()?;
            let (index, tar) = (dir.path().join("index"), dir.path().join("tar"));
            std::fs::write(&tar, [0; 1024]).ok()?;
            let mut file = File::create_new(&index).ok()?;
            erofs::write(&Tree::new(), 1024, &mut file).ok()?.ok()?;
            mounts::open_index(&index, &tar).ok()?;
            Some(())
        };
        probe().is_some()
    }

    /// Makes `tar` and `index` in `dir`. `Ok(Err(_))` says why the layer must be unpacked instead.
    pub(crate) fn make_index(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<Result<LayerMeta, NotIndexable>, StoreError> {
        let (tar_path, index_path) = (dir.join("tar"), dir.join("index"));
        let tar = File::create_new(&tar_path).map_err(StoreError::io("create", &tar_path))?;
        let mut tree = Tree::new();
        let mut needs = None;
        let mut failed = None;
        let plain = self.read_layer(blob, diff_id, progress, |plain| {
            let buffer = vec![0; COPY_BYTES];
            let mut reader = Reader::new(Tee { from: plain, to: &tar, buffer, start: 0, end: 0, failed: &mut failed });
            while let Some(entry) = reader.next_entry()? {
                match tree.add(&entry) {
                    Ok(()) => {}
                    Err(TreeError::Extract(error)) => return Err(error.into()),
                    Err(TreeError::Below(reason)) => {
                        needs = Some(reason);
                        break;
                    }
                }
            }
            Ok(reader.drain()?)
        });
        if let Some(error) = failed {
            return Err(StoreError::io("write", &tar_path)(error));
        }
        let plain = plain?;
        if let Some(reason) = needs {
            std::fs::remove_file(&tar_path).map_err(StoreError::io("remove", &tar_path))?;
            return Ok(Ok(LayerMeta::new(Form::Index, plain, None, Below::needs(reason))));
        }
        let mut index = BufWriter::new(File::create_new(&index_path).map_err(StoreError::io("create", &index_path))?);
        match erofs::write(&tree, plain, &mut index) {
            Err(reason) => return Ok(Err(reason)),
            Ok(written) => written.and_then(|()| index.flush()).map_err(StoreError::io("write", &index_path))?,
        }
        // What the kernel maps must be there in full blocks.
        tar.set_len(plain.next_multiple_of(512)).map_err(StoreError::io("set the length of", &tar_path))?;
        Ok(Ok(LayerMeta::new(Form::Index, plain, tree.root_entry, Below::implied(tree.implied()))))
    }
}

/// Reads on, and writes what it reads into a file.
struct Tee<'a, 'b> {
    from: &'a mut Plain<'b>,
    to: &'a File,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    failed: &'a mut Option<io::Error>,
}

impl Read for Tee<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // Decoders give small pieces; the file gets large ones.
            while self.end < self.buffer.len() {
                match self.from.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(read) => self.end += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if let Err(error) = self.to.write_all(&self.buffer[..self.end]) {
                let kind = error.kind();
                *self.failed = Some(error);
                return Err(io::Error::new(kind, "the layer's tar cannot be written"));
            }
        }
        let count = buffer.len().min(self.end - self.start);
        buffer[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}
