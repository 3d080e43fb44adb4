//! Images between archives, directories, registries and stores: the digest stays, and other tools agree. Bundles run.

use crate::place::{Served, busybox, noise, shoal, upload};
use integration::{Cmd, Scratch, binaries};
use std::path::Path;

fn skopeo_digest(place: &str) -> String {
    let inspect = Cmd::new(binaries::tool("skopeo", "skopeo")).args(["inspect", "--format", "{{.Digest}}"]);
    inspect.arg(place).ok().trim().to_owned()
}

/// The digest of the bytes of the config: what docker-archive, which has no manifest of the image, keeps.
fn id(root: &Path, name: &str) -> String {
    shoal(root, &["image", "inspect", "--format", "{{.Id}}", name]).ok().trim().to_owned()
}

#[test]
fn every_transport_keeps_the_digest_on_the_way_there_and_back() {
    let scratch = Scratch::new("transports");
    let registry = Served::theirs(&scratch);
    let (archive, digest) = noise(scratch.path(), 3, 256 << 10);
    upload(&registry, &archive, "noise:1");
    let root = scratch.join("root");
    let remote = format!("docker://{}", registry.name("noise:1"));
    let copy = |from: &str, to: &str| shoal(&root, &["image", "copy", "-q", from, to]).ok().trim().to_owned();
    let layers = |place: &str| {
        Cmd::new(binaries::tool("skopeo", "skopeo")).args(["inspect", "--format", "{{.Layers}}", place]).ok()
    };
    assert_eq!(copy(&remote, "store:noise:store"), digest);
    let places: Vec<String> = ["oci:%/layout:1", "oci-archive:%/oci.tar:1", "dir:%/dir"]
        .iter()
        .map(|place| place.replace('%', &scratch.path().display().to_string()))
        .collect();
    for (n, place) in places.iter().enumerate() {
        // From a registry, from the store, and back into both.
        assert_eq!(copy(&remote, place), digest, "{place}");
        assert_eq!(skopeo_digest(place), digest, "{place}");
        assert_eq!(copy(place, &format!("store:back{n}:1")), digest, "{place}");
        let again = format!("docker://{}", registry.name(&format!("back{n}:1")));
        assert_eq!(copy(place, &again), digest, "{place}");
        assert_eq!(registry.digest(&format!("back{n}:1")), digest);
        // What skopeo writes is read the same.
        let theirs =
            place.replace(scratch.path().to_str().expect("UTF-8"), scratch.join("theirs").to_str().expect("UTF-8"));
        std::fs::create_dir_all(scratch.join("theirs")).expect("writable");
        let tls = "--src-tls-verify=false";
        let skopeo = Cmd::new(binaries::tool("skopeo", "skopeo")).args(["copy", "--preserve-digests", tls]);
        let _ = skopeo.args([&remote, &theirs]).ok();
        assert_eq!(copy(&theirs, &format!("store:theirs{n}:1")), digest, "{theirs}");
    }
    // docker-archive holds plain layers and no manifest of the image: the config and the layers stay.
    let docker = format!("docker-archive:{}:noise:d", scratch.join("docker.tar").display());
    let _ = copy("store:noise:store", &docker);
    let _ = copy(&docker, "store:fromdocker:1");
    assert_eq!(id(&root, "fromdocker:1"), id(&root, "noise:store"));
    assert!(layers(&docker).contains("sha256:"));
    let theirs = format!("docker-archive:{}:noise:t", scratch.join("docker-theirs.tar").display());
    let skopeo =
        Cmd::new(binaries::tool("skopeo", "skopeo")).args(["copy", "--src-tls-verify=false", &remote, &theirs]);
    let _ = skopeo.ok();
    let _ = copy(&theirs, "store:fromtheirs:1");
    assert_eq!(id(&root, "fromtheirs:1"), id(&root, "noise:store"));
    let verify = shoal(&root, &["image", "verify"]).ok();
    assert!(verify.ends_with("0 problems\n"), "{verify}");
}

#[test]
fn save_and_load_through_a_pipe_keep_the_digest() {
    let scratch = Scratch::new("pipe");
    let (archive, digest) = noise(scratch.path(), 2, 128 << 10);
    let root = scratch.join("root");
    let _ = shoal(&root, &["load", "-i"]).arg(archive).ok();
    for (n, format) in ["docker-archive", "oci-archive"].iter().enumerate() {
        let other = scratch.join(&format!("other{n}"));
        let script = r#""$1" --root "$2" save --format "$4" noise:1 | "$1" --root "$3" load"#;
        let pipe = Cmd::new("sh").args(["-ec", script, "sh"]).arg(binaries::shoal()).arg(&root).arg(&other).arg(format);
        let _ = pipe.ok();
        assert_eq!(id(&other, "noise:1"), id(&root, "noise:1"), "{format}");
        let stored = format!("oci:{}:docker.io/library/noise:1", other.join("data/images").display());
        assert_eq!(skopeo_digest(&stored), digest, "{format}");
    }
}

