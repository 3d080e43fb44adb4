//! Writes tar streams: ustar, with a PAX header where an entry does not fit into one.
//!
//! In: entries and their data. Out: bytes that depend on nothing else: no clock, no user names, no random order. What the
//! ustar header cannot say exactly (long or non-ASCII names, large numbers, fractions of a second, xattrs) goes into PAX.

use crate::layer::tar::{BLOCK, Entry, Kind};
use std::io::{self, Read, Write};

/// [`BLOCK`] as a length.
const BLOCK_BYTES: usize = 512;
/// The largest number in an octal field of twelve bytes.
const OCTAL_11_MAX: u64 = 0o77_777_777_777;
/// The largest number in an octal field of eight bytes.
const OCTAL_7_MAX: u64 = 0o7_777_777;

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes an entry without data: a link, a directory, a device, a pipe, an empty file.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.header(entry, 0)
    }

    /// Writes a regular file whose `entry.size` bytes come from `data`. Fewer bytes are an error; more are not read.
    pub fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        self.header(entry, entry.size)?;
        let copied = io::copy(&mut data.take(entry.size), &mut self.inner)?;
        if copied != entry.size {
            let name = String::from_utf8_lossy(&entry.path);
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{name} has {copied} bytes but was to have {}: it changed while it was read", entry.size),
            ));
        }
        self.pad(entry.size)
    }

    /// Writes a plain file with fixed metadata: what archives of images are made of.
    pub fn plain_file(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        self.file(&plain(path, Kind::File, 0o644, size), data)
    }

    /// Writes a directory with fixed metadata.
    pub fn plain_directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(&plain(path, Kind::Directory, 0o755, 0))
    }

    /// Ends the archive and returns the stream.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn header(&mut self, entry: &Entry, stored: u64) -> io::Result<()> {
        let mut name = entry.path.clone();
        if name.is_empty() {
            name.extend_from_slice(b"./");
        } else if entry.kind == Kind::Directory {
            name.push(b'/');
        }
        let mut pax = Vec::new();
        let fields = Fields::split(&name, entry, stored, &mut pax);
        for (key, value) in &entry.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let own = plain("PaxHeaders/entry", Kind::File, 0o644, pax.len() as u64);
            let fields = Fields::split(&own.path, &own, own.size, &mut Vec::new());
            self.block(&fields, &own, own.size, b'x')?;
            self.inner.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let flag = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        self.block(&fields, entry, stored, flag)
    }

    fn block(&mut self, fields: &Fields<'_>, entry: &Entry, stored: u64, flag: u8) -> io::Result<()> {
        let mut block = [0u8; BLOCK_BYTES];
        block[..fields.name.len()].copy_from_slice(fields.name);
        octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
        octal(&mut block[108..116], fields.uid);
        octal(&mut block[116..124], fields.gid);
        octal(&mut block[124..136], stored.min(OCTAL_11_MAX));
        octal(&mut block[136..148], fields.mtime);
        block[148..156].fill(b' ');
        block[156] = flag;
        block[157..157 + fields.link.len()].copy_from_slice(fields.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            octal(&mut block[329..337], u64::from(entry.device.0).min(OCTAL_7_MAX));
            octal(&mut block[337..345], u64::from(entry.device.1).min(OCTAL_7_MAX));
        }
        block[345..345 + fields.prefix.len()].copy_from_slice(fields.prefix);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.inner.write_all(&block)
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let padding = usize::try_from(written.next_multiple_of(BLOCK) - written).expect("less than a block");
        self.inner.write_all(&[0; BLOCK_BYTES][..padding])
    }
}

/// What goes into the ustar header; the exact value of what does not fit went into PAX.
struct Fields<'a> {
    prefix: &'a [u8],
    name: &'a [u8],
    link: &'a [u8],
    uid: u64,
    gid: u64,
    mtime: u64,
}

