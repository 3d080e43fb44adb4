//! `shoal ps`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use crate::output::{Column, Format};
use engine::wish::{MountKind, human_decimal};
use engine::{Container, Engine, Filter};
use serde_json::{Value, json};
use std::process::ExitCode;

/// List containers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only these: id, name, label, exited, status, ancestor, before, since, volume, network, publish, expose, health
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// The last N, whatever they do
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The last one, whatever it does
    #[arg(short, long)]
    latest: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Disk usage
    #[arg(short, long)]
    size: bool,
}

const COLUMNS: [Column; 7] = [
    Column { field: "ID", heading: "CONTAINER ID" },
    Column { field: "Image", heading: "IMAGE" },
    Column { field: "Command", heading: "COMMAND" },
    Column { field: "RunningFor", heading: "CREATED" },
    Column { field: "Status", heading: "STATUS" },
    Column { field: "Ports", heading: "PORTS" },
    Column { field: "Names", heading: "NAMES" },
];

const MORE: [Column; 7] = [
    Column { field: "Size", heading: "SIZE" },
    Column { field: "CreatedAt", heading: "CREATED AT" },
    Column { field: "State", heading: "STATE" },
    Column { field: "Labels", heading: "LABELS" },
    Column { field: "Mounts", heading: "MOUNTS" },
    Column { field: "Networks", heading: "NETWORKS" },
    Column { field: "LocalVolumes", heading: "LOCAL VOLUMES" },
];

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let last = match (args.latest, args.last) {
        (true, _) => Some(1),
        (_, Some(last)) if last >= 0 => Some(usize::try_from(last)?),
        _ => None,
    };
    let filter = Filter::parse(&args.filter).map_err(explain)?;
    let listed = engine.list(args.all, last, &filter).map_err(explain)?;
    for damaged in &listed.damaged {
        eprintln!("WARNING: container {damaged}");
    }
    if args.quiet && args.format.is_none() {
        for container in &listed.containers {
            println!("{}", if args.no_trunc { container.id() } else { container.short_id() });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = engine::time::now();
    let with_size = args.size || args.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let rows: Vec<Value> =
        listed.containers.iter().map(|container| row(&engine, container, args.no_trunc, with_size, now)).collect();
    let mut columns = COLUMNS.to_vec();
    if args.size {
        columns.push(MORE[0]);
    }
    print!("{}", Format::parse(args.format.as_deref())?.render(&rows, &columns, &MORE)?);
    Ok(ExitCode::SUCCESS)
}

/// docker's fields of one container.
pub(crate) fn row(engine: &Engine, container: &Container, no_trunc: bool, size: bool, now: u64) -> Value {
    let record = &container.record;
    let argv: Vec<&str> = {
        let entrypoint = record.wish.entrypoint.as_ref().unwrap_or(&record.defaults.entrypoint);
        let own = !record.wish.command.is_empty() || record.wish.entrypoint.is_some();
        let command = if own { &record.wish.command } else { &record.defaults.cmd };
        entrypoint.iter().chain(command).map(String::as_str).collect()
    };
    let command = argv.join(" ");
    let command = if no_trunc || command.chars().count() <= 20 {
        quoted(&command)
    } else {
        quoted(&format!("{}…", command.chars().take(19).collect::<String>()))
    };
    // Only what runs is connected to anything.
    let active = container.state.status.is_active();
    let attachments = if active { engine.attachments(container) } else { Vec::new() };
    let labels = record.labels();
    let mounts: Vec<String> = record
        .wish
        .mounts
        .iter()
        .filter(|mount| mount.kind != MountKind::Tmpfs)
        .map(|mount| if no_trunc { mount.source.clone() } else { shortened(&mount.source, 15) })
        .collect();
    let volumes = record.wish.mounts.iter().filter(|mount| mount.kind == MountKind::Volume).count();
    let networks: Vec<&str> = if attachments.is_empty() {
        record.wish.networks.iter().map(String::as_str).collect()
    } else {
        attachments.iter().map(|attachment| attachment.network.as_str()).collect()
    };
    let size = if size { human_size(engine, container) } else { String::new() };
    json!({
        "ID": if no_trunc { container.id() } else { container.short_id() },
        "Image": if no_trunc { record.image.clone() } else { short_image(&record.image) },
        "Command": command,
        "CreatedAt": engine::time::rfc3339(record.created).replace('T', " ").split('.').next().map(|text| format!("{text} +0000 UTC")),
        "RunningFor": format!("{} ago", engine::time::human(now.saturating_sub(record.created))),
        "Status": engine::status_text(container, now),
        "State": container.state.status.as_str(),
        "Ports": ports(engine, container),
        "Names": record.name,
        "Labels": crate::output::labels(&labels),
        "Label": labels,
        "Mounts": mounts.join(","),
        "LocalVolumes": volumes.to_string(),
        "Networks": if networks.is_empty() { "bridge".to_owned() } else { networks.join(",") },
        "Size": size,
    })
}

/// A text in quotes as Go writes it: one line, whatever an image's author put into it, and nothing that commands a terminal.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            letter if letter.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// docker's PORTS: published ones with their host's side, then the exposed ones.
pub(crate) fn ports(engine: &Engine, container: &Container) -> String {
    if !container.state.status.is_active() {
        return String::new();
    }
    let mut texts = Vec::new();
    let mut published = Vec::new();
    for port in engine.attachments(container).iter().flat_map(|attachment| &attachment.ports) {
        published.push(format!("{}/{}", port.container_port, port.protocol));
        for address in port.host_addresses() {
            let address = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
            texts.push(format!("{address}:{}->{}/{}", port.host_port, port.container_port, port.protocol));
        }
    }
    let record = &container.record;
    for exposed in record.wish.expose.iter().chain(&record.defaults.exposed) {
        let exposed = if exposed.contains('/') { exposed.clone() } else { format!("{exposed}/tcp") };
        if !published.contains(&exposed) {
            texts.push(exposed);
        }
    }
    texts.join(", ")
}

/// docker's IMAGE: an id by its first digits, a name with a tag without the digest behind it.
fn short_image(image: &str) -> String {
    if let Some(id) = image.strip_prefix("sha256:") {
        return id.chars().take(12).collect();
    }
    let tagged = |name: &str| name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let name = image.split_once('@').map(|(name, _)| name).filter(|name| tagged(name));
    name.unwrap_or(image).to_owned()
}

/// docker's SIZE: what the container has written, and that with its image.
fn human_size(engine: &Engine, container: &Container) -> String {
    let own = engine.upper(container).map_or(0, |upper| folder_bytes(&upper));
    let image = engine.images().ok().and_then(|store| store.find(&container.record.image_id).ok());
    let whole = own + image.map_or(0, |image| image.packed_size());
    format!("{} (virtual {})", human_decimal(own), human_decimal(whole))
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    format!("{}…", text.chars().take(most - 1).collect::<String>())
}

/// The bytes of all regular files below a folder.
pub(crate) fn folder_bytes(folder: &std::path::Path) -> u64 {
    let mut sum = 0;
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) if meta.is_file() => sum += meta.len(),
                _ => {}
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_command_is_one_line_without_control_characters() {
        assert_eq!(quoted("sh -c 'a=1\nsleep'"), r#""sh -c 'a=1\nsleep'""#);
        assert_eq!(quoted("x\u{1b}[31m\u{9b}\"\\…"), r#""x\x1b[31m\u009b\"\\…""#);
    }
}
