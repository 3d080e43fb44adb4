//! A blob's bytes on their way in: started, continued, finished, or mounted from another repository.

use super::body::Pace;
use super::reply::{Answer, Reply, created, set, status, text, value};
use super::{Registry, UPLOAD_ID};
use crate::registry::error::{Code, Refusal};
use crate::registry::route;
use crate::registry::upload::{self, Upload};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, StatusCode};
use hyper::body::Body;
use oci::digest::Digest;

impl Registry {
    pub(super) async fn start_upload<B>(
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

    pub(super) async fn patch_upload<B>(
        &self,
        repository: &str,
        upload: &mut Upload,
        headers: &HeaderMap,
        body: B,
    ) -> Reply
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        check_order(repository, upload, headers)?;
        self.receive(upload, headers, body).await?;
        Ok(upload_answer(StatusCode::ACCEPTED, repository, upload))
    }

    pub(super) async fn finish_upload<B>(
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

    pub(super) async fn complete(&self, repository: &str, upload: &mut Upload, digest: &Digest) -> Reply {
        let outcome = self.off(|| upload.finish(&self.shelf, repository, digest)).await;
        self.uploads.forget(&upload.id);
        outcome?;
        Ok(created(&format!("/v2/{repository}/blobs/{digest}"), digest))
    }

    /// Appends a body to an upload. What arrived before a connection broke stays: the client asks for the status and goes on.
    pub(super) async fn receive<B>(&self, upload: &mut Upload, headers: &HeaderMap, mut body: B) -> Result<(), Refusal>
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

/// Where an upload stands.
pub(super) fn upload_answer(code: StatusCode, repository: &str, upload: &Upload) -> Answer {
    let mut answer = status(code);
    set(answer.headers_mut(), LOCATION, &upload::location(repository, &upload.id));
    set(answer.headers_mut(), RANGE, &upload::range(upload.offset()));
    set(answer.headers_mut(), UPLOAD_ID, &upload.id);
    answer
}
