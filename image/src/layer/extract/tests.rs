//! Hostile layers, unpacked beside a canary that must stay as it is; and what whiteouts do. Without root: owners and
//! devices are compared in the integration suite.

use super::*;
use crate::layer::write::Writer;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        link: Vec::new(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: (1_000_000_000, 0),
        device: (0, 0),
        xattrs: Vec::new(),
        data_offset: 0,
        stored: 0,
        sparse: None,
    }
}

fn link(path: &str, kind: Kind, target: &str) -> Entry {
    Entry { link: target.as_bytes().to_vec(), ..entry(path, kind) }
}

/// A tar of entries; files hold their own path.
fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        match entry.kind {
            Kind::File => {
                let data = entry.path.clone();
                writer.file(&Entry { size: data.len() as u64, ..entry.clone() }, &mut data.as_slice()).unwrap();
            }
            _ => writer.entry(entry).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// A directory with `root`, and beside it `outside` with a file and a mode that must not change.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        std::fs::set_permissions(dir.path().join("outside"), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(dir)
    }

    fn outside(&self) -> String {
        self.0.path().join("outside").display().to_string()
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    fn unpack(&self, layers: &[&[Entry]], whiteouts: Whiteouts) -> Result<(), ExtractError> {
        let raw: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
        self.unpack_raw(&raw, whiteouts)
    }

    fn unpack_raw(&self, layers: &[Vec<u8>], whiteouts: Whiteouts) -> Result<(), ExtractError> {
        let root = sys::open_dir(&self.root()).unwrap();
        let mut extractor = Extractor::new(root, Options { whiteouts, owners: false });
        let result = layers.iter().try_for_each(|raw| extractor.layer(&mut Reader::new(raw.as_slice())));
        self.check_canary();
        result
    }

    fn check_canary(&self) {
        let outside = self.0.path().join("outside");
        assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "alive");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "nothing was made outside");
        assert_eq!(std::fs::metadata(&outside).unwrap().mode() & 0o777, 0o711);
        assert_eq!(std::fs::read_dir(self.0.path()).unwrap().count(), 2);
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.root(), "", &mut names);
        names.sort();
        names
    }
}

fn walk(dir: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{name}/"), names);
        }
        names.push(name);
    }
}

use Kind::{Directory, File, HardLink, Symlink};

#[test]
fn links_never_lead_outside() {
    for target in ["OUTSIDE", "../outside", "../../../../../../../../OUTSIDE"] {
        let scene = Scene::new();
        let target = target.replace("OUTSIDE", scene.outside().trim_start_matches('/'));
        for absolute in [target.clone(), format!("/{target}")] {
            let scene = Scene::new();
            // Through a link to a file, to a directory, over it, below it, as a hard link's target, as a whiteout's place.
            let attempts: [&[Entry]; 6] = [
                &[link("x", Symlink, &absolute), entry("x/evil", File)],
                &[link("x", Symlink, &absolute), entry("x/evil/deep", Directory)],
                &[link("x", Symlink, &format!("{absolute}/canary")), entry("x", File)],
                &[link("x", Symlink, &absolute), Entry { mode: 0o777, ..entry("x", Directory) }],
                &[link("x", Symlink, &absolute), link("y", HardLink, "x/canary")],
                &[link("x", Symlink, &absolute), entry("x/.wh.canary", File), entry("x/.wh..wh..opq", File)],
            ];
            for entries in attempts {
                // Refused or contained: both are right, touching the canary is not.
                let _ = scene.unpack(&[entries], Whiteouts::Apply);
                let _ = scene.unpack(&[entries], Whiteouts::OverlayUser);
            }
        }
    }
}

#[test]
fn a_directory_replaces_a_link_and_never_changes_its_target() {
    let scene = Scene::new();
    let entries =
        [link("x", Symlink, &scene.outside()), Entry { mode: 0o700, ..entry("x", Directory) }, entry("x/f", File)];
    scene.unpack(&[&entries], Whiteouts::Apply).unwrap();
    assert_eq!(std::fs::symlink_metadata(scene.root().join("x")).unwrap().mode() & 0o170_777, 0o040_700);
    assert_eq!(scene.names(), ["x", "x/f"]);
}

