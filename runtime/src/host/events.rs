//! `events`: statistics and OOM notifications of a container, a JSON object a line, as runc writes them.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cgroup::oom::{OomWatch, Seen};
use super::cgroup::resctrl::Group;
use super::cgroup::stats::Stats;
use super::cgroup::{Cgroup, CgroupError};

/// One line.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// Why events end early.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The cgroup could not be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Nobody reads what is written.
    #[error("write events: {0}")]
    Write(#[from] io::Error),
}

/// The container that is watched.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its cgroup.
    pub cgroup: &'a Cgroup,
    /// Its class of Intel RDT.
    pub rdt: Option<&'a Group>,
}

/// Writes the statistics once.
pub fn stats(subject: Subject<'_>, out: &mut impl Write) -> Result<(), EventsError> {
    let mut data = subject.cgroup.stats()?;
    if let Some(rdt) = subject.rdt {
        data.intel_rdt = rdt.stats()?;
    }
    line(out, &Event { kind: "stats", id: subject.id, data: Some(data) })
}

/// Writes the statistics at every interval and a line at every OOM, until the container is gone.
pub fn follow(subject: Subject<'_>, interval: Duration, out: &mut impl Write) -> Result<(), EventsError> {
    let mut watch = OomWatch::open(subject.cgroup)?;
    let mut next = Instant::now() + interval;
    loop {
        match watch.wait(next.saturating_duration_since(Instant::now()))? {
            Seen::Oom => line(out, &Event { kind: "oom", id: subject.id, data: None })?,
            Seen::Gone => return Ok(()),
            Seen::Nothing => {}
        }
        if Instant::now() >= next {
            stats(subject, out)?;
            next += interval;
        }
    }
}

fn line(out: &mut impl Write, event: &Event<'_>) -> Result<(), EventsError> {
    let mut text = serde_json::to_vec(event).map_err(io::Error::from)?;
    text.push(b'\n');
    out.write_all(&text)?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_runcs_shape() {
        let mut out = Vec::new();
        line(&mut out, &Event { kind: "oom", id: "c1", data: None }).unwrap();
        assert_eq!(out, b"{\"type\":\"oom\",\"id\":\"c1\"}\n");
        out.clear();
        line(&mut out, &Event { kind: "stats", id: "c1", data: Some(Stats::default()) }).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with(
                r#"{"type":"stats","id":"c1","data":{"cpu":{"usage":{"kernel":0,"user":0},"throttling":{}}"#
            ),
            "{text}"
        );
        assert!(text.contains(r#""hugetlb":{},"intel_rdt":{},"network_interfaces":null}}"#), "{text}");
    }
}
