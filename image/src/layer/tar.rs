//! Reads tar streams: ustar, PAX, GNU long names, all sparse forms, base-256 numbers.
//!
//! In: a stream nobody trusts. Out: entries with normalised names, everything that a file system keeps, and where their
//! data lie in the stream. What two readers could read in two ways is refused, sizes are bounded before anything is
//! allocated, and names with `..` never come out. Writes nothing.

mod pax;

use pax::{Pax, decimal, parse_pax, refuse_meaningful_globals};
use std::io::{self, Read};

/// A tar block.
pub const BLOCK: u64 = 512;
/// The largest PAX header, in bytes: room for one xattr of the kernel's largest size (64 KiB) sixteen times over.
const PAX_BYTES_MAX: u64 = 1024 * 1024;
/// The longest path, in bytes (PATH_MAX without its NUL).
const PATH_BYTES_MAX: usize = 4095;
/// The longest component, in bytes (NAME_MAX).
const NAME_BYTES_MAX: usize = 255;
/// The longest name of an xattr, in bytes (XATTR_NAME_MAX).
const XATTR_NAME_BYTES_MAX: usize = 255;
/// The longest value of an xattr, in bytes (XATTR_SIZE_MAX).
const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// The most extents of a sparse file: 1 M extents take 16 MiB of memory.
const EXTENTS_MAX: u64 = 1 << 20;
/// The largest file, in bytes (what a file system can address).
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// The largest device numbers of the kernel: 12 bits and 20 bits.
const DEVICE_MAJOR_MAX: u32 = 0xfff;
/// See [`DEVICE_MAJOR_MAX`].
const DEVICE_MINOR_MAX: u32 = 0xf_ffff;

/// The most bytes of names, links, attributes and extents of one layer: whoever reads it keeps them until its end. A
/// million files with names of 100 bytes take a fifth of it.
const FACTS_BYTES_MAX: u64 = 512 << 20;

/// Why a stream is not a tar that is safe to unpack.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("failed to read the layer at byte {at}")]
    Read {
        /// Bytes read before.
        at: u64,
        /// The cause.
        source: io::Error,
    },
    /// The stream ends within an entry.
    #[error("the layer ends at byte {at}, within an entry")]
    Truncated {
        /// Bytes read before.
        at: u64,
    },
    /// A header is wrong.
    #[error("tar header at byte {at}: {reason}")]
    Header {
        /// Where the header begins.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// An entry is well-formed but must not be unpacked.
    #[error("entry \"{path}\": {reason}")]
    Refused {
        /// The entry's name as written.
        path: String,
        /// Why.
        reason: String,
    },
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub length: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the root: no leading or trailing slash, no `.`, no `..`; empty for the root itself.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// The target: of a hard link a path like `path`, of a symbolic link its text as it is.
    pub link: Vec<u8>,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The size of the file as it appears, in bytes.
    pub size: u64,
    /// Modification time: seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data begin in the stream, in bytes.
    pub data_offset: u64,
    /// How many bytes of data are in the stream: `size`, or the sum of the extents.
    pub stored: u64,
    /// Where the data belong in a sparse file; in order and disjoint.
    pub sparse: Option<Vec<Extent>>,
}

impl Entry {
    /// Bytes of what is kept of it besides its data.
    fn facts_bytes(&self) -> u64 {
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let extents = self.sparse.as_ref().map_or(0, |extents| extents.len() * size_of::<Extent>());
        (self.path.len() + self.link.len() + xattrs + extents) as u64
    }
}

/// Reads a stream entry by entry.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    /// Bytes taken from the stream.
    position: u64,
    /// Data of the current entry that has not been read.
    remaining: u64,
    /// Zeros between the data and the next header.
    padding: u64,
    ended: bool,
    /// What may still come of [`FACTS_BYTES_MAX`].
    facts_left: u64,
}

impl<R: Read> Reader<R> {
    /// Starts reading at the stream's current place.
    pub fn new(inner: R) -> Self {
        Self { inner, position: 0, remaining: 0, padding: 0, ended: false, facts_left: FACTS_BYTES_MAX }
    }

