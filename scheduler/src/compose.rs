//! The compose file: text in, specs out, or one error with file, line and column. A key that is not understood is refused,
//! never ignored. Pure: the file's folder and the environment are arguments.

mod document;
mod service;
mod variable;

use crate::service::{ServiceSpec, check_name};
use document::{Key, Node, Place, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use thiserror::Error;

/// The label of a service that names its stack; docker's, so that tools that look for it find it.
pub const STACK_LABEL: &str = "com.docker.stack.namespace";

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}:{column}: {reason}")]
pub struct ComposeError {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub reason: String,
}

impl ComposeError {
    fn new(file: &str, place: Place, reason: &str) -> Self {
        Self { file: file.to_owned(), line: place.line, column: place.column, reason: reason.to_owned() }
    }
}

/// A compose file as understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Compose {
    /// The stack's name.
    pub stack: String,
    /// Its services, ordered by name, named `STACK_SERVICE`.
    pub services: Vec<ServiceSpec>,
    /// What the user should know: variables that are set nowhere, with their places.
    pub warnings: Vec<String>,
}

/// Keys of the Compose specification that are not read, and what there is instead.
const KEYS_ELSEWHERE: [(&str, &str); 15] = [
    ("restart", "use deploy.restart_policy"),
    ("mem_limit", "use deploy.resources.limits.memory"),
    ("mem_reservation", "use deploy.resources.reservations.memory"),
    ("cpus", "use deploy.resources.limits.cpus"),
    ("scale", "use deploy.replicas"),
    ("build", "build and push the image first"),
    ("container_name", "instances are called STACK_SERVICE.SLOT"),
    ("depends_on", "services start on their own; a healthcheck decides when one is routed to"),
    ("env_file", "write the variables under environment"),
    ("expose", "every port is open to services of the mesh"),
    ("links", "services of the mesh find each other by name"),
    ("networks", "services of the mesh are on one network and find each other by name"),
    ("logging", "not here yet: set log options in config.toml of the nodes"),
    ("secrets", "not here yet"),
    ("configs", "not here yet"),
];

/// Reads a compose file. `stack` wins over the file's `name`; relative paths begin at `folder`.
pub fn parse(
    file: &str,
    text: &str,
    stack: Option<&str>,
    folder: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Compose, ComposeError> {
    let root = document::read(file, text)?;
    let mut reader =
        Reader { file, folder, environment, stack: String::new(), volumes: BTreeMap::new(), unset: RefCell::default() };
    let mut parts = BTreeMap::new();
    for (key, node) in reader.map(&root)? {
        match key.text.as_str() {
            "name" | "services" | "volumes" => {
                parts.insert(key.text.as_str(), node);
            }
            // Compose declares it obsolete and without meaning.
            "version" => {}
            // Compose leaves these to others; this one is ours, and has its place in a service.
            "x-mesh" => return Err(reader.unknown(key, "", &["services"])),
            extension if extension.starts_with("x-") => {}
            _ => return Err(reader.unknown(key, "", &["name", "services", "volumes"])),
        }
    }
    let named = parts.get("name").map(|node| reader.text(node)).transpose()?;
    let stack = stack.map(str::to_owned).or(named).ok_or_else(|| {
        ComposeError::new(file, root.place, "the stack has no name: give it as an argument or as `name:` in the file")
    })?;
    check_name(&stack).map_err(|reason| ComposeError::new(file, root.place, &format!("the stack's name: {reason}")))?;
    reader.stack = stack;
    if let Some(node) = parts.get("volumes") {
        reader.read_volumes(node)?;
    }
    let services = parts.get("services").ok_or_else(|| ComposeError::new(file, root.place, "there are no services"))?;
    let mut specs = Vec::new();
    for (key, node) in reader.map(services)? {
        specs.push(reader.service(key, node)?);
    }
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    let warnings = reader.unset.into_inner().into_iter().collect();
    Ok(Compose { stack: reader.stack, services: specs, warnings })
}

/// What every part of the reading needs.
struct Reader<'a> {
    file: &'a str,
    folder: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
    stack: String,
    /// Declared volumes and their names on the nodes.
    volumes: BTreeMap<String, String>,
    /// Sentences about variables that are set nowhere, each once.
    unset: RefCell<BTreeSet<String>>,
}

