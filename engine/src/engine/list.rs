//! `ps`: which containers there are, as docker's filters select them.

use super::{Container, Engine};
use crate::error::EngineError;
use crate::record::Status;
use crate::time::{self, Nanos};
use oci::Digest;
use std::collections::HashMap;

/// `--filter KEY=VALUE`, several of one key are alternatives, different keys must all fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    conditions: Vec<(String, String)>,
}

/// What `ps` found.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Newest first.
    pub containers: Vec<Container>,
    /// Containers whose files cannot be read, with the reason.
    pub damaged: Vec<String>,
}

const KEYS: [&str; 16] = [
    "id",
    "name",
    "label",
    "label!",
    "exited",
    "status",
    "ancestor",
    "before",
    "since",
    "volume",
    "network",
    "publish",
    "expose",
    "health",
    "is-task",
    "restart-policy",
];

impl Filter {
    /// Reads conditions; an unknown key is an error.
    pub fn parse(texts: &[String]) -> Result<Self, EngineError> {
        let conditions = texts
            .iter()
            .map(|text| {
                let (key, value) = text
                    .split_once('=')
                    .ok_or_else(|| EngineError::Invalid(format!("invalid filter {text:?}: KEY=VALUE is needed")))?;
                if !KEYS.contains(&key) {
                    return Err(EngineError::Invalid(format!("invalid filter {key:?}: known are {}", KEYS.join(", "))));
                }
                Ok((key.to_owned(), value.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { conditions })
    }

    /// Whether containers that do not run are asked for, as `status=exited` does without `-a`.
    fn wants_stopped(&self) -> bool {
        self.conditions.iter().any(|(key, _)| matches!(key.as_str(), "status" | "exited"))
    }

    /// What must be looked up or compiled once.
    fn known(&self, engine: &Engine) -> Result<Known, EngineError> {
        let mut known = Known::default();
        for (key, value) in &self.conditions {
            match key.as_str() {
                "name" => {
                    let name = regex_lite::Regex::new(value.strip_prefix('/').unwrap_or(value))
                        .map_err(|error| EngineError::Invalid(format!("filter name={value}: {error}")))?;
                    known.names.insert(value.clone(), name);
                }
                "ancestor" => {
                    known.ancestors.insert(value.clone(), engine.ancestry(value)?);
                }
                _ => {}
            }
        }
        Ok(known)
    }

    fn fits(&self, engine: &Engine, known: &mut Known, container: &Container) -> Result<bool, EngineError> {
        for key in KEYS {
            let mut values =
                self.conditions.iter().filter(|(known, _)| known == key).map(|(_, value)| value).peekable();
            if values.peek().is_none() {
                continue;
            }
            let all = matches!(key, "label" | "label!");
            let mut any = false;
            for value in values {
                let fits = one(engine, known, container, key, value)?;
                any |= fits;
                if all && !fits {
                    return Ok(false);
                }
            }
            if !any {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What conditions mean, known before the first container is looked at.
#[derive(Debug, Default)]
struct Known {
    names: HashMap<String, regex_lite::Regex>,
    /// The layers of each ancestor, bottom first; `None` for an image that is not here.
    ancestors: HashMap<String, Option<Vec<Digest>>>,
    /// The layers of the containers' images, by id.
    images: HashMap<String, Option<Vec<Digest>>>,
}

impl Known {
    /// Whether a container's image is this one, has it below it, or was called so.
    fn descends(&mut self, engine: &Engine, container: &Container, value: &str) -> Result<bool, EngineError> {
        let record = &container.record;
        if let Some(Some(below)) = self.ancestors.get(value) {
            let own = match self.images.get(&record.image_id) {
                Some(own) => own,
                None => {
                    let own = engine.ancestry(&record.image_id)?;
                    self.images.entry(record.image_id.clone()).or_insert(own)
                }
            };
            if own.as_ref().is_some_and(|own| own.starts_with(below)) {
                return Ok(true);
            }
        }
        let tagged = |name: &str| name == value || name.rsplit_once(':').is_some_and(|(base, _)| base == value);
        let id = record.image_id.trim_start_matches("sha256:");
        Ok(tagged(&record.image)
            || record.image.ends_with(&format!("/{value}"))
            || !id.is_empty() && id.starts_with(value.trim_start_matches("sha256:")))
    }
}

fn one(engine: &Engine, known: &mut Known, container: &Container, key: &str, value: &str) -> Result<bool, EngineError> {
    let (record, state) = (&container.record, &container.state);
    Ok(match key {
        "id" => record.id.starts_with(value),
        // docker's names begin with a slash, and may be written without.
        "name" => known
            .names
            .get(value)
            .is_some_and(|name| name.is_match(&record.name) || name.is_match(&format!("/{}", record.name))),
        "label!" => !one(engine, known, container, "label", value)?,
        "label" => match value.split_once('=') {
            Some((name, wanted)) => record.labels().get(name).is_some_and(|found| found == wanted),
            None => record.labels().contains_key(value),
        },
        "exited" => {
            let code =
                value.parse::<i32>().map_err(|_| EngineError::Invalid(format!("filter exited={value}: a number")))?;
            state.status == Status::Exited && state.exit_code == code
        }
        "status" => {
            if !["created", "restarting", "running", "removing", "paused", "exited", "dead"].contains(&value) {
                return Err(EngineError::Invalid(format!(
                    "filter status={value}: created, restarting, running, removing, paused, exited or dead"
                )));
            }
            state.status.as_str() == value
        }
        "ancestor" => known.descends(engine, container, value)?,
        "before" => record.created < engine.find(value)?.record.created,
        "since" => record.created > engine.find(value)?.record.created,
        "volume" => record.wish.mounts.iter().any(|mount| mount.source == value || mount.target == value),
        "network" => {
            engine
                .attachments(container)
                .iter()
                .any(|attachment| attachment.network == value || attachment.network_id.starts_with(value))
                || record.wish.networks.iter().any(|network| network == value)
                || record.wish.networks.is_empty() && value == "bridge"
        }
        "publish" => record.wish.publish.iter().any(|port| {
            port.split('/')
                .next()
                .is_some_and(|text| text.split(':').any(|part| part == value.split('/').next().unwrap_or_default()))
        }),
        "expose" => record
            .wish
            .expose
            .iter()
            .chain(&record.defaults.exposed)
            .any(|port| port == value || port.split('/').next() == Some(value)),
        "health" => state.health.as_ref().map_or("none", |health| health.status.as_str()) == value,
        "is-task" => value == "false",
        "restart-policy" => record.wish.restart.name() == value,
        _ => false,
    })
}

impl Engine {
    /// Lists containers, newest first; only running ones unless `all`; the `last` ones whatever they do.
    pub fn list(&self, all: bool, last: Option<usize>, filter: &Filter) -> Result<Listed, EngineError> {
        let (mut containers, damaged) = self.all()?;
        let all = all || last.is_some() || filter.wants_stopped();
        if !all {
            containers.retain(|container| {
                matches!(container.state.status, Status::Running | Status::Paused | Status::Restarting)
            });
        }
        let mut known = filter.known(self)?;
        let mut kept = Vec::with_capacity(containers.len());
        for container in containers {
            if filter.fits(self, &mut known, &container)? {
                kept.push(container);
            }
        }
        if let Some(last) = last {
            kept.truncate(last);
        }
        Ok(Listed { containers: kept, damaged })
    }
}

/// docker's STATUS column: `Up 5 seconds (healthy)`, `Exited (1) 2 minutes ago`, …
pub fn status_text(container: &Container, now: Nanos) -> String {
    let state = &container.state;
    let ago = |then: Nanos| time::human(now.saturating_sub(then));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let health = state.health.as_ref().map_or(String::new(), |health| match health.status {
                crate::health::Status::Starting => " (health: starting)".to_owned(),
                other => format!(" ({})", other.as_str()),
            });
            format!("Up {}{health}", ago(state.started))
        }
        Status::Paused => format!("Up {} (Paused)", ago(state.started)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Exited if state.finished == 0 => format!("Exited ({})", state.exit_code),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished)),
    }
}
