//! The resolver of one network: a small process on the bridge's addresses, port 53, started with the network's first container
//! and gone with its last. In: the members' files, queries. Out: answers; other questions go on to the host's servers. One poll
//! loop for UDP; TCP connections, which are rare, have a thread each.
//!
//! Started as `shoal-monitor resolver FOLDER`; any process that attaches a container makes sure that it runs ([`ensure`]).

mod forward;
mod tcp;
mod watch;

use crate::host::process::ProcessId;
use crate::network::dns::{self, Answer, Code};
use crate::network::names::{Names, Outcome};
use crate::network::{Error, Network, Step, resolv};
use forward::Forwarder;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use watch::Watch;

/// The port of DNS.
const PORT: u16 = 53;
/// Queries read from one socket before the others get their turn.
const BATCH: usize = 64;
/// A member who is enrolled while the last one leaves keeps the process; how often that may repeat before it gives up.
const COMEBACKS_MAX: usize = 16;

/// What the process must know, in `run/networks/ID/resolver.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    version: u32,
    network: String,
    network_id: String,
    listen: Vec<IpAddr>,
    subnets: Vec<IpNet>,
    /// Whether it answers the members' names; on the default network it only asks on.
    #[serde(default = "yes")]
    names: bool,
}

fn yes() -> bool {
    true
}

/// Keeps the process although no container is connected, in `run/networks/ID`: a node of the mesh answers names too.
pub(crate) const KEPT: &str = "kept";
/// Who the process is, in `run/networks/ID`.
const PROCESS: &str = "resolver.pid";
/// The version of [`Config`].
const VERSION: u32 = 1;

/// Makes sure that the network's resolver runs: where nobody holds its lock, starts it and waits until it answers.
pub(crate) fn ensure(network: &Network, folder: &Path) -> Result<(), Error> {
    let config = Config {
        version: VERSION,
        network: network.name.clone(),
        network_id: network.id.clone(),
        listen: network.subnets.iter().map(|subnet| subnet.gateway).collect(),
        subnets: network.subnets.iter().map(|subnet| subnet.subnet).collect(),
        names: network.has_names(),
    };
    let what = || format!("start the resolver of network {}", network.name);
    match lock(folder, FlockArg::LockExclusiveNonblock).step(what)? {
        None => return Ok(()),
        // Let go at once: the process takes it itself; should two be started, the second sees the first and ends.
        Some(lock) => drop(lock),
    }
    let path = folder.join("resolver.json");
    let draft = crate::file::draft(&path);
    fs::write(&draft, serde_json::to_vec(&config).unwrap_or_default())
        .and_then(|()| fs::rename(&draft, &path))
        .step(|| format!("write {}", path.display()))?;
    spawn(&program(), folder).step(what)
}

/// Starts the process and waits until it answers, or has seen that another does.
fn spawn(program: &Path, folder: &Path) -> io::Result<()> {
    let output = Command::new(program)
        .arg("resolver")
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("run {}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Makes sure, in a monitor, that a resolver which ran before runs; returns what becomes readable when it ends. `None` where it
/// does not say who it is.
pub(crate) fn revive(folder: &Path) -> io::Result<Option<OwnedFd>> {
    if let Some(free) = lock(folder, FlockArg::LockExclusiveNonblock)? {
        drop(free);
        spawn(&std::env::current_exe()?, folder)?;
    }
    let process: Option<ProcessId> = crate::file::load(&folder.join(PROCESS)).ok();
    Ok(process.and_then(ProcessId::open))
}

/// Whether the host's name servers are all on its own loopback, where a container finds but itself.
pub(crate) fn only_the_host_can_ask() -> bool {
    let servers = |path: &str| fs::read_to_string(path).map(|text| resolv::parse(&text).servers).unwrap_or_default();
    hidden(&servers(forward::RESOLV_CONF), &servers(forward::SYSTEMD_CONF))
}

/// As [`only_the_host_can_ask`]; `behind` are the servers behind systemd's stub.
fn hidden(own: &[IpAddr], behind: &[IpAddr]) -> bool {
    let local = |servers: &[IpAddr]| servers.iter().all(IpAddr::is_loopback);
    let stub = own.iter().all(|server| *server == IpAddr::from([127, 0, 0, 53]));
    !own.is_empty() && local(own) && (!stub || local(behind))
}

/// The monitor's program: `SHOAL_MONITOR`, beside this one, or on the path.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("SHOAL_MONITOR") {
        return path.into();
    }
    std::env::current_exe()
        .ok()
        .map(|path| path.with_file_name("shoal-monitor"))
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("shoal-monitor"))
}

