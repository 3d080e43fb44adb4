//! Images for tests, made here: an OCI archive whose layers are given as lists of files. No registry is needed.

use crate::Scratch;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Media type of the layers that [`Builder`] writes.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Builds an OCI archive layer by layer.
#[derive(Debug)]
pub struct Builder {
    name: String,
    blobs: BTreeMap<String, Vec<u8>>,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
    /// The `config` member of the image configuration (Cmd, Env, User, …).
    pub config: Value,
}

impl Builder {
    /// Starts an image called `name`, with no layer and an empty configuration.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            blobs: BTreeMap::new(),
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: json!({}),
        }
    }

    /// Builds the image every engine test uses: busybox and the probe, `sh` as command.
    pub fn busybox(name: &str) -> Self {
        let mut builder = Self::new(name);
        let scratch = Scratch::new("rootfs");
        crate::bundle::fill_rootfs(scratch.path());
        builder.layer_of(scratch.path());
        builder.config =
            json!({"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]});
        builder
    }

    /// Adds a layer with everything below `folder`.
    pub fn layer_of(&mut self, folder: &Path) -> &mut Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.append_dir_all(".", folder).expect("the folder is readable");
        let bytes = tar.into_inner().expect("a tar in memory");
        self.layer(&bytes)
    }

    /// Adds a layer given as a plain tar.
    pub fn layer(&mut self, tar: &[u8]) -> &mut Self {
        self.diff_ids.push(digest(tar));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).expect("gzip in memory");
        let bytes = gzip.finish().expect("gzip in memory");
        let descriptor = self.blob(LAYER, bytes);
        self.layers.push(descriptor);
        self
    }

    /// Adds a layer given as it travels: its media type, its bytes, and what the configuration says of its plain tar.
    pub fn packed_layer(&mut self, media_type: &str, bytes: Vec<u8>, diff_id: &str) -> &mut Self {
        self.diff_ids.push(diff_id.to_owned());
        let descriptor = self.blob(media_type, bytes);
        self.layers.push(descriptor);
        self
    }

    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Writes the image as an OCI archive and returns its manifest digest.
    pub fn write(&mut self, archive: &Path) -> String {
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": self.diff_ids.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>()
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": self.layers});
        let mut descriptor = self.blob(manifest_type, manifest.to_string().into_bytes());
        let manifest_digest = descriptor["digest"].as_str().expect("a digest is text").to_owned();
        descriptor["annotations"] =
            json!({"org.opencontainers.image.ref.name": self.name, "io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});

        let mut tar = tar::Builder::new(std::fs::File::create(archive).expect("the archive's folder is writable"));
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        append(&mut tar, "index.json", index.to_string().as_bytes());
        for (digest, bytes) in &self.blobs {
            append(&mut tar, &format!("blobs/{}", digest.replace(':', "/")), bytes);
        }
        tar.finish().expect("the archive's folder is writable");
        manifest_digest
    }

    /// Writes the image as an OCI archive into `folder` and returns the archive's path.
    pub fn archive_in(&mut self, folder: &Path) -> PathBuf {
        let path = folder.join("image.oci.tar");
        let _ = self.write(&path);
        path
    }
}

fn append(tar: &mut tar::Builder<std::fs::File>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).expect("the archive's folder is writable");
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
