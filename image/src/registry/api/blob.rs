//! A blob's bytes on their way out: whole, a range of them, or their head alone.

use super::reply::{Reply, blob_unknown, set, status, text};
use super::{DIGEST, Registry};
use crate::registry::error::{Code, Refusal};
use crate::registry::route::{self, Range};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, RANGE,
};
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use oci::digest::Digest;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Bytes read from disk at once when a blob is sent: large reads, small enough that a thousand clients fit in memory.
const READ_BYTES: usize = 256 << 10;

impl Registry {
    pub(super) fn blob(&self, repository: &str, digest: &Digest, headers: &HeaderMap, head: bool) -> Reply {
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
