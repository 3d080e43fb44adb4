//! podman's and CRI's `k8s-file`: `TIME STREAM F|P TEXT` lines.

use super::{Stream, pieces, rotate};
use crate::time::{Nanos, rfc3339};
use std::io;

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    file: rotate::File,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn open(file: rotate::File) -> Self {
        Self { file, buffer: Vec::new() }
    }

    pub(super) fn write(&mut self, stream: Stream, time: Nanos, text: &[u8]) -> io::Result<()> {
        let time = rfc3339(time);
        for piece in pieces(text) {
            let (line, tag) = piece.strip_suffix(b"\n").map_or((piece, "P"), |line| (line, "F"));
            self.buffer.extend_from_slice(format!("{time} {} {tag} ", stream.as_str()).as_bytes());
            self.buffer.extend_from_slice(line);
            self.buffer.push(b'\n');
        }
        let answer = self.file.append(&self.buffer);
        self.buffer.clear();
        answer
    }
}
