//! How a command fails: what, why, what to do next, and with which exit code.

use std::process::ExitCode;

/// A failed command: one message, its causes, hints, and the exit code.
#[derive(Debug)]
pub(crate) struct Error {
    /// What failed, on what.
    message: String,
    /// Why, outermost first.
    causes: Vec<String>,
    /// The next commands to try.
    hints: Vec<String>,
    /// Where in a file, when one was read.
    place: Option<String>,
    /// The process's exit code; see `docs/cli.md` "Exit codes".
    code: u8,
}

impl Error {
    /// Builds an error with exit code 1 (failed).
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hints: Vec::new(), place: None, code: 1 }
    }

    /// Puts what was being done before the message, which becomes the first cause.
    #[must_use]
    pub(crate) fn context(mut self, step: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.message, step.into());
        self.causes.insert(0, cause);
        self
    }

    /// Adds the next command to try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the place in a file: line and column from 1.
    #[must_use]
    pub(crate) fn at(mut self, path: &std::path::Path, line: usize, column: usize) -> Self {
        self.place = Some(format!("{}:{line}:{column}", path.display()));
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Whether somebody else changed what was to be changed (exit code 5).
    pub(crate) fn is_conflict(&self) -> bool {
        self.code == 5
    }

    /// Prints the error on stderr and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("shoal: {}", self.message);
        for cause in &self.causes {
            eprintln!("  cause: {cause}");
        }
        if let Some(place) = &self.place {
            eprintln!("  at {place}");
        }
        for hint in &self.hints {
            eprintln!("  hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let message = error.to_string();
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some messages end with their cause already.
            if !message.contains(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        Self { message, causes, hints: Vec::new(), place: None, code: 1 }
    }
}
