//! The caller's terminal: raw mode that is undone on drop, its size, whether there is one at all.

use crate::host::sys;
use nix::sys::termios::{LocalFlags, OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

/// A terminal in raw mode; its former mode comes back when this is dropped.
#[derive(Debug)]
pub struct Raw {
    former: Termios,
}

impl Raw {
    /// Puts the terminal on stdin into raw mode; `None` when stdin is no terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let former = tcgetattr(io::stdin())?;
        let mut raw = former.clone();
        cfmakeraw(&mut raw);
        // Keep the translation of newlines to the container's terminal: output passes through unchanged.
        raw.output_flags.remove(OutputFlags::OPOST);
        raw.local_flags.remove(LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { former }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may have gone away; there is nobody left to tell.
        tcsetattr(io::stdin(), SetArg::TCSANOW, &self.former).ok();
    }
}

/// Rows and columns of the terminal on stdout, else on stdin; `None` when neither is one.
pub fn size() -> Option<(u16, u16)> {
    sys::window_size(io::stdout().as_fd()).or_else(|_| sys::window_size(io::stdin().as_fd())).ok()
}
