//! Which operation a request names: method and path in, [`Route`] or a refusal out. Pure.
//!
//! distribution-spec "Endpoints" end-1 to end-13, and docker's catalog. Names may hold words like `blobs` or `tags`, so a
//! path is read from its end.

use super::error::{Code, Refusal};
use http::Method;
use oci::digest::Digest;

/// Bytes of a repository name. Docker's and the specification's common limit with a host name added.
const NAME_MAX: usize = 255;
/// Bytes of a tag (distribution-spec "Pulling manifests").
const TAG_MAX: usize = 128;
/// Bytes of a path or query that are looked at.
const PATH_MAX: usize = 4096;

/// A tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

/// One operation on a resource; the method is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags {
        /// The repository.
        repository: String,
    },
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest {
        /// The repository.
        repository: String,
        /// Tag or digest.
        name: Name,
    },
    /// `/v2/NAME/blobs/DIGEST`
    Blob {
        /// The repository.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// `/v2/NAME/blobs/uploads/`
    Uploads {
        /// The repository.
        repository: String,
    },
    /// `/v2/NAME/blobs/uploads/ID`
    Upload {
        /// The repository.
        repository: String,
        /// The session.
        id: String,
    },
    /// `/v2/NAME/referrers/DIGEST`
    Referrers {
        /// The repository.
        repository: String,
        /// The subject.
        digest: Digest,
    },
}

impl Route {
    /// The methods this resource answers to.
    #[must_use]
    pub fn methods(&self) -> &'static [Method] {
        match self {
            Self::Base | Self::Catalog | Self::Tags { .. } | Self::Referrers { .. } => &[Method::GET, Method::HEAD],
            Self::Manifest { .. } => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Blob { .. } => &[Method::GET, Method::HEAD, Method::DELETE],
            Self::Uploads { .. } => &[Method::POST],
            Self::Upload { .. } => &[Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE],
        }
    }
}

/// Reads a path (undecoded, without query).
pub fn parse(method: &Method, path: &str) -> Result<Route, Refusal> {
    let route = resource(path).map_err(|refusal| match *method {
        // distribution-spec "Pulling manifests": "If the manifest is not found in the registry, the response code MUST be
        // 404 Not Found". A name that no tag can have is not found, either.
        Method::GET | Method::HEAD | Method::DELETE if refusal.code == Code::TagInvalid => {
            Refusal::new(Code::ManifestUnknown, "no manifest can have this tag")
        }
        _ => refusal,
    })?;
    if route.methods().contains(method) {
        return Ok(route);
    }
    let allow = route.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    Err(Refusal::new(Code::Unsupported, format!("{method} is not offered here")).header(http::header::ALLOW, allow))
}

fn resource(path: &str) -> Result<Route, Refusal> {
    let nowhere = || Refusal::new(Code::Unsupported, "no such endpoint").status(http::StatusCode::NOT_FOUND);
    if path.len() > PATH_MAX {
        return Err(Refusal::new(Code::NameInvalid, "the path is too long"));
    }
    let decoded = percent_decode(path).ok_or_else(|| Refusal::new(Code::NameInvalid, "the path is not UTF-8"))?;
    if decoded == "/v2" || decoded == "/v2/" {
        return Ok(Route::Base);
    }
    let rest = decoded.strip_prefix("/v2/").ok_or_else(nowhere)?;
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    let (front, last) = rest.rsplit_once('/').ok_or_else(nowhere)?;
    let (before, kind) = front.rsplit_once('/').unwrap_or(("", front));
    match kind {
        // `NAME/blobs/uploads/ID`; `ID` may be empty.
        "uploads" if before.ends_with("/blobs") => {
            let repository = name(&before[..before.len() - "/blobs".len()])?;
            Ok(match last {
                "" => Route::Uploads { repository },
                id => Route::Upload { repository, id: id.to_owned() },
            })
        }
        "tags" if last == "list" => Ok(Route::Tags { repository: name(before)? }),
        "manifests" => {
            let repository = name(before)?;
            Ok(Route::Manifest { repository, name: reference(last)? })
        }
        // `POST NAME/blobs/uploads` without the slash is what some clients send.
        "blobs" if last == "uploads" => Ok(Route::Uploads { repository: name(before)? }),
        "blobs" => Ok(Route::Blob { repository: name(before)?, digest: digest(last)? }),
        "referrers" => Ok(Route::Referrers { repository: name(before)?, digest: digest(last)? }),
        _ => Err(nowhere()),
    }
}

