//! The verbs about the mesh itself: being part of it, admitting others, looking at it, and its keys and values.

pub(crate) mod client;
mod doctor;
mod kv;
mod look;
pub(crate) mod show;
mod token;
mod up;

use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The verbs of the mesh group.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Join hosts to a mesh of equals, and look at it
    Mesh(Mesh),
    /// Keys and values that every node of the mesh has
    Kv(Kv),
}

/// `shoal mesh …`
#[derive(Debug, Args)]
pub(crate) struct Mesh {
    #[command(subcommand)]
    verb: MeshVerb,
}

#[derive(Debug, Subcommand)]
enum MeshVerb {
    /// Run this host's node: resume, join with --join, or begin a new mesh
    Up(up::Up),
    /// Join a mesh: `mesh up --join TOKEN[@HOST:PORT]`
    Join(up::Join),
    /// Leave the mesh for good and end the node
    Leave(Confirm),
    /// End the node; its containers run on and it stays a member
    Down(client::At),
    /// What this node is and what it sees
    Status(look::Status),
    /// Members with their liveness
    Members(look::List),
    /// Round trips to the members, nearest first
    Rtt(look::List),
    /// Admission tokens
    Token(token::Token),
    /// Evict a node for ever: its rows are forgotten, everybody drops it
    Evict(Evict),
    /// Concurrent writings that lost
    Conflicts(look::Conflicts),
    /// Write every shared row to a file
    Backup(BackupFile),
    /// Write the rows of a backup into the mesh, as edits
    Restore(BackupFile),
    /// Look for the likeliest mistakes
    Doctor(doctor::Doctor),
    /// What happens, as it happens
    Events(client::At),
}

/// `shoal kv …`
#[derive(Debug, Args)]
pub(crate) struct Kv {
    #[command(subcommand)]
    verb: kv::Verb,
}

/// A verb that asks first.
#[derive(Debug, Args)]
pub(crate) struct Confirm {
    #[command(flatten)]
    at: client::At,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Evict {
    /// Name, id, or beginning of the id
    node: String,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Debug, Args)]
struct BackupFile {
    /// The file; `-` for standard input or output
    file: PathBuf,
    #[command(flatten)]
    at: client::At,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Kv(kv) => kv::run(global, kv.verb),
        Command::Mesh(mesh) => match mesh.verb {
            MeshVerb::Up(up) => up::run(global, up),
            MeshVerb::Join(join) => up::join(global, join),
            MeshVerb::Leave(confirm) => leave(global, &confirm),
            MeshVerb::Down(at) => down(global, &at),
            MeshVerb::Status(status) => look::status(global, &status),
            MeshVerb::Members(list) => look::members(global, &list),
            MeshVerb::Rtt(list) => look::rtt(global, &list),
            MeshVerb::Token(token) => token::run(global, token),
            MeshVerb::Evict(evict) => evict_node(global, &evict),
            MeshVerb::Conflicts(conflicts) => look::conflicts(global, conflicts),
            MeshVerb::Backup(file) => backup(global, &file),
            MeshVerb::Restore(file) => restore(global, &file),
            MeshVerb::Doctor(doctor) => doctor::run(global, &doctor),
            MeshVerb::Events(at) => look::events(global, &at),
        },
    }
}

/// Asks on a terminal; without one, or with `--yes`, goes on.
pub(crate) fn confirmed(question: &str, yes: bool) -> Result<(), Error> {
    use std::io::{BufRead, IsTerminal, Write};
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::new("nothing was done")) }
}

fn leave(global: &Global, confirm: &Confirm) -> Result<ExitCode, Error> {
    confirmed("This node leaves the mesh for good; its services move to others. Go on?", confirm.yes)?;
    let client = client::Client::new(global, &confirm.at)?;
    client.send("POST", "/v1/leave", &[])?.ok()?;
    Ok(ExitCode::SUCCESS)
}

fn down(global: &Global, at: &client::At) -> Result<ExitCode, Error> {
    let client = client::Client::new(global, at)?;
    client.send("POST", "/v1/down", &[])?.ok()?;
    // Done when the socket is closed.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while client.send("GET", "/v1/health", &[]).is_ok() {
        if std::time::Instant::now() > deadline {
            return Err(Error::new("the node still answers ten seconds after it was told to end"));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(ExitCode::SUCCESS)
}

fn evict_node(global: &Global, evict: &Evict) -> Result<ExitCode, Error> {
    confirmed(&format!("{} is evicted for ever. Go on?", evict.node), evict.confirm.yes)?;
    let client = client::Client::new(global, &evict.confirm.at)?;
    let done: scheduler::node::api::view::Done =
        client.send("DELETE", &format!("/v1/members/{}", client::encode(&evict.node)), &[])?.json()?;
    println!("{}", done.subject);
    Ok(ExitCode::SUCCESS)
}

fn backup(global: &Global, file: &BackupFile) -> Result<ExitCode, Error> {
    let client = client::Client::new(global, &file.at)?;
    let bytes = client.send("GET", "/v1/backup", &[])?.ok()?.body;
    if file.file.as_os_str() == "-" {
        use std::io::Write;
        std::io::stdout().write_all(&bytes)?;
    } else {
        // Written beside and renamed: an interrupted backup leaves the one before.
        let part = file.file.with_extension("part");
        std::fs::write(&part, &bytes)?;
        std::fs::rename(&part, &file.file)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(global: &Global, file: &BackupFile) -> Result<ExitCode, Error> {
    let bytes = if file.file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
        bytes
    } else {
        std::fs::read(&file.file)?
    };
    let client = client::Client::new(global, &file.at)?;
    let done: scheduler::node::api::view::Done = client.send("POST", "/v1/restore", &bytes)?.json()?;
    println!("{} rows written", done.count.unwrap_or(0));
    Ok(ExitCode::SUCCESS)
}
