//! The verbs about the mesh itself: being part of it, admitting others, looking at it, and its keys and values.

pub(crate) mod client;
mod doctor;
mod kept;
mod kv;
mod look;
pub(crate) mod show;
mod token;
mod up;

pub(crate) use token::duration;

use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a node may take to end: its connections close, its table is written.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

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

/// Asks on a terminal; with `--yes` goes on. Without a terminal nobody can answer: nothing is done.
fn confirmed(question: &str, yes: bool) -> Result<(), Error> {
    use std::io::{BufRead, IsTerminal, Write};
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::new("not confirmed: stdin is no terminal").hint("use --yes"));
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Error::new("nothing was done")) }
}

fn leave(global: &Global, confirm: &Confirm) -> Result<ExitCode, Error> {
    confirmed("This node leaves the mesh for good; its services move to others. Go on?", confirm.yes)?;
    end(global, &confirm.at, "/v1/leave")
}

fn down(global: &Global, at: &client::At) -> Result<ExitCode, Error> {
    end(global, at, "/v1/down")
}

/// Tells the node to end and waits until its process has: what it held (its table, its ports) is free then.
fn end(global: &Global, at: &client::At, path: &str) -> Result<ExitCode, Error> {
    let client = client::Client::new(global, at)?;
    let process = client.process()?;
    client.send("POST", path, &[])?.ok()?;
    let deadline = Instant::now() + ENDS_WITHIN;
    while process.runs() {
        if Instant::now() > deadline {
            let text = format!("the node was told to end, and still runs after {} s", ENDS_WITHIN.as_secs());
            return Err(Error::new(text).hint(format!("its process: {}", process.pid())));
        }
        std::thread::sleep(Duration::from_millis(20));
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
        let write = || -> std::io::Result<()> {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            // It holds what services are given: nobody else's to read.
            let mut draft =
                std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
            draft.write_all(&bytes)?;
            draft.sync_all()?;
            std::fs::rename(&part, &file.file)
        };
        write().map_err(|error| Error::new(format!("write {}: {error}", file.file.display())))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(global: &Global, file: &BackupFile) -> Result<ExitCode, Error> {
    let bytes = if file.file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)?;
        bytes
    } else {
        std::fs::read(&file.file).map_err(|error| Error::new(format!("read {}: {error}", file.file.display())))?
    };
    let client = client::Client::new(global, &file.at)?;
    let done: scheduler::node::api::view::Done = client.send("POST", "/v1/restore", &bytes)?.json()?;
    println!("{} rows written", done.count.unwrap_or(0));
    Ok(ExitCode::SUCCESS)
}
