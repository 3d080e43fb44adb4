//! `cp`: owners, tar streams, stopped containers with volumes, and a container that would like to reach the host.

use crate::case::Place;
use integration::Cmd;
use std::os::unix::fs::MetadataExt;

#[test]
fn owners_are_roots_or_with_archive_the_sources() {
    let place = Place::new("cp-owner");
    let file = place.file("mine", "x");
    std::os::unix::fs::chown(&file, Some(1234), Some(1235)).expect("root may");
    let _ = place.ok("run -d --name box BB sh -c 'echo x > /own; chown 77:78 /own; sleep 1000'");
    integration::eventually("it is another's", crate::case::PATIENCE, || {
        (place.run("exec box stat -c %u:%g /own").stdout.trim() == "77:78").then_some(())
    });
    let _ = place.ok("cp ~/mine box:/plain");
    let _ = place.ok("cp -a ~/mine box:/kept");
    assert_eq!(place.ok("exec box stat -c %u:%g /plain /kept"), "0:0\n1234:1235");
    let _ = place.ok("cp box:/own ~/plain");
    let _ = place.ok("cp -a box:/own ~/kept");
    let owner = |name: &str| {
        let meta = std::fs::metadata(place.host.root().join(name)).expect("copied");
        (meta.uid(), meta.gid())
    };
    assert_eq!((owner("plain"), owner("kept")), ((0, 0), (77, 78)));
}

#[test]
fn tar_streams_go_in_and_out() {
    let place = Place::new("cp-tar");
    let folder = place.host.root().join("tree");
    std::fs::create_dir_all(folder.join("sub")).expect("ours");
    std::fs::write(folder.join("sub/file"), "inside").expect("ours");
    std::fs::write(folder.join(".wh.name"), "no whiteout").expect("ours");
    let _ = Cmd::new("tar")
        .args(["-C"])
        .arg(place.host.root())
        .args(["-cf"])
        .arg(place.host.root().join("in.tar"))
        .arg("tree")
        .ok();
    let _ = place.ok("run -d --name box BB sleep 1000");
    let tar = std::fs::read(place.host.root().join("in.tar")).expect("made");
    let _ = place.cmd("cp - box:/tmp").input(tar.clone()).run().expect_success();
    assert_eq!(place.ok("exec box cat /tmp/tree/sub/file /tmp/tree/.wh.name"), "insideno whiteout");
    let refused = place.cmd("cp - box:/etc/passwd").input(tar).run().expect_code(1);
    assert!(refused.stderr.contains("/etc/passwd"), "{}", refused.stderr);
    let _ = place
        .cmd("cp - box:/tmp")
        .input("no tar at all, but long enough to be read as one".repeat(20))
        .run()
        .expect_failure();
    // Out, as a file through the shell: the tar holds the last name.
    let shoal = integration::binaries::shoal();
    let line =
        format!("{} cp box:/tmp/tree - | tar -C {} -xf -", shoal.display(), place.host.root().join("out").display());
    std::fs::create_dir(place.host.root().join("out")).expect("ours");
    let _ = place.host.cmd("sh").args(["-c", &line]).ok();
    assert_eq!(std::fs::read_to_string(place.host.root().join("out/tree/sub/file")).expect("unpacked"), "inside");
}

#[test]
fn a_stopped_containers_volumes_are_where_they_belong() {
    let place = Place::new("cp-stopped");
    let _ = place.file("given", "given");
    let _ = place.ok("create --name box -v data:/vol -v /tmp:/ro:ro BB true");
    let _ = place.ok("start -a box");
    let _ = place.ok("cp ~/given box:/vol/file");
    assert_eq!(place.sh("-v data:/d", "cat /d/file"), "given");
    let _ = place.run("cp ~/given box:/ro/file").expect_code(1);
    let _ = place.ok("cp box:/vol/. ~/back");
    assert_eq!(std::fs::read_to_string(place.host.root().join("back/file")).expect("copied"), "given");
    let _ = place.ok("create --name shut --read-only BB true");
    let _ = place.run("cp ~/given shut:/etc/file").expect_code(1);
    assert!(integration::scratch::mounts_below(&place.host.root().join("run/containers")).is_empty());
}

#[test]
fn a_device_of_the_host_is_not_replaced() {
    let place = Place::new("cp-device");
    let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::from_bits_truncate(0o666));
    // As /dev/null, and not it.
    let device = place.host.root().join("null");
    nix::sys::stat::mknod(&device, kind, mode, nix::sys::stat::makedev(1, 3)).expect("root may make devices");
    let _ = place.ok("create --name box BB true");
    place.refused("cp box:/etc/passwd ~/null", 1, "is a device");
    let there = std::fs::metadata(&device).expect("still there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&there));
}

#[test]
fn a_container_that_swaps_a_directory_for_a_link_catches_no_copy() {
    let place = Place::new("cp-hostile");
    let prey = place.host.root().join("prey");
    std::fs::create_dir(&prey).expect("ours");
    std::fs::write(prey.join("secret"), "the host's").expect("ours");
    let _ = place.file("bait", "bait");
    let host = prey.display();
    // The link's text names a directory of the host; inside it names nothing.
    let _ = place.ok(&format!(
        "run -d --name box BB sh -c 'mkdir -p /w/real; ln -s {host} /w/link; cd /w; while :; do mv real d; mv d real; mv link d; mv d link; done'"
    ));
    for _ in 0..40 {
        let _ = place.run("cp -q ~/bait box:/w/d/");
        let out = place.run("cp -q -L box:/w/d/secret ~/stolen");
        assert!(!out.status.success(), "{out:?}");
    }
    let names: Vec<_> = std::fs::read_dir(&prey).expect("ours").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["secret"], "nothing came in");
    assert!(!place.host.root().join("stolen").exists(), "nothing came out");
}
