//! The registry's answers: one request in, one response out, OCI distribution-spec 1.1.
//!
//! Everything a client sends is bounded and verified here: manifests by size and form, uploads by order and digest, names
//! by their grammar. Bytes are named only after they are complete and verified, tags last.

use super::access::Users;
use super::error::{Code, Refusal};
use super::route::{self, Name, Range, Route};
use super::shelf::Shelf;
use super::upload::{self, Upload, Uploads};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    LINK, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use oci::descriptor::Descriptor;
use oci::digest::{Algorithm, Digest};
use oci::manifest::{MANIFEST_BYTES_MAX, Manifest, media};
use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// What is sent back.
pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Names listed in one answer when the client asks for more or says nothing.
const PAGE_MAX: usize = 1000;
/// Bytes of one referrers answer (a registry paginates rather than sends more than a manifest's size).
const REFERRERS_BYTES_MAX: usize = 4 << 20;
/// Bytes read from disk at once when a blob is sent: large reads, small enough that a thousand clients fit in memory.
const READ_BYTES: usize = 256 << 10;
/// How long a client may be silent within a body: what it sent stays, and it can go on with the upload.
const BODY_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes a second that a body must bring over each [`BODY_SILENCE_MAX`]: less than any line that can carry an image.
const BODY_RATE_MIN: u64 = 256;
/// Requests that may wait for a collection or the disk at once, each on a thread of its own; others wait their turn. Far
/// fewer than the runtime's threads, so that what waits for nothing always goes on.
const WAITING_MAX: usize = 64;
/// Passwords checked at once: each costs tens of milliseconds of a core.
const VERIFYING_MAX: usize = 2;
/// Tags that one manifest push by digest may set.
const TAGS_A_PUSH_MAX: usize = 10;

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

/// How fast a body comes, counted over the time that was spent waiting for it.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

