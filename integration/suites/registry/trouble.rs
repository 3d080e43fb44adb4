//! What goes wrong: connections that are cut, processes that are killed, disks that are full, collections that run beside a
//! push, and many processes that want the same.

use crate::place::{Served, ballast, bytes_of, disk, noise, pulled, shoal, unfinished, upload};
use crate::proxy::Proxy;
use integration::{Cmd, Scratch, eventually};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MEBIBYTE: usize = 1 << 20;
/// How long a transfer of some hundred megabytes may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn pull(root: &Path, name: &str) -> Cmd {
    shoal(root, &["pull", "--progress", "plain"]).arg(name).deadline(LONG)
}

fn is_clean(root: &Path) {
    let verify = shoal(root, &["image", "verify"]).ok();
    assert!(verify.ends_with("0 problems\n"), "{verify}");
}

/// Starts `cmd` and kills it with SIGKILL as soon as `when` says so.
fn killed(cmd: &Cmd, when: impl Fn() -> bool) {
    let mut child =
        cmd.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    eventually("half of the bytes passed", LONG, || {
        assert!(child.try_wait().expect("a child of ours").is_none(), "it ended before it could be killed");
        when().then_some(())
    });
    child.kill().expect("it runs");
    let _ = child.wait().expect("a child of ours");
}

#[test]
fn a_pull_succeeds_when_every_connection_is_cut_after_8_mib() {
    for ours in [false, true] {
        let scratch = Scratch::new("cut");
        let registry =
            if ours { Served::ours(&scratch, &scratch.join("server"), false) } else { Served::theirs(&scratch) };
        let (archive, digest) = noise(scratch.path(), 3, 20 * MEBIBYTE);
        upload(&registry, &archive, "noise:1");
        let proxy = Proxy::new(&registry.address, Some(8 << 20));
        let outcome = pull(&scratch.join("client"), &format!("{}/noise:1", proxy.address)).run().expect_success();
        assert_eq!(pulled(&outcome), digest);
        assert!(proxy.cuts() >= 6, "60 MiB pass in pieces of 8: {}", proxy.cuts());
        let bytes = bytes_of(&archive);
        println!(
            "cut every 8 MiB ({} times): {:.3} of {bytes} bytes",
            proxy.cuts(),
            proxy.down() as f64 / bytes as f64
        );
        assert!(proxy.down() * 100 <= bytes * 105, "{} bytes for {bytes}", proxy.down());
        is_clean(&scratch.join("client"));
    }
}

#[test]
fn a_pull_that_was_killed_half_way_goes_on_where_it_was() {
    let scratch = Scratch::new("killed");
    let registry = Served::theirs(&scratch);
    let (archive, digest) = noise(scratch.path(), 4, 24 * MEBIBYTE);
    upload(&registry, &archive, "noise:1");
    // Slow enough that what was sent has also arrived.
    let proxy = Proxy::slow(&registry.address);
    let client = scratch.join("client");
    let name = format!("{}/noise:1", proxy.address);
    let bytes = bytes_of(&archive);
    killed(&pull(&client, &name), || proxy.down() >= bytes / 2);
    assert!(shoal(&client, &["images", "-q"]).ok().is_empty(), "no name before all bytes are there");
    proxy.reset();
    let outcome = pull(&client, &name).run().expect_success();
    assert_eq!(pulled(&outcome), digest);
    println!("killed at half: {:.3} of {bytes} bytes in the second pull", proxy.down() as f64 / bytes as f64);
    assert!(proxy.down() * 100 <= bytes * 55, "{} bytes in the second run", proxy.down());
    is_clean(&client);
    let _ = shoal(&client, &["image", "gc"]).ok();
    assert!(unfinished(&client).is_empty());
}

#[test]
fn a_push_that_was_killed_half_way_goes_on_within_a_blob() {
    let scratch = Scratch::new("killedpush");
    let root = scratch.join("server");
    let registry = Served::ours(&scratch, &root, false);
    // One layer in one request, and one in several.
    for (turn, mebibytes) in [24, 80].into_iter().enumerate() {
        let folder = scratch.join(&turn.to_string());
        std::fs::create_dir(&folder).expect("writable");
        let (archive, digest) = noise(&folder, 1, mebibytes * MEBIBYTE);
        let bytes = bytes_of(&archive);
        let client = folder.join("client");
        let proxy = Proxy::slow(&registry.address);
        let name = format!("{}/noise:{turn}", proxy.address);
        let _ = shoal(&client, &["load", "-i"]).arg(archive).ok();
        let _ = shoal(&client, &["tag", "noise:1", &name]).ok();
        let push = shoal(&client, &["push", "-q"]).arg(&name).deadline(LONG);
        killed(&push, || proxy.up() >= bytes / 2);
        proxy.reset();
        let _ = push.run().expect_success();
        println!("killed at half: {:.3} of {bytes} bytes in the second push", proxy.up() as f64 / bytes as f64);
        assert!(proxy.up() * 100 <= bytes * 55, "{} bytes in the second run of {bytes}", proxy.up());
        assert_eq!(registry.digest(&format!("noise:{turn}")), digest);
        let remembered = std::fs::read_dir(client.join("data/images/sending")).expect("a push makes it").count();
        assert_eq!(remembered, 0, "what is done is forgotten");
    }
    is_clean(&root);
}

