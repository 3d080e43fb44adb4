//! One HTTP exchange with a registry, done properly: credentials, tokens, redirects, retries, time limits.
//!
//! In: an [`Endpoint`] and a [`Request`]. Out: an answer whose status the caller judges, or an [`Error`] that says who must
//! act. Credentials go to the registry's own origin and to a token realm that belongs to it, never to a redirect's target
//! and never to a foreign URL. Bodies of answers are read by the caller, bounded.

use super::auth::{self, Credentials};
use super::challenge::{self, Bearer, Challenge};
use super::config::{Config, Endpoint, Tls};
use super::error::{Error, Result};
use crate::fetch;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Redirects followed before a registry is believed to run in circles.
const REDIRECTS_MAX: usize = 8;
/// Bytes of a token answer or an error body.
const SMALL_BODY_MAX: u64 = 1 << 20;
/// The slowest upload, in bytes a second, that is waited for.
const UPLOAD_RATE_MIN: u64 = 16 << 10;
/// How long a token without `expires_in` is used (the token specification's default).
const TOKEN_LIFE_DEFAULT: Duration = Duration::from_secs(60);
/// A token this near its end is fetched anew.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Tokens kept at once; a mirror of thousands of repositories must not grow without end.
const TOKENS_MAX: usize = 1024;

/// Time limits of one exchange.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To connect, TLS included.
    pub connect: Duration,
    /// Without one byte received.
    pub stall: Duration,
    /// Tries of one request when nothing was received.
    pub attempts: u32,
    /// Bytes a second of blob contents, for each direction of one transport; unlimited when absent.
    pub bandwidth: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            attempts: fetch::ATTEMPTS_MAX,
            bandwidth: None,
        }
    }
}

/// A request's body; always repeatable.
#[derive(Debug, Clone, Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// Bytes in memory: manifests, small chunks.
    Bytes(Bytes),
    /// `length` bytes of a file from `offset`, read as they are sent.
    File {
        /// The file; read by position, so it may be shared.
        file: Arc<std::fs::File>,
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
}

/// What to ask.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// A path below the endpoint's base (`/NAME/tags/list?n=1`), or an absolute URL that a registry gave (upload location).
    pub target: String,
    /// More headers.
    pub headers: Vec<(HeaderName, String)>,
    /// What is sent.
    pub body: Body,
    /// What a token must allow, scopes of the token specification.
    pub scopes: Vec<String>,
}

impl Request {
    /// Builds a request without headers and body.
    pub fn new(method: Method, target: impl Into<String>, scopes: Vec<String>) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body: Body::Empty, scopes }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

/// Who we are, per command: explicit credentials or files.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// `--creds`: for every registry of the command.
    pub explicit: Option<Credentials>,
    /// Files that are searched.
    pub files: Vec<PathBuf>,
}

/// The HTTP side of one command or one node.
#[derive(Debug)]
pub struct Transport {
    /// Mirrors, certificates, insecure registries.
    pub config: Config,
    identity: Identity,
    limits: Limits,
    clients: Mutex<HashMap<(Tls, bool), reqwest::Client>>,
    tokens: Mutex<HashMap<TokenKey, Granted>>,
    /// One token request at a time: six layers that start together need one token, not six.
    granting: tokio::sync::Mutex<()>,
    /// Who may move the next bytes, when.
    pub(crate) throttle: Arc<Throttle>,
}

type TokenKey = (String, Vec<String>);

#[derive(Debug, Clone)]
struct Granted {
    header: HeaderValue,
    until: Option<Instant>,
}

