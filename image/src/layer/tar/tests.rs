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