#[test]
fn a_push_whose_upload_the_registry_forgot_begins_again() {
    let scratch = Scratch::new("forgotpush");
    for ours in [true, false] {
        let folder = scratch.join(if ours { "ours" } else { "theirs" });
        std::fs::create_dir(&folder).expect("writable");
        let place = Scratch::new("forgetful");
        let root = place.join("server");
        let registry = if ours { Served::ours(&place, &root, false) } else { Served::theirs(&place) };
        let (archive, digest) = noise(&folder, 1, 24 * MEBIBYTE);
        let client = folder.join("client");
        let proxy = Proxy::slow(&registry.address);
        let name = format!("{}/noise:1", proxy.address);
        let _ = shoal(&client, &["load", "-i"]).arg(&archive).ok();
        let _ = shoal(&client, &["tag", "noise:1", &name]).ok();
        let push = shoal(&client, &["push", "-q"]).arg(&name).deadline(LONG);
        killed(&push, || proxy.up() >= bytes_of(&archive) / 2);
        let uploads = if ours {
            root.join("data/images/registry/uploads")
        } else {
            place.join("docker-registry/docker/registry/v2/repositories/noise/_uploads")
        };
        for upload in std::fs::read_dir(&uploads).into_iter().flatten().flatten() {
            std::fs::remove_dir_all(upload.path()).expect("the upload is there");
        }
        let _ = push.run().expect_success();
        assert_eq!(registry.digest("noise:1"), digest);
    }
}

#[test]
fn many_processes_that_pull_one_image_download_it_once() {
    let scratch = Scratch::new("many");
    let registry = Served::theirs(&scratch);
    let (archive, digest) = noise(scratch.path(), 3, 8 * MEBIBYTE);
    upload(&registry, &archive, "noise:1");
    let proxy = Proxy::new(&registry.address, None);
    let (client, name) = (scratch.join("client"), format!("{}/noise:1", proxy.address));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (client, name, digest) = (&client, &name, &digest);
            scope.spawn(move || assert_eq!(&pulled(&pull(client, name).run().expect_success()), digest));
        }
    });
    let bytes = bytes_of(&archive);
    assert!(proxy.down() * 100 <= bytes * 105, "{} bytes for {bytes}", proxy.down());
    is_clean(&client);
}

#[test]
fn a_full_disk_ends_a_pull_clearly_and_it_goes_on_when_there_is_room() {
    let scratch = Scratch::new("full");
    let registry = Served::theirs(&scratch);
    let (archive, digest) = noise(scratch.path(), 2, 24 * MEBIBYTE);
    upload(&registry, &archive, "noise:1");
    let root = scratch.join("disk");
    disk(&root, 300);
    let name = registry.name("noise:1");
    // Room for no layer; for one and a half; for the blobs and not for what is made of them.
    for left in [12, 36, 80] {
        let ballast = ballast(&root, left);
        let refused = pull(&root, &name).run().expect_failure();
        assert!(
            refused.stderr.contains("no space left") || refused.stderr.contains("not enough room"),
            "{left}: {}",
            refused.stderr
        );
        assert!(shoal(&root, &["images", "-q"]).ok().is_empty(), "nothing is named");
        is_clean(&root);
        assert!(unfinished(&root).is_empty(), "{:?}", unfinished(&root));
        std::fs::remove_file(ballast).expect("it is there");
    }
    assert_eq!(pulled(&pull(&root, &name).run().expect_success()), digest);
    is_clean(&root);
    // Unpacking: all or nothing.
    let full = ballast(&root, 20);
    let bundle = root.join("bundle");
    let unpack = shoal(&root, &["image", "unpack", "-q"]).arg(&name).arg(&bundle);
    let refused = unpack.run().expect_failure();
    assert!(
        refused.stderr.contains("no space left") || refused.stderr.contains("not enough room"),
        "{}",
        refused.stderr
    );
    assert!(!bundle.join("rootfs/noise-0").exists() && !bundle.join("config.json").exists(), "nothing half");
    std::fs::remove_file(full).expect("it is there");
    let _ = unpack.run().expect_success();
    assert_eq!(std::fs::metadata(bundle.join("rootfs/noise-1")).expect("unpacked").len(), 24 << 20);
}

