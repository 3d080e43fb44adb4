//! syslog: RFC 3164 datagrams to `/dev/log`, another unix socket or a UDP address.

use super::{LogConfig, Origin, Stream, pieces};
use crate::time::Nanos;
use std::io;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

/// Where lines go.
#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    socket: Socket,
    facility: u8,
    tag: String,
}

/// The number of a facility by its name in syslog(3).
pub(super) fn facility(name: &str) -> Option<u8> {
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
        "security", "console", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
    ];
    NAMES.iter().position(|known| *known == name).and_then(|at| u8::try_from(at).ok())
}

impl Writer {
    pub(super) fn open(config: &LogConfig, origin: &Origin) -> io::Result<Self> {
        let address = config.options.get("syslog-address").map_or("unixgram:///dev/log", String::as_str);
        let socket = match address.strip_prefix("udp://") {
            Some(target) => {
                // The lean monitor has no name service: the address is numeric.
                let target: std::net::SocketAddr =
                    target.parse().map_err(|_| io::Error::other("syslog-address: a numeric HOST:PORT is needed"))?;
                let socket = UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
                socket.connect(target)?;
                Socket::Udp(socket)
            }
            None => {
                let path = address.split_once("://").map_or(address, |(_, path)| path);
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Socket::Unix(socket)
            }
        };
        let tag = origin.tag();
        let facility = config.options.get("syslog-facility").and_then(|name| facility(name)).unwrap_or(3);
        Ok(Self { socket, facility, tag })
    }

    pub(super) fn write(&mut self, stream: Stream, _time: Nanos, text: &[u8]) -> io::Result<()> {
        let severity = if stream == Stream::Stderr { 3 } else { 6 };
        for piece in pieces(text) {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let mut packet = format!("<{}>{}: ", self.facility * 8 + severity, self.tag).into_bytes();
            packet.extend_from_slice(line);
            // A syslog daemon that is away loses lines, as everywhere; the container is not stopped for it.
            match &self.socket {
                Socket::Unix(socket) => socket.send(&packet).ok(),
                Socket::Udp(socket) => socket.send(&packet).ok(),
            };
        }
        Ok(())
    }
}
