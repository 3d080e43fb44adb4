//! `create`: a wish becomes a record. Nothing is mounted, connected or started.

use super::{Engine, lock_file};
use crate::error::EngineError;
use crate::file::{self, Durable};
use crate::host::process;
use crate::name::{self, Claim};
use crate::record::{RECORD_VERSION, Record, State};
use crate::time::now;
use crate::wish::{Resources, Wish};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// How often a made-up name is made up again when it is taken.
const NAMES_MAX: usize = 64;

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Whether a container can be made as wished, as far as that can be told without making it.
    pub fn check(&self, wish: &Wish) -> Result<(), EngineError> {
        check(wish)?;
        self.image_of(wish)?;
        if let crate::network::Mode::Networks(names) = crate::network::Mode::parse(&wish.networks)?
            && crate::roots::rootless().is_none()
        {
            names.iter().try_for_each(|name| self.networks().find(name).map(drop))?;
        }
        Ok(())
    }

    /// Makes a container; its image must be here already.
    pub fn create(&self, wish: &Wish) -> Result<Created, EngineError> {
        let warnings = check(wish)?;
        let image = self.image_of(wish)?;
        let id = name::new_id();
        let data = self.roots.container_data(&id);
        let containers = self.roots.data.join("containers");
        for folder in [&containers, &self.roots.run] {
            fs::create_dir_all(folder).map_err(EngineError::io(format!("make {}", folder.display())))?;
        }
        fs::DirBuilder::new().mode(0o700).create(&data).map_err(EngineError::io(format!("make {}", data.display())))?;
        let name = self.create_in(&data, &id, wish, image)?;
        Ok(Created { id, name, warnings })
    }

    fn create_in(
        &self,
        data: &Path,
        id: &str,
        wish: &Wish,
        image: super::images::Found,
    ) -> Result<String, EngineError> {
        let swept =
            || EngineError::Invalid("the new container was swept away before it was made: try again".to_owned());
        fs::File::create(data.join("lock")).map_err(|_| swept())?;
        // Held until the record is there: a name whose holder has neither record nor lock is free.
        let lock = lock_file(data).map_err(|_| swept())?;
        if lock.metadata().map_or(0, |meta| meta.nlink()) == 0 {
            return Err(swept());
        }
        let made = self.record_in(data, id, wish, image);
        if made.is_err() {
            // Under the lock: nobody else can be at it.
            super::remove::remove_data(data).ok();
        }
        drop(lock);
        let record = made?;
        self.event(&record, "create", &[]);
        Ok(record.name)
    }

    fn record_in(
        &self,
        data: &Path,
        id: &str,
        wish: &Wish,
        image: super::images::Found,
    ) -> Result<Record, EngineError> {
        let mut record = Record {
            version: RECORD_VERSION,
            id: id.to_owned(),
            created: now(),
            image: wish.image.clone(),
            image_id: image.id,
            wish: wish.clone(),
            defaults: image.defaults,
            ..Record::default()
        };
        // Refused now, not at the start: nothing that cannot run gets a name.
        super::prepare::argv(&record)?;
        record.name = self.claim_name(&wish.name, id)?;
        let saved = self
            .anonymous_volumes(&mut record)
            .and_then(|()| self.claim_image(&record))
            .and_then(|()| Ok(file::save(&data.join("state.json"), &State::created(), Durable::No)?))
            .and_then(|()| Ok(file::save(&data.join("record.json"), &record, Durable::Yes)?));
        if let Err(error) = saved {
            self.names().release(&record.name, id).ok();
            self.release_volumes(&record, true).ok();
            return Err(error);
        }
        Ok(record)
    }

    fn claim_name(&self, wanted: &str, id: &str) -> Result<String, EngineError> {
        if !wanted.is_empty() {
            if !name::is_valid(wanted) {
                return Err(EngineError::Invalid(format!(
                    "invalid container name {wanted:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
                )));
            }
            return match self.names().claim(wanted, id)? {
                Claim::Ours => Ok(wanted.to_owned()),
                Claim::Taken(holder) => Err(EngineError::NameTaken { name: wanted.to_owned(), holder }),
            };
        }
        for _ in 0..NAMES_MAX {
            let name = name::made_up(process::random());
            if self.names().claim(&name, id)? == Claim::Ours {
                return Ok(name);
            }
        }
        // Thousands of containers: the id makes it unique.
        let name = format!("{}_{}", name::made_up(process::random()), &id[..6]);
        self.names().claim(&name, id)?;
        Ok(name)
    }
}

