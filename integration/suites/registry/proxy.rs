//! A proxy between a client and a registry: counts what passes, cuts connections, remembers requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A proxy on loopback; it ends with the test.
pub(crate) struct Proxy {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    to: String,
    /// Bytes after which a connection's answers are cut.
    cut: Option<u64>,
    /// The pause after each piece that passes.
    pause: Duration,
    down: AtomicU64,
    up: AtomicU64,
    cuts: AtomicU64,
    requests: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Proxy {
    /// In front of `to`; each connection ends after `cut` bytes of answers.
    pub(crate) fn new(to: &str, cut: Option<u64>) -> Self {
        Self::make(to, cut, Duration::ZERO)
    }

    /// In front of `to`; a connection carries some 6 MB a second, so that nothing waits in buffers of the kernel.
    pub(crate) fn slow(to: &str) -> Self {
        Self::make(to, None, Duration::from_millis(10))
    }

    fn make(to: &str, cut: Option<u64>, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(State {
            to: to.to_owned(),
            cut,
            pause,
            down: AtomicU64::new(0),
            up: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            requests: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    break;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(client));
            }
        });
        Self { address, state }
    }

    /// Bytes that went to clients.
    pub(crate) fn down(&self) -> u64 {
        self.state.down.load(Ordering::Relaxed)
    }

    /// Bytes that went to the registry.
    pub(crate) fn up(&self) -> u64 {
        self.state.up.load(Ordering::Relaxed)
    }

    /// Connections that were cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::Relaxed)
    }

    /// Counts from nothing again.
    pub(crate) fn reset(&self) {
        self.state.down.store(0, Ordering::Relaxed);
        self.state.up.store(0, Ordering::Relaxed);
        self.state.requests.lock().expect("no thread panics").clear();
    }

    /// Method and path of every request, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().expect("no thread panics").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

impl State {
    fn serve(self: Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        if self.pause > Duration::ZERO {
            // What was sent is then nearly what has arrived, also when the other end is not given a processor for a while.
            for stream in [&client, &server] {
                nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::SndBuf, &(64 << 10)).expect("a socket");
                nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::RcvBuf, &(64 << 10)).expect("a socket");
            }
        }
        let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
        let state = Arc::clone(&self);
        let up = std::thread::spawn(move || state.pass_up(from, to));
        self.pass_down(server, client);
        let _ = up.join();
    }

    fn pass_up(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.note(&buffer[..count]);
            self.up.fetch_add(count as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            integration::pace(self.pause);
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// A request's head comes in one piece from every client here.
    fn note(&self, bytes: &[u8]) {
        let Some(end) = bytes.windows(11).position(|window| window == b" HTTP/1.1\r\n") else { return };
        let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if let Ok(line) = std::str::from_utf8(&bytes[start..end]) {
            self.requests.lock().expect("no thread panics").push(line.to_owned());
        }
    }

    fn pass_down(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        let mut passed = 0;
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let room = self.cut.map_or(u64::MAX, |cut| cut - passed);
            let count = count.min(usize::try_from(room).unwrap_or(usize::MAX));
            // What was sent counts, also when the other end has died meanwhile.
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
            self.down.fetch_add(count as u64, Ordering::Relaxed);
            passed += count as u64;
            integration::pace(self.pause);
            if self.cut == Some(passed) {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
