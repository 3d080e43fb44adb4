//! Docker's flags for what an instance is and where it runs, and how they become a spec. Shared by `create` and `update`.

use crate::error::Error;
use clap::{Args, ValueEnum};
use scheduler::quantity::{parse_bytes, parse_cpus, parse_duration_ms};
use scheduler::service::{
    FailureAction, Healthcheck, Mount, MountKind, Port, PortMode, Protocol, RestartCondition, ServiceSpec,
    UpdateConfig, UpdateOrder,
};
use std::path::Path;

/// Flags that `create` and `update` share; what is not given stays as it is.
#[derive(Debug, Default, Args)]
pub(crate) struct Shared {
    /// The user inside
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// The working directory inside
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The host name inside
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Replace the image's entry point
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Set aside processors on the node
    #[arg(long, value_name = "N")]
    pub(crate) reserve_cpu: Option<String>,
    /// Set aside memory on the node
    #[arg(long, value_name = "SIZE")]
    pub(crate) reserve_memory: Option<String>,
    /// The most processors an instance may use
    #[arg(long, value_name = "N")]
    pub(crate) limit_cpu: Option<String>,
    /// The most memory an instance may use
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit_memory: Option<String>,
    /// The most processes of an instance
    #[arg(long, value_name = "N")]
    pub(crate) limit_pids: Option<u64>,
    /// After which ends a new instance follows
    #[arg(long, value_enum)]
    pub(crate) restart_condition: Option<Condition>,
    /// Pause before it, doubled by every further failure
    #[arg(long, value_name = "DURATION")]
    pub(crate) restart_delay: Option<String>,
    /// Failures in a row before the slot is left alone, 0 for never
    #[arg(long, value_name = "N")]
    pub(crate) restart_max_attempts: Option<u32>,
    /// How long an instance must run for failures before it to be forgotten
    #[arg(long, value_name = "DURATION")]
    pub(crate) restart_window: Option<String>,
    /// Time between the stop signal and SIGKILL
    #[arg(long, value_name = "DURATION")]
    pub(crate) stop_grace_period: Option<String>,
    /// The stop signal
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Run a small init inside
    #[arg(long)]
    pub(crate) init: bool,
    /// Make the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// The most instances on one node, 0 for any number
    #[arg(long, value_name = "N")]
    pub(crate) replicas_max_per_node: Option<u32>,
    /// Command of the health check
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck")]
    pub(crate) health_cmd: Option<String>,
    /// Time between two checks
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_interval: Option<String>,
    /// Time one check may take
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_timeout: Option<String>,
    /// Failures in a row that make an instance unhealthy
    #[arg(long, value_name = "N")]
    pub(crate) health_retries: Option<u32>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_start_period: Option<String>,
    /// Time between two checks in the start period
    #[arg(long, value_name = "DURATION")]
    pub(crate) health_start_interval: Option<String>,
    /// Switch the image's health check off
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Slots updated at a time, 0 for all at once
    #[arg(long, value_name = "N")]
    pub(crate) update_parallelism: Option<u32>,
    /// Pause between two batches of an update
    #[arg(long, value_name = "DURATION")]
    pub(crate) update_delay: Option<String>,
    /// Which instance of a slot goes first
    #[arg(long, value_enum)]
    pub(crate) update_order: Option<Order>,
    /// How long a new instance must work to count as good
    #[arg(long, value_name = "DURATION")]
    pub(crate) update_monitor: Option<String>,
    /// What follows when too many new instances fail
    #[arg(long, value_enum)]
    pub(crate) update_failure_action: Option<Failure>,
    /// The share of slots that may fail, 0 to 1
    #[arg(long, value_name = "RATIO")]
    pub(crate) update_max_failure_ratio: Option<f32>,
    /// The same six for the way back
    #[arg(long, value_name = "N")]
    pub(crate) rollback_parallelism: Option<u32>,
    /// Pause between two batches of a rollback
    #[arg(long, value_name = "DURATION")]
    pub(crate) rollback_delay: Option<String>,
    /// Which instance of a slot goes first in a rollback
    #[arg(long, value_enum)]
    pub(crate) rollback_order: Option<Order>,
    /// How long an instance must work in a rollback
    #[arg(long, value_name = "DURATION")]
    pub(crate) rollback_monitor: Option<String>,
    /// What follows when a rollback fails too
    #[arg(long, value_enum)]
    pub(crate) rollback_failure_action: Option<Failure>,
    /// The share of slots that may fail in a rollback
    #[arg(long, value_name = "RATIO")]
    pub(crate) rollback_max_failure_ratio: Option<f32>,
}

/// Docker's restart conditions.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Condition {
    /// After none
    None,
    /// After those with an exit code other than 0
    OnFailure,
    /// After all
    Any,
}

/// Docker's orders of an update.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Order {
    /// The old one stops, then the new one starts
    StopFirst,
    /// The new one works, then the old one stops
    StartFirst,
}

