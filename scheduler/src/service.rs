//! A service as it was asked for, and the checks that accept it. What goes in comes from a person or a peer, so every
//! name, number and list is bounded here once; what comes out ([`Service`]) is trusted by the rest of the crate.

use crate::place::filter::Constraint;
use crate::place::spread::Preference;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// The most replicas of one service: a typing mistake must not fill a mesh.
pub const REPLICAS_MAX: u32 = 10_000;
/// The most entries of any list in a spec (environment, mounts, ports, labels): keeps a row below a megabyte.
pub const LIST_MAX: usize = 1_000;
/// The longest single text in a spec, in bytes.
pub const TEXT_BYTES_MAX: usize = 65_536;

/// What a person asked for. Fields that this version does not know are kept, so that an older node can scale a service
/// that a newer one made without losing anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The service's name; unique in the mesh.
    pub name: String,
    /// Free labels of the service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How many instances, or one per node.
    #[serde(default)]
    pub mode: Mode,
    /// What every instance is.
    pub template: Template,
    /// Where instances may run.
    #[serde(default)]
    pub placement: Placement,
    /// Ports offered to the outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// How a changed template reaches running instances.
    #[serde(default)]
    pub update: UpdateConfig,
    /// The same for the way back.
    #[serde(default)]
    pub rollback: UpdateConfig,
    /// Milliseconds that a node must have been silent, from the first suspicion, before its instances are replaced; never
    /// before the verdict that it is down.
    #[serde(default = "lost_after_default")]
    pub lost_after_ms: u64,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// How many instances a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A fixed number of slots.
    Replicated {
        /// How many slots, 0 for none.
        replicas: u32,
    },
    /// One on every eligible node.
    Global,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// What every instance of a service is; a change of it replaces instances.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Template {
    /// The image reference, as written.
    pub image: String,
    /// Replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `KEY=VALUE`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Labels of the containers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Host name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// User inside, `name` or `uid[:gid]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Working directory inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Bind mounts, volumes and tmpfs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Networks of the mesh to attach to, besides the default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// How the engine finds out whether an instance works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// What is reserved on the node, what is the most an instance may use.
    #[serde(default)]
    pub resources: Resources,
    /// What follows the end of an instance.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Milliseconds between the stop signal and SIGKILL.
    #[serde(default = "grace_default")]
    pub stop_grace_ms: u64,
    /// The stop signal, as `SIGTERM` or `15`; the image's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// A small init reaps and forwards signals inside.
    #[serde(default)]
    pub init: bool,
    /// The root file system is read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Capabilities added to the default set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    /// Counts forced replacements (`service update --force`).
    #[serde(default)]
    pub force: u64,
    /// Fields of a newer version, kept as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// One mount of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Host path or volume name; empty for tmpfs and anonymous volumes.
    #[serde(default)]
    pub source: String,
    /// Absolute path inside.
    pub target: String,
    /// No writing through this mount.
    #[serde(default)]
    pub read_only: bool,
    /// Size of a tmpfs in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmpfs_bytes: Option<u64>,
}

/// What a mount is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A named or anonymous volume of the node's engine.
    Volume,
    /// Memory.
    Tmpfs,
}

/// How the engine finds out whether an instance works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", "…"]` or `["NONE"]`, as docker's.
    pub test: Vec<String>,
    /// Milliseconds between two checks.
    #[serde(default = "thirty_seconds")]
    pub interval_ms: u64,
    /// Milliseconds one check may take.
    #[serde(default = "thirty_seconds")]
    pub timeout_ms: u64,
    /// Failures in a row that make the instance unhealthy.
    #[serde(default = "three")]
    pub retries: u32,
    /// Milliseconds after the start in which failures do not count.
    #[serde(default)]
    pub start_period_ms: u64,
    /// Milliseconds between two checks in the start period; 0 for `interval_ms`.
    #[serde(default)]
    pub start_interval_ms: u64,
}

/// What is set aside and what is the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Set aside on the node before an instance starts there.
    #[serde(default)]
    pub reservations: Amount,
    /// The most an instance may use; 0 for no limit.
    #[serde(default)]
    pub limits: Amount,
}

/// An amount of a node's means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Billionths of a processor.
    #[serde(default)]
    pub cpu_nanos: u64,
    /// Bytes of memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Processes; only a limit.
    #[serde(default)]
    pub pids: u64,
}

