//! A row as bytes: the one form used in memory, on disk and on the wire.
//! In: rows or bytes of a peer. Out: bytes or a row; sizes are checked before anything is allocated. Format `row/1`.
//!
//! `format|flags · table · [site] · id · version · body`, integers as LEB128, strings and bodies with their length in front.

use super::row::{ANCESTORS_MAX, Body, KEY_ID_MAX, Key, Row, SITE_MAX, Scope, Table, Version};
use crate::id::NodeId;

/// The format's version, in the high nibble of the first byte.
pub const ROW_FORMAT: u8 = 1;
const DELETED: u8 = 1;
const SHARED: u8 = 2;
const SITED: u8 = 4;
const KNOWN_FLAGS: u8 = DELETED | SHARED | SITED;

/// The greatest start number, sequence and generation: nobody counts so far, and one more of each still fits 64 bits.
pub const EPOCH_MAX: u64 = 1 << 48;
/// See [`EPOCH_MAX`].
pub const COUNT_MAX: u64 = 1 << 56;

/// Why bytes are no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The bytes end early.
    #[error("read a row: it is cut off")]
    Truncated,
    /// A format or flag of a newer build.
    #[error("read a row: format byte {0:#04x} is not known; upgrade this node")]
    Format(u8),
    /// A length beyond its bound.
    #[error("read a row: {what} has {length} bytes, at most {most} are allowed")]
    Oversize {
        /// Which part.
        what: &'static str,
        /// What it claims.
        length: u64,
        /// The bound.
        most: usize,
    },
    /// Text that is not UTF-8, an empty id, a number out of range.
    #[error("read a row: {0} is malformed")]
    Malformed(&'static str),
    /// Bytes follow the row.
    #[error("read a row: {0} bytes follow it")]
    Trailing(usize),
}

/// Appends `value` as LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// A cursor over bytes that never reads past their end.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`RowError::Truncated`].
    pub fn byte(&mut self) -> Result<u8, RowError> {
        let (&first, rest) = self.rest.split_first().ok_or(RowError::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// The next LEB128 integer.
    ///
    /// # Errors
    /// [`RowError::Truncated`], or [`RowError::Malformed`] beyond 64 bits.
    pub fn varint(&mut self) -> Result<u64, RowError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(RowError::Malformed("integer"));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(RowError::Malformed("integer"))
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`RowError::Truncated`].
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], RowError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(RowError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next eight bytes as a big-endian integer.
    ///
    /// # Errors
    /// [`RowError::Truncated`].
    pub fn word(&mut self) -> Result<u64, RowError> {
        Ok(u64::from_be_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    /// The next bytes with their length in front, at most `most`.
    ///
    /// # Errors
    /// [`RowError::Oversize`] before anything is read, [`RowError::Truncated`].
    pub fn sized(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], RowError> {
        let length = self.varint()?;
        match usize::try_from(length) {
            Ok(length) if length <= most => self.take(length),
            _ => Err(RowError::Oversize { what, length, most }),
        }
    }
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The bytes of a row.
#[must_use]
pub fn encode(row: &Row) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + row.key.id.len() + row.body.0.len());
    let mut first = ROW_FORMAT << 4;
    first |= if row.deleted { DELETED } else { 0 };
    first |= if matches!(row.version, Version::Shared { .. }) { SHARED } else { 0 };
    first |= if matches!(row.key.scope, Scope::Site(_)) { SITED } else { 0 };
    out.push(first);
    put_varint(&mut out, u64::from(row.key.table.0));
    if let Scope::Site(site) = &row.key.scope {
        put_sized(&mut out, site.as_bytes());
    }
    put_sized(&mut out, row.key.id.as_bytes());
    match &row.version {
        Version::Owned { owner, epoch, seq } => {
            out.extend_from_slice(&owner.0.to_be_bytes());
            put_varint(&mut out, *epoch);
            put_varint(&mut out, *seq);
        }
        Version::Shared { generation, time_ms, writer, id, ancestors } => {
            put_varint(&mut out, *generation);
            put_varint(&mut out, *time_ms);
            out.extend_from_slice(&writer.0.to_be_bytes());
            out.extend_from_slice(&id.to_be_bytes());
            put_varint(&mut out, ancestors.len() as u64);
            for ancestor in ancestors {
                out.extend_from_slice(&ancestor.to_be_bytes());
            }
        }
    }
    put_sized(&mut out, &row.body.0);
    out
}

/// The head of a packed row without its id and body copied out.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// Deleted or not.
    pub deleted: bool,
    /// The table.
    pub table: Table,
    /// The site, when the row stays in one.
    pub site: Option<&'a str>,
    /// The key's id.
    pub id: &'a str,
    /// The version's numbers.
    pub version: VersionHead<'a>,
    /// The body.
    pub body: &'a [u8],
}

/// The numbers of a packed version; ancestors stay as they lie.
#[derive(Debug, Clone, Copy)]
pub enum VersionHead<'a> {
    /// See [`Version::Owned`].
    Owned(NodeId, u64, u64),
    /// Generation, time, writer, id, and the ancestors' bytes (eight each).
    Shared(u64, u64, NodeId, u64, &'a [u8]),
}

impl VersionHead<'_> {
    /// Whether `id` is among the ancestors.
    #[must_use]
    pub fn descends_from(&self, id: u64) -> bool {
        match self {
            Self::Owned(..) => false,
            Self::Shared(.., ancestors) => ancestors.chunks_exact(8).any(|chunk| chunk == id.to_be_bytes()),
        }
    }
}

