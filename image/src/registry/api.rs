//! The registry's answers: one request in, one response out, OCI distribution-spec 1.1.
//!
//! Everything a client sends is bounded and verified here: manifests by size and form, uploads by order and digest, names
//! by their grammar. Bytes are named only after they are complete and verified, tags last.

mod blob;
mod body;
mod listing;
mod manifest;
mod reply;
mod upload;

pub use reply::Answer;

use super::access::Users;
use super::error::{Code, Refusal};
use super::route::{self, Route};
use super::shelf::Shelf;
use super::upload::Uploads;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use hyper::body::Body;
use reply::{Reply, accepted, blob_unknown, full, json, refuse, status, text};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use upload::upload_answer;

/// Requests that may wait for a collection or the disk at once, each on a thread of its own; others wait their turn. Far
/// fewer than the runtime's threads, so that what waits for nothing always goes on.
const WAITING_MAX: usize = 64;
/// Passwords checked at once: each costs tens of milliseconds of a core.
const VERIFYING_MAX: usize = 2;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// One registry.
#[derive(Debug)]
pub struct Registry {
    shelf: Shelf,
    uploads: Uploads,
    users: Option<Arc<Users>>,
    read_only: bool,
    fixed_tags: bool,
    report: fn(&str),
    log: Log,
    silence_max: Duration,
    waiting: Semaphore,
    verifying: Semaphore,
}

/// Who sends a request, as an extension of it: the server knows, a client cannot say.
#[derive(Debug, Clone, Copy)]
pub struct Client(pub IpAddr);

/// Takes one line.
type Writer = dyn Fn(&str) + Send + Sync;

/// Where a line for each write goes.
#[derive(Default)]
struct Log(Option<Box<Writer>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.0.is_some()).finish()
    }
}

impl Registry {
    /// Builds a registry over a shelf. `users` guards every request; `read_only` refuses every write.
    pub fn new(shelf: Shelf, users: Option<Users>, read_only: bool) -> Self {
        let uploads = Uploads::default();
        uploads.sweep_abandoned(&shelf);
        Self {
            shelf,
            uploads,
            users: users.map(Arc::new),
            read_only,
            fixed_tags: false,
            report: |_| {},
            log: Log::default(),
            silence_max: body::SILENCE_MAX,
            waiting: Semaphore::new(WAITING_MAX),
            verifying: Semaphore::new(VERIFYING_MAX),
        }
    }

    /// Refuses to point a tag at another manifest; a tag that was deleted may be set anew.
    #[must_use]
    pub fn fixed_tags(mut self, fixed: bool) -> Self {
        self.fixed_tags = fixed;
        self
    }

    /// Says every write, and every refused credential, to `log`: one line of JSON each.
    #[must_use]
    pub fn logging(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.log = Log(Some(Box::new(log)));
        self
    }

    /// Says failures of the host (its disk, its store) to `report`; clients get only their kind.
    #[must_use]
    pub fn reporting(mut self, report: fn(&str)) -> Self {
        self.report = report;
        self
    }

    /// Replaces how long a client may be silent within a body (a minute).
    #[must_use]
    pub fn silence_max(mut self, silence_max: Duration) -> Self {
        self.silence_max = silence_max;
        self
    }

    /// Removes what clients left behind: uploads that nobody has touched for a day. Once an hour is often enough.
    pub fn sweep(&self) {
        self.uploads.sweep_abandoned(&self.shelf);
        self.shelf.sweep();
    }

