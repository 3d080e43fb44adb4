//! HTTP clients with the right certificates: [`Tls`] in, a `reqwest` client out.
//!
//! Redirects are never followed here and bodies never decompressed: both are the caller's business, because digests are of
//! the bytes on the wire.

mod trust;

use super::config::Tls;
use super::error::{Error, Result};
use super::transport::Limits;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
        .http1_only();
    if !sends {
        builder = builder.read_timeout(limits.stall);
    }
    if !tls.skip_verify && !tls.authorities.is_empty() {
        builder = builder.tls_backend_preconfigured(with_authorities(tls)?);
    } else {
        builder = builder.tls_danger_accept_invalid_certs(tls.skip_verify);
        if let Some((certificate, key)) = &tls.client {
            let mut pem = read(certificate)?;
            pem.push(b'\n');
            pem.extend(read(key)?);
            builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(|error| bad(certificate, &error))?);
        }
    }
    builder.build().map_err(|error| {
        let path = tls.authorities.first().cloned().unwrap_or_else(|| PathBuf::from("/etc/ssl/certs"));
        bad(&path, &error)
    })
}

/// A configuration that trusts the host's authorities and those of `tls`, which may be a server's own certificate.
fn with_authorities(tls: &Tls) -> Result<rustls::ClientConfig> {
    let mut trusted = Vec::new();
    for path in &tls.authorities {
        let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        match found {
            Ok(found) if found.is_empty() => return Err(bad(path, &"it holds no certificate")),
            Ok(found) => trusted.extend(found),
            Err(error) => return Err(bad(path, &error)),
        }
    }
    let first = &tls.authorities[0];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = trust::Verifier::new(trusted, Arc::clone(&provider)).map_err(|error| bad(first, &error))?;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(first, &error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = &tls.client else { return Ok(config.with_no_client_auth()) };
    let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.map_err(|error| bad(certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| bad(key, &error))?;
    config.with_client_auth_cert(chain, secret).map_err(|error| bad(certificate, &error))
}

fn bad(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Certificate { path: path.to_owned(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let size = std::fs::metadata(path).map_err(|error| bad(path, &error))?.len();
    if size > PEM_MAX {
        return Err(bad(path, &format!("it is larger than {PEM_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| bad(path, &error))
}
