//! Looking at the mesh: status, members, distances, conflicts, events, and the doctor.

use super::client::{At, Client, encode, roots};
use super::show::{Entry, Form, Output, print_document, short};
use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use p2p::membership::{Liveness, Member};
use scheduler::node::api::view::{Done, HealthView, NodeView, ServiceView};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// `shoal mesh status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print again every two seconds
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
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
    id: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
struct Resolve {
    id: String,
    /// Write the loser over what stands
    #[arg(long)]
    take_lost: bool,
    #[command(flatten)]
    at: At,
}

/// `shoal mesh doctor`
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    at: At,
}

/// Prints what this node is and sees.
pub(crate) fn status(global: &Global, status: &Status) -> Result<ExitCode, Error> {
    let client = Client::new(global, &status.at)?;
    loop {
        let value: p2p::mesh::Status = client.get("/v1/status")?;
        if status.output.output == Form::Table && status.output.format.is_none() {
            print_status(&value);
        } else {
            print_document(status.output.output, &value)?;
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
    let members: Vec<Member> = Client::new(global, &list.at)?.get("/v1/members")?;
    print_members(list, &members)
}

/// Prints the members, nearest first.
pub(crate) fn rtt(global: &Global, list: &List) -> Result<ExitCode, Error> {
    let mut members: Vec<Member> = Client::new(global, &list.at)?.get("/v1/members")?;
    members.sort_by_key(|member| (!member.is_self, member.rtt_us.unwrap_or(u64::MAX)));
    print_members(list, &members)
}

fn print_members(list: &List, members: &[Member]) -> Result<ExitCode, Error> {
    let entries: Vec<Entry> = members
        .iter()
        .map(|member| {
            let id = member.id.to_string();
            let mark = if member.is_self { " *" } else { "" };
            Entry {
                name: member.name.clone(),
                cells: vec![
                    format!("{id}{mark}"),
                    member.name.clone(),
                    member.site.clone(),
                    word(member.liveness).to_owned(),
                    rtt_text(member),
                    member.addresses.first().cloned().unwrap_or_default(),
                ],
                id,
            }
        })
        .collect();
    list.output.print(&["ID", "NAME", "SITE", "STATUS", "RTT", "ADDRESS"], &entries, members)?;
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

/// Looks for the likeliest mistakes; exit code 1 when it finds one.
pub(crate) fn doctor(global: &Global, doctor: &Doctor) -> Result<ExitCode, Error> {
    let mut bad = 0;
    let mut report = |ok: bool, what: &str, hint: &str| {
        println!("{} {what}", if ok { "ok  " } else { "BAD " });
        if !ok {
            bad += 1;
            println!("     hint: {hint}");
        }
    };
    host_checks(global, &mut report)?;
    let client = Client::new(global, &doctor.at)?;
    match client.get::<HealthView>("/v1/health") {
        Ok(_) => mesh_checks(&client, &mut report)?,
        Err(_) => report(false, "a node answers on this host", "start it: shoal mesh up --detach"),
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn host_checks(global: &Global, report: &mut dyn FnMut(bool, &str, &str)) -> Result<(), Error> {
    let roots = roots(global)?;
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = filesystems.lines().any(|line| line.ends_with("overlay"));
    report(overlay, "the kernel has overlayfs", "modprobe overlay");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    report(forward.trim() == "1", "the kernel forwards packets", "sysctl -w net.ipv4.ip_forward=1");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let writable = mounts.lines().any(|line| {
        let mut words = line.split(' ');
        let kind = words.nth(2).unwrap_or_default();
        kind.starts_with("cgroup") && words.next().is_some_and(|options| options.split(',').any(|word| word == "rw"))
    });
    report(writable, "a cgroup tree is writable", "mount a cgroup2 tree read-write at /sys/fs/cgroup");
    let probe = roots.data.join(".doctor");
    let disk = std::fs::create_dir_all(&roots.data).and_then(|()| std::fs::write(&probe, [0u8; 4096]));
    let _ = std::fs::remove_file(&probe);
    let text = format!("{} takes writes", roots.data.display());
    report(disk.is_ok(), &text, "free some space: shoal system df, shoal image prune");
    Ok(())
}

fn mesh_checks(client: &Client, report: &mut dyn FnMut(bool, &str, &str)) -> Result<(), Error> {
    let status: p2p::mesh::Status = client.get("/v1/status")?;
    let members: Vec<Member> = client.get("/v1/members")?;
    let nodes: Vec<NodeView> = client.get("/v1/nodes")?;
    let services: Vec<ServiceView> = client.get("/v1/services")?;
    let text = format!("every member answers ({} suspect, {} down)", status.suspect, status.down);
    let hint = "look at `shoal mesh members`; open 4700/tcp and udp between the hosts; `shoal mesh evict` what is gone";
    report(status.suspect + status.down == 0, &text, hint);
    let apart: Vec<&str> = members
        .iter()
        .filter(|member| member.clock_offset_ms.is_some_and(|offset| offset.abs() > 1_000))
        .map(|member| member.name.as_str())
        .collect();
    let text = format!("clocks agree within a second{}", if apart.is_empty() { "" } else { ", except: " });
    report(apart.is_empty(), &format!("{text}{}", apart.join(" ")), "set the clocks: run an NTP client on each host");
    let versions: std::collections::BTreeSet<&str> = members.iter().map(|member| member.version.as_str()).collect();
    let text = format!("one version runs everywhere ({})", versions.iter().copied().collect::<Vec<_>>().join(", "));
    report(versions.len() <= 1, &text, "upgrade the older hosts one by one");
    let unknown: Vec<&str> = nodes.iter().filter(|node| node.arch.is_empty()).map(|node| node.id.as_str()).collect();
    report(unknown.is_empty(), "every node has told what it offers", "wait a moment, then look at `shoal node ls`");
    report(status.quarantined.is_empty(), "every row is understood", "shoal mesh status names the rows");
    let conflicts: Vec<serde_json::Value> = client.get("/v1/conflicts")?;
    report(conflicts.is_empty(), "no writing lost against a concurrent one", "shoal mesh conflicts ls");
    let stuck: Vec<String> = services.iter().filter_map(|view| view.no_fit.clone()).collect();
    report(stuck.is_empty(), &format!("every service fits {}", stuck.join("; ")), "free some means or add a node");
    Ok(())
}
