//! `shoal events`.

use super::open;
use crate::commands::Global;
use crate::error::Error;
use crate::output::template::Template;
use engine::events::{self, Event};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Show what happens
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these: container, event, image, label, network, type, volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// From this time on
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// What `--filter` knows.
const KEYS: [&str; 7] = ["container", "event", "image", "label", "network", "type", "volume"];
/// What has events.
const KINDS: [&str; 4] = ["container", "image", "network", "volume"];

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let now = engine::time::now();
    let time = |text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => {
            engine::time::parse_local(text, now).map(Some).ok_or_else(|| Error::new(format!("{text:?} is no time")))
        }
    };
    let (since, until) = (time(&args.since)?, time(&args.until)?);
    let filters: Vec<(&str, &str)> = args
        .filter
        .iter()
        .map(|text| text.split_once('=').ok_or_else(|| Error::new(format!("invalid filter {text:?}: KEY=VALUE"))))
        .collect::<Result<_, _>>()?;
    if let Some((key, _)) = filters.iter().find(|(key, _)| !KEYS.contains(key)) {
        return Err(Error::new(format!("invalid filter {key:?}: {}", KEYS.join(", "))));
    }
    let unknown = |(key, value): &&(&str, &str)| *key == "type" && !KINDS.contains(value);
    if let Some((_, kind)) = filters.iter().find(unknown) {
        return Err(Error::new(format!("--filter type={kind}: {} have events", KINDS.join(", "))));
    }
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let file = events::file(&engine.roots().run);
    // Before the first look: what is written meanwhile wakes the first wait.
    let watcher = events::Watcher::new(&engine.roots().run)?;
    // With an end in the past there is only history.
    let history = since.is_some() || until.is_some_and(|until| until < now);
    let mut follower = events::Follower::new(&file, history)?;
    let from = since.unwrap_or(0);
    loop {
        for event in follower.news()? {
            let in_time = event.time >= from && until.is_none_or(|until| event.time <= until);
            if in_time && fits(&event, &filters) {
                print(&event, args.format.as_deref(), template.as_ref())?;
            }
        }
        if crate::output::closed() {
            return Ok(ExitCode::SUCCESS);
        }
        let left = until.map(|until| Duration::from_nanos(until.saturating_sub(engine::time::now())));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(ExitCode::SUCCESS);
        }
        watcher.wait(left)?;
    }
}

fn fits(event: &Event, filters: &[(&str, &str)]) -> bool {
    let one = |key: &str, value: &str| match key {
        "container" => {
            event.kind == "container"
                && (event.id.starts_with(value) || event.attributes.get("name").is_some_and(|name| name == value))
        }
        "event" => event.action == value || event.action.split(':').next() == Some(value),
        "image" if event.kind == "image" => {
            // By id, by name, by name without its tag.
            event.id == value || event.attributes.get("name").is_some_and(|name| name == value)
        }
        "image" => event.attributes.get("image").is_some_and(|image| image == value),
        "network" | "volume" => {
            event.kind == key
                && (event.id.starts_with(value) || event.attributes.get("name").is_some_and(|name| name == value))
        }
        "label" => match value.split_once('=') {
            Some((name, wanted)) => event.attributes.get(name).is_some_and(|found| found == wanted),
            None => event.attributes.contains_key(value),
        },
        _ => event.kind == value,
    };
    let keys: std::collections::BTreeSet<&str> = filters.iter().map(|(key, _)| *key).collect();
    keys.into_iter().all(|key| filters.iter().filter(|(known, _)| *known == key).any(|(key, value)| one(key, value)))
}

fn print(event: &Event, format: Option<&str>, template: Option<&Template>) -> Result<(), Error> {
    let value = json!({
        "Type": event.kind, "Action": event.action, "status": event.action, "id": event.id, "ID": event.id,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "from": event.attributes.get("image"), "scope": "local",
        "time": event.time / 1_000_000_000, "timeNano": event.time,
    });
    match (format, template) {
        (_, Some(template)) => println!("{}", template.render(&value)?),
        (Some(_), None) => println!("{value}"),
        (None, None) => {
            let attributes: Vec<String> =
                event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let time = engine::time::rfc3339(event.time);
            println!("{time} {} {} {} ({})", event.kind, event.action, event.id, attributes.join(", "));
        }
    }
    Ok(())
}
