//! One repository at one or more registries: manifests, blobs, tags, referrers, uploads.
//!
//! In: names and digests. Out: verified manifests and answers whose bodies the caller streams. Mirrors are tried in order
//! for reads; writes go to the registry itself.

use super::config::Endpoint;
use super::error::{Error, Result};
use super::transport::{self, Body, Request, Transport};
use crate::fetch;
use bytes::Bytes;
use oci::descriptor::Descriptor;
use oci::digest::Digest;
use oci::manifest::{MANIFEST_BYTES_MAX, Manifest, media};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LINK, LOCATION, RANGE,
};
use reqwest::{Method, Response, StatusCode};
use std::fs::File;
use std::sync::Arc;

/// Bytes of one list (tags, catalog, token) answer.
const LIST_BYTES_MAX: u64 = 16 << 20;
/// Pages of a list that are followed; with 1,000 names a page far beyond any repository seen.
const PAGES_MAX: usize = 1000;
/// Tags of one repository; the largest public ones have some tens of thousands. At most 128 bytes each.
const TAGS_MAX: usize = 500_000;
/// Manifests that name one subject: signatures, SBOMs, attestations of every build step.
const REFERRERS_MAX: usize = 10_000;
/// Bytes of all pages of such a list: descriptors carry annotations.
const REFERRERS_BYTES_MAX: usize = 64 << 20;
/// Bytes of one chunk of an upload: what a cut connection costs to send again.
pub const CHUNK_BYTES: u64 = 32 << 20;

/// Manifest types that are asked for, in order of liking.
const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A repository and where to find it.
#[derive(Debug, Clone)]
pub struct Repository {
    transport: Arc<Transport>,
    /// Where to read, mirrors first.
    pub sources: Vec<Endpoint>,
    target: Endpoint,
    /// The registry as people write it.
    pub registry: String,
    /// The repository's name.
    pub name: String,
    scopes: Vec<String>,
}

/// How an upload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Existed,
    /// The registry took it over from another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// Who wants to know how far an upload is.
pub trait Watch: Send + Sync {
    /// The registry has this many bytes.
    fn sent(&self, bytes: u64);

    /// The next bytes go to this place; it is where another process can go on.
    fn moves_to(&self, place: &str);
}

/// Who wants to know the bytes alone.
impl<F: Fn(u64) + Send + Sync> Watch for F {
    fn sent(&self, bytes: u64) {
        self(bytes);
    }

    fn moves_to(&self, _place: &str) {}
}

impl Repository {
    /// Finds where `registry/name` lives. `write` asks for tokens that allow pushing.
    pub fn open(transport: Arc<Transport>, registry: &str, name: &str, write: bool) -> Result<Self> {
        let sources = transport.config.endpoints(registry, name, false)?;
        let target = transport.config.endpoints(registry, name, true)?;
        let target = target.into_iter().next().ok_or_else(|| Error::Url {
            url: format!("{registry}/{name}"),
            reason: "the configuration names no place to push to".to_owned(),
        })?;
        let actions = if write { "pull,push" } else { "pull" };
        let scopes = vec![format!("repository:{name}:{actions}")];
        Ok(Self { transport, sources, target, registry: registry.to_owned(), name: name.to_owned(), scopes })
    }

    /// Waits until `bytes` of a blob may be taken (`Limits::bandwidth`).
    pub(crate) async fn throttle(&self, bytes: u64) {
        self.transport.throttle.take(bytes).await;
    }

    fn scopes(&self, endpoint: &Endpoint) -> Vec<String> {
        if endpoint.repository == self.name {
            return self.scopes.clone();
        }
        vec![format!("repository:{}:pull", endpoint.repository)]
    }

    fn request(&self, endpoint: &Endpoint, method: Method, rest: &str) -> Request {
        Request::new(method, format!("/{}{rest}", endpoint.repository), self.scopes(endpoint))
    }

    // Reading -------------------------------------------------------------------------------------------------------------

