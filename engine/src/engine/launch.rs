//! `start`: everything a container needs is made, its monitor is started, its first words are heard.

use super::prepare::Prepared;
use super::{Container, Engine, Locked};
use crate::error::EngineError;
use crate::file::{self, Durable};
use crate::host::process::ProcessId;
use crate::host::{netns, slirp};
use crate::log::Named;
use crate::monitor::protocol::{Client, Reply, Request};
use crate::monitor::{PLAN_VERSION, Plan, lock};
use crate::network::{self, Attach, Attachment, Mode};
use crate::record::{State, Status};
use crate::trace;
use crate::wish::Endpoint;
use oci::spec::Spec;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// A container that has just been started, with the connection to its monitor.
#[derive(Debug)]
pub struct Launch {
    /// The container.
    pub container: Container,
    /// The connection; output arrives here when it was asked for.
    pub client: Client,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What the starting command wants to see.
#[derive(Debug, Clone, Copy, Default)]
pub struct Streams {
    /// It will write to stdin.
    pub stdin: bool,
    /// It wants stdout.
    pub stdout: bool,
    /// It wants stderr.
    pub stderr: bool,
    /// The size of its terminal.
    pub size: Option<(u16, u16)>,
}

impl Engine {
    /// Starts a container in the background; one that runs already is left as it is.
    pub fn start(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let locked = self.lock(name)?;
        if matches!(locked.container.state.status, Status::Running | Status::Restarting) {
            return Ok(Vec::new());
        }
        self.launch(locked, None).map(|launch| launch.warnings)
    }

    /// Starts a container and stays attached to it.
    pub fn start_attached(&self, name: &str, streams: Streams) -> Result<Launch, EngineError> {
        let locked = self.lock(name)?;
        if locked.is_active() {
            return Err(locked.container.state_error("is already running"));
        }
        self.event(&locked.container.record, "attach", &[]);
        self.launch(locked, Some(streams))
    }

    /// Starts a locked container that does not run.
    pub(super) fn launch(&self, mut locked: Locked, streams: Option<Streams>) -> Result<Launch, EngineError> {
        if locked.container.state.status == Status::Paused {
            return Err(locked.container.state_error("is paused: unpause it first"));
        }
        if locked.container.state.status == Status::Removing {
            return Err(locked.container.state_error("is being removed"));
        }
        if locked.container.monitored {
            return Err(locked.container.state_error("is being started by another command"));
        }
        // What a killed monitor, a reboot or a failed start has left.
        self.give_back(&locked.container)?;
        let former = locked.container.state.clone();
        let mut warnings = Vec::new();
        let started = self
            .prepare(&locked.container, streams, &mut warnings)
            .and_then(|(spec, plan)| self.spawn_monitor(&locked.container, &spec, &plan, streams));
        match started {
            Ok(client) => {
                locked.container = self.load(locked.container.id())?;
                Ok(Launch { container: locked.unlock(), client, warnings })
            }
            Err(error) => {
                self.settle(&locked.container);
                // The first failure is the one to report; what cannot be given back now is found by the next verb.
                self.give_back(&locked.container).ok();
                // One that has run before has ended before, whenever that was, and is still to be started at boot.
                let former = if former.started == 0 { State::created() } else { former };
                let status = if former.started == 0 { Status::Created } else { Status::Exited };
                let exit_code = match &error {
                    EngineError::Start { code, .. } => i32::from(*code),
                    _ => 128,
                };
                let (process, monitor) = (ProcessId::default(), ProcessId::default());
                locked.container.state =
                    State { status, error: error.to_string(), exit_code, process, monitor, ..former };
                locked.save_state()?;
                Err(error)
            }
        }
    }

