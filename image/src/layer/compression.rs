//! Compression of layers and archives: plain, gzip, zstd, told by their first bytes.
//!
//! In: a stream. Out: the plain stream. Gzip of several members and with bytes behind the last one, zstd of several frames
//! with skippable ones between are read; a member that does not match its CRC is an error. Memory is bounded.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, BufReader, Read};

/// How much is read ahead, in bytes.
const BUFFER_BYTES: usize = 128 * 1024;
/// The largest window of a zstd frame, as a power of two: 128 MiB, what the zstd command reads without being asked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What the first bytes of a stream say. Needs six bytes to be sure; fewer mean plain.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Option<Self> {
        const ZSTD_SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184D_2A50..=0x184D_2A5F;
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [a, b, c, d, ..] if ZSTD_SKIPPABLE.contains(&u32::from_le_bytes([*a, *b, *c, *d])) => Some(Self::Zstd),
            [0x42, 0x5a, 0x68, ..] | [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, ..] => None,
            _ => Some(Self::None),
        }
    }
}

/// Reads a stream as plain bytes, whatever its compression. bzip2 and xz are refused by name.
pub fn plain<'a>(stream: impl Read + Send + 'a) -> io::Result<(Box<dyn Read + Send + 'a>, Compression)> {
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, stream);
    // Short streams are small enough to come in one read; a longer one may need several.
    let mut start = stream.fill_buf()?.to_vec();
    if start.len() < 6 && !start.is_empty() {
        let mut first = [0; 6];
        let mut filled = 0;
        while filled < first.len() {
            match stream.read(&mut first[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        start = first[..filled].to_vec();
        let chained = io::Cursor::new(start.clone()).chain(stream);
        return open(BufReader::with_capacity(BUFFER_BYTES, chained), &start);
    }
    open(stream, &start)
}

fn open<'a>(stream: impl BufRead + Send + 'a, start: &[u8]) -> io::Result<(Box<dyn Read + Send + 'a>, Compression)> {
    let Some(compression) = Compression::sniff(start) else {
        let name = if start.first() == Some(&0x42) { "bzip2" } else { "xz" };
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{name} compression is not supported: re-compress with gzip or zstd"),
        ));
    };
    let reader: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(stream),
        Compression::Gzip => Box::new(Gzip { member: Some(GzDecoder::new(stream)) }),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok((reader, compression))
}

/// Gzip members one after the other; what follows the last one and is no member is passed over, as gzip(1) does.
struct Gzip<R> {
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(ended) = self.member.take() else { break };
            let mut rest = ended.into_inner();
            let ahead = rest.fill_buf()?;
            if ahead.starts_with(&[0x1f, 0x8b]) || ahead == [0x1f] {
                self.member = Some(GzDecoder::new(rest));
            } else {
                io::copy(&mut rest, &mut io::sink())?;
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(data: &[u8]) -> io::Result<(Vec<u8>, Compression)> {
        let (mut reader, compression) = plain(data)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((out, compression))
    }

    #[test]
    fn gzip_members_are_joined_and_bytes_behind_them_are_passed_over() {
        let mut data = gzip(b"one ");
        data.extend(gzip(b"two"));
        assert_eq!(read(&data).unwrap(), (b"one two".to_vec(), Compression::Gzip));
        data.extend([0; 700]);
        data.extend(b"junk");
        assert_eq!(read(&data).unwrap().0, b"one two");
    }

    #[test]
    fn damaged_gzip_is_an_error() {
        let mut data = gzip(&[7; 10_000]);
        let end = data.len();
        data[end - 6] ^= 1;
        assert!(read(&data).is_err());
        assert!(read(&data[..end / 2]).is_err());
    }

    #[test]
    fn zstd_with_skippable_frames_is_read() {
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'x', b'y', b'z'];
        let mut data = skippable.to_vec();
        data.extend(zstd::encode_all(&b"one "[..], 1).unwrap());
        data.extend(skippable);
        data.extend(zstd::encode_all(&b"two"[..], 1).unwrap());
        data.extend(skippable);
        assert_eq!(read(&data).unwrap(), (b"one two".to_vec(), Compression::Zstd));
    }

    #[test]
    fn plain_and_empty_streams_stay_and_unknown_compressions_are_named() {
        assert_eq!(read(b"").unwrap(), (Vec::new(), Compression::None));
        assert_eq!(read(b"abc").unwrap(), (b"abc".to_vec(), Compression::None));
        assert!(read(b"BZh91AY").unwrap_err().to_string().contains("bzip2"));
        assert!(read(b"\xfd7zXZ\0\0").unwrap_err().to_string().contains("xz"));
    }

    /// Gives one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.by_ref().take(1).read(buffer)
        }
    }

    #[test]
    fn a_stream_that_drips_is_recognised() {
        let data = gzip(b"slowly");
        let (mut reader, compression) = plain(Slow(&data)).unwrap();
        let mut out = String::new();
        reader.read_to_string(&mut out).unwrap();
        assert_eq!((out.as_str(), compression), ("slowly", Compression::Gzip));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]
        #[test]
        fn damaged_streams_are_read_or_refused_in_bounds(
            plain in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000),
            damage in proptest::collection::vec(
                (proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..6),
            cut in proptest::prelude::any::<proptest::sample::Index>(),
            zstd in proptest::prelude::any::<bool>(),
        ) {
            let whole = if zstd { zstd::encode_all(plain.as_slice(), 1).unwrap() } else { gzip(&plain) };
            let mut packed = whole.clone();
            for (place, byte) in damage {
                let place = place.index(packed.len());
                packed[place] = byte;
            }
            packed.truncate(cut.index(packed.len() + 1));
            // What comes out of damage is bounded by what the caller reads; without damage it is the content.
            if let Ok((mut reader, compression)) = super::plain(packed.as_slice()) {
                let mut out = Vec::new();
                let read = reader.by_ref().take(1 << 20).read_to_end(&mut out);
                if packed == whole && compression != Compression::None {
                    proptest::prop_assert!(read.is_ok());
                    proptest::prop_assert_eq!(out, plain);
                }
            }
        }
    }
}
