//! What clients and the monitor say to each other over `sock` in the container's run folder.
//!
//! A frame is one byte of kind, four bytes of length (little endian), the payload. Control frames hold one JSON object;
//! data frames hold raw bytes. The first frame of each side is `Hello` with its version: a monitor outlives upgrades, so
//! a client speaks the older of the two.

use crate::health::Entry;
use crate::restart::Policy;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The version this build speaks.
pub const VERSION: u32 = 1;

/// The largest payload either side accepts, in bytes: one read of a pipe is 64 KiB at most.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The file name of the socket.
pub const SOCKET: &str = "sock";

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A [`Request`] or [`Reply`].
    Control,
    /// Bytes for the container's stdin; an empty frame ends it.
    Stdin,
    /// Bytes of its stdout or terminal.
    Stdout,
    /// Bytes of its stderr.
    Stderr,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Control => b'J',
            Self::Stdin => b'0',
            Self::Stdout => b'1',
            Self::Stderr => b'2',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Self::Control, Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Request {
    /// The first frame.
    Hello {
        /// The client's [`VERSION`].
        version: u32,
    },
    /// Start the container now; only the command that started the monitor says so.
    Start,
    /// Send the container's output from now on, take its input.
    Attach {
        /// Whether this client will write to stdin.
        stdin: bool,
        /// Whether it wants stdout.
        stdout: bool,
        /// Whether it wants stderr.
        stderr: bool,
    },
    /// This client gives back mounts and addresses itself once it has heard of the final end. Should the connection end before
    /// it says [`Request::Cleaned`], the monitor does.
    CleanupIsMine,
    /// It has.
    Cleaned,
    /// The terminal's new size.
    Resize {
        /// Its rows.
        rows: u16,
        /// Its columns.
        columns: u16,
    },
    /// Send a signal to the first process.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Stop for good: signal, wait, kill.
    Stop {
        /// The signal; the container's own when absent.
        signal: Option<i32>,
        /// How long to wait before SIGKILL, in ms; for ever when absent.
        timeout_ms: Option<u64>,
    },
    /// Its processes were frozen or thawed.
    Paused {
        /// Whether they are frozen now.
        paused: bool,
    },
    /// This client is about to freeze the container for its own sake: should the connection end before it says `Paused` with
    /// `false`, the monitor thaws.
    ThawAfterMe,
    /// The container was connected to a network or disconnected from one.
    NetworksChanged,
    /// A new restart policy.
    Restart {
        /// The policy.
        policy: Policy,
    },
    /// A new name, for logs and events.
    Rename {
        /// The name.
        name: String,
    },
    /// Probe health now and answer with [`Reply::Probed`].
    Probe,
}

/// What the monitor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Reply {
    /// The first frame.
    Hello {
        /// The monitor's [`VERSION`].
        version: u32,
    },
    /// The container runs.
    Started {
        /// Its first process.
        pid: i32,
    },
    /// The container did not start.
    Failed {
        /// 125, 126 or 127.
        code: u8,
        /// Why.
        message: String,
    },
    /// The container ended.
    Exited {
        /// Its exit code.
        code: i32,
        /// No restart will follow; the monitor goes away.
        last: bool,
    },
    /// The request was carried out.
    Done,
    /// The request was refused.
    Refused {
        /// Why.
        message: String,
    },
    /// The result of a probe.
    Probed {
        /// What it said.
        entry: Entry,
    },
}

/// Appends one frame to a buffer.
pub fn put(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    for part in payload.chunks(PAYLOAD_BYTES_MAX) {
        put_one(out, kind, part);
    }
    if payload.is_empty() {
        put_one(out, kind, payload);
    }
}

fn put_one(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    out.push(kind.byte());
    let length = u32::try_from(payload.len()).expect("chunks are at most 64 KiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Appends one control frame.
pub fn put_control<T: Serialize>(out: &mut Vec<u8>, message: &T) {
    let text = serde_json::to_vec(message).expect("messages are plain data");
    put(out, Kind::Control, &text);
}

/// Takes the first whole frame off a buffer: its kind, the range of its payload and its full length.
pub fn take(buffer: &[u8]) -> io::Result<Option<(Kind, std::ops::Range<usize>)>> {
    let Some(head) = buffer.get(..5) else { return Ok(None) };
    let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let kind = Kind::of(head[0]).ok_or_else(|| io::Error::other("a frame of unknown kind"))?;
    if length > PAYLOAD_BYTES_MAX {
        return Err(io::Error::other("a frame that is too long"));
    }
    Ok((buffer.len() >= 5 + length).then_some((kind, 5..5 + length)))
}

/// What a client receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A control message.
    Reply(Reply),
    /// Output.
    Output(Kind, Vec<u8>),
}

/// What came within a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A control message.
    Said(Reply),
    /// Nothing yet.
    Silent,
    /// The monitor has gone.
    Gone,
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// What waits to be written.
    waiting: Vec<u8>,
}