#[test]
fn an_index_travels_with_all_its_platforms() {
    let scratch = Scratch::new("index");
    let registry = Served::theirs(&scratch);
    let (archive, _) = busybox(scratch.path());
    let layout = scratch.join("layout");
    let place = format!("oci:{}:1", layout.display());
    let skopeo = || Cmd::new(binaries::tool("skopeo", "skopeo"));
    let _ = skopeo()
        .args(["copy", "--preserve-digests"])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(&place)
        .ok();
    // A second platform, with a config of its own, and the index over both.
    let script = r#"
import json, hashlib, sys, os
root = sys.argv[1]; blobs = root + "/blobs/sha256/"
def put(data):
    raw = json.dumps(data).encode() if not isinstance(data, bytes) else data
    name = hashlib.sha256(raw).hexdigest(); open(blobs + name, "wb").write(raw)
    return {"digest": "sha256:" + name, "size": len(raw)}
top = json.load(open(root + "/index.json")); first = top["manifests"][0]
manifest = json.load(open(blobs + first["digest"][7:]))
config = json.load(open(blobs + manifest["config"]["digest"][7:])); config["architecture"] = "arm64"
manifest["config"] = {"mediaType": manifest["config"]["mediaType"], **put(config)}
second = {"mediaType": first["mediaType"], **put(manifest), "platform": {"os": "linux", "architecture": "arm64"}}
name = first.pop("annotations"); first["platform"] = {"os": "linux", "architecture": "amd64"}
kind = "application/vnd.oci.image.index.v1+json"
index = {"mediaType": kind, **put({"schemaVersion": 2, "mediaType": kind, "manifests": [first, second]}), "annotations": name}
json.dump({"schemaVersion": 2, "manifests": [index]}, open(root + "/index.json", "w"))
print(index["digest"], second["digest"])
"#;
    let out = Cmd::new("python3").args(["-c", script]).arg(&layout).ok();
    let (index, arm) = out.trim().split_once(' ').expect("two digests");
    let root = scratch.join("root");
    let remote = format!("docker://{}", registry.name("index:1"));
    let copy = |flags: &[&str], from: &str, to: &str| {
        shoal(&root, &["image", "copy", "-q"]).args(flags).args([from, to]).ok().trim().to_owned()
    };
    assert_eq!(copy(&["--all"], &place, &remote), index);
    let raw = skopeo().args(["inspect", "--raw", "--tls-verify=false", &remote]).ok();
    assert!(raw.contains("arm64") && raw.contains("amd64"));
    for to in ["oci:%/all:1", "oci-archive:%/all.tar:1", "dir:%/alldir"] {
        let to = to.replace('%', &scratch.path().display().to_string());
        assert_eq!(copy(&["--all"], &remote, &to), index, "{to}");
        assert_eq!(copy(&["--all"], &to, "store:all:1"), index, "{to}");
        let _ = shoal(&root, &["rmi", "all:1"]).ok();
    }
    // One platform: another than the host's, by pull and by copy.
    let other = scratch.join("other");
    let name = registry.name("index:1");
    let _ = shoal(&other, &["pull", "-q", "--platform", "linux/arm64", &name]).ok();
    let shown = shoal(&other, &["image", "inspect", "--format", "{{.Architecture}}", &name]).ok();
    assert_eq!(shown.trim(), "arm64");
    let refused = shoal(&other, &["pull", "-q", "--platform", "linux/s390x", &name]).run().expect_failure();
    assert!(refused.stderr.contains("s390x"), "{}", refused.stderr);
    assert_eq!(copy(&["--platform", "linux/arm64"], &remote, "store:arm:1"), arm);
}

#[test]
fn an_unpacked_bundle_runs_under_runc_and_under_ours() {
    let scratch = Scratch::new("bundle");
    let (archive, _) = busybox(scratch.path());
    let root = scratch.join("root");
    let _ = shoal(&root, &["load", "-i"]).arg(archive).ok();
    for (n, runtime) in [binaries::tool("runc", "runc"), binaries::runtime()].iter().enumerate() {
        let bundle = scratch.join(&format!("bundle{n}"));
        let _ = shoal(&root, &["image", "unpack", "-q", "box:1"]).arg(&bundle).ok();
        let run = Cmd::new(runtime).arg("--root").arg(scratch.join("state")).args(["run", "--bundle"]);
        let out = run.arg(&bundle).arg(format!("{}-{n}", scratch.id())).run().expect_success();
        assert_eq!(out.stdout, "hello from the image\n", "{}", runtime.display());
    }
}
