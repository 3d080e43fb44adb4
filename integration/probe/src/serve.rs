//! A small server for the mesh's tests: HTTP/1.1 with kept connections, and UDP, on one port.
//!
//! In: a port. Out: to every question one line, `HOSTNAME VERSION CLIENT`, which also goes to stdout when `LOG` is set. At
//! SIGTERM it does what a well-behaved server does: it answers what is under way, asks kept connections to go, and ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long connections that are kept may take to go.
const DRAIN_MAX: Duration = Duration::from_secs(5);

static DRAINING: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Serves until SIGTERM.
pub fn run(args: &[&str]) -> ExitCode {
    let Some(port) = args.first().and_then(|text| text.parse::<u16>().ok()) else {
        eprintln!("probe: serve PORT");
        return ExitCode::from(2);
    };
    // Blocked in every thread made from here on, so that the last lines of this function take it.
    // SAFETY: the set is a local, initialised by sigemptyset before use.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
    let Some(listener) = any.iter().find_map(|address| TcpListener::bind((*address, port)).ok()) else {
        eprintln!("probe: port {port} is taken");
        return ExitCode::FAILURE;
    };
    if let Some(socket) = any.iter().find_map(|address| UdpSocket::bind((*address, port)).ok()) {
        std::thread::spawn(move || datagrams(&socket));
    }
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            OPEN.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let _ = connection(&stream);
                OPEN.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    // SAFETY: `set` is the local above; no information about the signal is asked for.
    unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
    DRAINING.store(true, Ordering::SeqCst);
    let until = Instant::now() + DRAIN_MAX;
    while OPEN.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    ExitCode::SUCCESS
}

fn line(client: IpAddr, protocol: &str) -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let version = std::env::var("VERSION").unwrap_or_default();
    let client = client.to_canonical();
    if std::env::var_os("LOG").is_some() {
        println!("{protocol} {client}");
    }
    format!("{} {version} {client}\n", name.trim())
}

fn datagrams(socket: &UdpSocket) {
    let mut bytes = [0; 64 * 1024];
    while let Ok((_, from)) = socket.recv_from(&mut bytes) {
        let _ = socket.send_to(line(from.ip(), "udp").as_bytes(), from);
    }
}

fn connection(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let from = stream.peer_addr()?.ip();
    let mut reader = BufReader::new(stream);
    let mut kept = true;
    while kept {
        let mut text = String::new();
        if reader.read_line(&mut text)? == 0 {
            return Ok(());
        }
        kept = text.trim_end().ends_with("HTTP/1.1");
        while reader.read_line(&mut text)? > 2 {}
        kept &= !DRAINING.load(Ordering::SeqCst);
        let body = line(from, "tcp");
        let word = if kept { "keep-alive" } else { "close" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {word}\r\n\r\n", body.len());
        (&mut &*stream).write_all((head + &body).as_bytes())?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}
