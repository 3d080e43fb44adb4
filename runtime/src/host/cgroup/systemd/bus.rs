//! A connection to systemd: the bus of the system or of the user, or systemd's own socket where there is no bus.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::wire::{self, Message, Reader, Writer};
use super::{MANAGER, SYSTEMD};

/// How long one answer may take. systemd answers in a millisecond; a bus that is stuck should be reported soon.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Signals of other units that may arrive while we wait for an answer; older ones are dropped.
const SIGNALS_MAX: usize = 256;

/// The longest line of the greeting.
const LINE_BYTES_MAX: usize = 1024;

/// Why systemd did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Nobody answers.
    #[error(
        "cannot reach the bus at {address}: {}; is systemd running? --cgroup-manager cgroupfs works without it",
        crate::error::words(.cause)
    )]
    Unreachable {
        /// The sockets that were tried.
        address: String,
        /// What the kernel answered last.
        cause: io::Error,
    },
    /// The connection broke or timed out.
    #[error("{step}: {}", crate::error::words(.cause))]
    Broken {
        /// What was being done.
        step: String,
        /// What the kernel answered.
        cause: io::Error,
    },
    /// The other side does not speak D-Bus as we do.
    #[error("{step}: unexpected answer {answer:?}")]
    Strange {
        /// What was being done.
        step: String,
        /// What came.
        answer: String,
    },
    /// systemd refused.
    #[error("{method}: {name}: {message}")]
    Refused {
        /// The method called.
        method: String,
        /// The name of the error.
        name: String,
        /// Its text.
        message: String,
    },
    /// The job ended otherwise than well.
    #[error("the job of unit {unit} ended with {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// `failed`, `canceled`, `timeout`, `dependency` or `skipped`.
        result: String,
    },
    /// The job did not end in time.
    #[error("systemd did not finish the job of unit {unit} in time")]
    JobTimeout {
        /// The unit.
        unit: String,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    signals: VecDeque<Message>,
    /// Whether a bus stands between us and systemd: it wants a greeting and a destination.
    brokered: bool,
}

fn addresses(user: bool) -> Vec<(PathBuf, bool)> {
    let from = |name: &str| {
        let text = std::env::var(name).ok()?;
        // `unix:path=/run/dbus/system_bus_socket,guid=…;…`: the first address that is a path.
        let path = text
            .split(';')
            .find_map(|one| one.strip_prefix("unix:")?.split(',').find_map(|key| key.strip_prefix("path=")));
        path.map(PathBuf::from)
    };
    let runtime = || std::env::var("XDG_RUNTIME_DIR").map(PathBuf::from).ok();
    let found = if user {
        [
            from("DBUS_SESSION_BUS_ADDRESS").or_else(|| Some(runtime()?.join("bus"))),
            runtime().map(|dir| dir.join("systemd/private")),
        ]
    } else {
        let usual = || Some(PathBuf::from("/run/dbus/system_bus_socket"));
        [from("DBUS_SYSTEM_BUS_ADDRESS").or_else(usual), Some(PathBuf::from("/run/systemd/private"))]
    };
    found.into_iter().zip([true, false]).filter_map(|(path, brokered)| Some((path?, brokered))).collect()
}

impl Bus {
    pub(super) fn connect(user: bool) -> Result<Self, BusError> {
        let addresses = addresses(user);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address: XDG_RUNTIME_DIR is not set");
        for (path, brokered) in &addresses {
            match dial(path) {
                Ok(stream) => return Self::greet(stream, *brokered),
                Err(error) => last = error,
            }
        }
        let tried: Vec<String> = addresses.iter().map(|(path, _)| path.display().to_string()).collect();
        Err(BusError::Unreachable { address: tried.join(" or "), cause: last })
    }

