//! The client against a registry that lies, stalls, cuts connections and sends people in circles: loopback sockets only.

use image::Store;
use image::progress::Silent;
use image::pull::{PullError, PullOptions, pull};
use image::remote::auth::Credentials;
use image::remote::transport::{Identity, Limits};
use oci::digest::Digest;
use oci::manifest::media;
use oci::reference::Reference;
use serde_json::json;
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One request as the server saw it; header names in lower case.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

/// What the server does.
#[derive(Debug, Clone)]
struct Act {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    cut_after: Option<usize>,
    /// After the body's first half, say nothing more.
    stall: bool,
    /// What Content-Length claims, instead of the truth.
    length: Option<usize>,
}

impl Act {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut_after: None, stall: false, length: None }
    }

    fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A server of one closure.
struct Liar {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Bytes of bodies sent.
    sent: Arc<AtomicU64>,
}

impl Liar {
    fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, sent) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (all, bytes, act) = (Arc::clone(&seen), Arc::clone(&sent), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, bytes, act) = (Arc::clone(&all), Arc::clone(&bytes), Arc::clone(&act));
                std::thread::spawn(move || {
                    let _ = talk(stream, &all, &bytes, &*act);
                });
            }
        });
        Self { address, seen, sent }
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(path)).count()
    }
}

fn talk(
    stream: TcpStream,
    all: &Mutex<Vec<Seen>>,
    bytes: &AtomicU64,
    act: &dyn Fn(&Seen) -> Act,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        std::io::copy(&mut reader.by_ref().take(length as u64), &mut std::io::sink())?;
        let seen = Seen { method, path, headers };
        let head = seen.method == "HEAD";
        let what = act(&seen);
        all.lock().unwrap().push(seen);
        let mut text =
            format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n", what.status, what.length.unwrap_or(what.body.len()));
        for (name, value) in &what.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        out.write_all(text.as_bytes())?;
        out.write_all(b"\r\n")?;
        if head {
            continue;
        }
        let end = what.cut_after.unwrap_or(what.body.len()).min(what.body.len());
        let end = if what.stall { end / 2 } else { end };
        out.write_all(&what.body[..end])?;
        bytes.fetch_add(end as u64, Ordering::Relaxed);
        if what.stall {
            std::thread::sleep(Duration::from_secs(5));
        }
        if what.cut_after.is_some() || what.stall || what.length.is_some() {
            return Ok(());
        }
    }
}

/// An image of one layer and everything its registry must answer.
#[derive(Clone)]
struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(layer_bytes: usize) -> Self {
        // Bytes that no two places share, so that a range in the wrong place is noticed.
        let layer: Vec<u8> =
            (0..layer_bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers",
            "diff_ids": [Digest::sha256(&layer).to_string()]}})
        .to_string()
        .into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "digest": Digest::sha256(&config).to_string(), "size": config.len()},
            "layers": [{"mediaType": media::OCI_LAYER, "digest": Digest::sha256(&layer).to_string(), "size": layer.len()}]})
        .to_string()
        .into_bytes();
        Self { layer, config, manifest }
    }

    fn layer_path(&self) -> String {
        format!("/blobs/{}", Digest::sha256(&self.layer))
    }

    /// The honest answer.
    fn answer(&self, seen: &Seen) -> Act {
        if seen.path.contains("/manifests/") {
            return Act::new(200, self.manifest.clone()).header("content-type", media::OCI_MANIFEST);
        }
        for blob in [&self.layer, &self.config] {
            if !seen.path.ends_with(&Digest::sha256(blob).to_string()) {
                continue;
            }
            let Some(range) = seen.headers.get("range").and_then(|text| text.strip_prefix("bytes=")) else {
                return Act::new(200, blob.clone());
            };
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let act = Act::new(206, blob[first..=last].to_vec());
            return act.header("content-range", format!("bytes {first}-{last}/{}", blob.len()));
        }
        Act::new(404, "{}")
    }
}

