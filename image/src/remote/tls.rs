//! HTTP clients with the right certificates: [`Tls`] in, a `reqwest` client out.
//!
//! Redirects are never followed here and bodies never decompressed: both are the caller's business, because digests are of
//! the bytes on the wire.

use super::config::Tls;
use super::error::{Error, Result};
use super::transport::Limits;
use std::path::Path;
use std::time::Duration;

/// Bytes of one PEM file.
const PEM_MAX: u64 = 4 << 20;
/// Idle connections kept per host: as many as one pull uses.
const IDLE_MAX: usize = 16;

pub(crate) fn client(tls: &Tls, limits: Limits, sends: bool) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(limits.connect)
        .pool_max_idle_per_host(IDLE_MAX)
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
        // Ranges in parallel want several TCP connections, and HTTP/1.1 bodies cost less CPU than HTTP/2 frames.
        .http1_only()
        .tls_danger_accept_invalid_certs(tls.skip_verify);
    if !sends {
        builder = builder.read_timeout(limits.stall);
    }
    for path in &tls.authorities {
        let bad = |reason: String| Error::Certificate { path: path.clone(), reason };
        let bundle = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|error| bad(error.to_string()))?;
        builder = builder.tls_certs_merge(bundle);
    }
    if let Some((certificate, key)) = &tls.client {
        let mut pem = read(certificate)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        let bad = |error: reqwest::Error| Error::Certificate { path: certificate.clone(), reason: error.to_string() };
        builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(bad)?);
    }
    builder.build().map_err(|error| {
        let path = tls.authorities.first().cloned().unwrap_or_else(|| "/etc/ssl/certs".into());
        Error::Certificate { path, reason: error.to_string() }
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::Certificate { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if size > PEM_MAX {
        return Err(bad(format!("it is larger than {PEM_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| bad(error.to_string()))
}
