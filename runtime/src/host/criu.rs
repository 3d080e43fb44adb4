//! CRIU's RPC: one `criu swrk` process, requests and answers as protobuf over a socket pair. criu.org/RPC
//!
//! In: typed options. Out: CRIU's answer, or its own words about what failed. Only the fields that are named here are
//! encoded; unknown fields of answers are passed over.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair};

use super::sys::open::{adopt, keep_on_exec};
use crate::error::{During, Error, Result};

/// CRIU's answers are small; its log is a file.
const PACKET_LEN_MAX: usize = 64 * 1024;

/// What CRIU is asked to do (`criu_req_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Write a checkpoint.
    Dump = 1,
    /// Make processes of a checkpoint.
    Restore = 2,
    /// Write memory only, for a later dump to build on.
    PreDump = 4,
}

/// A protobuf message under construction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push((value & 0x7f) as u8);
    }

    /// Adds a number; negative ones take ten bytes, as protobuf's int32 does.
    pub fn number(&mut self, field: u32, value: i64) -> &mut Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    /// Adds a flag, if it is set.
    pub fn flag(&mut self, field: u32, value: bool) -> &mut Self {
        if value { self.number(field, 1) } else { self }
    }

    /// Adds text.
    pub fn text(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes())
    }

    /// Adds a message inside this one.
    pub fn message(&mut self, field: u32, value: &Self) -> &mut Self {
        self.bytes(field, &value.0)
    }

    fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// A field of a received message.
#[derive(Debug, PartialEq, Eq)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; ends early at what is no message.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    fn varint(rest: &mut &[u8]) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, after) = rest.split_first()?;
            *rest = after;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
    fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(taken)
    }
    std::iter::from_fn(move || {
        let key = varint(&mut rest)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut rest)?),
            1 => Field::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Field::Bytes(take(&mut rest, length)?)
            }
            5 => Field::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        Some((key >> 3, field))
    })
}

/// CRIU's answer (`criu_resp`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// What it answers; 6 asks for a reply.
    pub kind: u64,
    /// Whether it worked.
    pub success: bool,
    /// The first process of a restored container.
    pub pid: i32,
    /// The script a notification stands for.
    pub notification: String,
    /// `errno`, if CRIU says.
    pub errno: i32,
    /// CRIU's own words.
    pub message: String,
}

const NOTIFY: u64 = 6;

impl Answer {
    fn parse(packet: &[u8]) -> Self {
        let mut answer = Self::default();
        let number = |value: u64| i32::try_from(value.cast_signed()).unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (field, value) in fields(packet) {
            match (field, value) {
                (1, Field::Number(kind)) => answer.kind = kind,
                (2, Field::Number(success)) => answer.success = success != 0,
                // criu_restore_resp
                (4, Field::Bytes(inner)) => {
                    for (field, value) in fields(inner) {
                        if let (1, Field::Number(pid)) = (field, value) {
                            answer.pid = number(pid);
                        }
                    }
                }
                // criu_notify
                (5, Field::Bytes(inner)) => {
                    for (field, value) in fields(inner) {
                        match (field, value) {
                            (1, Field::Bytes(script)) => answer.notification = text(script),
                            (2, Field::Number(pid)) => answer.pid = number(pid),
                            _ => {}
                        }
                    }
                }
                (7, Field::Number(errno)) => answer.errno = number(errno),
                (9, Field::Bytes(message)) => answer.message = text(message),
                _ => {}
            }
        }
        answer
    }
}

