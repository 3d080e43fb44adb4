//! The flags of `run` and `create`, and how they become a wish.

use crate::error::Error;
use engine::health::Check;
use engine::log::LogConfig;
use engine::wish::{self, Resources, Wish};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest env, label or seccomp file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What a container is asked to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Print usage
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Name the container
    #[arg(long)]
    name: Option<String>,
    /// Remove it, with its anonymous volumes, when it ends
    #[arg(long)]
    rm: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Mount a volume or a path: [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true)]
    volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs,source=…,target=…[,readonly]…
    #[arg(long, value_name = "SPEC")]
    mount: Vec<String>,
    /// Mount memory: TARGET[:OPTIONS]
    #[arg(long, value_name = "SPEC")]
    tmpfs: Vec<String>,
    /// Mount the volumes of another container: NAME[:ro]
    #[arg(long, value_name = "NAME")]
    volumes_from: Vec<String>,
    /// Publish a port: [[IP:]HOST:]CONTAINER[/tcp|udp]
    #[arg(short, long, value_name = "SPEC")]
    publish: Vec<String>,
    /// Publish all exposed ports on free ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port without publishing it
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// Set a variable; NAME alone takes its value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Connect to a network: bridge, host, none, container:NAME or a network's name
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Another name on its network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Its IPv4 address
    #[arg(long)]
    ip: Option<String>,
    /// Its IPv6 address
    #[arg(long)]
    ip6: Option<String>,
    /// Its MAC address
    #[arg(long, value_name = "MAC")]
    mac_address: Option<String>,
    /// Restart when it ends: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<engine::restart::Policy>,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Set an OCI annotation
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Limit memory
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Limit memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Tendency to swap, 0 to 100
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Do not kill it when its memory is used up
    #[arg(long)]
    oom_kill_disable: bool,
    /// Limit CPUs, as 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Share of CPU when it is scarce
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// CPU period in µs
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// CPU time per period in µs
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPUs it may run on, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Limit processes; -1 for no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Share of block I/O, 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Limit reading: /dev/DEVICE:RATE
    #[arg(long, value_name = "SPEC")]
    device_read_bps: Vec<wish::DeviceRate>,
    /// Limit writing: /dev/DEVICE:RATE
    #[arg(long, value_name = "SPEC")]
    device_write_bps: Vec<wish::DeviceRate>,
    /// Limit read operations: /dev/DEVICE:RATE
    #[arg(long, value_name = "SPEC")]
    device_read_iops: Vec<wish::DeviceRate>,
    /// Limit write operations: /dev/DEVICE:RATE
    #[arg(long, value_name = "SPEC")]
    device_write_iops: Vec<wish::DeviceRate>,
    /// Its processes are killed sooner or later when memory is short, -1000 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// The cgroup below which it lives
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// User: NAME|ID[:GROUP]
    #[arg(short, long, allow_hyphen_values = true)]
    user: Option<String>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Host name
    #[arg(short = 'h', long)]
    hostname: Option<String>,
    /// NIS domain name
    #[arg(long)]
    domainname: Option<String>,
    /// Replace the image's entrypoint; empty clears it
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Run a small init that reaps orphans and forwards signals
    #[arg(long)]
    init: bool,
    /// When to pull the image: always, missing, never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub(crate) pull: String,
    /// The platform of the image
    #[arg(long, value_name = "OS/ARCH", env = "DOCKER_DEFAULT_PLATFORM", hide_env_values = true)]
    platform: Option<String>,
    /// Write the id into a file that must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// All capabilities, all devices, no filter
    #[arg(long)]
    privileged: bool,
    /// Offer a device: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "SPEC")]
    device: Vec<wish::Device>,
    /// Allow devices: 'TYPE MAJOR:MINOR ACCESS'
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// seccomp=FILE|unconfined, no-new-privileges, apparmor=, label=, systempaths=unconfined, mask=, unmask=
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// The root file system cannot be written
    #[arg(long)]
    read_only: bool,
    /// Limits: NAME=SOFT[:HARD]
    #[arg(long, value_name = "SPEC")]
    ulimit: Vec<wish::Ulimit>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Kernel parameter
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// A line in /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:IP")]
    add_host: Vec<String>,
    /// DNS server
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// DNS option
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Know another container by an alias: NAME[:ALIAS]
    #[arg(long, value_name = "NAME")]
    link: Vec<String>,
    /// Command that tells whether it is healthy
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between two probes
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// Time a probe may take
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// Time in which failures do not count
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Time between two probes in the start period
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// No probes, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
    /// json-file, k8s-file, syslog, journald, none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the log driver
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// Signal that stops it
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds from that signal to SIGKILL; -1 waits for ever
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    stop_timeout: Option<i64>,
    /// Seconds after which it is killed
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Process numbers: host or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// System V IPC: private, host, shareable or container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Host name of: private or host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// User ids: host, auto or keep-id
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Control groups: private or host
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Show a file read-only below /run/secrets: SOURCE[:TARGET]
    #[arg(long, value_name = "FILE")]
    secret: Vec<String>,
    /// Remove a container that has this name first
    #[arg(long)]
    pub(crate) replace: bool,
    /// The image is a directory of this host
    #[arg(long)]
    rootfs: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    /// Command and arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Flags {
    /// Reads everything the flags name: files, this process's environment, sizes.
    pub(crate) fn wish(self) -> Result<Wish, Error> {
        let bytes = |text: &Option<String>| text.as_deref().map(wish::bytes).transpose();
        let signed = |text: &Option<String>| -> Result<Option<i64>, Error> {
            match text.as_deref() {
                Some("-1") => Ok(Some(-1)),
                Some(text) => Ok(Some(i64::try_from(wish::bytes(text)?)?)),
                None => Ok(None),
            }
        };
        let mut mounts = Vec::new();
        for text in &self.volume {
            mounts.push(wish::parse_volume(text)?);
        }
        for text in &self.mount {
            mounts.push(wish::parse_mount(text)?);
        }
        for text in &self.tmpfs {
            mounts.push(wish::parse_tmpfs(text)?);
        }
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(environment(&read(file)?, file)?);
        }
        for entry in self.env {
            match entry.contains('=') {
                true => env.push(entry),
                // Not set here: not set there, whatever the image says.
                false => {
                    env.push(std::env::var(&entry).map_or_else(|_| entry.clone(), |value| format!("{entry}={value}")))
                }
            }
        }
        let mut labels = BTreeMap::new();
        for file in &self.label_file {
            for line in lines(&read(file)?) {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                labels.insert(key.to_owned(), value.to_owned());
            }
        }
        labels.extend(pairs(&self.label));
        let duration = |flag: &str, text: &Option<String>| match text {
            None => Ok(0),
            Some(text) => engine::time::duration(text)
                .ok_or_else(|| Error::new(format!("--{flag} {text:?}: a duration such as 30s or 1m30s")).code(125)),
        };
        let test = match (&self.health_cmd, self.no_healthcheck) {
            (Some(_), true) => return Err(Error::new("--no-healthcheck and --health-cmd exclude each other").code(125)),
            (_, true) => vec!["NONE".to_owned()],
            (Some(line), _) => vec!["CMD-SHELL".to_owned(), line.clone()],
            (None, _) => Vec::new(),
        };
        let health = Check {
            test,
            interval: duration("health-interval", &self.health_interval)?,
            timeout: duration("health-timeout", &self.health_timeout)?,
            start_period: duration("health-start-period", &self.health_start_period)?,
            start_interval: duration("health-start-interval", &self.health_start_interval)?,
            retries: self.health_retries.unwrap_or(0),
        };
        let mut seccomp_profile = None;
        for option in &self.security_opt {
            if let Some(file) = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"))
                && !["unconfined", "builtin", "default"].contains(&file)
            {
                seccomp_profile = Some(read(Path::new(file))?);
            }
        }
        let command = self.command;
        Ok(Wish {
            image: if self.rootfs {
                std::path::absolute(&self.image)?.to_string_lossy().into_owned()
            } else {
                self.image
            },
            rootfs: self.rootfs,
            name: self.name.unwrap_or_default(),
            command,
            entrypoint: self.entrypoint.map(|text| if text.is_empty() { Vec::new() } else { vec![text] }),
            env,
            labels,
            annotations: pairs(&self.annotation).collect(),
            workdir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            group_add: self.group_add,
            tty: self.tty,
            interactive: self.interactive,
            detach: false,
            remove: self.rm,
            init: self.init,
            restart: self.restart.unwrap_or_default(),
            health: (health != Check::default()).then_some(health),
            log: LogConfig { driver: self.log_driver.unwrap_or_default(), options: pairs(&self.log_opt).collect() },
            stop_signal: self.stop_signal.unwrap_or_default(),
            stop_timeout: self.stop_timeout.map(|seconds| u64::try_from(seconds).unwrap_or(engine::wish::FOR_EVER)),
            timeout: self.timeout.unwrap_or(0),
            networks: self.network,
            endpoints: BTreeMap::new(),
            network_aliases: self.network_alias,
            publish: self.publish,
            publish_all: self.publish_all,
            expose: self.expose,
            ip: self.ip,
            ip6: self.ip6,
            mac: self.mac_address,
            hostname: self.hostname.unwrap_or_default(),
            domainname: self.domainname.unwrap_or_default(),
            add_host: self.add_host,
            dns: self.dns,
            dns_search: self.dns_search,
            dns_options: self.dns_option,
            links: self.link,
            mounts,
            volumes_from: self.volumes_from,
            read_only: self.read_only,
            shm_size: bytes(&self.shm_size)?.unwrap_or(0),
            secrets: self.secret.iter().map(|text| secret(text)).collect::<Result<_, _>>()?,
            privileged: self.privileged,
            cap_add: split_commas(&self.cap_add),
            cap_drop: split_commas(&self.cap_drop),
            security_opt: self.security_opt,
            seccomp_profile,
            devices: self.device,
            device_cgroup_rules: self.device_cgroup_rule,
            ulimits: self.ulimit,
            sysctls: pairs(&self.sysctl).collect(),
            pid: self.pid.unwrap_or_default(),
            ipc: self.ipc.unwrap_or_default(),
            uts: self.uts.unwrap_or_default(),
            userns: self.userns.unwrap_or_default(),
            cgroupns: self.cgroupns.unwrap_or_default(),
            cgroup_parent: self.cgroup_parent.unwrap_or_default(),
            resources: Resources {
                memory: bytes(&self.memory)?.map(i64::try_from).transpose()?,
                memory_swap: signed(&self.memory_swap)?,
                memory_reservation: bytes(&self.memory_reservation)?.map(i64::try_from).transpose()?,
                memory_swappiness: match self.memory_swappiness {
                    None | Some(-1) => None,
                    Some(value @ 0..=100) => Some(value.unsigned_abs()),
                    Some(_) => return Err(Error::new("--memory-swappiness: from 0 to 100").code(125)),
                },
                oom_kill_disable: self.oom_kill_disable,
                nano_cpus: self.cpus.as_deref().map(wish::cpus_to_nanos).transpose()?,
                cpu_shares: self.cpu_shares,
                cpu_period: self.cpu_period,
                cpu_quota: self.cpu_quota,
                cpuset_cpus: self.cpuset_cpus.unwrap_or_default(),
                cpuset_mems: self.cpuset_mems.unwrap_or_default(),
                pids: self.pids_limit,
                blkio_weight: self.blkio_weight,
                read_bps: self.device_read_bps,
                write_bps: self.device_write_bps,
                read_iops: self.device_read_iops,
                write_iops: self.device_write_iops,
            },
            oom_score_adj: self.oom_score_adj,
            platform: self.platform.unwrap_or_default(),
        })
    }
}