#[test]
fn names_that_climb_are_refused_and_absolute_ones_stay_inside() {
    for path in ["../evil", "a/../../evil", "..", "a/.."] {
        let scene = Scene::new();
        assert!(scene.unpack(&[&[entry(path, File)]], Whiteouts::Apply).is_err(), "{path}");
        let hard = [entry("f", File), link("l", HardLink, "../outside/canary")];
        assert!(scene.unpack(&[&hard], Whiteouts::Apply).is_err());
    }
    let scene = Scene::new();
    let path = format!("{}/evil", scene.outside());
    scene.unpack(&[&[entry(&path, File)]], Whiteouts::Apply).unwrap();
}

#[test]
fn a_link_named_like_the_root_is_refused() {
    for path in [".", "/", "./"] {
        let scene = Scene::new();
        let evil = link(path, Symlink, &scene.outside());
        assert!(scene.unpack(&[&[evil, entry("f", File)]], Whiteouts::Apply).is_err(), "{path}");
    }
}

#[test]
fn whiteouts_remove_what_lower_layers_left_and_spare_the_layer_itself() {
    let scene = Scene::new();
    let lower = [
        entry("d", Directory),
        entry("d/old", File),
        entry("d/sub", Directory),
        entry("d/sub/deep", File),
        entry("gone", File),
        entry("kept", File),
    ];
    let upper = [
        entry("d/new", File),
        entry("d/.wh..wh..opq", File),
        entry("d/late", File),
        entry(".wh.gone", File),
        entry(".wh.never", File),
        entry("d/sub", Directory),
    ];
    scene.unpack(&[&lower, &upper], Whiteouts::Apply).unwrap();
    assert_eq!(scene.names(), ["d", "d/late", "d/new", "d/sub", "kept"]);
}

#[test]
fn whiteout_and_entry_of_one_name_in_one_layer_leave_the_entry() {
    for upper in [[entry(".wh.x", File), entry("x", File)], [entry("x", File), entry(".wh.x", File)]] {
        let scene = Scene::new();
        scene.unpack(&[&[entry("x", Directory), entry("x/old", File)], &upper], Whiteouts::Apply).unwrap();
        assert_eq!(scene.names(), ["x"]);
    }
}

#[test]
fn many_opaque_markers_cost_no_more_than_one() {
    let scene = Scene::new();
    let mut lower = vec![entry("d", Directory)];
    lower.extend((0..50).map(|n| entry(&format!("d/{n}"), File)));
    let mut upper: Vec<Entry> = (0..50).map(|n| entry(&format!("d/new{n}"), File)).collect();
    upper.extend((0..500).map(|_| entry("d/.wh..wh..opq", File)));
    // Whiteouts of the directory itself clear it in the same way.
    upper.extend((0..500).flat_map(|_| [entry("d", Directory), entry(".wh.d", File)]));
    let mut extractor =
        Extractor::new(sys::open_dir(&scene.root()).unwrap(), Options { whiteouts: Whiteouts::Apply, owners: false });
    for layer in [&lower, &upper] {
        extractor.layer(&mut Reader::new(tar(layer).as_slice())).unwrap();
    }
    assert_eq!(scene.names().len(), 51);
    assert_eq!(extractor.cleared, 1, "the directory is read once for a thousand markers");
}