    /// Bytes taken from the stream so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The stream, to read on behind the end of the archive.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; `None` at the end of the archive. Data of the entry before that were not read are passed over.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.remaining)?;
        self.remaining = 0;
        self.skip_padding()?;
        let mut pax: Option<Pax> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            if self.ended {
                return Ok(None);
            }
            let at = self.position;
            let Some(block) = self.header_block()? else {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(header(at, "the archive ends after an extended header that belongs to nothing"));
                }
                return Ok(None);
            };
            let raw = Header { block: &block, at };
            raw.check_sum()?;
            match raw.block[156] {
                b'x' | b'X' => {
                    if pax.is_some() {
                        return Err(header(at, "a second extended header for one entry: readers disagree about it"));
                    }
                    let data = self.read_meta(raw.number(124, 12)?, at)?;
                    pax = Some(parse_pax(&data, at)?);
                }
                b'g' => {
                    let data = self.read_meta(raw.number(124, 12)?, at)?;
                    refuse_meaningful_globals(&data, at)?;
                }
                b'L' if long_name.is_none() => long_name = Some(self.read_long(&raw)?),
                b'K' if long_link.is_none() => long_link = Some(self.read_long(&raw)?),
                b'L' | b'K' => return Err(header(at, "a second long name for one entry: readers disagree about it")),
                _ => {
                    let entry = self.entry(&raw, pax.unwrap_or_default(), long_name, long_link)?;
                    self.facts_left = self.facts_left.checked_sub(entry.facts_bytes()).ok_or_else(|| {
                        header(
                            at,
                            &format!("the names and attributes of the layer have more than {FACTS_BYTES_MAX} bytes"),
                        )
                    })?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads data of the current entry as they are stored; 0 at their end.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        loop {
            match self.inner.read(&mut buffer[..want]) {
                Ok(0) => return Err(TarError::Truncated { at: self.position }),
                Ok(read) => {
                    self.position += read as u64;
                    self.remaining -= read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { at: self.position, source }),
            }
        }
    }

    /// Reads to the end of the stream, which may hold anything behind the archive.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.position += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { at: self.position, source }),
            }
        }
    }

    fn entry(
        &mut self,
        raw: &Header<'_>,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let at = raw.at;
        let flag = raw.block[156];
        let own_name = raw.name();
        let written = pick(pax.sparse.name.take().or_else(|| pax.path.take()), long_name, own_name, at, "name")?;
        let link = pick(pax.link.take(), long_link, raw.text(157, 100).to_vec(), at, "link target")?;
        let shown = String::from_utf8_lossy(&written).chars().take(200).collect::<String>();
        let refused = |reason: String| TarError::Refused { path: shown.clone(), reason };
        let slash = written.last() == Some(&b'/');
        let stored_size = match pax.size {
            Some(size) => size,
            None => raw.number(124, 12)?,
        };
        if stored_size > FILE_BYTES_MAX {
            return Err(refused(format!("its size {stored_size} is impossible")));
        }
        let kind = match flag {
            0 | b'0' | b'7' if slash && (flag == 0 || stored_size == 0) => Kind::Directory,
            0 | b'0' | b'7' | b'S' if slash => {
                return Err(refused("a file whose name ends in a slash: readers disagree about it".into()));
            }
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(refused(format!(
                    "entry type {:?} is not one of a layer (files, links, directories, devices, pipes)",
                    char::from(other)
                )));
            }
        };
        // A hard link's size is its target's and no data follow; with a PAX size readers disagree. Other entries without
        // data that claim some are the seam between readers that archive smuggling uses.
        let stored = match kind {
            Kind::File => stored_size,
            Kind::HardLink if pax.size.unwrap_or(0) == 0 => 0,
            _ if stored_size == 0 => 0,
            _ => return Err(refused(format!("it claims {stored_size} bytes of data but its type has none"))),
        };
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK) - stored;
        let (size, sparse) = match (kind, flag) {
            (Kind::File, b'S') => {
                let (real, map) = self.old_gnu_map(raw)?;
                (real, Some(map))
            }
            (Kind::File, _) if pax.sparse.seen => {
                let real = pax.sparse.real_size.ok_or_else(|| refused("sparse without its real size".into()))?;
                let map = match (pax.sparse.major, pax.sparse.minor) {
                    (None | Some(0), _) => std::mem::take(&mut pax.sparse.map),
                    (Some(1), None | Some(0)) => self.map_in_data(at)?,
                    (major, minor) => return Err(refused(format!("sparse form {major:?}.{minor:?} is not known"))),
                };
                (real, Some(map))
            }
            _ => (stored, None),
        };
        if let Some(map) = &sparse {
            check_map(map, size, self.remaining).map_err(&refused)?;
        }
        let path = normalise(&written).map_err(&refused)?;
        let link = match kind {
            Kind::HardLink => normalise(&link).map_err(|reason| refused(format!("link target: {reason}")))?,
            Kind::Symlink => {
                if link.is_empty() || link.len() > PATH_BYTES_MAX || link.contains(&0) {
                    return Err(refused("a symbolic link whose target is empty, too long or holds a NUL".into()));
                }
                link
            }
            _ => Vec::new(),
        };
        let device = match kind {
            Kind::Char | Kind::Block => {
                // The kernel cuts off what is larger: 4096:0 would become 0:0, which hides files.
                let part = |offset, max| match u32::try_from(raw.number(offset, 8)?) {
                    Ok(number) if number <= max => Ok(number),
                    _ => Err(refused("device number out of range".into())),
                };
                (part(329, DEVICE_MAJOR_MAX)?, part(337, DEVICE_MINOR_MAX)?)
            }
            _ => (0, 0),
        };
        let id = |pax: Option<u64>, offset| -> Result<u32, TarError> {
            let number = match pax {
                Some(number) => number,
                None => raw.number(offset, 8)?,
            };
            // u32::MAX means "leave as it is" to chown(2).
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| refused(format!("owner {number} is out of range")))
        };
        let (uid, gid) = (id(pax.uid, 108)?, id(pax.gid, 116)?);
        let mtime = match pax.mtime {
            Some(mtime) => mtime,
            None => (raw.signed(136, 12)?, 0),
        };
        let mode = u32::try_from(raw.number(100, 8)? & 0o7777).expect("masked to twelve bits");
        let data_offset = self.position;
        Ok(Entry {
            path,
            kind,
            link,
            mode,
            uid,
            gid,
            size,
            mtime,
            device,
            xattrs: pax.xattrs,
            data_offset,
            stored: self.remaining,
            sparse,
        })
    }

    /// The map of an old GNU sparse file: four extents in the header, more in blocks behind it.
    fn old_gnu_map(&mut self, raw: &Header<'_>) -> Result<(u64, Vec<Extent>), TarError> {
        let real = raw.number(483, 12)?;
        let mut map = Vec::new();
        let mut more = raw.block[482] != 0;
        take_extents(raw, 386, 4, &mut map)?;
        while more {
            let at = self.position;
            let mut block = [0; 512];
            self.fill(&mut block)?;
            let raw = Header { block: &block, at };
            take_extents(&raw, 0, 21, &mut map)?;
            more = block[504] != 0;
            if map.len() as u64 > EXTENTS_MAX {
                return Err(header(at, "the sparse map has too many extents"));
            }
        }
        // A last extent of length 0 only marks the end of the file.
        map.retain(|extent| extent.length > 0);
        Ok((real, map))
    }

    /// The map of a PAX 1.0 sparse file: decimal lines at the start of the data, filled up to a block.
    fn map_in_data(&mut self, at: u64) -> Result<Vec<Extent>, TarError> {
        let mut text = Vec::new();
        let mut cursor = 0;
        let mut numbers = Vec::new();
        let mut want: Option<u64> = None;
        loop {
            while let Some(length) = text[cursor..].iter().position(|b| *b == b'\n') {
                let number = decimal(&text[cursor..cursor + length])
                    .ok_or_else(|| header(at, "the sparse map holds something that is no number"))?;
                cursor += length + 1;
                match want {
                    None if number > EXTENTS_MAX => return Err(header(at, "the sparse map has too many extents")),
                    None => want = Some(number * 2),
                    Some(_) => numbers.push(number),
                }
                if want.is_some_and(|want| numbers.len() as u64 >= want) {
                    let extents = numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], length: pair[1] });
                    return Ok(extents.filter(|extent| extent.length > 0).collect());
                }
            }
            if text.len() - cursor > 32 {
                return Err(header(at, "the sparse map holds a number that is too long"));
            }
            let mut block = [0; 512];
            if self.remaining < BLOCK {
                return Err(header(at, "the sparse map is longer than the entry"));
            }
            self.fill(&mut block)?;
            self.remaining -= BLOCK;
            text.drain(..cursor);
            cursor = 0;
            text.extend_from_slice(&block);
        }
    }

    /// The next header; `None` at the end: two blocks of zeros, or the end of the stream at a block's border.
    fn header_block(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        let at = self.position;
        let mut block = [0; 512];
        if !self.fill_or_end(&mut block)? {
            self.ended = true;
            return Ok(None);
        }
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        let mut second = [0; 512];
        if self.fill_or_end(&mut second)? && second.iter().any(|b| *b != 0) {
            return Err(header(at, "one block of zeros and then more: readers disagree whether the archive ends here"));
        }
        self.ended = true;
        Ok(None)
    }

    fn read_long(&mut self, raw: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let size = raw.number(124, 12)?;
        if size > 2 * PATH_BYTES_MAX as u64 {
            return Err(header(raw.at, &format!("a name of {size} bytes is too long")));
        }
        let mut name = self.read_meta(size, raw.at)?;
        if let Some(end) = name.iter().position(|b| *b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn read_meta(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > PAX_BYTES_MAX {
            return Err(header(at, &format!("an extended header of {size} bytes is too large")));
        }
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        self.fill(&mut data)?;
        self.padding = size.next_multiple_of(BLOCK) - size;
        self.skip_padding()?;
        Ok(data)
    }

    fn skip_padding(&mut self) -> Result<(), TarError> {
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        let mut buffer = [0; 16 * 1024];
        while bytes > 0 {
            let want = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(&mut buffer[..want])?;
            bytes -= want as u64;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        if buffer.is_empty() || self.fill_or_end(buffer)? {
            Ok(())
        } else {
            Err(TarError::Truncated { at: self.position })
        }
    }

    /// Fills the buffer; `false` when the stream ends before its first byte.
    fn fill_or_end(&mut self, buffer: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.inner.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated { at: self.position }),
                Ok(read) => {
                    filled += read;
                    self.position += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { at: self.position, source }),
            }
        }
        Ok(true)
    }
}

