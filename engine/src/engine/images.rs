//! Where the engine meets the image store: what an image says, its root file system under a container.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::health::Check;
use crate::record::ImageDefaults;
use crate::wish::Wish;
use image::progress::Silent;
use image::store::rootfs::{self, RootfsRequest};
use image::{ImageRecord, Store, StoreError};
use oci::Platform;
use oci::config::{ContainerConfig, Healthcheck};
use std::path::{Path, PathBuf};

/// An image as a container needs it.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// The digest of its configuration.
    pub(super) id: String,
    /// What it says about containers.
    pub(super) defaults: ImageDefaults,
}

impl Engine {
    /// The image store of these roots.
    pub fn images(&self) -> Result<Store, EngineError> {
        Store::open(&self.roots().data.join("images")).map_err(|error| image_error("open the image store", error))
    }

    /// Whether the image of a wish is here; an image of another platform than the one asked for is not.
    pub fn has_image(&self, wish: &Wish) -> Result<bool, EngineError> {
        match self.image_of(wish) {
            Ok(_) => Ok(true),
            Err(EngineError::Image { missing: true, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Finds the image of a wish in the store.
    pub(super) fn image_of(&self, wish: &Wish) -> Result<Found, EngineError> {
        if wish.rootfs {
            let path = Path::new(&wish.image);
            if !path.is_absolute() || !path.is_dir() {
                return Err(EngineError::Invalid(format!("--rootfs: {} is no directory", wish.image)));
            }
            return Ok(Found::default());
        }
        let store = self.images()?;
        let failed = |error| image_error(&format!("find the image {}", wish.image), error);
        let record = find(&store, &wish.image, &wish.platform).map_err(failed)?;
        let config = store.config(&record).map_err(failed)?.config;
        Ok(Found { id: record.id.to_string(), defaults: defaults(config) })
    }

    /// Mounts the container's root file system and returns its path.
    pub(super) fn rootfs(&self, container: &Container) -> Result<PathBuf, EngineError> {
        let record = &container.record;
        if record.wish.rootfs {
            return Ok(PathBuf::from(&record.image));
        }
        let store = self.images()?;
        let failed = |error| image_error(&format!("make the root file system of {}", record.image), error);
        // By its id: the name may point elsewhere by now.
        let image = find(&store, &record.image_id, &record.wish.platform).map_err(failed)?;
        let made = rootfs::prepare(&store, &image, &self.rootfs_request(container), &Silent).map_err(failed)?;
        Ok(made.path)
    }

    /// The folders of the image's layers, top first; mounted while the container runs, else for this look.
    pub(super) fn image_root(&self, container: &Container) -> Result<Vec<PathBuf>, EngineError> {
        let store = self.images()?;
        let record = &container.record;
        let failed = |error| image_error(&format!("open the image of {}", container.name()), error);
        let image = find(&store, &record.image_id, &record.wish.platform).map_err(failed)?;
        let made = rootfs::prepare(&store, &image, &self.rootfs_request(container), &Silent).map_err(failed)?;
        Ok(made.lower)
    }

    fn rootfs_request(&self, container: &Container) -> RootfsRequest {
        RootfsRequest {
            id: container.record.id.clone(),
            dir: container.data.join("rootfs"),
            mount: container.run.join("rootfs"),
            layers: self.roots().run.join("layers"),
        }
    }

    /// Unmounts the container's root file system; what was written stays.
    pub(super) fn rootfs_release(&self, container: &Container) -> Result<(), EngineError> {
        if container.record.wish.rootfs || !container.data.join("rootfs").exists() {
            return Ok(());
        }
        rootfs::release(&self.images()?, &self.rootfs_request(container))
            .map_err(|error| image_error(&format!("unmount the root file system of {}", container.name()), error))
    }

    /// Removes what the container has written.
    pub(super) fn rootfs_remove(&self, container: &Container) -> Result<(), EngineError> {
        if container.record.wish.rootfs {
            return Ok(());
        }
        rootfs::remove(&self.images()?, &self.rootfs_request(container))
            .map_err(|error| image_error(&format!("remove the root file system of {}", container.name()), error))
    }

    /// The folder with the container's own changes, in overlayfs's form; `None` for `--rootfs`.
    pub fn upper(&self, container: &Container) -> Option<PathBuf> {
        (!container.record.wish.rootfs).then(|| container.data.join("rootfs/upper"))
    }
}

pub(super) fn find(store: &Store, name: &str, platform: &str) -> Result<ImageRecord, StoreError> {
    match platform.parse::<Platform>() {
        Ok(platform) if !name.starts_with("sha256:") => store.find_for(name, &platform),
        _ => store.find(name),
    }
}

pub(super) fn image_error(step: &str, error: StoreError) -> EngineError {
    let missing = matches!(error, StoreError::NoSuchImage { .. });
    let mut message = format!("{step}: {error}");
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(&format!(": {text}"));
        }
        next = cause.source();
    }
    EngineError::Image { message, missing }
}

fn defaults(config: ContainerConfig) -> ImageDefaults {
    ImageDefaults {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env,
        workdir: config.working_dir,
        user: config.user,
        exposed: config.exposed_ports.into_keys().collect(),
        volumes: config.volumes.into_keys().collect(),
        labels: config.labels,
        stop_signal: config.stop_signal.unwrap_or_default(),
        health: config.healthcheck.map(check),
    }
}

/// Negative durations mean nothing an image could want.
fn check(health: Healthcheck) -> Check {
    let nanos = |value: i64| u64::try_from(value).unwrap_or(0);
    Check {
        test: health.test,
        interval: nanos(health.interval),
        timeout: nanos(health.timeout),
        start_period: nanos(health.start_period),
        start_interval: nanos(health.start_interval),
        retries: u32::try_from(health.retries).unwrap_or(0),
    }
}