#[test]
fn a_layer_says_what_it_needs_of_those_below() {
    let alone = |entries: &[Entry]| {
        let scene = Scene::new();
        let root = sys::open_dir(&scene.root()).unwrap();
        let mut extractor = Extractor::new(root, Options { whiteouts: Whiteouts::OverlayUser, owners: false });
        let done = extractor.layer(&mut Reader::new(tar(entries).as_slice()));
        let mut implied = extractor.implied();
        implied.sort();
        done.map(|()| implied.into_iter().map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(alone(&[entry("a", Directory), entry("a/f", File)]).unwrap(), [""; 0]);
    assert_eq!(alone(&[entry("a/b/f", File)]).unwrap(), ["a", "a/b"]);
    assert_eq!(alone(&[entry("a/b/f", File), entry("a", Directory)]).unwrap(), ["a/b"], "mentioned later");
    let linked = [entry("usr/x", Directory), link("lib", Symlink, "usr"), entry("lib/y/f", File)];
    assert_eq!(alone(&linked).unwrap(), ["usr", "usr/y"], "through a link of its own");
    for needs in [
        vec![link("hard", HardLink, "file")],
        vec![link("hard", HardLink, "a/b/file")],
        vec![link("lib", Symlink, "usr/lib"), entry("lib/f", File)],
    ] {
        assert!(matches!(alone(&needs), Err(ExtractError::Below { .. })), "{needs:?}");
        // With nothing below it is wrong.
        let merged = Scene::new().unpack(&[&needs], Whiteouts::Merge);
        assert!(matches!(merged, Err(ExtractError::Refused { .. })), "{merged:?}");
    }
}

#[test]
fn types_replace_each_other_and_hard_links_keep_their_file() {
    let scene = Scene::new();
    let first = [
        entry("a", Directory),
        entry("a/f", File),
        entry("b", File),
        link("c", HardLink, "b"),
        link("s", Symlink, "b"),
    ];
    let second = [entry("a", File), entry("b", Directory), entry("s", File), link("d", HardLink, "c")];
    scene.unpack(&[&first, &second], Whiteouts::Apply).unwrap();
    assert_eq!(scene.names(), ["a", "b", "c", "d", "s"]);
    assert_eq!(std::fs::read_to_string(scene.root().join("d")).unwrap(), "b");
    assert_eq!(std::fs::metadata(scene.root().join("c")).unwrap().nlink(), 2);
    assert_eq!(std::fs::read_to_string(scene.root().join("s")).unwrap(), "s");
}

#[test]
fn times_and_modes_of_directories_come_last() {
    let scene = Scene::new();
    let entries = [
        Entry { mode: 0o750, mtime: (1_234_567_890, 5), ..entry("", Directory) },
        Entry { mode: 0o500, mtime: (1_111_111_111, 0), ..entry("d", Directory) },
        entry("d/f", File),
    ];
    scene.unpack(&[&entries], Whiteouts::Apply).unwrap();
    let d = std::fs::metadata(scene.root().join("d")).unwrap();
    assert_eq!((d.mode() & 0o777, d.mtime()), (0o500, 1_111_111_111));
    let root = std::fs::metadata(scene.root()).unwrap();
    assert_eq!((root.mode() & 0o777, root.mtime(), root.mtime_nsec()), (0o750, 1_234_567_890, 5));
    std::fs::set_permissions(scene.root().join("d"), std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn attributes_of_overlayfs_itself_are_not_taken_from_layers() {
    let scene = Scene::new();
    let evil = vec![(b"user.overlay.redirect".to_vec(), b"/etc".to_vec()), (b"user.fine".to_vec(), b"1".to_vec())];
    scene.unpack(&[&[Entry { xattrs: evil, ..entry("f", File) }]], Whiteouts::Apply).unwrap();
    let mut names = vec![0; 4096];
    let length = rustix::fs::listxattr(scene.root().join("f"), &mut names).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(!names.contains("overlay"), "{names}");
}

#[test]
fn two_sizes_for_one_entry_follow_the_extended_header() {
    // The header claims 0 bytes, PAX 512; what follows looks like a header. A reader that believes the header would
    // unpack a smuggled file.
    let mut inner = Writer::new(Vec::new());
    inner.plain_file("smuggled", 0, &mut &b""[..]).unwrap();
    let smuggled = inner.finish().unwrap();
    let mut raw = tar(&[Entry { mtime: (1, 5), ..entry("outer", File) }]);
    // Blocks: PAX header, PAX data, header of "outer", its data. Replace the data by the smuggled header and the sizes.
    let pax = b"12 size=512\n";
    raw[512..1024].fill(0);
    raw[512..512 + pax.len()].copy_from_slice(pax);
    raw[124..136].copy_from_slice(b"00000000014\0");
    raw[1024 + 124..1024 + 136].copy_from_slice(b"00000000000\0");
    for start in [0, 1024] {
        raw[start + 148..start + 156].fill(b' ');
        let sum: u64 = raw[start..start + 512].iter().map(|byte| u64::from(*byte)).sum();
        raw[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    raw[1536..2048].copy_from_slice(&smuggled[..512]);
    let scene = Scene::new();
    scene.unpack_raw(&[raw], Whiteouts::Apply).unwrap();
    assert_eq!(scene.names(), ["outer"]);
    assert_eq!(std::fs::metadata(scene.root().join("outer")).unwrap().len(), 512);
}