    /// Fetches a manifest by tag or digest from the first source that has it, and verifies it.
    pub async fn manifest(&self, name: &str) -> Result<Manifest> {
        let digest: Option<Digest> = name.parse().ok();
        let mut last = None;
        for endpoint in &self.sources {
            if digest.is_none() && !endpoint.resolves_tags {
                continue;
            }
            match self.manifest_from(endpoint, name, digest).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Url {
            url: format!("{}/{}", self.registry, self.name),
            reason: "no source may resolve tags".to_owned(),
        }))
    }

    async fn manifest_from(&self, endpoint: &Endpoint, name: &str, digest: Option<Digest>) -> Result<Manifest> {
        let request =
            self.request(endpoint, Method::GET, &format!("/manifests/{name}")).header(ACCEPT, MANIFEST_ACCEPT);
        let response = self.transport.send(endpoint, &request).await?;
        if response.status() != StatusCode::OK {
            return Err(transport::refused(&Method::GET, response).await);
        }
        let url = response.url().clone();
        let declared =
            header(&response, &CONTENT_TYPE).map(|text| text.split(';').next().unwrap_or(&text).trim().to_owned());
        let promised = header(&response, &HeaderName::from_static("docker-content-digest"));
        let raw = transport::bounded(response, MANIFEST_BYTES_MAX).await?.to_vec();
        // Some registries serve manifests as application/json or octets: then the document itself says what it is.
        let declared = declared.filter(|declared| media::is_manifest(declared) || media::is_index(declared));
        let expected = digest.or_else(|| promised.and_then(|text| text.parse().ok()));
        let algorithm = expected.map_or(oci::digest::Algorithm::Sha256, |expected| expected.algorithm());
        let found = Digest::of(algorithm, &raw);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let host = super::error::host(&url);
            return Err(Error::Digest { host, digest: expected.to_string(), found: found.to_string() });
        }
        let declared = declared.as_deref();
        Manifest::parse_with(raw, declared, digest.map_or(oci::digest::Algorithm::Sha256, |digest| digest.algorithm()))
            .map_err(|error| Error::protocol(&url, &format!("sent a manifest that is not valid: {error}")))
    }

    /// What the registry itself has under a name: digest and size, `None` when nothing.
    pub async fn head_manifest(&self, name: &str) -> Result<Option<(Option<Digest>, u64)>> {
        let request =
            self.request(&self.target, Method::HEAD, &format!("/manifests/{name}")).header(ACCEPT, MANIFEST_ACCEPT);
        let response = self.transport.send(&self.target, &request).await?;
        match response.status() {
            StatusCode::OK => {
                let digest = header(&response, &HeaderName::from_static("docker-content-digest"));
                let size = header(&response, &CONTENT_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
                Ok(Some((digest.and_then(|text| text.parse().ok()), size)))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(transport::refused(&Method::HEAD, response).await),
        }
    }

    /// What a tag means at the first source that may say so: the digest that it tells, or that of the manifest it sends.
    pub async fn resolve(&self, tag: &str) -> Result<Digest> {
        let mut last = None;
        for endpoint in self.sources.iter().filter(|endpoint| endpoint.resolves_tags) {
            match self.resolve_at(endpoint, tag).await {
                Ok(digest) => return Ok(digest),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Url {
            url: format!("{}/{}", self.registry, self.name),
            reason: "no source may resolve tags".to_owned(),
        }))
    }

    async fn resolve_at(&self, endpoint: &Endpoint, tag: &str) -> Result<Digest> {
        let request =
            self.request(endpoint, Method::HEAD, &format!("/manifests/{tag}")).header(ACCEPT, MANIFEST_ACCEPT);
        let response = self.transport.send(endpoint, &request).await?;
        let told = header(&response, &HeaderName::from_static("docker-content-digest"));
        match (response.status(), told.and_then(|text| text.parse().ok())) {
            (StatusCode::OK, Some(digest)) => Ok(digest),
            (StatusCode::OK, None) => Ok(*self.manifest_from(endpoint, tag, None).await?.digest()),
            // An answer to HEAD has no body to say why.
            _ => Err(transport::refused(&Method::HEAD, response).await),
        }
    }

    /// Asks one source for bytes `first..=last` of a blob of `size` bytes (everything when `None`). The answer begins at the
    /// returned offset: a source that ignores ranges begins at 0.
    pub async fn blob(
        &self,
        endpoint: &Endpoint,
        blob: &Descriptor,
        range: Option<(u64, u64)>,
    ) -> Result<(Response, u64)> {
        let mut request = self.request(endpoint, Method::GET, &format!("/blobs/{}", blob.digest));
        request = request.header(ACCEPT_ENCODING, "identity");
        if let Some((first, last)) = range {
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        let response = self.transport.send(endpoint, &request).await?;
        judge_blob(response, blob.size, range).await
    }

    /// Asks a foreign URL of a descriptor, without credentials.
    pub async fn foreign(&self, url: &str, blob: &Descriptor, range: Option<(u64, u64)>) -> Result<(Response, u64)> {
        let mut headers = vec![(ACCEPT_ENCODING, "identity".to_owned())];
        headers.extend(range.map(|(first, last)| (RANGE, format!("bytes={first}-{last}"))));
        let response = self.transport.send_foreign(url, &headers).await?;
        judge_blob(response, blob.size, range).await
    }

    /// Fetches a small blob (a config, a signature's payload) of at most `max` bytes and verifies it.
    pub async fn small_blob(&self, blob: &Descriptor, max: u64) -> Result<Bytes> {
        let mut last = None;
        for endpoint in &self.sources {
            let answer = match self.blob(endpoint, blob, None).await {
                Ok((response, _)) => {
                    let host = super::error::host(response.url());
                    transport::bounded(response, max.min(blob.size)).await.map(|bytes| (host, bytes))
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok((_, bytes)) if blob.digest.matches(&bytes) => return Ok(bytes),
                Ok((host, bytes)) => {
                    let found = Digest::of(blob.digest.algorithm(), &bytes).to_string();
                    last = Some(Error::Digest { host, digest: blob.digest.to_string(), found });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Url { url: self.name.clone(), reason: "it has no source".to_owned() }))
    }

    /// The size of a blob at the registry itself, `None` when it is not there.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let request = self.request(&self.target, Method::HEAD, &format!("/blobs/{digest}"));
        let response = self.transport.send(&self.target, &request).await?;
        match response.status() {
            StatusCode::OK => Ok(header(&response, &CONTENT_LENGTH).and_then(|text| text.parse().ok()).or(Some(0))),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(transport::refused(&Method::HEAD, response).await),
        }
    }

    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>> {
        let target = &self.sources.last().unwrap_or(&self.target).clone();
        let mut tags = Vec::new();
        let mut next = Some(format!("/{}/tags/list?n=1000", target.repository));
        for page in 0.. {
            let Some(path) = next.take() else { break };
            let request = Request::new(Method::GET, path, self.scopes(target));
            let response = self.transport.send(target, &request).await?;
            if response.status() != StatusCode::OK {
                return Err(transport::refused(&Method::GET, response).await);
            }
            let url = response.url().clone();
            next = next_page(&response, target);
            let body = transport::bounded(response, LIST_BYTES_MAX).await?;
            let document: serde_json::Value =
                serde_json::from_slice(&body).map_err(|_| Error::protocol(&url, "sent a tag list that is not JSON"))?;
            let names = document.get("tags").and_then(serde_json::Value::as_array);
            let names = names.into_iter().flatten().filter_map(serde_json::Value::as_str);
            // What is no tag cannot be asked for.
            tags.extend(names.filter(|tag| oci::reference::is_tag(tag)).map(str::to_owned));
            // Part of a list would be taken for the whole.
            if tags.len() > TAGS_MAX || page >= PAGES_MAX {
                return Err(Error::protocol(&url, &format!("lists more than {TAGS_MAX} tags or {PAGES_MAX} pages")));
            }
        }
        Ok(tags)
    }

    /// The manifests that name `subject`; asks the referrers API, then the fallback tag of the specification.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let target = self.sources.last().unwrap_or(&self.target);
        let (mut all, mut bytes) = (Vec::new(), 0);
        let mut next = Some(format!("/{}/referrers/{subject}", target.repository));
        for page in 0.. {
            let Some(path) = next.take() else { break };
            let request = Request::new(Method::GET, path, self.scopes(target)).header(ACCEPT, media::OCI_INDEX);
            let response = self.transport.send(target, &request).await?;
            let is_index = header(&response, &CONTENT_TYPE).is_some_and(|kind| kind.starts_with(media::OCI_INDEX));
            if response.status() != StatusCode::OK || !is_index {
                return self.referrers_by_tag(subject).await;
            }
            let url = response.url().clone();
            next = next_page(&response, target);
            let raw = transport::bounded(response, MANIFEST_BYTES_MAX).await?.to_vec();
            bytes += raw.len();
            let index = Manifest::parse(raw, Some(media::OCI_INDEX))
                .map_err(|error| Error::protocol(&url, &format!("sent a referrers list that is not valid: {error}")))?;
            all.extend(index.children().cloned());
            if all.len() > REFERRERS_MAX || bytes > REFERRERS_BYTES_MAX || page >= PAGES_MAX {
                let reason =
                    format!("lists more than {REFERRERS_MAX} manifests or {REFERRERS_BYTES_MAX} bytes of them");
                return Err(Error::protocol(&url, &reason));
            }
        }
        Ok(all)
    }

    async fn referrers_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        match self.manifest(&fallback_tag(subject)).await {
            Ok(index) => Ok(index.index().map(|index| index.manifests.clone()).unwrap_or_default()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    // Writing -------------------------------------------------------------------------------------------------------------

    /// Brings a blob to the registry: skips what is there, goes on with the upload that an earlier process left at
    /// `begun`, mounts from `mount_from`, else uploads. `watch` is told how far it is.
    pub async fn push_blob(
        &self,
        blob: &Descriptor,
        file: Arc<File>,
        begun: Option<&str>,
        mount_from: &[String],
        watch: &dyn Watch,
    ) -> Result<Uploaded> {
        if self.blob_size(&blob.digest).await?.is_some() {
            return Ok(Uploaded::Existed);
        }
        if let Some(begun) = begun {
            // A registry that forgot the upload, or that is not where it was, gets a new one.
            if let Ok(Some((place, offset))) = self.upload_status(begun).await
                && (1..=blob.size).contains(&offset)
            {
                watch.sent(offset);
                self.upload(blob, &file, place, offset, watch).await?;
                return Ok(Uploaded::Sent);
            }
        }
        for from in mount_from.iter().filter(|from| **from != self.name) {
            let mut request = self.request(
                &self.target,
                Method::POST,
                &format!("/blobs/uploads/?mount={}&from={}", encode(&blob.digest.to_string()), encode(from)),
            );
            request.scopes.push(format!("repository:{from}:pull"));
            // A token service may refuse what we know only by name: then the bytes are sent.
            let Ok(response) = self.transport.send(&self.target, &request).await else { continue };
            match response.status() {
                StatusCode::CREATED => return Ok(Uploaded::Mounted),
                StatusCode::ACCEPTED => {
                    let location = location(&response, &self.target)?;
                    self.upload(blob, &file, location, 0, watch).await?;
                    return Ok(Uploaded::Sent);
                }
                // A registry without mounts, or one that does not let us read there.
                _ => {}
            }
        }
        let location = self.start_upload().await?;
        self.upload(blob, &file, location, 0, watch).await?;
        Ok(Uploaded::Sent)
    }

    /// Mounts a blob from another repository of the same registry; `false` when the registry does not do it.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool> {
        let place = format!("/blobs/uploads/?mount={}&from={}", encode(&digest.to_string()), encode(from));
        let mut request = self.request(&self.target, Method::POST, &place);
        request.scopes.push(format!("repository:{from}:pull"));
        let response = self.transport.send(&self.target, &request).await?;
        if response.status() == StatusCode::ACCEPTED
            && let Ok(begun) = location(&response, &self.target)
        {
            // An upload was begun instead, which nobody will go on with. One that stays is the registry's to sweep.
            let cancel = self.upload_request(Method::DELETE, begun);
            let _ = self.transport.send(&self.target, &cancel).await;
        }
        Ok(response.status() == StatusCode::CREATED)
    }

    async fn start_upload(&self) -> Result<String> {
        let request = self.request(&self.target, Method::POST, "/blobs/uploads/");
        let response = self.transport.send(&self.target, &request).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(transport::refused(&Method::POST, response).await);
        }
        location(&response, &self.target)
    }

    async fn upload(
        &self,
        blob: &Descriptor,
        file: &Arc<File>,
        first: String,
        from: u64,
        watch: &dyn Watch,
    ) -> Result<()> {
        let mut place = first;
        let mut offset = from;
        let mut failures = 0;
        loop {
            watch.moves_to(&place);
            let outcome = if blob.size - offset <= CHUNK_BYTES {
                self.finish_upload(blob, file, &place, offset).await.map(|()| None)
            } else {
                self.send_chunk(blob, file, &place, offset).await.map(Some)
            };
            match outcome {
                Ok(None) => {
                    watch.sent(blob.size);
                    return Ok(());
                }
                Ok(Some((next, at))) => {
                    if at > offset {
                        failures = 0;
                    }
                    (place, offset) = (next, at);
                    watch.sent(offset);
                }
                Err(error) => {
                    failures += 1;
                    let resumable = error.is_transient()
                        || is_out_of_order(&error)
                        || matches!(&error, Error::Status { status: StatusCode::NOT_FOUND, .. });
                    if !resumable || failures >= fetch::ATTEMPTS_MAX {
                        return Err(error);
                    }
                    tokio::time::sleep(fetch::pause(failures, transport::random(), None).unwrap_or_default()).await;
                    // The finishing request may have been carried out although its answer was lost.
                    if self.blob_size(&blob.digest).await?.is_some() {
                        watch.sent(blob.size);
                        return Ok(());
                    }
                    // `0-0` may be one byte: a start at 0 that was refused for its order is told from it by a new upload.
                    let refused = offset == 0 && is_out_of_order(&error);
                    (place, offset) = match self.upload_status(&place).await? {
                        Some((place, at)) if at <= blob.size && !(refused && at == 0) => (place, at),
                        _ => (self.start_upload().await?, 0),
                    };
                    watch.sent(offset);
                }
            }
        }
    }

    async fn send_chunk(&self, blob: &Descriptor, file: &Arc<File>, place: &str, offset: u64) -> Result<(String, u64)> {
        let length = CHUNK_BYTES.min(blob.size - offset);
        let body = Body::File { file: Arc::clone(file), offset, length };
        let request = self
            .upload_request(Method::PATCH, place.to_owned())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_RANGE, format!("{offset}-{}", offset + length - 1))
            .body(body);
        let response = self.transport.send(&self.target, &request).await?;
        if !matches!(response.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
            return Err(transport::refused(&Method::PATCH, response).await);
        }
        Ok((location(&response, &self.target)?, offset + length))
    }

    async fn finish_upload(&self, blob: &Descriptor, file: &Arc<File>, place: &str, offset: u64) -> Result<()> {
        let length = blob.size - offset;
        let joint = if place.contains('?') { '&' } else { '?' };
        let target = format!("{place}{joint}digest={}", encode(&blob.digest.to_string()));
        let mut request = self.upload_request(Method::PUT, target).header(CONTENT_TYPE, "application/octet-stream");
        if length > 0 {
            if offset > 0 {
                request = request.header(CONTENT_RANGE, format!("{offset}-{}", blob.size - 1));
            }
            request = request.body(Body::File { file: Arc::clone(file), offset, length });
        }
        let response = self.transport.send(&self.target, &request).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK => Ok(()),
            _ => Err(transport::refused(&Method::PUT, response).await),
        }
    }

    async fn upload_status(&self, place: &str) -> Result<Option<(String, u64)>> {
        let request = self.upload_request(Method::GET, place.to_owned());
        let response = self.transport.send(&self.target, &request).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let range = header(&response, &RANGE).unwrap_or_default();
        let last = range.trim_start_matches("bytes=").split_once('-').and_then(|(_, last)| last.parse::<u64>().ok());
        // `0-0` is what registries say for nothing; one byte sent twice would be refused, so begin at 0 and learn.
        let offset = last.filter(|last| *last > 0).map_or(0, |last| last + 1);
        Ok(Some((location(&response, &self.target).unwrap_or_else(|_| place.to_owned()), offset)))
    }

    fn upload_request(&self, method: Method, target: String) -> Request {
        Request::new(method, target, self.scopes(&self.target))
    }

    /// Puts a manifest under a tag or its digest. Returns whether the registry keeps referrers itself (`OCI-Subject`).
    pub async fn push_manifest(&self, name: &str, manifest: &Manifest) -> Result<bool> {
        let request = self
            .request(&self.target, Method::PUT, &format!("/manifests/{name}"))
            .header(CONTENT_TYPE, manifest.media_type())
            .body(Body::Bytes(Bytes::copy_from_slice(manifest.raw())));
        let response = self.transport.send(&self.target, &request).await?;
        if !matches!(response.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED) {
            return Err(transport::refused(&Method::PUT, response).await);
        }
        Ok(response.headers().contains_key("oci-subject"))
    }

    /// Adds a referrer to the fallback tag's index, for registries without the referrers API.
    pub async fn add_fallback_referrer(&self, subject: &Digest, referrer: Descriptor) -> Result<()> {
        let mut all = self.referrers_by_tag(subject).await?;
        if all.iter().any(|known| known.digest == referrer.digest) {
            return Ok(());
        }
        all.push(referrer);
        let index = oci::manifest::ImageIndex::new(all);
        let raw = serde_json::to_vec(&index).expect("an index is always written");
        let manifest = Manifest::parse(raw, Some(media::OCI_INDEX)).expect("an index we wrote is valid");
        self.push_manifest(&fallback_tag(subject), &manifest).await.map(drop)
    }

    /// Asks the registry's `/v2/` whether the credentials are right (`login`).
    pub async fn ping(&self) -> Result<()> {
        let request = Request::new(Method::GET, "/", Vec::new());
        let response = self.transport.send(&self.target, &request).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(transport::refused(&Method::GET, response).await)
    }
}

