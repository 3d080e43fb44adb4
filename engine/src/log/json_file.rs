//! docker's `json-file`: one object a line, `{"log":"…\n","stream":"stdout","time":"…"}`.

use super::{Stream, pieces, rotate};
use crate::time::{Nanos, rfc3339};
use std::collections::BTreeMap;
use std::io;

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    file: rotate::File,
    buffer: Vec<u8>,
    /// `,"attrs":{…}`, empty without any.
    attributes: String,
}

/// One write goes out when this much has gathered, so that a flood of lines does not hold memory.
const BATCH_BYTES: usize = 32 * 1024;

impl Writer {
    pub(super) fn open(file: rotate::File, attributes: &BTreeMap<String, String>) -> Self {
        let attributes = match attributes.is_empty() {
            true => String::new(),
            false => format!(",\"attrs\":{}", serde_json::json!(attributes)),
        };
        Self { file, buffer: Vec::new(), attributes }
    }

    pub(super) fn write(&mut self, stream: Stream, time: Nanos, text: &[u8]) -> io::Result<()> {
        let time = rfc3339(time);
        for piece in pieces(text) {
            self.buffer.extend_from_slice(b"{\"log\":\"");
            escape(piece, &mut self.buffer);
            self.buffer.extend_from_slice(b"\",\"stream\":\"");
            self.buffer.extend_from_slice(stream.as_str().as_bytes());
            self.buffer.push(b'"');
            self.buffer.extend_from_slice(self.attributes.as_bytes());
            self.buffer.extend_from_slice(b",\"time\":\"");
            self.buffer.extend_from_slice(time.as_bytes());
            self.buffer.extend_from_slice(b"\"}\n");
            if self.buffer.len() >= BATCH_BYTES {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let answer = self.file.append(&self.buffer);
        self.buffer.clear();
        answer
    }
}

/// Writes bytes as the inside of a JSON string; bytes that are not UTF-8 become U+FFFD, as docker does.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}
