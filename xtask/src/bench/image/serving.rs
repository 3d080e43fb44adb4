//! A registry under load: small requests, a large upload, a large download; what counts is the server's CPU.

use super::fixture::Daemon;
use crate::shell::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Small requests a round: seconds of CPU for the slower side.
const SMALL: usize = 4000;
/// Bytes of the blob that is sent and fetched.
const BLOB_BYTES: usize = 256 << 20;

/// CPU of one server for each kind of work, in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// A thousand manifests asked for with GET.
    pub(crate) get: f64,
    /// A thousand asked for with HEAD.
    pub(crate) head: f64,
    /// A gigabyte sent.
    pub(crate) put: f64,
    /// A gigabyte of blob fetched.
    pub(crate) blob: f64,
}

/// A blob of its own for each round, so that nothing is there already.
pub(crate) fn blob(round: u8) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(round);
    let mut bytes = Vec::with_capacity(BLOB_BYTES);
    while bytes.len() < BLOB_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Takes the four figures of a server that has the image `bench:1`.
pub(crate) fn load(server: &Daemon, address: &str, bytes: &[u8], digest: &str) -> Result<Load> {
    let mut client = Client::connect(address)?;
    let mut spent = |work: &mut dyn FnMut(&mut Client) -> Result<()>| {
        let before = server.cpu_ms()?;
        work(&mut client)?;
        Ok::<_, String>(server.cpu_ms()? - before)
    };
    let manifest = "/v2/bench/manifests/1";
    // Warm.
    spent(&mut |client| client.ask("GET", manifest, &[]).map(drop))?;
    let get = spent(&mut |client| (0..SMALL).try_for_each(|_| client.ask("GET", manifest, &[]).map(drop)))?;
    let head = spent(&mut |client| (0..SMALL).try_for_each(|_| client.ask("HEAD", manifest, &[]).map(drop)))?;
    let put = spent(&mut |client| {
        let location = client.ask("POST", "/v2/bench/blobs/uploads/", &[])?;
        let path = location.strip_prefix(&format!("http://{address}")).unwrap_or(&location).to_owned();
        let sign = if path.contains('?') { '&' } else { '?' };
        client.ask("PUT", &format!("{path}{sign}digest={digest}"), bytes).map(drop)
    })?;
    let fetch = spent(&mut |client| client.ask("GET", &format!("/v2/bench/blobs/{digest}"), &[]).map(drop))?;
    let thousands = count(SMALL) / 1000.0;
    let gigabytes = count(BLOB_BYTES) / 1e9;
    Ok(Load { get: get / thousands, head: head / thousands, put: put / gigabytes, blob: fetch / gigabytes })
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

/// One connection that is kept.
struct Client {
    host: String,
    stream: BufReader<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).map_err(|error| format!("connect to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Self {
            host: address.to_owned(),
            stream: BufReader::with_capacity(1 << 20, stream),
            buffer: vec![0; 1 << 20],
        })
    }

    /// Asks, reads the whole answer, returns its `Location`.
    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<String> {
        self.exchange(method, path, body).map_err(|error| format!("{method} {path} at {}: {error}", self.host))?
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Result<String>> {
        let accept = "application/vnd.oci.image.manifest.v1+json";
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let (mut line, mut length, mut location) = (String::new(), 0, String::new());
        let _ = self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            line.clear();
            let _ = self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap_or(0),
                "location" => value.trim().clone_into(&mut location),
                _ => {}
            }
        }
        if method == "HEAD" {
            length = 0;
        }
        while length > 0 {
            let want = self.buffer.len().min(length);
            let read = self.stream.read(&mut self.buffer[..want])?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            length -= read;
        }
        Ok(if status.starts_with('2') {
            Ok(location)
        } else {
            Err(format!("{method} {path} at {}: {status}", self.host))
        })
    }
}