/// Asks a CRIU of its own for `kind` with `options` (`criu_opts`); `inherit` are descriptors CRIU gets by number.
///
/// `notified` hears of each notification; its failure makes CRIU give up.
pub fn ask(
    kind: Kind,
    options: &Message,
    inherit: &[RawFd],
    log: &std::path::Path,
    mut notified: impl FnMut(&Answer, Option<OwnedFd>) -> Result<()>,
) -> Result<Answer> {
    let (socket, mut child) = start(inherit)?;
    let answer = converse(kind, options, &socket, &mut notified);
    drop(socket);
    let ended = child.wait();
    let failed = |reason: String| Error::Checkpoint {
        operation: format!("{kind:?}").to_lowercase(),
        reason: format!("{reason}; log: {}", log.display()),
    };
    match answer? {
        None => Err(failed(format!(
            "it ended without an answer ({})",
            ended.map_or_else(|e| e.to_string(), |s| s.to_string())
        ))),
        Some(answer) if answer.success => Ok(answer),
        Some(answer) => {
            let cause = if answer.errno == 0 { String::new() } else { crate::error::describe(answer.errno) };
            let words = [answer.message.as_str(), &cause].into_iter().filter(|text| !text.is_empty());
            let words = words.collect::<Vec<_>>().join(": ");
            Err(failed(if words.is_empty() { "it gave no reason".into() } else { words }))
        }
    }
}

fn start(inherit: &[RawFd]) -> Result<(OwnedFd, Child)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.during(|| "make the socket pair to criu")?;
    for fd in inherit.iter().copied().chain([theirs.as_raw_fd()]) {
        keep_on_exec(fd).during(|| "hand a descriptor to criu")?;
    }
    let mut command = Command::new("criu");
    command.arg("swrk").arg(theirs.as_raw_fd().to_string()).stdin(Stdio::null());
    match command.spawn() {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::HostLack { what: "criu".into(), hint: "install it, and put it into PATH".into() })
        }
        child => Ok((ours, child.during(|| "execute criu")?)),
    }
}

fn converse(
    kind: Kind,
    options: &Message,
    socket: &OwnedFd,
    notified: &mut impl FnMut(&Answer, Option<OwnedFd>) -> Result<()>,
) -> Result<Option<Answer>> {
    let mut request = Message::default();
    let operation = || "speak with criu";
    request.number(1, kind as i64).message(2, options);
    send(socket.as_raw_fd(), &request.0, MsgFlags::MSG_NOSIGNAL).during(operation)?;
    let mut packet = vec![0; PACKET_LEN_MAX];
    loop {
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut packet)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, fd) = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(nix::Error::EINTR | nix::Error::ECONNRESET) => continue,
            Err(errno) => return Err(errno).during(operation),
            Ok(heard) => {
                let mut fds = heard.cmsgs().into_iter().flatten().flat_map(|part| match part {
                    ControlMessageOwned::ScmRights(fds) => fds,
                    _ => Vec::new(),
                });
                (heard.bytes, fds.next())
            }
        };
        let fd = fd.map(adopt).transpose().during(operation)?;
        if length == 0 {
            return Ok(None);
        }
        let answer = Answer::parse(&packet[..length]);
        if answer.kind != NOTIFY {
            return Ok(Some(answer));
        }
        let heard = notified(&answer, fd);
        let mut reply = Message::default();
        reply.number(1, NOTIFY.cast_signed()).number(3, i64::from(heard.is_ok()));
        send(socket.as_raw_fd(), &reply.0, MsgFlags::MSG_NOSIGNAL).during(operation)?;
        heard?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protobuf() {
        let mut inner = Message::default();
        inner.text(1, "key");
        let mut message = Message::default();
        message.number(1, 150).flag(2, false).flag(3, true).message(23, &inner).number(17, -1);
        let expected = [
            &[0x08, 0x96, 0x01, 0x18, 0x01, 0xba, 0x01, 0x05, 0x0a, 0x03, b'k', b'e', b'y', 0x88, 0x01][..],
            &[0xff; 9],
            &[0x01],
        ];
        assert_eq!(message.0, expected.concat());
    }

    #[test]
    fn answers_are_read_and_rubbish_is_passed_over() {
        let mut restored = Message::default();
        restored.number(1, 4711);
        let mut packet = Message::default();
        packet.number(1, 2).number(2, 1).message(4, &restored).text(99, "later").number(7, 17).text(9, "why");
        let answer = Answer::parse(&packet.0);
        let expected =
            Answer { kind: 2, success: true, pid: 4711, errno: 17, message: "why".into(), ..Answer::default() };
        assert_eq!(answer, expected);
        for cut in 0..packet.0.len() {
            let _ = Answer::parse(&packet.0[..cut]);
        }
        assert_eq!(Answer::parse(&[0xff; 40]), Answer::default());
    }
}
