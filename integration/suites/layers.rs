//! Layers on a real kernel: what is mounted and what is unpacked equals what GNU tar makes of the same archive, and
//! whiteouts hide what umoci's unpack does not show either.

#[path = "layers/hostile.rs"]
mod hostile;

use integration::{Cmd, Scratch, image::Builder};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Everything a file system keeps of a tree, by name; not sizes and link counts of directories, which overlayfs makes up.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let script = r#"
        cd "$1"
        find . -printf '%P|%y %m %U %G %n %T@ %l|%s\n' | awk -F'|' '{ split($2, w, " "); if (w[1] == "d") { $3 = "-"; sub(" " w[5] " ", " - ", $2) } print $1 "|" $2 " " $3 }'
        find . -type f -exec sha256sum {} + | awk '{ print substr($2, 3) "|sha " $1 }'
        find . \( -type c -o -type b \) -exec stat -c '%n|device %t:%T' {} + | sed 's/^\.\///'
        getfattr -R -h -d -e hex -m '^(user|security|trusted|system)' . 2>/dev/null | awk '/^# file/ { f = substr($0, 9) } /=/ && !/^#/ { print f "|" $0 }' | grep -v 'trusted.overlay\.' | sort
    "#;
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(root).output().expect("sh runs");
    let mut listing = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((name, fact)) = line.split_once('|') {
            let facts: &mut String = listing.entry(name.to_owned()).or_default();
            facts.push_str(fact.replace(".0000000000", "").as_str());
            facts.push('\n');
        }
    }
    listing
}

fn assert_same(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (listing(ours), listing(theirs));
    for (name, facts) in &theirs {
        assert_eq!(ours.get(name), Some(facts), "{name:?} differs");
    }
    let more: Vec<&String> = ours.keys().filter(|name| !theirs.contains_key(*name)).collect();
    assert!(more.is_empty(), "only ours has {more:?}");
}

fn sh(folder: &Path, script: &str) {
    Cmd::new("sh").args(["-ec", script]).folder(folder).ok();
}

/// A tree with every kind of thing, and its tar.
fn tree(scratch: &Scratch, format: &str) -> Vec<u8> {
    let tree = scratch.join("tree");
    std::fs::create_dir(&tree).expect("a scratch folder");
    sh(
        &tree,
        r#"
        chmod 1777 .
        mkdir -p a/b/c tmp; chmod 2750 a/b; chmod 1777 tmp
        echo content > a/file; ln a/file a/b/hard; ln -s ../file a/b/soft; ln -s /etc/passwd a/abs
        ln -s "$(head -c 3000 /dev/zero | tr '\0' t)" a/longlink
        ln -s a/file hardsoft; ln hardsoft hardsoft2
        echo cap > a/cap; chown 12:34 a/cap; setfattr -n user.note -v value a/cap; setcap cap_net_raw+ep a/cap
        setfattr -n user.dir -v x a/b; setfattr -n trusted.t -v y a/file
        echo suid > a/suid; chown 1:2 a/suid; chmod 6755 a/suid
        chown 4000000000:3000000000 a/b/c
        mknod a/null c 1 3; mknod a/disk b 259 300; mkfifo a/pipe; chmod 666 a/null
        truncate -s 3M a/sparse; printf x | dd of=a/sparse bs=1 seek=1500000 conv=notrunc status=none
        truncate -s 1M a/hole; : > a/empty
        head -c 100000 /dev/urandom > a/random; head -c 512 /dev/urandom > a/block
        touch "$(printf 'a/n\377n-utf8')"; mkdir -p "$(printf 'x%.0s' $(seq 200))/$(printf 'y%.0s' $(seq 200))"
        touch -d '1970-01-01 00:00:01' a/old; touch -d '2031-05-05 05:05:05.123456789' a/new
        i=0; mkdir many; while [ $i -lt 400 ]; do echo $i > "many/file-$i"; i=$((i+1)); done
        touch -d '2001-01-01' a/b a
    "#,
    );
    let options = match format {
        "gnu" => "--format=gnu --sparse",
        "pax00" => "--format=pax --sparse --sparse-version=0.0 --xattrs --xattrs-include=*",
        "pax01" => "--format=pax --sparse --sparse-version=0.1 --xattrs --xattrs-include=*",
        _ => "--format=pax --sparse --xattrs --xattrs-include=*",
    };
    let archive = scratch.join("layer.tar");
    sh(&tree, &format!("tar {options} -cf {} .", archive.display()));
    std::fs::read(archive).expect("tar wrote it")
}