/// What follows the end of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Which ends are followed by a new instance.
    #[serde(default)]
    pub condition: RestartCondition,
    /// Milliseconds before the first new instance; doubled by every further failure, at most a minute.
    #[serde(default = "one_second")]
    pub delay_ms: u64,
    /// Failures in a row before the slot is left alone; 0 for never.
    #[serde(default)]
    pub max_attempts: u32,
    /// Milliseconds an instance must have run for the failures before it to be forgotten; 0 for ten seconds.
    #[serde(default)]
    pub window_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { condition: RestartCondition::Any, delay_ms: one_second(), max_attempts: 0, window_ms: 0 }
    }
}

/// Which ends of an instance are followed by a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None.
    None,
    /// Those with an exit code other than 0.
    OnFailure,
    /// All.
    #[default]
    Any,
}

/// Where instances may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Expressions that a node must fulfil, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Attributes over whose values instances are spread evenly, most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<String>,
    /// The most instances on one node; 0 for any number.
    #[serde(default)]
    pub max_replicas_per_node: u32,
}

/// A port offered to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// The port inside.
    pub target: u16,
    /// The port outside; 0 for one that the mesh chooses.
    #[serde(default)]
    pub published: u16,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// On every node, or only where an instance runs.
    #[serde(default)]
    pub mode: PortMode,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Returns `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Which nodes answer on a published port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// Every node of the mesh.
    #[default]
    Ingress,
    /// Only a node where an instance runs.
    Host,
}

/// How a changed template reaches running instances.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Slots replaced at a time; 0 for all at once.
    #[serde(default = "one")]
    pub parallelism: u32,
    /// Milliseconds between two batches.
    #[serde(default)]
    pub delay_ms: u64,
    /// Whether the old instance stops before or after the new one works.
    #[serde(default)]
    pub order: UpdateOrder,
    /// Milliseconds a new instance must work to count as good.
    #[serde(default = "monitor_default")]
    pub monitor_ms: u64,
    /// What happens when too many new instances fail.
    #[serde(default)]
    pub failure_action: FailureAction,
    /// The share of slots that may fail, 0 to 1.
    #[serde(default)]
    pub max_failure_ratio: f32,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay_ms: 0,
            order: UpdateOrder::StopFirst,
            monitor_ms: monitor_default(),
            failure_action: FailureAction::Pause,
            max_failure_ratio: 0.0,
        }
    }
}

/// Which of the two instances of a slot goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one stops, then the new one starts.
    #[default]
    StopFirst,
    /// The new one works, then the old one stops.
    StartFirst,
}

/// What happens when too many new instances fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// The update stops where it is.
    #[default]
    Pause,
    /// The update goes on.
    Continue,
    /// The spec before the update comes back.
    Rollback,
}

/// A spec that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("service {service}: {field}: {reason}")]
pub struct ServiceError {
    /// The name as written.
    pub service: String,
    /// The field, as a path.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub reason: String,
}

/// A spec whose every field has been checked, with its expressions parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The spec.
    pub spec: ServiceSpec,
    /// The parsed `placement.constraints`.
    pub constraints: Vec<Constraint>,
    /// The parsed `placement.preferences`.
    pub preferences: Vec<Preference>,
    /// The hash of everything whose change replaces instances.
    pub revision: String,
}

impl ServiceSpec {
    /// A spec with defaults everywhere but in the name and the image.
    #[must_use]
    pub fn new(name: &str, image: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            mode: Mode::default(),
            template: Template { image: image.to_owned(), stop_grace_ms: grace_default(), ..Template::default() },
            placement: Placement::default(),
            ports: Vec::new(),
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
            lost_after_ms: lost_after_default(),
            extra: BTreeMap::new(),
        }
    }

    /// Checks every field. Unknown fields are accepted here (a newer node may have written them); [`Self::accept_new`]
    /// refuses them.
    pub fn accept(self) -> Result<Service, ServiceError> {
        let fail =
            |field: &str, reason: String| ServiceError { service: self.name.clone(), field: field.into(), reason };
        check_name(&self.name).map_err(|reason| fail("name", reason))?;
        self.template
            .image
            .parse::<oci::Reference>()
            .map_err(|error| fail("image", format!("{:?}: {error}", self.template.image)))?;
        if let Mode::Replicated { replicas } = self.mode
            && replicas > REPLICAS_MAX
        {
            return Err(fail("replicas", format!("{replicas} is more than {REPLICAS_MAX}")));
        }
        self.check_lists().map_err(|(field, reason)| fail(field, reason))?;
        self.check_ports().map_err(|reason| fail("ports", reason))?;
        self.check_template().map_err(|(field, reason)| fail(field, reason))?;
        for (field, config) in [("update", &self.update), ("rollback", &self.rollback)] {
            if !(0.0..=1.0).contains(&config.max_failure_ratio) {
                let reason = format!("max_failure_ratio {} is not between 0 and 1", config.max_failure_ratio);
                return Err(fail(field, reason));
            }
        }
        let constraints = parse_all::<Constraint>(&self.placement.constraints)
            .map_err(|reason| fail("placement.constraints", reason))?;
        let preferences = parse_all::<Preference>(&self.placement.preferences)
            .map_err(|reason| fail("placement.preferences", reason))?;
        let revision = self.revision();
        Ok(Service { spec: self, constraints, preferences, revision })
    }

    /// Checks every field of a spec that a person wrote: what this version does not know is refused, not kept.
    pub fn accept_new(self) -> Result<Service, ServiceError> {
        let unknown = self.extra.keys().next().or_else(|| self.template.extra.keys().next());
        if let Some(field) = unknown {
            return Err(ServiceError {
                service: self.name.clone(),
                field: field.clone(),
                reason: "this version of shoal does not know the field".to_owned(),
            });
        }
        self.check_placeholders()?;
        self.accept()
    }

    /// Refuses placeholders that this version cannot fill. Asked of what people write only: a row of a newer node is kept.
    pub fn check_placeholders(&self) -> Result<(), ServiceError> {
        crate::placeholder::check(&self.template).map_err(|(field, reason)| ServiceError {
            service: self.name.clone(),
            field: field.to_owned(),
            reason,
        })
    }

    /// Returns the slots a replicated service has, `None` for a global one.
    #[must_use]
    pub fn replicas(&self) -> Option<u32> {
        match self.mode {
            Mode::Replicated { replicas } => Some(replicas),
            Mode::Global => None,
        }
    }

    /// Says whether two instances of one slot may not live beside each other: they would fight for a host port, or a
    /// single replica writes to a named volume.
    #[must_use]
    pub fn excludes_overlap(&self) -> bool {
        let host_port = self.ports.iter().any(|port| port.mode == PortMode::Host && port.published != 0);
        let writes = self.template.mounts.iter().any(|mount| mount.kind != MountKind::Tmpfs && !mount.read_only);
        host_port || (writes && self.replicas() == Some(1))
    }

    /// Returns the order that an update of this service really takes.
    #[must_use]
    pub fn order(&self, config: &UpdateConfig) -> UpdateOrder {
        if self.excludes_overlap() { UpdateOrder::StopFirst } else { config.order }
    }

    /// Hashes what an instance is made of: the template and the ports that are bound where it runs.
    fn revision(&self) -> String {
        let host_ports: Vec<&Port> = self.ports.iter().filter(|port| port.mode == PortMode::Host).collect();
        let value = serde_json::to_value((&self.template, host_ports)).expect("plain data has a JSON form");
        let mut text = String::new();
        canonical(&value, &mut text);
        format!("{:016x}", crate::steward::mix("revision", &text))
    }

    fn check_lists(&self) -> Result<(), (&'static str, String)> {
        let template = &self.template;
        let lists = [
            ("labels", self.labels.len()),
            ("ports", self.ports.len()),
            ("placement.constraints", self.placement.constraints.len()),
            ("placement.preferences", self.placement.preferences.len()),
            ("env", template.env.len()),
            ("args", template.args.len()),
            ("mounts", template.mounts.len()),
            ("networks", template.networks.len()),
            ("cap_add", template.cap_add.len()),
            ("cap_drop", template.cap_drop.len()),
        ];
        for (field, len) in lists {
            if len > LIST_MAX {
                return Err((field, format!("{len} entries are more than {LIST_MAX}")));
            }
        }
        let entrypoint = template.entrypoint.iter().flatten();
        for text in template.args.iter().chain(&template.env).chain(entrypoint) {
            if text.len() > TEXT_BYTES_MAX {
                return Err(("template", format!("an entry of {} bytes is longer than {TEXT_BYTES_MAX}", text.len())));
            }
            if text.contains('\0') {
                return Err(("template", "an entry holds a NUL byte".to_owned()));
            }
        }
        for entry in &template.env {
            if entry.starts_with('=') || !entry.contains('=') {
                return Err(("env", format!("{entry:?} is not KEY=VALUE")));
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for port in &self.ports {
            if port.target == 0 {
                return Err("the port inside must not be 0".to_owned());
            }
            if port.published != 0 && !seen.insert((port.published, port.protocol)) {
                return Err(format!("{}/{} is published twice", port.published, port.protocol.name()));
            }
        }
        Ok(())
    }

    fn check_template(&self) -> Result<(), (&'static str, String)> {
        let template = &self.template;
        let mut targets = BTreeSet::new();
        for mount in &template.mounts {
            if !mount.target.starts_with('/') {
                return Err(("mounts", format!("target {:?} is not an absolute path", mount.target)));
            }
            if !targets.insert(&mount.target) {
                return Err(("mounts", format!("{} is mounted twice", mount.target)));
            }
            if mount.kind == MountKind::Bind && !mount.source.starts_with('/') {
                return Err(("mounts", format!("bind source {:?} is not an absolute path", mount.source)));
            }
        }
        if let Some(check) = &template.healthcheck {
            let known = matches!(check.test.first().map(String::as_str), Some("CMD" | "CMD-SHELL" | "NONE"));
            if !known {
                return Err(("healthcheck.test", "the first word must be CMD, CMD-SHELL or NONE".to_owned()));
            }
        }
        let (reserved, limit) = (template.resources.reservations, template.resources.limits);
        if limit.memory_bytes != 0 && reserved.memory_bytes > limit.memory_bytes {
            return Err(("resources", "more memory is reserved than the limit allows".to_owned()));
        }
        if limit.cpu_nanos != 0 && reserved.cpu_nanos > limit.cpu_nanos {
            return Err(("resources", "more processor is reserved than the limit allows".to_owned()));
        }
        Ok(())
    }
}

/// Checks a name of a service or a stack: letters, digits, `-`, `_` and `.`, a letter or digit at both ends, at most 63.
pub fn check_name(name: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric));
    if bytes.len() > 63 || !ends || !bytes.iter().copied().all(inner) {
        let rule = "letters, digits, - _ and . between letters or digits, at most 63";
        return Err(format!("{name:?} is not a name ({rule})"));
    }
    Ok(())
}

fn parse_all<T: std::str::FromStr>(texts: &[String]) -> Result<Vec<T>, String>
where
    T::Err: std::fmt::Display,
{
    texts.iter().map(|text| text.parse::<T>().map_err(|error| error.to_string())).collect()
}

fn lost_after_default() -> u64 {
    500
}
fn grace_default() -> u64 {
    10_000
}
fn monitor_default() -> u64 {
    5_000
}
fn thirty_seconds() -> u64 {
    30_000
}
fn one_second() -> u64 {
    1_000
}
fn three() -> u32 {
    3
}
fn one() -> u32 {
    1
}

/// Writes a value so that two versions of shoal write the same: keys in order wherever a version puts its fields, and nothing
/// of fields that say nothing, which one of the two may not know.
fn canonical(value: &serde_json::Value, out: &mut String) {
    use serde_json::Value;
    match value {
        Value::Array(list) => {
            out.push('[');
            for entry in list {
                canonical(entry, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                let mut text = String::new();
                canonical(value, &mut text);
                if !matches!(text.as_str(), "null" | "false" | "0" | "\"\"" | "[]" | "{}") {
                    out.push_str(&format!("{key:?}:{text},"));
                }
            }
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_spec_is_accepted_and_scaling_keeps_its_revision() {
        let spec = ServiceSpec::new("web", "shop/web:1");
        let first = spec.clone().accept_new().unwrap();
        let mut more = spec;
        more.mode = Mode::Replicated { replicas: 9 };
        assert_eq!(first.revision, more.clone().accept_new().unwrap().revision);
        more.template.force += 1;
        assert_ne!(first.revision, more.accept_new().unwrap().revision);
    }

    #[test]
    fn what_is_not_understood_is_refused_from_people_and_kept_from_peers() {
        let text = r#"{"name":"web","template":{"image":"a/b:1"},"colour":"red"}"#;
        let spec: ServiceSpec = serde_json::from_str(text).unwrap();
        assert!(spec.clone().accept().is_ok());
        assert!(serde_json::to_string(&spec).unwrap().contains("colour"));
        assert_eq!(spec.accept_new().unwrap_err().field, "colour");
    }

    #[test]
    fn bad_names_ports_and_mounts_say_what_is_wrong() {
        for name in ["", "-a", "a b", "a/b", &"x".repeat(64)] {
            assert_eq!(ServiceSpec::new(name, "a").accept().unwrap_err().field, "name");
        }
        let mut spec = ServiceSpec::new("web", "a");
        spec.ports = vec![Port { target: 80, published: 8080, protocol: Protocol::Tcp, mode: PortMode::Ingress }; 2];
        assert_eq!(spec.accept().unwrap_err().reason, "8080/tcp is published twice");
        let mut spec = ServiceSpec::new("web", "a");
        spec.template.env = vec!["NOVALUE".to_owned()];
        assert_eq!(spec.accept().unwrap_err().field, "env");
    }
}
