//! One client of the monitor: bytes in, bytes out, never blocking, always bounded.

use super::protocol::{self, Kind, Reply, Request};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

/// How much output may wait for a slow client before the container's output is no longer read, in bytes.
pub(super) const WAITING_BYTES_MAX: usize = 256 * 1024;

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// It wants output of these two.
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// It writes to stdin.
    pub(super) stdin: bool,
    /// It cleans up after the end.
    pub(super) cleans_up: bool,
    /// What it has frozen is thawed when it goes.
    pub(super) freezes: bool,
    /// Its first frame was a `Hello` of a version we know.
    greeted: bool,
}

/// What came from a client.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(Request),
    Stdin(Vec<u8>),
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut connection = Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            stdout: false,
            stderr: false,
            stdin: false,
            cleans_up: false,
            freezes: false,
            greeted: false,
        };
        connection.reply(&Reply::Hello { version: protocol::VERSION });
        Ok(connection)
    }

    /// Whether bytes wait to be written.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether it is so slow that the container's output must wait.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() > WAITING_BYTES_MAX
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        protocol::put_control(&mut self.output, reply);
    }

    pub(super) fn data(&mut self, kind: Kind, bytes: &[u8]) {
        protocol::put(&mut self.output, kind, bytes);
    }

    /// Writes what the socket takes; `false` when the client is gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.output.is_empty() && self.output.capacity() > WAITING_BYTES_MAX / 8 {
            self.output = Vec::new();
        }
        true
    }

    /// Reads once and hands out whole frames; an error means the client is gone or speaks nonsense.
    pub(super) fn fill(&mut self) -> io::Result<Vec<Incoming>> {
        let mut bytes = [0u8; 8 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let mut frames = Vec::new();
        let mut at = 0;
        while let Some((kind, payload)) = protocol::take(&self.input[at..])? {
            let bytes = &self.input[at + payload.start..at + payload.end];
            match kind {
                Kind::Control => match serde_json::from_slice(bytes) {
                    Ok(Request::Hello { version: 0 }) => return Err(io::Error::other("version 0")),
                    Ok(Request::Hello { .. }) => self.greeted = true,
                    Ok(_) if !self.greeted => return Err(io::Error::other("no greeting")),
                    Ok(request) => {
                        if let Request::Attach { stdin, .. } = request {
                            // Its first input may be in the same read.
                            self.stdin = stdin;
                        }
                        frames.push(Incoming::Request(request));
                    }
                    // A request of a newer client: it is told, and the connection goes on.
                    Err(_) => self.reply(&Reply::Refused { message: "this monitor is older than the command".into() }),
                },
                Kind::Stdin if self.stdin => frames.push(Incoming::Stdin(bytes.to_vec())),
                _ => return Err(io::Error::other("unexpected data")),
            }
            at += payload.end;
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        Ok(frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_in_the_same_read_as_its_attachment_is_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        let mut bytes = Vec::new();
        protocol::put_control(&mut bytes, &Request::Hello { version: protocol::VERSION });
        protocol::put_control(&mut bytes, &Request::Attach { stdin: true, stdout: true, stderr: false });
        protocol::put(&mut bytes, Kind::Stdin, b"early");
        theirs.write_all(&bytes).unwrap();
        let frames = connection.fill().unwrap();
        assert!(
            matches!(&frames[..], [Incoming::Request(Request::Attach { .. }), Incoming::Stdin(text)] if text == b"early")
        );
        // Who has not attached has no input to give.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        let mut bytes = Vec::new();
        protocol::put_control(&mut bytes, &Request::Hello { version: protocol::VERSION });
        protocol::put(&mut bytes, Kind::Stdin, b"x");
        theirs.write_all(&bytes).unwrap();
        assert!(connection.fill().is_err());
    }
}
