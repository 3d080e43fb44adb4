//! Layers and archives made to harm: each goes through every form of a root file system with a canary outside, which must
//! stay as it is. What is refused is refused with words and leaves nothing; what is taken stays inside.

use super::{archive, listing, load, sh, shoal};
use integration::image::Builder;
use integration::{Cmd, Outcome, Scratch, binaries};
use serde_json::json;
use std::path::Path;

/// The most memory that a command may take with a layer made to take much, in KiB.
const MEMORY_KIB_MAX: u64 = 400 << 10;

/// One entry of a raw tar: name, type flag, link, data, mode.
type Raw<'a> = (&'a str, u8, &'a str, &'a [u8], u32);

const FILE: u8 = b'0';
const HARD: u8 = b'1';
const SOFT: u8 = b'2';
const FOLDER: u8 = b'5';

/// A tar of entries as they are given: no library that would refuse them stands between.
fn raw(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, kind, link, data, mode) in entries {
        tar.extend(header(name, *kind, link, data.len(), *mode));
        tar.extend(*data);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn header(name: &str, kind: u8, link: &str, size: usize, mode: u32) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000001\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Everything about a folder that an attack could change.
fn census(outside: &Path) -> String {
    let script = r#"cd "$1"; find . -exec stat -c '%n %F %a %u:%g %h %s %Y %Z %T' {} + | sort; getfattr -R -h -d -m - . 2>/dev/null; cat canary"#;
    Cmd::new("sh").args(["-c", script, "sh"]).arg(outside).ok()
}

fn outside(scratch: &Scratch) -> std::path::PathBuf {
    let outside = scratch.join("outside");
    std::fs::create_dir_all(&outside).expect("a scratch folder");
    std::fs::write(outside.join("canary"), "alive").expect("a scratch folder");
    sh(&outside, "chmod 640 canary; chmod 750 .; setfattr -n user.mark -v kept canary; touch -d 2001-01-01 canary .");
    outside
}

/// Loads layers and shows them in every form. Returns what each command said: unpack, then mount in both forms.
fn in_every_form(scratch: &Scratch) -> Vec<(&'static str, Outcome)> {
    let flat = scratch.join("flat");
    let path = flat.display().to_string();
    let mut outcomes =
        vec![("unpack", shoal(scratch, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &path]).run())];
    for form in ["directory", "index"] {
        let mounted = scratch.join(form).display().to_string();
        let outcome = shoal(scratch, &["image", "mount", "layers:1", &mounted]).env("SHOAL_LAYER_FORM", form).run();
        if outcome.status.success() {
            shoal(scratch, &["image", "unmount", &mounted]).env("SHOAL_LAYER_FORM", form).ok();
        }
        outcomes.push((form, outcome));
    }
    outcomes
}