    /// Makes root file system, network, mounts and files; returns the two documents.
    fn prepare(
        &self,
        container: &Container,
        streams: Option<Streams>,
        warnings: &mut Vec<String>,
    ) -> Result<(Spec, Plan), EngineError> {
        let run = &container.run;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run)
            .map_err(EngineError::io(format!("make {}", run.display())))?;
        let rootfs = self.rootfs(container)?;
        let mode = Mode::parse(&container.record.wish.networks)?;
        let netns = trace::timed("network", || self.connect(container, &mode, warnings))?;
        let attachments = self.attachments(container);
        let mut mounts = self.generated_files(container, &mode, &attachments)?;
        mounts.extend(self.mounts(container, &rootfs)?);
        mounts.extend(self.secret_mounts(container)?);
        if self.mapped_from(container) > 0 {
            // What is the engine's own belongs inside to root, as on disk. What the user binds stays whose it is.
            let (uids, gids) = self.id_mappings(container)?;
            let roots = [&self.roots.data, &self.roots.run];
            let own = |source: &String| roots.iter().any(|root| std::path::Path::new(source).starts_with(root));
            for mount in mounts.iter_mut().filter(|mount| {
                mount.source.as_ref().is_some_and(own) || mount.destination.starts_with("/run/secrets/")
            }) {
                (mount.uid_mappings, mount.gid_mappings) = (uids.clone(), gids.clone());
            }
        }
        let prepared = Prepared { rootfs: rootfs.to_string_lossy().into_owned(), netns, mounts };
        let mut spec = self.spec(container, &prepared)?;
        if let (Some(process), Some(size)) = (spec.process.as_mut(), streams.and_then(|streams| streams.size)) {
            // Of its terminal, before its first look.
            process.console_size = process.terminal.then(|| console_size(size));
        }
        file::save(&run.join("config.json"), &spec, Durable::No)?;
        let plan = self.plan(container, streams)?;
        file::save(&run.join("monitor.json"), &plan, Durable::No)?;
        Ok((spec, plan))
    }

    /// `--secret SOURCE[:TARGET]`: a file of the host, read-only below `/run/secrets`.
    fn secret_mounts(&self, container: &Container) -> Result<Vec<oci::spec::Mount>, EngineError> {
        container
            .record
            .wish
            .secrets
            .iter()
            .map(|text| {
                let (source, target) = text.split_once(':').unwrap_or((text, ""));
                let path = std::path::Path::new(source);
                if !path.is_file() {
                    return Err(EngineError::Invalid(format!("--secret {text:?}: {source} is no file")));
                }
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let target = if target.is_empty() { name.as_str() } else { target };
                Ok(oci::spec::Mount {
                    destination: if target.starts_with('/') {
                        target.to_owned()
                    } else {
                        format!("/run/secrets/{target}")
                    },
                    kind: Some("bind".to_owned()),
                    source: Some(source.to_owned()),
                    options: ["bind", "ro", "nosuid", "nodev", "noexec"].map(str::to_owned).to_vec(),
                    ..oci::spec::Mount::default()
                })
            })
            .collect()
    }