    /// Answers one request; never fails. Dropping the future ends an upload's request at the bytes already written.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let head = request.method() == Method::HEAD;
        let client = request.extensions().get::<Client>().map_or_else(|| "-".to_owned(), |client| client.0.to_string());
        let asked = self.log.0.as_ref().map(|log| (log, request.method().clone(), request.uri().path().to_owned()));
        let mut user = None;
        let mut answer = match self.dispatch(request, &client, &mut user).await {
            Ok(answer) => answer,
            Err(refusal) => {
                if let Some(cause) = &refusal.cause {
                    (self.report)(cause);
                }
                refuse(&refusal)
            }
        };
        if let Some((log, method, path)) = asked
            && (!matches!(method, Method::GET | Method::HEAD) || answer.status() == StatusCode::UNAUTHORIZED)
        {
            let digest = answer.headers().get(&DIGEST).and_then(|value| value.to_str().ok());
            let status = answer.status().as_u16();
            let line = serde_json::json!({
                "client": client, "user": user, "method": method.as_str(), "path": path, "status": status, "digest": digest,
            });
            log(&line.to_string());
        }
        answer.headers_mut().insert(VERSION, "registry/2.0".parse().expect("a valid header value"));
        if head {
            let (parts, _) = answer.into_parts();
            answer = Response::from_parts(parts, full(Bytes::new()));
        }
        answer
    }

    /// The user of a request, when users are asked for.
    async fn admit(&self, users: &Arc<Users>, headers: &HeaderMap, client: &str) -> Result<String, Refusal> {
        let authorization = text(headers, &AUTHORIZATION).map(str::to_owned);
        if let Some(user) = users.known(authorization.as_deref())? {
            return Ok(user);
        }
        let _turn = self.verifying.acquire().await.map_err(io::Error::other)?;
        let (users, client) = (Arc::clone(users), client.to_owned());
        let judged = tokio::task::spawn_blocking(move || users.check(authorization.as_deref(), &client));
        judged.await.map_err(|error| Refusal::from(io::Error::other(error)))?
    }

    /// Runs what may wait, for a collection or for the disk, off the threads that carry every connection.
    async fn off<T>(&self, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let _turn = self.waiting.acquire().await.map_err(io::Error::other)?;
        tokio::task::block_in_place(work)
    }

    async fn dispatch<B>(&self, request: Request<B>, client: &str, user: &mut Option<String>) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        if let Some(users) = &self.users {
            *user = Some(self.admit(users, &parts.headers, client).await?);
        }
        // Whose uploads these are: the user's, wherever from; else the address's.
        let whose = user.clone().unwrap_or_else(|| client.to_owned());
        let route = route::parse(&parts.method, parts.uri.path())?;
        let write = !matches!(parts.method, Method::GET | Method::HEAD);
        if write && self.read_only {
            return Err(
                Refusal::new(Code::Unsupported, "this registry is read-only").header(http::header::ALLOW, "GET, HEAD")
            );
        }
        let query = route::query(parts.uri.query());
        let headers = &parts.headers;
        match (route, &parts.method) {
            (Route::Base, _) => Ok(json(StatusCode::OK, b"{}".to_vec())),
            (Route::Catalog, _) => self.off(|| self.catalog(&query)).await,
            (Route::Tags { repository }, _) => self.off(|| self.tags(&repository, &query)).await,
            (Route::Referrers { repository, digest }, _) => {
                self.off(|| self.referrers(&repository, &digest, &query)).await
            }
            (Route::Blob { repository, digest }, &Method::DELETE) => {
                if self.off(|| Ok(self.shelf.delete_blob(&repository, &digest)?)).await? {
                    accepted()
                } else {
                    Err(blob_unknown())
                }
            }
            // A HEAD renews the blob, and that waits for a collection.
            (Route::Blob { repository, digest }, &Method::HEAD) => {
                self.off(|| self.blob(&repository, &digest, headers, true)).await
            }
            (Route::Blob { repository, digest }, _) => self.blob(&repository, &digest, headers, false),
            (Route::Manifest { repository, name }, &Method::PUT) => {
                self.put_manifest(&repository, name, headers, &query, body).await
            }
            (Route::Manifest { repository, name }, &Method::DELETE) => {
                self.off(|| self.delete_manifest(&repository, &name)).await
            }
            (Route::Manifest { repository, name }, _) => self.manifest(&repository, &name, headers),
            (Route::Uploads { repository }, _) => self.start_upload(&repository, &whose, headers, &query, body).await,
            (Route::Upload { repository, id }, method) => {
                let upload = self.uploads.find(&self.shelf, &repository, &id)?;
                let Ok(mut upload) = upload.try_lock_owned() else {
                    return Err(Refusal::new(Code::TooManyRequests, "another request is busy with this upload"));
                };
                match *method {
                    Method::PATCH => self.patch_upload(&repository, &mut upload, headers, body).await,
                    Method::PUT => self.finish_upload(&repository, &mut upload, headers, &query, body).await,
                    Method::DELETE => {
                        upload.cancel();
                        self.uploads.forget(&id);
                        Ok(status(StatusCode::NO_CONTENT))
                    }
                    _ => Ok(upload_answer(StatusCode::NO_CONTENT, &repository, &upload)),
                }
            }
        }
    }
}
