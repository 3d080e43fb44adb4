//! The journal's native protocol: one datagram a line to `/run/systemd/journal/socket`, docker's field names.

use super::{LogConfig, Origin, Stream, pieces};
use crate::time::Nanos;
use std::io;
use std::os::unix::net::UnixDatagram;

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    socket: UnixDatagram,
    fields: String,
}

impl Writer {
    pub(super) fn open(config: &LogConfig, origin: &Origin) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/run/systemd/journal/socket")?;
        let short: String = origin.id.chars().take(12).collect();
        let tag = config.options.get("tag").unwrap_or(&short);
        let fields = format!(
            "CONTAINER_ID={short}\nCONTAINER_ID_FULL={}\nCONTAINER_NAME={}\nCONTAINER_TAG={tag}\nIMAGE_NAME={}\nSYSLOG_IDENTIFIER={tag}\n",
            origin.id, origin.name, origin.image
        );
        Ok(Self { socket, fields })
    }

    pub(super) fn write(&mut self, stream: Stream, _time: Nanos, text: &[u8]) -> io::Result<()> {
        let priority = if stream == Stream::Stderr { 3 } else { 6 };
        for piece in pieces(text) {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let mut packet = format!("PRIORITY={priority}\n{}MESSAGE\n", self.fields).into_bytes();
            packet.extend_from_slice(&(line.len() as u64).to_le_bytes());
            packet.extend_from_slice(line);
            packet.push(b'\n');
            self.socket.send(&packet).ok();
        }
        Ok(())
    }
}
