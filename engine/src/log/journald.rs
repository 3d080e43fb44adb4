//! The journal's native protocol: one datagram a line to `/run/systemd/journal/socket`, docker's field names.

use super::datagram::{Sender, Target};
use super::{Origin, Stream, TAG, pieces};
use crate::time::Nanos;
use std::io;

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    sender: Sender,
    fields: String,
}

impl Writer {
    pub(super) fn open(origin: &Origin) -> io::Result<Self> {
        let sender = Sender::open(Target::Unix("/run/systemd/journal/socket".into()))?;
        let short: String = origin.id.chars().take(12).collect();
        let tag = origin.tag();
        let fields = format!(
            "CONTAINER_ID={short}\nCONTAINER_ID_FULL={}\nCONTAINER_NAME={}\nCONTAINER_TAG={tag}\nIMAGE_NAME={}\nSYSLOG_IDENTIFIER={tag}\n",
            origin.id, origin.name, origin.image
        );
        let own = origin.attributes.iter().filter(|(name, _)| *name != TAG);
        // Without a length a value ends with its line.
        let own = own.map(|(name, value)| format!("{}={}\n", key(name), value.replace('\n', " ")));
        let fields = own.fold(fields, |fields, field| fields + &field);
        Ok(Self { sender, fields })
    }

    pub(super) fn write(&mut self, stream: Stream, _time: Nanos, text: &[u8]) -> io::Result<()> {
        let priority = if stream == Stream::Stderr { 3 } else { 6 };
        let mut done = Ok(());
        for piece in pieces(text) {
            let packet = |priority: u8, line: &[u8]| {
                let mut packet = format!("PRIORITY={priority}\n{}MESSAGE\n", self.fields).into_bytes();
                packet.extend_from_slice(&(line.len() as u64).to_le_bytes());
                packet.extend_from_slice(line);
                packet.push(b'\n');
                packet
            };
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            let told = |lost: u64| packet(4, format!("{lost} lines were lost").as_bytes());
            // Every line is tried, also after one that failed.
            let sent = self.sender.send(&packet(priority, line), told);
            done = done.and(sent);
        }
        done
    }
}

/// A name as the journal takes it from anybody: capitals, digits and underscores, beginning with a letter.
fn key(name: &str) -> String {
    let good = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let key: String = name.chars().map(good).collect();
    let key = key.trim_start_matches('_');
    if key.starts_with(|letter: char| letter.is_ascii_alphabetic()) { key.to_owned() } else { format!("X_{key}") }
}