#[test]
fn hostile_layers_reach_nothing_outside_in_any_form() {
    let probe = Scratch::new("hostile");
    let out = outside(&probe);
    let absolute = out.display().to_string();
    let canary = format!("{absolute}/canary");
    // From `flat/`, `directory/` and the layer's own folder alike: as many steps up as any of them needs.
    let climbing = format!("../../../../../../../../../..{absolute}");
    let cases: Vec<(&str, Vec<Vec<Raw<'_>>>)> = vec![
        ("a link called .", vec![vec![(".", SOFT, &absolute, b"", 0o777), ("canary", FILE, "", b"dead", 0o777)]]),
        ("a link called /", vec![vec![("/", SOFT, &absolute, b"", 0o777), ("canary", FILE, "", b"dead", 0o777)]]),
        (
            "a link, then a file below it",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x/canary", FILE, "", b"dead", 0o777)]],
        ),
        (
            "a climbing link, then a file below it",
            vec![vec![("x", SOFT, &climbing, b"", 0o777), ("x/canary", FILE, "", b"dead", 0o777)]],
        ),
        (
            "a link, then a directory of its name",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x", FOLDER, "", b"", 0o777)]],
        ),
        (
            "a link, then a directory of its name with a slash",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x/", FOLDER, "", b"", 0o777)]],
        ),
        (
            "a directory made through a link",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x/made/deep", FOLDER, "", b"", 0o777)]],
        ),
        ("a name that climbs", vec![vec![("../outside/canary", FILE, "", b"dead", 0o777)]]),
        (
            "a name that climbs later",
            vec![vec![("a", FOLDER, "", b"", 0o755), ("a/../../outside/canary", FILE, "", b"dead", 0o777)]],
        ),
        ("an absolute name", vec![vec![(&canary, FILE, "", b"dead", 0o777)]]),
        (
            "a hard link to an absolute name",
            vec![vec![("h", HARD, &canary, b"", 0o777), ("h", FILE, "", b"dead", 0o777)]],
        ),
        ("a hard link that climbs", vec![vec![("h", HARD, "../outside/canary", b"", 0o777)]]),
        (
            "a hard link through a link",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("h", HARD, "x/canary", b"", 0o666)]],
        ),
        ("a file over a link to a file", vec![vec![("x", SOFT, &canary, b"", 0o777), ("x", FILE, "", b"dead", 0o777)]]),
        (
            "a whiteout through a link",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x/.wh.canary", FILE, "", b"", 0o644)]],
        ),
        (
            "an opaque marker through a link",
            vec![vec![("x", SOFT, &absolute, b"", 0o777), ("x/.wh..wh..opq", FILE, "", b"", 0o644)]],
        ),
        ("a whiteout that climbs", vec![vec![(".wh...", FILE, "", b"", 0o644), (".wh..", FILE, "", b"", 0o644)]]),
        (
            "a link in one layer, a file through it in the next",
            vec![vec![("x", SOFT, &absolute, b"", 0o777)], vec![("x/canary", FILE, "", b"dead", 0o777)]],
        ),
        (
            "a link in one layer, a whiteout through it in the next",
            vec![
                vec![("x", SOFT, &absolute, b"", 0o777)],
                vec![("x/.wh.canary", FILE, "", b"", 0o644), ("x/.wh..wh..opq", FILE, "", b"", 0o644)],
            ],
        ),
        (
            "a link in one layer, a hard link through it in the next",
            vec![
                vec![("x", SOFT, &absolute, b"", 0o777)],
                vec![("h", HARD, "x/canary", b"", 0o777), ("h", FILE, "", b"dead", 0o777)],
            ],
        ),
        (
            "a directory that becomes a link under its own entries",
            vec![
                vec![("x", FOLDER, "", b"", 0o755), ("x/canary", FILE, "", b"mine", 0o644)],
                vec![
                    ("x", SOFT, &absolute, b"", 0o777),
                    ("x/canary", FILE, "", b"dead", 0o777),
                    ("x", FOLDER, "", b"", 0o777),
                ],
            ],
        ),
    ];
    for (what, layers) in cases {
        // A folder of its own, beside the same canary.
        let scratch = Scratch::new("hostilecase");
        let before = census(&out);
        load(&scratch, &layers.iter().map(|entries| raw(entries)).collect::<Vec<_>>());
        for (form, outcome) in in_every_form(&scratch) {
            assert!(!outcome.stderr.contains("panicked"), "{what}, {form}: {}", outcome.stderr);
            assert!(outcome.status.code().is_some_and(|code| code < 100), "{what}, {form}: {outcome:?}");
        }
        assert_eq!(census(&out), before, "{what}");
        assert!(
            !scratch.join("outside").exists() && !scratch.join("made").exists(),
            "{what}: something beside the root"
        );
        assert!(integration::scratch::mounts_below(scratch.path()).is_empty(), "{what}: something stays mounted");
        let verify = shoal(&scratch, &["image", "verify"]).ok();
        assert!(verify.ends_with("0 problems\n"), "{what}: {verify}");
        let left = std::fs::read_dir(scratch.join("root/data/images/tmp")).expect("a store").count();
        assert_eq!(left, 0, "{what}: something unfinished stays");
    }
}

