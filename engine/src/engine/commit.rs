//! `export` and `commit`: a container's root as a tar, its changes as an image.

use super::images::image_error;
use super::{Container, Engine};
use crate::error::EngineError;
use crate::record::Status;
use crate::time::{now, rfc3339};
use image::layer::diff::{self, Form};
use oci::config::{ContainerConfig, History};
use oci::digest::{Algorithm, Hasher};
use oci::manifest::{ImageManifest, media};
use oci::{Descriptor, Digest, Reference};
use std::io::{self, Write};

/// What `commit` asks for.
#[derive(Debug, Clone, Default)]
pub struct CommitWish {
    /// The new image's name; `None` for an image without one.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// A remark for its history.
    pub message: String,
    /// Dockerfile instructions that change its configuration.
    pub changes: Vec<String>,
    /// Do not freeze a running container meanwhile.
    pub no_pause: bool,
}

impl Engine {
    /// Writes a container's whole root file system as a tar; volumes are not part of it.
    pub fn export(&self, name: &str, out: impl Write) -> Result<(), EngineError> {
        let locked = self.lock(name)?;
        let container = &locked.container;
        let step = || EngineError::io(format!("export container {}", container.name()));
        let root = self.rootfs(container)?;
        // The image's owners, whatever the container's users are on this host.
        let first = self.first_id(container);
        // Held open, it stays whole whatever becomes of the container: nobody waits for who reads the tar.
        let held = std::fs::File::open(&root).map_err(step())?;
        self.event(&container.record, "export", &[]);
        let (container, active) = (container.id().to_owned(), locked.is_active());
        drop(locked);
        let root = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&held));
        let written = diff::write_from(std::path::Path::new(&root), Form::Whole, first, out)
            .map(|_| ())
            .map_err(EngineError::io(format!("export container {name}")));
        drop(held);
        if !active {
            self.release_unused(&container)?;
        }
        written
    }

    /// Unmounts the root of a container that was only looked at, unless it has been started or removed meanwhile.
    pub(super) fn release_unused(&self, id: &str) -> Result<(), EngineError> {
        match self.lock(id) {
            Ok(locked) if !locked.is_active() => self.rootfs_release(&locked.container),
            Ok(_) | Err(EngineError::NoSuchContainer { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes an image of a container's changes and returns its id.
    pub fn commit(&self, name: &str, wish: &CommitWish) -> Result<Digest, EngineError> {
        let container = self.find(name)?;
        if container.state.status != Status::Running || wish.no_pause {
            return self.commit_frozen(&container, wish);
        }
        let thaw = self.freeze(container.id())?;
        let made = self.commit_frozen(&container, wish);
        let thawed = self.thaw(container.id(), thaw);
        made.and_then(|id| thawed.map(|()| id))
    }

    fn commit_frozen(&self, container: &Container, wish: &CommitWish) -> Result<Digest, EngineError> {
        let step = || format!("commit container {}", container.name());
        let failed = |error| image_error(&step(), error);
        let Some(upper) = self.upper(container) else {
            return Err(EngineError::Invalid(
                "a container on --rootfs has no image to build on; use export".to_owned(),
            ));
        };
        if self.is_shifted(container) {
            return Err(EngineError::Invalid(
                "the files of this container were given to the ids of its user namespace: its changes cannot be told from \
                 its image; use export"
                    .to_owned(),
            ));
        }
        let store = self.images()?.leased();
        let base =
            super::images::find(&store, &container.record.image_id, &container.record.wish.platform).map_err(failed)?;
        let mut config = store.config(&base).map_err(failed)?;
        let mut ingest = store.ingest(None, None).map_err(failed)?;
        let hashed = Hashed { inner: &mut ingest, hasher: Hasher::new(Algorithm::Sha256) };
        let hashed = if upper.exists() {
            diff::write(&upper, Form::Changes, hashed).map_err(EngineError::io(step()))?
        } else {
            image::layer::write::Writer::new(hashed).finish().map_err(EngineError::io(step()))?
        };
        let diff_id = hashed.hasher.finish();
        let (digest, size) = ingest.commit().map_err(failed)?;
        let time = Some(rfc3339(now()));
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        changed(&mut config.config, container);
        for change in &wish.changes {
            image::change::apply(&mut config.config, change)
                .map_err(|error| EngineError::Invalid(error.to_string()))?;
        }
        config.created.clone_from(&time);
        config.author = text(&wish.author);
        config.rootfs.diff_ids.push(diff_id);
        config.history.push(History {
            created: time,
            author: text(&wish.author),
            created_by: Some(super::prepare::argv(&container.record)?.join(" ")),
            comment: text(&wish.message),
            ..History::default()
        });
        let raw = serde_json::to_vec(&config).map_err(|error| EngineError::Invalid(error.to_string()))?;
        let config = store.put(media::OCI_CONFIG, &raw).map_err(failed)?;
        let id = config.digest;
        let mut layers = base.layers;
        layers.push(Descriptor::new(media::OCI_LAYER, digest, size));
        let raw = serde_json::to_vec(&ImageManifest::new(config, layers))
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        let target = store.put(media::OCI_MANIFEST, &raw).map_err(failed)?;
        match &wish.name {
            Some(name) => store.tag(name, &target),
            None => store.keep(&target),
        }
        .map_err(failed)?;
        self.event(&container.record, "commit", &[("imageID", &id.to_string())]);
        Ok(id)
    }
}

/// What `run` has set becomes the image's own.
fn changed(config: &mut ContainerConfig, container: &Container) {
    let wish = &container.record.wish;
    for entry in &wish.env {
        let name = entry.split('=').next().unwrap_or_default();
        config.env.retain(|known| known.split('=').next() != Some(name));
        if entry.contains('=') {
            config.env.push(entry.clone());
        }
    }
    if let Some(entrypoint) = &wish.entrypoint {
        config.entrypoint = (!entrypoint.is_empty()).then(|| entrypoint.clone());
        config.cmd = None;
    }
    if !wish.command.is_empty() {
        config.cmd = Some(wish.command.clone());
    }
    for (own, given) in [(&mut config.user, &wish.user), (&mut config.working_dir, &wish.workdir)] {
        if !given.is_empty() {
            own.clone_from(given);
        }
    }
    config.labels.extend(wish.labels.clone());
}

/// Passes bytes on and hashes them.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