    /// Makes the network namespace and connects it; returns its file, `None` for the host's.
    fn connect(
        &self,
        container: &Container,
        mode: &Mode,
        warnings: &mut Vec<String>,
    ) -> Result<Option<String>, EngineError> {
        let wish = &container.record.wish;
        let names = match mode {
            Mode::Host => return Ok(None),
            Mode::Container(name) => {
                let other = self.find(name)?;
                if !other.state.status.is_active() {
                    return Err(other.state_error("is not running: its network cannot be joined"));
                }
                let file = other.run.join("netns");
                if file.exists() {
                    return Ok(Some(file.to_string_lossy().into_owned()));
                }
                return Ok(match Mode::parse(&other.record.wish.networks)? {
                    Mode::Host => None,
                    _ => {
                        let file = container.run.join("ns-net");
                        match netns::pin_of(other.state.process, "net", &file) {
                            Ok(true) => Some(file.to_string_lossy().into_owned()),
                            Ok(false) => return Err(other.state_error("is not running: its network cannot be joined")),
                            Err(error) => {
                                return Err(EngineError::io(format!("hold the network of {}", other.name()))(error));
                            }
                        }
                    }
                });
            }
            Mode::None => &Vec::new(),
            Mode::Networks(names) => names,
        };
        let file = container.run.join("netns");
        let others = crate::roots::rootless().is_some() || !self.id_mappings(container)?.0.is_empty();
        let groups = others.then(|| super::prepare::ids_known("gid_map"));
        netns::pin(&file, groups).map_err(EngineError::io("make a network namespace"))?;
        network::loopback(&file)?;
        if crate::roots::rootless().is_some() {
            self.connect_rootless(container, names, &file)?;
            return Ok(Some(file.to_string_lossy().into_owned()));
        }
        let networks = self.networks();
        let found = names.iter().map(|name| networks.find(name)).collect::<Result<Vec<_>, _>>()?;
        let outward = outward(found.iter().map(|network| network.internal));
        let mut attachments: Vec<Attachment> = Vec::new();
        for (at, network) in found.iter().enumerate() {
            let first = at == 0;
            // Without a way out, `-p` is told to be without effect where it was asked for.
            let leads_out = outward.unwrap_or(0) == at;
            let own = match wish.endpoints.get(&network.name) {
                Some(own) => own.clone(),
                None => Endpoint {
                    ip: wish.ip.as_deref().filter(|_| first).map(|text| parse(text, "--ip")).transpose()?,
                    ip6: wish.ip6.as_deref().filter(|_| first).map(|text| parse(text, "--ip6")).transpose()?,
                    aliases: wish.network_aliases.clone(),
                    mac: wish.mac.clone().filter(|_| first),
                },
            };
            let request = Attach {
                container: container.record.id.clone(),
                name: container.record.name.clone(),
                hostname: super::prepare::hostname(&container.record),
                netns: file.clone(),
                interface: None,
                ip: own.ip,
                ip6: own.ip6,
                mac: own.mac.as_deref().map(mac).transpose()?,
                aliases: own.aliases,
                dns: wish.dns.iter().filter_map(|text| text.parse().ok()).collect(),
                default_route: leads_out,
                ports: if leads_out { self.ports(container)? } else { Vec::new() },
            };
            let mut attachment = networks.attach(network, &request)?;
            warnings.append(&mut attachment.warnings);
            attachments.push(attachment);
            self.save_attachments(container, &attachments)?;
        }
        Ok(Some(file.to_string_lossy().into_owned()))
    }

    /// The network of a user without root's rights: slirp4netns beside the container instead of a bridge.
    fn connect_rootless(
        &self,
        container: &Container,
        names: &[String],
        netns: &std::path::Path,
    ) -> Result<(), EngineError> {
        let wish = &container.record.wish;
        if let Some(name) = names.iter().find(|name| !matches!(name.as_str(), network::DEFAULT | slirp::NAME)) {
            return Err(EngineError::Invalid(format!(
                "--network {name}: networks of one's own need root; without it there are the default (slirp4netns), none, \
                 host and container:NAME"
            )));
        }
        if names.is_empty() {
            return Ok(());
        }
        let fixed = [("--ip", wish.ip.is_some()), ("--ip6", wish.ip6.is_some()), ("--mac-address", wish.mac.is_some())];
        if let Some((flag, _)) = fixed.iter().find(|(_, given)| *given) {
            return Err(EngineError::Invalid(format!(
                "{flag} needs a network of root's: slirp4netns gives every container the same"
            )));
        }
        let ports = slirp::start(&container.run, netns, &self.ports(container)?)?;
        self.save_attachments(container, &[slirp::attachment(container.id(), ports)])
    }