fn shoal(scratch: &Scratch, args: &[&str]) -> Cmd {
    Cmd::new(integration::binaries::shoal()).arg("--root").arg(scratch.join("root")).args(args.iter().copied())
}

fn load(scratch: &Scratch, layers: &[Vec<u8>]) {
    let mut builder = Builder::new("docker.io/library/layers:1");
    for layer in layers {
        builder.layer(layer);
    }
    let archive = scratch.join("image.tar");
    builder.write(&archive);
    shoal(scratch, &["load", "-i", &archive.display().to_string()]).ok();
}

fn every_form_equals_gnu_tar(format: &str) {
    let scratch = Scratch::new("layers");
    let layer = tree(&scratch, format);
    let theirs = scratch.join("theirs");
    std::fs::create_dir(&theirs).expect("a scratch folder");
    sh(&theirs, "tar --xattrs --xattrs-include='*' -xpf ../layer.tar");
    load(&scratch, &[layer]);
    let flat = scratch.join("flat");
    shoal(&scratch, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &flat.display().to_string()]).ok();
    assert_same(&flat, &theirs);
    for form in ["directory", "index"] {
        let mounted = scratch.join(form);
        let path = mounted.display().to_string();
        shoal(&scratch, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).ok();
        assert_same(&mounted, &theirs);
        shoal(&scratch, &["image", "unmount", &path]).env("SHOAL_LAYER_FORM", form).ok();
    }
    assert!(integration::scratch::mounts_below(scratch.path()).is_empty(), "nothing stays mounted");
    assert!(shoal(&scratch, &["image", "verify"]).ok().ends_with("0 problems\n"));
}

#[test]
fn a_gnu_layer_becomes_what_tar_makes_of_it() {
    every_form_equals_gnu_tar("gnu");
}

#[test]
fn a_pax_layer_becomes_what_tar_makes_of_it() {
    every_form_equals_gnu_tar("pax");
}

#[test]
fn the_old_sparse_forms_become_what_tar_makes_of_them() {
    every_form_equals_gnu_tar("pax00");
    every_form_equals_gnu_tar("pax01");
}

#[test]
fn whiteouts_hide_in_every_form_what_they_remove_when_unpacked() {
    let scratch = Scratch::new("whiteouts");
    let make = |name: &str, script: &str| -> Vec<u8> {
        let folder = scratch.join(name);
        std::fs::create_dir(&folder).expect("a scratch folder");
        sh(&folder, script);
        sh(&folder, &format!("tar --format=pax -cf ../{name}.tar ."));
        std::fs::read(scratch.join(&format!("{name}.tar"))).expect("tar wrote it")
    };
    let base = make(
        "base",
        "mkdir -p d/sub e f g; echo 1 > d/old; echo 1 > d/sub/deep; echo 1 > e/x; echo 1 > f/x; echo 1 > gone; echo 1 > g/file; ln -s d link",
    );
    let top = make(
        "top",
        "mkdir -p d e f g; touch d/.wh..wh..opq; echo 2 > d/new; touch e/.wh.x .wh.gone .wh.never; rmdir f; echo 2 > f; touch g/.wh.file; mkdir g/file; echo 2 > g/file/in",
    );
    // The empty layer and the same layer twice change nothing.
    let empty = make("empty", "true");
    load(&scratch, &[base, top.clone(), empty, top]);
    let flat = scratch.join("flat");
    shoal(&scratch, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &flat.display().to_string()]).ok();
    let names: Vec<String> = listing(&flat).into_keys().filter(|name| !name.is_empty()).collect();
    assert_eq!(names, ["d", "d/new", "e", "f", "g", "g/file", "g/file/in", "link"]);
    for form in ["directory", "index"] {
        let mounted = scratch.join(form);
        let path = mounted.display().to_string();
        shoal(&scratch, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).ok();
        let ours: Vec<String> = listing(&mounted).into_keys().filter(|name| !name.is_empty()).collect();
        assert_eq!(ours, names, "{form}");
        shoal(&scratch, &["image", "unmount", &path]).env("SHOAL_LAYER_FORM", form).ok();
    }
}

