//! One service of a compose file.

use super::document::{Key, Node, Value};
use super::{ComposeError, Reader, STACK_LABEL};
use crate::quantity::{parse_bytes, parse_cpus, parse_duration_ms};
use crate::service::{
    Amount, FailureAction, Healthcheck, Mode, Mount, MountKind, Port, PortMode, Protocol, RestartCondition,
    ServiceSpec, UpdateConfig, UpdateOrder,
};

const SERVICE_KEYS: &[&str] = &[
    "image",
    "command",
    "entrypoint",
    "environment",
    "ports",
    "volumes",
    "healthcheck",
    "deploy",
    "labels",
    "user",
    "working_dir",
    "hostname",
    "init",
    "read_only",
    "stop_grace_period",
    "stop_signal",
    "cap_add",
    "cap_drop",
];
const DEPLOY_KEYS: &[&str] =
    &["mode", "replicas", "resources", "placement", "update_config", "rollback_config", "restart_policy", "labels"];

impl Reader<'_> {
    pub(super) fn service(&self, key: &Key, node: &Node) -> Result<ServiceSpec, ComposeError> {
        let path = format!("services.{}", key.text);
        let mut spec = ServiceSpec::new(&format!("{}_{}", self.stack, key.text), "");
        for (key, node) in self.map(node)? {
            let template = &mut spec.template;
            match key.text.as_str() {
                "image" => template.image = self.text(node)?,
                "command" => template.args = self.command(node)?,
                "entrypoint" => template.entrypoint = Some(self.command(node)?),
                "environment" => template.env = self.environment(node)?,
                "labels" => template.labels = self.labels(node)?,
                "user" => template.user = Some(self.text(node)?),
                "working_dir" => template.workdir = Some(self.text(node)?),
                "hostname" => template.hostname = Some(self.text(node)?),
                "init" => template.init = self.boolean(node)?,
                "read_only" => template.read_only = self.boolean(node)?,
                "stop_grace_period" => template.stop_grace_ms = self.parsed(node, parse_duration_ms)?,
                "stop_signal" => template.stop_signal = Some(self.text(node)?),
                "cap_add" => template.cap_add = self.texts(node)?,
                "cap_drop" => template.cap_drop = self.texts(node)?,
                "healthcheck" => template.healthcheck = Some(self.healthcheck(node, &path)?),
                "ports" => {
                    for node in self.list(node)? {
                        spec.ports.extend(self.ports(node, &path)?);
                    }
                }
                "volumes" => {
                    for node in self.list(node)? {
                        template.mounts.push(self.mount(node, &path)?);
                    }
                }
                "deploy" => self.deploy(node, &format!("{path}.deploy"), &mut spec)?,
                // Ours: what is not understood of it is refused as everywhere. Others' extensions are theirs.
                "x-mesh" => self.mesh(node, &format!("{path}.x-mesh"), &mut spec)?,
                extension if extension.starts_with("x-") => {}
                _ => return Err(self.unknown(key, &path, SERVICE_KEYS)),
            }
        }
        if spec.template.image.is_empty() {
            return Err(self.fail(key.place, format!("{path} has no image")));
        }
        spec.labels.insert(STACK_LABEL.to_owned(), self.stack.clone());
        spec.template.labels.insert(STACK_LABEL.to_owned(), self.stack.clone());
        spec.clone()
            .accept_new()
            .map_err(|error| self.fail(key.place, format!("{path}.{}: {}", error.field, error.reason)))?;
        Ok(spec)
    }

    /// What Compose has no words for.
    fn mesh(&self, node: &Node, path: &str, spec: &mut ServiceSpec) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "lost_after" => spec.lost_after_ms = self.parsed(node, parse_duration_ms)?,
                "partition" if self.text(node)? == "available" => {}
                "partition" => {
                    let text = self.text(node)?;
                    return Err(self.fail(node.place, format!("{text:?} is not there yet; available is")));
                }
                _ => return Err(self.unknown(key, path, &["lost_after", "partition"])),
            }
        }
        Ok(())
    }

    /// A list of words, or a line as a shell splits it.
    fn command(&self, node: &Node) -> Result<Vec<String>, ComposeError> {
        match &node.value {
            Value::Text(_) => Ok(split(&self.text(node)?)),
            _ => self.texts(node),
        }
    }

    fn environment(&self, node: &Node) -> Result<Vec<String>, ComposeError> {
        let pairs = self.pairs(node)?.into_iter();
        Ok(pairs
            .filter_map(|(key, value)| {
                let value = value.or_else(|| (self.environment)(&key))?;
                Some(format!("{key}={value}"))
            })
            .collect())
    }

    fn labels(&self, node: &Node) -> Result<std::collections::BTreeMap<String, String>, ComposeError> {
        Ok(self.pairs(node)?.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }

    fn healthcheck(&self, node: &Node, path: &str) -> Result<Healthcheck, ComposeError> {
        let mut check = Healthcheck {
            test: Vec::new(),
            interval_ms: 30_000,
            timeout_ms: 30_000,
            retries: 3,
            start_period_ms: 0,
            start_interval_ms: 0,
        };
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "test" => {
                    check.test = match &node.value {
                        Value::Text(_) => vec!["CMD-SHELL".to_owned(), self.text(node)?],
                        _ => self.texts(node)?,
                    }
                }
                "disable" if self.boolean(node)? => check.test = vec!["NONE".to_owned()],
                "disable" => {}
                "interval" => check.interval_ms = self.parsed(node, parse_duration_ms)?,
                "timeout" => check.timeout_ms = self.parsed(node, parse_duration_ms)?,
                "retries" => check.retries = self.number(node)?,
                "start_period" => check.start_period_ms = self.parsed(node, parse_duration_ms)?,
                "start_interval" => check.start_interval_ms = self.parsed(node, parse_duration_ms)?,
                _ => {
                    let known = ["test", "disable", "interval", "timeout", "retries", "start_period", "start_interval"];
                    return Err(self.unknown(key, &format!("{path}.healthcheck"), &known));
                }
            }
        }
        Ok(check)
    }

    /// `[PUBLISHED:]TARGET[/PROTOCOL]`, also with ranges, or the long form.
    fn ports(&self, node: &Node, path: &str) -> Result<Vec<Port>, ComposeError> {
        if let Value::Map(entries) = &node.value {
            let mut port = Port { target: 0, published: 0, protocol: Protocol::Tcp, mode: PortMode::Ingress };
            for (key, node) in entries {
                match key.text.as_str() {
                    "target" => port.target = self.number(node)?,
                    "published" => port.published = self.number(node)?,
                    "protocol" => port.protocol = self.parsed(node, protocol)?,
                    "mode" => {
                        port.mode = match self.text(node)?.as_str() {
                            "ingress" => PortMode::Ingress,
                            "host" => PortMode::Host,
                            other => {
                                return Err(self.fail(node.place, format!("{other:?} is neither ingress nor host")));
                            }
                        }
                    }
                    _ => {
                        let known = ["target", "published", "protocol", "mode"];
                        return Err(self.unknown(key, &format!("{path}.ports"), &known));
                    }
                }
            }
            return Ok(vec![port]);
        }
        self.parsed(node, short_ports)
    }

    fn mount(&self, node: &Node, path: &str) -> Result<Mount, ComposeError> {
        let mut mount = Mount {
            kind: MountKind::Volume,
            source: String::new(),
            target: String::new(),
            read_only: false,
            tmpfs_bytes: None,
        };
        if let Value::Map(entries) = &node.value {
            for (key, node) in entries {
                match key.text.as_str() {
                    "type" => {
                        mount.kind = match self.text(node)?.as_str() {
                            "volume" => MountKind::Volume,
                            "bind" => MountKind::Bind,
                            "tmpfs" => MountKind::Tmpfs,
                            other => {
                                return Err(self.fail(node.place, format!("{other:?} is not volume, bind or tmpfs")));
                            }
                        }
                    }
                    "source" => mount.source = self.text(node)?,
                    "target" => mount.target = self.text(node)?,
                    "read_only" => mount.read_only = self.boolean(node)?,
                    "tmpfs" => {
                        for (key, node) in self.map(node)? {
                            match key.text.as_str() {
                                "size" => mount.tmpfs_bytes = Some(self.parsed(node, parse_bytes)?),
                                _ => return Err(self.unknown(key, &format!("{path}.volumes.tmpfs"), &["size"])),
                            }
                        }
                    }
                    _ => {
                        let known = ["type", "source", "target", "read_only", "tmpfs"];
                        return Err(self.unknown(key, &format!("{path}.volumes"), &known));
                    }
                }
            }
        } else {
            let text = self.text(node)?;
            let parts: Vec<&str> = text.split(':').collect();
            let (source, target, options) = match parts.as_slice() {
                [target] => ("", *target, ""),
                [source, target] => (*source, *target, ""),
                [source, target, options] => (*source, *target, *options),
                _ => return Err(self.fail(node.place, format!("{text:?} is not SOURCE:TARGET[:ro]"))),
            };
            match options {
                "" | "rw" => {}
                "ro" => mount.read_only = true,
                other => return Err(self.fail(node.place, format!("option {other:?}: only ro and rw are supported"))),
            }
            if source.starts_with(['/', '.', '~']) {
                mount.kind = MountKind::Bind;
            }
            source.clone_into(&mut mount.source);
            target.clone_into(&mut mount.target);
        }
        self.settle_source(&mut mount, node)?;
        Ok(mount)
    }

    /// Makes paths absolute and volume names those of the stack.
    fn settle_source(&self, mount: &mut Mount, node: &Node) -> Result<(), ComposeError> {
        match mount.kind {
            MountKind::Bind if mount.source.starts_with('~') => {
                Err(self.fail(node.place, "~ means another folder on every node: write the whole path"))
            }
            MountKind::Bind => {
                let relative = mount.source.strip_prefix("./").unwrap_or(&mount.source);
                mount.source = self.folder.join(relative).display().to_string();
                Ok(())
            }
            MountKind::Volume if !mount.source.is_empty() => {
                let name = self.volumes.get(&mount.source).ok_or_else(|| {
                    self.fail(
                        node.place,
                        format!("volume {0} is not declared: add `volumes: {{{0}: {{}}}}`", mount.source),
                    )
                })?;
                mount.source.clone_from(name);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn deploy(&self, node: &Node, path: &str, spec: &mut ServiceSpec) -> Result<(), ComposeError> {
        let (mut global, mut replicas) = (false, None);
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "mode" => {
                    global = match self.text(node)?.as_str() {
                        "replicated" => false,
                        "global" => true,
                        other => return Err(self.fail(node.place, format!("mode {other} is not supported"))),
                    }
                }
                "replicas" => replicas = Some((self.number::<u32>(node)?, node.place)),
                "labels" => spec.labels.extend(self.labels(node)?),
                "resources" => self.resources(node, &format!("{path}.resources"), spec)?,
                "placement" => self.placement(node, &format!("{path}.placement"), spec)?,
                "update_config" => self.update(node, &format!("{path}.update_config"), &mut spec.update)?,
                "rollback_config" => self.update(node, &format!("{path}.rollback_config"), &mut spec.rollback)?,
                "restart_policy" => self.restart(node, &format!("{path}.restart_policy"), spec)?,
                _ => return Err(self.unknown(key, path, DEPLOY_KEYS)),
            }
        }
        spec.mode = match (global, replicas) {
            (true, None) => Mode::Global,
            (true, Some((_, place))) => return Err(self.fail(place, "a global service has no number of replicas")),
            (false, replicas) => Mode::Replicated { replicas: replicas.map_or(1, |(replicas, _)| replicas) },
        };
        Ok(())
    }

    fn resources(&self, node: &Node, path: &str, spec: &mut ServiceSpec) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            let amount = match key.text.as_str() {
                "reservations" => &mut spec.template.resources.reservations,
                "limits" => &mut spec.template.resources.limits,
                _ => return Err(self.unknown(key, path, &["reservations", "limits"])),
            };
            self.amount(node, &format!("{path}.{}", key.text), amount)?;
        }
        Ok(())
    }

    fn amount(&self, node: &Node, path: &str, amount: &mut Amount) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "cpus" => amount.cpu_nanos = self.parsed(node, parse_cpus)?,
                "memory" => amount.memory_bytes = self.parsed(node, parse_bytes)?,
                "pids" if path.ends_with("limits") => amount.pids = self.number(node)?,
                _ => return Err(self.unknown(key, path, &["cpus", "memory", "pids"])),
            }
        }
        Ok(())
    }

    fn placement(&self, node: &Node, path: &str, spec: &mut ServiceSpec) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "constraints" => {
                    for node in self.list(node)? {
                        let text = self.text(node)?;
                        self.parsed(node, str::parse::<crate::place::filter::Constraint>)?;
                        spec.placement.constraints.push(text);
                    }
                }
                "preferences" => {
                    for node in self.list(node)? {
                        for (key, node) in self.map(node)? {
                            if key.text != "spread" {
                                return Err(self.unknown(key, &format!("{path}.preferences"), &["spread"]));
                            }
                            let text = self.text(node)?;
                            self.parsed(node, str::parse::<crate::place::spread::Preference>)?;
                            spec.placement.preferences.push(text);
                        }
                    }
                }
                "max_replicas_per_node" => spec.placement.max_replicas_per_node = self.number(node)?,
                _ => return Err(self.unknown(key, path, &["constraints", "preferences", "max_replicas_per_node"])),
            }
        }
        Ok(())
    }

    fn update(&self, node: &Node, path: &str, config: &mut UpdateConfig) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "parallelism" => config.parallelism = self.number(node)?,
                "delay" => config.delay_ms = self.parsed(node, parse_duration_ms)?,
                "monitor" => config.monitor_ms = self.parsed(node, parse_duration_ms)?,
                "max_failure_ratio" => config.max_failure_ratio = self.number(node)?,
                "order" => {
                    config.order = match self.text(node)?.as_str() {
                        "stop-first" => UpdateOrder::StopFirst,
                        "start-first" => UpdateOrder::StartFirst,
                        other => {
                            return Err(
                                self.fail(node.place, format!("{other:?} is neither stop-first nor start-first"))
                            );
                        }
                    }
                }
                "failure_action" => {
                    config.failure_action = match self.text(node)?.as_str() {
                        "pause" => FailureAction::Pause,
                        "continue" => FailureAction::Continue,
                        "rollback" => FailureAction::Rollback,
                        other => {
                            return Err(self.fail(node.place, format!("{other:?} is not pause, continue or rollback")));
                        }
                    }
                }
                _ => {
                    let known = ["parallelism", "delay", "monitor", "max_failure_ratio", "order", "failure_action"];
                    return Err(self.unknown(key, path, &known));
                }
            }
        }
        Ok(())
    }

    fn restart(&self, node: &Node, path: &str, spec: &mut ServiceSpec) -> Result<(), ComposeError> {
        let policy = &mut spec.template.restart;
        for (key, node) in self.map(node)? {
            match key.text.as_str() {
                "condition" => {
                    policy.condition = match self.text(node)?.as_str() {
                        "none" => RestartCondition::None,
                        "on-failure" => RestartCondition::OnFailure,
                        "any" => RestartCondition::Any,
                        other => return Err(self.fail(node.place, format!("{other:?} is not none, on-failure or any"))),
                    }
                }
                "delay" => policy.delay_ms = self.parsed(node, parse_duration_ms)?,
                "max_attempts" => policy.max_attempts = self.number(node)?,
                "window" => policy.window_ms = self.parsed(node, parse_duration_ms)?,
                _ => return Err(self.unknown(key, path, &["condition", "delay", "max_attempts", "window"])),
            }
        }
        Ok(())
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(format!("{other:?} is neither tcp nor udp")),
    }
}

