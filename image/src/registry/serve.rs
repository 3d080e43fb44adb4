//! Sockets for a registry: plain or TLS connections in, [`Registry::answer`] for each request.
//!
//! Connections are bounded, headers and answers must pass in time, and a shutdown lets running requests finish for a moment.

use super::api::{Client, Registry};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take for the headers of a request, or for the TLS handshake.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// Connections of one address at once (of one /64, with IPv6): half, so that no one client is everybody's end. The next
/// is closed at once.
const CONNECTIONS_PER_ADDRESS_MAX: usize = CONNECTIONS_MAX / 2;
/// How long a connection may be without a request after its first.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// How long a connection with a request may be without a byte in either direction.
const STALLED_MAX: Duration = Duration::from_secs(1800);
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes that a client must take in each [`UNREAD_MAX`] while something waits for it.
const TAKEN_MIN: u64 = 4096;
/// How long a client may leave what is sent to it untaken, before its connection is closed.
const UNREAD_MAX: Duration = Duration::from_secs(60);
/// How often what clients left behind is looked for; it goes after a day.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How long running requests have when the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Reads a certificate chain and its key (PEM) for [`serve`].
pub fn tls(certificate: &Path, key: &Path) -> io::Result<TlsAcceptor> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let bad = |path: &Path, error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| bad(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| bad(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How much the server bears.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one address at once.
    pub per_address: usize,
    /// How long a client may take for its first request.
    pub first_within: Duration,
    /// How long a connection may be without a request after that.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            per_address: CONNECTIONS_PER_ADDRESS_MAX,
            first_within: HEADERS_WITHIN,
            idle: IDLE_MAX,
        }
    }
}

/// Serves until `stop` is done.
pub async fn serve(
    registry: Arc<Registry>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(registry, listener, tls, stop, Bounds::default()).await
}

