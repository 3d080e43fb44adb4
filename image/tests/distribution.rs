//! distribution-spec 1.1, clause by clause, against the registry's own answers: no socket, a store in a temporary folder.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use image::Store;
use image::registry::{Registry, Shelf, access::Users};
use oci::digest::{Algorithm, Digest};
use oci::manifest::media;
use serde_json::{Value, json};
use std::sync::Arc;

/// A registry over a fresh store.
struct Bench {
    folder: tempfile::TempDir,
    registry: Registry,
}

/// An answer with its body read.
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The answer is a refusal with this status and code, in the form the specification gives.
    #[track_caller]
    fn refused(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        assert_eq!(self.header("content-type"), "application/json");
        assert_eq!(self.json()["errors"][0]["code"], code);
        assert!(self.json()["errors"][0]["message"].as_str().is_some_and(|text| !text.is_empty()));
    }

    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{:?}", self.body);
        self
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(None, false)
    }

    fn with(htpasswd: Option<&str>, read_only: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = htpasswd.map(|text| {
            let path = folder.path().join("htpasswd");
            std::fs::write(&path, text).unwrap();
            Users::open(&path).unwrap()
        });
        let registry = Registry::new(shelf(&folder), users, read_only);
        Self { folder, registry }
    }

    /// The same store served by a new process.
    fn restart(&mut self) {
        self.registry = Registry::new(shelf(&self.folder), None, false);
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.registry.answer(request.body(Full::new(body.into())).unwrap()).await;
        let (parts, body) = answer.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    /// Pushes a blob in one POST; returns its descriptor.
    async fn blob(&self, name: &str, bytes: &[u8], kind: &str) -> Value {
        let digest = Digest::sha256(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.ask(Method::POST, &path, &[], bytes.to_vec()).await.is(201);
        json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
    }

    /// Pushes an image of one layer; returns its raw manifest and digest.
    async fn image(&self, name: &str, reference: &str, salt: &str) -> (Vec<u8>, Digest) {
        let config = self.blob(name, format!("{{\"salt\":\"{salt}\"}}").as_bytes(), media::OCI_CONFIG).await;
        let layer = self.blob(name, format!("layer {salt}").as_bytes(), media::OCI_LAYER).await;
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": [layer]});
        let raw = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&raw);
        self.put(name, reference, media::OCI_MANIFEST, &raw).await.is(201);
        (raw, digest)
    }

    async fn put(&self, name: &str, reference: &str, kind: &str, raw: &[u8]) -> Answer {
        self.ask(Method::PUT, &format!("/v2/{name}/manifests/{reference}"), &[("content-type", kind)], raw.to_vec())
            .await
    }

    async fn start(&self, name: &str) -> String {
        let answer = self.ask(Method::POST, &format!("/v2/{name}/blobs/uploads/"), &[], "").await.is(202);
        answer.header("location").to_owned()
    }

    async fn chunk(&self, place: &str, range: &str, bytes: &str) -> Answer {
        let length = bytes.len().to_string();
        let headers = [("content-range", range), ("content-length", length.as_str())];
        self.ask(Method::PATCH, place, &headers, bytes.to_owned()).await
    }
}

fn shelf(folder: &tempfile::TempDir) -> Shelf {
    let store = Store::open(&folder.path().join("images")).unwrap();
    Shelf::open(&folder.path().join("images/registry"), Arc::new(store)).unwrap()
}

// end-1: the base ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_base_answers_200_and_names_its_version() {
    let bench = Bench::new();
    let answer = bench.get("/v2/").await.is(200);
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
}