/// Refuses limits that contradict each other, or that nothing could run under.
pub(super) fn check_resources(resources: &Resources) -> Result<(), EngineError> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    if let Some(memory) = resources.memory.filter(|memory| *memory > 0) {
        if memory < 512 * 1024 {
            return invalid("-m: the least memory is 512k");
        }
        if resources.memory_reservation.is_some_and(|reservation| reservation > memory) {
            return invalid("--memory-reservation is above --memory");
        }
        if resources.memory_swap.is_some_and(|swap| swap > 0 && swap < memory) {
            return invalid("--memory-swap counts memory and swap together: it cannot be below --memory");
        }
    } else if resources.memory_swap.is_some_and(|swap| swap > 0) {
        return invalid("--memory-swap needs --memory");
    }
    if let Some(nanos) = resources.nano_cpus {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if nanos <= 0 || nanos > most {
            return Err(EngineError::Invalid(format!("--cpus: from 0.01 to {cpus}, this host has {cpus}")));
        }
    }
    if resources.nano_cpus.is_some() && (resources.cpu_quota.is_some() || resources.cpu_period.is_some()) {
        return invalid("--cpus and --cpu-period/--cpu-quota exclude each other");
    }
    Ok(())
}

/// Refuses what contradicts itself; returns what the user should know.
fn check(wish: &Wish) -> Result<Vec<String>, EngineError> {
    let invalid = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    wish.log.check()?;
    if wish.remove && wish.restart != crate::restart::Policy::No {
        return invalid("--rm and --restart exclude each other");
    }
    check_resources(&wish.resources)?;
    if wish.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return invalid("--oom-score-adj: from -1000 to 1000");
    }
    if !wish.workdir.is_empty() && !wish.workdir.starts_with('/') {
        return Err(EngineError::Invalid(format!("the working directory {:?} is not absolute", wish.workdir)));
    }
    if let Some(check) = &wish.health {
        let times = [
            ("--health-interval", check.interval),
            ("--health-timeout", check.timeout),
            ("--health-start-period", check.start_period),
            ("--health-start-interval", check.start_interval),
        ];
        if let Some((flag, _)) = times.iter().find(|(_, time)| (1..1_000_000).contains(time)) {
            return Err(EngineError::Invalid(format!("{flag} cannot be less than 1ms")));
        }
    }
    if wish.hostname.len() > 64 {
        return invalid("-h: a host name has at most 64 characters");
    }
    let mode = crate::network::Mode::parse(&wish.networks)?;
    if matches!(mode, crate::network::Mode::Container(_)) && !(wish.hostname.is_empty() && wish.add_host.is_empty()) {
        return invalid("-h and --add-host belong to the container whose network is used");
    }
    if matches!(mode, crate::network::Mode::Container(_)) {
        let given = [
            ("-p", !wish.publish.is_empty() || wish.publish_all),
            ("--dns", !wish.dns.is_empty()),
            ("--mac-address", wish.mac.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(EngineError::Invalid(format!("{flag} belongs to the container whose network is used")));
        }
    }
    for text in &wish.publish {
        crate::network::publish::parse(text).map_err(|error| EngineError::Invalid(format!("-p {text}: {error}")))?;
    }
    for text in &wish.expose {
        crate::network::publish::parse_exposed(text)
            .map_err(|error| EngineError::Invalid(format!("--expose {text}: {error}")))?;
    }
    for entry in &wish.add_host {
        let address = entry.split_once([':', '=']).map(|(_, address)| address.trim_matches(['[', ']']));
        if !address.is_some_and(|text| text == "host-gateway" || text.parse::<std::net::IpAddr>().is_ok()) {
            return Err(EngineError::Invalid(format!("--add-host {entry:?}: NAME:ADDRESS is needed")));
        }
    }
    for text in &wish.dns {
        if text.parse::<std::net::IpAddr>().is_err() {
            return Err(EngineError::Invalid(format!("--dns {text:?}: the address of a server is needed")));
        }
    }
    if wish.userns.starts_with("keep-id")
        && crate::roots::rootless().is_some()
        && !matches!(mode, crate::network::Mode::Host)
    {
        return invalid("--userns keep-id shares the host's network only: add --network host");
    }
    let mut targets = std::collections::BTreeSet::new();
    for mount in &wish.mounts {
        if crate::lsm::has_selinux() && mount.options.iter().any(|option| matches!(option.as_str(), "z" | "Z")) {
            return Err(EngineError::Invalid(format!(
                "{}: z and Z are not offered yet on a host with SELinux: label the files with chcon -Rt container_file_t",
                mount.target
            )));
        }
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return Err(EngineError::Invalid(format!("duplicate mount point: {}", mount.target)));
        }
        super::mounts::has_source(mount)?;
    }
    let mut warnings = Vec::new();
    let publishes = !wish.publish.is_empty() || wish.publish_all;
    if publishes && matches!(mode, crate::network::Mode::Host | crate::network::Mode::None) {
        let name = if mode == crate::network::Mode::Host { "host" } else { "none" };
        warnings.push(format!("published ports are discarded when using {name} network mode"));
    }
    if !wish.links.is_empty() {
        warnings.push("--link is obsolete: the other container is only known by its alias in /etc/hosts".to_owned());
    }
    Ok(warnings)
}
