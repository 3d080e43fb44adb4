//! Answers: JSON, text, streams, and RFC 9457 problems.

use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use std::convert::Infallible;

/// The body of every answer.
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// An error as RFC 9457 "Problem Details" has it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: u16, title: &'static str, detail: impl Into<String>) -> Self {
        Self { kind: "about:blank", title, status, detail: detail.into(), instance: None }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "bad request", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "not found", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "conflict", detail)
    }

    pub(crate) fn ending() -> Self {
        Self::new(503, "the node is ending", "the node is ending; ask another one")
    }

    pub(crate) fn response(mut self, id: &str) -> Response<Body> {
        self.instance = Some(format!("urn:shoal:request:{id}"));
        let bytes = serde_json::to_vec(&self).expect("plain data has a JSON form");
        build(self.status, "application/problem+json", bytes)
    }
}

impl From<p2p::mesh::Error> for Problem {
    fn from(error: p2p::mesh::Error) -> Self {
        use p2p::mesh::Error;
        let detail = error.to_string();
        match error {
            Error::Stopped => Self::ending(),
            Error::Refused { .. } | Error::Token { .. } => Self::new(422, "refused", detail),
            Error::Changed { .. } => Self::conflict(detail),
            Error::Node { .. } | Error::NoConflict(_) => Self::not_found(detail),
            Error::Call { .. } => Self::new(502, "a peer did not answer", detail),
            Error::Disk { .. } | Error::Start(_) => Self::new(500, "failed", detail),
        }
    }
}

/// An answer with JSON.
pub(crate) fn json(status: u16, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("plain data has a JSON form");
    build(status, "application/json", bytes)
}

/// An answer with bytes of some type.
pub(crate) fn build(status: u16, kind: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let body = Full::new(Bytes::from(bytes)).boxed_unsync();
    let response = Response::builder().status(status).header("content-type", kind);
    response.body(body).expect("constant parts make a response")
}

/// An answer that goes on: server-sent events.
pub(crate) fn events(stream: impl futures::Stream<Item = String> + Send + 'static) -> Response<Body> {
    use futures::StreamExt;
    let frames = stream.map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
    let body = StreamBody::new(frames).boxed_unsync();
    let response = Response::builder().status(200).header("content-type", "text/event-stream");
    response.header("cache-control", "no-store").body(body).expect("constant parts make a response")
}
