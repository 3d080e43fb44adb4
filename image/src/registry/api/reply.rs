//! The forms that answers have in common.

use super::DIGEST;
use crate::registry::error::{Code, Refusal};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK, LOCATION};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use oci::digest::Digest;
use std::io;

/// What is sent back.
pub type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// An answer, or why there is none.
pub(super) type Reply = Result<Answer, Refusal>;

pub(super) fn refuse(refusal: &Refusal) -> Answer {
    let mut answer = json(refusal.status, refusal.body());
    for (name, text) in &refusal.headers {
        set(answer.headers_mut(), name.clone(), text);
    }
    answer
}

pub(super) fn created(location: &str, digest: &Digest) -> Answer {
    let mut answer = status(StatusCode::CREATED);
    set(answer.headers_mut(), LOCATION, location);
    set(answer.headers_mut(), DIGEST, &digest.to_string());
    answer
}

pub(super) fn accepted() -> Reply {
    Ok(status(StatusCode::ACCEPTED))
}

pub(super) fn blob_unknown() -> Refusal {
    Refusal::new(Code::BlobUnknown, "no such blob in this repository")
}

pub(super) fn status(code: StatusCode) -> Answer {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = code;
    answer
}

pub(super) fn json(code: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = status(code);
    set(answer.headers_mut(), CONTENT_TYPE, "application/json");
    set(answer.headers_mut(), CONTENT_LENGTH, &body.len().to_string());
    *answer.body_mut() = full(body.into());
    answer
}

pub(super) fn with_link(mut answer: Answer, next: Option<String>) -> Answer {
    if let Some(next) = next {
        set(answer.headers_mut(), LINK, &format!("<{next}>; rel=\"next\""));
    }
    answer
}

pub(super) fn document(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

pub(super) fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    // Everything written here is a digest, a number, a checked name or a media type from a parsed manifest.
    if let Ok(value) = text.parse() {
        headers.insert(name, value);
    }
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}
