//! `network ls`.

use super::labels_match;
use crate::error::Error;
use crate::output::{Column, Format, labels};
use clap::Args;
use engine::network::{DEFAULT, Networks};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// List networks
#[derive(Debug, Args)]
#[command(visible_alias = "list")]
pub(crate) struct Ls {
    /// Only names or ids that match: name=, id=, driver=, label=, scope=, type=custom|builtin
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = super::pair)]
    filter: Vec<(String, String)>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids in full
    #[arg(long)]
    no_trunc: bool,
}

/// The two networks that are no records: a container's own loopback, and the host's namespace.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

const COLUMNS: [Column; 4] = [
    Column { field: "ID", heading: "NETWORK ID" },
    Column { field: "Name", heading: "NAME" },
    Column { field: "Driver", heading: "DRIVER" },
    Column { field: "Scope", heading: "SCOPE" },
];
const MORE: [Column; 4] = [
    Column { field: "CreatedAt", heading: "CREATED AT" },
    Column { field: "IPv6", heading: "IPV6" },
    Column { field: "Internal", heading: "INTERNAL" },
    Column { field: "Labels", heading: "LABELS" },
];

struct Row {
    created: u64,
    ipv6: bool,
    internal: bool,
    id: String,
    name: String,
    driver: String,
    labels: BTreeMap<String, String>,
    built_in: bool,
}

/// Prints the table.
pub(super) fn run(networks: &Networks, args: &Ls) -> Result<ExitCode, Error> {
    // Listed before its first container, too.
    networks.find(DEFAULT)?;
    let mut rows: Vec<Row> = networks
        .list()?
        .into_iter()
        .map(|network| Row {
            built_in: network.name == DEFAULT,
            created: network.created,
            ipv6: network.ipv6,
            internal: network.internal,
            id: network.id,
            name: network.name,
            driver: network.driver.to_string(),
            labels: network.labels,
        })
        .collect();
    rows.extend(BUILT_IN.map(|(name, driver)| Row {
        created: 0,
        ipv6: false,
        internal: false,
        id: format!("{:0<64}", name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()),
        name: name.to_owned(),
        driver: driver.to_owned(),
        labels: BTreeMap::new(),
        built_in: true,
    }));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    for (key, value) in &args.filter {
        match key.as_str() {
            "name" => rows.retain(|row| row.name.contains(value.as_str())),
            "id" => rows.retain(|row| row.id.starts_with(value.as_str())),
            "driver" => rows.retain(|row| row.driver == *value),
            "label" => rows.retain(|row| labels_match(&row.labels, value)),
            "scope" => rows.retain(|_| value == "local"),
            "type" => rows.retain(|row| row.built_in == (value == "builtin")),
            _ => return Err(Error::new(format!("invalid filter '{key}'")).code(2)),
        }
    }
    let short = |id: &String| if args.no_trunc { id.clone() } else { id.chars().take(12).collect() };
    if args.quiet && args.format.is_none() {
        rows.iter().for_each(|row| println!("{}", short(&row.id)));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "ID": short(&row.id),
                "Name": row.name,
                "Driver": row.driver,
                "Scope": "local",
                "CreatedAt": engine::time::rfc3339(row.created),
                "IPv6": row.ipv6.to_string(),
                "Internal": row.internal.to_string(),
                "Labels": labels(&row.labels),
                "Label": row.labels,
            })
        })
        .collect();
    print!("{}", Format::parse(args.format.as_deref())?.render(&rows, &COLUMNS, &MORE)?);
    Ok(ExitCode::SUCCESS)
}
