//! This host's engine behind [`Containers`]: the same records, monitors and runtime that `shoal run` uses, so that a person
//! sees the mesh's containers with `shoal ps` and a node that dies takes none with it.

use super::listening;
use crate::mirror::{FAILED_MAX, Policy, Report};
use crate::model::Health;
use crate::node::blobs::PART_BYTES;
use crate::placeholder::Values;
use crate::port::{
    Containers, EngineError, LABEL_INSTANCE, LABEL_LISTEN, LABEL_NODE, LogWish, Observed, ReadPart, Stock, Traffic,
    Wish,
};
use crate::service::{MountKind, PortMode, Protocol, Template};
use ::engine::log::{Entry, Query};
use ::engine::network::Network;
use ::engine::overlay::{Backend, Local, Overlay, Peer, Wanted};
use ::engine::record::Status;
use ::engine::wish::{self as engine_wish, MountWish};
use ::engine::{Container, Engine, Filter, Roots};
use image::copy::CopyOptions;
use image::mirror::{MirrorOptions, Outcome};
use image::pull::PullOptions;
use image::push::PushOptions;
use image::remote::config::Config;
use image::remote::transport::{Identity, Limits};

use image::store::{Claim, Store};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oci::Descriptor;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The network of this host that containers of the mesh join.
const NETWORK: &str = "mesh";
/// Not there in a kernel without IPv6; `1` in `all` or `default` where a host wants none of it.
const IPV6: &str = "/proc/sys/net/ipv6/conf";
/// The UDP port of the ways between nodes: beside the mesh's own.
const VXLAN_PORT: u16 = 4790;
/// The MTU of the network below: what every Ethernet carries.
const UNDERLAY_MTU: u32 = 1500;
/// Manifests and indexes that an image from a peer may be nested in.
const DEPTH_MAX: usize = 4;
/// The largest manifest taken from a peer, in bytes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// How often a blob is looked at that another process is fetching.
const BUSY_LOOK: Duration = Duration::from_millis(50);
/// How long another process may take for it.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// How long an instance without a health check may take until it listens; then it counts as working anyway.
const LISTEN_MAX: Duration = Duration::from_secs(15);

/// How long a registry may take to say what a tag means.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);
/// Memory of one container's log that an answer may hold.
const LOG_BYTES_MAX: usize = 2 << 20;

/// This host's engine.
#[derive(Debug)]
pub struct Host {
    engine: Engine,
    options: PullOptions,
    ways: Mutex<Ways>,
}

