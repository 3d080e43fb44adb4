//! syslog: RFC 3164 datagrams to `/dev/log`, another unix socket or a UDP address.

use super::datagram::{Sender, Target};
use super::{LogConfig, Origin, Stream, pieces};
use crate::time::Nanos;
use std::io;

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
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
        let target = match address.strip_prefix("udp://") {
            // The lean monitor has no name service: the address is numeric.
            Some(target) => Target::Udp(
                target.parse().map_err(|_| io::Error::other("syslog-address: a numeric HOST:PORT is needed"))?,
            ),
            None => Target::Unix(address.split_once("://").map_or(address, |(_, path)| path).into()),
        };
        let tag = origin.tag();
        let facility = config.options.get("syslog-facility").and_then(|name| facility(name)).unwrap_or(3);
        Ok(Self { sender: Sender::open(target)?, facility, tag })
    }

    pub(super) fn write(&mut self, stream: Stream, _time: Nanos, text: &[u8]) -> io::Result<()> {
        let severity = if stream == Stream::Stderr { 3 } else { 6 };
        let mut done = Ok(());
        for piece in pieces(text) {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let packet = |severity: u8, line: &[u8]| {
                let mut packet = format!("<{}>{}: ", self.facility * 8 + severity, self.tag).into_bytes();
                packet.extend_from_slice(line);
                packet
            };
            // A syslog daemon that is away loses lines, as everywhere; the container is not stopped for it.
            let told = |lost: u64| packet(4, format!("{lost} lines were lost").as_bytes());
            // Every line is tried, also after one that failed.
            let sent = self.sender.send(&packet(severity, line), told);
            done = done.and(sent);
        }
        done
    }
}
