//! Docker's placeholders in environment, host name and mounts: `{{.Node.Hostname}}`. In: a text and what stands for each
//! name. Out: the text filled in, or the placeholder that is not known. Pure; nothing is left in the text unfilled.

use crate::model::{InstanceRow, NodeFacts};
use crate::service::{ServiceSpec, Template};

/// What can be written between `{{` and `}}`.
const KNOWN: &str = ".Service.ID, .Service.Name, .Service.Labels.KEY, .Node.ID, .Node.Hostname, .Node.Platform.OS, \
    .Node.Platform.Architecture, .Task.ID, .Task.Name, .Task.Slot";

/// One name between `{{` and `}}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Placeholder<'a> {
    ServiceId,
    ServiceName,
    ServiceLabel(&'a str),
    NodeId,
    NodeHostname,
    NodeOs,
    NodeArchitecture,
    TaskId,
    TaskName,
    TaskSlot,
}

/// What the placeholders of one instance stand for.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The instance: service, node, slot and id.
    pub instance: &'a InstanceRow,
    /// Its service, for the labels.
    pub spec: &'a ServiceSpec,
    /// Its node, for name and platform.
    pub node: &'a NodeFacts,
    /// The container's name, `web.1.ID`.
    pub task_name: &'a str,
}

impl Values<'_> {
    /// Returns the text with every placeholder replaced; a label that is not set is the empty text, as docker has it.
    ///
    /// # Errors
    /// A sentence that names what is not known.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        walk(text, |literal, placeholder| {
            out.push_str(literal);
            if let Some(placeholder) = placeholder {
                out.push_str(&self.value(placeholder));
            }
        })?;
        Ok(out)
    }

    fn value(&self, placeholder: Placeholder<'_>) -> String {
        let row = self.instance;
        match placeholder {
            Placeholder::ServiceId => row.service_id.clone(),
            Placeholder::ServiceName => row.service.clone(),
            Placeholder::ServiceLabel(key) => self.spec.labels.get(key).cloned().unwrap_or_default(),
            Placeholder::NodeId => row.node.clone(),
            Placeholder::NodeHostname => self.node.name.clone(),
            Placeholder::NodeOs => self.node.os.clone(),
            Placeholder::NodeArchitecture => self.node.arch.clone(),
            Placeholder::TaskId => row.id.clone(),
            Placeholder::TaskName => self.task_name.to_owned(),
            // Of a global service the node's id.
            Placeholder::TaskSlot => row.slot.task_name("").trim_start_matches('.').to_owned(),
        }
    }
}

/// Checks every text of a template that may hold placeholders; the error names the field and what is not known.
pub fn check(template: &Template) -> Result<(), (&'static str, String)> {
    let nothing = |_: &str, _: Option<Placeholder<'_>>| {};
    for text in &template.env {
        walk(text, nothing).map_err(|reason| ("env", format!("{text}: {reason}")))?;
    }
    if let Some(text) = &template.hostname {
        walk(text, nothing).map_err(|reason| ("hostname", format!("{text}: {reason}")))?;
    }
    for text in template.mounts.iter().flat_map(|mount| [&mount.source, &mount.target]) {
        walk(text, nothing).map_err(|reason| ("mounts", format!("{text}: {reason}")))?;
    }
    Ok(())
}

/// Gives the text piece by piece: some literal text, then the placeholder after it, if there is one.
fn walk(text: &str, mut each: impl FnMut(&str, Option<Placeholder<'_>>)) -> Result<(), String> {
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once("{{") {
        let (inner, after) = after.split_once("}}").ok_or("{{ without }} after it")?;
        let placeholder = named(inner.trim())
            .ok_or_else(|| format!("the placeholder {{{{{inner}}}}} is not known; there are {KNOWN}"))?;
        each(literal, Some(placeholder));
        rest = after;
    }
    each(rest, None);
    Ok(())
}

fn named(name: &str) -> Option<Placeholder<'_>> {
    Some(match name {
        ".Service.ID" => Placeholder::ServiceId,
        ".Service.Name" => Placeholder::ServiceName,
        ".Node.ID" => Placeholder::NodeId,
        ".Node.Hostname" => Placeholder::NodeHostname,
        ".Node.Platform.OS" => Placeholder::NodeOs,
        ".Node.Platform.Architecture" => Placeholder::NodeArchitecture,
        ".Task.ID" => Placeholder::TaskId,
        ".Task.Name" => Placeholder::TaskName,
        ".Task.Slot" => Placeholder::TaskSlot,
        _ => {
            let plain = name.strip_prefix(".Service.Labels.");
            let plain = plain.filter(|key| !key.is_empty() && !key.contains(|c: char| c == '.' || c.is_whitespace()));
            // The way to a key that is no word: `index .Service.Labels "com.example.tier"`.
            let indexed = || {
                let quoted = name.strip_prefix("index ")?.trim().strip_prefix(".Service.Labels")?.trim();
                quoted.strip_prefix('"')?.strip_suffix('"').filter(|key| !key.contains('"'))
            };
            Placeholder::ServiceLabel(plain.or_else(indexed)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::row;
    use crate::model::{Phase, Slot};

    fn filled(text: &str) -> Result<String, String> {
        let mut spec = ServiceSpec::new("web", "a");
        spec.labels.insert("tier".to_owned(), "front".to_owned());
        spec.labels.insert("com.example.zone".to_owned(), "z1".to_owned());
        let mut instance = row("77", "12D3", Phase::Running);
        instance.slot = Slot::Number(2);
        let node = NodeFacts {
            name: "n1".to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            ..NodeFacts::default()
        };
        Values { instance: &instance, spec: &spec, node: &node, task_name: "web.3.77" }.fill(text)
    }

    #[test]
    fn every_placeholder_is_filled() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("H={{.Node.Hostname}}", "H=n1"),
            ("{{ .Node.Platform.OS }}/{{.Node.Platform.Architecture}}!", "linux/amd64!"),
            ("{{.Service.Name}}-{{.Task.Slot}}", "web-3"),
            ("{{.Task.Name}} {{.Task.ID}} {{.Node.ID}}", "web.3.77 77 12D3"),
            ("{{.Service.Labels.tier}}", "front"),
            (r#"{{index .Service.Labels "com.example.zone"}}"#, "z1"),
            ("a{{.Service.Labels.none}}b", "ab"),
        ] {
            assert_eq!(filled(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_there_is() {
        for text in ["{{.Node.Name}}", "{{}}", "{{.Service.Labels.}}", "{{.Task", "{{index .Service.Labels key}}"] {
            let error = filled(text).unwrap_err();
            assert!(error.contains(".Node.Hostname") || error.contains("without }}"), "{text}: {error}");
        }
        let mut template = Template { hostname: Some("{{.Node.Name}}".to_owned()), ..Template::default() };
        assert_eq!(check(&template).unwrap_err().0, "hostname");
        template.hostname = None;
        template.env = vec!["A={{.Task.Slot}}".to_owned(), "B={{.Nope}}".to_owned()];
        assert_eq!(check(&template).unwrap_err().0, "env");
    }
}
