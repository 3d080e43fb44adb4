//! The network of a container without root's rights: a process of slirp4netns(1) carries it, one a container.
//!
//! In: the network namespace, the ports to publish. Out: a running process with its API socket, written down beside the
//! container's other files so that it can be ended. Everything the container sends leaves the host as that process's own.

use crate::host::process::ProcessId;
use crate::network::{ATTACHMENT_VERSION, Attachment, Driver, PortMapping, PublishedPort, publish::Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The container's address, its gateway and its name server: slirp4netns's own defaults.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub(crate) const PREFIX: u8 = 24;
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The name of the network in records.
pub(crate) const NAME: &str = "slirp4netns";
/// The interface inside.
pub(crate) const INTERFACE: &str = "tap0";

/// The program, and Debian's package of the same name.
const PROGRAM: &str = NAME;
const SOCKET: &str = "slirp.sock";
const RECORD: &str = "slirp.json";
const LOG: &str = "slirp.log";
const RECORD_VERSION: u32 = 1;
/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
/// An answer of its API.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum SlirpError {
    /// It is not installed.
    #[error(
        "without root's rights a network needs slirp4netns: install the package slirp4netns, or use --network none or host"
    )]
    Missing,
    /// It could not be run or spoken to.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// Why not.
        source: io::Error,
    },
    /// It ended or refused.
    #[error("slirp4netns: {0}")]
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordFile {
    version: u32,
    process: ProcessId,
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> SlirpError {
    move |source| SlirpError::Io { step: step.into(), source }
}

/// Starts the process for the namespace `netns` with its files in `run`, and publishes `ports`.
pub(crate) fn start(run: &Path, netns: &Path, ports: &[PortMapping]) -> Result<Vec<PublishedPort>, SlirpError> {
    let program = program().ok_or(SlirpError::Missing)?;
    fs::remove_file(run.join(SOCKET)).ok();
    let log = fs::File::create(run.join(LOG)).map_err(step("make slirp.log"))?;
    let mut child = Command::new(program)
        .args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"])
        .args(["--ready-fd=1", "--api-socket", SOCKET])
        .arg(netns)
        .arg(INTERFACE)
        .current_dir(run)
        // Ctrl-C is for the container.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(step("execute slirp4netns"))?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(step("know slirp4netns"))?;
    let process = ProcessId::of(pid).unwrap_or(ProcessId { pid, start: 0 });
    let record = RecordFile { version: RECORD_VERSION, process };
    let text = serde_json::to_vec(&record).map_err(io::Error::other);
    text.and_then(|text| fs::write(run.join(RECORD), text)).map_err(step("write down slirp4netns"))?;
    let mut ready = [0];
    let count = child.stdout.take().map_or(Ok(0), |mut pipe| pipe.read(&mut ready));
    if count.map_err(step("hear from slirp4netns"))? == 0 {
        child.wait().ok();
        let text = fs::read_to_string(run.join(LOG)).unwrap_or_default();
        let said: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        return Err(SlirpError::Refused(if said.is_empty() {
            "it ended without a word".into()
        } else {
            said.join("; ")
        }));
    }
    ports.iter().map(|port| publish(run, port)).collect()
}

/// How the container is connected, as its record has it.
pub(crate) fn attachment(container: &str, ports: Vec<PublishedPort>) -> Attachment {
    let net = IpNet::new(ADDRESS.into(), PREFIX).expect("24 is a prefix length of IPv4");
    Attachment {
        version: ATTACHMENT_VERSION,
        container: container.to_owned(),
        network: NAME.to_owned(),
        network_id: NAME.to_owned(),
        driver: Driver::Bridge,
        interface: INTERFACE.to_owned(),
        host_interface: String::new(),
        mac: String::new(),
        addresses: vec![net],
        gateways: vec![GATEWAY.into()],
        dns: Vec::new(),
        nameservers: vec![NAMESERVER.into()],
        aliases: Vec::new(),
        ports,
        warnings: Vec::new(),
        unknown: Default::default(),
    }
}

/// Ends the process whose files are in `run`; none is what is wanted.
pub(crate) fn stop(run: &Path) {
    let record = fs::read(run.join(RECORD)).ok().and_then(|text| serde_json::from_slice::<RecordFile>(&text).ok());
    if let Some(record) = record.filter(|record| record.version == RECORD_VERSION) {
        // Gone already, or not ours any more: then there is nothing to end.
        record.process.signal(libc::SIGKILL).ok();
        let deadline = Instant::now() + PATIENCE;
        while record.process.alive() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }
    for name in [RECORD, SOCKET, LOG] {
        fs::remove_file(run.join(name)).ok();
    }
}

fn publish(run: &Path, port: &PortMapping) -> Result<PublishedPort, SlirpError> {
    let address = match port.host_ip {
        None => Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V4(address)) => address,
        Some(IpAddr::V6(address)) => {
            return Err(SlirpError::Refused(format!("publishes no IPv6 address ({address})")));
        }
    };
    let candidates =
        port.host_ports.map_or_else(|| Ok(free(address, port.protocol)?..=u16::MAX), |(low, high)| Ok(low..=high));
    let candidates = candidates.map_err(step("find a free port"))?;
    let protocol = port.protocol.to_string();
    let mut refused = SlirpError::Refused("no port to publish".to_owned());
    for host_port in candidates {
        let arguments = json!({
            "proto": protocol, "host_addr": address, "host_port": host_port,
            "guest_addr": ADDRESS, "guest_port": port.container_port,
        });
        match ask(run, &json!({"execute": "add_hostfwd", "arguments": arguments})) {
            Ok(()) => {
                let (host_ip, container_port) = (port.host_ip, port.container_port);
                return Ok(PublishedPort { host_ip, host_port, container_port, protocol: port.protocol });
            }
            Err(SlirpError::Refused(message)) => {
                refused = SlirpError::Refused(format!("publish {address}:{host_port}/{protocol}: {message}"));
            }
            Err(error) => return Err(error),
        }
        if port.host_ports.is_none() {
            break;
        }
    }
    Err(refused)
}

/// A port that is free at this moment.
fn free(address: Ipv4Addr, protocol: Protocol) -> io::Result<u16> {
    let bound = match protocol {
        Protocol::Udp => UdpSocket::bind((address, 0))?.local_addr()?,
        _ => TcpListener::bind((address, 0))?.local_addr()?,
    };
    Ok(bound.port())
}

/// One request: a connection, a line of JSON, an answer until the end.
fn ask(run: &Path, request: &Value) -> Result<(), SlirpError> {
    let speak = || step("speak to slirp4netns");
    let folder = fs::File::open(run).map_err(speak())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => return Err(speak()(error)),
            Err(_) => std::thread::sleep(LOOK),
        }
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(speak())?;
    stream.write_all(request.to_string().as_bytes()).map_err(speak())?;
    stream.shutdown(std::net::Shutdown::Write).map_err(speak())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer).map_err(speak())?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    match answer["error"]["desc"].as_str() {
        Some(reason) => Err(SlirpError::Refused(reason.to_owned())),
        None => Ok(()),
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/bin".into()]).map(|dir| dir.join(PROGRAM)).find(|path| path.is_file())
}