    /// `-p` and `-P`.
    pub(super) fn ports(&self, container: &Container) -> Result<Vec<network::PortMapping>, EngineError> {
        let (wish, image) = (&container.record.wish, &container.record.defaults);
        let invalid = |error: network::PortError| EngineError::Invalid(error.to_string());
        let mut ports = Vec::new();
        for text in &wish.publish {
            ports.extend(network::publish::parse(text).map_err(invalid)?);
        }
        if wish.publish_all {
            for text in wish.expose.iter().chain(&image.exposed) {
                for (container_port, protocol) in network::publish::parse_exposed(text).map_err(invalid)? {
                    let same = |port: &network::PortMapping| {
                        port.container_port == container_port && port.protocol == protocol
                    };
                    if !ports.iter().any(same) {
                        ports.push(network::PortMapping { host_ip: None, host_ports: None, container_port, protocol });
                    }
                }
            }
        }
        network::publish::unique(ports).map_err(invalid)
    }

    /// What connects the container now; empty when nothing does.
    pub fn attachments(&self, container: &Container) -> Vec<Attachment> {
        file::load(&container.data.join("network.json")).unwrap_or_default()
    }

    /// Writes down what connects the container.
    pub(crate) fn save_attachments(
        &self,
        container: &Container,
        attachments: &[Attachment],
    ) -> Result<(), EngineError> {
        Ok(file::save(&container.data.join("network.json"), &attachments, Durable::No)?)
    }

    fn plan(&self, container: &Container, streams: Option<Streams>) -> Result<Plan, EngineError> {
        let record = &container.record;
        let wish = &record.wish;
        let health = match &wish.health {
            Some(own) if own.test.is_empty() => record.defaults.health.clone().map(|image| crate::health::Check {
                test: image.test,
                interval: if own.interval > 0 { own.interval } else { image.interval },
                timeout: if own.timeout > 0 { own.timeout } else { image.timeout },
                start_period: if own.start_period > 0 { own.start_period } else { image.start_period },
                start_interval: if own.start_interval > 0 { own.start_interval } else { image.start_interval },
                retries: if own.retries > 0 { own.retries } else { image.retries },
            }),
            Some(own) => Some(own.clone()),
            None => record.defaults.health.clone(),
        };
        let own = std::env::current_exe().map_err(EngineError::io("find this program"))?;
        let mut cleanup = vec![own.to_string_lossy().into_owned()];
        if let Some(root) = self.roots.root() {
            cleanup.extend(["--root".to_owned(), root.to_string_lossy().into_owned()]);
        }
        cleanup.extend(["container".to_owned(), "cleanup".to_owned(), record.id.clone()]);
        Ok(Plan {
            version: PLAN_VERSION,
            id: record.id.clone(),
            name: record.name.clone(),
            image: record.image.clone(),
            labels: record.labels(),
            runtime: self.runtime()?,
            runtime_root: self.roots.runtime(),
            data: container.data.clone(),
            events: crate::events::file(&self.roots.run),
            cgroup: self.cgroup_of(record),
            tty: wish.tty,
            size: streams.and_then(|streams| streams.size),
            stdin: wish.interactive,
            stdin_once: wish.interactive && !wish.detach,
            log: wish.log.clone(),
            log_attributes: wish.log.attributes(
                &Named { id: &record.id, name: &record.name, image: &record.image, image_id: &record.image_id },
                &record.labels(),
                &oci::conversion::environment(&record.defaults.env, &wish.env, "", false),
            ),
            restart: wish.restart,
            health,
            stop_signal: stop_signal(container)?,
            timeout: wish.timeout,
            // slirp4netns holds its own.
            ports: self
                .attachments(container)
                .into_iter()
                .filter(|attachment| attachment.network != slirp::NAME)
                .flat_map(|attachment| attachment.ports)
                .collect(),
            forwards: self
                .attachments(container)
                .iter()
                .filter(|attachment| attachment.network != slirp::NAME)
                .flat_map(|one| network::publish::forwards(&one.ports, one.ipv4(), one.ipv6()))
                .collect(),
            networks: match crate::roots::rootless() {
                None => self.roots.run.join("networks"),
                Some(_) => std::path::PathBuf::new(),
            },
            restart_count: 0,
            cleanup,
        })
    }