#[test]
fn two_sizes_of_one_entry_are_read_as_gnu_tar_reads_them_or_refused() {
    // The header says one size and the extended header another: a reader that believes the wrong one takes data for entries.
    let smuggled = header("smuggled", FILE, "", 0, 0o644);
    for (pax, size) in [("512", 0), ("0", 512), ("1024", 512), ("512", 1024), ("-1", 512)] {
        let scratch = Scratch::new("sizes");
        let record = format!(" size={pax}\n");
        let length = record.len() + if record.len() + 2 < 10 { 1 } else { 2 };
        let record = format!("{length}{record}");
        let mut tar = header("pax", b'x', "", record.len(), 0o644).to_vec();
        tar.extend(record.as_bytes());
        tar.resize(1024, 0);
        tar.extend(header("outer", FILE, "", size, 0o644));
        tar.extend(smuggled);
        tar.extend(smuggled);
        tar.extend(raw(&[("last", FILE, "", b"x", 0o644)]));
        std::fs::write(scratch.join("layer.tar"), &tar).expect("a scratch folder");
        let theirs = scratch.join("theirs");
        std::fs::create_dir(&theirs).expect("a scratch folder");
        let gnu = Cmd::new("tar").args(["-xf", "../layer.tar"]).folder(&theirs).run();
        load(&scratch, &[tar]);
        let flat = scratch.join("flat");
        let ours =
            shoal(&scratch, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &flat.display().to_string()]).run();
        let refused = !ours.status.success();
        assert!(refused || gnu.status.success(), "PAX {pax}, header {size}: only ours takes it");
        let names = |root: &Path| listing(root).into_keys().filter(|name| !name.is_empty()).collect::<Vec<_>>();
        if !refused {
            assert_eq!(names(&flat), names(&theirs), "PAX {pax}, header {size}");
        }
        for form in ["directory", "index"] {
            let mounted = scratch.join(form);
            let path = mounted.display().to_string();
            let mount = shoal(&scratch, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).run();
            assert_eq!(mount.status.success(), !refused, "PAX {pax}, header {size}, {form}: {mount:?}");
            if !refused {
                assert_eq!(names(&mounted), names(&theirs), "PAX {pax}, header {size}, {form}");
                shoal(&scratch, &["image", "unmount", &path]).env("SHOAL_LAYER_FORM", form).ok();
            }
        }
    }
}

/// Runs a command of ours under a clock and a scale; returns what it said and the most memory it had, in KiB.
fn weighed(cmd: &Cmd) -> (bool, String, u64) {
    let script = "import resource, subprocess, sys\nrun = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n\
                  print(run.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\nsys.stdout.write(run.stderr.decode())";
    let said = Cmd::new("python3").args(["-c", script, "sh", "-c", &cmd.line()]).ok();
    let (first, rest) = said.split_once('\n').expect("the first line is ours");
    let (code, kib) = first.split_once(' ').expect("two numbers");
    (code == "0", rest.to_owned(), kib.parse().expect("a number"))
}

