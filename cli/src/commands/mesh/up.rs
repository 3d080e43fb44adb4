//! `shoal mesh up`: this host's node, in the foreground or detached.

use super::client::{Client, roots};
use crate::commands::Global;
use crate::error::Error;
use clap::Args;
use p2p::mesh::Intent;
use scheduler::quantity::{parse_bytes, parse_cpus};
use scheduler::service::Amount;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a detached node may take until it serves: a join over a slow link included.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// `shoal mesh up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The node's name, by default the host's
    #[arg(long)]
    name: Option<String>,
    /// Where to listen, HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// Where others reach this node, when that is another address
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// The site this host stands in
    #[arg(long, default_value = "default")]
    site: String,
    /// A label of this node
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Join a mesh with this token
    #[arg(long, value_name = "TOKEN[@HOST:PORT]")]
    join: Option<String>,
    /// What services may reserve: processors
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// What services may reserve: memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Return once the node serves, and leave it running
    #[arg(short, long)]
    detach: bool,
    /// The process that --detach starts
    #[arg(long, hide = true)]
    detached: bool,
}

/// `shoal mesh join`
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The token, with an address of a node when it holds none
    #[arg(value_name = "TOKEN[@HOST:PORT]")]
    token: String,
    #[command(flatten)]
    up: Up,
}

/// Joins.
pub(crate) fn join(global: &Global, join: Join) -> Result<ExitCode, Error> {
    run(global, Up { join: Some(join.token), ..join.up })
}

/// Runs the node, or starts it in the background.
pub(crate) fn run(global: &Global, up: Up) -> Result<ExitCode, Error> {
    let options = options(global, &up)?;
    if up.detach {
        return detach(global, &options);
    }
    if up.detached {
        // A terminal that closes must not end the node.
        nix::unistd::setsid()?;
    }
    let roots = roots(global)?;
    let port = scheduler::node::containers::engine::Host::open(&roots)
        .map_err(|error| Error::new(format!("failed to open the engine of this host: {error}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_signal()?;
        let socket = options.socket.clone();
        let ready = move |mesh: &p2p::Mesh| {
            eprintln!("node {} of mesh {} serves on {}", mesh.id(), mesh.cluster(), socket.display());
        };
        scheduler::node::run(options, std::sync::Arc::new(port), stop, ready).await.map_err(Error::from)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn options(global: &Global, up: &Up) -> Result<scheduler::node::Options, Error> {
    let roots = roots(global)?;
    let mut labels = BTreeMap::new();
    for label in &up.label {
        let (key, value) =
            label.split_once('=').ok_or_else(|| Error::new(format!("--label {label:?} is not KEY=VALUE")).code(2))?;
        scheduler::service::check_name(key).map_err(|reason| Error::new(format!("--label: {reason}")).code(2))?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    let name = match &up.name {
        Some(name) => name.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned(),
    };
    scheduler::service::check_name(&name).map_err(|reason| Error::new(format!("--name: {reason}")).code(2))?;
    let intent = match &up.join {
        Some(token) => Intent::Join(token.clone()),
        None => Intent::ResumeOrCreate,
    };
    let mut capacity = None;
    if up.cpus.is_some() || up.memory.is_some() {
        let cpu = up.cpus.as_deref().map(parse_cpus).transpose()?;
        let memory = up.memory.as_deref().map(parse_bytes).transpose()?;
        let host = scheduler::node::host::capacity();
        capacity = Some(Amount {
            cpu_nanos: cpu.unwrap_or(host.cpu_nanos),
            memory_bytes: memory.unwrap_or(host.memory_bytes),
            pids: 0,
        });
    }
    Ok(scheduler::node::Options {
        mesh: p2p::mesh::Config {
            dir: roots.data.join("mesh"),
            name,
            site: up.site.clone(),
            labels,
            listen: up.listen.clone(),
            advertise: up.advertise.clone(),
            intent,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        socket: roots.run.join("node.sock"),
        capacity,
    })
}

/// Starts the same command without `--detach` and waits until it serves.
fn detach(global: &Global, options: &scheduler::node::Options) -> Result<ExitCode, Error> {
    let client = Client::new(global, &super::client::At::default())?;
    if client.send("GET", "/v1/health", &[]).is_ok() {
        let text = format!("a node already runs here: {} answers", options.socket.display());
        return Err(Error::new(text).hint("look at it: shoal mesh status; end it: shoal mesh down"));
    }
    let folder = &options.mesh.dir;
    std::fs::create_dir_all(folder)?;
    let log_path = folder.join("node.log");
    let log = std::fs::File::create(&log_path)?;
    let arguments: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|argument| if argument == "--detach" || argument == "-d" { "--detached".into() } else { argument })
        .collect();
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if client.send("GET", "/v1/health", &[]).and_then(super::client::Answer::ok).is_ok() {
            let status: p2p::mesh::Status = client.get("/v1/status")?;
            println!("{}", status.id);
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(status) = child.try_wait()? {
            return Err(ended(&log_path, &status.to_string()));
        }
        if Instant::now() > deadline {
            let text = format!("the node does not serve after {} s", READY_WITHIN.as_secs());
            return Err(Error::new(text).hint(format!("its log: {}", log_path.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Repeats what the node said before it ended.
fn ended(log: &Path, status: &str) -> Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let said = text.trim().trim_start_matches("shoal: ");
    if said.is_empty() {
        return Error::new(format!("the node ended: {status}"));
    }
    Error::new(said)
}
