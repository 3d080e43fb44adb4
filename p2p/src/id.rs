//! Names of nodes and clusters. In: public keys. Out: short ids. Never touches a key's secret half.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A node of the mesh: the first eight bytes of the BLAKE3 hash of its Ed25519 public key, shown as 16 hex digits.
///
/// The full key is in the node's certificate; admission refuses a second key with the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// A cluster: the first sixteen bytes of the BLAKE3 hash of its root public key, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

/// Text that is not an id: not hex, or of the wrong length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {what} {text:?}: it must be {digits} hex digits")]
pub struct IdError {
    /// What was being read.
    pub what: &'static str,
    /// The text as given, cut at 64 characters.
    pub text: String,
    /// How many digits it must have.
    pub digits: usize,
}

impl NodeId {
    /// The id of the node that holds this Ed25519 public key.
    #[must_use]
    pub fn of_key(public: &[u8; 32]) -> Self {
        let hash = blake3::hash(public);
        Self(u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a BLAKE3 hash has 32 bytes")))
    }
}

impl ClusterId {
    /// The id of the cluster whose root has this Ed25519 public key.
    #[must_use]
    pub fn of_root(public: &[u8; 32]) -> Self {
        let hash = blake3::hash(public);
        Self(u128::from_be_bytes(hash.as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes")))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError { what: "node id", text: text.chars().take(64).collect(), digits: 16 };
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError { what: "cluster id", text: text.chars().take(64).collect(), digits: 32 };
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.to_be_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 8]>::deserialize(deserializer).map(|bytes| Self(u64::from_be_bytes(bytes)))
        }
    }
}

impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.to_be_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(u128::from_be_bytes(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text_and_nothing_else_does() {
        let id = NodeId::of_key(&[7; 32]);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        for bad in ["", "xyz", "+123456789abcdef", "0123456789abcdef0", "0123456789abcdeé"] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
        let cluster = ClusterId::of_root(&[9; 32]);
        assert_eq!(cluster.to_string().parse::<ClusterId>().unwrap(), cluster);
    }
}