/// The tag under which referrers are kept where the API is missing (distribution-spec "Referrers Tag Schema": "the digest from
/// the subject field (limit of 64 characters)").
#[must_use]
pub fn fallback_tag(subject: &Digest) -> String {
    let hex = subject.hex();
    format!("{}-{}", subject.algorithm().name(), &hex[..hex.len().min(64)])
}

fn is_out_of_order(error: &Error) -> bool {
    matches!(error, Error::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. })
}

async fn judge_blob(response: Response, size: u64, range: Option<(u64, u64)>) -> Result<(Response, u64)> {
    let url = response.url().clone();
    let length = header(&response, &CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    match response.status() {
        StatusCode::OK => {
            if let Some(length) = length.filter(|length| *length != size) {
                return Err(Error::protocol(&url, &format!("offers {length} bytes for a blob of {size} bytes")));
            }
            Ok((response, 0))
        }
        StatusCode::PARTIAL_CONTENT => {
            let (first, last) = range.unwrap_or_else(|| (0, size.saturating_sub(1)));
            let got = header(&response, &CONTENT_RANGE).and_then(|text| fetch::content_range(&text));
            match got {
                Some((a, b, total)) if a == first && b <= last && total.is_none_or(|total| total == size) => {
                    Ok((response, a))
                }
                _ => Err(Error::protocol(
                    &url,
                    &format!("answered a request for bytes {first}-{last} of {size} with another range"),
                )),
            }
        }
        _ => Err(transport::refused(&Method::GET, response).await),
    }
}

fn location(response: &Response, endpoint: &Endpoint) -> Result<String> {
    let url = response.url();
    let text = header(response, &LOCATION).ok_or_else(|| Error::protocol(url, "began an upload without a Location"))?;
    let next = url.join(&text).map_err(|_| Error::protocol(url, "names an upload Location that is not a URL"))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        // A proxy that ends TLS often makes its registry write http: the host is the same, so stay on TLS.
        let same = next.host_str() == url.host_str();
        let mut fixed = next.clone();
        if same && fixed.set_scheme("https").is_ok() {
            let _ = fixed.set_port(url.port());
            return Ok(fixed.to_string());
        }
        return Err(Error::protocol(url, "moves an upload from https to plain http, which is refused"));
    }
    let _ = endpoint;
    Ok(next.to_string())
}

/// The next page of a list, as a path below the endpoint's base; a link to another host is not followed.
fn next_page(response: &Response, endpoint: &Endpoint) -> Option<String> {
    let link = header(response, &LINK)?;
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.replace(' ', "").contains("rel=\"next\"") && !rest.replace(' ', "").contains("rel=next") {
        return None;
    }
    let next = response.url().join(target).ok()?.to_string();
    next.strip_prefix(&endpoint.base).map(str::to_owned)
}

fn header(response: &Response, name: &HeaderName) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