fn short_ports(text: &str) -> Result<Vec<Port>, String> {
    let (ports, name) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol(name)?;
    let bad = || format!("{text:?} is not [PUBLISHED:]TARGET[/PROTOCOL]");
    let range = |text: &str| -> Result<(u16, u16), String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first <= last { Ok((first, last)) } else { Err(bad()) }
    };
    let (published, target) = match ports.split_once(':') {
        Some((published, target)) => (Some(range(published)?), range(target)?),
        None => (None, range(ports)?),
    };
    if published.is_some_and(|published| published.1 - published.0 != target.1 - target.0) {
        return Err(format!("{text:?}: the two ranges differ in length"));
    }
    Ok((0..=target.1 - target.0)
        .map(|step| Port {
            target: target.0 + step,
            published: published.map_or(0, |published| published.0 + step),
            protocol,
            mode: PortMode::Ingress,
        })
        .collect())
}

/// Splits a line at spaces; quotes keep words together.
fn split(text: &str) -> Vec<String> {
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
                if std::mem::take(&mut begun) {
                    out.push(std::mem::take(&mut word));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_service_stands_in_the_manual() {
        let manual = include_str!("../../../docs/compose.md");
        for key in SERVICE_KEYS.iter().chain(DEPLOY_KEYS) {
            assert!(manual.contains(&format!("`{key}`")), "docs/compose.md does not name {key}");
        }
    }
}