impl Client {
    /// Connects to the monitor of the container with this run folder, however long its path.
    pub fn connect(run: &Path) -> io::Result<Self> {
        let folder = std::fs::File::open(run)?;
        let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))?;
        Self::over(stream)
    }

    /// Speaks over a stream that is already connected.
    pub fn over(stream: UnixStream) -> io::Result<Self> {
        let mut client = Self { stream, buffer: Vec::new(), waiting: Vec::new() };
        client.send(&Request::Hello { version: VERSION })?;
        Ok(client)
    }

    /// Sends a request.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.queue(request);
        self.write()
    }

    /// Sends bytes for stdin; nothing ends it.
    pub fn send_stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.queue_stdin(bytes);
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.stream.write_all(&waiting)
    }

    /// Takes in a request that [`Client::flush`] will send.
    pub fn queue(&mut self, request: &Request) {
        put_control(&mut self.waiting, request);
    }

    /// Takes in bytes for stdin that [`Client::flush`] will send; nothing ends it.
    pub fn queue_stdin(&mut self, bytes: &[u8]) {
        put(&mut self.waiting, Kind::Stdin, bytes);
    }

    /// Whether something waits to be sent.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what the monitor takes now. Whoever waits for it with both hands full of its output would wait for ever.
    pub fn flush(&mut self) -> io::Result<()> {
        use nix::sys::socket::{MsgFlags, send};
        while !self.waiting.is_empty() {
            match send(self.stream.as_raw_fd(), &self.waiting, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => {
                    self.waiting.clear();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// The socket, for polling.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Waits for the next message; `None` when the monitor has gone. `Hello` is taken in silently.
    pub fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(received) = self.buffered()? {
                return Ok(Some(received));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// The next message that has already arrived.
    pub fn buffered(&mut self) -> io::Result<Option<Received>> {
        while let Some((kind, payload)) = take(&self.buffer)? {
            let end = payload.end;
            let received = match kind {
                Kind::Control => {
                    Received::Reply(serde_json::from_slice(&self.buffer[payload]).map_err(io::Error::other)?)
                }
                other => Received::Output(other, self.buffer[payload].to_vec()),
            };
            self.buffer.drain(..end);
            if !matches!(received, Received::Reply(Reply::Hello { .. })) {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// Reads once; `false` at the end of the stream.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0u8; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`reply`](Self::reply), but waits no longer than `patience` for bytes to arrive.
    pub fn reply_within(&mut self, patience: Duration) -> io::Result<Word> {
        self.stream.set_read_timeout(Some(patience))?;
        let word = match self.reply() {
            Ok(Some(reply)) => Ok(Word::Said(reply)),
            Ok(None) => Ok(Word::Gone),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(Word::Silent)
            }
            Err(error) => Err(error),
        };
        self.stream.set_read_timeout(None)?;
        word
    }

    /// Waits for the next control message and drops output on the way.
    pub fn reply(&mut self) -> io::Result<Option<Reply>> {
        loop {
            match self.receive()? {
                Some(Received::Reply(reply)) => return Ok(Some(reply)),
                Some(Received::Output(..)) => {}
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut buffer = Vec::new();
        put_control(&mut buffer, &Request::Signal { signal: 15 });
        put(&mut buffer, Kind::Stdin, b"");
        put(&mut buffer, Kind::Stdout, &vec![7; PAYLOAD_BYTES_MAX + 1]);
        let mut kinds = Vec::new();
        while let Some((kind, payload)) = take(&buffer).unwrap() {
            kinds.push((kind, payload.len()));
            buffer.drain(..payload.end);
        }
        assert_eq!(kinds[1..], [(Kind::Stdin, 0), (Kind::Stdout, PAYLOAD_BYTES_MAX), (Kind::Stdout, 1)]);
    }

    #[test]
    fn long_and_unknown_frames_are_refused_before_anything_is_allocated() {
        assert!(take(&[b'1', 255, 255, 255, 255]).is_err());
        assert!(take(&[b'?', 0, 0, 0, 0]).is_err());
        assert_eq!(take(b"J\x05\0\0\0ab").unwrap(), None);
    }
}