/// `KEY=VALUE` texts as pairs; a key alone has an empty value.
pub(crate) fn pairs(texts: &[String]) -> impl Iterator<Item = (String, String)> + '_ {
    texts.iter().map(|text| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    })
}

fn split_commas(texts: &[String]) -> Vec<String> {
    texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

/// A secret's source as an absolute path, so that the container starts from any folder.
fn secret(text: &str) -> Result<String, Error> {
    let (source, target) = text.split_once(':').unwrap_or((text, ""));
    let source = std::path::absolute(source)?;
    Ok(format!("{}:{target}", source.to_string_lossy()))
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let bytes = engine::file::read(path, FILE_BYTES_MAX).map_err(|error| Error::from(error).code(125))?;
    String::from_utf8(bytes).map_err(|_| Error::new(format!("read {}: it is not UTF-8", path.display())).code(125))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// docker's env files: `NAME=VALUE` to the end of the line without quotes, `NAME` alone from this environment.
pub(crate) fn environment(text: &str, file: &Path) -> Result<Vec<String>, Error> {
    let mut env = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            let place = format!("{}:{}", file.display(), number + 1);
            return Err(Error::new(format!("{place}: {name:?} is no name of a variable")).code(125));
        }
        match line.contains('=') {
            true => env.push(line.to_owned()),
            false => env.extend(std::env::var(name).ok().map(|value| format!("{name}={value}"))),
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_keep_values_as_they_are() {
        let text = "\u{feff}# c\nA=1 # not a comment\n\n  B='q'\nSHOAL_NO_SUCH_VARIABLE\n";
        assert_eq!(environment(text, Path::new("f")).unwrap(), ["A=1 # not a comment", "B='q'"]);
        assert!(environment("a b=1", Path::new("f")).is_err());
        assert!(environment("=1", Path::new("f")).is_err());
    }
}