fn options() -> PullOptions {
    let limits = Limits { connect: Duration::from_secs(2), stall: Duration::from_secs(2), ..Limits::default() };
    PullOptions { limits, platform: Some("linux/amd64".parse().unwrap()), ..PullOptions::default() }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    (folder, store)
}

fn text(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(" | ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// No name, no blob of the layer: the failed pull left nothing that anybody could use.
fn nothing_usable(store: &Store, image: &Image) {
    assert!(store.images().unwrap().is_empty());
    assert!(!store.has(&Digest::sha256(&image.layer)).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_registry_is_pulled_from() {
    let image = Image::new(300_000);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let (_folder, store) = store();
    let record = pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap();
    assert_eq!(record.target.digest, Digest::sha256(&image.manifest));
    assert_eq!(store.read_blob(&Digest::sha256(&image.layer), 1 << 20).unwrap(), image.layer);
    // What the tag means is told without a byte of the image.
    let meant = image::pull::resolve(&liar.reference("a:1"), &options()).await.unwrap();
    assert_eq!(meant, record.target.digest);
    // The second pull asks for the manifest only.
    pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap();
    assert_eq!(liar.count(&image.layer_path()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_again_and_again_costs_no_byte_twice() {
    let image = Image::new(5 << 20);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| Act { cut_after: seen.path.contains("/blobs/").then_some(1 << 20), ..image.answer(seen) }
    });
    let (_folder, store) = store();
    pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap();
    let all = image.layer.len() + image.config.len() + image.manifest.len();
    let sent = liar.sent.load(Ordering::Relaxed);
    assert!(sent <= all as u64 * 105 / 100, "{sent} of {all}");
    assert!(store.verify_blob(&Digest::sha256(&image.layer)).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_stopped_half_way_goes_on() {
    let image = Image::new(8 << 20);
    let stalls = Arc::new(AtomicUsize::new(1));
    let liar = Liar::start({
        let (image, stalls) = (image.clone(), Arc::clone(&stalls));
        move |seen| {
            let layer = seen.path.contains(&image.layer_path());
            Act { stall: layer && stalls.load(Ordering::Relaxed) > 0, ..image.answer(seen) }
        }
    });
    let (folder, store) = store();
    let limits = Limits { stall: Duration::from_secs(60), ..options().limits };
    let patient = PullOptions { limits, ..options() };
    let reference = liar.reference("a:1");
    {
        let running = pull(&store, &reference, &patient, &Silent);
        tokio::pin!(running);
        let deadline = Instant::now() + Duration::from_secs(10);
        while liar.sent.load(Ordering::Relaxed) < 4 << 20 && Instant::now() < deadline {
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut running).await;
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut running).await;
    }
    stalls.store(0, Ordering::Relaxed);
    drop(store);
    let store = Store::open(&folder.path().join("images")).unwrap();
    let before = liar.sent.load(Ordering::Relaxed);
    pull(&store, &reference, &patient, &Silent).await.unwrap();
    let second = liar.sent.load(Ordering::Relaxed) - before;
    assert!(second <= (image.layer.len() as u64) * 75 / 100, "{second}");
    assert!(store.verify_blob(&Digest::sha256(&image.layer)).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_without_ranges_is_pulled_from_and_resumed_with() {
    let image = Image::new(3 << 20);
    let first = Arc::new(AtomicUsize::new(0));
    let liar = Liar::start({
        let (image, first) = (image.clone(), Arc::clone(&first));
        move |seen| {
            let mut plain = seen.clone();
            plain.headers.remove("range");
            let cut = seen.path.contains(&image.layer_path()) && first.fetch_add(1, Ordering::Relaxed) == 0;
            Act { cut_after: cut.then_some(1 << 20), ..image.answer(&plain) }
        }
    });
    let (_folder, store) = store();
    pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap();
    assert!(store.verify_blob(&Digest::sha256(&image.layer)).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_registry_is_given_up_in_time() {
    let image = Image::new(100_000);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| Act { stall: seen.path.contains("/manifests/"), ..image.answer(seen) }
    });
    let (_folder, store) = store();
    let begun = Instant::now();
    let limits = Limits { stall: Duration::from_millis(400), ..options().limits };
    let error = pull(&store, &liar.reference("a:1"), &PullOptions { limits, ..options() }, &Silent).await.unwrap_err();
    assert!(text(&error).contains("no byte arrived"), "{}", text(&error));
    assert!(begun.elapsed() < Duration::from_secs(20));
    nothing_usable(&store, &image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_with_another_digest_never_get_a_name() {
    let image = Image::new(100_000);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| {
            let mut act = image.answer(seen);
            if seen.path.contains(&image.layer_path()) {
                act.body[5] ^= 1;
            }
            act
        }
    });
    let (_folder, store) = store();
    let error = pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap_err();
    assert!(text(&error).contains(&Digest::sha256(&image.layer).to_string()), "{}", text(&error));
    nothing_usable(&store, &image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_a_wrong_range_and_too_many_bytes_are_refused() {
    let image = Image::new(100_000);
    for kind in 0..3 {
        let liar = Liar::start({
            let image = image.clone();
            move |seen| {
                let mut act = image.answer(seen);
                if seen.path.contains(&image.layer_path()) {
                    match kind {
                        0 => act.length = Some(99_999),
                        1 => act.body.push(0),
                        _ => act = Act { status: 206, ..act }.header("content-range", "bytes 5-100004/100005"),
                    }
                }
                act
            }
        });
        let (_folder, store) = store();
        let error = pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap_err();
        assert!(matches!(error, PullError::Remote { .. }), "{kind}: {}", text(&error));
        nothing_usable(&store, &image);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_not_what_was_asked_for_is_refused() {
    let image = Image::new(1000);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| match seen.path.as_str() {
            path if path.ends_with("/manifests/huge") => {
                Act::new(200, vec![b' '; 5 << 20]).header("content-type", media::OCI_MANIFEST)
            }
            path if path.ends_with("/manifests/index") => {
                Act::new(200, image.manifest.clone()).header("content-type", media::OCI_INDEX)
            }
            path if path.ends_with("/manifests/lie") => {
                image.answer(seen).header("docker-content-digest", Digest::sha256(b"other").to_string())
            }
            path if path.ends_with("/manifests/text") => Act::new(200, "<html>").header("content-type", "text/html"),
            _ => image.answer(seen),
        }
    });
    let (_folder, store) = store();
    for tag in ["huge", "index", "lie", "text"] {
        let error = pull(&store, &liar.reference(&format!("a:{tag}")), &options(), &Silent).await.unwrap_err();
        assert!(matches!(error, PullError::Remote { .. }), "{tag}: {}", text(&error));
    }
    let pinned = format!("a@{}", Digest::sha256(b"something else"));
    let error = pull(&store, &liar.reference(&pinned), &options(), &Silent).await.unwrap_err();
    assert!(text(&error).contains("that are not sha256"), "{}", text(&error));
    nothing_usable(&store, &image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_end_and_never_carry_credentials_elsewhere() {
    let image = Image::new(50_000);
    let elsewhere = Liar::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    // The same machine under another name is another origin.
    let other = format!("http://localhost:{}", elsewhere.address.port());
    let liar = Liar::start({
        let image = image.clone();
        move |seen| {
            if seen.headers.get("authorization").is_none_or(|value| value != "Basic bWU6c2VjcmV0") {
                return Act::new(401, "{}").header("www-authenticate", "Basic realm=\"x\"");
            }
            match seen.path.as_str() {
                path if path.contains("/circle/") => Act::new(307, "").header("location", path),
                path if path.contains("/blobs/") => Act::new(307, "").header("location", format!("{other}{path}")),
                _ => image.answer(seen),
            }
        }
    });
    let explicit = Some(Credentials::from_pair("me:secret"));
    let options = PullOptions { identity: Identity { explicit, files: Vec::new() }, ..options() };
    let (_folder, store) = store();
    pull(&store, &liar.reference("a:1"), &options, &Silent).await.unwrap();
    let there = elsewhere.seen();
    assert!(there.len() >= 2 && there.iter().all(|seen| !seen.headers.contains_key("authorization")), "{there:?}");
    let error = pull(&store, &liar.reference("circle/a:1"), &options, &Silent).await.unwrap_err();
    assert!(text(&error).contains("redirects without end"), "{}", text(&error));
    assert!(liar.count("/circle/") < 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_fetched_once_and_a_foreign_realm_gets_no_password() {
    let image = Image::new(50_000);
    let evil = Liar::start(|_| Act::new(200, r#"{"token":"evil"}"#));
    let evil_realm = format!("http://localhost:{}/token", evil.address.port());
    let own = Arc::new(Mutex::new(String::new()));
    let liar = Liar::start({
        let (image, own) = (image.clone(), Arc::clone(&own));
        move |seen| {
            if seen.path.starts_with("/token") {
                let known = seen.headers.get("authorization").is_some_and(|value| value == "Basic bWU6c2VjcmV0");
                return if known { Act::new(200, r#"{"token":"good","expires_in":300}"#) } else { Act::new(401, "{}") };
            }
            if seen.headers.get("authorization").is_some_and(|value| value == "Bearer good") {
                return image.answer(seen);
            }
            let realm = if seen.path.contains("/evil/") { evil_realm.clone() } else { own.lock().unwrap().clone() };
            Act::new(401, "{}").header("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"s\""))
        }
    });
    *own.lock().unwrap() = format!("http://{}/token", liar.address);
    let explicit = Some(Credentials::from_pair("me:secret"));
    let options = PullOptions { identity: Identity { explicit, files: Vec::new() }, ..options() };
    let (_folder, store) = store();
    pull(&store, &liar.reference("a/b:1"), &options, &Silent).await.unwrap();
    assert_eq!(liar.count("/token"), 1);
    assert!(
        liar.seen().iter().any(|seen| seen.path == "/token?service=s&scope=repository%3Aa%2Fb%3Apull"),
        "{:?}",
        liar.seen()
    );
    let error = pull(&store, &liar.reference("evil/b:1"), &options, &Silent).await.unwrap_err();
    assert!(text(&error).contains("another domain"), "{}", text(&error));
    assert_eq!(error.hint().as_deref(), Some(format!("shoal login {}", liar.address).as_str()));
    assert!(evil.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_registry_is_asked_again_when_it_says() {
    let image = Image::new(50_000);
    let count = AtomicUsize::new(0);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Act::new(429, "{}").header("retry-after", "1"),
            1 | 3 | 5 => Act::new(500, "oops"),
            _ => image.answer(seen),
        }
    });
    let (_folder, store) = store();
    let begun = Instant::now();
    pull(&store, &liar.reference("a:1"), &options(), &Silent).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_of_one_image_at_the_same_time_share_one_download() {
    let image = Image::new(4 << 20);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| image.answer(seen)
    });
    let (folder, store) = store();
    // Another handle is what another process has.
    let other = Store::open(&folder.path().join("images")).unwrap();
    let (reference, options) = (liar.reference("a:1"), options());
    let (one, two) =
        tokio::join!(pull(&store, &reference, &options, &Silent), pull(&other, &reference, &options, &Silent));
    assert_eq!(one.unwrap().target.digest, two.unwrap().target.digest);
    assert_eq!(liar.count(&image.layer_path()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_layer_is_fetched_from_its_url_without_credentials() {
    let mut image = Image::new(50_000);
    let away = Liar::start({
        let layer = image.layer.clone();
        move |_| Act::new(200, layer.clone())
    });
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!(media::OCI_LAYER_FOREIGN);
    manifest["layers"][0]["urls"] = json!([format!("http://localhost:{}/layer", away.address.port())]);
    image.manifest = manifest.to_string().into_bytes();
    let liar = Liar::start({
        let image = image.clone();
        move |seen| {
            if !seen.headers.contains_key("authorization") {
                return Act::new(401, "{}").header("www-authenticate", "Basic realm=\"x\"");
            }
            if seen.path.contains(&image.layer_path()) { Act::new(404, "{}") } else { image.answer(seen) }
        }
    });
    let explicit = Some(Credentials::from_pair("me:secret"));
    let options = PullOptions { identity: Identity { explicit, files: Vec::new() }, ..options() };
    let (_folder, store) = store();
    pull(&store, &liar.reference("a:1"), &options, &Silent).await.unwrap();
    assert!(away.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert_eq!(away.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsigned_image_is_refused_where_the_policy_wants_a_signature() {
    let image = Image::new(1000);
    let liar = Liar::start({
        let image = image.clone();
        move |seen| if seen.path.contains(".sig") { Act::new(404, "{}") } else { image.answer(seen) }
    });
    let (folder, store) = store();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    // An Ed25519 key: any 32 bytes are a point as far as this test goes.
    let key = write(
        "key.pem",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n",
    );
    let rule =
        json!({"default": [{"type": "sigstoreSigned", "keyPath": key, "signedIdentity": {"type": "matchRepository"}}]});
    for (name, rule, reason) in [
        ("signed.json", rule, "it is not signed"),
        ("reject.json", json!({"default": [{"type": "reject"}]}), "rejects it"),
        ("gpg.json", json!({"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}), "not supported"),
    ] {
        let path = write(name, &rule.to_string());
        let policy = Some(image::policy::Policy::read(&path).unwrap());
        let options = PullOptions { policy, ..options() };
        let error = pull(&store, &liar.reference("a:1"), &options, &Silent).await.unwrap_err();
        assert!(matches!(error, PullError::Policy { .. }) && text(&error).contains(reason), "{}", text(&error));
    }
    nothing_usable(&store, &image);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_do_not_come_back_with_a_redirect_that_left() {
    let image = Image::new(50_000);
    // The registry sends the client away, and that place sends it back to a path of its own choice.
    let home = Arc::new(Mutex::new(String::new()));
    let away = Liar::start({
        let home = Arc::clone(&home);
        move |seen| {
            let back = seen.path.replace("/a/", "/back/");
            Act::new(307, "").header("location", format!("{}{back}", home.lock().unwrap()))
        }
    });
    let other = format!("http://localhost:{}", away.address.port());
    let liar = Liar::start({
        let image = image.clone();
        move |seen| {
            if seen.path.contains("/back/") {
                return image.answer(seen);
            }
            if !seen.headers.contains_key("authorization") {
                return Act::new(401, "{}").header("www-authenticate", "Basic realm=\"x\"");
            }
            if seen.path.contains("/blobs/") {
                return Act::new(307, "").header("location", format!("{other}{}", seen.path));
            }
            image.answer(seen)
        }
    });
    *home.lock().unwrap() = format!("http://{}", liar.address);
    let explicit = Some(Credentials::from_pair("me:secret"));
    let options = PullOptions { identity: Identity { explicit, files: Vec::new() }, ..options() };
    let (_folder, store) = store();
    pull(&store, &liar.reference("a/b:1"), &options, &Silent).await.unwrap();
    let back: Vec<_> = liar.seen().into_iter().filter(|seen| seen.path.contains("/back/")).collect();
    assert!(back.len() >= 2 && back.iter().all(|seen| !seen.headers.contains_key("authorization")), "{back:?}");
    assert!(away.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_repository_gets_the_user_that_the_file_names_for_it() {
    use image::remote::client::Repository;
    use image::remote::transport::Transport;
    let liar = Liar::start(|seen| {
        let wanted = if seen.path.starts_with("/v2/one/") { "Basic b25lOnBhc3M=" } else { "Basic dHdvOnBhc3M=" };
        match seen.headers.get("authorization") {
            Some(given) if given == wanted => Act::new(200, r#"{"tags":["1"]}"#),
            Some(_) => Act::new(403, "{}"),
            None => Act::new(401, "{}").header("www-authenticate", "Basic realm=\"x\""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("auth.json");
    let auths = json!({"auths": {
        (format!("{}/one", liar.address)): {"auth": "b25lOnBhc3M="},
        (format!("{}/two", liar.address)): {"auth": "dHdvOnBhc3M="},
    }});
    std::fs::write(&file, auths.to_string()).unwrap();
    let identity = Identity { explicit: None, files: vec![file] };
    let transport = Arc::new(Transport::new(options().config, identity, options().limits));
    for name in ["one/a", "two/a", "one/a"] {
        let repository = Repository::open(Arc::clone(&transport), &liar.address.to_string(), name, false).unwrap();
        assert_eq!(repository.tags().await.unwrap(), ["1"], "{name}");
    }
    let mixed = |path: &str, user: &str| {
        liar.seen().iter().any(|seen| {
            seen.path.starts_with(path) && seen.headers.get("authorization").is_some_and(|given| given.ends_with(user))
        })
    };
    assert!(!mixed("/v2/one/", "dHdvOnBhc3M=") && !mixed("/v2/two/", "b25lOnBhc3M="));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_end_is_given_up() {
    use image::remote::client::Repository;
    use image::remote::transport::Transport;
    let tags: Vec<String> = (0..20_000).map(|n| format!("t{n}")).collect();
    let subject = Digest::sha256(b"subject");
    let referrers: Vec<_> = (0..1000)
        .map(|n: u32| json!({"mediaType": media::OCI_MANIFEST, "digest": Digest::sha256(&n.to_le_bytes()), "size": 3}))
        .collect();
    let (tags, index) = (
        json!({ "tags": tags }).to_string(),
        json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": referrers}).to_string(),
    );
    let liar = Liar::start(move |seen| {
        let (body, kind) =
            if seen.path.contains("/tags/") { (&tags, "application/json") } else { (&index, media::OCI_INDEX) };
        let next = format!("<{}>; rel=\"next\"", seen.path);
        Act::new(200, body.clone()).header("link", next).header("content-type", kind)
    });
    let transport = Arc::new(Transport::new(options().config, Identity::default(), options().limits));
    let repository = Repository::open(transport, &liar.address.to_string(), "a", false).unwrap();
    let error = repository.tags().await.unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
    let error = repository.referrers(&subject).await.unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
    assert!(liar.seen().len() < 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_too_many_manifests_is_given_up_early() {
    let image = Image::new(1000);
    let manifests: Vec<_> = (0..5000)
        .map(|n: u32| {
            json!({"mediaType": media::OCI_MANIFEST, "digest": Digest::sha256(many(n).as_bytes()), "size": many(n).len()})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests}).to_string();
    let by_digest: HashMap<String, String> =
        (0..5000).map(|n| (Digest::sha256(many(n).as_bytes()).to_string(), many(n))).collect();
    let liar = Liar::start(move |seen| {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        match by_digest.get(name) {
            Some(body) => Act::new(200, body.clone()).header("content-type", media::OCI_MANIFEST),
            None => Act::new(200, index.clone()).header("content-type", media::OCI_INDEX),
        }
    });
    let (_folder, store) = store();
    let all = PullOptions { platform: None, all_platforms: true, ..options() };
    let error = pull(&store, &liar.reference("a:1"), &all, &Silent).await.unwrap_err();
    assert!(text(&error).contains("too many manifests"), "{}", text(&error));
    assert!(liar.seen().len() <= 1010, "{}", liar.seen().len());
    nothing_usable(&store, &image);
}

/// A small valid manifest, another for each number.
fn many(number: u32) -> String {
    let blob = json!({"mediaType": media::OCI_CONFIG, "digest": Digest::sha256(b"{}"), "size": 2});
    json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": blob, "layers": [],
        "annotations": {"number": number.to_string()}})
    .to_string()
}
