//! This host's engine behind [`Containers`]: the same records, monitors and runtime that `shoal run` uses, so that a person
//! sees the mesh's containers with `shoal ps` and a node that dies takes none with it.

use crate::model::Health;
use crate::port::{Containers, EngineError, LABEL_INSTANCE, LABEL_NODE, Observed, Wish};
use crate::service::{MountKind, PortMode, Template};
use ::engine::log::{Entry, Query};
use ::engine::record::Status;
use ::engine::wish::{self as engine_wish, MountWish};
use ::engine::{Container, Engine, Filter, Roots};
use image::pull::PullOptions;
use image::remote::config::Config;
use image::remote::transport::{Identity, Limits};
use std::collections::VecDeque;

/// Memory of one container's log that an answer may hold.
const LOG_BYTES_MAX: usize = 2 << 20;

/// This host's engine.
#[derive(Debug)]
pub struct Host {
    engine: Engine,
    options: PullOptions,
}

fn error(error: impl std::error::Error) -> EngineError {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    EngineError(text)
}

impl Host {
    /// Opens the engine below these roots, with the host's registry configuration.
    pub fn open(roots: &Roots) -> Result<Self, EngineError> {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let options = PullOptions {
            platform: None,
            all_platforms: false,
            config: Config::load(environment).map_err(error)?,
            identity: Identity { explicit: None, files: image::remote::auth::default_files(None, environment) },
            limits: Limits::default(),
            policy: None,
        };
        Ok(Self { engine: Engine::open(roots).map_err(error)?, options })
    }

    fn observed(&self, container: &Container) -> Option<Observed> {
        let state = &container.state;
        Some(match state.status {
            Status::Created | Status::Restarting => Observed::Starting,
            Status::Running | Status::Paused => Observed::Running {
                container: container.record.id.clone(),
                health: match state.health.as_ref().map(|health| health.status) {
                    None => Health::None,
                    Some(::engine::health::Status::Starting) => Health::Starting,
                    Some(::engine::health::Status::Healthy) => Health::Healthy,
                    Some(::engine::health::Status::Unhealthy) => Health::Unhealthy,
                },
                addresses: self.addresses(container),
            },
            Status::Exited => {
                let memory = if state.oom_killed { "the kernel killed it for want of memory" } else { "" };
                let message = if state.error.is_empty() { memory.to_owned() } else { state.error.clone() };
                Observed::Ended { code: Some(state.exit_code), message }
            }
            Status::Dead => Observed::Ended { code: None, message: "its monitor or its host went away".to_owned() },
            Status::Removing => return None,
        })
    }

    fn addresses(&self, container: &Container) -> Vec<std::net::IpAddr> {
        let attachments = self.engine.attachments(container);
        attachments.iter().flat_map(|attachment| &attachment.addresses).map(ipnet::IpNet::addr).collect()
    }
}

impl Containers for Host {
    fn has_image(&self, image: &str) -> bool {
        let wish = engine_wish::Wish { image: image.to_owned(), ..engine_wish::Wish::default() };
        self.engine.has_image(&wish).unwrap_or(false)
    }

    fn pull(&self, image: &str) -> Result<(), EngineError> {
        let reference: oci::Reference = image.parse().map_err(error)?;
        let store = self.engine.images().map_err(error)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(error)?;
        let pulled = image::pull::pull(&store, &reference, &self.options, &image::progress::Silent);
        runtime.block_on(pulled).map(drop).map_err(error)
    }

    fn start(&self, wish: &Wish) -> Result<String, EngineError> {
        // A container of that name is this instance's own, from before the node was killed.
        let id = match self.engine.resolve(&wish.name) {
            Ok(id) => id,
            Err(_) => self.engine.create(&translated(wish)?).map_err(error)?.id,
        };
        self.engine.start(&id).map_err(error)?;
        Ok(id)
    }

    fn stop(&self, container: &str, grace_ms: u64) -> Result<(), EngineError> {
        let seconds = i64::try_from(grace_ms.div_ceil(1000)).unwrap_or(i64::MAX);
        match self.engine.stop(container, None, Some(seconds)) {
            Err(::engine::EngineError::NoSuchContainer { .. }) => Ok(()),
            other => other.map_err(error),
        }
    }

    fn remove(&self, container: &str) -> Result<(), EngineError> {
        match self.engine.remove(container, true, true) {
            Err(::engine::EngineError::NoSuchContainer { .. }) => Ok(()),
            other => other.map_err(error),
        }
    }

    fn list(&self, node: &str) -> Result<Vec<(String, String, Observed)>, EngineError> {
        let filter = Filter::parse(&[format!("label={LABEL_NODE}={node}")]).map_err(error)?;
        let listed = self.engine.list(true, None, &filter).map_err(error)?;
        let each = listed.containers.iter();
        Ok(each
            .filter_map(|container| {
                let instance = container.record.wish.labels.get(LABEL_INSTANCE)?.clone();
                Some((instance, container.record.id.clone(), self.observed(container)?))
            })
            .collect())
    }

