//! Why talking to a registry failed, and who must act.

use super::auth::AuthError;
use super::config::ConfigError;
use reqwest::{Method, StatusCode, Url};

/// Short for a result of this folder.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed exchange with a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's or host's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The user's credentials.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A certificate or key file.
    #[error("failed to use {}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A URL is not usable.
    #[error("{url:?} is not a usable URL: {reason}")]
    Url {
        /// The text.
        url: String,
        /// Why.
        reason: String,
    },
    /// No connection.
    #[error("failed to connect to {host}: {reason}")]
    Connect {
        /// Host and port.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The connection broke or stalled.
    #[error("the transfer from {host} broke off: {reason}")]
    Broken {
        /// Host and port.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// The registry wants credentials that we do not have, or does not accept those we have.
    #[error("access to {registry}/{repository} is denied: {reason}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// What the registry said.
        reason: String,
    },
    /// An answer that is not a success.
    #[error("{host} answered {status} to {method} {path}{}", detail(code, message))]
    Status {
        /// Host and port.
        host: String,
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
        /// The status.
        status: StatusCode,
        /// The registry's error code (`MANIFEST_UNKNOWN` …), empty when it gave none.
        code: String,
        /// The registry's message, shortened.
        message: String,
    },
    /// The registry breaks the protocol.
    #[error("{host} {what}")]
    Protocol {
        /// Host and port.
        host: String,
        /// What it did.
        what: String,
    },
    /// Bytes are not what their digest says.
    #[error("{host} sent bytes that are not {digest} (they are {found})")]
    Digest {
        /// Host and port.
        host: String,
        /// What was asked for.
        digest: String,
        /// What came.
        found: String,
    },
}

impl Error {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => super::transport::is_busy(*status),
            _ => false,
        }
    }

    /// Whether the registry says that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    /// What a user may do about it; `None` when the message says all.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unauthorized { registry, .. } => Some(format!("shoal login {registry}")),
            Self::Connect { reason, host } | Self::Broken { reason, host } if is_plain(reason) => {
                Some(format!("{host} seems to speak plain HTTP: --tls-verify=false allows that"))
            }
            Self::Connect { reason, host } if reason.contains("certificate") || reason.contains("UnknownIssuer") => {
                Some(format!(
                    "put the registry's authority in /etc/containers/certs.d/{host}/ca.crt, or use --tls-verify=false"
                ))
            }
            _ => None,
        }
    }

    pub(crate) fn exchange(url: &Url, error: reqwest::Error) -> Self {
        let (connect, timeout) = (error.is_connect(), error.is_timeout());
        let error = error.without_url();
        // The innermost cause says most: "connection refused", "invalid peer certificate: UnknownIssuer".
        let mut innermost: &dyn std::error::Error = &error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let reason = if timeout { "no byte arrived within the time limit".to_owned() } else { innermost.to_string() };
        if connect { Self::Connect { host: host(url), reason } } else { Self::Broken { host: host(url), reason } }
    }

    pub(crate) fn protocol(url: &Url, what: &str) -> Self {
        Self::Protocol { host: host(url), what: what.to_owned() }
    }

    pub(crate) fn status(method: &Method, url: &Url, status: StatusCode, body: &[u8]) -> Self {
        let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let first = document.pointer("/errors/0");
        let text = |name: &str| first.and_then(|e| e.get(name)).and_then(serde_json::Value::as_str).unwrap_or_default();
        // What a registry writes ends on a terminal: printable characters only.
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect::<String>();
        Self::Status {
            host: host(url),
            method: method.to_string(),
            path: url.path().to_owned(),
            status,
            code: clean(text("code")),
            message: clean(text("message")),
        }
    }
}

/// Whether TLS failed on an answer that is no TLS at all.
fn is_plain(reason: &str) -> bool {
    ["InvalidContentType", "corrupt message", "wrong version number"].iter().any(|sign| reason.contains(sign))
}

/// Host and port of a URL, for messages.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn detail(code: &str, message: &str) -> String {
    match (code, message) {
        ("", "") => String::new(),
        (code, "") => format!(" ({code})"),
        ("", message) => format!(" ({message})"),
        (code, message) => format!(" ({code}: {message})"),
    }
}