// end-2: pulling blobs -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blob_is_pulled_with_its_digest_and_length_also_by_head() {
    let bench = Bench::new();
    let digest = Digest::sha256(b"0123456789");
    bench.blob("a/b/c", b"0123456789", "x/y").await;
    let path = format!("/v2/a/b/c/blobs/{digest}");
    let answer = bench.get(&path).await.is(200);
    assert_eq!(&answer.body[..], b"0123456789");
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    let head = bench.ask(Method::HEAD, &path, &[], "").await.is(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("10", 0));
    assert_eq!(head.header("docker-content-digest"), digest.to_string());
    let etag = answer.header("etag").to_owned();
    bench.ask(Method::GET, &path, &[("if-none-match", &etag)], "").await.is(304);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ranges_of_a_blob_are_206_and_impossible_ones_416() {
    let bench = Bench::new();
    let digest = Digest::sha256(b"0123456789");
    bench.blob("a", b"0123456789", "x/y").await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, body, content_range) in
        [("bytes=2-4", "234", "bytes 2-4/10"), ("bytes=7-", "789", "bytes 7-9/10"), ("bytes=-1", "9", "bytes 9-9/10")]
    {
        let answer = bench.ask(Method::GET, &path, &[("range", range)], "").await.is(206);
        assert_eq!((&answer.body[..], answer.header("content-range")), (body.as_bytes(), content_range));
        assert_eq!(answer.header("content-length"), body.len().to_string());
    }
    let answer = bench.ask(Method::GET, &path, &[("range", "bytes=10-20")], "").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-range")), (416, "bytes */10"));
    bench.ask(Method::GET, &path, &[("range", "bytes=2-4"), ("if-range", "\"other\"")], "").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_not_there_is_404_with_its_code() {
    let bench = Bench::new();
    let digest = Digest::sha256(b"nothing");
    bench.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    bench.get("/v2/a/manifests/latest").await.refused(404, "NAME_UNKNOWN");
    bench.get("/v2/a/tags/list").await.refused(404, "NAME_UNKNOWN");
    bench.image("a", "v1", "1").await;
    bench.get("/v2/a/manifests/latest").await.refused(404, "MANIFEST_UNKNOWN");
    bench.get(&format!("/v2/a/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
    bench.get("/v2/a/blobs/uploads/00000000000000000000000000000000").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    // A tag that cannot be: not found, rather than a reproach.
    bench.get("/v2/a/manifests/.NOT_A_TAG").await.refused(404, "MANIFEST_UNKNOWN");
    bench.ask(Method::DELETE, "/v2/a/manifests/-x", &[], "").await.refused(404, "MANIFEST_UNKNOWN");
    bench.ask(Method::DELETE, "/v2/never/manifests/latest", &[], "").await.refused(404, "NAME_UNKNOWN");
    bench.ask(Method::DELETE, &format!("/v2/never/blobs/{digest}"), &[], "").await.refused(404, "BLOB_UNKNOWN");
    let head = bench.ask(Method::HEAD, "/v2/a/manifests/latest", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blob_of_one_repository_is_not_readable_through_another() {
    let bench = Bench::new();
    bench.blob("secret", b"bytes", "x/y").await;
    bench.get(&format!("/v2/open/blobs/{}", Digest::sha256(b"bytes"))).await.refused(404, "BLOB_UNKNOWN");
}

// end-4: uploads in one piece ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blob_is_pushed_by_post_then_put() {
    let bench = Bench::new();
    let digest = Digest::sha256(b"hello");
    let place = bench.start("a").await;
    let answer = bench.ask(Method::PUT, &format!("{place}?digest={digest}"), &[], "hello").await.is(201);
    assert_eq!(answer.header("location"), format!("/v2/a/blobs/{digest}"));
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(&bench.get(answer.header("location")).await.body[..], b"hello");
    bench.get(&place).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blob_is_pushed_in_a_single_post_also_with_sha512_and_empty() {
    let bench = Bench::new();
    for (bytes, algorithm) in [("hello", Algorithm::Sha256), ("hello", Algorithm::Sha512), ("", Algorithm::Sha256)] {
        let digest = Digest::of(algorithm, bytes.as_bytes());
        let answer =
            bench.ask(Method::POST, &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], bytes).await.is(201);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(bench.get(&format!("/v2/a/blobs/{digest}")).await.is(200).body, bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_or_malformed_digest_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let wrong = Digest::sha256(b"other");
    let place = bench.start("a").await;
    bench.ask(Method::PUT, &format!("{place}?digest={wrong}"), &[], "hello").await.refused(400, "DIGEST_INVALID");
    let post = format!("/v2/a/blobs/uploads/?digest={wrong}");
    bench.ask(Method::POST, &post, &[], "hello").await.refused(400, "DIGEST_INVALID");
    bench
        .ask(Method::POST, "/v2/a/blobs/uploads/?digest=sha256:xyz", &[], "hello")
        .await
        .refused(400, "DIGEST_INVALID");
    let place = bench.start("a").await;
    bench.ask(Method::PUT, &place, &[], "hello").await.refused(400, "DIGEST_INVALID");
    bench.ask(Method::PUT, &format!("{place}?digest=md5:abc"), &[], "").await.refused(400, "DIGEST_INVALID");
    bench.get(&format!("/v2/a/blobs/{wrong}")).await.refused(404, "BLOB_UNKNOWN");
    bench.ask(Method::DELETE, &place, &[], "").await.is(204);
    assert_eq!(std::fs::read_dir(bench.folder.path().join("images/registry/uploads")).unwrap().count(), 0);
}

// end-5, end-6, end-13: uploads in chunks ------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn chunks_are_taken_in_order_and_the_status_tells_where_to_go_on() {
    let bench = Bench::new();
    let place = bench.start("a").await;
    let answer = bench.chunk(&place, "0-4", "01234").await.is(202);
    assert_eq!(answer.header("range"), "0-4");
    let place = answer.header("location").to_owned();
    // Out of order, a gap, a repeated chunk, nonsense: 416 with the truth.
    for range in ["6-7", "0-1", "4-5", "x-y", "7-6"] {
        let answer = bench.chunk(&place, range, "ab").await;
        assert_eq!((answer.status.as_u16(), answer.header("range")), (416, "0-4"), "{range}");
        assert_eq!(answer.header("location"), place);
    }
    bench.chunk(&place, "6-7", "ab").await.refused(416, "BLOB_UPLOAD_INVALID");
    let status = bench.get(&place).await.is(204);
    assert_eq!((status.header("range"), status.header("location")), ("0-4", place.as_str()));
    bench.chunk(&place, "5-6", "56").await.is(202);
    let digest = Digest::sha256(b"0123456789");
    let headers = [("content-range", "7-9"), ("content-length", "3")];
    bench.ask(Method::PUT, &format!("{place}?digest={digest}"), &headers, "789").await.is(201);
    assert_eq!(&bench.get(&format!("/v2/a/blobs/{digest}")).await.body[..], b"0123456789");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_chunk_whose_length_and_range_disagree_is_refused() {
    let bench = Bench::new();
    let place = bench.start("a").await;
    bench.chunk(&place, "0-9", "01234").await.refused(400, "SIZE_INVALID");
    let body = bench.ask(Method::PATCH, &place, &[("content-range", "0-1")], "01234").await;
    body.refused(400, "SIZE_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_without_ranges_is_one_chunk() {
    let bench = Bench::new();
    let place = bench.start("a").await;
    bench.ask(Method::PATCH, &place, &[], "hello ").await.is(202);
    let answer = bench.ask(Method::PATCH, &place, &[], "world").await.is(202);
    assert_eq!(answer.header("range"), "0-10");
    let digest = Digest::sha256(b"hello world");
    bench.ask(Method::PUT, &format!("{place}?digest={digest}"), &[], "").await.is(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_goes_on_after_the_server_was_killed() {
    let mut bench = Bench::new();
    let place = bench.start("a").await;
    bench.chunk(&place, "0-4", "01234").await.is(202);
    bench.restart();
    assert_eq!(bench.get(&place).await.is(204).header("range"), "0-4");
    bench.chunk(&place, "5-9", "56789").await.is(202);
    let digest = Digest::sha256(b"0123456789");
    bench.ask(Method::PUT, &format!("{place}?digest={digest}"), &[], "").await.is(201);
    assert_eq!(&bench.get(&format!("/v2/a/blobs/{digest}")).await.body[..], b"0123456789");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_upload_is_cancelled_and_belongs_to_its_repository() {
    let bench = Bench::new();
    let place = bench.start("a").await;
    let elsewhere = place.replace("/v2/a/", "/v2/b/");
    bench.get(&elsewhere).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    bench.ask(Method::DELETE, &place, &[], "").await.is(204);
    bench.chunk(&place, "0-0", "x").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    for odd in ["/v2/a/blobs/uploads/..", "/v2/a/blobs/uploads/%2e%2e", "/v2/a/blobs/uploads/x%2f.."] {
        assert!(bench.get(odd).await.status.is_client_error(), "{odd}");
    }
}

// end-11: mounts -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blob_is_mounted_from_another_repository_or_uploaded() {
    let bench = Bench::new();
    let digest = Digest::sha256(b"shared");
    bench.blob("from", b"shared", "x/y").await;
    let mount = |query: String| format!("/v2/to/blobs/uploads/?mount={query}");
    let answer = bench.ask(Method::POST, &mount(format!("{digest}&from=from")), &[], "").await.is(201);
    assert_eq!(answer.header("location"), format!("/v2/to/blobs/{digest}"));
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    bench.get(&format!("/v2/to/blobs/{digest}")).await.is(200);
    // Without `from` any repository will do.
    bench.ask(Method::POST, &format!("/v2/third/blobs/uploads/?mount={digest}"), &[], "").await.is(201);
    // What cannot be mounted begins an upload.
    let other = Digest::sha256(b"other");
    for query in
        [format!("{other}&from=from"), format!("{digest}&from=nowhere"), format!("{other}"), "junk&from=from".into()]
    {
        let answer = bench.ask(Method::POST, &mount(query), &[], "").await.is(202);
        assert!(answer.header("location").starts_with("/v2/to/blobs/uploads/"));
    }
}

// end-3, end-7: manifests ----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_manifest_comes_back_byte_for_byte_by_tag_and_digest() {
    let bench = Bench::new();
    let (raw, digest) = bench.image("a/b", "v1", "1").await;
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let answer = bench.get(&path).await.is(200);
        assert_eq!(&answer.body[..], raw);
        assert_eq!(answer.header("content-type"), media::OCI_MANIFEST);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        let head = bench.ask(Method::HEAD, &path, &[], "").await.is(200);
        assert_eq!(head.header("content-length"), raw.len().to_string());
        assert_eq!((head.header("content-type"), head.body.len()), (media::OCI_MANIFEST, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tag_moves_and_the_old_manifest_stays() {
    let bench = Bench::new();
    let (_, first) = bench.image("a", "v1", "1").await;
    let (second, _) = bench.image("a", "v1", "2").await;
    assert_eq!(&bench.get("/v2/a/manifests/v1").await.body[..], second);
    bench.get(&format!("/v2/a/manifests/{first}")).await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn manifests_may_be_named_by_sha512() {
    let bench = Bench::new();
    let (raw, _) = bench.image("a", "v1", "1").await;
    let digest = Digest::of(Algorithm::Sha512, &raw);
    let answer = bench.put("a", &digest.to_string(), media::OCI_MANIFEST, &raw).await.is(201);
    assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    assert_eq!(&bench.get(&format!("/v2/a/manifests/{digest}")).await.body[..], raw);
    bench.put("a", &format!("v2?digest={digest}"), media::OCI_MANIFEST, &raw).await.is(201);
    assert_eq!(bench.get("/v2/a/manifests/v2").await.header("docker-content-digest"), digest.to_string());
    let answer = bench.put("a", &format!("{digest}?tag=x&tag=y"), media::OCI_MANIFEST, &raw).await.is(201);
    assert_eq!(answer.headers.get_all("oci-tag").iter().count(), 2);
    bench.get("/v2/a/manifests/y").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_manifests_are_refused_with_their_codes() {
    let bench = Bench::new();
    let (raw, _) = bench.image("a", "v1", "1").await;
    let wrong = Digest::sha256(b"other");
    bench.put("a", &wrong.to_string(), media::OCI_MANIFEST, &raw).await.refused(400, "DIGEST_INVALID");
    bench.put("a", "v1", media::OCI_MANIFEST, b"{").await.refused(400, "MANIFEST_INVALID");
    bench.put("a", "v1", media::OCI_INDEX, &raw).await.refused(400, "MANIFEST_INVALID");
    bench.put("a", "-bad", media::OCI_MANIFEST, &raw).await.refused(400, "TAG_INVALID");
    bench.put("Bad", "v1", media::OCI_MANIFEST, &raw).await.refused(400, "NAME_INVALID");
    bench.put("a/../b", "v1", media::OCI_MANIFEST, &raw).await.refused(400, "NAME_INVALID");
    let huge = vec![b' '; 4 * 1024 * 1024 + 1];
    bench.put("a", "v1", media::OCI_MANIFEST, &huge).await.refused(413, "MANIFEST_INVALID");
    // A manifest that names what is not here: not even the same bytes in another repository.
    bench.put("b", "v1", media::OCI_MANIFEST, &raw).await.refused(404, "MANIFEST_BLOB_UNKNOWN");
    bench.get("/v2/b/manifests/v1").await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_index_needs_its_children() {
    let bench = Bench::new();
    let (raw, digest) = bench.image("a", "v1", "1").await;
    let child = json!({"mediaType": media::OCI_MANIFEST, "digest": digest.to_string(), "size": raw.len()});
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [child]}).to_string();
    bench.put("a", "all", media::OCI_INDEX, index.as_bytes()).await.is(201);
    assert_eq!(bench.get("/v2/a/manifests/all").await.header("content-type"), media::OCI_INDEX);
    bench.put("b", "all", media::OCI_INDEX, index.as_bytes()).await.refused(404, "MANIFEST_BLOB_UNKNOWN");
}

// end-8, end-8b: listing -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tags_are_listed_in_order_and_in_pages() {
    let bench = Bench::new();
    for tag in ["b", "a", "C", "10", "9"] {
        bench.image("x/y", tag, "1").await;
    }
    let answer = bench.get("/v2/x/y/tags/list").await.is(200);
    assert_eq!(answer.json(), json!({"name": "x/y", "tags": ["10", "9", "a", "b", "C"]}));
    let answer = bench.get("/v2/x/y/tags/list?n=2").await.is(200);
    assert_eq!(answer.json()["tags"], json!(["10", "9"]));
    assert_eq!(answer.header("link"), "</v2/x/y/tags/list?n=2&last=9>; rel=\"next\"");
    let answer = bench.get("/v2/x/y/tags/list?n=2&last=9").await.is(200);
    assert_eq!(answer.json()["tags"], json!(["a", "b"]));
    let answer = bench.get("/v2/x/y/tags/list?n=2&last=b").await.is(200);
    assert_eq!((answer.json()["tags"].clone(), answer.header("link")), (json!(["C"]), ""));
    // `n` is optional, `last` need not exist, and as many as there are make no next page.
    assert_eq!(bench.get("/v2/x/y/tags/list?last=A9").await.is(200).json()["tags"], json!(["b", "C"]));
    assert_eq!(bench.get("/v2/x/y/tags/list?n=5").await.is(200).header("link"), "");
    let none = bench.get("/v2/x/y/tags/list?n=0").await.is(200);
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), ""));
    assert_eq!(bench.get("/v2/x/y/tags/list?last=zz").await.is(200).json()["tags"], json!([]));
    bench.get("/v2/x/y/tags/list?n=many").await.refused(400, "UNSUPPORTED");
    bench.get("/v2/x/y/tags/list?n=-1").await.refused(400, "UNSUPPORTED");
    // Tags that differ in case alone each have their page.
    bench.image("x/z", "b", "1").await;
    bench.image("x/z", "B", "1").await;
    assert_eq!(bench.get("/v2/x/z/tags/list?n=1").await.json()["tags"], json!(["B"]));
    assert_eq!(bench.get("/v2/x/z/tags/list?n=1&last=B").await.json()["tags"], json!(["b"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_catalog_lists_nested_repositories_in_pages() {
    let bench = Bench::new();
    assert_eq!(bench.get("/v2/_catalog").await.json(), json!({"repositories": []}));
    for name in ["a", "a/b", "a/b/c", "z"] {
        bench.image(name, "v1", "1").await;
    }
    assert_eq!(bench.get("/v2/_catalog").await.json(), json!({"repositories": ["a", "a/b", "a/b/c", "z"]}));
    let answer = bench.get("/v2/_catalog?n=3").await;
    assert_eq!(answer.json()["repositories"], json!(["a", "a/b", "a/b/c"]));
    assert_eq!(answer.header("link"), "</v2/_catalog?n=3&last=a%2Fb%2Fc>; rel=\"next\"");
    assert_eq!(bench.get("/v2/_catalog?n=3&last=a%2Fb%2Fc").await.json()["repositories"], json!(["z"]));
}

// end-9, end-10: deleting ----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tags_manifests_and_blobs_are_deleted() {
    let bench = Bench::new();
    let (_, digest) = bench.image("a", "v1", "1").await;
    bench.image("a", "v2", "1").await;
    let delete = |path: String| async move { path };
    let path = delete("/v2/a/manifests/v1".into()).await;
    bench.ask(Method::DELETE, &path, &[], "").await.is(202);
    bench.ask(Method::DELETE, &path, &[], "").await.refused(404, "MANIFEST_UNKNOWN");
    bench.get(&format!("/v2/a/manifests/{digest}")).await.is(200);
    bench.get("/v2/a/manifests/v2").await.is(200);
    let path = format!("/v2/a/manifests/{digest}");
    bench.ask(Method::DELETE, &path, &[], "").await.is(202);
    bench.ask(Method::DELETE, &path, &[], "").await.refused(404, "MANIFEST_UNKNOWN");
    // With the manifest go its tags.
    bench.get("/v2/a/manifests/v2").await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(bench.get("/v2/a/tags/list").await.json()["tags"], json!([]));
    let blob = format!("/v2/a/blobs/{}", Digest::sha256(b"layer 1"));
    bench.ask(Method::DELETE, &blob, &[], "").await.is(202);
    bench.ask(Method::DELETE, &blob, &[], "").await.refused(404, "BLOB_UNKNOWN");
    bench.get(&blob).await.refused(404, "BLOB_UNKNOWN");
}

// end-12: referrers ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn referrers_are_kept_filtered_and_deleted() {
    let bench = Bench::new();
    let (raw, subject) = bench.image("a", "v1", "1").await;
    let path = format!("/v2/a/referrers/{subject}");
    let answer = bench.get(&path).await.is(200);
    assert_eq!(answer.header("content-type"), media::OCI_INDEX);
    assert_eq!(answer.json()["manifests"], json!([]));
    // Also for what nobody has heard of.
    bench.get(&format!("/v2/never/referrers/{}", Digest::sha256(b"x"))).await.is(200);
    bench.get("/v2/a/referrers/latest").await.refused(400, "DIGEST_INVALID");

    let config = bench.blob("a", b"{}", media::OCI_EMPTY).await;
    let of = json!({"mediaType": media::OCI_MANIFEST, "digest": subject.to_string(), "size": raw.len()});
    let mut digests = Vec::new();
    for kind in ["example/sbom", "example/signature"] {
        let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "artifactType": kind, "config": config,
            "layers": [config], "subject": of, "annotations": {"k": kind}});
        let raw = manifest.to_string();
        let digest = Digest::sha256(raw.as_bytes());
        let answer = bench.put("a", &digest.to_string(), media::OCI_MANIFEST, raw.as_bytes()).await.is(201);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
        digests.push(digest);
    }
    // Without an artifactType the config's media type stands for it; the subject need not exist.
    let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": {"mediaType": "example/config",
        "digest": config["digest"], "size": 2}, "layers": [], "subject": of});
    bench.put("a", "third", media::OCI_MANIFEST, manifest.to_string().as_bytes()).await.is(201);

    let all = bench.get(&path).await.json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 3);
    let answer = bench.get(&format!("{path}?artifactType=example/sbom")).await.is(200);
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let found = answer.json();
    assert_eq!(found["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(found["manifests"][0]["digest"], digests[0].to_string());
    assert_eq!(found["manifests"][0]["annotations"]["k"], "example/sbom");
    assert_eq!(found["manifests"][0]["artifactType"], "example/sbom");
    let answer = bench.get(&format!("{path}?artifactType=example/config")).await;
    assert_eq!(answer.json()["manifests"].as_array().unwrap().len(), 1);

    bench.ask(Method::DELETE, &format!("/v2/a/manifests/{}", digests[0]), &[], "").await.is(202);
    assert_eq!(bench.get(&path).await.json()["manifests"].as_array().unwrap().len(), 2);
    // The subject goes and comes again; who refers to it stays.
    bench.ask(Method::DELETE, &format!("/v2/a/manifests/{subject}"), &[], "").await.is(202);
    assert_eq!(bench.get(&path).await.is(200).json()["manifests"].as_array().unwrap().len(), 2);
    bench.image("a", "v1", "1").await;
    assert_eq!(bench.get(&path).await.is(200).json()["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_manifest_comes_before_its_subject_and_an_index_may_have_one() {
    let bench = Bench::new();
    let (raw, digest) = bench.image("a", "v1", "1").await;
    let subject = Digest::sha256(b"a manifest that nobody pushed yet");
    let of = json!({"mediaType": media::OCI_MANIFEST, "digest": subject.to_string(), "size": 33});
    let child = json!({"mediaType": media::OCI_MANIFEST, "digest": digest.to_string(), "size": raw.len()});
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "artifactType": "example/all",
        "manifests": [child], "subject": of, "annotations": {"k": "v"}});
    let answer = bench.put("a", "all", media::OCI_INDEX, index.to_string().as_bytes()).await.is(201);
    assert_eq!(answer.header("oci-subject"), subject.to_string());
    let found = bench.get(&format!("/v2/a/referrers/{subject}")).await.is(200).json();
    assert_eq!(found["schemaVersion"], 2);
    assert_eq!(found["manifests"][0]["mediaType"], media::OCI_INDEX);
    assert_eq!(
        (&found["manifests"][0]["artifactType"], &found["manifests"][0]["annotations"]["k"]),
        (&json!("example/all"), &json!("v"))
    );
    // Another repository knows nothing of it, and no filter was asked for.
    let elsewhere = bench.get(&format!("/v2/b/referrers/{subject}")).await.is(200);
    assert_eq!((elsewhere.json()["manifests"].clone(), elsewhere.header("oci-filters-applied")), (json!([]), ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_request_to_one_upload_is_told_to_wait() {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let bench = Bench::new();
    let place = bench.start("a").await;
    let (send, wait) = tokio::sync::oneshot::channel::<()>();
    let body = StreamBody::new(Box::pin(futures::stream::once(async move {
        let _ = wait.await;
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"slow")))
    })));
    let slow = Request::builder().method(Method::PATCH).uri(&place).body(body).unwrap();
    let registry = &bench.registry;
    let (first, second) = tokio::join!(registry.answer(slow), async {
        let second = bench.chunk(&place, "0-0", "x").await;
        let _ = send.send(());
        second
    });
    second.refused(429, "TOOMANYREQUESTS");
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    assert_eq!(bench.get(&place).await.is(204).header("range"), "0-3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_refusal_is_json_of_the_specified_form() {
    let bench = Bench::new();
    bench.image("a", "v1", "1").await;
    for (method, path) in [
        (Method::GET, "/v2/A/tags/list"),
        (Method::GET, "/v2/a/manifests/none"),
        (Method::PUT, "/v2/a/manifests/v1"),
        (Method::GET, "/v2/a/blobs/sha256:zz"),
        (Method::PATCH, "/v2/a/blobs/uploads/none"),
        (Method::GET, "/v2/never/tags/list"),
        (Method::PATCH, "/v2/a/tags/list"),
        (Method::GET, "/v2/a/nowhere"),
    ] {
        let answer = bench.ask(method, path, &[], "").await;
        assert!(answer.status.is_client_error(), "{path}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        let document = answer.json();
        let error = &document["errors"][0];
        let code = error["code"].as_str().unwrap();
        assert!(code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{code}");
        assert!(error["message"].is_string(), "{path}");
    }
}

// Methods, access, modes -----------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_methods_are_405_with_allow() {
    let bench = Bench::new();
    let answer = bench.ask(Method::POST, "/v2/a/manifests/x", &[], "").await;
    assert_eq!(answer.header("allow"), "GET, HEAD, PUT, DELETE");
    answer.refused(405, "UNSUPPORTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_read_only_registry_refuses_every_write() {
    let bench = Bench::with(None, true);
    for (method, path) in [
        (Method::POST, "/v2/a/blobs/uploads/".to_owned()),
        (Method::PUT, "/v2/a/manifests/x".to_owned()),
        (Method::DELETE, format!("/v2/a/blobs/{}", Digest::sha256(b"x"))),
    ] {
        bench.ask(method, &path, &[], "").await.refused(405, "UNSUPPORTED");
    }
    bench.get("/v2/").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn users_are_asked_everywhere() {
    let hash = bcrypt::hash("secret", 4).unwrap();
    let bench = Bench::with(Some(&format!("me:{hash}\n")), false);
    for path in ["/v2/", "/v2/_catalog", "/v2/a/tags/list"] {
        let answer = bench.get(path).await;
        assert!(answer.header("www-authenticate").starts_with("Basic realm="), "{path}");
        answer.refused(401, "UNAUTHORIZED");
    }
    let good = [("authorization", "Basic bWU6c2VjcmV0")];
    bench.ask(Method::GET, "/v2/", &good, "").await.is(200);
    bench.ask(Method::GET, "/v2/", &[("authorization", "Basic bWU6d3Jvbmc=")], "").await.refused(401, "UNAUTHORIZED");
}

// Garbage collection ---------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_takes_nothing_that_was_acknowledged() {
    let bench = Bench::new();
    let store = Store::open(&bench.folder.path().join("images")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let collector = std::thread::spawn({
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        move || {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                image::gc::run(&store, image::gc::Options::default()).unwrap();
                rounds += 1;
            }
            rounds
        }
    });
    for number in 0..30 {
        let salt = number.to_string();
        bench.image("a/b", &format!("v{number}"), &salt).await;
        // The same bytes come and go elsewhere: what one repository deletes another keeps.
        let (_, digest) = bench.image("other", "latest", &salt).await;
        bench.ask(Method::DELETE, &format!("/v2/other/manifests/{digest}"), &[], "").await.is(202);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(collector.join().unwrap() > 0);
    image::gc::run(&store, image::gc::Options::default()).unwrap();
    for number in 0..30 {
        let manifest = bench.get(&format!("/v2/a/b/manifests/v{number}")).await.is(200).json();
        for blob in [&manifest["config"], &manifest["layers"][0]] {
            let digest = blob["digest"].as_str().unwrap();
            let body = bench.get(&format!("/v2/a/b/blobs/{digest}")).await.is(200).body;
            assert_eq!(Digest::sha256(&body).to_string(), digest);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_manifest_names_is_collected_after_its_grace() {
    let bench = Bench::new();
    let store = Store::open(&bench.folder.path().join("images")).unwrap();
    let (_, digest) = bench.image("a", "v1", "1").await;
    let layer = Digest::sha256(b"layer 1");
    let link = bench.folder.path().join(format!("images/registry/repositories/a/_blobs/sha256/{}", layer.hex()));
    let age = || {
        std::fs::File::options()
            .write(true)
            .open(&link)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap()
    };
    age();
    image::gc::run(&store, image::gc::Options::default()).unwrap();
    assert!(store.has(&layer).unwrap(), "a manifest names it, however old it is");
    bench.ask(Method::DELETE, &format!("/v2/a/manifests/{digest}"), &[], "").await.is(202);
    // A running server holds what it touched a moment ago, so the rule itself is asked.
    let root = bench.folder.path().join("images/registry");
    let mut needs = |digest: &Digest, declared: Option<&str>| {
        let manifest = store.manifest(digest, declared)?;
        Ok(manifest.children().map(|child| child.digest).collect())
    };
    let kept = image::registry::shelf::roots(&root, &mut needs).unwrap();
    assert!(!kept.contains(&digest) && !kept.contains(&layer), "{kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_ends_the_request_and_keeps_what_arrived() {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let bench = Bench::new();
    let registry = Registry::new(shelf(&bench.folder), None, false).silence_max(std::time::Duration::from_millis(50));
    let start = Request::builder().method(Method::POST).uri("/v2/a/b/blobs/uploads/").body(Full::default()).unwrap();
    let location = registry.answer(start).await.headers()["location"].to_str().unwrap().to_owned();
    let some = futures::stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"half")))]);
    let body = StreamBody::new(futures::StreamExt::chain(some, futures::stream::pending()));
    let patch = Request::builder().method(Method::PATCH).uri(&location).body(body).unwrap();
    assert_eq!(registry.answer(patch).await.status(), StatusCode::REQUEST_TIMEOUT);
    let status = Request::builder().method(Method::GET).uri(&location).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(registry.answer(status).await.headers()["range"], "0-3");
    let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let put = Request::builder().method(Method::PUT).uri("/v2/a/b/manifests/1").body(body).unwrap();
    assert_eq!(registry.answer(put).await.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_check_of_the_store_tells_what_a_repository_lost() {
    let bench = Bench::new();
    let store = Store::open(&bench.folder.path().join("images")).unwrap();
    let (_, digest) = bench.image("a/b", "v1", "1").await;
    assert_eq!(store.check().unwrap().problems, [""; 0]);
    let blob = |digest: &Digest| bench.folder.path().join(format!("images/blobs/sha256/{}", digest.hex()));
    // A client may delete a blob: that is no loss.
    let layer = Digest::sha256(b"layer 1");
    std::fs::remove_file(blob(&layer)).unwrap();
    assert!(store.check().unwrap().problems.concat().contains("repository a/b: blob"));
    bench.ask(Method::DELETE, &format!("/v2/a/b/blobs/{layer}"), &[], "").await.is(202);
    assert_eq!(store.check().unwrap().problems, [""; 0]);
    std::fs::remove_file(blob(&digest)).unwrap();
    assert!(store.check().unwrap().problems.concat().contains("manifest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_byte_by_byte_does_not_hold_its_place_for_ever() {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    let bench = Bench::new();
    let limit = std::time::Duration::from_millis(200);
    let registry = Registry::new(shelf(&bench.folder), None, false).silence_max(limit);
    let start = Request::builder().method(Method::POST).uri("/v2/a/b/blobs/uploads/").body(Full::default()).unwrap();
    let location = registry.answer(start).await.headers()["location"].to_str().unwrap().to_owned();
    // Never silent as long as the limit, and never worth its place: ten bytes a second.
    let drips = futures::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        Some((Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"x"))), ()))
    });
    let patch = Request::builder().method(Method::PATCH).uri(&location).body(StreamBody::new(Box::pin(drips))).unwrap();
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), registry.answer(patch)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tag_that_is_fixed_stays_and_every_write_is_logged() {
    use std::sync::Mutex;
    let bench = Bench::new();
    let (raw, digest) = bench.image("a", "v1", "1").await;
    let (other, second) = bench.image("a", "v2", "2").await;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    let log = move |line: &str| kept.lock().unwrap().push(serde_json::from_str::<Value>(line).unwrap());
    let registry = Registry::new(shelf(&bench.folder), None, false).fixed_tags(true).logging(log);
    let bench = Bench { folder: bench.folder, registry };
    bench.put("a", "v1", media::OCI_MANIFEST, &other).await.refused(409, "DENIED");
    bench.put("a", &format!("{second}?tag=v3&tag=v1"), media::OCI_MANIFEST, &other).await.refused(409, "DENIED");
    bench.get("/v2/a/manifests/v3").await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(bench.get("/v2/a/manifests/v1").await.is(200).header("docker-content-digest"), digest.to_string());
    // The same again is no move.
    bench.put("a", "v1", media::OCI_MANIFEST, &raw).await.is(201);
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 3, "reads are not written down: {lines:?}");
    assert_eq!((&lines[0]["status"], &lines[0]["path"]), (&json!(409), &json!("/v2/a/manifests/v1")));
    assert_eq!((&lines[2]["method"], &lines[2]["digest"]), (&json!("PUT"), &json!(digest.to_string())));
}
