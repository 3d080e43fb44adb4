//! DNS over TCP: for answers that do not fit a datagram. One thread a connection, few at once, each with a short patience.

use super::forward::{answers, host_servers};
use super::{Next, Shared};
use crate::network::dns::{self, Code};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections at once: a client that meets the limit tries again; memory stays below 2 MiB.
const CONNECTIONS_MAX: usize = 32;
/// How long a client or a server may be silent.
const PATIENCE: Duration = Duration::from_secs(3);
/// Questions on one connection.
const QUESTIONS_MAX: usize = 64;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Serves one connection on a thread of its own; one too many is closed.
pub(super) fn spawn(stream: TcpStream, client: SocketAddr, shared: &Arc<Shared>) {
    if CONNECTIONS.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
        CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("tcp".to_owned()).stack_size(64 * 1024).spawn(move || {
        // A client that breaks off is its own affair.
        let _ = serve(stream, client.ip(), &shared);
        CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
    });
    if thread.is_err() {
        CONNECTIONS.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(mut stream: TcpStream, client: IpAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for number in 0..QUESTIONS_MAX {
        let message = read_message(&mut stream)?;
        let random = crate::time::now().wrapping_add(number as u64);
        let reply = match shared.decide(&message, client, Some(65_535), random) {
            (Next::Reply(reply), _) => reply,
            (Next::Forward(servers), Some(query)) => {
                let own = &shared.config.listen;
                let servers = if servers.is_empty() {
                    host_servers(own)
                } else {
                    servers
                        .into_iter()
                        .filter(|server| !own.contains(server))
                        .map(|server| SocketAddr::new(server, 53))
                        .collect()
                };
                servers
                    .into_iter()
                    .find_map(|server| ask(server, &message).ok())
                    .unwrap_or_else(|| dns::failure(&message, &query, Code::ServFail))
            }
            (Next::Forward(_) | Next::Drop, _) => return Ok(()),
        };
        write_message(&mut stream, &reply)?;
    }
    Ok(())
}

fn ask(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write_message(&mut stream, message)?;
    let reply = read_message(&mut stream)?;
    if reply.get(..2) == message.get(..2) && answers(&reply, message) {
        Ok(reply)
    } else {
        Err(io::Error::other("the answer to another question"))
    }
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("the reply is longer than 65,535 bytes"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed)
}