/// Reads the head of one row that fills `bytes` exactly.
///
/// # Errors
/// See [`RowError`].
pub fn head(bytes: &[u8]) -> Result<Head<'_>, RowError> {
    let mut reader = Reader::new(bytes);
    let head = read_head(&mut reader)?;
    if reader.left() > 0 { Err(RowError::Trailing(reader.left())) } else { Ok(head) }
}

fn read_head<'a>(reader: &mut Reader<'a>) -> Result<Head<'a>, RowError> {
    let first = reader.byte()?;
    if first >> 4 != ROW_FORMAT || first & 0x0f & !KNOWN_FLAGS != 0 {
        return Err(RowError::Format(first));
    }
    let text = |bytes: &'a [u8], what| std::str::from_utf8(bytes).map_err(|_| RowError::Malformed(what));
    let table = reader.varint()?;
    let table = u16::try_from(table).ok().filter(|t| *t < 0x8000 && *t > 0).ok_or(RowError::Malformed("table"))?;
    let site = if first & SITED == 0 { None } else { Some(text(reader.sized("site", SITE_MAX)?, "site")?) };
    let id = text(reader.sized("key", KEY_ID_MAX)?, "key")?;
    if id.is_empty() || site == Some("") {
        return Err(RowError::Malformed("key"));
    }
    let version = if first & SHARED == 0 {
        let (owner, epoch, seq) = (NodeId(reader.word()?), reader.varint()?, reader.varint()?);
        if epoch > EPOCH_MAX || seq > COUNT_MAX {
            return Err(RowError::Malformed("version"));
        }
        VersionHead::Owned(owner, epoch, seq)
    } else {
        let (generation, time, writer, id) = (reader.varint()?, reader.varint()?, reader.word()?, reader.word()?);
        if generation > COUNT_MAX {
            return Err(RowError::Malformed("version"));
        }
        let count = reader.varint()?;
        if count > ANCESTORS_MAX as u64 {
            return Err(RowError::Oversize { what: "ancestors", length: count, most: ANCESTORS_MAX });
        }
        let ancestors = reader.take(usize::try_from(count).expect("at most sixteen") * 8)?;
        VersionHead::Shared(generation, time, NodeId(writer), id, ancestors)
    };
    let table = Table(table);
    let body = reader.sized("body", table.body_max())?;
    Ok(Head { deleted: first & DELETED != 0, table, site, id, version, body })
}

/// Reads one row that fills `bytes` exactly.
///
/// # Errors
/// See [`RowError`].
pub fn decode(bytes: &[u8]) -> Result<Row, RowError> {
    head(bytes).map(|head| head.to_row())
}

impl Head<'_> {
    /// The row with everything copied out.
    #[must_use]
    pub fn to_row(&self) -> Row {
        let scope = self.site.map_or(Scope::Global, |site| Scope::Site(site.to_owned()));
        let version = match self.version {
            VersionHead::Owned(owner, epoch, seq) => Version::Owned { owner, epoch, seq },
            VersionHead::Shared(generation, time_ms, writer, id, ancestors) => Version::Shared {
                generation,
                time_ms,
                writer,
                id,
                ancestors: ancestors
                    .chunks_exact(8)
                    .map(|chunk| u64::from_be_bytes(chunk.try_into().expect("chunks of eight")))
                    .collect(),
            },
        };
        Row {
            key: Key { scope, table: self.table, id: self.id.to_owned() },
            version,
            deleted: self.deleted,
            body: Body(self.body.to_vec()),
        }
    }

    /// The owner's id in front of the key's id.
    #[must_use]
    pub fn key_owner(&self) -> Option<NodeId> {
        self.id.split('/').next().unwrap_or_default().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Row {
        Row {
            key: Key::global(Table::KV, "greeting"),
            version: Version::Shared {
                generation: 3,
                time_ms: 1_790_000_000_000,
                writer: NodeId(7),
                id: 99,
                ancestors: vec![5, 6],
            },
            deleted: false,
            body: Body(b"hello".to_vec()),
        }
    }

    #[test]
    fn a_row_reads_back_and_every_cut_of_it_is_refused() {
        let owned = Row {
            key: Key { scope: Scope::Site("eu".into()), table: Table::INSTANCE, id: format!("{}/x", NodeId(3)) },
            version: Version::Owned { owner: NodeId(3), epoch: 300, seq: COUNT_MAX },
            deleted: true,
            body: Body(vec![1]),
        };
        for row in [sample(), owned] {
            let bytes = encode(&row);
            assert_eq!(decode(&bytes).unwrap(), row);
            for cut in 0..bytes.len() {
                assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(decode(&longer), Err(RowError::Trailing(1)));
        }
    }

    #[test]
    fn lengths_are_refused_before_they_are_allocated() {
        let mut bytes = vec![ROW_FORMAT << 4 | SHARED];
        put_varint(&mut bytes, 18);
        put_varint(&mut bytes, u64::MAX / 2);
        assert!(matches!(decode(&bytes), Err(RowError::Oversize { what: "key", .. })));
        assert!(matches!(decode(&[0x20]), Err(RowError::Format(0x20))));
        assert!(matches!(decode(&[0x18]), Err(RowError::Format(0x18))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(row) = decode(&bytes) {
                proptest::prop_assert_eq!(decode(&encode(&row)).unwrap(), row);
            }
        }
    }
}