/// The network between containers as far as this process made it.
#[derive(Debug, Default)]
struct Ways {
    overlay: Overlay,
    network: Option<Network>,
    local: Option<Local>,
    names: Option<BTreeMap<String, Vec<IpAddr>>>,
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
        Self::open_with(roots, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn open_with(roots: &Roots, environment: impl Fn(&str) -> Option<String>) -> Result<Self, EngineError> {
        let environment = &environment;
        let options = PullOptions {
            platform: None,
            all_platforms: false,
            config: Config::load(environment).map_err(error)?,
            identity: Identity { explicit: None, files: image::remote::auth::default_files(None, environment) },
            limits: Limits::default(),
            // The host's rules hold for what a service brings, too: rules that cannot be read start no node.
            policy: image::policy::Policy::of_host(environment).map_err(error)?,
        };
        Ok(Self { engine: Engine::open(roots).map_err(error)?, options, ways: Mutex::default() })
    }

    fn observed(&self, container: &Container) -> Option<Observed> {
        let state = &container.state;
        Some(match state.status {
            Status::Created | Status::Restarting => Observed::Starting,
            Status::Running | Status::Paused => Observed::Running {
                container: container.record.id.clone(),
                health: match state.health.as_ref().map(|health| health.status) {
                    None if begins(container) => Health::Starting,
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
        let of_mesh = attachments.iter().any(|attachment| attachment.network == NETWORK);
        let counts = attachments.iter().filter(|attachment| !of_mesh || attachment.network == NETWORK);
        counts.flat_map(|attachment| &attachment.addresses).map(ipnet::IpNet::addr).collect()
    }
}

impl Host {
    fn ways(&self) -> std::sync::MutexGuard<'_, Ways> {
        self.ways.lock().expect("no holder panics")
    }

    fn has_network(&self) -> bool {
        self.ways().network.is_some()
    }

    /// Fetches one blob in parts, from where an earlier attempt ended.
    fn fetch_blob(&self, store: &Store, blob: &Descriptor, read: ReadPart<'_>) -> Result<(), EngineError> {
        let began = Instant::now();
        let partial = loop {
            match store.claim(&blob.digest, blob.size).map_err(error)? {
                Claim::Present(_) => return Ok(()),
                Claim::Mine(partial) => break partial,
                Claim::Busy if began.elapsed() > BUSY_MAX => {
                    return Err(EngineError(format!("another process does not finish fetching {}", blob.digest)));
                }
                Claim::Busy => std::thread::sleep(BUSY_LOOK),
            }
        };
        let digest = blob.digest.to_string();
        while let Some(gap) = partial.missing().first().cloned() {
            let bytes = (gap.end - gap.start).min(PART_BYTES);
            let part = read(&digest, gap.start, bytes).map_err(EngineError)?;
            partial.write_at(gap.start, &part).map_err(error)?;
        }
        partial.commit().map_err(error)
    }
}

/// Names a pinned image by its tag too where that means nothing here: people look for it there, and so does a service that is
/// made while no registry answers.
fn tag_too(store: &Store, reference: &oci::Reference, target: &Descriptor) -> Result<(), EngineError> {
    if reference.digest().is_none() || reference.tag().is_none() {
        return Ok(());
    }
    let plain = reference.without_digest();
    match store.image(&plain) {
        Ok(None) => store.tag(&plain, target).map_err(error),
        _ => Ok(()),
    }
}

/// Says whether a container without a health check shall still listen on a port of its service. It is given up waiting for
/// after a while: then it gets traffic all the same.
fn begins(container: &Container) -> bool {
    let Some(ports) = container.record.wish.labels.get(LABEL_LISTEN) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ran = now.saturating_sub(Duration::from_nanos(container.state.started));
    // A clock that was set back says nothing.
    ran < LISTEN_MAX && !listening::everywhere(container.state.process.pid, ports)
}

/// Says whether this host gives its interfaces IPv6 addresses.
fn has_ipv6() -> bool {
    let allows = |name: &str| {
        std::fs::read_to_string(format!("{IPV6}/{name}/disable_ipv6")).is_ok_and(|value| value.trim() == "0")
    };
    allows("all") && allows("default")
}

/// Opens the subnet's record again or says why it is none of the mesh's.
fn subnet_of(network: &Network) -> Result<(Ipv4Net, u64), EngineError> {
    let subnet = network.subnets.iter().find_map(|subnet| match subnet.subnet {
        IpNet::V4(net) if crate::node::traffic::is_ours(net.network()) => Some(net),
        _ => None,
    });
    let subnet = subnet.ok_or_else(|| {
        EngineError(format!("network {NETWORK} exists and is another one; remove it: shoal network rm {NETWORK}"))
    })?;
    Ok((subnet, network.created / 1_000_000))
}

impl Containers for Host {
    fn claim(&self, candidates: &[(Ipv4Net, Ipv6Net)]) -> Result<Option<(Ipv4Net, u64)>, EngineError> {
        let networks = self.engine.networks();
        let network = match networks.find(NETWORK) {
            Ok(network) => network,
            Err(::engine::network::Error::NotFound { .. }) => {
                let mut failed = EngineError("no subnet is free".to_owned());
                let six = has_ipv6();
                let made = candidates.iter().find_map(|(subnet, subnet6)| {
                    let local = Local {
                        underlay: Ipv4Addr::UNSPECIFIED,
                        subnet: *subnet,
                        subnet6: six.then_some(*subnet6),
                        bridge: String::new(),
                        vni: 0,
                        port: VXLAN_PORT,
                        mtu: UNDERLAY_MTU,
                    };
                    networks.create(&local.network(NETWORK)).map_err(|cause| failed = error(cause)).ok()
                });
                made.ok_or(failed)?
            }
            Err(cause) => return Err(error(cause)),
        };
        let found = subnet_of(&network)?;
        self.ways().network = Some(network);
        Ok(Some(found))
    }

    fn route(&self, traffic: &Traffic) -> Result<(), EngineError> {
        let mut guard = self.ways();
        let ways = &mut *guard;
        let Some(network) = &ways.network else { return Ok(()) };
        let (subnet, _) = subnet_of(network)?;
        let local = Local {
            underlay: traffic.underlay,
            subnet,
            subnet6: network.subnets.iter().find_map(|subnet| match subnet.subnet {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            }),
            bridge: network.bridge.clone(),
            vni: traffic.vni,
            port: VXLAN_PORT,
            mtu: UNDERLAY_MTU,
        };
        ways.local = Some(local.clone());
        let ports = traffic.ports.iter().map(|((port, protocol), backends)| {
            let protocol = match protocol {
                Protocol::Tcp => ::engine::network::Protocol::Tcp,
                Protocol::Udp => ::engine::network::Protocol::Udp,
            };
            let each = backends.iter().map(|(address, port)| Backend { address: *address, port: *port, weight: 1 });
            ((*port, protocol), each.collect())
        });
        let wanted = Wanted {
            local,
            peers: traffic
                .peers
                .iter()
                .map(|(subnet, (subnet6, underlay))| Peer {
                    subnet: *subnet,
                    subnet6: ways.local.as_ref().and_then(|local| local.subnet6).map(|_| *subnet6),
                    underlay: *underlay,
                })
                .collect(),
            ports: ports.collect(),
        };
        // Names are true whether or not every node is reached.
        let applied = ways.overlay.apply(&wanted).map_err(error);
        if ways.names.as_ref() != Some(&traffic.names) {
            self.engine.networks().set_names(network, &traffic.names).map_err(error)?;
            ways.names = Some(traffic.names.clone());
        }
        applied
    }

    fn tend(&self) -> Result<(), EngineError> {
        let network = self.ways().network.clone();
        network.map_or(Ok(()), |network| self.engine.networks().keep(&network).map_err(error))
    }

    fn rest(&self) {
        if let Some(network) = &self.ways().network {
            // What stays is a process without work.
            let _ = self.engine.networks().let_go(network);
        }
    }

    fn unroute(&self) -> Result<(), EngineError> {
        let mut ways = self.ways();
        if ways.network.is_none() {
            return Ok(());
        }
        self.engine.networks().remove(NETWORK).map_err(error)?;
        ways.network = None;
        ways.names = None;
        match ways.local.take() {
            Some(local) => ways.overlay.remove(&local).map_err(error),
            None => Ok(()),
        }
    }

    fn holds(&self, image: &str) -> Option<String> {
        let reference: oci::Reference = image.parse().ok()?;
        let record = self.engine.images().ok()?.image(&reference).ok()??;
        serde_json::to_string(&record.target).ok()
    }

    fn blob(&self, digest: &str, offset: u64, bytes: u64) -> Result<Vec<u8>, EngineError> {
        let digest: oci::Digest = digest.parse().map_err(error)?;
        let file = self.engine.images().map_err(error)?.open_blob(&digest).map_err(error)?;
        let length = file.metadata().map_err(error)?.len();
        let count = length.saturating_sub(offset).min(bytes);
        let mut part = vec![0; usize::try_from(count).map_err(error)?];
        file.read_exact_at(&mut part, offset).map_err(error)?;
        Ok(part)
    }

    fn fetch(&self, image: &str, target: &str, read: ReadPart<'_>) -> Result<(), EngineError> {
        let reference: oci::Reference = image.parse().map_err(error)?;
        let target: Descriptor = serde_json::from_str(target).map_err(error)?;
        if let Some(policy) = &self.options.policy
            && !policy.accepts_unseen(&reference)
        {
            // A peer shows no signatures: the registry is asked, and judged.
            return Err(EngineError(format!(
                "the signature policy of this host lets {image} come from its registry only"
            )));
        }
        // A lease of its own: what arrives stays until it is named.
        let store = self.engine.images().map_err(error)?.leased();
        let platform = oci::Platform::host();
        let mut next = target.clone();
        for _ in 0..DEPTH_MAX {
            if next.size > MANIFEST_BYTES_MAX {
                return Err(EngineError(format!("manifest {} has {} bytes: too large", next.digest, next.size)));
            }
            self.fetch_blob(&store, &next, read)?;
            let manifest = store.manifest(&next.digest, Some(&next.media_type)).map_err(error)?;
            if let Some(found) = manifest.image() {
                for blob in std::iter::once(&found.config).chain(&found.layers) {
                    self.fetch_blob(&store, blob, read)?;
                }
                store.tag(&reference, &target).map_err(error)?;
                return tag_too(&store, &reference, &target);
            }
            let child = manifest.index().and_then(|index| index.select(&platform));
            next = child.ok_or_else(|| EngineError(format!("{image} has no image for {platform}")))?.clone();
        }
        Err(EngineError(format!("{image}: its indexes are nested too deep")))
    }

    fn mirror(&self, policy: &Policy) -> Result<Report, EngineError> {
        let mut config = self.options.config.clone();
        config.insecure |= policy.insecure;
        let repository = |text: &str| text.parse::<oci::Reference>().map_err(error);
        let (from, to) = (repository(&policy.from)?, repository(&policy.to)?);
        let limits = Limits { bandwidth: policy.bandwidth, ..Limits::default() };
        let options = MirrorOptions {
            copy: CopyOptions {
                from: PullOptions { all_platforms: true, limits, config: config.clone(), ..self.options.clone() },
                to: PushOptions { config, identity: self.options.identity.clone(), limits },
                all: true,
                referrers: policy.all,
            },
            include: policy.include.clone(),
            exclude: policy.exclude.clone(),
            dry_run: false,
        };
        let store = self.engine.images().map_err(error)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(error)?;
        let run = image::mirror::mirror(&store, &from, &to, &options, &image::progress::Silent);
        let mut report = Report::default();
        for (tag, outcome) in runtime.block_on(run).map_err(error)? {
            report.tags += 1;
            match outcome {
                Outcome::Equal(_) => {}
                Outcome::Copied(_, copied) => {
                    report.copied += 1;
                    report.bytes += copied.bytes;
                }
                Outcome::Failed(reason) => {
                    report.failed += 1;
                    if report.reasons.len() < FAILED_MAX {
                        report.reasons.push(format!("{tag}: {reason}"));
                    }
                }
            }
        }
        Ok(report)
    }

    fn has_image(&self, image: &str) -> bool {
        let wish = engine_wish::Wish { image: image.to_owned(), ..engine_wish::Wish::default() };
        self.engine.has_image(&wish).unwrap_or(false)
    }

    fn pull(&self, image: &str) -> Result<(), EngineError> {
        let reference: oci::Reference = image.parse().map_err(error)?;
        let store = self.engine.images().map_err(error)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(error)?;
        let pulled = image::pull::pull(&store, &reference, &self.options, &image::progress::Silent);
        let record = runtime.block_on(pulled).map_err(error)?;
        tag_too(&store, &reference, &record.target)
    }

    fn stock(&self) -> Option<Stock> {
        let index = self.engine.images().ok()?.layout().index().ok()?;
        let networks = self.engine.networks().list().ok()?;
        Some(Stock {
            images: index.manifests.iter().map(|entry| entry.digest.to_string()).collect(),
            networks: networks.into_iter().map(|network| network.name).collect(),
        })
    }

    fn resolve(&self, image: &str) -> Result<String, EngineError> {
        let reference: oci::Reference = image.parse().map_err(error)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(error)?;
        let limits = Limits { connect: RESOLVE_WITHIN, stall: RESOLVE_WITHIN, attempts: 1, ..self.options.limits };
        let options = PullOptions { limits, ..self.options.clone() };
        let digest = runtime.block_on(image::pull::resolve(&reference, &options)).map_err(error)?;
        Ok(digest.to_string())
    }

    fn start(&self, wish: &Wish) -> Result<String, EngineError> {
        // A container of that name is this instance's own, from before the node was killed.
        let id = match self.engine.resolve(&wish.name) {
            Ok(id) => id,
            Err(_) => self.engine.create(&translated(wish, self.has_network())?).map_err(error)?.id,
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

    fn logs(&self, container: &str, wish: LogWish) -> Result<Vec<String>, EngineError> {
        let mut lines: VecDeque<String> = VecDeque::new();
        let mut bytes = 0;
        let query = Query { tail: Some(wish.tail), since: wish.since, until: None };
        let mut take = |entry: Entry| {
            let mut line = if wish.times { format!("{} ", ::engine::time::rfc3339(entry.time)) } else { String::new() };
            line.push_str(String::from_utf8_lossy(&entry.text).trim_end_matches('\n'));
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
fn translated(wish: &Wish, on_mesh: bool) -> Result<engine_wish::Wish, EngineError> {
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
        env: template.env.iter().map(|entry| filled(entry, wish)).collect::<Result<_, _>>()?,
        labels: wish.labels.clone(),
        workdir: template.workdir.clone().unwrap_or_default(),
        user: template.user.clone().unwrap_or_default(),
        hostname: template.hostname.as_deref().map(|name| filled(name, wish)).transpose()?.unwrap_or_default(),
        detach: true,
        init: template.init,
        health: template.healthcheck.as_ref().map(health),
        stop_signal: template.stop_signal.clone().unwrap_or_default(),
        stop_timeout: Some(template.stop_grace_ms.div_ceil(1000)),
        networks: networks(template, on_mesh),
        publish,
        mounts: mounts(wish)?,
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

/// Returns the networks of a container: the mesh's first, unless it shares a namespace or has none.
fn networks(template: &Template, on_mesh: bool) -> Vec<String> {
    let own = |name: &String| matches!(name.as_str(), "host" | "none" | NETWORK) || name.starts_with("container:");
    let mut networks = template.networks.clone();
    if on_mesh && !networks.iter().any(own) {
        networks.insert(0, NETWORK.to_owned());
    }
    networks
}

/// Fills docker's placeholders in.
fn filled(text: &str, wish: &Wish) -> Result<String, EngineError> {
    let values = Values { instance: &wish.instance, spec: &wish.service.spec, node: &wish.node, task_name: &wish.name };
    values.fill(text).map_err(EngineError)
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

fn mounts(wish: &Wish) -> Result<Vec<MountWish>, EngineError> {
    let each = wish.service.spec.template.mounts.iter();
    each.map(|mount| {
        Ok(MountWish {
            kind: match mount.kind {
                MountKind::Bind => engine_wish::MountKind::Bind,
                MountKind::Volume => engine_wish::MountKind::Volume,
                MountKind::Tmpfs => engine_wish::MountKind::Tmpfs,
            },
            source: filled(&mount.source, wish)?,
            target: filled(&mount.target, wish)?,
            read_only: mount.read_only,
            options: mount.tmpfs_bytes.map(|bytes| format!("size={bytes}")).into_iter().collect(),
            anonymous: mount.kind == MountKind::Volume && mount.source.is_empty(),
            ..MountWish::default()
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_signature_policy_holds_for_what_services_bring() {
        let folder = std::env::temp_dir().join(format!("shoal-policy-of-services-{}", std::process::id()));
        let file = folder.join("containers/policy.json");
        std::fs::create_dir_all(folder.join("containers")).unwrap();
        let environment = |name: &str| (name == "XDG_CONFIG_HOME").then(|| folder.display().to_string());
        let open = |policy: &str| {
            std::fs::write(&file, policy).unwrap();
            Host::open_with(&Roots::below(&folder.join("root")), environment)
        };
        let host = open(r#"{"default":[{"type":"reject"}]}"#).unwrap();
        let target = serde_json::to_string(&Descriptor::new("x/y", oci::Digest::sha256(b"x"), 1)).unwrap();
        // No byte of it is asked for.
        let fetched = host.fetch("r.example/a:1", &target, &|_, _, _| Err("a peer was asked".to_owned()));
        assert!(fetched.unwrap_err().0.contains("signature policy"));
        let host = open(r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let fetched = host.fetch("r.example/a:1", &target, &|_, _, _| Err("a peer was asked".to_owned()));
        assert!(fetched.unwrap_err().0.contains("a peer was asked"));
        assert!(open("{").unwrap_err().0.contains("policy.json"), "rules that cannot be read are no rules to go by");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
