//! The monitor's last words: everything is delivered, however slowly it is read; then somebody cleans up.
//!
//! In: the connections as the container's end left them. Out: whether the cleanup is still to be done. By now the state is
//! written, ports and lock are given back: `start` and `rm` wait for no reader.

use crate::monitor::connection::{Connection, Incoming};
use crate::monitor::protocol::Request;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// Serves until every client has read its last word, has cleaned up as it promised, or is gone. `true` when nobody has
/// cleaned up.
pub(super) fn farewell(mut connections: Vec<Connection>) -> bool {
    let mut cleaned = false;
    loop {
        connections.retain_mut(Connection::flush);
        connections.retain(|connection| connection.has_output() || (connection.cleans_up && !cleaned));
        if connections.is_empty() {
            return !cleaned;
        }
        let mut polled: Vec<PollFd<'_>> = connections
            .iter()
            .map(|connection| {
                let more = if connection.has_output() { PollFlags::POLLOUT } else { PollFlags::empty() };
                PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN | more)
            })
            .collect();
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        let readable: Vec<bool> =
            polled.iter().map(|fd| fd.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT))).collect();
        let mut readable = readable.into_iter();
        connections.retain_mut(|connection| {
            if !readable.next().unwrap_or(false) {
                return true;
            }
            // Input for a container that has ended is read, or its sender would never come to read.
            let Ok(frames) = connection.fill() else { return false };
            if frames.iter().any(|frame| matches!(frame, Incoming::Request(Request::Cleaned))) {
                cleaned = true;
                connection.cleans_up = false;
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::{Client, Kind, Received, Reply};
    use std::os::unix::net::UnixStream;

    /// A monitor's end that owes `bytes` and the exit, and the client's end.
    fn pair(bytes: usize) -> (Connection, Client) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours).unwrap();
        if bytes > 0 {
            connection.data(Kind::Stdout, &vec![7; bytes]);
        }
        connection.reply(&Reply::Exited { code: 3, last: true });
        (connection, Client::over(theirs).unwrap())
    }

    #[test]
    fn who_promised_to_clean_up_and_dies_leaves_it_to_the_monitor() {
        for (promises, says, mine) in [(false, false, true), (true, false, true), (true, true, false)] {
            let (mut connection, mut client) = pair(0);
            connection.cleans_up = promises;
            if says {
                client.send(&Request::Cleaned).unwrap();
            } else {
                drop(client);
            }
            assert_eq!(farewell(vec![connection]), mine, "promised {promises}, said {says}");
        }
    }

    #[test]
    fn a_reader_that_is_busy_writing_gets_everything_and_the_exit_code() {
        let (mut connection, mut client) = pair(2_000_000);
        connection.stdin = true;
        connection.cleans_up = true;
        let monitor = std::thread::spawn(move || farewell(vec![connection]));
        // More than the socket holds, before a byte is read.
        client.send_stdin(&vec![1; 2_000_000]).unwrap();
        let mut read = 0;
        let code = loop {
            match client.receive().unwrap() {
                Some(Received::Output(_, bytes)) => read += bytes.len(),
                Some(Received::Reply(Reply::Exited { code, .. })) => break code,
                other => panic!("{other:?} after {read} bytes"),
            }
        };
        assert_eq!((read, code), (2_000_000, 3));
        client.send(&Request::Cleaned).unwrap();
        assert!(!monitor.join().unwrap());
        assert_eq!(client.receive().unwrap(), None);
    }
}
