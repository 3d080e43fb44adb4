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
    /// The process's exit code; see `docs/cli.md` "Exit codes".
    code: u8,
}

impl Error {
    /// Builds an error with exit code 1 (failed).
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), causes: Vec::new(), hints: Vec::new(), code: 1 }
    }

    /// Adds the next command to try.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the error on stderr and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("shoal: {}", self.message);
        for cause in &self.causes {
            eprintln!("  cause: {cause}");
        }
        for hint in &self.hints {
            eprintln!("  hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        Self { message: error.to_string(), causes, hints: Vec::new(), code: 1 }
    }
}
