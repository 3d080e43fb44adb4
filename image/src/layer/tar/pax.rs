//! The records of PAX extended headers.
//!
//! In: the data of a header nobody trusts. Out: what it says about the next entry, each value bounded and checked. Keys that
//! only some readers obey are refused where they would change what is read.

use super::{Extent, TarError, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, header};

/// What the PAX header in front of an entry says.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Vec<Extent>,
    pub(super) seen: bool,
    /// An offset (form 0.0) that waits for its length.
    pub(super) pending: Option<u64>,
}

/// Reads every record of a header.
pub(super) fn parse_pax(data: &[u8], at: u64) -> Result<Pax, TarError> {
    let mut pax = Pax::default();
    for record in records(data, at) {
        let (key, value) = record?;
        pax.take(key, value, at)?;
    }
    if pax.sparse.pending.is_some() {
        return Err(header(at, "a sparse offset without its length"));
    }
    Ok(pax)
}

impl Pax {
    fn take(&mut self, key: &[u8], value: &[u8], at: u64) -> Result<(), TarError> {
        let number = || decimal(value).ok_or_else(|| header(at, "an extended header holds a number that is none"));
        // POSIX: an empty value takes back what was said before.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(number).transpose()?,
            b"uid" => self.uid = given.then(number).transpose()?,
            b"gid" => self.gid = given.then(number).transpose()?,
            b"mtime" => {
                let time = || decimal_time(value).ok_or_else(|| header(at, "mtime is no time"));
                self.mtime = given.then(time).transpose()?;
            }
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = given.then(|| value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.numblocks" => drop(number()?),
            b"GNU.sparse.offset" => {
                if self.sparse.pending.replace(number()?).is_some() {
                    return Err(header(at, "a sparse offset without its length"));
                }
            }
            b"GNU.sparse.numbytes" => {
                let offset =
                    self.sparse.pending.take().ok_or_else(|| header(at, "a sparse length without its offset"))?;
                let length = number()?;
                if length > 0 {
                    self.sparse.map.push(Extent { offset, length });
                }
            }
            b"GNU.sparse.map" => self.sparse.map = sparse_list(value, at)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.take_xattr(name, value, at)?;
                }
                // Anything else (atime, ctime, comment, vendors' keys) says nothing that a file system keeps.
            }
        }
        self.sparse.seen |= key.starts_with(b"GNU.sparse.");
        Ok(())
    }

    fn take_xattr(&mut self, name: &[u8], value: &[u8], at: u64) -> Result<(), TarError> {
        if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
            return Err(header(at, "the name of an extended attribute is empty, too long or holds a NUL"));
        }
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(header(at, "an extended attribute is larger than 64 KiB"));
        }
        match self.xattrs.iter_mut().find(|(other, _)| other == name) {
            Some(other) => other.1 = value.to_vec(),
            None => self.xattrs.push((name.to_vec(), value.to_vec())),
        }
        Ok(())
    }
}

/// The records `LENGTH KEY=VALUE\n` of an extended header.
fn records(data: &[u8], at: u64) -> impl Iterator<Item = Result<(&[u8], &[u8]), TarError>> {
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = || -> Option<(&[u8], &[u8], &[u8])> {
            let space = rest.iter().take(20).position(|b| *b == b' ')?;
            let length = usize::try_from(decimal(&rest[..space])?).ok()?;
            if length > rest.len() || length < space + 3 {
                return None;
            }
            let record = rest[space + 1..length].strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            (equals > 0).then_some((&record[..equals], &record[equals + 1..], &rest[length..]))
        };
        let Some((key, value, next)) = split() else {
            rest = &[];
            return Some(Err(header(at, "an extended header holds a malformed record")));
        };
        rest = next;
        Some(Ok((key, value)))
    })
}

/// Global headers may comment; what would change the entries that follow is refused, because readers disagree about it.
pub(super) fn refuse_meaningful_globals(data: &[u8], at: u64) -> Result<(), TarError> {
    for record in records(data, at) {
        let (key, _) = record?;
        let meaningful = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime")
            || key.starts_with(b"GNU.sparse.")
            || key.starts_with(b"SCHILY.xattr.");
        if meaningful {
            let key = String::from_utf8_lossy(key);
            return Err(header(at, &format!("a global header sets \"{key}\": readers disagree about it")));
        }
    }
    Ok(())
}

fn sparse_list(value: &[u8], at: u64) -> Result<Vec<Extent>, TarError> {
    let numbers: Option<Vec<u64>> = value.split(|b| *b == b',').filter(|part| !part.is_empty()).map(decimal).collect();
    match numbers {
        Some(numbers) if numbers.len().is_multiple_of(2) => Ok(numbers
            .chunks_exact(2)
            .map(|pair| Extent { offset: pair[0], length: pair[1] })
            .filter(|extent| extent.length > 0)
            .collect()),
        _ => Err(header(at, "the sparse map is not a list of pairs")),
    }
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]` as whole seconds (rounded down) and nanoseconds.
fn decimal_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    match (negative, nanos) {
        (false, nanos) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, nanos) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}
