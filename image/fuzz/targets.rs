//! What is fuzzed: bytes of a hostile layer, registry or client, as far as they are read without a network.
//!
//! In: any bytes. Out: a class of outcome (the words of the refusal without its numbers and names), by which a driver
//! without coverage knows something new when it sees it. A target panics when an invariant is broken, and never else.

use std::io::Read as _;
use std::path::Path;

use http::Method;
use image::layer::extract::{Extractor, Options, Whiteouts};
use image::layer::tar::{Entry, Kind, Reader};
use image::layer::{LayerError, compression};
use image::registry::route::{self, Name, Range, Route};
use image::remote::challenge::{self, Challenge};
use oci::manifest::Manifest;
use oci::{Platform, Reference};

/// A fuzz target.
pub(crate) type Target = fn(&[u8]) -> String;

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: [(&str, Target); 6] = [
    ("layer", layer),
    ("unpack", unpack),
    ("reference", reference),
    ("challenge", challenges),
    ("request", request),
    ("manifest", manifest),
];

/// Bytes that a layer of a test may unpack to.
const PLAIN_MAX: u64 = 4 << 20;

/// A layer, compressed or not: refused in words, or entries that stay inside, each within its bounds.
pub(crate) fn layer(bytes: &[u8]) -> String {
    let plain = match plain(bytes) {
        Ok(plain) => plain,
        Err(why) => return class("compression", &why),
    };
    // As it is, and with the check sums that damage would be found by before anything else is read.
    let (raw, summed) = (entries(&plain), entries(&with_sums(plain.clone())));
    format!("{} | {}", raw.1, summed.1)
}

fn plain(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (mut reader, _) = compression::plain(bytes).map_err(|error| error.to_string())?;
    let mut plain = Vec::new();
    reader.by_ref().take(PLAIN_MAX).read_to_end(&mut plain).map_err(|error| error.to_string())?;
    Ok(plain)
}

/// Every entry up to the end or the refusal, and how it ended.
fn entries(plain: &[u8]) -> (Vec<Entry>, String) {
    let mut reader = Reader::new(plain);
    let mut found: Vec<Entry> = Vec::new();
    let end = loop {
        match reader.next_entry() {
            Ok(Some(entry)) => found.push(entry),
            Ok(None) => break "read".to_owned(),
            Err(error) => break class("refused", &error.to_string()),
        }
        check_entry(found.last().expect("it was just pushed"), plain.len() as u64);
        assert!(found.len() <= plain.len() / 512, "more entries than blocks");
    };
    assert!(reader.position() <= plain.len() as u64, "read beyond the end");
    let mut kinds: Vec<String> = found.iter().map(|entry| format!("{:?}", entry.kind)).collect();
    kinds.dedup();
    kinds.truncate(6);
    let sparse = found.iter().any(|entry| entry.sparse.is_some());
    let xattrs = found.iter().any(|entry| !entry.xattrs.is_empty());
    (found, format!("{kinds:?} sparse {sparse} xattrs {xattrs} {end}"))
}

fn check_entry(entry: &Entry, length: u64) {
    let inside = |path: &[u8]| {
        assert!(path.len() <= 4095 && !path.contains(&0), "a path too long or with a NUL");
        if !path.is_empty() {
            let good = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= 255;
            assert!(path.split(|byte| *byte == b'/').all(good), "{path:?} could leave the root");
        }
    };
    inside(&entry.path);
    if entry.kind == Kind::HardLink {
        inside(&entry.link);
    }
    assert!(entry.data_offset <= length && entry.mode <= 0o7777 && entry.mtime.1 < 1_000_000_000);
    assert!(entry.stored == 0 || entry.kind == Kind::File, "data of something that has none");
    if let Some(extents) = &entry.sparse {
        let mut end = 0;
        for extent in extents {
            assert!(extent.offset >= end, "extents out of order");
            end = extent.offset + extent.length;
        }
        assert!(end <= entry.size, "an extent leaves the file");
        assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), entry.stored);
    }
}

/// Gives every block that looks like a header the check sum that it should have.
fn with_sums(mut raw: Vec<u8>) -> Vec<u8> {
    for block in raw.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    raw
}

