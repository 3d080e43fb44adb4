//! Imports a root file system: a tar becomes an image of one layer.
//!
//! In: a tar, compressed or not, and a config. Out: an image. The layer is kept as it came.

use crate::layer::compression::{self, Compression};
use crate::layer::tar::Reader;
use crate::store::{Store, StoreError};
use oci::config::{ContainerConfig, History, ImageConfig, RootFs};
use oci::digest::{Algorithm, Hasher};
use oci::manifest::{ImageManifest, media};
use oci::{Descriptor, Digest, Platform};
use std::io::{self, Read, Write};

/// What the image says about itself.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// How to run it.
    pub config: ContainerConfig,
    /// A remark for its history.
    pub message: Option<String>,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// What it was built for; the host's platform by default.
    pub platform: Option<Platform>,
}

/// Stores the tar as a layer and makes an image of it. Returns its manifest, which has no name yet.
pub fn import(store: &Store, stream: impl Read + Send, options: ImportOptions) -> Result<Descriptor, StoreError> {
    let mut ingest = store.ingest(None, None)?;
    let mut stream = stream;
    io::copy(&mut stream, &mut ingest).map_err(StoreError::io("write a blob below", store.path()))?;
    ingest.flush().map_err(StoreError::io("write a blob below", store.path()))?;
    let (digest, size) = ingest.commit()?;
    let (diff_id, compression) = plain_digest(store, &digest)?;
    let media_type = match compression {
        Compression::None => media::OCI_LAYER,
        Compression::Gzip => media::OCI_LAYER_GZIP,
        Compression::Zstd => media::OCI_LAYER_ZSTD,
    };
    let platform = options.platform.unwrap_or_else(Platform::host);
    let config = ImageConfig {
        created: options.created.clone(),
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config: options.config,
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History { created: options.created, comment: options.message, ..History::default() }],
        ..ImageConfig::default()
    };
    let raw = serde_json::to_vec(&config).expect("a config has only string keys");
    let config = store.put(media::OCI_CONFIG, &raw)?;
    let manifest = ImageManifest::new(config, vec![Descriptor::new(media_type, digest, size)]);
    let raw = serde_json::to_vec(&manifest).expect("a manifest has only string keys");
    store.put(media::OCI_MANIFEST, &raw)
}

/// The digest of the plain stream; refuses what is no tar.
fn plain_digest(store: &Store, digest: &Digest) -> Result<(Digest, Compression), StoreError> {
    let path = store.layout().blob_path(digest);
    let file = store.open_blob(digest)?;
    let (stream, compression) = compression::plain(file).map_err(StoreError::io("read", &path))?;
    let mut hashed = Hashed { stream, hasher: Hasher::new(Algorithm::Sha256) };
    let mut reader = Reader::new(&mut hashed);
    loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return Err(super::refused(error.to_string())),
        }
    }
    reader.drain().map_err(|error| super::refused(error.to_string()))?;
    Ok((hashed.hasher.finish(), compression))
}

struct Hashed<'a> {
    stream: Box<dyn Read + Send + 'a>,
    hasher: Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
