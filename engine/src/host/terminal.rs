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

/// The verb of `shoal-monitor` that is [`hold`].
pub const HOLD: &str = "hold-terminal";

/// Keeps the other end of an exec's terminal, which is descriptor 0, for as long as its program has it: were the last one closed,
/// the program would be hung up. What it says is read once the client is gone, which is when descriptor 1 says so.
pub fn hold() -> io::Result<()> {
    sys::close_inherited();
    sys::daemonize()?;
    std::env::set_current_dir("/")?;
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stderr(&null)?;
    wait(io::stdout().as_fd())?;
    let stdin = io::stdin();
    let mut bytes = [0u8; 16 * 1024];
    loop {
        wait(stdin.as_fd())?;
        match nix::unistd::read(&stdin, &mut bytes) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Ok(count) if count > 0 => {}
            // The last holder of the program's end has gone.
            _ => return Ok(()),
        }
    }
}

/// Waits until there is something to read, or nobody who would write.
fn wait(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

/// Rows and columns of the terminal on stdout, else on stdin; `None` when neither is one.
pub fn size() -> Option<(u16, u16)> {
    sys::window_size(io::stdout().as_fd()).or_else(|_| sys::window_size(io::stdin().as_fd())).ok()
}