/// A layer unpacked beside a canary: whatever comes of it, nothing outside the root changes.
pub(crate) fn unpack(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    std::fs::create_dir(&root).expect("a new folder");
    std::fs::create_dir(&outside).expect("a new folder");
    std::fs::write(outside.join("canary"), "alive").expect("a new file");
    // What hostile names would reach, if they reached out.
    for (link, target) in [("up", ".."), ("out", "../outside"), ("far", outside.to_str().expect("UTF-8"))] {
        std::os::unix::fs::symlink(target, root.join(link)).expect("a new link");
    }
    let before = census(&outside);
    let dir =
        rustix::fs::open(&root, rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let dir = dir.expect("the folder is there");
    let mut extractor = Extractor::new(dir, Options { whiteouts: Whiteouts::Apply, owners: false });
    let plain = with_sums(plain(bytes).unwrap_or_default());
    let outcome = extractor.layer(&mut Reader::new(plain.as_slice())).map_err(LayerError::from);
    drop(extractor);
    assert!(census(&outside) == before, "something outside the root changed");
    let names = std::fs::read_dir(folder.path()).expect("it is ours").count();
    assert_eq!(names, 2, "something was made beside the root");
    let made = std::fs::read_dir(&root).map_or(0, Iterator::count).min(8);
    // What was made read-only goes, too.
    image::store::remove_tree(&root).expect("a tree of ours can be removed");
    match outcome {
        Ok(()) => format!("unpacked {made}"),
        Err(error) => class(&format!("refused after {made}"), &error.to_string()),
    }
}

/// Names, modes and contents of a folder of plain files.
fn census(folder: &Path) -> Vec<(String, u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, mode(&entry.path()), std::fs::read(entry.path()).unwrap_or_default())
        })
        .collect();
    found.push((".".to_owned(), mode(folder), Vec::new()));
    found.sort();
    found
}

/// A reference, a platform, a digest: refused, or a canonical form that reads as the same.
pub(crate) fn reference(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<Platform>().map(|platform| {
        assert!(platform.to_string().parse::<Platform>().is_ok_and(|again| again == platform), "{platform}");
    });
    if let Ok(digest) = text.parse::<oci::Digest>() {
        assert!(digest.to_string().parse::<oci::Digest>().is_ok_and(|again| again == digest));
    }
    match text.parse::<Reference>() {
        Err(error) => class("refused", &error.to_string()),
        Ok(reference) => {
            let canonical = reference.to_string();
            assert!(
                canonical.parse::<Reference>().is_ok_and(|again| again == reference),
                "{canonical} reads differently"
            );
            let familiar = reference.familiar();
            assert!(familiar.parse::<Reference>().is_ok_and(|again| again == reference), "{familiar} is another name");
            assert!(
                oci::reference::is_repository(reference.repository())
                    && oci::reference::is_registry(reference.registry())
            );
            assert!(
                !reference.repository().split('/').any(|part| matches!(part, "" | "." | "..")),
                "{canonical} climbs"
            );
            format!("read tag {} digest {}", reference.tag().is_some(), reference.digest().is_some())
        }
    }
}

/// `WWW-Authenticate`, one line of the input each: a bounded list, and no text that was not in it.
pub(crate) fn challenges(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let found = challenge::parse(text.lines());
    assert!(found.len() <= 8, "{} challenges", found.len());
    let kinds: Vec<String> = found
        .iter()
        .map(|challenge| match challenge {
            Challenge::Basic => "basic".to_owned(),
            Challenge::Bearer(bearer) => {
                let all = [Some(&bearer.realm), bearer.service.as_ref(), bearer.scope.as_ref(), bearer.error.as_ref()];
                assert!(all.iter().flatten().all(|value| value.len() <= 8 << 10), "a value longer than a header");
                format!("bearer {:?}", all.map(|value| value.map(|value| value.is_empty())))
            }
            Challenge::Other(scheme) => {
                assert!(!scheme.is_empty() && scheme.to_ascii_lowercase() == *scheme);
                "other".to_owned()
            }
        })
        .collect();
    format!("{kinds:?}")
}