impl Reader<'_> {
    fn fail(&self, place: Place, reason: impl AsRef<str>) -> ComposeError {
        ComposeError::new(self.file, place, reason.as_ref())
    }

    fn unknown(&self, key: &Key, path: &str, known: &[&str]) -> ComposeError {
        let elsewhere = KEYS_ELSEWHERE.iter().find(|(word, _)| *word == key.text).map(|(_, instead)| *instead);
        let near = known.iter().find(|word| near(word, &key.text));
        let hint = match (elsewhere, near) {
            (Some(instead), _) => format!(": {instead}"),
            (None, Some(word)) => format!("; did you mean {word}?"),
            (None, None) => String::new(),
        };
        let shown = if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
        self.fail(key.place, format!("{shown} is not supported{hint}"))
    }

    fn map<'n>(&self, node: &'n Node) -> Result<&'n [(Key, Node)], ComposeError> {
        match &node.value {
            Value::Map(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            _ => Err(self.fail(node.place, "a mapping is expected here")),
        }
    }

    fn list<'n>(&self, node: &'n Node) -> Result<&'n [Node], ComposeError> {
        match &node.value {
            Value::List(nodes) => Ok(nodes),
            Value::Null => Ok(&[]),
            _ => Err(self.fail(node.place, "a list is expected here")),
        }
    }

    fn text(&self, node: &Node) -> Result<String, ComposeError> {
        match &node.value {
            Value::Text(text) => {
                let unset = |name: &str| {
                    let what = format!("variable {name} is not set: it is taken as empty");
                    let _ = self.unset.borrow_mut().insert(self.fail(node.place, what).to_string());
                };
                variable::expand(text, self.environment, &unset).map_err(|reason| self.fail(node.place, reason))
            }
            _ => Err(self.fail(node.place, "a single value is expected here")),
        }
    }

    fn texts(&self, node: &Node) -> Result<Vec<String>, ComposeError> {
        self.list(node)?.iter().map(|node| self.text(node)).collect()
    }

    fn parsed<T, E: std::fmt::Display>(
        &self,
        node: &Node,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ComposeError> {
        let text = self.text(node)?;
        parse(&text).map_err(|error| self.fail(node.place, error.to_string()))
    }

    fn number<T: std::str::FromStr>(&self, node: &Node) -> Result<T, ComposeError> {
        let text = self.text(node)?;
        text.parse().map_err(|_| self.fail(node.place, format!("{text:?} is not a number that fits here")))
    }

    fn boolean(&self, node: &Node) -> Result<bool, ComposeError> {
        match self.text(node)?.as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            other => Err(self.fail(node.place, format!("{other:?} is neither true nor false"))),
        }
    }

    /// `KEY: VALUE` or a list of `KEY=VALUE`. A key without a value takes the environment's.
    fn pairs(&self, node: &Node) -> Result<Vec<(String, Option<String>)>, ComposeError> {
        if let Value::List(nodes) = &node.value {
            let pair = |node| {
                let text = self.text(node)?;
                Ok(match text.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (text, None),
                })
            };
            return nodes.iter().map(pair).collect();
        }
        let entries = self.map(node)?.iter();
        entries
            .map(|(key, node)| match node.value {
                Value::Null => Ok((key.text.clone(), None)),
                _ => Ok((key.text.clone(), Some(self.text(node)?))),
            })
            .collect()
    }

    fn read_volumes(&mut self, node: &Node) -> Result<(), ComposeError> {
        for (key, node) in self.map(node)? {
            let (mut own, mut external) = (None, false);
            for (option, node) in self.map(node)? {
                match option.text.as_str() {
                    "name" => own = Some(self.text(node)?),
                    "driver" => match self.text(node)?.as_str() {
                        "local" => {}
                        other => return Err(self.fail(node.place, format!("driver {other}: only local is supported"))),
                    },
                    "external" => external = self.boolean(node)?,
                    _ => {
                        let path = format!("volumes.{}", key.text);
                        return Err(self.unknown(option, &path, &["name", "driver", "external"]));
                    }
                }
            }
            let made = || if external { key.text.clone() } else { format!("{}_{}", self.stack, key.text) };
            self.volumes.insert(key.text.clone(), own.unwrap_or_else(made));
        }
        Ok(())
    }
}

/// Whether two words differ in one letter (changed, added or missing) or by swapped neighbours.
fn near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let longest = a.len().max(b.len());
    if same + tail + 1 >= longest {
        return true;
    }
    a.len() == b.len() && same + tail + 2 == longest && a[same] == b[same + 1] && a[same + 1] == b[same]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Mode, MountKind, UpdateOrder};

    fn read(text: &str) -> Result<Compose, ComposeError> {
        let environment = |name: &str| (name == "TAG").then(|| "1.4".to_owned());
        parse("compose.yaml", text, None, Path::new("/srv/shop"), &environment)
    }

    const SHOP: &str = r#"
name: shop
services:
  web:
    image: shop/web:${TAG}
    command: ["serve", "--port", "80"]
    environment: {DB: "db.shop.mesh:5432", DEBUG: "0"}
    ports:
      - "8080:80"
      - {target: 9000, published: "9000", mode: host, protocol: udp}
    volumes: ["data:/data", "./conf:/etc/web:ro", {type: tmpfs, target: /tmp, tmpfs: {size: 64m}}]
    healthcheck: {test: ["CMD","/hc"], interval: 10s, timeout: 3s, retries: 3, start_period: 20s}
    stop_grace_period: 20s
    deploy:
      replicas: 5
      resources: {reservations: {cpus: "0.25", memory: 128M}, limits: {cpus: "1", memory: 512M, pids: 200}}
      placement:
        constraints: ["node.labels.disk == ssd"]
        preferences: [{spread: node.site}]
        max_replicas_per_node: 2
      restart_policy: {condition: on-failure, delay: 2s, max_attempts: 3, window: 10s}
      update_config: {parallelism: 2, order: start-first, monitor: 10s, failure_action: rollback}
  agent:
    image: shop/agent
    deploy: {mode: global}