/// A header block and its place.
struct Header<'a> {
    block: &'a [u8; 512],
    at: u64,
}

impl Header<'_> {
    fn check_sum(&self) -> Result<(), TarError> {
        let mut unsigned = 0u64;
        let mut signed = 0i64;
        for (place, byte) in self.block.iter().enumerate() {
            let byte = if (148..156).contains(&place) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        let stated = self.number(148, 8)?;
        // Some old writers summed signed bytes.
        if stated == unsigned || i64::try_from(stated).is_ok_and(|stated| stated == signed) {
            Ok(())
        } else {
            Err(header(self.at, "the check sum is wrong: this is no tar, or it is damaged"))
        }
    }

    fn text(&self, offset: usize, length: usize) -> &[u8] {
        let field = &self.block[offset..offset + length];
        &field[..field.iter().position(|b| *b == 0).unwrap_or(length)]
    }

    /// The name field, with the prefix where the format has one.
    fn name(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let is_ustar = &self.block[257..263] == b"ustar\0";
        let is_star = &self.block[508..512] == b"tar\0";
        let prefix = match (is_ustar, is_star) {
            (true, true) => self.text(345, 131),
            (true, false) => self.text(345, 155),
            (false, _) => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// An octal or base-256 number that is not negative.
    fn number(&self, offset: usize, length: usize) -> Result<u64, TarError> {
        u64::try_from(self.signed(offset, length)?).map_err(|_| header(self.at, "a number is negative"))
    }

    fn signed(&self, offset: usize, length: usize) -> Result<i64, TarError> {
        let field = &self.block[offset..offset + length];
        if field[0] & 0x80 != 0 {
            return base256(field).ok_or_else(|| header(self.at, "a base-256 number is out of range"));
        }
        let text = field.trim_ascii_start();
        let end = text.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(text.len());
        let (digits, rest) = text.split_at(end);
        let wrong = || header(self.at, "a number field holds something that is no octal number");
        if !rest.iter().all(|b| matches!(b, 0 | b' ')) {
            return Err(wrong());
        }
        let mut number = 0i64;
        for digit in digits {
            if !matches!(digit, b'0'..=b'7') {
                return Err(wrong());
            }
            number = number.checked_mul(8).and_then(|n| n.checked_add(i64::from(digit - b'0'))).ok_or_else(wrong)?;
        }
        Ok(number)
    }
}

/// A two's complement big-endian number whose highest bit is the marker.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut number: i128 = if negative { -1 } else { 0 };
    for (place, byte) in field.iter().enumerate() {
        let byte = if place == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { *byte };
        number = number.checked_mul(256)? | i128::from(byte);
    }
    i64::try_from(number).ok()
}

fn take_extents(raw: &Header<'_>, start: usize, count: usize, map: &mut Vec<Extent>) -> Result<(), TarError> {
    for place in 0..count {
        let offset = start + place * 24;
        if raw.block[offset] == 0 && raw.block[offset + 12] == 0 {
            break;
        }
        map.push(Extent { offset: raw.number(offset, 12)?, length: raw.number(offset + 12, 12)? });
    }
    Ok(())
}

/// Checks that a sparse map is in order, within the file, and accounts for every stored byte.
fn check_map(map: &[Extent], size: u64, stored: u64) -> Result<(), String> {
    if size > FILE_BYTES_MAX {
        return Err(format!("its size {size} is impossible"));
    }
    let mut end = 0;
    let mut sum = 0u64;
    for extent in map {
        let next = extent.offset.checked_add(extent.length).filter(|next| *next <= size);
        let Some(next) = next.filter(|_| extent.offset >= end) else {
            return Err("its sparse map overlaps itself or leaves the file".into());
        };
        end = next;
        sum = sum.saturating_add(extent.length);
    }
    if sum == stored { Ok(()) } else { Err(format!("its sparse map has {sum} bytes but {stored} are stored")) }
}

/// The name from the PAX header, the GNU header or the entry's own. Two that differ are refused.
fn pick(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, own: Vec<u8>, at: u64, what: &str) -> Result<Vec<u8>, TarError> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => {
            Err(header(at, &format!("a PAX and a GNU {what} that differ: readers disagree about it")))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(own),
    }
}

/// A path below the root without empty components and `.`; `..` is refused.
fn normalise(written: &[u8]) -> Result<Vec<u8>, String> {
    if written.contains(&0) {
        return Err("the name holds a NUL".into());
    }
    let mut path = Vec::with_capacity(written.len());
    for component in written.split(|b| *b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("the name holds \"..\", which could leave the root".into()),
            _ => {}
        }
        if component.len() > NAME_BYTES_MAX {
            return Err(format!("a component of {} bytes is too long (255)", component.len()));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("the name has {} bytes, more than {PATH_BYTES_MAX}", path.len()));
    }
    Ok(path)
}

fn header(at: u64, reason: &str) -> TarError {
    TarError::Header { at, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
