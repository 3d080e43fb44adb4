//! `--ulimit NAME=SOFT[:HARD]`.

use super::WishError;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The names `setrlimit(2)` knows, without `RLIMIT_`, in lower case.
const NAMES: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One resource limit; -1 stands for unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// The limit in force.
    pub soft: i64,
    /// How far the container may raise it.
    pub hard: i64,
}

impl FromStr for Ulimit {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, values) =
            text.split_once('=').ok_or_else(|| WishError::new(text, "an ulimit is NAME=SOFT[:HARD]"))?;
        if !NAMES.contains(&name) {
            return Err(WishError::new(text, format!("known limits are {}", NAMES.join(", "))));
        }
        let number = |value: &str| match value {
            "unlimited" | "-1" => Ok(-1),
            _ => value
                .parse::<i64>()
                .ok()
                .filter(|number| *number >= 0)
                .ok_or_else(|| WishError::new(text, "a limit is a number, -1 or unlimited")),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (number(soft)?, number(hard)?);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(WishError::new(text, "the soft limit is above the hard limit"));
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_and_hard_are_read_and_checked() {
        let limit: Ulimit = "nofile=1024:2048".parse().unwrap();
        assert_eq!((limit.soft, limit.hard), (1024, 2048));
        assert_eq!("core=-1".parse::<Ulimit>().unwrap().hard, -1);
        for bad in ["nofile", "nofile=2:1", "files=1", "nofile=x", "nofile=-1:5"] {
            assert!(bad.parse::<Ulimit>().is_err(), "{bad}");
        }
    }
}