/// A tar of what `script` makes in an empty folder; `names` are its entries, in order.
fn archive(scratch: &Scratch, name: &str, script: &str, names: &str) -> Vec<u8> {
    let folder = scratch.join(name);
    std::fs::create_dir(&folder).expect("a scratch folder");
    sh(&folder, script);
    sh(&folder, &format!("tar --format=pax --no-recursion -cf ../{name}.tar {names}"));
    std::fs::read(scratch.join(&format!("{name}.tar"))).expect("tar wrote it")
}

#[test]
fn layers_that_rely_on_those_below_are_shown_as_umoci_unpacks_them() {
    let scratch = Scratch::new("rely");
    let base = archive(
        &scratch,
        "base",
        "mkdir -p usr/lib tmp d/e own plain; echo old > usr/lib/old; ln -s usr/lib lib; chmod 1777 tmp; echo f > file; \
         chmod 700 d; chown 7:8 own; setfattr -n user.x -v y d/e; echo p > plain/p; echo t > d/e/t",
        "usr usr/lib usr/lib/old lib tmp file d d/e d/e/t own plain plain/p",
    );
    // Its directories are not mentioned: one is a link below, others have attributes there, one is new.
    let implied = archive(
        &scratch,
        "implied",
        "mkdir -p lib tmp d/e own plain new/dir; echo new > lib/new; echo n > tmp/n; echo n > d/e/n; echo n > own/n; \
         echo n > plain/n; echo n > new/dir/n; touch lib/.wh.old",
        "lib/new lib/.wh.old tmp/n d/e/n own/n plain/n new/dir/n",
    );
    // Hard links to files of lower layers, one of them removed by the same layer.
    let links = {
        let folder = scratch.join("links");
        std::fs::create_dir(&folder).expect("a scratch folder");
        sh(
            &folder,
            "echo f > file; mkdir -p usr/lib d/e plain; ln file hard; ln file d/e/hard; echo p > plain/p; ln plain/p kept; \
             tar --format=pax -cf ../all.tar file hard d/e/hard plain/p kept; cp ../all.tar ../links.tar; \
             tar --delete -f ../links.tar file plain/p; mkdir w; cd w; mkdir plain; touch plain/.wh.p; \
             tar --format=pax -rf ../../links.tar plain/.wh.p",
        );
        std::fs::read(scratch.join("links.tar")).expect("tar wrote it")
    };
    let top = archive(&scratch, "top", "mkdir -p d; chmod 750 d; echo top > d/top", "d d/top");
    load(&scratch, &[base, implied, links, top]);
    let umoci = integration::binaries::tool("umoci", "umoci");
    let layout = scratch.join("layout");
    let skopeo = integration::binaries::tool("skopeo", "skopeo");
    let from = format!("oci-archive:{}", scratch.join("image.tar").display());
    Cmd::new(&skopeo).args(["copy", &from, &format!("oci:{}:1", layout.display())]).ok();
    let theirs = scratch.join("theirs");
    let image = format!("{}:1", layout.display());
    Cmd::new(&umoci).args(["unpack", "--image", &image, &theirs.display().to_string()]).ok();
    let theirs = theirs.join("rootfs");
    // The times of directories into which a later layer put something are the time of unpacking.
    let facts = |root: &Path| -> BTreeMap<String, String> {
        let clean = |name: &String, facts: &String| {
            let directory = facts.starts_with("d ");
            let words = facts.split_whitespace().enumerate();
            let words = words.filter(|(at, word)| !directory || *at < 4 || word.contains('=')).map(|(_, word)| word);
            let facts: Vec<&str> = words.collect();
            (name.clone(), facts.join(" "))
        };
        listing(root).iter().map(|(name, facts)| clean(name, facts)).collect()
    };
    let expected = facts(&theirs);
    assert!(expected.contains_key("usr/lib/new") && expected["lib"].starts_with('l'), "{expected:#?}");
    for form in ["directory", "index"] {
        for turn in ["made", "found"] {
            let mounted = scratch.join(form);
            let path = mounted.display().to_string();
            shoal(&scratch, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).ok();
            assert_eq!(facts(&mounted), expected, "{form}, {turn}");
            shoal(&scratch, &["image", "unmount", &path]).env("SHOAL_LAYER_FORM", form).ok();
            // What is merged is kept for the next time by the image's name.
            let before = std::fs::read_dir(scratch.join("root/data/images/layers")).expect("a store").count();
            shoal(&scratch, &["image", "gc"]).ok();
            assert_eq!(std::fs::read_dir(scratch.join("root/data/images/layers")).expect("a store").count(), before);
        }
    }
    let flat = scratch.join("flat");
    shoal(&scratch, &["image", "unpack", "-q", "--rootfs-only", "layers:1", &flat.display().to_string()]).ok();
    assert_eq!(facts(&flat), expected);
    shoal(&scratch, &["rmi", "layers:1"]).ok();
    shoal(&scratch, &["image", "gc"]).ok();
    let left = std::fs::read_dir(scratch.join("root/data/images/layers")).expect("a store").count();
    assert_eq!(left, 0, "nothing is kept for an image that is gone");
}

