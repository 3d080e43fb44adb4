//! The API over TLS, when it is asked for. In: a listening socket, this node's key. Out: answered calls of those who show a
//! token, with the role the token has. The certificate is signed by its own key; callers pin that key.
//!
//! Nothing is read of a caller before the handshake, and nothing is done before its token is known.

use super::reply::{Body, Problem};
use super::{Context, answer, keys};
use base64::Engine as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use p2p::mesh::Actor;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Connections at a time; apart from those of the unix socket, so that nobody outside keeps the host's own people out.
const CONNECTIONS_MAX: usize = 128;
/// Connections of one address.
const ADDRESS_MAX: usize = 32;
/// How long a handshake may take, and the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the listener could not be made.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The address is none, or taken.
    #[error("failed to listen for the API on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key or the certificate could not be read, made or kept.
    #[error("failed to {what} {path}: {reason}")]
    Key {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A listener that is ready to serve.
pub struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    /// What people are told.
    pub told: Told,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("told", &self.told).finish_non_exhaustive()
    }
}

/// What callers need to reach the API.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Told {
    /// Where it listens.
    pub url: String,
    /// The hash of its public key, as `curl --pinnedpubkey` takes it.
    pub pin: String,
    /// The certificate's file on this host, as `curl --cacert` takes it.
    pub certificate: PathBuf,
}

/// Opens the socket and reads or makes this node's key below `folder`; `name` is the node's.
///
/// # Errors
/// See [`TlsError`].
pub fn open(address: &str, folder: &Path, name: &str) -> Result<Listener, TlsError> {
    let listen = |reason: String| TlsError::Listen { address: address.to_owned(), reason };
    let wanted: SocketAddr = address.parse().map_err(|_| listen("write IP:PORT or [IPV6]:PORT".to_owned()))?;
    let socket = TcpListener::bind(wanted).map_err(|error| listen(error.to_string()))?;
    socket.set_nonblocking(true).map_err(|error| listen(error.to_string()))?;
    let bound = socket.local_addr().map_err(|error| listen(error.to_string()))?;
    let key = key(folder)?;
    let pin = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(key.public_key_der()));
    let path = folder.join("certificate.pem");
    let failed = |what, reason: String| TlsError::Key { what, path: path.clone(), reason };
    let certificate = certificate(&key, name, bound.ip()).map_err(|error| failed("make", error.to_string()))?;
    std::fs::write(&path, certificate.pem()).map_err(|error| failed("write", error.to_string()))?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private))
        .map_err(|error| failed("use", error.to_string()))?;
    let told = Told { url: format!("https://{bound}"), pin: format!("sha256//{pin}"), certificate: path };
    Ok(Listener { socket, acceptor: TlsAcceptor::from(Arc::new(config)), told })
}

/// This node's key for TLS; made at the first need, for the owner's eyes alone.
fn key(folder: &Path) -> Result<KeyPair, TlsError> {
    let path = folder.join("key.pem");
    let failed = |what: &'static str| {
        let path = path.clone();
        move |reason: String| TlsError::Key { what, path, reason }
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => return KeyPair::from_pem(&text).map_err(|error| failed("read")(error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read")(error.to_string())),
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| failed("make")(error.to_string()))?;
    let write = || {
        std::fs::create_dir_all(folder)?;
        // Whole or not at all: half a key would keep the node from starting for ever.
        let draft = folder.join("key.pem.new");
        let _ = std::fs::remove_file(&draft);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(key.serialize_pem().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)
    };
    write().map_err(|error: std::io::Error| failed("write")(error.to_string()))?;
    Ok(key)
}

fn certificate(key: &KeyPair, name: &str, listens: IpAddr) -> Result<rcgen::Certificate, rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), listens.to_string()];
    if !names.iter().any(|known| known == name) {
        names.push(name.to_owned());
    }
    // A name that no certificate can hold is left out: callers who pin the key need none.
    names.retain(|name| name.is_ascii());
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, format!("shoal node {name}"));
    params.distinguished_name = subject;
    // It does not expire by age, like the mesh's own certificates: a cluster that was off for a year comes back.
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2999, 1, 1));
    params.self_signed(key)
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: Listener, context: Arc<Context>) {
    let Ok(socket) = tokio::net::TcpListener::from_std(listener.socket) else { return };
    let (permits, callers) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Callers::default()));
    loop {
        let Ok((stream, from)) = socket.accept().await else {
            // No descriptors left, most likely: others end in a moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Who finds no place is hung up on, rather than left waiting with everybody behind.
        let Some(place) = callers.place(from.ip()) else { continue };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let (context, acceptor) = (Arc::clone(&context), listener.acceptor.clone());
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
            let service = service_fn(move |request| {
                let context = Arc::clone(&context);
                async move { Ok::<_, std::convert::Infallible>(call(&context, request, from).await) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop((permit, place));
        });
    }
}

/// Connections by address, so that one stranger does not hold all there are.
#[derive(Default)]
struct Callers(Mutex<HashMap<IpAddr, usize>>);

impl Callers {
    /// A place for one more connection from there; `None` when that address has as many as it may.
    fn place(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().expect("no holder panics");
        let count = counts.entry(address).or_default();
        if *count >= ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { callers: Arc::clone(self), address })
    }
}

/// One connection; its place is free again when it is dropped.
struct Place {
    callers: Arc<Callers>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.callers.0.lock().expect("no holder panics");
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Answers one call, once it is known whose token it shows.
async fn call(context: &Arc<Context>, request: Request<Incoming>, from: SocketAddr) -> Response<Body> {
    match keys::caller(context, request.headers()).await {
        Ok((id, role)) => {
            let actor = Actor { who: keys::actor(&id), from: from.to_string() };
            answer(context, request, actor, role).await
        }
        Err(problem) => refused(context, problem),
    }
}

fn refused(context: &Context, problem: Problem) -> Response<Body> {
    let mut response = problem.response(&context.request_id(None));
    let challenge = hyper::header::HeaderValue::from_static("Bearer realm=\"shoal\"");
    response.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, challenge);
    // Strangers do not keep a place by asking wrongly again and again.
    response.headers_mut().insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_hold_every_connection() {
        let callers = Arc::new(Callers::default());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<Place> = (0..ADDRESS_MAX).map(|_| callers.place(one).unwrap()).collect();
        assert!(callers.place(one).is_none() && callers.place(other).is_some());
        places.pop();
        assert!(callers.place(one).is_some());
        places.clear();
        assert!(callers.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_key_stays_and_with_it_the_pin() {
        let folder = std::env::temp_dir().join(format!("shoal-api-key-{}", std::process::id()));
        let first = open("127.0.0.1:0", &folder, "n1").unwrap().told;
        let second = open("127.0.0.1:0", &folder, "renamed ü").unwrap().told;
        assert_eq!(first.pin, second.pin);
        assert!(first.pin.starts_with("sha256//") && first.url.starts_with("https://127.0.0.1:"));
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(folder.join("key.pem")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(folder.join("key.pem"), "half a ke").unwrap();
        assert!(open("127.0.0.1:0", &folder, "n1").unwrap_err().to_string().contains("key.pem"));
        assert!(open("nonsense", &folder, "n1").unwrap_err().to_string().contains("IP:PORT"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