/// Docker's failure actions.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Failure {
    /// Stop where it is
    Pause,
    /// Go on
    Continue,
    /// Bring the old spec back
    Rollback,
}

impl Shared {
    /// Writes what was given into a spec.
    pub(crate) fn apply(&self, spec: &mut ServiceSpec) -> Result<(), Error> {
        let template = &mut spec.template;
        set(&mut template.user, self.user.clone().map(Some));
        set(&mut template.workdir, self.workdir.clone().map(Some));
        set(&mut template.hostname, self.hostname.clone().map(Some));
        set(&mut template.stop_signal, self.stop_signal.clone().map(Some));
        if let Some(entrypoint) = &self.entrypoint {
            template.entrypoint = Some(words(entrypoint));
        }
        let resources = &mut template.resources;
        set(&mut resources.reservations.cpu_nanos, self.reserve_cpu.as_deref().map(parse_cpus).transpose()?);
        set(&mut resources.reservations.memory_bytes, self.reserve_memory.as_deref().map(parse_bytes).transpose()?);
        set(&mut resources.limits.cpu_nanos, self.limit_cpu.as_deref().map(parse_cpus).transpose()?);
        set(&mut resources.limits.memory_bytes, self.limit_memory.as_deref().map(parse_bytes).transpose()?);
        set(&mut resources.limits.pids, self.limit_pids);
        let restart = &mut template.restart;
        let condition = self.restart_condition.map(|condition| match condition {
            Condition::None => RestartCondition::None,
            Condition::OnFailure => RestartCondition::OnFailure,
            Condition::Any => RestartCondition::Any,
        });
        set(&mut restart.condition, condition);
        set(&mut restart.delay_ms, millis(self.restart_delay.as_deref())?);
        set(&mut restart.max_attempts, self.restart_max_attempts);
        set(&mut restart.window_ms, millis(self.restart_window.as_deref())?);
        set(&mut template.stop_grace_ms, millis(self.stop_grace_period.as_deref())?);
        template.init |= self.init;
        template.read_only |= self.read_only;
        self.apply_health(spec)?;
        set(&mut spec.placement.max_replicas_per_node, self.replicas_max_per_node);
        let way = Way {
            parallelism: self.update_parallelism,
            delay: self.update_delay.as_deref(),
            order: self.update_order,
            monitor: self.update_monitor.as_deref(),
            failure: self.update_failure_action,
            ratio: self.update_max_failure_ratio,
        };
        way.apply(&mut spec.update)?;
        let way = Way {
            parallelism: self.rollback_parallelism,
            delay: self.rollback_delay.as_deref(),
            order: self.rollback_order,
            monitor: self.rollback_monitor.as_deref(),
            failure: self.rollback_failure_action,
            ratio: self.rollback_max_failure_ratio,
        };
        way.apply(&mut spec.rollback)
    }

    fn apply_health(&self, spec: &mut ServiceSpec) -> Result<(), Error> {
        let times =
            [&self.health_interval, &self.health_timeout, &self.health_start_period, &self.health_start_interval];
        let given =
            self.health_cmd.is_some() || self.health_retries.is_some() || times.iter().any(|time| time.is_some());
        let none = || Healthcheck {
            test: vec!["NONE".to_owned()],
            interval_ms: 30_000,
            timeout_ms: 30_000,
            retries: 3,
            start_period_ms: 0,
            start_interval_ms: 0,
        };
        if self.no_healthcheck {
            spec.template.healthcheck = Some(none());
            return Ok(());
        }
        if !given {
            return Ok(());
        }
        let check = spec.template.healthcheck.get_or_insert_with(none);
        if let Some(command) = &self.health_cmd {
            check.test = vec!["CMD-SHELL".to_owned(), command.clone()];
        }
        if check.test.first().is_some_and(|word| word == "NONE") {
            return Err(Error::new("times of a health check without --health-cmd").code(2));
        }
        set(&mut check.interval_ms, millis(self.health_interval.as_deref())?);
        set(&mut check.timeout_ms, millis(self.health_timeout.as_deref())?);
        set(&mut check.retries, self.health_retries);
        set(&mut check.start_period_ms, millis(self.health_start_period.as_deref())?);
        set(&mut check.start_interval_ms, millis(self.health_start_interval.as_deref())?);
        Ok(())
    }
}

/// The settings of an update or of the way back.
struct Way<'a> {
    parallelism: Option<u32>,
    delay: Option<&'a str>,
    order: Option<Order>,
    monitor: Option<&'a str>,
    failure: Option<Failure>,
    ratio: Option<f32>,
}