#[test]
fn a_hard_link_to_nothing_is_refused_in_every_form() {
    let scratch = Scratch::new("nothing");
    let folder = scratch.join("links");
    std::fs::create_dir(&folder).expect("a scratch folder");
    sh(
        &folder,
        "echo f > file; ln file hard; tar --format=pax -cf ../links.tar file hard; tar --delete -f ../links.tar file",
    );
    load(&scratch, &[std::fs::read(scratch.join("links.tar")).expect("tar wrote it")]);
    for form in ["directory", "index"] {
        let path = scratch.join(form).display().to_string();
        let refused = shoal(&scratch, &["image", "mount", "layers:1", &path]).env("SHOAL_LAYER_FORM", form).run();
        let refused = refused.expect_failure();
        assert!(refused.stderr.contains("which is not there"), "{refused:?}");
    }
    assert!(integration::scratch::mounts_below(scratch.path()).is_empty(), "nothing stays mounted");
}

#[test]
fn one_image_mounted_and_unmounted_by_many_at_once_always_shows_its_files() {
    let scratch = Scratch::new("many");
    let layer = |n: usize| archive(&scratch, &format!("l{n}"), &format!("echo {n} > f{n}"), &format!("f{n}"));
    load(&scratch, &(0..4).map(layer).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let scratch = &scratch;
            scope.spawn(move || {
                let path = scratch.join(&format!("m{thread}")).display().to_string();
                for _ in 0..15 {
                    shoal(scratch, &["image", "mount", "layers:1", &path]).ok();
                    for n in 0..4 {
                        let text = std::fs::read_to_string(format!("{path}/f{n}")).expect("the layer is mounted");
                        assert_eq!(text, format!("{n}\n"));
                    }
                    shoal(scratch, &["image", "unmount", &path]).ok();
                }
            });
        }
    });
    assert!(integration::scratch::mounts_below(scratch.path()).is_empty(), "nothing stays mounted");
}

#[test]
fn other_tools_read_the_store_in_place_and_archives_keep_digests() {
    let scratch = Scratch::new("inplace");
    let layer = tree(&scratch, "gnu");
    load(&scratch, &[layer]);
    let skopeo = integration::binaries::tool("skopeo", "skopeo");
    let store = format!("oci:{}:docker.io/library/layers:1", scratch.join("root/data/images").display());
    let before = Cmd::new(&skopeo).args(["inspect", "--format", "{{.Digest}}", &store]).ok();
    for format in ["docker-archive", "oci-archive"] {
        let archive = scratch.join(&format!("{format}.tar"));
        shoal(&scratch, &["save", "--format", format, "-o", &archive.display().to_string(), "layers:1"]).ok();
        shoal(&scratch, &["rmi", "layers:1"]).ok();
        assert!(shoal(&scratch, &["image", "verify"]).ok().starts_with("0 blobs, 0 layers"));
        shoal(&scratch, &["load", "-i", &archive.display().to_string()]).ok();
        assert_eq!(Cmd::new(&skopeo).args(["inspect", "--format", "{{.Digest}}", &store]).ok(), before);
        let path = format!("{format}:{}", archive.display());
        Cmd::new(&skopeo).args(["inspect", &path]).ok();
    }
}