fn lock(folder: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    let file = File::options().create(true).append(true).open(folder.join("resolver.lock"))?;
    match Flock::lock(file, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The process: `shoal-monitor resolver FOLDER`. Goes to the background once it can answer; ends with the last member.
pub fn main(arguments: &[OsString]) -> Result<(), Error> {
    let [folder] = arguments else {
        return Err(Error::Invalid { reason: "usage: shoal-monitor resolver FOLDER".to_owned() });
    };
    super::sys::close_inherited();
    let folder = PathBuf::from(folder);
    // Waits: ensure() of another process may hold it for the instant of its look.
    let Some(mut held) = claim(&folder)? else { return Ok(()) };
    let path = folder.join("resolver.json");
    let bytes = fs::read(&path).step(|| format!("read {}", path.display()))?;
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Record { path: path.clone(), reason: error.to_string() })?;
    if config.version != VERSION {
        return Err(Error::Record { path, reason: format!("version {} is not {VERSION}", config.version) });
    }
    let mut server = Server::open(&config, &folder)?;
    background().step(|| "go to the background".to_owned())?;
    // For those who watch it; without it they look from time to time.
    crate::file::save(&folder.join(PROCESS), &ProcessId::own(), crate::file::Durable::No).ok();
    for _ in 0..COMEBACKS_MAX {
        server.serve()?;
        drop(server);
        drop(held);
        // Whoever enrolled before the lock fell saw it held and started nobody: look again.
        if !is_needed(&folder) {
            break;
        }
        match claim(&folder)? {
            Some(lock) => held = lock,
            None => return Ok(()),
        }
        server = Server::open(&config, &folder)?;
    }
    Ok(())
}

/// Takes the lock, or tells that another resolver has it. Tries for a moment: `ensure` holds it for the instant of its look.
fn claim(folder: &Path) -> Result<Option<Flock<File>>, Error> {
    let deadline = Instant::now() + Duration::from_millis(100);
    loop {
        if let Some(lock) = lock(folder, FlockArg::LockExclusiveNonblock).step(|| "lock the resolver".to_owned())? {
            return Ok(Some(lock));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether anybody needs the process: a container, or whoever keeps it.
fn is_needed(folder: &Path) -> bool {
    let members = fs::read_dir(folder.join("members")).into_iter().flatten().flatten();
    folder.join(KEPT).exists() || members.into_iter().any(|entry| watch::container(&entry.file_name()).is_some())
}

/// Leaves session, terminal and working directory; the caller's wait ends.
fn background() -> io::Result<()> {
    super::sys::daemonize()?;
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// What the loop and the TCP threads share.
#[derive(Debug)]
struct Shared {
    config: Config,
    names: RwLock<Names>,
}

/// How a query goes on.
#[derive(Debug)]
enum Next {
    /// This is the reply.
    Reply(Vec<u8>),
    /// These servers know, or the host's when empty.
    Forward(Vec<IpAddr>),
    /// Not worth an answer.
    Drop,
}

impl Shared {
    /// Decides one query. `bytes` bounds the reply.
    fn decide(&self, message: &[u8], client: IpAddr, bytes: Option<usize>, random: u64) -> (Next, Option<dns::Query>) {
        let query = match dns::parse(message) {
            Ok(query) => query,
            Err(None) => return (Next::Drop, None),
            Err(Some(code)) => return (Next::Reply(dns::refusal(message, code)), None),
        };
        let names = self.names.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !names.knows(&self.config.network_id, client)
            && !self.config.listen.contains(&client)
            && !is_of_this_host(client)
        {
            // A container of another network, or a neighbour of the host that routes by it: nothing here is its business.
            return (Next::Reply(dns::failure(message, &query, Code::Refused)), Some(query));
        }
        let asked = match self.config.names {
            true => names.ask(&self.config.network_id, &self.config.subnets, client, &query, random),
            false => Outcome::Unknown,
        };
        let next = match asked {
            Outcome::Answer(answer) => {
                Next::Reply(dns::reply(message, &query, &answer, bytes.unwrap_or_else(|| query.udp_bytes())))
            }
            // The host itself: answering names is fine, but asking on for it could go round for ever.
            Outcome::Unknown if !self.is_container(client) => Next::Reply(dns::failure(message, &query, Code::Refused)),
            Outcome::Unknown => match names.upstreams(&self.config.network_id, client) {
                Some(servers) => Next::Forward(servers),
                None => {
                    let answer = Answer::Negative(Code::NxDomain);
                    Next::Reply(dns::reply(message, &query, &answer, dns::PLAIN_BYTES))
                }
            },
        };
        (next, Some(query))
    }

    fn is_container(&self, client: IpAddr) -> bool {
        !self.config.listen.contains(&client) && self.config.subnets.iter().any(|subnet| subnet.contains(&client))
    }
}

/// Whether this host has an address: only then can a socket be bound to it.
fn is_of_this_host(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// What there is to do.
#[derive(Debug)]
struct Ready {
    /// A member's file changed.
    names: bool,
    /// UDP sockets with queries.
    sockets: Vec<usize>,
    /// TCP sockets with connections.
    listeners: Vec<usize>,
    /// Sockets of the forwarder with replies.
    upstreams: Vec<usize>,
}

/// The open sockets and the state of the loop.
#[derive(Debug)]
struct Server {
    shared: Arc<Shared>,
    watch: Watch,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    forwarder: Forwarder,
    random: u64,
    /// Whoever keeps the process has made this file.
    kept: PathBuf,
}

impl Server {
    fn open(config: &Config, folder: &Path) -> Result<Self, Error> {
        let mut names = Names::default();
        // Watched before read, so that nothing falls between.
        let watch = Watch::open(folder, &mut names).step(|| format!("watch {}", folder.display()))?;
        let mut udp = Vec::new();
        let mut tcp = Vec::new();
        for address in &config.listen {
            let address = SocketAddr::new(*address, PORT);
            let step = || format!("listen on {address} for the names of network {}", config.network);
            let socket = UdpSocket::bind(address).step(step)?;
            socket.set_nonblocking(true).step(step)?;
            udp.push(socket);
            let listener = TcpListener::bind(address).step(step)?;
            listener.set_nonblocking(true).step(step)?;
            tcp.push(listener);
        }
        let shared = Arc::new(Shared { config: config.clone(), names: RwLock::new(names) });
        let random = crate::time::now() | 1;
        let (forwarder, kept) = (Forwarder::new(config.listen.clone(), random), folder.join(KEPT));
        Ok(Self { shared, watch, udp, tcp, forwarder, random, kept })
    }

    /// Answers until the last member is gone.
    fn serve(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0u8; 4096];
        loop {
            let ready = self.wait()?;
            if ready.names && !self.update()? {
                return Ok(());
            }
            for at in ready.sockets {
                self.answer(at, &mut buffer);
            }
            for at in ready.listeners {
                while let Ok((stream, client)) = self.tcp[at].accept() {
                    tcp::spawn(stream, client, &self.shared);
                }
            }
            for at in ready.upstreams {
                self.forwarder.receive(at, &mut buffer, &self.udp);
            }
            self.forwarder.expire(&self.udp);
        }
    }

    /// Waits for work; returns whether names changed and which sockets are ready.
    fn wait(&self) -> Result<Ready, Error> {
        let mut polls = vec![PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
        polls.extend(self.udp.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        polls.extend(self.tcp.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        polls.extend(self.forwarder.sockets().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        let timeout = self.forwarder.timeout().map_or(PollTimeout::NONE, |wait| {
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polls, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(Error::Io { step: "wait for queries".to_owned(), source: errno.into() }),
        }
        let ready: Vec<bool> = polls.iter().map(|poll| poll.any().unwrap_or(false)).collect();
        let pick = |from: usize, count: usize| (0..count).filter(|at| ready[from + at]).collect::<Vec<_>>();
        let (udp, tcp) = (self.udp.len(), self.tcp.len());
        Ok(Ready {
            names: ready[0],
            sockets: pick(1, udp),
            listeners: pick(1 + udp, tcp),
            upstreams: pick(1 + udp + tcp, ready.len() - 1 - udp - tcp),
        })
    }

    /// Takes in changed members; returns whether any member of this network is left, or it is kept.
    fn update(&mut self) -> Result<bool, Error> {
        let mut names = self.shared.names.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.watch.update(&mut names).step(|| "read the members' files".to_owned())?;
        Ok(names.count(&self.shared.config.network_id) > 0 || self.kept.exists())
    }

    fn answer(&mut self, at: usize, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Ok((length, client)) = self.udp[at].recv_from(buffer) else { return };
            let message = &buffer[..length];
            self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            match self.shared.decide(message, client.ip(), None, self.random) {
                (Next::Reply(reply), _) => {
                    // A client that is gone or whose buffer is full asks again.
                    let _ = self.udp[at].send_to(&reply, client);
                }
                (Next::Forward(servers), Some(query)) => {
                    let question = forward::Question { listener: at, client, message: message.to_vec(), query };
                    self.forwarder.send(question, &servers, &self.udp);
                }
                (Next::Forward(_) | Next::Drop, _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_host_that_asks_itself_is_told_from_one_with_servers_elsewhere() {
        let (stub, local, far) = (ip("127.0.0.53"), ip("127.0.0.1"), ip("192.0.2.1"));
        assert!(hidden(&[local], &[]) && hidden(&[ip("::1"), local], &[far]) && hidden(&[stub], &[]));
        assert!(!hidden(&[stub], &[far]), "behind the stub there are servers");
        assert!(!hidden(&[local, far], &[]) && !hidden(&[], &[]));
    }

    #[test]
    fn strangers_are_refused_and_a_network_without_names_tells_none() {
        let config = |names| Config {
            version: VERSION,
            network: "web".to_owned(),
            network_id: "web".to_owned(),
            listen: vec![ip("10.0.0.1")],
            subnets: vec!["10.0.0.0/24".parse().expect("a network")],
            names,
        };
        let mut names = Names::default();
        names.set_further("web", std::iter::once(("shop".to_owned(), vec![ip("10.9.0.1")])).collect());
        let mut shared = Shared { config: config(true), names: RwLock::new(names) };
        let code = |shared: &Shared, client: &str| match shared.decide(&dns::query(1, "shop", 1), ip(client), None, 1) {
            (Next::Reply(reply), _) => reply[3] & 15,
            (other, _) => panic!("{other:?}"),
        };
        const REFUSED: u8 = 5;
        assert_eq!(code(&shared, "10.0.0.1"), 0, "the host itself");
        assert_eq!(code(&shared, "10.0.0.9"), REFUSED, "nobody has this address");
        assert_eq!(code(&shared, "10.0.7.7"), REFUSED, "a container of another network");
        shared.config = config(false);
        assert_eq!(code(&shared, "10.0.0.1"), REFUSED);
    }
}