impl Way<'_> {
    fn apply(&self, config: &mut UpdateConfig) -> Result<(), Error> {
        set(&mut config.parallelism, self.parallelism);
        set(&mut config.delay_ms, millis(self.delay)?);
        let order = self.order.map(|order| match order {
            Order::StopFirst => UpdateOrder::StopFirst,
            Order::StartFirst => UpdateOrder::StartFirst,
        });
        set(&mut config.order, order);
        set(&mut config.monitor_ms, millis(self.monitor)?);
        let failure = self.failure.map(|failure| match failure {
            Failure::Pause => FailureAction::Pause,
            Failure::Continue => FailureAction::Continue,
            Failure::Rollback => FailureAction::Rollback,
        });
        set(&mut config.failure_action, failure);
        set(&mut config.max_failure_ratio, self.ratio);
        Ok(())
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn millis(text: Option<&str>) -> Result<Option<u64>, Error> {
    Ok(text.map(parse_duration_ms).transpose()?)
}

/// Splits a command at spaces; quotes keep words together.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let (mut quote, mut begun) = (None, false);
    for c in text.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                begun = true;
            }
            None if c.is_whitespace() => {
                if begun {
                    out.push(std::mem::take(&mut word));
                    begun = false;
                }
            }
            None => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        out.push(word);
    }
    out
}

/// Reads `[PUBLISHED:]TARGET[/PROTOCOL]` and `published=…,target=…,protocol=…,mode=…`.
pub(crate) fn parse_port(text: &str) -> Result<Port, Error> {
    let bad = |reason: &str| Error::new(format!("--publish {text:?}: {reason}")).code(2);
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad(&format!("{text:?} is not a port")));
    let protocol = |name: &str| match name {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(bad(&format!("{other:?} is neither tcp nor udp"))),
    };
    let mut port = Port { target: 0, published: 0, protocol: Protocol::Tcp, mode: PortMode::Ingress };
    if !text.contains('=') {
        let (ports, name) = text.split_once('/').unwrap_or((text, "tcp"));
        port.protocol = protocol(name)?;
        match ports.split_once(':') {
            Some((published, target)) => {
                port.published = number(published)?;
                port.target = number(target)?;
            }
            None => port.target = number(ports)?,
        }
        return Ok(port);
    }
    for pair in text.split(',') {
        match pair.split_once('=').ok_or_else(|| bad("expected KEY=VALUE pairs"))? {
            ("target", value) => port.target = number(value)?,
            ("published", value) => port.published = number(value)?,
            ("protocol", value) => port.protocol = protocol(value)?,
            ("mode", "ingress") => port.mode = PortMode::Ingress,
            ("mode", "host") => port.mode = PortMode::Host,
            (key, value) => return Err(bad(&format!("{key}={value} is not known"))),
        }
    }
    Ok(port)
}

/// Reads docker's `type=…,source=…,target=…,readonly` and the short `SOURCE:TARGET[:ro]`.
pub(crate) fn parse_mount(text: &str) -> Result<Mount, Error> {
    let bad = |reason: String| Error::new(format!("--mount {text:?}: {reason}")).code(2);
    let mut mount = Mount {
        kind: MountKind::Volume,
        source: String::new(),
        target: String::new(),
        read_only: false,
        tmpfs_bytes: None,
    };
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (key, value) {
            ("type", "bind") => mount.kind = MountKind::Bind,
            ("type", "volume") => mount.kind = MountKind::Volume,
            ("type", "tmpfs") => mount.kind = MountKind::Tmpfs,
            ("source" | "src", value) => value.clone_into(&mut mount.source),
            ("target" | "dst" | "destination", value) => value.clone_into(&mut mount.target),
            ("readonly" | "ro", "" | "true" | "1") => mount.read_only = true,
            ("readonly" | "ro", "false" | "0") => mount.read_only = false,
            ("tmpfs-size", value) => mount.tmpfs_bytes = Some(parse_bytes(value)?),
            (key, _) => return Err(bad(format!("{key:?} is not known"))),
        }
    }
    if mount.target.is_empty() {
        return Err(bad("a target is missing".to_owned()));
    }
    Ok(mount)
}

/// Reads `KEY=VALUE`, and `KEY` alone from the environment.
pub(crate) fn parse_env(text: &str) -> Result<String, Error> {
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    match std::env::var(text) {
        Ok(value) => Ok(format!("{text}={value}")),
        Err(_) => Err(Error::new(format!("--env {text}: the variable is not set here")).code(2)),
    }
}

/// Reads a file of `KEY=VALUE` lines; empty ones and those that begin with `#` are skipped.
pub(crate) fn read_env_file(path: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::new(format!("failed to read {}: {error}", path.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(parse_env).collect()
}

/// Reads `KEY=VALUE` of a label.
pub(crate) fn parse_label(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_both_spellings() {
        let short = parse_port("8080:80/udp").unwrap();
        assert_eq!((short.published, short.target, short.protocol), (8080, 80, Protocol::Udp));
        let long = parse_port("published=8080,target=80,protocol=udp,mode=host").unwrap();
        assert_eq!((long.published, long.mode), (8080, PortMode::Host));
        assert_eq!(parse_port("80").unwrap().published, 0);
        for bad in ["", "x", "80/sctp", "target=80,colour=red", "70000:80"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_would() {
        assert_eq!(words("sh -c 'a b' \"\""), ["sh", "-c", "a b", ""]);
    }
}