    /// SASL EXTERNAL: the kernel vouches for who we are.
    pub(super) fn greet(stream: UnixStream, brokered: bool) -> Result<Self, BusError> {
        let mut bus = Self { stream, serial: 0, signals: VecDeque::new(), brokered };
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.send(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let line = bus.line()?;
        if !line.starts_with("OK ") {
            return Err(BusError::Strange { step: "authenticate to the bus".to_owned(), answer: line });
        }
        bus.send(b"BEGIN\r\n")?;
        if brokered {
            let name = "org.freedesktop.DBus";
            bus.call(name, "/org/freedesktop/DBus", name, "Hello", "", Writer::default())?;
            let mut body = Writer::default();
            body.string("type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'");
            bus.call(name, "/org/freedesktop/DBus", name, "AddMatch", "s", body)?;
        }
        Ok(bus)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        let broken = |cause| BusError::Broken { step: "write to the bus".to_owned(), cause };
        self.stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
        self.stream.write_all(bytes).map_err(broken)
    }

    fn line(&mut self) -> Result<String, BusError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < LINE_BYTES_MAX {
            let mut byte = [0];
            self.fill(&mut byte, deadline)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads exactly, until the deadline: a trickle of bytes does not prolong it.
    fn fill(&mut self, mut buffer: &mut [u8], deadline: Instant) -> Result<(), BusError> {
        let broken = |cause| BusError::Broken { step: "read from the bus".to_owned(), cause };
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(broken)?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(broken(io::ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(broken(error)),
            }
            if Instant::now() >= deadline && !buffer.is_empty() {
                return Err(broken(io::ErrorKind::TimedOut.into()));
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message, BusError> {
        let strange = |answer: &[u8]| BusError::Strange {
            step: "read from the bus".to_owned(),
            answer: String::from_utf8_lossy(&answer[..answer.len().min(32)]).into_owned(),
        };
        let mut head = [0; 16];
        self.fill(&mut head, deadline)?;
        let total = wire::length(&head).ok_or_else(|| strange(&head))?;
        let mut bytes = vec![0; total];
        bytes[..16].copy_from_slice(&head);
        self.fill(&mut bytes[16..], deadline)?;
        wire::parse(&bytes).ok_or_else(|| strange(&bytes))
    }

    /// Calls a method and waits for its answer; signals that come meanwhile are kept.
    pub(super) fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        method: &str,
        signature: &str,
        body: Writer,
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let serial = self.serial;
        let all = [(1, path), (2, interface), (3, method), (6, destination)];
        let fields = if self.brokered { &all[..] } else { &all[..3] };
        self.send(&wire::call(serial, fields, signature, body))?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                2 if message.reply_to == serial => return Ok(message),
                3 if message.reply_to == serial => {
                    let text = Reader::new(&message.body).string().unwrap_or_default();
                    return Err(BusError::Refused { method: method.to_owned(), name: message.error, message: text });
                }
                4 => self.keep(message),
                _ => {}
            }
        }
    }

    fn keep(&mut self, signal: Message) {
        if signal.member != "JobRemoved" {
            return;
        }
        if self.signals.len() == SIGNALS_MAX {
            self.signals.pop_front();
        }
        self.signals.push_back(signal);
    }

    /// Calls a method of systemd that starts a job, and waits for the end of the job.
    pub(super) fn job(
        &mut self,
        method: &str,
        signature: &str,
        body: Writer,
        unit: &str,
        deadline: Instant,
    ) -> Result<(), BusError> {
        let root = "/org/freedesktop/systemd1";
        // Without a subscriber systemd does not send the signal.
        match self.call(SYSTEMD, root, MANAGER, "Subscribe", "", Writer::default()) {
            Err(BusError::Refused { name, .. }) if name.ends_with("AlreadySubscribed") => {}
            result => drop(result?),
        }
        let answer = self.call(SYSTEMD, root, MANAGER, method, signature, body)?;
        let job = Reader::new(&answer.body).string();
        let job = job.ok_or_else(|| BusError::Strange { step: method.to_owned(), answer: answer.signature.clone() })?;
        loop {
            let signal = match self.signals.pop_front() {
                Some(signal) => signal,
                None => match self.receive(deadline) {
                    Ok(message) if message.kind == 4 => message,
                    Ok(_) => continue,
                    Err(BusError::Broken { cause, .. }) if cause.kind() == io::ErrorKind::TimedOut => {
                        return Err(BusError::JobTimeout { unit: unit.to_owned() });
                    }
                    Err(error) => return Err(error),
                },
            };
            if signal.member != "JobRemoved" {
                continue;
            }
            // u id, o job, s unit, s result
            let mut reader = Reader::new(&signal.body);
            let parsed = (reader.u32(), reader.string(), reader.string(), reader.string());
            let (Some(_), Some(ended), Some(_), Some(result)) = parsed else { continue };
            if ended == job {
                return if result == "done" { Ok(()) } else { Err(BusError::Job { unit: unit.to_owned(), result }) };
            }
        }
    }

    /// A property of systemd that is a string.
    pub(super) fn property(&mut self, interface: &str, name: &str) -> Result<String, BusError> {
        let mut body = Writer::default();
        body.string(interface);
        body.string(name);
        let path = "/org/freedesktop/systemd1";
        let answer = self.call(SYSTEMD, path, "org.freedesktop.DBus.Properties", "Get", "ss", body)?;
        let mut reader = Reader::new(&answer.body);
        let text = match reader.signature().as_deref() {
            Some("s") => reader.string(),
            _ => None,
        };
        text.ok_or_else(|| BusError::Strange { step: format!("property {name}"), answer: answer.signature })
    }

    /// systemd's version: the number at the front of `252.17-1~deb12u1` or `v245`.
    pub(super) fn version(&mut self) -> Result<u32, BusError> {
        let text = self.property(MANAGER, "Version")?;
        let digits: String = text.trim_start_matches('v').chars().take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| BusError::Strange { step: "systemd's version".to_owned(), answer: text })
    }
}

/// Connects with a time limit: the queue of a socket whose owner is stuck may be full.
fn dial(path: &PathBuf) -> io::Result<UnixStream> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::seconds(i64::try_from(ANSWER_TIMEOUT.as_secs()).unwrap_or(10));
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}
