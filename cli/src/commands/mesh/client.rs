//! A small blocking HTTP/1.1 client of the node's API over its unix socket: one request a connection, bodies with a length
//! or in chunks, server-sent events line by line.

use crate::commands::Global;
use crate::error::Error;
use clap::Args;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The largest answer that is read into memory.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// The longest line of a header or an event.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long an answer may take: a node under load answers in milliseconds, an eviction in seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Which node is asked.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct At {
    /// The node's socket, by default this host's: unix:///PATH
    #[arg(long, env = "SHOAL_HOST", hide_env_values = true, value_name = "unix://PATH")]
    pub(crate) host: Option<String>,
}

/// Where a node answers.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    status: u16,
    pub(crate) body: Vec<u8>,
}

/// The folders of this command.
pub(crate) fn roots(global: &Global) -> Result<engine::Roots, Error> {
    Ok(engine::Roots::from_option(global.root.as_deref())?)
}

impl Client {
    /// Names the node: `--host`, else the one below the root.
    pub(crate) fn new(global: &Global, at: &At) -> Result<Self, Error> {
        let socket = match &at.host {
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) => PathBuf::from(path),
                None => return Err(Error::new(format!("{host:?} is not unix:///PATH")).code(2)),
            },
            None => roots(global)?.run.join("node.sock"),
        };
        Ok(Self { socket })
    }

    /// Sends one request and reads the whole answer.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Error> {
        let mut reader = self.request(method, path, body)?;
        let head = Head::read(&mut reader)?;
        let mut bytes = Vec::new();
        head.body(reader).take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Answer { status: head.status, body: bytes })
    }

    /// Reads JSON.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send("GET", path, &[])?.json()
    }

    /// Follows server-sent events until the node ends or `each` says stop by returning false.
    pub(crate) fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str, &str) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut reader = self.request("GET", path, &[])?;
        reader.get_ref().set_read_timeout(None)?;
        let head = Head::read(&mut reader)?;
        if head.status != 200 {
            let mut bytes = Vec::new();
            head.body(reader).take(LINE_BYTES_MAX).read_to_end(&mut bytes)?;
            Answer { status: head.status, body: bytes }.ok()?;
            return Ok(());
        }
        let mut lines = BufReader::new(head.body(reader));
        let (mut kind, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if (&mut lines).take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Err(Error::new("the node ended the connection").hint("shoal mesh status"));
            }
            let line = line.trim_end_matches(['\r', '\n']);
            if let Some(value) = line.strip_prefix("event: ") {
                value.clone_into(&mut kind);
            } else if let Some(value) = line.strip_prefix("data: ") {
                data.push_str(value);
            } else if line.is_empty() && !data.is_empty() {
                if !each(&kind, &data)? {
                    return Ok(());
                }
                kind.clear();
                data.clear();
            }
        }
    }

    /// The process that answers on the socket.
    pub(crate) fn process(&self) -> Result<Process, Error> {
        let stream = self.connect()?;
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Process { pid: peer.pid(), started: started(peer.pid()) })
    }

    fn connect(&self) -> Result<UnixStream, Error> {
        scheduler::node::socket::connect(&self.socket).map_err(|error| {
            Error::new(format!("no node answers on {}: {error}", self.socket.display()))
                .hint("start one with `shoal mesh up --detach`")
        })
    }

    fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<BufReader<UnixStream>, Error> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        Ok(BufReader::new(stream))
    }
}

/// A process by its number and the time it began, so that a number used again is not taken for it.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    started: Option<String>,
}

impl Process {
    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended yet.
    pub(crate) fn runs(&self) -> bool {
        self.started.is_some() && started(self.pid) == self.started
    }
}

/// When a process began, in the kernel's words; `None` once it has ended, reaped or not (proc(5), fields 3 and 22).
fn started(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

impl Answer {
    /// Turns a problem into an error: its detail is the message. A conflict has exit code 5.
    pub(crate) fn ok(self) -> Result<Self, Error> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("the node gave no reason");
        let error = Error::new(detail);
        Err(if self.status == 409 { error.code(5) } else { error })
    }

    /// Reads the answer as JSON.
    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let answer = self.ok()?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| Error::new(format!("the node's answer is not understood: {error}")))
    }
}

/// What stands before a body.
#[derive(Debug)]
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> Result<Self, Error> {
        let bad = || Error::new("the node's answer is not HTTP");
        let mut line = String::new();
        reader.take(LINE_BYTES_MAX).read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
        let mut head = Self { status, length: None, chunked: false };
        loop {
            let mut line = String::new();
            if reader.take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Err(bad());
            }
            let line = line.trim();
            if line.is_empty() {
                return Ok(head);
            }
            let (name, value) = line.split_once(':').ok_or_else(bad)?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = Some(value.trim().parse().map_err(|_| bad())?),
                "transfer-encoding" => head.chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
    }

    fn body<R: BufRead>(&self, reader: R) -> Body<R> {
        let left = if self.chunked { 0 } else { self.length.unwrap_or(u64::MAX) };
        Body { reader, chunked: self.chunked, left, ended: false }
    }
}

/// A body, its chunks joined.
struct Body<R> {
    reader: R,
    chunked: bool,
    left: u64,
    ended: bool,
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && self.chunked && !self.ended {
            let mut line = String::new();
            (&mut self.reader).take(64).read_line(&mut line)?;
            if line.trim().is_empty() {
                // The line end after a chunk.
                line.clear();
                (&mut self.reader).take(64).read_line(&mut line)?;
            }
            let bad = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, "not a chunk");
            self.left = u64::from_str_radix(line.trim().split(';').next().unwrap_or(""), 16).map_err(bad)?;
            self.ended = self.left == 0;
        }
        if self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let count = self.reader.read(&mut out[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Encodes a part of a path or a query.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_lengths_are_kept() {
        let mut text =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".as_bytes();
        let head = Head::read(&mut text).unwrap();
        let mut body = String::new();
        head.body(text).read_to_string(&mut body).unwrap();
        assert_eq!(body, "abcde");
        let mut text = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nokmore".as_bytes();
        let head = Head::read(&mut text).unwrap();
        let mut body = String::new();
        head.body(text).read_to_string(&mut body).unwrap();
        assert_eq!((head.status, body.as_str()), (404, "ok"));
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("a b/ü"), "a%20b/%C3%BC");
    }
}