#[test]
fn bombs_of_gzip_and_zstd_are_refused_in_bounded_time_and_memory_and_leave_nothing() {
    let scratch = Scratch::new("bomb");
    // Two gigabytes of zeros behind a small archive, in two megabytes or less.
    let small = raw(&[("file", FILE, "", b"x", 0o644)]);
    std::fs::write(scratch.join("small.tar"), small).expect("a scratch folder");
    binaries::tool("zstd", "zstd");
    sh(
        scratch.path(),
        "(cat small.tar; head -c 2G /dev/zero) | gzip -1 > bomb.gz; (cat small.tar; head -c 2G /dev/zero) | zstd -q -1 > bomb.zst; \
         (cat small.tar; head -c 300M /dev/zero) | zstd -q --ultra -20 --long=31 > window.zst",
    );
    for (name, kind) in [("bomb.gz", "tar+gzip"), ("bomb.zst", "tar+zstd"), ("window.zst", "tar+zstd")] {
        let case = Scratch::new("bombcase");
        let bytes = std::fs::read(scratch.join(name)).expect("it was made");
        let mut builder = Builder::new("docker.io/library/layers:1");
        let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
        builder.packed_layer(&media_type, bytes, &format!("sha256:{}", "0".repeat(64)));
        let image = case.join("image.tar");
        builder.write(&image);
        shoal(&case, &["load", "-i", &image.display().to_string()]).ok();
        for form in ["directory", "index"] {
            let path = case.join(form).display().to_string();
            let mount = shoal(&case, &["image", "mount", "layers:1", &path]);
            let line = format!("SHOAL_LAYER_FORM={form} {}", mount.line());
            let (took, said, kib) = weighed(&Cmd::new(line));
            assert!(!took && !said.contains("panicked"), "{name}, {form}: {said}");
            let expected =
                ["decompression bomb", "read the layer", "too much memory", "but the image's config promises"];
            assert!(expected.iter().any(|words| said.contains(words)), "{name}, {form}: {said}");
            assert!(kib < MEMORY_KIB_MAX, "{name}, {form}: {kib} KiB");
            println!("{name} {form}: {kib} KiB, {}", said.lines().last().unwrap_or_default());
        }
        let layers = std::fs::read_dir(case.join("root/data/images/layers")).expect("a store");
        let left: Vec<_> =
            layers.flatten().filter(|entry| !entry.file_name().to_string_lossy().ends_with(".lock")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        assert_eq!(std::fs::read_dir(case.join("root/data/images/tmp")).expect("a store").count(), 0, "{name}");
    }
}

#[test]
fn many_opaque_markers_over_many_files_end_in_time() {
    let scratch = Scratch::new("opaque");
    let names: Vec<String> = (0..20_000).map(|n| format!("d/{n}")).collect();
    let markers: Vec<String> = (0..20_000).map(|n| format!("d/x{n}/.wh..wh..opq")).collect();
    let mut lower: Vec<Raw<'_>> = vec![("d", FOLDER, "", b"", 0o755)];
    lower.extend(names.iter().map(|name| (name.as_str(), FILE, "", &b""[..], 0o644)));
    let mut upper: Vec<Raw<'_>> = vec![("d", FOLDER, "", b"", 0o755)];
    for marker in &markers {
        upper.push((marker.as_str(), FILE, "", b"", 0o644));
        upper.push(("d/.wh..wh..opq", FILE, "", b"", 0o644));
    }
    load(&scratch, &[raw(&lower), raw(&upper)]);
    for (form, outcome) in in_every_form(&scratch) {
        // The deadline of a command is the bound; quadratic work (4 × 10⁸ names) does not meet it.
        assert!(outcome.status.success(), "{form}: {}", outcome.stderr);
    }
}

#[test]
fn names_and_attributes_beyond_all_bounds_are_refused() {
    let scratch = Scratch::new("long");
    let long = "n".repeat(256);
    let deep = vec!["d"; 2100].join("/");
    let pax = |key: &str, value: &[u8]| -> Vec<u8> {
        let tail = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = tail.len() + 1;
        while length != tail.len() + length.to_string().len() {
            length = tail.len() + length.to_string().len();
        }
        [length.to_string().as_bytes(), &tail].concat()
    };
    let huge = vec![b'v'; 70_000];
    let name = format!("SCHILY.xattr.user.{}", "k".repeat(300));
    for (what, record) in [
        ("a name of 256 bytes", pax("path", long.as_bytes())),
        ("a path of 4,200 bytes", pax("path", deep.as_bytes())),
        ("an attribute of 70,000 bytes", pax("SCHILY.xattr.user.v", &huge)),
        ("an attribute's name of 300 bytes", pax(&name, b"x")),
        ("a header of two megabytes", pax("comment", &vec![b'c'; 2 << 20])),
    ] {
        let case = Scratch::new("longcase");
        let mut tar = header("pax", b'x', "", record.len(), 0o644).to_vec();
        tar.extend(&record);
        tar.resize(tar.len().next_multiple_of(512), 0);
        tar.extend(raw(&[("file", FILE, "", b"x", 0o644)]));
        load(&case, &[tar]);
        for (form, outcome) in in_every_form(&case) {
            let outcome = outcome.expect_failure();
            assert!(!outcome.stderr.contains("panicked"), "{what}, {form}: {}", outcome.stderr);
        }
        assert!(!case.join("flat").exists(), "{what}: half a tree stays");
    }
    drop(scratch);
}

/// An OCI layout of one image in `folder`, and the path of its layer's blob.
fn layout(scratch: &Scratch, folder: &Path) -> std::path::PathBuf {
    let layer = archive(scratch, "plain", "echo x > f", "f");
    let mut builder = Builder::new("docker.io/library/layers:1");
    builder.layer(&layer);
    let image = scratch.join("image.tar");
    builder.write(&image);
    std::fs::create_dir(folder).expect("a scratch folder");
    sh(folder, &format!("tar -xf {}", image.display()));
    let index: serde_json::Value = json_of(&folder.join("index.json"));
    let blob = |digest: &serde_json::Value| folder.join("blobs").join(digest.as_str().expect("text").replace(':', "/"));
    let manifest = json_of(&blob(&index["manifests"][0]["digest"]));
    blob(&manifest["layers"][0]["digest"])
}

fn json_of(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON")
}

#[test]
fn a_layout_whose_blob_is_a_link_to_a_host_file_is_refused() {
    let scratch = Scratch::new("bloblink");
    let folder = scratch.join("layout");
    let blob = layout(&scratch, &folder);
    // The very bytes that are wanted, so that nothing but the link can be the reason.
    let secret = scratch.join("secret");
    std::fs::rename(&blob, &secret).expect("the same file system");
    std::os::unix::fs::symlink(&secret, &blob).expect("a free name");
    let from = format!("oci:{}", folder.display());
    for to in ["store:copied:1".to_owned(), format!("dir:{}", scratch.join("copied").display())] {
        let refused = shoal(&scratch, &["image", "copy", "-q", &from, &to]).run().expect_failure();
        assert!(refused.stderr.contains("symbolic link"), "{to}: {}", refused.stderr);
    }
    // The same as an archive: members that are links are no blobs.
    sh(&folder, "tar -cf ../linked.tar .");
    let refused =
        shoal(&scratch, &["load", "-i", &scratch.join("linked.tar").display().to_string()]).run().expect_failure();
    assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
    assert!(shoal(&scratch, &["images", "-q"]).ok().is_empty());
}

#[test]
fn a_digest_that_is_a_path_is_refused_everywhere() {
    let scratch = Scratch::new("digestpath");
    let folder = scratch.join("layout");
    layout(&scratch, &folder);
    std::fs::write(scratch.join("secret"), "canary").expect("a scratch folder");
    let evil = format!("sha256:../../../../..{}", scratch.join("secret").display());
    let mut index = json_of(&folder.join("index.json"));
    index["manifests"][0]["digest"] = json!(evil);
    std::fs::write(folder.join("index.json"), index.to_string()).expect("a scratch folder");
    let from = format!("oci:{}", folder.display());
    let refused = shoal(&scratch, &["image", "copy", "-q", &from, "store:x:1"]).run().expect_failure();
    assert!(refused.stderr.contains("digest") && !refused.stderr.contains("canary"), "{}", refused.stderr);
    sh(&folder, "tar -cf ../evil.tar .");
    let _ = shoal(&scratch, &["load", "-i", &scratch.join("evil.tar").display().to_string()]).run().expect_failure();
    for name in [format!("layers@{evil}"), evil.clone(), "../../etc/passwd".to_owned(), "-x".to_owned()] {
        for verb in [["image", "inspect", "--"], ["image", "history", "--"], ["image", "rm", "--"]] {
            let refused = shoal(&scratch, &verb).arg(&name).run().expect_failure();
            assert!(!refused.stderr.contains("panicked"), "{name}: {}", refused.stderr);
        }
    }
    assert_eq!(std::fs::read_to_string(scratch.join("secret")).expect("it is there"), "canary");
}

#[test]
fn gzip_members_trailing_bytes_and_skippable_frames_unpack_in_every_form() {
    binaries::tool("zstd", "zstd");
    let scratch = Scratch::new("packing");
    let layer =
        archive(&scratch, "plain", "mkdir d; echo x > d/f; head -c 300000 /dev/urandom > r; ln r h", ". d d/f r h");
    std::fs::write(scratch.join("layer.tar"), &layer).expect("a scratch folder");
    let theirs = scratch.join("theirs");
    std::fs::create_dir(&theirs).expect("a scratch folder");
    sh(&theirs, "tar -xpf ../layer.tar");
    sh(
        scratch.path(),
        r#"half=100000
        (head -c $half layer.tar | gzip -n; tail -c +$((half + 1)) layer.tar | gzip -n; head -c 700 /dev/zero; echo junk) > a.gz
        skip() { printf '\120\052\115\030\003\0\0\0xyz'; }
        (skip; head -c $half layer.tar | zstd -q; skip; tail -c +$((half + 1)) layer.tar | zstd -q; skip) > b.zst"#,
    );
    let digest = Cmd::new("sha256sum").arg(scratch.join("layer.tar")).ok();
    let digest = format!("sha256:{}", digest.split(' ').next().expect("a sum"));
    for (name, kind) in [("a.gz", "tar+gzip"), ("b.zst", "tar+zstd")] {
        let case = Scratch::new("packingcase");
        let mut builder = Builder::new("docker.io/library/layers:1");
        let bytes = std::fs::read(scratch.join(name)).expect("it was made");
        builder.packed_layer(&format!("application/vnd.oci.image.layer.v1.{kind}"), bytes, &digest);
        let image = case.join("image.tar");
        builder.write(&image);
        shoal(&case, &["load", "-i", &image.display().to_string()]).ok();
        let flat = case.join("flat");
        shoal(&case, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &flat.display().to_string()]).ok();
        super::assert_same(&flat, &theirs);
        for form in ["directory", "index"] {
            let path = case.join(form).display().to_string();
            shoal(&case, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).ok();
            super::assert_same(&case.join(form), &theirs);
            shoal(&case, &["image", "unmount", &path]).env("SHOAL_LAYER_FORM", form).ok();
        }
    }
}
