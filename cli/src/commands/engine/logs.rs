//! `shoal logs`.

use super::{explain, open};
use crate::commands::Global;
use crate::error::Error;
use engine::log::{Query, Stream};
use std::io::{self, Write};
use std::process::ExitCode;

/// Show a container's log
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on while it runs
    #[arg(short, long)]
    follow: bool,
    /// Only the last N entries, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Not before: a time, unix seconds, or a duration ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Begin each line with the container's labels and variables the log driver names
    #[arg(long)]
    details: bool,
    /// The container
    container: String,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let engine = open(global)?;
    let now = engine::time::now();
    let time = |flag: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => engine::time::parse_local(text, now).map(Some).ok_or_else(|| {
            Error::new(format!("invalid value for --{flag}: {text:?} is no time"))
                .hint("use 2026-01-02T15:04:05, unix seconds, or a duration such as 10m")
        }),
    };
    let query = Query {
        // docker: anything that is no number means all.
        tail: args.tail.parse().ok(),
        since: time("since", &args.since)?,
        until: time("until", &args.until)?,
    };
    let (mut stdout, mut stderr) = (io::BufWriter::new(io::stdout().lock()), io::stderr());
    let mut details = String::new();
    if args.details {
        let container = engine.find(&args.container).map_err(explain)?;
        let options = &container.record.wish.log.options;
        let labels = container.record.labels();
        let named = options.get("labels").map_or("", String::as_str).split(',');
        let pairs: Vec<String> = named.filter_map(|name| Some(format!("{name}={}", labels.get(name)?))).collect();
        details = format!("{} ", pairs.join(","));
    }
    let follow = args.follow;
    let mut print = |entry: engine::log::Entry| -> io::Result<()> {
        if entry.after_gap {
            eprintln!("WARNING: the log rotates faster than it is read: lines are missing here");
        }
        let mut line = Vec::with_capacity(entry.text.len() + 40);
        if args.timestamps {
            line.extend_from_slice(engine::time::rfc3339(entry.time).as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(details.as_bytes());
        line.extend_from_slice(&entry.text);
        match entry.stream {
            Stream::Stdout => {
                stdout.write_all(&line)?;
                if follow { stdout.flush() } else { Ok(()) }
            }
            Stream::Stderr => {
                stdout.flush()?;
                stderr.write_all(&line)
            }
        }
    };
    let done = engine.logs(&args.container, &query, args.follow, &mut print);
    match done {
        // `| head` has seen enough.
        Err(engine::EngineError::Query(engine::log::QueryError::Io { source, .. }))
            if source.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(explain)?,
    }
    match stdout.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
