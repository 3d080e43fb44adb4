//! `network ls`.

use super::{labels_match, table};
use crate::error::Error;
use clap::Args;
use engine::network::{DEFAULT, Networks};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// List networks
#[derive(Debug, Args)]
#[command(visible_alias = "list")]
pub(crate) struct Ls {
    /// Only names or ids that match: name=, id=, driver=, label=, scope=, type=custom|builtin
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = super::pair)]
    filter: Vec<(String, String)>,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids in full
    #[arg(long)]
    no_trunc: bool,
}

/// The two networks that are no records: a container's own loopback, and the host's namespace.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

struct Row {
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
            id: network.id,
            name: network.name,
            driver: network.driver.to_string(),
            labels: network.labels,
        })
        .collect();
    rows.extend(BUILT_IN.map(|(name, driver)| Row {
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
    if args.quiet {
        rows.iter().for_each(|row| println!("{}", short(&row.id)));
        return Ok(ExitCode::SUCCESS);
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| vec![short(&row.id), row.name.clone(), row.driver.clone(), "local".to_owned()]).collect();
    table(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"], &cells);
    Ok(ExitCode::SUCCESS)
}