/// A request to the registry: method, path and query on the first line, then `Range` and `Content-Range`.
pub(crate) fn request(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let (method, target) = lines.next().unwrap_or_default().split_once(' ').unwrap_or(("GET", ""));
    let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let parameters = route::query(query).len().min(4);
    let range = match route::range(lines.next(), 1000) {
        Range::Part(first, last) => {
            assert!(first <= last && last < 1000, "{first}-{last} of 1000");
            "part"
        }
        Range::Whole => "whole",
        Range::Unsatisfiable => "none",
    };
    let chunk = route::chunk_range(lines.next().unwrap_or_default());
    assert!(chunk.is_none_or(|(first, last)| first <= last && last < u64::MAX));
    let tail = format!("{parameters} {range} {}", chunk.is_some());
    match route::parse(&method, path) {
        Err(refusal) => class(&format!("refused {} {tail}", refusal.status), &String::from_utf8_lossy(&refusal.body())),
        Ok(route) => {
            assert!(route.methods().contains(&method), "{method} is not of {route:?}");
            if let Some(canonical) = canonical(&route) {
                assert!(
                    route::parse(&method, &canonical).is_ok_and(|again| again == route),
                    "{canonical} reads differently"
                );
            }
            let repository = repository(&route);
            let good = |part: &str| !part.is_empty() && !part.starts_with(['.', '_', '-']);
            assert!(
                repository.is_none_or(|name| name.len() <= 255 && name.split('/').all(good)),
                "{repository:?} climbs"
            );
            let kind = format!("{route:?}");
            format!("{} {tail}", kind.split([' ', '{']).next().unwrap_or_default())
        }
    }
}

fn repository(route: &Route) -> Option<&str> {
    match route {
        Route::Base | Route::Catalog => None,
        Route::Tags { repository }
        | Route::Manifest { repository, .. }
        | Route::Blob { repository, .. }
        | Route::Uploads { repository }
        | Route::Upload { repository, .. }
        | Route::Referrers { repository, .. } => Some(repository),
    }
}

/// The path of a route; an upload's id may hold anything and is judged where uploads are looked up.
fn canonical(route: &Route) -> Option<String> {
    Some(match route {
        Route::Base => "/v2/".to_owned(),
        Route::Catalog => "/v2/_catalog".to_owned(),
        Route::Tags { repository } => format!("/v2/{repository}/tags/list"),
        Route::Manifest { repository, name: Name::Tag(tag) } => format!("/v2/{repository}/manifests/{tag}"),
        Route::Manifest { repository, name: Name::Digest(digest) } => format!("/v2/{repository}/manifests/{digest}"),
        Route::Blob { repository, digest } => format!("/v2/{repository}/blobs/{digest}"),
        Route::Uploads { repository } => format!("/v2/{repository}/blobs/uploads/"),
        Route::Upload { .. } => return None,
        Route::Referrers { repository, digest } => format!("/v2/{repository}/referrers/{digest}"),
    })
}

/// A manifest or an index: refused, or a document that keeps its bytes and its one type.
pub(crate) fn manifest(bytes: &[u8]) -> String {
    match Manifest::parse(bytes.to_vec(), None) {
        Err(error) => class("refused", &error.to_string()),
        Ok(manifest) => {
            assert!(manifest.raw() == bytes && manifest.digest().matches(bytes), "bytes are kept");
            assert!(manifest.image().is_some() != manifest.index().is_some(), "an image or an index, never both");
            let again = Manifest::parse(bytes.to_vec(), Some(manifest.media_type()));
            assert!(again.is_ok_and(|again| again.digest() == manifest.digest()), "its own type fits it");
            let children = manifest.children().count().min(3);
            format!("{} {children} {}", manifest.image().is_some(), manifest.subject().is_some())
        }
    }
}

/// The words of an outcome without what is quoted or counted in it.
fn class(stage: &str, words: &str) -> String {
    let quote = |letter: char| matches!(letter, '"' | '`' | '\'');
    let words = match (words.find(quote), words.rfind(quote)) {
        (Some(first), Some(last)) => [&words[..first], &words[last..]].concat(),
        _ => words.to_owned(),
    };
    let words: String = words.chars().filter(|letter| !letter.is_ascii_digit()).take(60).collect();
    format!("{stage}: {words}")
}