impl Transport {
    /// Builds a transport; nothing is sent yet.
    pub fn new(config: Config, identity: Identity, limits: Limits) -> Self {
        // The only provider built in is ring; a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            config,
            identity,
            limits,
            clients: Mutex::default(),
            tokens: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            throttle: Arc::new(Throttle::new(limits.bandwidth)),
        }
    }

    /// The time limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Sends a request and returns the first answer that is neither a retry, a redirect nor a challenge we can meet.
    /// Dropping the future aborts the exchange.
    pub async fn send(&self, endpoint: &Endpoint, request: &Request) -> Result<Response> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let outcome = self.send_with_fallback(endpoint, request).await;
            let wait = match &outcome {
                Ok(response) if is_busy(response.status()) => retry_after_of(response.headers()),
                Err(error) if error.is_transient() => None,
                _ => return outcome,
            };
            if attempt >= self.limits.attempts {
                return outcome;
            }
            let Some(pause) = fetch::pause(attempt, random(), wait) else { return outcome };
            tokio::time::sleep(pause).await;
        }
    }

    /// Fetches an absolute URL without any credentials (foreign layers).
    pub async fn send_foreign(&self, url: &str, headers: &[(HeaderName, String)]) -> Result<Response> {
        let url = parse_url(url)?;
        let mut request = Request::new(Method::GET, url.to_string(), Vec::new());
        request.headers = headers.to_vec();
        self.follow(&Tls::default(), url, &request, &HeaderMap::new(), None).await
    }

    async fn send_with_fallback(&self, endpoint: &Endpoint, request: &Request) -> Result<Response> {
        let outcome = self.send_authorized(endpoint, request).await;
        let retry_plain =
            endpoint.plain_fallback && endpoint.base.starts_with("https://") && !request.target.contains("://");
        match outcome {
            Err(Error::Connect { .. }) if retry_plain => {
                let mut plain = endpoint.clone();
                plain.base = plain.base.replacen("https://", "http://", 1);
                self.send_authorized(&plain, request).await
            }
            outcome => outcome,
        }
    }

    async fn send_authorized(&self, endpoint: &Endpoint, request: &Request) -> Result<Response> {
        let mut url = if request.target.contains("://") {
            parse_url(&request.target)?
        } else {
            parse_url(&format!("{}{}", endpoint.base, request.target))?
        };
        if let Some(namespace) = &endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut base = parse_url(&endpoint.base)?;
        if endpoint.plain_fallback && request.target.starts_with("http://") {
            // An insecure registry that was found on plain HTTP names its uploads there: still the registry itself.
            let _ = base.set_scheme("http");
        }
        // An upload location on another host gets nothing of ours.
        let ours = same_origin(&base, &url);
        let mut headers = HeaderMap::new();
        if ours {
            for (name, value) in &endpoint.headers {
                if let (Ok(name), Ok(value)) =
                    (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
                {
                    headers.append(name, value);
                }
            }
        }
        let key = (endpoint.base.clone(), request.scopes.clone());
        let tls = shown(endpoint, ours);
        let known = if ours { self.known_token(&key) } else { None };
        let first = self.follow(&tls, url.clone(), request, &headers, known.clone()).await?;
        if first.status() != StatusCode::UNAUTHORIZED || !ours || !same_origin(&base, first.url()) {
            return Ok(first);
        }
        let lines: Vec<_> = first.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let challenges = challenge::parse(lines);
        drop(first);
        let header = self.grant(endpoint, &base, key, &challenges, known).await?;
        let second = self.follow(&tls, url, request, &headers, Some(header)).await?;
        if second.status() == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(endpoint, "the registry did not accept the credentials"));
        }
        Ok(second)
    }

    /// Follows redirects by our own rules. `authorization` leaves the request at the first change of origin, and does not
    /// come back with it: who redirects back chose the path.
    async fn follow(
        &self,
        tls: &Tls,
        mut url: Url,
        request: &Request,
        own_headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response> {
        let origin = url.clone();
        let mut method = request.method.clone();
        let mut left = false;
        for _ in 0..=REDIRECTS_MAX {
            let home = same_origin(&origin, &url);
            left |= !home;
            // Certificates of a registry (its private authority, our key) are for that registry alone.
            let sends = matches!(request.body, Body::File { .. });
            let client = if home { self.client(tls, sends)? } else { self.client(&foreign_tls(tls), sends)? };
            let mut builder = client.request(method.clone(), url.clone());
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            if !left {
                builder = builder.headers(own_headers.clone());
                if let Some(value) = &authorization {
                    builder = builder.header(AUTHORIZATION, value.clone());
                }
            }
            let builder = match &request.body {
                Body::Empty if matches!(method, Method::POST | Method::PUT | Method::PATCH) => {
                    builder.header(reqwest::header::CONTENT_LENGTH, 0).body(Bytes::new())
                }
                Body::Empty => builder,
                Body::Bytes(bytes) => builder.body(bytes.clone()),
                Body::File { file, offset, length } => builder
                    .timeout(self.upload_limit(*length))
                    .header(reqwest::header::CONTENT_LENGTH, *length)
                    .body(reqwest::Body::wrap_stream(file_stream(
                        Arc::clone(file),
                        *offset,
                        *length,
                        Arc::clone(&self.throttle),
                    ))),
            };
            let response = builder.send().await.map_err(|error| Error::exchange(&url, error))?;
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let Some(location) = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()) else {
                return Ok(response);
            };
            let next =
                url.join(location).map_err(|_| Error::protocol(&url, "redirects to something that is not a URL"))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Error::protocol(&url, "redirects from https to plain http, which is refused"));
            }
            if !matches!(next.scheme(), "http" | "https") {
                return Err(Error::protocol(&url, "redirects to something that is not http"));
            }
            if status == StatusCode::SEE_OTHER && method != Method::HEAD {
                method = Method::GET;
            }
            url = next;
        }
        Err(Error::protocol(&origin, "redirects without end"))
    }

    /// How long sending `length` bytes may take: the slowest line worth waiting for, and our own limit on top.
    fn upload_limit(&self, length: u64) -> Duration {
        let slowest = self.limits.bandwidth.unwrap_or(u64::MAX).clamp(1, UPLOAD_RATE_MIN);
        self.limits.stall + self.limits.connect + Duration::from_secs(length / slowest * 2)
    }

    /// A client for `tls`. One that sends files has no limit between received bytes: the answer comes only at the end.
    fn client(&self, tls: &Tls, sends: bool) -> Result<reqwest::Client> {
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (tls.clone(), sends);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = super::tls::client(tls, self.limits, sends)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn known_token(&self, key: &TokenKey) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = tokens.get(key)?;
        found.until.is_none_or(|until| until > Instant::now()).then(|| found.header.clone())
    }

    async fn grant(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        key: TokenKey,
        challenges: &[Challenge],
        refused: Option<HeaderValue>,
    ) -> Result<HeaderValue> {
        let _one = self.granting.lock().await;
        if let Some(header) = self.known_token(&key).filter(|header| Some(header) != refused.as_ref()) {
            return Ok(header);
        }
        let credentials = self.credentials(endpoint)?;
        for challenge in challenges {
            match (challenge, &credentials) {
                (Challenge::Bearer(_), Credentials::Bearer(token)) => {
                    return header(&format!("Bearer {token}"), endpoint);
                }
                (Challenge::Bearer(bearer), credentials) => {
                    let granted = self.fetch_token(endpoint, base, bearer, &key.1, credentials).await?;
                    return Ok(self.remember(key, granted));
                }
                (Challenge::Basic, Credentials::Basic { user, password }) => {
                    // Remembered for these scopes alone: files name other users for other repositories of a registry.
                    let header = basic(user, password);
                    return Ok(self.remember(key, Granted { header, until: None }));
                }
                _ => {}
            }
        }
        let reason = match (challenges.is_empty(), credentials == Credentials::Anonymous) {
            (true, _) => "it asks for credentials without saying how",
            (false, true) => "it needs credentials and none are stored",
            (false, false) => "it offers no way of proving who we are that this client knows",
        };
        Err(self.unauthorized(endpoint, reason))
    }

    fn remember(&self, key: TokenKey, granted: Granted) -> HeaderValue {
        let mut tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        let header = granted.header.clone();
        tokens.insert(key, granted);
        header
    }

    fn credentials(&self, endpoint: &Endpoint) -> Result<Credentials> {
        match &self.identity.explicit {
            // Given for the command's registry: a mirror is somebody else.
            Some(explicit) if !endpoint.mirror => Ok(explicit.clone()),
            _ => Ok(auth::find(&self.identity.files, &endpoint.registry, &endpoint.repository)?),
        }
    }

    fn unauthorized(&self, endpoint: &Endpoint, reason: &str) -> Error {
        Error::Unauthorized {
            registry: endpoint.registry.clone(),
            repository: endpoint.repository.clone(),
            reason: reason.to_owned(),
        }
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        bearer: &Bearer,
        scopes: &[String],
        credentials: &Credentials,
    ) -> Result<Granted> {
        let realm = parse_url(&bearer.realm).map_err(|_| {
            Error::protocol(base, &format!("names a token realm that is not a URL: {:.80}", bearer.realm))
        })?;
        let trusted = realm_belongs(base, &realm);
        if !trusted && *credentials != Credentials::Anonymous {
            // Asking anonymously is harmless; the registry decides whether that is enough.
            let reason = format!(
                "its token realm {} belongs to another domain, so the credentials are not sent there",
                realm.host_str().unwrap_or_default()
            );
            return Err(self.unauthorized(endpoint, &reason));
        }
        let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
        if let Some(asked) = bearer.scope.as_deref().filter(|asked| !asked.is_empty())
            && wanted.is_empty()
        {
            wanted.push(asked);
        }
        let tls = if same_origin(base, &realm) { endpoint.tls.clone() } else { foreign_tls(&endpoint.tls) };
        let client = self.client(&tls, false)?;
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(bearer.service.as_deref().map(|service| ("service", service)));
        let request = if let Credentials::IdentityToken(refresh) = credentials {
            let scope = wanted.join(" ");
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(&query).append_pair("grant_type", "refresh_token").append_pair("client_id", "shoal");
            form.append_pair("scope", &scope).append_pair("refresh_token", refresh);
            client
                .post(realm.clone())
                .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish())
        } else {
            let mut url = realm.clone();
            query.extend(wanted.iter().map(|scope| ("scope", *scope)));
            url.query_pairs_mut().extend_pairs(&query);
            let get = client.get(url);
            match credentials {
                Credentials::Basic { user, password } => get.header(AUTHORIZATION, basic(user, password)),
                _ => get,
            }
        };
        let response = request.send().await.map_err(|error| Error::exchange(&realm, error))?;
        let status = response.status();
        let body = bounded(response, SMALL_BODY_MAX).await?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) {
            return Err(self.unauthorized(endpoint, &format!("its token service answered {status}")));
        }
        if !status.is_success() {
            return Err(Error::status(&Method::GET, &realm, status, &body));
        }
        let document: serde_json::Value = serde_json::from_slice(&body)
            .map_err(|_| Error::protocol(&realm, "answered with a token that is not JSON"))?;
        let token =
            ["token", "access_token"].iter().find_map(|name| document.get(*name)?.as_str().filter(|t| !t.is_empty()));
        let token = token.ok_or_else(|| Error::protocol(&realm, "answered without a token"))?;
        let life = document
            .get("expires_in")
            .and_then(serde_json::Value::as_u64)
            .map_or(TOKEN_LIFE_DEFAULT, Duration::from_secs);
        let life = life.min(Duration::from_secs(24 * 3600)).saturating_sub(TOKEN_MARGIN).max(TOKEN_MARGIN / 2);
        Ok(Granted { header: header(&format!("Bearer {token}"), endpoint)?, until: Some(Instant::now() + life) })
    }
}