    fn logs(&self, container: &str, tail: usize) -> Result<Vec<String>, EngineError> {
        let mut lines: VecDeque<String> = VecDeque::new();
        let mut bytes = 0;
        let query = Query { tail: Some(tail), since: None, until: None };
        let mut take = |entry: Entry| {
            let line = String::from_utf8_lossy(&entry.text).trim_end_matches('\n').to_owned();
            bytes += line.len();
            lines.push_back(line);
            while bytes > LOG_BYTES_MAX {
                bytes -= lines.pop_front().map_or(bytes, |line| line.len());
            }
            Ok(())
        };
        self.engine.logs(container, &query, false, &mut take).map_err(error)?;
        Ok(lines.into())
    }
}

/// Turns an instance's wish into the engine's. Restarts are the mesh's: the monitor starts nothing again.
fn translated(wish: &Wish) -> Result<engine_wish::Wish, EngineError> {
    let spec = &wish.service.spec;
    let template = &spec.template;
    let signed = |value: u64| (value > 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let publish = spec
        .ports
        .iter()
        .filter(|port| port.mode == PortMode::Host)
        .map(|port| match port.published {
            0 => format!("{}/{}", port.target, port.protocol.name()),
            published => format!("{published}:{}/{}", port.target, port.protocol.name()),
        })
        .collect();
    Ok(engine_wish::Wish {
        image: template.image.clone(),
        name: wish.name.clone(),
        command: template.args.clone(),
        entrypoint: template.entrypoint.clone(),
        env: template.env.iter().map(|entry| filled(entry, wish)).collect(),
        labels: wish.labels.clone(),
        workdir: template.workdir.clone().unwrap_or_default(),
        user: template.user.clone().unwrap_or_default(),
        hostname: template.hostname.as_deref().map(|name| filled(name, wish)).unwrap_or_default(),
        detach: true,
        init: template.init,
        health: template.healthcheck.as_ref().map(health),
        stop_signal: template.stop_signal.clone().unwrap_or_default(),
        stop_timeout: Some(template.stop_grace_ms.div_ceil(1000)),
        networks: template.networks.clone(),
        publish,
        mounts: mounts(template),
        read_only: template.read_only,
        cap_add: template.cap_add.clone(),
        cap_drop: template.cap_drop.clone(),
        resources: engine_wish::Resources {
            memory: signed(template.resources.limits.memory_bytes),
            nano_cpus: signed(template.resources.limits.cpu_nanos.min(host_cpu_nanos())),
            pids: signed(template.resources.limits.pids),
            ..engine_wish::Resources::default()
        },
        ..engine_wish::Wish::default()
    })
}

/// Replaces docker's placeholders.
fn filled(text: &str, wish: &Wish) -> String {
    if !text.contains("{{") {
        return text.to_owned();
    }
    let slot = wish.instance.slot.task_name("");
    let mut out = text.to_owned();
    for (name, value) in [
        ("{{.Task.Slot}}", slot.trim_start_matches('.')),
        ("{{.Task.ID}}", wish.instance.id.as_str()),
        ("{{.Task.Name}}", wish.name.as_str()),
        ("{{.Service.Name}}", wish.instance.service.as_str()),
        ("{{.Service.ID}}", wish.instance.service_id.as_str()),
        ("{{.Node.ID}}", wish.instance.node.as_str()),
    ] {
        out = out.replace(name, value);
    }
    out
}

fn host_cpu_nanos() -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u64::try_from(cpus).unwrap_or(1).saturating_mul(crate::quantity::CPU_NANOS)
}

fn health(check: &crate::service::Healthcheck) -> ::engine::health::Check {
    let nanos = |ms: u64| ms.saturating_mul(1_000_000);
    ::engine::health::Check {
        test: check.test.clone(),
        interval: nanos(check.interval_ms),
        timeout: nanos(check.timeout_ms),
        start_period: nanos(check.start_period_ms),
        start_interval: nanos(check.start_interval_ms),
        retries: check.retries,
    }
}

fn mounts(template: &Template) -> Vec<MountWish> {
    let each = template.mounts.iter();
    each.map(|mount| MountWish {
        kind: match mount.kind {
            MountKind::Bind => engine_wish::MountKind::Bind,
            MountKind::Volume => engine_wish::MountKind::Volume,
            MountKind::Tmpfs => engine_wish::MountKind::Tmpfs,
        },
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        options: mount.tmpfs_bytes.map(|bytes| format!("size={bytes}")).into_iter().collect(),
        anonymous: mount.kind == MountKind::Volume && mount.source.is_empty(),
        ..MountWish::default()
    })
    .collect()
}
