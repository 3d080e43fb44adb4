//! CRIU's RPC: one `criu swrk` process, requests and answers as protobuf over a socket pair. criu.org/RPC
//!
//! In: typed options. Out: CRIU's answer, or its own words about what failed. Only the fields that are named here are
//! encoded; unknown fields of answers are passed over. A CRIU that neither computes nor writes for a while is ended: the
//! processes it holds then go on.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair};

use super::sys::open::{adopt, keep_on_exec};
use crate::error::{During, Error, Result};

/// CRIU's answers are small; its log is a file.
const PACKET_LEN_MAX: usize = 64 * 1024;

/// A dump may take as long as its memory is large; it may not stand still for longer than this.
const STANDSTILL: Duration = Duration::from_secs(60);

/// How often it is looked at.
const LOOK_MS: u16 = 1_000;

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
/// `notified` hears of each notification; its failure makes CRIU give up. `images` is where CRIU writes; without it, CRIU
/// may wait for others as long as it likes.
pub fn ask(
    kind: Kind,
    options: &Message,
    inherit: &[RawFd],
    log: &Path,
    images: Option<&Path>,
    mut notified: impl FnMut(&Answer, Option<OwnedFd>) -> Result<()>,
) -> Result<Answer> {
    let (socket, mut child) = start(inherit)?;
    let mut watch = images.map(|images| Watch::begin(child.id(), images, log));
    let answer = converse(kind, options, &socket, watch.as_mut(), &mut notified);
    if matches!(answer, Ok(Heard::Nothing)) {
        // What it holds is let go by the kernel; a failure means that it has just ended.
        let _ = child.kill();
    }
    drop(socket);
    let ended = child.wait();
    let failed = |reason: String| Error::Checkpoint {
        operation: format!("{kind:?}").to_lowercase(),
        reason: format!("{reason}; log: {}, {}", log.display(), last_line(log)),
    };
    match answer? {
        Heard::Nothing => {
            Err(failed(format!("it did nothing for {} s and was ended, the container goes on", STANDSTILL.as_secs())))
        }
        Heard::End => Err(failed(format!(
            "it ended without an answer ({})",
            ended.map_or_else(|e| e.to_string(), |s| s.to_string())
        ))),
        Heard::Answer(answer) if answer.success => Ok(answer),
        Heard::Answer(answer) => {
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

/// How a conversation ended.
enum Heard {
    Answer(Answer),
    /// It closed the socket.
    End,
    /// It stands still.
    Nothing,
}

/// What shows that CRIU is at work: its processor time, and the length of what it has written.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    ticks: u64,
    bytes: u64,
}

/// Looks at a CRIU at work.
struct Watch<'a> {
    pid: u32,
    written: [&'a Path; 2],
    patience: Duration,
    last: Work,
    since: Instant,
}

impl<'a> Watch<'a> {
    fn begin(pid: u32, images: &'a Path, log: &'a Path) -> Self {
        let last = Work { ticks: 0, bytes: 0 };
        Self { pid, written: [images, log], patience: STANDSTILL, last, since: Instant::now() }
    }

    /// Whether nothing has happened for too long.
    fn stands_still(&mut self) -> bool {
        let [images, log] = self.written;
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let names = std::fs::read_dir(images).into_iter().flatten().flatten();
        let bytes = names.map(|entry| length(&entry.path())).sum::<u64>() + length(log);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let work = Work { ticks: ticks(&stat), bytes };
        if work != self.last {
            self.last = work;
            self.since = Instant::now();
        }
        self.since.elapsed() > self.patience
    }
}

/// The processor time in a line of `/proc/PID/stat`, children that have ended included. man proc_pid_stat(5)
fn ticks(stat: &str) -> u64 {
    // After the name, which may hold anything: the state is field 3, the four times are 14 to 17.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// Where CRIU was.
fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text.lines().rfind(|line| line.contains("Error")).or_else(|| text.lines().last()) {
        Some(line) => format!("which ends with: {line}"),
        None => "which is empty".into(),
    }
}

fn converse(
    kind: Kind,
    options: &Message,
    socket: &OwnedFd,
    mut watch: Option<&mut Watch<'_>>,
    notified: &mut impl FnMut(&Answer, Option<OwnedFd>) -> Result<()>,
) -> Result<Heard> {
    let mut request = Message::default();
    let operation = || "speak with criu";
    request.number(1, kind as i64).message(2, options);
    send(socket.as_raw_fd(), &request.0, MsgFlags::MSG_NOSIGNAL).during(operation)?;
    let mut packet = vec![0; PACKET_LEN_MAX];
    loop {
        if let Some(watch) = &mut watch {
            let mut waited = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waited, PollTimeout::from(LOOK_MS)) {
                Ok(0) if watch.stands_still() => return Ok(Heard::Nothing),
                Ok(0) | Err(nix::Error::EINTR) => continue,
                answer => drop(answer.during(operation)?),
            }
        }
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
            return Ok(Heard::End);
        }
        let answer = Answer::parse(&packet[..length]);
        if answer.kind != NOTIFY {
            return Ok(Heard::Answer(answer));
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
    fn work_is_seen_in_time_and_in_bytes() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 100 0 0 0 7 5 3 1 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), 16);
        assert_eq!((ticks(""), ticks("77 (cut")), (0, 0));
    }

    #[test]
    fn who_neither_computes_nor_writes_stands_still() {
        let folder = std::env::temp_dir().join(format!("criu-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let log = folder.join("dump.log");
        let mut watch = Watch { patience: Duration::from_millis(200), ..Watch::begin(child.id(), &folder, &log) };
        for line in ["one\n", "one\ntwo\n"] {
            std::fs::write(&log, line).expect("the folder is ours");
            assert!(!watch.stands_still(), "it has just written");
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !watch.stands_still() {
            assert!(Instant::now() < deadline, "it sleeps");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(last_line(&log), "which ends with: two");
        let _ = (child.kill(), child.wait(), std::fs::remove_dir_all(&folder));
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
