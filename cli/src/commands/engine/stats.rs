//! `shoal stats`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use crate::output::{Column, Format};
use engine::wish::{human_bytes, human_decimal};
use engine::{Container, Engine, Filter, Sample};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Show what containers use
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// One look and no more
    #[arg(long)]
    no_stream: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// The containers; all running ones when none is named
    containers: Vec<String>,
}

const COLUMNS: [Column; 8] = [
    Column { field: "ID", heading: "CONTAINER ID" },
    Column { field: "Name", heading: "NAME" },
    Column { field: "CPUPerc", heading: "CPU %" },
    Column { field: "MemUsage", heading: "MEM USAGE / LIMIT" },
    Column { field: "MemPerc", heading: "MEM %" },
    Column { field: "NetIO", heading: "NET I/O" },
    Column { field: "BlockIO", heading: "BLOCK I/O" },
    Column { field: "PIDs", heading: "PIDS" },
];

/// Between two looks; docker's second.
const PERIOD: Duration = Duration::from_secs(1);

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let format = Format::parse(args.format.as_deref())?;
    let choose = || -> Result<Vec<Container>, Error> {
        if args.containers.is_empty() {
            return Ok(engine.list(args.all, None, &Filter::default()).map_err(explain)?.containers);
        }
        args.containers.iter().map(|name| engine.find(name).map_err(explain)).collect()
    };
    let mut before: Vec<(String, Sample)> =
        choose()?.iter().map(|container| (container.record.id.clone(), engine.sample(container))).collect();
    loop {
        std::thread::sleep(PERIOD);
        let containers = choose()?;
        let samples: Vec<(String, Sample)> =
            containers.iter().map(|container| (container.record.id.clone(), engine.sample(container))).collect();
        let rows: Vec<Value> = containers
            .iter()
            .zip(&samples)
            .map(|(container, (id, sample))| {
                let earlier = before.iter().find(|(known, _)| known == id).map(|(_, sample)| *sample);
                row(&engine, container, *sample, earlier, args.no_trunc)
            })
            .collect();
        if !args.no_stream && std::io::stdout().is_terminal() {
            print!("\x1b[2J\x1b[H");
        }
        print!("{}", format.render(&rows, &COLUMNS, &[])?);
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        before = samples;
    }
}

fn row(_engine: &Engine, container: &Container, now: Sample, before: Option<Sample>, no_trunc: bool) -> Value {
    let before = before.unwrap_or(now);
    let elapsed = now.time.saturating_sub(before.time).max(1) as f64;
    let cpu = now.usage.cpu_ns.saturating_sub(before.usage.cpu_ns) as f64 / elapsed * 100.0;
    let limit = if now.usage.memory_limit == 0 { host_memory() } else { now.usage.memory_limit.min(host_memory()) };
    let share = if limit == 0 { 0.0 } else { now.usage.memory as f64 / limit as f64 * 100.0 };
    json!({
        "ID": if no_trunc { container.id() } else { container.short_id() },
        "Container": if no_trunc { container.id() } else { container.short_id() },
        "Name": container.name(),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", human_bytes(now.usage.memory), human_bytes(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", human_decimal(now.network.0), human_decimal(now.network.1)),
        "BlockIO": format!("{} / {}", human_decimal(now.usage.read), human_decimal(now.usage.written)),
        "PIDs": now.usage.pids.to_string(),
    })
}

/// The host's memory in bytes.
pub(crate) fn host_memory() -> u64 {
    engine::cgroup::keyed(std::path::Path::new("/proc/meminfo"), "MemTotal:").map_or_else(
        || {
            let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("MemTotal:")).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
        },
        |kilobytes| kilobytes * 1024,
    )
}
