//! Random numbers from a seed, and inputs made of others: bytes changed, or a JSON document with one value exchanged.

use serde_json::{Value, json};

/// Words of the documents, and what breaks readers.
const WORDS: [&str; 40] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "4294967295",
    "4294967296",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "1e400",
    "-0.0",
    "\"\"",
    "[]",
    "{}",
    "\"/\"",
    "\"..\"",
    "\"/../..\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"SCMP_ACT_ALLOW\"",
    "\"SCMP_ACT_NOTIFY\"",
    "\"SCMP_ACT_ERRNO\"",
    "\"SCMP_CMP_MASKED_EQ\"",
    "\"SCMP_ARCH_X86\"",
    "\"SCMP_ARCH_X32\"",
    "\"SCMP_ARCH_AARCH64\"",
    "\"openat2\"",
    "\"bind\"",
    "rbind",
    "rro",
    "rslave",
    "idmap",
    "size=64k",
    "mode=",
    "tmpcopyup",
    "nosymfollow",
    ",",
    "\"time\"",
];

/// A generator (xorshift64*): the same seed gives the same inputs on every machine.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 when there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let drawn = self.next() >> 16;
        usize::try_from(drawn).expect("48 bits") % end.max(1)
    }

    /// A changed copy of `input`; `other` is another input to take parts from.
    pub(crate) fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        if self.below(3) > 0
            && let (Ok(mut document), Ok(donor)) = (serde_json::from_slice(input), serde_json::from_slice(other))
        {
            self.exchange(&mut document, &donor);
            return document.to_string().into_bytes();
        }
        let mut bytes = input.to_vec();
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(16)).min(bytes.len());
        match self.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let word = WORDS[self.below(WORDS.len())];
                drop(bytes.splice(at..end, word.bytes()));
            }
            3 => {
                let part = bytes[at..end].repeat(self.below(40));
                drop(bytes.splice(at..at, part));
            }
            4 => {
                let from = self.below(other.len());
                let part = other[from..(from + self.below(64)).min(other.len())].to_vec();
                drop(bytes.splice(at..end, part));
            }
            _ => bytes.insert(at, u8::try_from(self.below(256)).expect("below 256")),
        }
        bytes
    }

    /// Puts something else in the place of one value of the document.
    fn exchange(&mut self, document: &mut Value, donor: &Value) {
        let count = count(document);
        let Some(place) = nth(document, &mut self.below(count)) else { return };
        *place = match self.below(10) {
            0 => Value::Null,
            1 => json!(self.next()),
            2 => json!(self.next().cast_signed() >> self.below(64)),
            3 => json!("x".repeat(self.below(5_000))),
            4 => json!(vec![place.clone(); self.below(20)]),
            5 | 6 => {
                let count = self::count(donor);
                let mut donor = donor.clone();
                nth(&mut donor, &mut self.below(count)).map_or(Value::Null, |value| value.take())
            }
            7 => serde_json::from_str(WORDS[self.below(WORDS.len())]).unwrap_or_else(|_| json!({})),
            8 => match place.as_array_mut() {
                Some(list) if !list.is_empty() => {
                    let again = list[self.below(list.len())].clone();
                    list.push(again);
                    place.clone()
                }
                _ => json!([]),
            },
            _ => match place.as_object_mut() {
                Some(members) if !members.is_empty() => {
                    let gone = members.keys().nth(self.below(members.len())).cloned();
                    gone.and_then(|name| members.remove(&name));
                    place.clone()
                }
                _ => json!(self.below(3)),
            },
        };
    }
}

/// How many values a document has, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// The `left`-th value of a document.
fn nth<'a>(value: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().find_map(|value| nth(value, left)),
        Value::Object(members) => members.values_mut().find_map(|value| nth(value, left)),
        _ => None,
    }
}