/// Checks a repository name: distribution-spec
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
pub fn name(text: &str) -> Result<String, Refusal> {
    let refuse = |why: &str| Refusal::new(Code::NameInvalid, format!("the repository name {why}"));
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(refuse("must have 1 to 255 bytes"));
    }
    if text.split('/').all(is_component) {
        return Ok(text.to_owned());
    }
    Err(refuse("must be lower-case letters and digits, joined by one of . _ __ or dashes, in parts separated by /"))
}

fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let word = bytes[at..].iter().take_while(|b| alnum(**b)).count();
        if word == 0 {
            return false;
        }
        at += word;
        if at == bytes.len() {
            return true;
        }
        let separator = bytes[at..].iter().take_while(|b| !alnum(**b)).count();
        let joined = &bytes[at..at + separator];
        if !(matches!(joined, b"." | b"_" | b"__") || joined.iter().all(|b| *b == b'-')) {
            return false;
        }
        at += separator;
    }
}

/// Checks a tag.
pub fn tag(text: &str) -> Result<String, Refusal> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && text.len() <= TAG_MAX && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Ok(text.to_owned());
    }
    Err(Refusal::new(Code::TagInvalid, "a tag is 1 to 128 letters, digits, dots, dashes and underscores"))
}

/// Checks a digest.
pub fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: oci::digest::DigestError| Refusal::new(Code::DigestInvalid, error.to_string()))
}

fn reference(text: &str) -> Result<Name, Refusal> {
    if text.contains(':') { digest(text).map(Name::Digest) } else { tag(text).map(Name::Tag) }
}

/// The parameters of a query, decoded, in order.
#[must_use]
pub fn query(text: Option<&str>) -> Vec<(String, String)> {
    let text = text.filter(|text| text.len() <= PATH_MAX).unwrap_or_default();
    url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()
}

/// A parsed request for bytes of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// No byte of it exists.
    Unsatisfiable,
}

/// Reads a `Range` header against a size (RFC 9110 section 14.2: a header that is not understood, or asks for several ranges, is ignored).
#[must_use]
pub fn range(header: Option<&str>, size: u64) -> Range {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Range::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Range::Whole };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().unwrap_or(u64::MAX));
    match (first.is_empty(), last.is_empty(), number(first), number(last)) {
        (false, true, Some(first), _) if first < size => Range::Part(first, size - 1),
        (false, false, Some(first), Some(last)) if first <= last && first < size => {
            Range::Part(first, last.min(size - 1))
        }
        (true, false, _, Some(tail)) if tail > 0 && size > 0 => Range::Part(size.saturating_sub(tail), size - 1),
        (false, false, Some(first), Some(last)) if first > last => Range::Whole,
        (true, true, ..) | (_, _, None, _) | (_, _, _, None) => Range::Whole,
        _ => Range::Unsatisfiable,
    }
}