    /// Executes `shoal-monitor` and waits until the container runs or has failed to.
    fn spawn_monitor(
        &self,
        container: &Container,
        spec: &Spec,
        _plan: &Plan,
        streams: Option<Streams>,
    ) -> Result<Client, EngineError> {
        let (ours, theirs) = UnixStream::pair().map_err(EngineError::io("make a socket pair"))?;
        fs::create_dir_all(self.roots.runtime()).map_err(EngineError::io("make the runtime's folder"))?;
        let mut client = Client::over(ours).map_err(EngineError::io("greet the monitor"))?;
        let mut ask = |request: &Request| client.send(request).map_err(EngineError::io("speak to the monitor"));
        if let Some(streams) = streams {
            ask(&Request::Attach { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr })?;
            ask(&Request::CleanupIsMine)?;
        }
        ask(&Request::Start)?;
        let program = self.monitor()?;
        // From here on the container is seen to have a monitor, also when this command is killed.
        let lock = lock::take(&container.run)
            .map_err(EngineError::io("take the monitor's lock"))?
            .ok_or_else(|| container.state_error("has a monitor already"))?;
        let status = Command::new(&program)
            .arg(&container.run)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(lock))
            .status()
            .map_err(EngineError::io(format!("execute {}", program.display())))?;
        let gone = || EngineError::Runtime {
            step: "start the monitor".to_owned(),
            message: "it ended before the container started".to_owned(),
        };
        if !status.success() {
            return Err(gone());
        }
        let answer = first_word(&mut client).map_err(EngineError::io("hear from the monitor"))?;
        match answer {
            Some(Reply::Started { .. }) => Ok(client),
            Some(Reply::Failed { code, message }) => {
                // What was made for it is given back here.
                client.send(&Request::Cleaned).ok();
                let code = if code == 0 { self.start_code(spec) } else { code };
                Err(EngineError::Start { code, message })
            }
            _ => Err(gone()),
        }
    }
}

/// Rows and columns as the document has them.
pub(super) fn console_size((rows, columns): (u16, u16)) -> oci::spec::ConsoleSize {
    oci::spec::ConsoleSize { height: rows, width: columns }
}

/// Which of a container's networks leads out and has its published ports: the first that is not internal.
pub(super) fn outward(internal: impl Iterator<Item = bool>) -> Option<usize> {
    internal.into_iter().position(|internal| !internal)
}

/// Waits for `Started` or `Failed`; no output comes before it.
fn first_word(client: &mut Client) -> io::Result<Option<Reply>> {
    loop {
        match client.reply()? {
            Some(Reply::Done | Reply::Refused { .. }) => {}
            other => return Ok(other),
        }
    }
}

fn parse<T: std::str::FromStr>(text: &str, flag: &str) -> Result<T, EngineError> {
    text.parse().map_err(|_| EngineError::Invalid(format!("{flag} {text:?}: not an address")))
}

pub(super) fn mac(text: &str) -> Result<[u8; 6], EngineError> {
    let refuse = || EngineError::Invalid(format!("--mac-address {text:?}: six bytes as in 02:42:ac:11:00:02"));
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
        .collect::<Option<_>>()
        .ok_or_else(refuse)?;
    let bytes: [u8; 6] = bytes.try_into().map_err(|_| refuse())?;
    if bytes[0] & 1 == 1 { Err(refuse()) } else { Ok(bytes) }
}

/// The signal `stop` begins with: the user's, the image's, SIGTERM.
pub(super) fn stop_signal(container: &Container) -> Result<i32, EngineError> {
    let text = [&container.record.wish.stop_signal, &container.record.defaults.stop_signal]
        .into_iter()
        .find(|text| !text.is_empty());
    text.map_or(Ok(libc::SIGTERM), |text| super::stop::signal(text))
}
