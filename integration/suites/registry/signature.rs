//! Signatures as cosign makes them with a key, made here with openssl and judged by us without any network service.

use crate::place::{Served, noise, pulled, shoal, upload};
use integration::{Cmd, Scratch};
use std::path::{Path, PathBuf};

/// Makes a P-256 key pair; returns the private key, beside which lies `.pub`.
fn key(folder: &Path, name: &str) -> PathBuf {
    let key = folder.join(name);
    let script = r#"openssl ecparam -name prime256v1 -genkey -noout -out "$1"; openssl ec -in "$1" -pubout -out "$1.pub" 2>/dev/null"#;
    let _ = Cmd::new("sh").args(["-ec", script, "sh"]).arg(&key).ok();
    key
}

/// Signs `digest`, in the name of `named`, as cosign does, and pushes the signature beside the image `subject`.
fn sign(registry: &Served, key: &Path, named: &str, digest: &str, subject: &str) {
    let script = r#"
import base64, hashlib, http.client, json, subprocess, sys
address, key, named, digest, repository, subject = sys.argv[1:]
payload = json.dumps({"critical": {"identity": {"docker-reference": named}, "image": {"docker-manifest-digest": digest},
    "type": "cosign container image signature"}, "optional": None}).encode()
signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=payload, capture_output=True, check=True).stdout
http_ = http.client.HTTPConnection(address)
def ask(method, path, body=b"", headers={}):
    http_.request(method, path, body, headers); answer = http_.getresponse(); text = answer.read()
    assert answer.status < 300, (method, path, answer.status, text)
    return answer
def blob(raw):
    name = "sha256:" + hashlib.sha256(raw).hexdigest()
    place = ask("POST", f"/v2/{repository}/blobs/uploads/").getheader("Location")
    place = place.removeprefix(f"http://{address}")
    ask("PUT", place + ("&" if "?" in place else "?") + "digest=" + name, raw, {"Content-Type": "application/octet-stream"})
    return {"digest": name, "size": len(raw)}
layer = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", **blob(payload),
    "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}}
kind = "application/vnd.oci.image.manifest.v1+json"
config = {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(b"{}")}
manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}).encode()
ask("PUT", f"/v2/{repository}/manifests/{subject.replace(':', '-')}.sig", manifest, {"Content-Type": kind})
"#;
    let repository = named.split_once('/').expect("a registry and a repository").1;
    let _ = Cmd::new("python3")
        .args(["-c", script, &registry.address])
        .arg(key)
        .args([named, digest, repository, subject])
        .ok();
}

#[test]
fn a_keyed_signature_decides_whether_an_image_is_pulled() {
    let scratch = Scratch::new("signed");
    for (registry, turn) in
        [(Served::theirs(&scratch), "theirs"), (Served::ours(&scratch, &scratch.join("server"), false), "ours")]
    {
        let folder = scratch.join(turn);
        std::fs::create_dir(&folder).expect("writable");
        let (good, other) = (key(&folder, "good"), key(&folder, "other"));
        let image = |name: &str| {
            let at = folder.join(name.replace('/', "-"));
            std::fs::create_dir(&at).expect("writable");
            let (archive, digest) = noise(&at, 1, 1000);
            upload(&registry, &archive, &format!("{name}:1"));
            digest
        };
        let named = |name: &str| registry.name(name);
        let [signed, wrong_key, replayed, bare] =
            ["team/signed", "team/wrong", "team/replayed", "team/bare"].map(image);
        sign(&registry, &good, &named("team/signed"), &signed, &signed);
        sign(&registry, &other, &named("team/wrong"), &wrong_key, &wrong_key);
        // A true signature of another image, hung onto this one.
        sign(&registry, &good, &named("team/replayed"), &signed, &replayed);
        let policy = folder.join("policy.json");
        let rule = serde_json::json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {(format!("{}/team", registry.address)): [{
                "type": "sigstoreSigned", "keyPath": format!("{}.pub", good.display()),
                "signedIdentity": {"type": "matchRepository"},
            }]}},
        });
        std::fs::write(&policy, rule.to_string()).expect("writable");
        let root = folder.join("root");
        let pull = |name: &str| {
            shoal(&root, &["pull", "--signature-policy"]).arg(&policy).arg(registry.name(&format!("{name}:1"))).run()
        };
        for name in ["team/wrong", "team/replayed", "team/bare", "elsewhere/image"] {
            if name == "elsewhere/image" {
                let _ = image(name);
            }
            let refused = pull(name).expect_failure();
            assert!(refused.stderr.contains("policy.json"), "{name}: {}", refused.stderr);
            assert!(shoal(&root, &["images", "-q"]).ok().is_empty(), "{name}: nothing has a name");
        }
        assert!(!bare.is_empty());
        assert_eq!(pulled(&pull("team/signed").expect_success()), signed);
        // The same rule holds for copies.
        let copy = |name: &str| {
            let from = format!("docker://{}", registry.name(&format!("{name}:1")));
            shoal(&root, &["image", "copy", "-q", "--signature-policy"])
                .arg(&policy)
                .args([&from, "store:copied:1"])
                .run()
        };
        assert!(copy("team/bare").expect_failure().stderr.contains("policy.json"));
        let _ = copy("team/signed").expect_success();
    }
}

#[test]
fn progress_as_json_tells_every_blob_to_its_end() {
    let scratch = Scratch::new("progress");
    let registry = Served::theirs(&scratch);
    let (archive, _) = noise(scratch.path(), 3, 300 << 10);
    upload(&registry, &archive, "noise:1");
    let pull = shoal(&scratch.join("root"), &["pull", "--progress", "json"]).arg(registry.name("noise:1"));
    let outcome = pull.run().expect_success();
    let events: Vec<serde_json::Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let layers: Vec<_> = of("queued").into_iter().filter(|event| event["content"] == "layer").collect();
    assert_eq!(layers.len(), 3, "{}", outcome.stderr);
    for layer in layers {
        assert!(of("done").iter().any(|event| event["digest"] == layer["digest"]), "{layer} {}", outcome.stderr);
        assert!(layer["size"].as_u64().is_some_and(|size| size > 300 << 10));
    }
    // Data on stdout, and nothing else there.
    assert!(outcome.stdout.contains("Digest: sha256:"));
    let quiet = shoal(&scratch.join("other"), &["pull", "-q"]).arg(registry.name("noise:1")).run().expect_success();
    assert_eq!((quiet.stdout.trim(), quiet.stderr.as_str()), (registry.name("noise:1").as_str(), ""));
}