/// [`serve`] with other bounds.
pub async fn serve_within(
    registry: Arc<Registry>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: impl Future<Output = ()>,
    bounds: Bounds,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let addresses = Arc::new(Addresses::default());
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    tokio::pin!(stop);
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP_EVERY, SWEEP_EVERY);
    loop {
        // One future, so that the stop is heard also while every connection is taken.
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            next = next => next?,
            _ = sweep.tick() => {
                let registry = Arc::clone(&registry);
                tokio::task::spawn_blocking(move || registry.sweep());
                continue;
            }
            () = &mut stop => break,
        };
        let (stream, address) = match accepted {
            Ok((stream, from)) => (stream, from.ip().to_canonical()),
            Err(error) if is_passing(&error) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(place) = Addresses::take(&addresses, address, bounds.per_address) else { continue };
        let (registry, tls, watcher) = (Arc::clone(&registry), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(registry, stream, Client(address), watcher, bounds).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(bounds.first_within, acceptor.accept(stream)).await {
                        connection(registry, stream, Client(address), watcher, bounds).await;
                    }
                }
            }
            drop((permit, place));
        });
    }
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
    Ok(())
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place; dropping it makes room.
struct Taken {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    fn take(all: &Arc<Self>, address: IpAddr, max: usize) -> Option<Taken> {
        let address = match address {
            // One customer has a whole /64.
            IpAddr::V6(six) => IpAddr::V6((six.to_bits() & !u128::from(u64::MAX)).into()),
            four => four,
        };
        let mut counts = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Taken { addresses: Arc::clone(all), address })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

async fn connection<S>(
    registry: Arc<Registry>,
    stream: S,
    client: Client,
    watcher: hyper_util::server::graceful::Watcher,
    bounds: Bounds,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let stream = Watched::new(stream, Arc::clone(&activity));
    let seen = Arc::clone(&activity);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let registry = Arc::clone(&registry);
        let running = Running::begin(&seen);
        request.extensions_mut().insert(client);
        async move {
            let (parts, body) = registry.answer(request).await.into_parts();
            // The request is over when its answer has been handed on.
            Ok::<_, Infallible>(hyper::Response::from_parts(parts, Answering { body, _running: running }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.first_within);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    tokio::select! {
        // A client that goes away mid-way is no event of ours.
        _ = watcher.watch(connection) => {}
        // Nor is one that only sits there: its place is needed.
        () = activity.over(bounds) => {}
    }
}

/// What a connection does.
#[derive(Debug)]
struct Activity(Mutex<Doing>);

#[derive(Debug)]
struct Doing {
    /// Requests that are not over.
    running: usize,
    /// Whether there ever was one.
    any: bool,
    /// When the last one ended, or the connection began.
    since: Instant,
    /// When a byte last moved.
    moved: Instant,
    /// Whether something waits for the client to take it.
    unread: bool,
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Doing { running: 0, any: false, since: now, moved: now, unread: false }))
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the connection does nothing that is worth its place.
    async fn over(&self, bounds: Bounds) {
        loop {
            let left = {
                let doing = self.doing();
                let (since, max) = match (doing.running > 0, doing.any) {
                    (true, _) => (doing.moved, STALLED_MAX),
                    (false, _) if doing.unread => (doing.moved, UNREAD_MAX),
                    (false, true) => (doing.since, bounds.idle),
                    (false, false) => (doing.since, bounds.first_within),
                };
                max.saturating_sub(since.elapsed()).min(bounds.first_within)
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// One request that is not over.
struct Running(Arc<Activity>);

impl Running {
    fn begin(activity: &Arc<Activity>) -> Self {
        let mut doing = activity.doing();
        doing.running += 1;
        doing.any = true;
        doing.moved = Instant::now();
        Self(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut doing = self.0.doing();
        doing.running -= 1;
        doing.since = Instant::now();
    }
}

/// An answer on its way.
struct Answering<B> {
    body: B,
    _running: Running,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose other end must take what is written: one that stops reading, or all but stops, is closed.
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Runs while a write waits, with what was taken since it began.
    waits: Option<(Pin<Box<tokio::time::Sleep>>, u64)>,
}

impl<S: Unpin> Watched<S> {
    fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, waits: None }
    }

    fn watched<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> Option<usize>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), context);
        let mut doing = self.activity.doing();
        match &written {
            Poll::Ready(Ok(value)) => {
                // Something was taken; `None` says that nothing is left.
                doing.moved = Instant::now();
                match (bytes(value), &mut self.waits) {
                    (Some(count), Some((_, taken))) if *taken + (count as u64) < TAKEN_MIN => *taken += count as u64,
                    _ => {
                        self.waits = None;
                        doing.unread = false;
                    }
                }
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                doing.unread = true;
                let (waits, _) = self.waits.get_or_insert_with(|| (Box::pin(tokio::time::sleep(UNREAD_MAX)), 0));
                waits.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.doing().moved = Instant::now();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| stream.poll_write(context, bytes), |count| Some(*count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watched(context, |stream, context| stream.poll_write_vectored(context, bytes), |count| Some(*count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(context, |stream, context| stream.poll_flush(context), |()| None)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(context, |stream, context| stream.poll_shutdown(context), |()| None)
    }
}

/// Errors of `accept` that pass: the connection died in the queue, or descriptors are short for a moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Shelf;
    use crate::store::testing::scratch;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    /// A server with room for eight connections, six of one address.
    async fn server(dir: &Path, store: crate::Store) -> std::net::SocketAddr {
        let shelf = Shelf::open(&dir.join("registry"), Arc::new(store)).unwrap();
        let registry = Arc::new(Registry::new(shelf, None, false));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (first_within, idle) = (Duration::from_secs(2), Duration::from_secs(3));
        let bounds = Bounds { connections: 8, per_address: 6, first_within, idle };
        tokio::spawn(serve_within(registry, listener, None, std::future::pending(), bounds));
        address
    }

    /// Whether the server closes the connection within a time that no honest test needs.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.is_ok()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_that_only_sit_there_are_closed_and_others_are_served() {
        let (dir, store) = scratch();
        let address = server(dir.path(), store).await;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        // Nothing; half a preface; a preface; a preface and SETTINGS; half a request.
        let settings = [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        let begins: [&[u8]; 5] = [b"", &preface[..10], preface, &settings, b"GET /v2/ HT"];
        let mut sitting = Vec::new();
        for begin in begins {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begin).await.unwrap();
            sitting.push(stream);
        }
        let mut honest = TcpStream::connect(address).await.unwrap();
        honest.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        honest.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // One more from here is one too many, whoever else there is room for.
        assert!(is_closed(&mut TcpStream::connect(address).await.unwrap()).await);
        for (number, stream) in sitting.iter_mut().enumerate() {
            assert!(is_closed(stream).await, "connection {number} stays open");
        }
        assert!(is_closed(&mut honest).await, "kept alive, but not for ever");
        // All places are free again.
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
    }
}
