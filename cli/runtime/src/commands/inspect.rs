//! `state` and `list`: what is known about containers, in runc's formats.

use lexopt::{Arg, Parser, ValueExt};
use oci::ContainerId;
use oci::spec::Status;
use runtime::host::state::{self, Record};
use serde::Serialize;

use super::{Context, Failure, only_id};

/// runc's words about a container, in runc's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: String,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    annotations: std::collections::BTreeMap<String, String>,
    owner: String,
}

fn entry(context: &Context<'_>, id: &ContainerId) -> Result<Entry, Failure> {
    let root = context.root();
    let record = root.record(id)?;
    let status = state::status(&root, &record);
    let Record { oci_version, id, pid, bundle, rootfs, created, annotations, owner, .. } = record;
    Ok(Entry {
        oci_version,
        id,
        pid: if status == Status::Stopped { 0 } else { pid },
        status,
        bundle,
        rootfs,
        created,
        annotations,
        owner: user_name(owner),
    })
}

/// The name of a user, `#1000` without one.
fn user_name(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    };
    passwd.lines().find_map(line).unwrap_or_else(|| format!("#{uid}"))
}

/// `state ID`.
pub(crate) fn state(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    let mut entry = entry(context, &only_id(parser)?)?;
    // As runc: the member is there, and only `list` knows.
    entry.owner = String::new();
    let text = serde_json::to_string_pretty(&entry).map_err(|cause| Failure::usage(cause.to_string()))?;
    println!("{text}");
    Ok(0)
}

/// `list [--format table|json] [--quiet]`.
#[inline(never)]
pub(crate) fn list(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut json, mut quiet) = (false, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('q') | Arg::Long("quiet") => quiet = true,
            Arg::Short('f') | Arg::Long("format") => {
                json = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => return Err(Failure::usage("invalid format option")),
                }
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let ids = context.root().ids()?;
    if quiet {
        ids.iter().for_each(|id| println!("{id}"));
        return Ok(0);
    }
    // A container that vanishes or is half made while we look is passed over.
    let entries: Vec<Entry> = ids.iter().filter_map(|id| entry(context, id).ok()).collect();
    if json {
        let text = serde_json::to_string(&entries).map_err(|cause| Failure::usage(cause.to_string()))?;
        println!("{}", if entries.is_empty() { "null" } else { &text });
        return Ok(0);
    }
    let row = |entry: &Entry| {
        [
            entry.id.clone(),
            entry.pid.to_string(),
            entry.status.as_str().to_owned(),
            entry.bundle.clone(),
            entry.created.clone(),
            entry.owner.clone(),
        ]
    };
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    print!("{}", table(std::iter::once(head).chain(entries.iter().map(row)).collect::<Vec<_>>().as_slice()));
    Ok(0)
}

/// Columns as Go's tabwriter makes them for runc: at least 12 wide, one space between.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 1).max().unwrap_or(0).max(12);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            if column + 1 == N { cell.clone() } else { format!("{cell:<width$}", width = widths[column]) }
        });
        cells.collect::<String>() + "\n"
    };
    rows.iter().map(line).collect()
}
