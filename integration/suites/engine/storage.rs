//! Volumes, binds, tmpfs, copies in and out, export and commit.

use crate::case::Place;
use std::os::unix::fs::PermissionsExt;

#[test]
fn binds_show_the_hosts_files_with_their_options() {
    let place = Place::new("bind");
    let root = place.host.root().join("shared");
    std::fs::create_dir(&root).expect("the scratch folder is writable");
    std::fs::write(root.join("file"), "of the host").expect("writable");
    assert_eq!(place.sh("-v ~/shared:/s", "cat /s/file; echo new > /s/new"), "of the host");
    assert_eq!(std::fs::read_to_string(root.join("new")).expect("written inside"), "new\n");
    let _ = place.run("run --rm -v ~/shared:/s:ro BB touch /s/no").expect_failure();
    assert_eq!(place.sh("-v ~/shared/file:/etc/one", "cat /etc/one"), "of the host");
    assert_eq!(place.sh("--mount type=bind,source=~/shared,target=/s", "cat /s/file"), "of the host");
    let _ = place.run("run --rm --mount type=bind,src=~/shared,dst=/s,readonly BB touch /s/no").expect_failure();
    for verb in ["run --rm", "create"] {
        let line = format!("{verb} --mount type=bind,source=~/absent,target=/s BB true");
        let refused = place.refused(&line, 125, "absent");
        assert!(refused.stderr.contains("mkdir -p") || !refused.stderr.contains("hint"), "{}", refused.stderr);
        assert!(!root.with_file_name("absent").exists(), "{verb} --mount makes nothing");
        assert_eq!(place.ok("ps -aq"), "");
    }
    let _ = place.ok("run --rm -v ~/absent:/s BB true");
    assert!(place.host.root().join("absent").is_dir(), "-v makes a missing folder");
    place.refused("run --rm -v ~/shared:relative BB true", 125, "relative");
    place.refused("run --rm -v a:b:c:d BB true", 125, "a:b:c:d");
    place.refused("run --rm --mount type=bind,nonsense=1,target=/s BB true", 125, "nonsense");
    place.refused("run --rm -v ~/shared:/s -v ~/shared:/s BB true", 125, "duplicate");
    assert!(place.sh("-v ~/shared:/s:rshared", "grep ' /s ' /proc/self/mountinfo").contains("shared:"));
}

#[test]
fn volumes_keep_are_filled_and_go_with_rm_v_when_anonymous() {
    let place = Place::new("volumes");
    let _ = place.sh("-v data:/d", "echo kept > /d/file");
    assert_eq!(place.sh("-v data:/d:ro", "cat /d/file"), "kept");
    assert_eq!(place.sh("--mount type=volume,source=data,target=/d", "cat /d/file"), "kept");
    assert_eq!(place.sh("-v data:/d:nocopy", "cat /d/file"), "kept");
    assert!(place.sh("-v etc:/etc", "cat /etc/passwd").contains("root"), "filled from the image");
    assert_eq!(place.sh("-v bare:/etc:nocopy", "ls /etc | grep -c passwd || true"), "0");
    let _ = place.ok("create --name keeper -v data:/d -v /anon BB true");
    place.refused("volume rm data", 1, "in use");
    let anonymous = place.ok("inspect -f '{{range .Mounts}}{{.Name}} {{end}}' keeper");
    let anonymous = anonymous.split(' ').find(|name| name.len() == 64).expect("a random name").to_owned();
    assert!(place.ok("volume ls -q").contains(&anonymous));
    let _ = place.ok("rm -v keeper");
    assert!(!place.ok("volume ls -q").contains(&anonymous));
    assert!(place.ok("volume ls -q").lines().any(|name| name == "data"));
    let _ = place.ok("run --rm -v /gone BB true");
    assert_eq!(place.ok("volume ls -q"), "bare\ndata\netc");
    assert_eq!(place.ok("volume inspect -f '{{.Name}}' data"), "data");
    let _ = place.ok("volume rm data");
    let _ = place.ok("volume create --label a=b made");
    assert_eq!(place.ok("volume ls -q --filter label=a=b"), "made");
    assert_eq!(place.ok("ps -aq"), "");
}

#[test]
fn a_volume_of_driver_options_is_mounted_while_used() {
    let place = Place::new("options");
    let _ = place.ok("volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,mode=1700 mem");
    assert_eq!(place.sh("-v mem:/m", "df -k /m | tail -1 | awk '{print $2}'"), "1024");
    let volumes = place.host.root().join("data/volumes");
    assert!(integration::scratch::mounts_below(&volumes).is_empty(), "unmounted with its last user");
    let _ = place.ok("volume create -o type=none -o o=bind -o device=/etc hosts-etc");
    assert!(place.sh("-v hosts-etc:/e:ro", "cat /e/passwd").contains("root"));
    let _ = place.run("volume create -o colour=red bad").expect_failure();
}

