//! `pause`, `resume` and `ps`: what acts on all processes of a container.

use std::ffi::OsString;
use std::process::Command;

use lexopt::{Arg, Parser, ValueExt};
use runtime::host::{freeze, processes};

use super::{Context, Failure, need_id, only_id};

/// `pause ID`.
pub(crate) fn pause(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    freeze::pause(&context.root(), &only_id(parser)?)?;
    Ok(0)
}

/// `resume ID`.
pub(crate) fn resume(context: &Context<'_>, parser: Parser) -> Result<u8, Failure> {
    freeze::resume(&context.root(), &only_id(parser)?)?;
    Ok(0)
}

/// `ps [--format table|json] ID [ps options]`.
#[inline(never)]
pub(crate) fn ps(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut id, mut json, mut options) = (None, false, Vec::<OsString>::new());
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('f') | Arg::Long("format") => {
                json = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "table" => false,
                    _ => return Err(Failure::usage("invalid format option")),
                }
            }
            Arg::Value(value) => {
                id = Some(value.string()?);
                options = parser.raw_args()?.collect();
                break;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let mut pids = processes::list(&context.root(), &need_id(id)?)?;
    pids.sort_unstable();
    if json {
        let text = serde_json::to_string(&pids).map_err(|cause| Failure::usage(cause.to_string()))?;
        println!("{text}");
        return Ok(0);
    }
    if options.is_empty() {
        options.push("-ef".into());
    }
    let output = Command::new("ps").args(&options).output();
    let output = output.map_err(|cause| Failure::usage(format!("execute ps: {cause}")))?;
    if !output.status.success() {
        return Err(Failure::usage(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    print!("{}", select(&String::from_utf8_lossy(&output.stdout), &pids)?);
    Ok(0)
}

/// The head of a `ps` table and the lines of `pids`.
fn select(table: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_ascii_whitespace().position(|word| word == "PID");
    let column = column.ok_or_else(|| Failure::usage("couldn't find PID field in ps output"))?;
    let ours = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(head).chain(lines.filter(ours)).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let table = "UID   PID  CMD\nroot    1  init\nroot   42  sleep 1\n";
        assert_eq!(select(table, &[42]).expect("a table"), "UID   PID  CMD\nroot   42  sleep 1\n");
        assert!(select("UID CMD\n", &[]).is_err());
    }
}
