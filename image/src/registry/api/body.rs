//! A body as it arrives: piece by piece, in time, and no longer than it may be.

use super::Registry;
use super::reply::text;
use crate::registry::error::{Code, Refusal};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use oci::manifest::MANIFEST_BYTES_MAX;
use std::time::Duration;

/// How long a client may be silent within a body: what it sent stays, and it can go on with the upload.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes a second that a body must bring over each [`SILENCE_MAX`]: less than any line that can carry an image.
const RATE_MIN: u64 = 256;

/// How fast a body comes, counted over the time that was spent waiting for it.
#[derive(Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Registry {
    /// The next piece of a body, which must come in time.
    pub(super) async fn next_frame<B>(
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
            let least = u64::try_from(pace.waited.as_millis()).unwrap_or(u64::MAX).saturating_mul(RATE_MIN) / 1000;
            // The end of a body is never late.
            if frame.is_some() && pace.bytes < least {
                return Err(late("next to nothing"));
            }
            *pace = Pace::default();
        }
        Ok(frame)
    }

    /// A manifest's bytes, no more than one may have.
    pub(super) async fn bounded<B>(&self, mut body: B, headers: &HeaderMap) -> Result<Vec<u8>, Refusal>
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
}