#[test]
fn a_full_disk_of_the_server_ends_a_push_clearly_and_it_goes_on_when_there_is_room() {
    let scratch = Scratch::new("fullserver");
    let (archive, digest) = noise(scratch.path(), 2, 24 * MEBIBYTE);
    let client = scratch.join("client");
    let _ = shoal(&client, &["load", "-i"]).arg(archive).ok();
    let root = scratch.join("disk");
    disk(&root, 200);
    let registry = Served::ours(&scratch, &root, false);
    let name = registry.name("noise:1");
    let _ = shoal(&client, &["tag", "noise:1", &name]).ok();
    let push = shoal(&client, &["push"]).arg(&name).deadline(LONG);
    let full = ballast(&root, 30);
    let refused = push.run().expect_failure();
    assert!(refused.stderr.contains("disk is full"), "{}", refused.stderr);
    is_clean(&root);
    std::fs::remove_file(full).expect("it is there");
    let _ = push.run().expect_success();
    assert_eq!(registry.digest("noise:1"), digest);
    is_clean(&root);
}

#[test]
fn nothing_that_is_pushed_while_gc_runs_is_lost() {
    let scratch = Scratch::new("gc");
    let root = scratch.join("server");
    let registry = Served::ours(&scratch, &root, false);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut runs = 0;
            while !over.load(Ordering::Relaxed) {
                let _ = shoal(&root, &["image", "gc"]).ok();
                runs += 1;
            }
            runs
        });
        let pushed: Vec<(String, String)> = std::thread::scope(|inner| {
            let push = |thread: usize| {
                let (scratch, registry) = (&scratch, &registry);
                move || -> Vec<(String, String)> {
                    let turn = |n: usize| {
                        let folder = scratch.join(&format!("push-{thread}-{n}"));
                        std::fs::create_dir(&folder).expect("writable");
                        let (archive, digest) = noise(&folder, 3, 64 << 10);
                        let name = format!("gc/{thread}:{n}");
                        upload(registry, &archive, &name);
                        (name, digest)
                    };
                    (0..6).map(turn).collect()
                }
            };
            let threads: Vec<_> = (0..2).map(|thread| inner.spawn(push(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("a push succeeds")).collect()
        });
        over.store(true, Ordering::Relaxed);
        assert!(collector.join().expect("a collection succeeds") >= 3);
        for (name, digest) in pushed {
            assert_eq!(registry.digest(&name), digest);
            let outcome = pull(&scratch.join("client"), &registry.name(&name)).run().expect_success();
            assert_eq!(pulled(&outcome), digest);
        }
    });
    is_clean(&root);
    is_clean(&scratch.join("client"));
}

#[test]
fn a_mirror_writes_tags_last_and_goes_on_after_a_kill() {
    let scratch = Scratch::new("mirror");
    let source = Served::theirs(&scratch);
    let second = Scratch::new("mirrored");
    let target = Served::ours(&second, &second.join("server"), false);
    let (mut digests, mut bytes) = (Vec::new(), 0);
    for tag in ["v1", "v2"] {
        let folder = scratch.join(tag);
        std::fs::create_dir(&folder).expect("writable");
        // Small blobs: an upload that was broken off begins again.
        let (archive, digest) = noise(&folder, 20, MEBIBYTE + MEBIBYTE / 2);
        upload(&source, &archive, &format!("a/noise:{tag}"));
        bytes += bytes_of(&archive);
        digests.push((tag, digest));
    }
    let (from, to) = (Proxy::new(&source.address, None), Proxy::slow(&target.address));
    let root = scratch.join("client");
    let mirror = shoal(&root, &["image", "mirror", "-q"])
        .arg(format!("{}/a/noise", from.address))
        .arg(format!("{}/b/noise", to.address))
        .deadline(LONG);
    killed(&mirror, || to.up() >= bytes / 2);
    let before = to.requests();
    from.reset();
    to.reset();
    let _ = mirror.run().expect_success();
    assert!(to.up() * 100 <= bytes * 65, "{} bytes of {bytes} sent in the second run", to.up());
    for (tag, digest) in &digests {
        assert_eq!(&target.digest(&format!("b/noise:{tag}")), digest);
    }
    let requests = [before, to.requests()].concat();
    let is_tag = |line: &str| line.starts_with("PUT /v2/b/noise/manifests/v");
    let tags = requests.iter().filter(|line| is_tag(line)).count();
    assert!(tags >= 2, "{requests:?}");
    assert!(
        is_tag(requests.last().expect("some"))
            || requests.last().is_some_and(|line| line.starts_with("HEAD") || line.starts_with("GET")),
        "{:?}",
        requests.last()
    );
    // After the last tag nothing is sent.
    let last_write = requests.iter().rfind(|line| !line.starts_with("GET") && !line.starts_with("HEAD"));
    assert!(is_tag(last_write.expect("something was written")), "{last_write:?}");
    // A mirror of what is equal sends nothing.
    from.reset();
    to.reset();
    assert!(mirror.ok().lines().all(|line| line.ends_with("equal")));
    assert!(from.down() + to.up() < 64 << 10, "{} {}", from.down(), to.up());
}
