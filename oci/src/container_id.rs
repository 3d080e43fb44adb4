//! A container's name on one host: it becomes a directory name, a cgroup name and a label, so it is checked once, here.
//!
//! In: text from a command line or a state file. Out: a name that is safe as one path component.

use std::fmt;
use std::str::FromStr;

/// The longest name runc accepts, in bytes. It also keeps every path below `PATH_MAX`.
pub const ID_LEN_MAX: usize = 1024;

/// A container id: 1 to 1,024 characters of `A-Z a-z 0-9 _ + . -`, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

/// Why a text is no container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerIdError {
    /// Nothing was given.
    #[error("invalid container ID format: the id is empty")]
    Empty,
    /// Longer than [`ID_LEN_MAX`].
    #[error("invalid container ID format: {len} characters, at most {ID_LEN_MAX} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside the allowed set, or a name that means a directory.
    #[error("invalid container ID format: {id:?} (allowed: letters, digits, '_', '+', '-', '.'; not \".\" or \"..\")")]
    Malformed {
        /// What was given.
        id: String,
    },
}

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        match text {
            "" => Err(ContainerIdError::Empty),
            _ if text.len() > ID_LEN_MAX => Err(ContainerIdError::TooLong { len: text.len() }),
            "." | ".." => Err(ContainerIdError::Malformed { id: text.to_owned() }),
            _ if text.bytes().all(allowed) => Ok(Self(text.to_owned())),
            _ => Err(ContainerIdError::Malformed { id: text.to_owned() }),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for ContainerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ContainerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_allowed_set_are_accepted() {
        for good in ["a", "web-1", "a_b+c.d", "..a", "-", &"x".repeat(ID_LEN_MAX)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "a b", "a\0", "ä", &"x".repeat(ID_LEN_MAX + 1)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}