impl<'a> Fields<'a> {
    fn split(name: &'a [u8], entry: &'a Entry, stored: u64, pax: &mut Vec<u8>) -> Self {
        let (prefix, short) = match split_name(name) {
            Some(parts) if name.is_ascii() => parts,
            _ => {
                record(pax, b"path", name);
                (&b""[..], &name[..name.len().min(100)])
            }
        };
        let linked = matches!(entry.kind, Kind::HardLink | Kind::Symlink);
        let link: &[u8] = if linked { &entry.link } else { b"" };
        if link.len() > 100 || !link.is_ascii() {
            record(pax, b"linkpath", link);
        }
        let mut number = |key: &[u8], value: u64, max: u64| {
            if value > max {
                record(pax, key, value.to_string().as_bytes());
            }
            value.min(max)
        };
        number(b"size", stored, OCTAL_11_MAX);
        let uid = number(b"uid", u64::from(entry.uid), OCTAL_7_MAX);
        let gid = number(b"gid", u64::from(entry.gid), OCTAL_7_MAX);
        let (seconds, nanos) = entry.mtime;
        let whole = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_11_MAX);
        if nanos != 0 || whole.is_none() {
            record(pax, b"mtime", time_text(seconds, nanos).as_bytes());
        }
        let mtime = whole.unwrap_or(0);
        Self { prefix, name: short, link: &link[..link.len().min(100)], uid, gid, mtime }
    }
}

/// An entry with owner root, no time and no xattrs.
fn plain(path: &str, kind: Kind, mode: u32, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        link: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        size,
        mtime: (0, 0),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored: size,
        sparse: None,
    }
}

/// Splits a name into prefix (≤ 155 bytes) and name (≤ 100 bytes) at a slash; `None` when it does not fit.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let slash = |place: &usize| name[*place] == b'/' && name.len() - place - 1 <= 100 && place + 1 < name.len();
    (1..name.len().min(156)).rev().find(slash).map(|place| (&name[..place], &name[place + 1..]))
}

fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{number:0width$o}").as_bytes());
    field[width] = 0;
}

/// Adds `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(length.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn time_text(seconds: i64, nanos: u32) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let text = if seconds >= 0 {
        format!("{seconds}.{nanos:09}")
    } else {
        // Seconds are rounded down, PAX writes the fraction away from zero.
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tar::Reader;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry { path: path.to_vec(), ..plain("", kind, 0o644, 0) }
    }

    #[test]
    fn what_is_written_is_read_back_exactly() {
        let long = [b"d".repeat(200), b"/".to_vec(), b"e".repeat(200)].concat();
        let split = [b"d".repeat(120), b"/".to_vec(), b"e".repeat(90)].concat();
        let mut entries = vec![
            Entry { mode: 0o1777, ..entry(b"", Kind::Directory) },
            Entry { mode: 0o4755, uid: 4_000_000_000, gid: 7, mtime: (-5, 250_000_000), ..entry(&long, Kind::File) },
            Entry { mtime: (1_700_000_000, 123_456_789), ..entry(&split, Kind::File) },
            Entry { link: b"t".repeat(300), ..entry("nämé".as_bytes(), Kind::Symlink) },
            Entry { link: split.clone(), ..entry(b"\xff\xfe", Kind::HardLink) },
            Entry { device: (10, 200), ..entry(b"dev/x", Kind::Char) },
            Entry { device: (8, 1), ..entry(b"dev/y", Kind::Block) },
            entry(b"pipe", Kind::Fifo),
            Entry { mtime: (1 << 40, 0), ..entry(b"late", Kind::Directory) },
        ];
        entries[1].xattrs =
            vec![(b"security.capability".to_vec(), vec![1, 0, 10, 255]), (b"user.x".to_vec(), b"=\n".to_vec())];
        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.entry(entry).unwrap();
        }
        let raw = writer.finish().unwrap();
        let mut reader = Reader::new(raw.as_slice());
        for entry in &entries {
            let mut read = reader.next_entry().unwrap().unwrap();
            read.data_offset = 0;
            assert_eq!(&read, entry);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        assert!(writer.plain_file("x", 10, &mut &b"short"[..]).is_err());
    }
}