volumes: {data: {}}
"#;

    #[test]
    fn a_file_becomes_specs() {
        let compose = read(SHOP).unwrap();
        assert_eq!(compose.stack, "shop");
        let [agent, web] = compose.services.as_slice() else { panic!("two services") };
        assert_eq!((agent.name.as_str(), agent.mode), ("shop_agent", Mode::Global));
        assert_eq!((web.name.as_str(), web.replicas()), ("shop_web", Some(5)));
        assert_eq!(web.template.image, "shop/web:1.4");
        assert_eq!(web.template.env, ["DB=db.shop.mesh:5432", "DEBUG=0"]);
        assert_eq!(web.ports.len(), 2);
        let mounts = &web.template.mounts;
        assert_eq!((mounts[0].kind, mounts[0].source.as_str()), (MountKind::Volume, "shop_data"));
        assert_eq!((mounts[1].source.as_str(), mounts[1].read_only), ("/srv/shop/conf", true));
        assert_eq!(mounts[2].tmpfs_bytes, Some(64 << 20));
        assert_eq!(web.template.resources.limits.pids, 200);
        assert_eq!((web.update.order, web.update.parallelism), (UpdateOrder::StartFirst, 2));
        assert_eq!(web.labels[STACK_LABEL], "shop");
        assert!(web.clone().accept_new().is_ok());
    }

    #[test]
    fn extensions_pass_and_variables_that_are_set_nowhere_are_named() {
        let text = "name: a\nx-common: &c {DB: x}\nservices:\n  web: {image: x, x-note: y, environment: *c, command: [\"$NONE\"]}\n";
        let compose = read(text).unwrap();
        assert_eq!(compose.services[0].template.env, ["DB=x"]);
        let [warning] = compose.warnings.as_slice() else { panic!("one warning: {:?}", compose.warnings) };
        assert!(warning.contains(":4:") && warning.contains("variable NONE is not set"), "{warning}");
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_place() {
        let place = |text: &str| {
            let error = read(text).unwrap_err();
            (error.line, error.column, error.reason)
        };
        let text = "name: a\nservices:\n  web:\n    image: x\n    deploy:\n      replica: 3\n";
        let reason = "services.web.deploy.replica is not supported; did you mean replicas?";
        assert_eq!(place(text), (6, 7, reason.to_owned()));
        let text = "name: a\nservices:\n  web: {image: x, devices: [a]}\n";
        assert_eq!(place(text), (3, 19, "services.web.devices is not supported".to_owned()));
        let text = "name: a\nnetworks: {a: {}}\nservices: {}\n";
        let (line, column, reason) = place(text);
        assert_eq!((line, column), (2, 1));
        assert!(reason.starts_with("networks is not supported: services of the mesh"), "{reason}");
        let text = "name: a\nservices:\n  web:\n    image: x\n    image: y\n";
        assert_eq!(place(text), (5, 5, "image stands twice".to_owned()));
        let text = "name: a\nservices:\n  web:\n    image: x\n    stop_grace_period: 10\n";
        assert_eq!((place(text).0, place(text).1), (5, 24));
        let text = "name: a\nservices:\n  web:\n    image: x\n    x-mesh: {lost_after: 2s, autoscale: {min: 1}}\n";
        assert_eq!(place(text), (5, 30, "services.web.x-mesh.autoscale is not supported".to_owned()));
        let text = "name: a\nservices:\n  web:\n    image: x\n    x-mesh: {partition: single}\n";
        assert_eq!(place(text), (5, 25, "\"single\" is not there yet; available is".to_owned()));
        assert_eq!(place("name: a\nx-mesh: {}\nservices: {}\n").0, 2);
        let text = "name: a\nservices:\n  web: {image: x, volumes: ['nope:/data']}\n";
        assert!(place(text).2.contains("nope"), "{}", place(text).2);
    }

    #[test]
    fn bombs_and_nonsense_are_refused() {
        let mut bomb = String::from("name: a\nx0: &x0 [1,1,1,1,1,1,1,1,1,1]\n");
        for level in 1..10 {
            let before = format!("*x{}", level - 1);
            bomb.push_str(&format!("x{level}: &x{level} [{}]\n", [before.as_str(); 10].join(",")));
        }
        assert!(read(&bomb).unwrap_err().reason.contains("50,000"));
        let deep = "[".repeat(100);
        assert!(read(&format!("name: {deep}")).is_err());
        for text in ["", "a: b: c", "- x", "name: a", "name: a\n---\nname: b", "services: {web: {image: x}}"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn anchors_and_merges_are_followed() {
        let text = "name: a\nservices:\n  one: &base {image: x, command: [a]}\n  two: {<<: *base, command: [b]}\n";
        let services = read(text).unwrap().services;
        assert_eq!(services[1].template.image, "x");
        assert_eq!(services[1].template.args, ["b"]);
    }
}
