//! `shoal service logs` and `stack logs`: what the instances of services wrote, gathered by the node that is asked.

use crate::commands::Global;
use crate::commands::mesh::client::{At, Client, encode};
use crate::error::Error;
use clap::Args;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Lines of an instance that are asked for again and again while its log is followed, and remembered to find where it went on.
const RECENT: usize = 1_000;
/// Between two looks while a log is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which lines, and how they are shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// The last lines of each instance only, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Not before: a time, unix seconds, or a duration ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Without the instance before each line
    #[arg(long)]
    raw: bool,
}

/// `shoal service logs`
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The service
    service: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

/// Prints what the instances of a service wrote.
pub(crate) fn run(global: &Global, logs: &Logs) -> Result<ExitCode, Error> {
    print(&Client::new(global, &logs.at)?, std::slice::from_ref(&logs.service), &logs.which)
}

/// Prints what the instances of services wrote, service by service.
pub(crate) fn print(client: &Client, services: &[String], which: &Which) -> Result<ExitCode, Error> {
    let mut query = if which.timestamps { "times=1".to_owned() } else { String::new() };
    if let Some(since) = &which.since {
        let time = engine::time::parse(since, engine::time::now()).ok_or_else(|| {
            Error::new(format!("invalid value for --since: {since:?} is no time"))
                .hint("use 2026-01-02T15:04:05, unix seconds, or a duration such as 10m")
                .code(2)
        })?;
        query.push_str(&format!("&since={time}"));
    }
    // docker: anything that is no number means all.
    let tail = which.tail.parse::<usize>().map(|tail| format!("&tail={tail}")).unwrap_or_default();
    let ask = |service: &String, tail: &str| -> Result<Vec<Wrote>, Error> {
        client.get(&format!("/v1/services/{}/logs?{query}{tail}", encode(service)))
    };
    let recent = format!("&tail={RECENT}");
    let mut printed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut first = true;
    loop {
        for service in services {
            let tasks = ask(service, if first { &tail } else { &recent })?;
            // More came since than was asked for: everything there is tells where it went on.
            let gap = !first && tasks.iter().any(|task| is_gap(printed.get(&task.task), &task.lines));
            let tasks = if gap { ask(service, "")? } else { tasks };
            print_tasks(tasks, &mut printed, which, first)?;
        }
        first = false;
        if !which.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Takes the time off a line; a node of an older version sends none.
fn timed(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((time, text)) if time.len() > 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T' => (time, text),
        _ => ("", line),
    }
}

/// What an instance wrote, as its node answers.
#[derive(Debug, serde::Deserialize)]
struct Wrote {
    task: String,
    node: String,
    lines: Vec<String>,
    error: Option<String>,
}

/// Returns how many of the lines there are now were known before; the rest is new.
fn known_of(before: &[String], now: &[String]) -> usize {
    let count = before.len();
    if now.starts_with(before) {
        return count;
    }
    // What is asked for begins later than what is known, or earlier.
    let later = (1..count).find(|gone| now.starts_with(&before[*gone..])).map(|gone| count - gone);
    let earlier = || now.windows(count).rposition(|window| window == before).map(|at| at + count);
    later.or_else(earlier).unwrap_or(0)
}

fn is_gap(before: Option<&Vec<String>>, now: &[String]) -> bool {
    now.len() >= RECENT && before.is_some_and(|before| !before.is_empty() && known_of(before, now) == 0)
}

fn print_tasks(
    tasks: Vec<Wrote>,
    printed: &mut BTreeMap<String, Vec<String>>,
    which: &Which,
    first: bool,
) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for task in tasks {
        let name = &task.task;
        if let Some(error) = task.error.as_ref().filter(|_| first) {
            eprintln!("shoal: {name}: {error}");
        }
        if task.lines.is_empty() {
            continue;
        }
        let before = printed.entry(name.clone()).or_default();
        for line in &task.lines[known_of(before, &task.lines)..] {
            let line = line.trim_end_matches('\n');
            let (time, line) = if which.timestamps { timed(line) } else { ("", line) };
            let space = if time.is_empty() { "" } else { " " };
            if which.raw {
                writeln!(out, "{time}{space}{line}")?;
            } else {
                writeln!(out, "{time}{space}{name}@{} | {line}", task.node)?;
            }
        }
        *before = task.lines;
        drop(before.drain(..before.len().saturating_sub(RECENT)));
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| number.to_string()).collect()
    }

    #[test]
    fn a_time_is_taken_off_a_line_that_has_one() {
        assert_eq!(timed("2026-01-02T03:04:05.000000001Z hello you"), ("2026-01-02T03:04:05.000000001Z", "hello you"));
        assert_eq!(timed("hello you"), ("", "hello you"));
        assert_eq!(timed(""), ("", ""));
    }

    #[test]
    fn a_log_that_is_followed_goes_on_where_it_was_however_long_it_gets() {
        assert_eq!(known_of(&[], &lines(0..3)), 0);
        assert_eq!(known_of(&lines(0..3), &lines(0..3)), 3);
        assert_eq!(known_of(&lines(0..3), &lines(0..5)), 3);
        // Only recent lines are asked for, and of `--tail` fewer were asked for at first.
        assert_eq!(known_of(&lines(20_000..21_000), &lines(20_100..21_100)), 900);
        assert_eq!(known_of(&lines(990..1_000), &lines(0..1_020)), 1_000);
        let same = vec!["again".to_owned(); 4];
        assert_eq!(known_of(&same[..2], &same), 2);
        assert!(is_gap(Some(&lines(0..50)), &lines(5_000..6_000)));
        assert!(!is_gap(Some(&lines(950..1_000)), &lines(0..1_000)));
    }
}