type Reply = Result<Answer, Refusal>;

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
            silence_max: BODY_SILENCE_MAX,
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

    // Content discovery -------------------------------------------------------------------------------------------------

    fn catalog(&self, query: &[(String, String)]) -> Reply {
        let (page, next) = page(self.shelf.repositories()?, query, "/v2/_catalog")?;
        Ok(with_link(json(StatusCode::OK, document(&serde_json::json!({ "repositories": page }))), next))
    }

    fn tags(&self, repository: &str, query: &[(String, String)]) -> Reply {
        if !self.shelf.exists(repository) {
            return Err(Refusal::new(Code::NameUnknown, "no such repository"));
        }
        let (page, next) = page(self.shelf.tags(repository)?, query, &format!("/v2/{repository}/tags/list"))?;
        Ok(with_link(json(StatusCode::OK, document(&serde_json::json!({ "name": repository, "tags": page }))), next))
    }

    fn referrers(&self, repository: &str, subject: &Digest, query: &[(String, String)]) -> Reply {
        let wanted = value(query, "artifactType");
        let mut all = self.shelf.referrers(repository, subject)?;
        if let Some(wanted) = wanted {
            all.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        if let Some(last) = value(query, "last") {
            all.retain(|descriptor| descriptor.digest.to_string().as_str() > last);
        }
        all.sort_by_key(|descriptor| descriptor.digest.to_string());
        // Pages are cut by bytes, as the specification asks.
        let mut bytes = 0;
        let fits = all.iter().take_while(|descriptor| {
            bytes += document(&serde_json::json!(descriptor)).len() + 1;
            bytes < REFERRERS_BYTES_MAX
        });
        let count = fits.count().max(1).min(all.len());
        let next = (count < all.len()).then(|| {
            let mut next = url::form_urlencoded::Serializer::new(String::new());
            next.append_pair("last", &all[count - 1].digest.to_string());
            if let Some(wanted) = wanted {
                next.append_pair("artifactType", wanted);
            }
            format!("/v2/{repository}/referrers/{subject}?{}", next.finish())
        });
        all.truncate(count);
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": all});
        let mut answer = with_link(json(StatusCode::OK, document(&index)), next);
        set(answer.headers_mut(), CONTENT_TYPE, media::OCI_INDEX);
        if wanted.is_some() {
            set(answer.headers_mut(), FILTERS, "artifactType");
        }
        Ok(answer)
    }

    // Blobs ---------------------------------------------------------------------------------------------------------------

    fn blob(&self, repository: &str, digest: &Digest, headers: &HeaderMap, head: bool) -> Reply {
        // Who asks with HEAD is about to push a manifest that names it.
        let size = if head && !self.read_only {
            self.shelf.renew_blob(repository, digest)?
        } else {
            self.shelf.blob(repository, digest)?
        };
        let Some(size) = size else { return Err(blob_unknown()) };
        let mut answer = status(StatusCode::OK);
        let etag = format!("\"{digest}\"");
        let own = answer.headers_mut();
        set(own, DIGEST, &digest.to_string());
        set(own, ETAG, &etag);
        set(own, CACHE_CONTROL, "max-age=31536000, immutable");
        set(own, ACCEPT_RANGES, "bytes");
        set(own, CONTENT_TYPE, "application/octet-stream");
        if text(headers, &IF_NONE_MATCH).is_some_and(|all| all == "*" || all.split(',').any(|one| one.trim() == etag)) {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(answer);
        }
        let current = text(headers, &http::header::IF_RANGE).is_none_or(|tag| tag == etag);
        let asked = text(headers, &RANGE).filter(|_| current);
        let (first, length) = match route::range(asked, size) {
            Range::Whole => (0, size),
            Range::Part(first, last) => {
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                set(answer.headers_mut(), CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
                (first, last - first + 1)
            }
            Range::Unsatisfiable => {
                let refusal = Refusal::new(Code::SizeInvalid, "no byte of this range exists");
                let refusal = refusal.status(StatusCode::RANGE_NOT_SATISFIABLE);
                return Err(refusal.header(CONTENT_RANGE, format!("bytes */{size}")));
            }
        };
        set(answer.headers_mut(), CONTENT_LENGTH, &length.to_string());
        if !head {
            let Some(file) = self.shelf.blobs.open(digest)? else { return Err(blob_unknown()) };
            *answer.body_mut() = file_body(file, first, length);
        }
        Ok(answer)
    }

    // Uploads -------------------------------------------------------------------------------------------------------------

    async fn start_upload<B>(
        &self,
        repository: &str,
        whose: &str,
        headers: &HeaderMap,
        query: &[(String, String)],
        body: B,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        if let Some(digest) = value(query, "mount").and_then(|text| text.parse::<Digest>().ok()) {
            let mount = || {
                let there = match value(query, "from") {
                    Some(from) => route::name(from).is_ok() && self.shelf.blob(from, &digest)?.is_some(),
                    // "Anonymous mount": any repository will do. With users each may read every repository.
                    None => self.shelf.any_holds(&digest)?,
                };
                Ok(there && self.shelf.link_blob(repository, &digest)?)
            };
            if self.off(mount).await? {
                return Ok(created(&format!("/v2/{repository}/blobs/{digest}"), &digest));
            }
        }
        let digest = value(query, "digest").map(route::digest).transpose()?;
        let upload = self.off(|| self.uploads.start(&self.shelf, repository, whose)).await?;
        let mut upload = upload.lock_owned().await;
        match digest {
            Some(digest) => {
                let outcome = self.receive(&mut upload, headers, body).await;
                if outcome.is_err() {
                    // Nobody knows this session's name, so nobody can go on with it.
                    upload.cancel();
                    self.uploads.forget(&upload.id);
                }
                outcome?;
                self.complete(repository, &mut upload, &digest).await
            }
            None => Ok(upload_answer(StatusCode::ACCEPTED, repository, &upload)),
        }
    }

    async fn patch_upload<B>(&self, repository: &str, upload: &mut Upload, headers: &HeaderMap, body: B) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        check_order(repository, upload, headers)?;
        self.receive(upload, headers, body).await?;
        Ok(upload_answer(StatusCode::ACCEPTED, repository, upload))
    }

    async fn finish_upload<B>(
        &self,
        repository: &str,
        upload: &mut Upload,
        headers: &HeaderMap,
        query: &[(String, String)],
        body: B,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let digest = value(query, "digest")
            .ok_or_else(|| Refusal::new(Code::DigestInvalid, "the last request of an upload needs ?digest="))?;
        let digest = route::digest(digest)?;
        check_order(repository, upload, headers)?;
        self.receive(upload, headers, body).await?;
        self.complete(repository, upload, &digest).await
    }

    async fn complete(&self, repository: &str, upload: &mut Upload, digest: &Digest) -> Reply {
        let outcome = self.off(|| upload.finish(&self.shelf, repository, digest)).await;
        self.uploads.forget(&upload.id);
        outcome?;
        Ok(created(&format!("/v2/{repository}/blobs/{digest}"), digest))
    }

    /// Appends a body to an upload. What arrived before a connection broke stays: the client asks for the status and goes on.
    async fn receive<B>(&self, upload: &mut Upload, headers: &HeaderMap, mut body: B) -> Result<(), Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let before = upload.offset();
        let declared = text(headers, &CONTENT_RANGE).and_then(route::chunk_range).map(|(first, last)| last - first + 1);
        let mut pace = Pace::default();
        while let Some(frame) = self.next_frame(&mut body, &mut pace).await? {
            let frame =
                frame.map_err(|error| Refusal::new(Code::BlobUploadInvalid, format!("the body broke off: {error}")))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if declared.is_some_and(|length| upload.offset() - before + bytes.len() as u64 > length) {
                return Err(Refusal::new(Code::SizeInvalid, "the body is longer than its Content-Range"));
            }
            upload.append(&bytes)?;
        }
        if declared.is_some_and(|length| upload.offset() - before < length) {
            return Err(Refusal::new(Code::SizeInvalid, "the body is shorter than its Content-Range"));
        }
        Ok(())
    }

    /// The next piece of a body, which must come in time.
    async fn next_frame<B>(
        &self,
        body: &mut B,
        pace: &mut Pace,
    ) -> Result<Option<Result<Frame<Bytes>, B::Error>>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let late = |what: &str| {
            let seconds = self.silence_max.as_secs();
            let message = format!("{what} of the body arrived for {seconds} s; what did arrive stays");
            Refusal::new(Code::BlobUploadInvalid, message).status(StatusCode::REQUEST_TIMEOUT)
        };
        let began = tokio::time::Instant::now();
        let frame = tokio::time::timeout(self.silence_max, body.frame()).await.map_err(|_| late("nothing"))?;
        pace.waited += began.elapsed();
        pace.bytes += frame.iter().flatten().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum::<u64>();
        if pace.waited >= self.silence_max {
            let least = u64::try_from(pace.waited.as_millis()).unwrap_or(u64::MAX).saturating_mul(BODY_RATE_MIN) / 1000;
            // The end of a body is never late.
            if frame.is_some() && pace.bytes < least {
                return Err(late("next to nothing"));
            }
            *pace = Pace::default();
        }
        Ok(frame)
    }

    // Manifests -----------------------------------------------------------------------------------------------------------

    fn find(&self, repository: &str, name: &Name) -> Result<Descriptor, Refusal> {
        let found = match name {
            Name::Tag(tag) => self.shelf.tag(repository, tag)?,
            Name::Digest(digest) => self.shelf.manifest(repository, digest)?,
        };
        found.ok_or_else(|| {
            if self.shelf.exists(repository) {
                Refusal::new(Code::ManifestUnknown, "no such manifest in this repository")
            } else {
                Refusal::new(Code::NameUnknown, "no such repository")
            }
        })
    }

    fn manifest(&self, repository: &str, name: &Name, headers: &HeaderMap) -> Reply {
        let descriptor = self.find(repository, name)?;
        let raw = crate::source::read(&*self.shelf.blobs, &descriptor.digest, MANIFEST_BYTES_MAX)?
            .ok_or_else(|| Refusal::new(Code::ManifestUnknown, "no such manifest in this repository"))?;
        let etag = format!("\"{}\"", descriptor.digest);
        let unchanged = text(headers, &IF_NONE_MATCH).is_some_and(|all| all.split(',').any(|one| one.trim() == etag));
        let mut answer = status(if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        let own = answer.headers_mut();
        set(own, DIGEST, &descriptor.digest.to_string());
        set(own, ETAG, &etag);
        set(own, CONTENT_TYPE, &descriptor.media_type);
        set(own, CONTENT_LENGTH, &raw.len().to_string());
        if !unchanged {
            *answer.body_mut() = full(raw.into());
        }
        Ok(answer)
    }

    async fn put_manifest<B>(
        &self,
        repository: &str,
        name: Name,
        headers: &HeaderMap,
        query: &[(String, String)],
        body: B,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let raw = self.bounded(body, headers).await?;
        // By digest its algorithm decides; with a tag `?digest=` may name one, else sha256.
        let (expected, mut tags) = match name {
            Name::Digest(digest) => (Some(digest), Vec::new()),
            Name::Tag(tag) => (value(query, "digest").map(route::digest).transpose()?, vec![tag]),
        };
        for tag in query.iter().filter(|(name, _)| name == "tag").take(TAGS_A_PUSH_MAX) {
            tags.push(route::tag(&tag.1)?);
        }
        let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let declared =
            text(headers, &CONTENT_TYPE).map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        let manifest = Manifest::parse_with(raw, declared.as_deref(), algorithm)
            .map_err(|error| Refusal::new(Code::ManifestInvalid, error.to_string()))?;
        if let Some(expected) = expected.filter(|expected| expected != manifest.digest()) {
            let message = format!("the manifest is {}, not {expected}", manifest.digest());
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
        let subject = manifest.subject().map(|subject| subject.digest);
        let descriptor = self.off(|| self.shelve(repository, &manifest, subject.as_ref(), &tags)).await?;
        let mut answer = created(&format!("/v2/{repository}/manifests/{}", descriptor.digest), &descriptor.digest);
        if let Some(subject) = subject {
            set(answer.headers_mut(), SUBJECT, &subject.to_string());
        }
        for tag in &tags {
            if let Ok(value) = tag.parse() {
                answer.headers_mut().append(TAG, value);
            }
        }
        Ok(answer)
    }

    /// Stores a manifest and its tags, once everything it names is there.
    fn shelve(
        &self,
        repository: &str,
        manifest: &Manifest,
        subject: Option<&Digest>,
        tags: &[String],
    ) -> Result<Descriptor, Refusal> {
        self.check_children(repository, manifest)?;
        let mut descriptor = manifest.descriptor();
        descriptor.platform = None;
        descriptor.artifact_type = manifest.artifact_type().map(str::to_owned);
        descriptor.annotations = manifest.annotations().clone();
        let stays = self.shelf.put_tagged(repository, &descriptor, manifest.raw(), subject, tags, !self.fixed_tags)?;
        match stays {
            None => Ok(descriptor),
            Some(tag) => {
                let message = format!("tag {tag} names another manifest, and tags of this registry do not move");
                Err(Refusal::new(Code::Denied, message).status(StatusCode::CONFLICT))
            }
        }
    }

    /// A manifest's bytes, no more than one may have.
    async fn bounded<B>(&self, mut body: B, headers: &HeaderMap) -> Result<Vec<u8>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let too_large = || {
            Refusal::new(Code::ManifestInvalid, format!("a manifest may have {MANIFEST_BYTES_MAX} bytes"))
                .status(StatusCode::PAYLOAD_TOO_LARGE)
        };
        let length = text(headers, &CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if length.is_some_and(|length| length > MANIFEST_BYTES_MAX) {
            return Err(too_large());
        }
        let mut raw = Vec::new();
        let mut pace = Pace::default();
        while let Some(frame) = self.next_frame(&mut body, &mut pace).await? {
            let frame =
                frame.map_err(|error| Refusal::new(Code::ManifestInvalid, format!("the body broke off: {error}")))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if (raw.len() + bytes.len()) as u64 > MANIFEST_BYTES_MAX {
                return Err(too_large());
            }
            raw.extend_from_slice(&bytes);
        }
        Ok(raw)
    }

    /// Every blob and manifest that a manifest names must be in the repository; its subject need not.
    fn check_children(&self, repository: &str, manifest: &Manifest) -> Result<(), Refusal> {
        for child in manifest.children() {
            // Layers from elsewhere may stay elsewhere.
            if media::is_foreign_layer(&child.media_type) || (!child.urls.is_empty() && manifest.image().is_some()) {
                continue;
            }
            let there = if manifest.index().is_some() {
                self.shelf.manifest(repository, &child.digest)?.is_some()
                    || self.shelf.blob(repository, &child.digest)?.is_some()
            } else {
                match self.shelf.renew_blob(repository, &child.digest)? {
                    Some(size) if size != child.size => {
                        let message = format!("{} has {size} bytes, the manifest says {}", child.digest, child.size);
                        return Err(Refusal::new(Code::ManifestInvalid, message));
                    }
                    found => found.is_some(),
                }
            };
            if !there {
                let message = format!("{} is not in this repository: push it first", child.digest);
                return Err(Refusal::new(Code::ManifestBlobUnknown, message));
            }
        }
        Ok(())
    }

    fn delete_manifest(&self, repository: &str, name: &Name) -> Reply {
        let descriptor = self.find(repository, name)?;
        match name {
            Name::Tag(tag) => {
                self.shelf.delete_tag(repository, tag)?;
            }
            Name::Digest(digest) => {
                let raw = crate::source::read(&*self.shelf.blobs, digest, MANIFEST_BYTES_MAX)?.unwrap_or_default();
                let parsed = Manifest::parse_with(raw, Some(&descriptor.media_type), digest.algorithm()).ok();
                let subject = parsed.as_ref().and_then(|manifest| manifest.subject()).map(|subject| subject.digest);
                self.shelf.delete_manifest(repository, digest, subject.as_ref())?;
            }
        }
        accepted()
    }
}

/// The chunk must begin where the upload ends (distribution-spec "Pushing a blob in chunks").
fn check_order(repository: &str, upload: &Upload, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(declared) = text(headers, &CONTENT_RANGE) else { return Ok(()) };
    let wrong = |message: String| {
        Refusal::new(Code::BlobUploadInvalid, message)
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(LOCATION, upload::location(repository, &upload.id))
            .header(RANGE, upload::range(upload.offset()))
            .header(UPLOAD_ID, upload.id.clone())
    };
    let Some((first, last)) = route::chunk_range(declared) else {
        return Err(wrong("Content-Range must be FIRST-LAST".to_owned()));
    };
    if first != upload.offset() {
        return Err(wrong(format!("the next chunk begins at {}, not {first}", upload.offset())));
    }
    let length = text(headers, &CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    if length.is_some_and(|length| length != last - first + 1) {
        return Err(Refusal::new(Code::SizeInvalid, "Content-Length and Content-Range disagree"));
    }
    Ok(())
}

/// distribution-spec "Listing Tags": "the tags MUST be in lexical order (i.e. case-insensitive alphanumeric order)". Names
/// that differ in case alone are told apart by their bytes, so that `last` names one place.
fn lexical(name: &str) -> (String, &str) {
    (name.to_ascii_lowercase(), name)
}

/// Sorts a list, cuts it by `n` and `last`, and names the next page.
fn page(
    mut all: Vec<String>,
    query: &[(String, String)],
    path: &str,
) -> Result<(Vec<String>, Option<String>), Refusal> {
    let asked = match value(query, "n") {
        Some(text) => {
            let refusal = || Refusal::new(Code::Unsupported, "n must be a number");
            text.parse::<usize>().map_err(|_| refusal().status(StatusCode::BAD_REQUEST))?
        }
        None => PAGE_MAX,
    };
    if let Some(last) = value(query, "last") {
        all.retain(|name| lexical(name) > lexical(last));
    }
    all.sort_by(|one, other| lexical(one).cmp(&lexical(other)));
    let count = asked.min(PAGE_MAX);
    let next = (count > 0 && count < all.len()).then(|| {
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        next.append_pair("n", &count.to_string()).append_pair("last", &all[count - 1]);
        format!("{path}?{}", next.finish())
    });
    all.truncate(count);
    Ok((all, next))
}

fn file_body(file: File, first: u64, length: u64) -> UnsyncBoxBody<Bytes, io::Error> {
    let file = Arc::new(file);
    let stream = futures::stream::try_unfold((file, first, length), |(file, at, left)| async move {
        if left == 0 {
            return Ok::<_, io::Error>(None);
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
        // Read in place: the page cache answers in microseconds, a thread hop costs more. The runtime has several threads.
        let mut buffer = vec![0; take];
        file.read_exact_at(&mut buffer, at)?;
        Ok(Some((Frame::data(Bytes::from(buffer)), (file, at + take as u64, left - take as u64))))
    });
    StreamBody::new(stream).boxed_unsync()
}

fn refuse(refusal: &Refusal) -> Answer {
    let mut answer = json(refusal.status, refusal.body());
    for (name, text) in &refusal.headers {
        set(answer.headers_mut(), name.clone(), text);
    }
    answer
}

fn upload_answer(code: StatusCode, repository: &str, upload: &Upload) -> Answer {
    let mut answer = status(code);
    set(answer.headers_mut(), LOCATION, &upload::location(repository, &upload.id));
    set(answer.headers_mut(), RANGE, &upload::range(upload.offset()));
    set(answer.headers_mut(), UPLOAD_ID, &upload.id);
    answer
}

fn created(location: &str, digest: &Digest) -> Answer {
    let mut answer = status(StatusCode::CREATED);
    set(answer.headers_mut(), LOCATION, location);
    set(answer.headers_mut(), DIGEST, &digest.to_string());
    answer
}

fn accepted() -> Reply {
    Ok(status(StatusCode::ACCEPTED))
}

fn blob_unknown() -> Refusal {
    Refusal::new(Code::BlobUnknown, "no such blob in this repository")
}

fn status(code: StatusCode) -> Answer {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = code;
    answer
}

fn json(code: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = status(code);
    set(answer.headers_mut(), CONTENT_TYPE, "application/json");
    set(answer.headers_mut(), CONTENT_LENGTH, &body.len().to_string());
    *answer.body_mut() = full(body.into());
    answer
}

fn with_link(mut answer: Answer, next: Option<String>) -> Answer {
    if let Some(next) = next {
        set(answer.headers_mut(), LINK, &format!("<{next}>; rel=\"next\""));
    }
    answer
}

fn document(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    // Everything written here is a digest, a number, a checked name or a media type from a parsed manifest.
    if let Ok(value) = text.parse() {
        headers.insert(name, value);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}