/// Reads an upload's `Content-Range: FIRST-LAST` (distribution-spec "Pushing a blob in chunks"; the RFC form is understood too).
#[must_use]
pub fn chunk_range(text: &str) -> Option<(u64, u64)> {
    let text = text.trim();
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split('/').next().unwrap_or(text);
    let (first, last) = text.split_once('-')?;
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    let (first, last) = (first.parse().ok()?, last.parse::<u64>().ok()?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok())?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(path: &str) -> Result<Route, Refusal> {
        parse(&Method::GET, path)
    }

    #[test]
    fn every_endpoint_is_found() {
        let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
        assert_eq!(get("/v2/").unwrap(), Route::Base);
        assert_eq!(get("/v2").unwrap(), Route::Base);
        assert_eq!(get("/v2/_catalog").unwrap(), Route::Catalog);
        assert_eq!(get("/v2/a/b/tags/list").unwrap(), Route::Tags { repository: "a/b".into() });
        let manifest = Route::Manifest { repository: "a".into(), name: Name::Tag("v1.0_x-Y".into()) };
        assert_eq!(get("/v2/a/manifests/v1.0_x-Y").unwrap(), manifest);
        let blob = Route::Blob { repository: "a".into(), digest };
        assert_eq!(get(&format!("/v2/a/blobs/sha256:{HEX}")).unwrap(), blob);
        assert_eq!(get(&format!("/v2/a/blobs/sha256%3A{HEX}")).unwrap(), blob);
        assert_eq!(
            get(&format!("/v2/a/b/referrers/sha256:{HEX}")).unwrap(),
            Route::Referrers { repository: "a/b".into(), digest }
        );
        let post = |path| parse(&Method::POST, path).unwrap();
        assert_eq!(post("/v2/a/b/blobs/uploads/"), Route::Uploads { repository: "a/b".into() });
        assert_eq!(post("/v2/a/b/blobs/uploads"), Route::Uploads { repository: "a/b".into() });
        let upload = Route::Upload { repository: "a".into(), id: "1".into() };
        assert_eq!(parse(&Method::PATCH, "/v2/a/blobs/uploads/1").unwrap(), upload);
    }

    #[test]
    fn names_may_hold_the_words_of_the_api() {
        let route = get("/v2/blobs/uploads/manifests/tags/manifests/list").unwrap();
        assert_eq!(
            route,
            Route::Manifest { repository: "blobs/uploads/manifests/tags".into(), name: Name::Tag("list".into()) }
        );
    }

    #[test]
    fn bad_names_tags_digests_and_methods_have_their_codes() {
        for (path, code) in [
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2/../x/tags/list", Code::NameInvalid),
            ("/v2/a//b/tags/list", Code::NameInvalid),
            ("/v2/_x/tags/list", Code::NameInvalid),
            ("/v2/a.._b/tags/list", Code::NameInvalid),
            ("/v2/a%2F..%2Fb/tags/list", Code::NameInvalid),
            ("/v2/a/manifests/-x", Code::ManifestUnknown),
            ("/v2/a/manifests/sha256:zz", Code::DigestInvalid),
            ("/v2/a/manifests/md5:00", Code::DigestInvalid),
            ("/v2/a/blobs/latest", Code::DigestInvalid),
            ("/v2/a/frobs/x", Code::Unsupported),
            ("/v1/_ping", Code::Unsupported),
        ] {
            assert_eq!(get(path).unwrap_err().code, code, "{path}");
        }
        assert_eq!(parse(&Method::PUT, "/v2/a/manifests/-x").unwrap_err().code, Code::TagInvalid);
        let refusal = parse(&Method::POST, "/v2/a/manifests/x").unwrap_err();
        assert_eq!((refusal.code, refusal.status.as_u16()), (Code::Unsupported, 405));
        assert_eq!(get("/v2/a__b/c--d/e.f/tags/list").unwrap(), Route::Tags { repository: "a__b/c--d/e.f".into() });
    }

    #[test]
    fn ranges_follow_the_rfc() {
        for (header, size, want) in [
            ("bytes=0-0", 10, Range::Part(0, 0)),
            ("bytes=2-", 10, Range::Part(2, 9)),
            ("bytes=-3", 10, Range::Part(7, 9)),
            ("bytes=-30", 10, Range::Part(0, 9)),
            ("bytes=5-99", 10, Range::Part(5, 9)),
            ("bytes=10-", 10, Range::Unsatisfiable),
            ("bytes=-0", 10, Range::Unsatisfiable),
            ("bytes=0-", 0, Range::Unsatisfiable),
            ("bytes=5-4", 10, Range::Whole),
            ("bytes=0-1,3-4", 10, Range::Whole),
            ("lines=0-1", 10, Range::Whole),
            ("bytes=a-", 10, Range::Whole),
            ("bytes=0-99999999999999999999999", 10, Range::Part(0, 9)),
        ] {
            assert_eq!(range(Some(header), size), want, "{header} of {size}");
        }
        assert_eq!(range(None, 10), Range::Whole);
    }

    #[test]
    fn chunk_ranges_are_strict() {
        assert_eq!(chunk_range("0-9"), Some((0, 9)));
        assert_eq!(chunk_range("bytes 5-9/20"), Some((5, 9)));
        for bad in ["", "9-0", "a-b", "-1", "1-", "+1-2", "0--1"] {
            assert_eq!(chunk_range(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_routed_or_refused_without_a_panic(path in "\\PC{0,200}") {
            let _ = get(&path);
            let _ = get(&format!("/v2/{path}"));
            let _ = range(Some(&path), 7);
            let _ = chunk_range(&path);
        }

        #[test]
        fn near_paths_are_routed_or_refused_without_a_panic(path in "(/|v2|blobs|uploads|tags|list|manifests|referrers|a|-|_|\\.|%2F|%|sha256:){0,14}") {
            if let Ok(Route::Manifest { repository, .. } | Route::Tags { repository }) = get(&format!("/v2{path}")) {
                prop_assert!(!repository.contains("..") && !repository.starts_with('/'));
            }
        }

        #[test]
        fn a_range_is_always_inside(first in 0u64..50, last in 0u64..50, size in 0u64..40) {
            for text in [format!("bytes={first}-{last}"), format!("bytes={first}-"), format!("bytes=-{last}")] {
                if let Range::Part(a, b) = range(Some(&text), size) {
                    prop_assert!(a <= b && b < size);
                }
            }
        }
    }
}
