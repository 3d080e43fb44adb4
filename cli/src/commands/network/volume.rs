//! `volume`: create, ls, inspect, rm, prune.

use super::prune::{Filter, agreed};
use super::{each, labels_match, pair, print_documents};
use crate::error::Error;
use crate::output::{Column, Format, labels};
use clap::{Args, Subcommand};
use engine::Engine;
use engine::volume::{self, Volume, Volumes};
use serde_json::{Value, json};
use std::process::ExitCode;

/// `shoal volume …`
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    Create(Create),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
    Prune(Prune),
}

/// Create a volume
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The driver: local
    #[arg(short, long, default_value = "local", value_parser = ["local"])]
    driver: String,
    /// A driver option: type=, device=, o=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    opt: Vec<(String, String)>,
    /// A label
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The name; without one the volume is anonymous
    name: Option<String>,
}

/// List volumes
#[derive(Debug, Args)]
#[command(visible_alias = "list")]
pub(crate) struct Ls {
    /// Only those that match: name=, label=, driver=, dangling=true|false
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names only
    #[arg(short, long)]
    quiet: bool,
}

/// Show volumes in full
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Remove volumes
#[derive(Debug, Args)]
#[command(visible_alias = "remove")]
pub(crate) struct Rm {
    /// Do not fail on volumes that do not exist
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Remove anonymous volumes that no container uses
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Named ones too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that match: label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Runs one verb.
pub(super) fn run(engine: &Engine, command: VolumeCommand) -> Result<ExitCode, Error> {
    let volumes = Volumes::new(engine.roots());
    match command {
        VolumeCommand::Create(args) => {
            let (options, labels) = (args.opt.into_iter().collect(), args.label.into_iter().collect());
            let volume = volumes.create(args.name.as_deref().unwrap_or_default(), &options, &labels)?;
            happened(engine, "create", &volume.name);
            println!("{}", volume.name);
            Ok(ExitCode::SUCCESS)
        }
        VolumeCommand::Ls(args) => list(&volumes, &args),
        VolumeCommand::Inspect(args) => inspect(&volumes, &args),
        VolumeCommand::Rm(args) => each(&args.volumes, |name| match volumes.remove(name) {
            Ok(volume) => {
                happened(engine, "destroy", &volume.name);
                Ok(Some(name.to_owned()))
            }
            Err(volume::Error::NotFound { .. }) if args.force => Ok(None),
            Err(error) => Err(error.into()),
        }),
        VolumeCommand::Prune(args) => prune(engine, &args),
    }
}

fn list(volumes: &Volumes, args: &Ls) -> Result<ExitCode, Error> {
    let mut found = volumes.list()?;
    for (key, value) in &args.filter {
        match (key.as_str(), value.as_str()) {
            ("name", part) => found.retain(|volume| volume.name.contains(part)),
            ("label", label) => found.retain(|volume| labels_match(&volume.labels, label)),
            ("driver", driver) => found.retain(|volume| volume.driver == driver),
            ("dangling", "true" | "1" | "false" | "0") => {
                let dangling = matches!(value.as_str(), "true" | "1");
                let mut kept = Vec::new();
                for volume in found {
                    if volumes.users(&volume.name)?.is_empty() == dangling {
                        kept.push(volume);
                    }
                }
                found = kept;
            }
            _ => return Err(Error::new(format!("invalid filter '{key}={value}'")).code(2)),
        }
    }
    if args.quiet && args.format.is_none() {
        found.iter().for_each(|volume| println!("{}", volume.name));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = found
        .iter()
        .map(|volume| {
            json!({
                "Driver": volume.driver,
                "Name": volume.name,
                "Scope": "local",
                "Mountpoint": volumes.path(volume),
                "Labels": labels(&volume.labels),
                "Label": volume.labels,
            })
        })
        .collect();
    print!("{}", Format::parse(args.format.as_deref())?.render(&rows, &COLUMNS, &MORE)?);
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [Column; 2] =
    [Column { field: "Driver", heading: "DRIVER" }, Column { field: "Name", heading: "VOLUME NAME" }];
const MORE: [Column; 3] = [
    Column { field: "Scope", heading: "SCOPE" },
    Column { field: "Mountpoint", heading: "MOUNTPOINT" },
    Column { field: "Labels", heading: "LABELS" },
];

fn inspect(volumes: &Volumes, args: &Inspect) -> Result<ExitCode, Error> {
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.volumes {
        match volumes.find(name) {
            Ok(volume) => documents.push(document(volumes, &volume)),
            Err(error) => code = Error::from(error).report(),
        }
    }
    print_documents(&documents, args.format.as_deref())?;
    Ok(code)
}

fn document(volumes: &Volumes, volume: &Volume) -> Value {
    json!({
        "CreatedAt": engine::time::rfc3339(volume.created),
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volumes.path(volume),
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    })
}

/// Writes an event of a volume down.
fn happened(engine: &Engine, action: &str, name: &str) {
    engine.happened("volume", action, name, [("driver".to_owned(), "local".to_owned())].into());
}

fn prune(engine: &Engine, args: &Prune) -> Result<ExitCode, Error> {
    let filters = args.filter.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let what = if args.all { "all local volumes" } else { "anonymous local volumes" };
    if !agreed(&format!("{what} not used by at least one container"), args.force)? {
        return Ok(ExitCode::SUCCESS);
    }
    println!("Total reclaimed space: {}", size(remove_unused(engine, args.all, &filters)?));
    Ok(ExitCode::SUCCESS)
}

/// Removes volumes that no container uses, those with a name too when `all`; prints docker's list, returns the bytes.
pub(super) fn remove_unused(engine: &Engine, all: bool, filters: &[Filter]) -> Result<u64, Error> {
    let wanted = |volume: &Volume| {
        (all || volume.is_anonymous()) && filters.iter().all(|filter| filter.fits(&volume.labels, volume.created))
    };
    let (names, bytes) = engine.volumes().prune(wanted)?;
    names.iter().for_each(|name| happened(engine, "destroy", name));
    if !names.is_empty() {
        println!("Deleted Volumes:\n{}\n", names.join("\n"));
    }
    Ok(bytes)
}

/// Bytes as docker prints them: three digits, decimal units.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && bytes >= scale * 1000 {
        scale *= 1000;
        unit += 1;
    }
    let whole = bytes / scale;
    let digits = match whole {
        0..10 => 1000,
        10..100 => 100,
        _ => 1,
    };
    if unit == 0 || digits == 1 {
        return format!("{whole}{}", UNITS[unit]);
    }
    let places = if digits == 1000 { 3 } else { 1 };
    let fraction = u128::from(bytes % scale) * 10u128.pow(places) / u128::from(scale);
    let text = format!("{whole}.{fraction:0places$}", places = places as usize);
    format!("{}{}", text.trim_end_matches('0').trim_end_matches('.'), UNITS[unit])
}
