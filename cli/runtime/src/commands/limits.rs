//! `update` and `events`: the limits of a container and what it uses of them.

use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use runtime::host::limits;
use runtime::host::update::{self, Change, FLAGS, UpdateError};

use super::{Context, Failure, need_id};

/// runc's default interval of `events`.
const INTERVAL: Duration = Duration::from_secs(5);

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Self {
        Self::usage(error.to_string())
    }
}

/// `update [limits] ID`.
#[inline(never)]
pub(crate) fn update(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut change, mut document) = (None, Change::default(), None);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('r') | Arg::Long("resources") => document = Some(parser.value()?.string()?),
            Arg::Long(flag) if FLAGS.contains(&flag) => {
                let flag = flag.to_owned();
                let value = parser.value()?.string()?;
                change.flag(&flag, &value)?;
            }
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let id = need_id(id)?;
    if let Some(from) = document {
        change.document(&from, &update::read(&from)?)?;
    }
    for warning in limits::update(&context.root(), &id, &change)? {
        context.log.warn(&warning);
    }
    Ok(0)
}

/// `events [--stats] [--interval 5s] ID`.
#[inline(never)]
pub(crate) fn events(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut once, mut interval) = (None, false, INTERVAL);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("stats") => once = true,
            Arg::Long("interval") => interval = duration(&parser.value()?.string()?)?,
            Arg::Value(value) if id.is_none() => id = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let interval = (!once).then_some(interval);
    limits::watch(&context.root(), &need_id(id)?, interval, &mut std::io::stdout())?;
    Ok(0)
}

/// Reads `500ms`, `5s`, `1m30s`, `2h`, as Go writes durations.
fn duration(text: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage(format!("{text:?} is no duration like 500ms, 5s or 1m30s"));
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u32 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        total = unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[end..];
    }
    if total.is_zero() { Err(Failure::usage("duration interval must be greater than 0")) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("1m30s").expect("a duration"), Duration::from_secs(90));
        assert_eq!(duration("500ms").expect("a duration"), Duration::from_millis(500));
        for bad in ["", "0s", "5", "s", "5x", "-1s", "99999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
