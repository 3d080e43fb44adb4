//! Where the engine meets the image store: what an image says, its root file system under a container.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::health::Check;
use crate::host::shift;
use crate::host::userns::Holder;
use crate::record::{ImageDefaults, Record};
use crate::wish::Wish;
use image::progress::Silent;
use image::store::rootfs::{self, RootfsRequest};
use image::{ImageRecord, Store, StoreError};
use oci::config::{ContainerConfig, Healthcheck};
use oci::spec::LinuxIdMapping;
use oci::{Digest, Platform};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The shortest pause between two probes that an image may ask for.
const INTERVAL_NS_MIN: u64 = 1_000_000_000;

/// Beside a container's changes while its files are given to other owners, and after.
const SHIFTING: &str = "shifting";
const SHIFTED: &str = "shifted";

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

    /// The layers of an image, bottom first, by what they are unpacked; `None` for one that is not here.
    pub(super) fn ancestry(&self, name: &str) -> Result<Option<Vec<Digest>>, EngineError> {
        let store = self.images()?;
        let Ok(record) = store.find(name) else { return Ok(None) };
        let failed = |error| image_error(&format!("read the image {name}"), error);
        Ok(Some(store.config(&record).map_err(failed)?.rootfs.diff_ids))
    }

    /// Mounts the container's root file system and returns its path.
    pub(super) fn rootfs(&self, container: &Container) -> Result<PathBuf, EngineError> {
        let record = &container.record;
        if record.wish.rootfs {
            return Ok(PathBuf::from(&record.image));
        }
        Ok(self.mounted(container)?.path)
    }

    /// Mounts the container's root file system as its own user namespace is to see it.
    fn mounted(&self, container: &Container) -> Result<rootfs::Rootfs, EngineError> {
        let record = &container.record;
        let store = self.images()?;
        let step = || format!("make the root file system of {}", record.image);
        let failed = |error| image_error(&step(), error);
        // By its id: the name may point elsewhere by now.
        let image = find(&store, &record.image_id, &record.wish.platform).map_err(failed)?;
        let request = self.rootfs_request(container);
        let plain = || rootfs::prepare(&store, &image, &request, &Silent).map_err(failed);
        let (uids, gids) = self.id_mappings(container)?;
        if uids.is_empty() {
            return plain();
        }
        let (begun, done) = (request.dir.join(SHIFTING), request.dir.join(SHIFTED));
        if done.exists() {
            return plain();
        }
        let io = |error| EngineError::io(step())(error);
        if begun.exists() {
            // Half the owners are changed, and nobody knows which half. The container has never run.
            rootfs::release(&store, &request).map_err(failed)?;
            for name in ["upper", "work", SHIFTING] {
                image::store::remove_tree(&request.dir.join(name)).map_err(io)?;
            }
        }
        if crate::roots::rootless().is_none() {
            let holder = Holder::start(&self.monitor()?, false).map_err(io)?;
            holder.map(&uids, &gids).map_err(io)?;
            let userns = holder.user_namespace().map_err(io)?;
            let zero =
                |map: &[LinuxIdMapping]| map.iter().find(|one| one.container_id == 0).map_or(0, |one| one.host_id);
            let mapping = rootfs::Mapping { userns: userns.as_fd(), user: zero(&uids), group: zero(&gids) };
            if let Ok(made) = rootfs::prepare_mapped(&store, &image, &request, mapping, &Silent) {
                return Ok(made);
            }
        }
        // A kernel without such mounts, or a user who may not make them: every file gets its owner once.
        let made = plain()?;
        fs::write(&begun, "").map_err(io)?;
        let root = fs::File::open(&made.path).map_err(io)?;
        shift::owners(root.as_fd(), &uids, &gids).map_err(io)?;
        fs::rename(&begun, &done).map_err(io)?;
        Ok(made)
    }

    /// Whether the container's files were given to the ids of its user namespace one by one, so that its changes are all of
    /// them.
    pub(super) fn is_shifted(&self, container: &Container) -> bool {
        container.data.join("rootfs").join(SHIFTED).exists()
    }

    /// The folders of the image's layers, top first; mounted while the container runs, else for this look.
    pub(super) fn image_root(&self, container: &Container) -> Result<Vec<PathBuf>, EngineError> {
        Ok(self.mounted(container)?.lower)
    }

    /// Holds the image of a container that is being made, until the container is removed.
    pub(super) fn claim_image(&self, record: &Record) -> Result<(), EngineError> {
        if record.wish.rootfs {
            return Ok(());
        }
        let store = self.images()?;
        let failed = |error| image_error(&format!("hold the image {}", record.image), error);
        let image = find(&store, &record.image_id, &record.wish.platform).map_err(failed)?;
        rootfs::claim(&store, &image, &self.rootfs_request_of(&record.id)).map_err(failed)
    }

    fn rootfs_request(&self, container: &Container) -> RootfsRequest {
        self.rootfs_request_of(container.id())
    }

    fn rootfs_request_of(&self, id: &str) -> RootfsRequest {
        let roots = self.roots();
        RootfsRequest {
            id: id.to_owned(),
            dir: roots.container_data(id).join("rootfs"),
            mount: roots.container_run(id).join("rootfs"),
            layers: roots.run.join("layers"),
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

/// The image of that name; with `--platform` the one of this platform, also where the name has one image only.
pub(super) fn find(store: &Store, name: &str, platform: &str) -> Result<ImageRecord, StoreError> {
    match platform.parse::<Platform>() {
        Ok(platform) if !name.starts_with("sha256:") => {
            let found = store.find_for(name, &platform)?;
            match store.platform(&found)? {
                Some(is) if platform.rank(&is).is_none() => Err(StoreError::OtherPlatform {
                    name: name.to_owned(),
                    wanted: platform.to_string(),
                    is: is.to_string(),
                }),
                _ => Ok(found),
            }
        }
        _ => store.find(name),
    }
}

pub(super) fn image_error(step: &str, error: StoreError) -> EngineError {
    use StoreError::{NoPlatform, NoSuchImage, OtherPlatform};
    // What is here for another platform only is not here: a pull may bring the one that is wanted.
    let missing = matches!(error, NoSuchImage { .. } | NoPlatform { .. } | OtherPlatform { .. });
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
    // Probes are work of the host's, outside the container's limits.
    let bounded = |value: i64| match nanos(value) {
        0 => 0,
        value => value.max(INTERVAL_NS_MIN),
    };
    Check {
        test: health.test,
        interval: bounded(health.interval),
        timeout: nanos(health.timeout),
        start_period: nanos(health.start_period),
        start_interval: bounded(health.start_interval),
        retries: u32::try_from(health.retries).unwrap_or(0),
    }
}
