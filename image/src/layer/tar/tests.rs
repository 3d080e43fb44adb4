//! What the reader takes and what it refuses.

use super::*;
use crate::layer::write::Writer;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let mut reader = Reader::new(bytes.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {}
    }
}

#[test]
fn an_empty_stream_and_an_empty_archive_have_no_entries() {
    assert!(Reader::new(&b""[..]).next_entry().unwrap().is_none());
    let empty = Writer::new(Vec::new()).finish().unwrap();
    assert!(Reader::new(empty.as_slice()).next_entry().unwrap().is_none());
}

/// An archive of one file, for changing bytes in.
fn archive() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.plain_directory("some").unwrap();
    writer.plain_file(&format!("some/{}end", "long/".repeat(60)), 700, &mut &[7; 700][..]).unwrap();
    writer.plain_file("some/short", 3, &mut &b"abc"[..]).unwrap();
    writer.finish().unwrap()
}

/// Gives every header block the checksum that it should have: damage is then seen by what reads the fields.
fn with_checksums(mut raw: Vec<u8>) -> Vec<u8> {
    for block in raw.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    raw
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn damaged_headers_are_read_or_refused_in_bounds(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut raw = archive();
        for (place, byte) in damage {
            let place = place.index(raw.len());
            raw[place] = byte;
        }
        let mut raw = with_checksums(raw);
        raw.truncate(cut.index(raw.len() + 1));
        let mut reader = Reader::new(raw.as_slice());
        let mut entries = 0;
        while let Ok(Some(entry)) = reader.next_entry() {
            entries += 1;
            prop_assert!(entries <= raw.len() / 512, "no more entries than blocks");
            prop_assert!(entry.path.len() <= PATH_BYTES_MAX);
            prop_assert!(!entry.path.split(|b| *b == b'/').any(|part| part == b".." || part == b"."));
            prop_assert!(entry.path.first() != Some(&b'/'));
        }
        prop_assert!(reader.position() <= raw.len() as u64);
    }
}

#[test]
fn names_and_attributes_of_a_layer_have_a_budget() {
    let raw = archive();
    let mut all = Reader::new(raw.as_slice());
    let mut bytes = 0;
    while let Some(entry) = all.next_entry().unwrap() {
        bytes += entry.facts_bytes();
    }
    for (left, fits) in [(bytes, true), (bytes - 1, false)] {
        let mut reader = Reader::new(raw.as_slice());
        reader.facts_left = left;
        let read = std::iter::from_fn(|| reader.next_entry().transpose()).collect::<Result<Vec<_>, _>>();
        assert_eq!(read.is_ok(), fits, "{read:?}");
    }
}

#[test]
fn device_numbers_that_the_kernel_would_cut_off_are_refused() {
    let device = |major: u32, minor: u32| {
        let mut raw = archive();
        raw[156] = b'3';
        raw[329..337].copy_from_slice(format!("{major:07o}\0").as_bytes());
        raw[337..345].copy_from_slice(format!("{minor:07o}\0").as_bytes());
        let raw = with_checksums(raw);
        Reader::new(raw.as_slice()).next_entry().map(|entry| entry.unwrap().device)
    };
    assert_eq!(device(4095, (1 << 20) - 1).unwrap(), (4095, (1 << 20) - 1));
    // The kernel makes 0:0 of these, which hides what lower layers have.
    assert!(device(4096, 0).unwrap_err().to_string().contains("device number"));
    assert!(device(0, 1 << 20).unwrap_err().to_string().contains("device number"));
}