#[test]
fn volumes_from_another_container() {
    let place = Place::new("from");
    let _ = place.ok("create --name store -v data:/d -v /tmp:/t:ro BB true");
    assert_eq!(place.sh("--volumes-from store", "echo x > /d/f && cat /d/f"), "x");
    let _ = place.run("run --rm --volumes-from store:ro BB touch /d/no").expect_failure();
    place.refused("run --rm --volumes-from nobody BB true", 125, "nobody");
}

#[test]
fn tmpfs_has_its_size_and_mode() {
    let place = Place::new("tmpfs");
    assert_eq!(
        place.sh("--tmpfs /t:size=2m,mode=700", "df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t"),
        "2048\n700"
    );
    assert_eq!(
        place.sh("--mount type=tmpfs,destination=/t,tmpfs-size=1048576", "df -k /t | tail -1 | awk '{print $2}'"),
        "1024"
    );
    let _ = place.run("run --rm --tmpfs /t BB sh -c 'cp /bin/busybox /t/echo && /t/echo x'").expect_failure();
    assert_eq!(place.sh("--tmpfs /t:exec", "cp /bin/busybox /t/echo && /t/echo x"), "x");
}

#[test]
fn cp_goes_in_and_out_of_running_and_stopped_containers() {
    let place = Place::new("cp");
    let _ = place.file("in.txt", "content");
    std::fs::set_permissions(place.host.root().join("in.txt"), PermissionsExt::from_mode(0o640)).expect("ours");
    let _ = place.ok("run -d --name box -v data:/vol BB sleep 1000");
    let _ = place.ok("cp ~/in.txt box:/tmp/");
    assert_eq!(place.ok("exec box sh -c 'cat /tmp/in.txt; stat -c %a /tmp/in.txt'"), "content640");
    let _ = place.ok("cp ~/in.txt box:/tmp/renamed");
    assert_eq!(place.ok("exec box cat /tmp/renamed"), "content");
    let _ = place.ok("cp ~/in.txt box:/vol/file");
    assert_eq!(place.sh("-v data:/d", "cat /d/file"), "content", "into a volume");
    let _ = place.ok("exec box sh -c 'mkdir -p /dir/sub; echo a > /dir/sub/a; ln -s a /dir/sub/link'");
    let _ = place.ok("cp box:/dir ~/out");
    let out = place.host.root().join("out");
    assert_eq!(std::fs::read_to_string(out.join("sub/a")).expect("copied"), "a\n");
    assert_eq!(std::fs::read_link(out.join("sub/link")).expect("a link").to_string_lossy(), "a");
    let _ = place.ok("cp box:/dir/. ~/out2");
    assert!(place.host.root().join("out2/sub/a").exists());
    let tar = place.run("cp box:/tmp/in.txt -").expect_success();
    assert!(tar.stdout.contains("in.txt") && tar.stdout.contains("content"), "a tar on stdout");
    let _ = place.ok("exec box ln -s /etc/passwd /tmp/escape");
    let _ = place.ok("cp -L box:/tmp/escape ~/escaped");
    let escaped = std::fs::read_to_string(place.host.root().join("escaped")).expect("copied");
    assert!(escaped.contains("user:x:1000"), "the container's, not the host's: {escaped}");
    let _ = place.ok("stop -t 0 box");
    let _ = place.ok("cp ~/in.txt box:/tmp/late");
    let _ = place.ok("cp box:/tmp/late ~/back");
    assert_eq!(std::fs::read_to_string(place.host.root().join("back")).expect("copied"), "content");
    place.refused("cp box:/no/such ~/x", 1, "/no/such");
    place.refused("cp ~/nothing box:/tmp", 1, "nothing");
    place.refused("cp ~/in.txt ~/x", 1, "container");
}

#[test]
fn export_and_commit_keep_what_was_changed() {
    let place = Place::new("commit");
    let _ = place.ok("run --name box BB sh -c 'echo new > /new; rm /etc/group; mkdir /d; rm -r /home; mkdir /home; echo h > /home/h; ln -s new /link; chown 1000 /new'");
    let _ = place.ok("export -o ~/box.tar box");
    let listed = integration::Cmd::new("tar").args(["tf"]).arg(place.host.root().join("box.tar")).ok();
    assert!(listed.lines().any(|name| name.trim_start_matches("./") == "new"), "{listed}");
    assert!(!listed.lines().any(|name| name.trim_start_matches("./") == "etc/group"), "{listed}");
    let id = place.ok("commit -m changed -a me -c 'CMD [\"cat\",\"/new\"]' -c 'ENV KEY=value' box localhost/changed:1");
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(place.ok("run --rm localhost/changed:1"), "new");
    let check =
        "test ! -e /etc/group && test -d /d && test -e /home/h && readlink /link && stat -c %u /new && echo $KEY";
    let out = place.cmd("run --rm localhost/changed:1 sh -c").arg(check).ok();
    assert_eq!(out.trim(), "new\n1000\nvalue");
    assert_eq!(place.ok("history -q localhost/changed:1").lines().count(), 2);
    assert_eq!(place.ok("inspect --type image -f '{{.Author}}' localhost/changed:1"), "me");
    place.refused("commit nobody x", 1, "nobody");
}
