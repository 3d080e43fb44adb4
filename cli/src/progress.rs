//! Progress of long work on stderr: bars on a terminal, plain lines elsewhere, JSON lines for programs.
//!
//! In: events of the image crate. Out: text on stderr only. Never a control character unless stderr is a terminal.

use clap::ValueEnum;
use image::progress::{Content, Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use oci::Digest;
use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// JSON lines about moved bytes come at most this often for each blob.
const JSON_EVERY: Duration = Duration::from_millis(200);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Mode {
    /// Bars on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// One line when something begins or ends
    Plain,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// Shows events.
pub(crate) enum Reporter {
    Bars(Mutex<Bars>),
    Plain(Mutex<HashMap<Digest, u64>>),
    Json(Mutex<HashMap<Digest, Instant>>),
    Quiet,
}

/// What the bars are about.
pub(crate) struct Bars {
    all: MultiProgress,
    by_digest: HashMap<Digest, ProgressBar>,
    verb: &'static str,
}

impl Reporter {
    /// Chooses by flag and by what stderr is. `verb` is what a finished blob is called ("Pull complete", "Pushed").
    pub(crate) fn new(mode: Mode, quiet: bool, verb: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match mode {
            _ if quiet => Self::Quiet,
            Mode::None => Self::Quiet,
            Mode::Json => Self::Json(Mutex::default()),
            Mode::Auto if terminal => {
                let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
                Self::Bars(Mutex::new(Bars { all, by_digest: HashMap::new(), verb }))
            }
            Mode::Auto | Mode::Plain => Self::Plain(Mutex::default()),
        }
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event<'_>) {
        match self {
            Self::Quiet => {}
            Self::Bars(bars) => bars.lock().unwrap_or_else(PoisonError::into_inner).event(&event),
            Self::Plain(sizes) => plain(&mut sizes.lock().unwrap_or_else(PoisonError::into_inner), &event),
            Self::Json(last) => json(&mut last.lock().unwrap_or_else(PoisonError::into_inner), &event),
        }
    }
}

impl Bars {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Queued { digest, size, content } => {
                let style = "{prefix} {bar:28} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4} {msg}";
                let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = self.all.add(ProgressBar::new(*size).with_style(style).with_prefix(digest.short()));
                bar.set_message(match content {
                    Content::Config => "config",
                    _ => "",
                });
                self.by_digest.insert(**digest, bar);
            }
            Event::Moved { digest, done, .. } => self.with(digest, |bar| bar.set_position(*done)),
            Event::Unpacking { digest, done, .. } => self.with(digest, |bar| {
                bar.set_position(*done);
                bar.set_message("unpacking");
            }),
            Event::Retry { digest, cause, .. } => self.with(digest, |bar| bar.set_message((*cause).to_owned())),
            Event::Exists { digest } => self.with(digest, |bar| bar.finish_with_message("already there")),
            Event::Done { digest } => {
                let verb = self.verb;
                self.with(digest, |bar| {
                    bar.set_position(bar.length().unwrap_or(0));
                    bar.finish_with_message(verb);
                });
            }
            Event::Message(text) => {
                let _ = self.all.println(text);
            }
        }
    }

    fn with(&self, digest: &Digest, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.by_digest.get(digest) {
            act(bar);
        }
    }
}

fn plain(sizes: &mut HashMap<Digest, u64>, event: &Event<'_>) {
    let mut err = std::io::stderr().lock();
    // A stderr that is gone is no reason to stop the work.
    let _ = match event {
        Event::Queued { digest, size, .. } => {
            sizes.insert(**digest, *size);
            Ok(())
        }
        Event::Exists { digest } => writeln!(err, "{}: Already exists", digest.short()),
        Event::Retry { digest, cause, wait_ms } => {
            writeln!(err, "{}: Retrying in {wait_ms} ms: {cause}", digest.short())
        }
        Event::Done { digest } => {
            let size = sizes.get(*digest).copied().unwrap_or_default();
            writeln!(err, "{}: Complete ({})", digest.short(), indicatif::DecimalBytes(size))
        }
        Event::Message(text) => writeln!(err, "{text}"),
        Event::Moved { .. } | Event::Unpacking { .. } => Ok(()),
    };
}

fn json(last: &mut HashMap<Digest, Instant>, event: &Event<'_>) {
    if let Event::Moved { digest, done, size } | Event::Unpacking { digest, done, size } = event {
        if done < size && last.get(*digest).is_some_and(|at| at.elapsed() < JSON_EVERY) {
            return;
        }
        last.insert(**digest, Instant::now());
    }
    let line = match event {
        Event::Queued { digest, size, content } => {
            serde_json::json!({"event": "queued", "digest": digest.to_string(), "size": size, "content": format!("{content:?}").to_lowercase()})
        }
        Event::Exists { digest } => serde_json::json!({"event": "exists", "digest": digest.to_string()}),
        Event::Moved { digest, done, size } => {
            serde_json::json!({"event": "moved", "digest": digest.to_string(), "done": done, "size": size})
        }
        Event::Unpacking { digest, done, size } => {
            serde_json::json!({"event": "unpacking", "digest": digest.to_string(), "done": done, "size": size})
        }
        Event::Retry { digest, cause, wait_ms } => {
            serde_json::json!({"event": "retry", "digest": digest.to_string(), "cause": cause, "wait_ms": wait_ms})
        }
        Event::Done { digest } => serde_json::json!({"event": "done", "digest": digest.to_string()}),
        Event::Message(text) => serde_json::json!({"event": "message", "text": text}),
    };
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
