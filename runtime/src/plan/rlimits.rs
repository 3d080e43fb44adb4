//! Names of resource limits. runtime-spec config.md "rlimits", setrlimit(2)

use oci::spec::PosixRlimit;
use serde::Serialize;

use crate::error::{Error, Result};

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// In force.
    pub soft: u64,
    /// The ceiling.
    pub hard: u64,
}

const NAMES: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

/// The setting of a limit, for messages.
pub fn describe(limit: &Limit) -> String {
    let name = NAMES.iter().find(|row| row.1 == limit.resource).map_or("rlimit", |row| row.0);
    format!("set {name} to {}:{}", limit.soft, limit.hard)
}

/// Reads the limits.
pub fn compile(limits: &[PosixRlimit]) -> Result<Vec<Limit>> {
    let mut compiled: Vec<Limit> = Vec::with_capacity(limits.len());
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        let Some((_, resource)) = NAMES.iter().find(|(name, _)| *name == limit.kind) else {
            return Err(Error::refusal(field, format!("invalid rlimit type: {:?}", limit.kind)));
        };
        //= runtime-spec config.md "rlimits"
        //# If rlimits contains duplicated entries with same type, the runtime MUST generate an error.
        if compiled.iter().any(|other| other.resource == *resource) {
            return Err(Error::refusal(field, format!("{} is given twice", limit.kind)));
        }
        compiled.push(Limit { resource: *resource, soft: limit.soft, hard: limit.hard });
    }
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_given_twice_is_refused() {
        let limit = PosixRlimit { kind: "RLIMIT_CORE".into(), hard: 1, soft: 1 };
        assert!(compile(&[limit.clone(), limit]).is_err());
    }
}
