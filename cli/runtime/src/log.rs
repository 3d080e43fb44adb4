//! The log: text or JSON lines exactly as runc's callers parse them, to stderr and to `--log`.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use runtime::error::words;
use runtime::host::clock;
use runtime::report::Report;

use crate::args::Global;
use crate::commands::Failure;

/// Where lines go and how they look.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<RefCell<File>>,
    json: bool,
    debug: bool,
}

impl Log {
    /// The log that the global flags ask for; one that cannot be opened ends the command, whose caller would wait for
    /// lines in vain.
    pub(crate) fn open(global: &Global) -> Result<Self, Failure> {
        let open = |path: &PathBuf| {
            let file = File::options().append(true).create(true).open(path);
            file.map_err(|cause| Failure::usage(format!("open the log {}: {}", path.display(), words(&cause))))
        };
        let file = global.log.as_ref().map(open).transpose()?.map(RefCell::new);
        Ok(Self { file, json: global.log_json, debug: global.debug })
    }

    /// The error that ends the command.
    pub(crate) fn error(&self, message: &str, report: &Report) {
        self.write("error", message, Some(report));
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    /// Something odd that does not end the command.
    pub(crate) fn warn(&self, message: &str) {
        self.write("warning", message, None);
    }

    /// What happens, for `--debug`.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message, None);
        }
    }

    fn write(&self, level: &str, message: &str, report: Option<&Report>) {
        let time = clock::now_seconds();
        let quoted = serde_json::Value::from(message);
        let line = if self.json {
            // runc's three members first; what a report adds stands behind them.
            let more = report.and_then(|report| serde_json::to_string(report).ok()).unwrap_or_default();
            let more = more.strip_prefix('{').map(|rest| format!(",{rest}")).unwrap_or_else(|| "}".into());
            format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{time}\"{more}\n")
        } else {
            format!("time=\"{time}\" level={level} msg={quoted}\n")
        };
        // A log that cannot be written must not stop a container.
        let _ = match &self.file {
            Some(file) => file.borrow_mut().write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
