//! `shoal mesh up`: this host's node, in the foreground or detached.

use super::client::{Client, roots};
use super::kept::Kept;
use crate::commands::Global;
use crate::error::Error;
use clap::Args;
use p2p::mesh::Intent;
use scheduler::node::ApiListen;
use scheduler::quantity::{parse_bytes, parse_cpus};
use scheduler::service::Amount;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long a detached node may take until it serves: a join over a slow link included.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What the engine is asked to do when the node ends may take so long.
const LAST_WORK: Duration = Duration::from_secs(2);
/// In place of a token: it comes on standard input.
const FROM_STDIN: &str = "-";
/// A bound for a token: one has a few hundred bytes.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

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
    /// Serve the API over TLS too; see `mesh token create --api`
    #[arg(long, value_name = "IP:PORT")]
    api: Option<String>,
    /// The site this host stands in [default: default]
    #[arg(long)]
    site: Option<String>,
    /// A label of this node
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Join a mesh with this token; `-` reads it from standard input, where no list of processes shows it
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
    /// The token, with an address of a node when it holds none; `-` reads it from standard input
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
    let up = resumed(global, up)?;
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
    let done = runtime.block_on(async {
        let stop = stop_signal()?;
        let (socket, folder) = (options.socket.clone(), options.mesh.dir.clone());
        let ready = move |mesh: &p2p::Mesh| {
            if let Err(error) = told(&up).save(&folder) {
                error.report();
            }
            eprintln!("node {} of mesh {} serves on {}", mesh.id(), mesh.cluster(), socket.display());
        };
        scheduler::node::run(options, std::sync::Arc::new(port), stop, ready).await.map_err(Error::from)
    });
    // A stop's grace, a pull or a mirror's copy may be under way for minutes: whoever starts next finds what they left.
    runtime.shutdown_timeout(LAST_WORK);
    done.map(|()| ExitCode::SUCCESS)
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

/// Fills in what an earlier start of this member was told and this one is not.
fn resumed(global: &Global, mut up: Up) -> Result<Up, Error> {
    // Also with --join: a member that is told to join once more carries on.
    let kept = Kept::load(&roots(global)?.data.join("mesh"))?;
    let list = |given: &mut Vec<String>, kept: Vec<String>| {
        if given.is_empty() {
            *given = kept;
        }
    };
    list(&mut up.listen, kept.listen);
    list(&mut up.advertise, kept.advertise);
    list(&mut up.label, kept.label);
    up.name = up.name.or(kept.name);
    up.site = up.site.or(kept.site);
    up.cpus = up.cpus.or(kept.cpus);
    up.memory = up.memory.or(kept.memory);
    up.api = up.api.or(kept.api);
    Ok(up)
}

/// What the next start shall know.
fn told(up: &Up) -> Kept {
    Kept {
        name: up.name.clone(),
        listen: up.listen.clone(),
        advertise: up.advertise.clone(),
        site: up.site.clone(),
        label: up.label.clone(),
        cpus: up.cpus.clone(),
        memory: up.memory.clone(),
        api: up.api.clone(),
        ..Kept::default()
    }
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
    let intent = match up.join.as_deref() {
        Some(FROM_STDIN) => Intent::Join(token_from(std::io::stdin().lock())?),
        Some(token) => Intent::Join(token.to_owned()),
        None => Intent::ResumeOrCreate,
    };
    if let Intent::Join(token) = &intent {
        whole(token)?;
    }
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
            site: up.site.clone().unwrap_or_else(|| "default".to_owned()),
            labels,
            listen: up.listen.clone(),
            advertise: up.advertise.clone(),
            intent,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        socket: roots.run.join("node.sock"),
        api: up.api.clone().map(|address| ApiListen { address, folder: roots.data.join("api") }),
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
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let log_path = folder.join("node.log");
    let log = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&log_path)?;
    let token = match &options.mesh.intent {
        Intent::Join(token) => Some(token.as_str()),
        _ => None,
    };
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(detached(std::env::args_os().skip(1), token))
        .stdin(if token.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    if let (Some(token), Some(mut stdin)) = (token, child.stdin.take()) {
        // A child that is gone already says why in its log.
        let _ = stdin.write_all(token.as_bytes());
    }
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

/// The arguments of the process in the background. A token is not among them: anybody may read those for as long as it runs.
fn detached(arguments: impl Iterator<Item = OsString>, token: Option<&str>) -> Vec<OsString> {
    let joined = token.map(|token| format!("--join={token}"));
    arguments
        .map(|argument| match argument.to_str() {
            Some("--detach" | "-d") => "--detached".into(),
            text if text.is_some() && text == token => FROM_STDIN.into(),
            text if text.is_some() && text == joined.as_deref() => format!("--join={FROM_STDIN}").into(),
            _ => argument,
        })
        .collect()
}

/// Reads a token that was not given on the command line.
fn token_from(input: impl Read) -> Result<String, Error> {
    let mut text = String::new();
    let _ = input.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
    match text.trim() {
        "" => {
            Err(Error::new("--join -: standard input holds no token").hint("a token: shoal mesh token create").code(2))
        }
        token => Ok(token.to_owned()),
    }
}

/// Refuses what is no token, or a part of one, before anything is tried with it.
fn whole(token: &str) -> Result<(), Error> {
    if p2p::admission::Token::from_text(token).is_ok() {
        return Ok(());
    }
    let text = token.trim().split('@').next().unwrap_or_default();
    let what = match text.strip_prefix("shoal1") {
        Some(rest) if rest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("the token has {} characters: its end is missing, or one of them is wrong", text.len())
        }
        Some(_) => "the token holds characters that are none of a token's".to_owned(),
        None => "this is no token: one begins with shoal1".to_owned(),
    };
    Err(Error::new(what).hint("make one, and copy it whole: shoal mesh token create").code(2))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_in_the_background_has_no_token_among_its_arguments() {
        let given = |words: &[&str]| detached(words.iter().map(OsString::from), Some("shoal1secret@10.0.0.1:4700"));
        let token = "shoal1secret@10.0.0.1:4700";
        for (words, expected) in [
            (&["mesh", "up", "-d", "--join", token][..], &["mesh", "up", "--detached", "--join", "-"][..]),
            (&["mesh", "up", &format!("--join={token}"), "--detach"], &["mesh", "up", "--join=-", "--detached"]),
            (&["mesh", "join", token, "-d", "--name", "n2"], &["mesh", "join", "-", "--detached", "--name", "n2"]),
        ] {
            assert_eq!(given(words), expected);
        }
    }

    #[test]
    fn what_is_no_whole_token_is_told_so() {
        let said = |token: &str| format!("{:?}", whole(token).expect_err("refused"));
        assert!(said("abc").contains("begins with shoal1"));
        assert!(said("nosuchhost:4700").contains("begins with shoal1"));
        assert!(said("shoal10123456789abcdef@10.0.0.1:4700").contains("22 characters: its end is missing"));
        assert!(said("shoal1…").contains("characters that are none"));
    }

    #[test]
    fn a_token_is_read_from_standard_input() {
        assert_eq!(token_from(&b"shoal1abc\n"[..]).expect("a token"), "shoal1abc");
        assert!(token_from(&b" \n"[..]).is_err(), "nothing there");
    }
}
