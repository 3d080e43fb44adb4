//! Looking at the mesh: status, members, distances, conflicts, events.

use super::client::{At, Client, encode};
use super::show::{Entry, Form, Output, print_document, short};
use crate::commands::Global;
use crate::error::Error;
use crate::output::template::Template;
use clap::{Args, Subcommand};
use p2p::membership::{Liveness, Member};
use scheduler::node::api::view::{Done, MemberView};
use scheduler::node::means::Means;
use scheduler::quantity::show_bytes;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// `shoal mesh status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print again every two seconds
    #[arg(short, long)]
    watch: bool,
    /// json, or a Go template over the document of `-o json`
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "output")]
    format: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    at: At,
}

/// A list.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

/// `shoal mesh conflicts …`
#[derive(Debug, Args)]
pub(crate) struct Conflicts {
    #[command(subcommand)]
    verb: ConflictVerb,
}

#[derive(Debug, Subcommand)]
enum ConflictVerb {
    /// List them
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show both sides of one
    Show(OneConflict),
    /// End one: keep what stands, or take the loser
    Resolve(Resolve),
}

#[derive(Debug, Args)]
struct OneConflict {
    /// Its id, or the beginning of it
    id: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Resolve {
    /// Its id
    id: String,
    /// Write the loser over what stands
    #[arg(long)]
    take_lost: bool,
    #[command(flatten)]
    at: At,
}

/// Prints what this node is and sees.
pub(crate) fn status(global: &Global, status: &Status) -> Result<ExitCode, Error> {
    let client = Client::new(global, &status.at)?;
    loop {
        let value: serde_json::Value = client.get("/v1/status")?;
        match (status.format.as_deref(), status.output) {
            (Some("json"), _) => println!("{value}"),
            (Some(text), _) => println!("{}", Template::parse(text)?.render(&value)?),
            (None, Form::Table) => {
                print_status(&serde_json::from_value(value.clone())?);
                if let (Some(url), Some(pin)) = (value["api"]["url"].as_str(), value["api"]["pin"].as_str()) {
                    println!("api         {url}, its key {pin}");
                }
            }
            (None, Form::Name) => println!("{}", value["name"].as_str().unwrap_or_default()),
            (None, form) => print_document(form, &value)?,
        }
        if !status.watch {
            return Ok(ExitCode::SUCCESS);
        }
        println!();
        std::io::stdout().flush()?;
        std::thread::sleep(Duration::from_secs(2));
    }
}

fn print_status(status: &p2p::mesh::Status) {
    println!("node        {} ({}), site {}, start {}", status.name, status.id, status.site, status.epoch);
    println!("cluster     {}", status.cluster);
    println!("listening   {}", status.listening.join(" "));
    println!("members     {} alive, {} suspect, {} down", status.alive, status.suspect, status.down);
    println!("connections {}", status.connections);
    println!("rows        {} ({} tombstones), digest {}", status.rows, status.tombstones, status.root);
    if let Some(why) = &status.expelled {
        println!("expelled    {why}");
    }
    for (key, reason) in &status.quarantined {
        println!("quarantined {key}: {reason}");
    }
    for alarm in &status.alarms {
        println!("alarm       {}: {}", alarm.kind, alarm.text);
    }
    if status.brake_since_ms.is_some() {
        println!("brake       on: many nodes went down together, slots are re-placed slowly");
    }
}

fn word(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Alive => "Alive",
        Liveness::Suspect => "Suspect",
        Liveness::Down => "Down",
        Liveness::Left => "Left",
    }
}

fn rtt_text(member: &Member) -> String {
    match member.rtt_us {
        _ if member.is_self => "self".to_owned(),
        Some(us) => format!("{}.{:03}ms", us / 1000, us % 1000),
        None => "-".to_owned(),
    }
}

/// Prints the members.
pub(crate) fn members(global: &Global, list: &List) -> Result<ExitCode, Error> {
    let members: Vec<MemberView> = Client::new(global, &list.at)?.get("/v1/members")?;
    print_members(list, &members)
}

/// Prints the members, nearest first.
pub(crate) fn rtt(global: &Global, list: &List) -> Result<ExitCode, Error> {
    let mut members: Vec<MemberView> = Client::new(global, &list.at)?.get("/v1/members")?;
    members.sort_by_key(|view| (!view.member.is_self, view.member.rtt_us.unwrap_or(u64::MAX)));
    print_members(list, &members)
}

fn print_members(list: &List, members: &[MemberView]) -> Result<ExitCode, Error> {
    let entries: Vec<Entry> = members
        .iter()
        .map(|MemberView { member, means }| {
            let id = member.id.to_string();
            let free = |of: fn(&Means) -> String| means.as_ref().map_or_else(|| "-".to_owned(), of);
            let mark = if member.is_self { " *" } else { "" };
            Entry {
                name: member.name.clone(),
                cells: vec![
                    format!("{id}{mark}"),
                    member.name.clone(),
                    member.site.clone(),
                    word(member.liveness).to_owned(),
                    rtt_text(member),
                    free(|means| format!("{}%", means.cpu_busy.div_ceil(10))),
                    free(|means| show_bytes(means.memory_free_bytes)),
                    free(|means| show_bytes(means.disk_free_bytes)),
                    member.addresses.first().cloned().unwrap_or_default(),
                ],
                id,
            }
        })
        .collect();
    list.output.print(
        &["ID", "NAME", "SITE", "STATUS", "RTT", "BUSY", "MEMORY FREE", "DISK FREE", "ADDRESS"],
        &entries,
        members,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a verb about conflicts.
pub(crate) fn conflicts(global: &Global, conflicts: Conflicts) -> Result<ExitCode, Error> {
    match conflicts.verb {
        ConflictVerb::Ls(list) => {
            let all: Vec<serde_json::Value> = Client::new(global, &list.at)?.get("/v1/conflicts")?;
            let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            let entries: Vec<Entry> = all
                .iter()
                .map(|conflict| {
                    let id = text(&conflict["id"]);
                    let lost = text(&conflict["lost"]["writer"]);
                    Entry {
                        name: id.clone(),
                        cells: vec![short(&id, list.output.no_trunc), text(&conflict["key"]), lost],
                        id,
                    }
                })
                .collect();
            list.output.print(&["ID", "ROW", "LOSER"], &entries, &all)?;
        }
        ConflictVerb::Show(one) => {
            let all: Vec<serde_json::Value> = Client::new(global, &one.at)?.get("/v1/conflicts")?;
            let fits =
                |conflict: &&serde_json::Value| conflict["id"].as_str().is_some_and(|id| id.starts_with(&one.id));
            let found = all
                .iter()
                .find(fits)
                .ok_or_else(|| Error::new(format!("no conflict {}", one.id)).hint("shoal mesh conflicts ls"))?;
            print_document(one.output.output, found)?;
        }
        ConflictVerb::Resolve(resolve) => {
            let take = if resolve.take_lost { "lost" } else { "current" };
            let path = format!("/v1/conflicts/{}?take={take}", encode(&resolve.id));
            let done: Done = Client::new(global, &resolve.at)?.send("POST", &path, &[])?.json()?;
            println!("{}", done.subject);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints events until interrupted.
pub(crate) fn events(global: &Global, at: &At) -> Result<ExitCode, Error> {
    Client::new(global, at)?.follow("/v1/events", |_, data| {
        println!("{data}");
        std::io::stdout().flush()?;
        Ok(true)
    })?;
    Ok(ExitCode::SUCCESS)
}