/// Reads a body of at most `max` bytes.
pub async fn bounded(mut response: Response, max: u64) -> Result<Bytes> {
    let url = response.url().clone();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Error::exchange(&url, error))? {
        if (body.len() + chunk.len()) as u64 > max {
            return Err(Error::protocol(&url, &format!("answered with more than {max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// Turns an answer that is not a success into an error with the registry's own words.
pub async fn refused(method: &Method, response: Response) -> Error {
    let (url, status) = (response.url().clone(), response.status());
    match bounded(response, SMALL_BODY_MAX).await {
        Ok(body) => Error::status(method, &url, status, &body),
        Err(_) => Error::status(method, &url, status, b""),
    }
}

/// Whether an answer means "later": worth another attempt.
pub fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// Reads `Retry-After`.
pub fn retry_after_of(headers: &HeaderMap) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    fetch::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// A number nobody can guess well; for jitter only.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn parse_url(text: &str) -> Result<Url> {
    let url = Url::parse(text)
        .map_err(|error| Error::Url { url: text.chars().take(200).collect(), reason: error.to_string() })?;
    if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() {
        return Ok(url);
    }
    Err(Error::Url {
        url: text.chars().take(200).collect(),
        reason: "it is not an http or https URL with a host".into(),
    })
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str() == b.host_str() && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether a token realm may see the credentials of a registry: the same host, or a host of the same domain (the last two
/// labels, as auth.docker.io for registry-1.docker.io), and never by plain http for an https registry.
fn realm_belongs(base: &Url, realm: &Url) -> bool {
    if base.scheme() == "https" && realm.scheme() != "https" {
        return false;
    }
    let (Some(ours), Some(theirs)) = (base.host_str(), realm.host_str()) else { return false };
    if ours == theirs {
        return true;
    }
    let domain = |host: &str| -> Option<String> {
        if host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[') {
            return None;
        }
        let labels: Vec<_> = host.trim_end_matches('.').rsplit('.').take(3).collect();
        // `co.uk` and its like: a second label of three letters or fewer below a country needs a third label.
        let depth = if labels.len() > 2 && labels[0].len() == 2 && labels[1].len() <= 3 { 3 } else { 2 };
        (labels.len() >= depth).then(|| labels[..depth].join("."))
    };
    domain(ours).is_some_and(|ours| domain(theirs) == Some(ours))
}

/// What a host that is not the registry itself is judged by: the public authorities, and our wish for no verification.
/// What a request's host is shown and trusted by: our certificate, and the authorities that vouch for the registry, are for
/// the registry alone.
fn shown(endpoint: &Endpoint, ours: bool) -> Tls {
    if ours { endpoint.tls.clone() } else { foreign_tls(&endpoint.tls) }
}

fn foreign_tls(tls: &Tls) -> Tls {
    Tls { skip_verify: tls.skip_verify, ..Tls::default() }
}

fn basic(user: &str, password: &str) -> HeaderValue {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {pair}")).expect("base64 is a valid header value");
    value.set_sensitive(true);
    value
}

fn header(value: &str, endpoint: &Endpoint) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(value).map_err(|_| Error::Unauthorized {
        registry: endpoint.registry.clone(),
        repository: endpoint.repository.clone(),
        reason: "the token holds characters that no header may carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Spreads bytes over time: each taker waits until the bytes before it have had their share.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_a_second: Option<u64>,
    free_at: Mutex<Instant>,
}

impl Throttle {
    fn new(bytes_a_second: Option<u64>) -> Self {
        Self { bytes_a_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of `bytes`.
    pub(crate) async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_a_second else { return };
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let share = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
            *free_at = (*free_at).max(Instant::now()) + share;
            *free_at
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

/// Bytes read from a file at once when it is sent.
const READ_BYTES: usize = 256 << 10;

fn file_stream(
    file: Arc<std::fs::File>,
    offset: u64,
    length: u64,
    throttle: Arc<Throttle>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    use std::os::unix::fs::FileExt as _;
    futures::stream::try_unfold((file, offset, length, throttle), |(file, at, left, throttle)| async move {
        if left == 0 {
            return Ok(None);
        }
        let take = usize::try_from(left.min(READ_BYTES as u64)).unwrap_or(READ_BYTES);
        let reader = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; take];
            reader.read_exact_at(&mut buffer, at).map(|()| buffer)
        });
        let buffer = read.await.map_err(std::io::Error::other)??;
        throttle.take(take as u64).await;
        Ok(Some((Bytes::from(buffer), (file, at + take as u64, left - take as u64, throttle))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn belongs(base: &str, realm: &str) -> bool {
        realm_belongs(&Url::parse(base).unwrap(), &Url::parse(realm).unwrap())
    }

    #[test]
    fn credentials_go_only_to_realms_of_the_same_domain() {
        assert!(belongs("https://registry-1.docker.io/v2", "https://auth.docker.io/token"));
        assert!(belongs("https://registry.gitlab.com/v2", "https://gitlab.com/jwt/auth"));
        assert!(belongs("http://127.0.0.1:5000/v2", "http://127.0.0.1:5001/token"));
        assert!(!belongs("https://registry-1.docker.io/v2", "https://evil.example/token"));
        assert!(!belongs("https://r.example/v2", "http://r.example/token"));
        assert!(!belongs("https://a.co.uk/v2", "https://b.co.uk/token"));
        assert!(!belongs("http://127.0.0.1/v2", "http://127.0.0.2/token"));
        assert!(!belongs("https://docker.io/v2", "https://notdocker.io/t"));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        assert!(!same_origin(&url("https://a/x"), &url("http://a/x")));
        assert!(!same_origin(&url("https://a/x"), &url("https://a:444/x")));
    }
}
