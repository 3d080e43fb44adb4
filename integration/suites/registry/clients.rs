//! Clients that people have, against docker-registry first and then against ours, plain and with TLS and a password.

use crate::place::{Process, SOON, Served, USER, busybox, pulled, self_signed, shoal, upload};
use integration::{Cmd, Scratch, binaries, eventually};
use std::path::PathBuf;
use std::process::Stdio;

/// Runs `client` against the established server, ours, and ours behind TLS and a password. What it pushed as `REPOSITORY:1`
/// is then what skopeo and our client see.
fn with_every_registry(repository: &str, client: impl Fn(&Served, &Scratch, &str)) {
    let theirs = Scratch::new("theirs");
    let ours = Scratch::new("ours");
    let guarded = Scratch::new("guarded");
    for (registry, scratch) in [
        (Served::theirs(&theirs), &theirs),
        (Served::ours(&ours, &ours.join("server"), false), &ours),
        (Served::ours(&guarded, &guarded.join("server"), true), &guarded),
    ] {
        client(&registry, scratch, &registry.name(&format!("{repository}:1")));
        let digest = registry.digest(&format!("{repository}:1"));
        let pull = shoal(&scratch.join("check"), &["pull"]).args(registry.own_flags());
        let outcome = pull.arg(registry.name(&format!("{repository}:1"))).run().expect_success();
        assert_eq!(pulled(&outcome), digest);
    }
}

#[test]
fn skopeo_pushes_and_pulls() {
    with_every_registry("team/skopeo", |registry, scratch, name| {
        let (archive, digest) = busybox(scratch.path());
        upload(registry, &archive, "team/skopeo:1");
        assert_eq!(registry.digest("team/skopeo:1"), digest, "bytes are kept");
        let layout = format!("oci:{}:1", scratch.join("layout").display());
        let skopeo = Cmd::new(binaries::tool("skopeo", "skopeo"));
        let copy = skopeo.clone().args(["copy", "--preserve-digests"]).args(registry.skopeo_flags("src-"));
        let _ = copy.arg(format!("docker://{name}")).arg(&layout).ok();
        let seen = skopeo.clone().args(["inspect", "--format", "{{.Digest}}", &layout]).ok();
        assert_eq!(seen.trim(), digest);
        let tags = skopeo.clone().arg("list-tags").args(registry.skopeo_flags(""));
        assert!(tags.arg(format!("docker://{}", registry.name("team/skopeo"))).ok().contains("\"1\""));
        let delete = skopeo.arg("delete").args(registry.skopeo_flags(""));
        let second = registry.name("team/skopeo-two:1");
        upload(registry, &archive, "team/skopeo-two:1");
        let _ = delete.arg(format!("docker://{second}")).ok();
    });
}

#[test]
fn ours_pushes_and_pulls() {
    with_every_registry("team/ours", |registry, scratch, name| {
        let (archive, digest) = busybox(scratch.path());
        let (from, to) = (scratch.join("from"), scratch.join("to"));
        let _ = shoal(&from, &["load", "-i"]).arg(archive).ok();
        let _ = shoal(&from, &["tag", "box:1", name]).ok();
        let _ = shoal(&from, &["push"]).args(registry.own_flags()).arg(name).ok();
        assert_eq!(registry.digest("team/ours:1"), digest, "bytes are kept");
        let outcome = shoal(&to, &["pull"]).args(registry.own_flags()).arg(name).run().expect_success();
        assert_eq!(pulled(&outcome), digest);
        let ends: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains(": Complete")).collect();
        let once: std::collections::BTreeSet<&&str> = ends.iter().collect();
        assert!(once.len() == ends.len() && once.len() == 2, "a layer and the config, each said once: {ends:?}");
        // By digest, and once more: nothing is missing then.
        let pinned = format!("{}@{digest}", registry.name("team/ours"));
        let _ = shoal(&to, &["pull"]).args(registry.own_flags()).arg(pinned).run().expect_success();
        let refused = shoal(&to, &["pull"]).args(registry.own_flags()).arg(registry.name("team/none:1")).run();
        assert!(refused.expect_failure().stderr.contains("team/none"));
        if registry.guarded {
            let cert = registry.own_flags().remove(0);
            let refused = shoal(&to, &["pull", &cert]).arg(name).run().expect_failure();
            assert!(refused.stderr.contains("shoal login"), "{}", refused.stderr);
            let (user, password) = USER.split_once(':').expect("user and password");
            let login = shoal(&to, &["login", &cert, "-u", user, "--password-stdin", &registry.address]);
            let _ = login.clone().input("wrong").run().expect_failure();
            let _ = login.input(password).run().expect_success();
            let _ = shoal(&to, &["pull", &cert]).arg(name).run().expect_success();
            let _ = shoal(&to, &["logout", &registry.address]).run().expect_success();
            let _ = shoal(&to, &["pull", &cert]).arg(name).run().expect_failure();
        }
        // Other tools read the store in place.
        let store = format!("oci:{}:{name}", to.join("data/images").display());
        let inspect = Cmd::new(binaries::tool("skopeo", "skopeo")).args(["inspect", "--format", "{{.Digest}}"]);
        assert_eq!(inspect.arg(store).ok().trim(), digest);
    });
}

/// podman or buildah with a store of its own.
fn containers(tool: &str, scratch: &Scratch) -> Cmd {
    let limits = scratch.join("containers.conf");
    std::fs::write(&limits, "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n").expect("writable");
    Cmd::new(binaries::tool(tool, tool))
        .arg("--root")
        .arg(scratch.join("storage"))
        .arg("--runroot")
        .arg(scratch.join("runroot"))
        .args(["--storage-driver", "vfs"])
        .env("CONTAINERS_CONF", limits)
        .env("HOME", scratch.path())
}

#[test]
fn podman_pushes_and_pulls() {
    with_every_registry("team/podman", |registry, scratch, name| {
        let (archive, _) = busybox(scratch.path());
        let podman = |args: &[&str]| containers("podman", scratch).args(args.iter().copied());
        let loaded = podman(&["load", "-q", "-i"]).arg(archive).ok();
        let loaded = loaded.trim().rsplit(' ').next().expect("it says what it loaded").to_owned();
        let _ = podman(&["tag", &loaded, name]).ok();
        let _ = podman(&["push", "-q"]).args(registry.flags()).arg(name).ok();
        let _ = podman(&["rmi", "-f", "-a"]).ok();
        let _ = podman(&["pull", "-q"]).args(registry.flags()).arg(name).ok();
        let digest = podman(&["image", "inspect", "--format", "{{.Digest}}", name]).ok();
        assert_eq!(digest.trim(), registry.digest("team/podman:1"));
    });
}

#[test]
fn buildah_pushes_and_pulls() {
    with_every_registry("team/buildah", |registry, scratch, name| {
        let (archive, _) = busybox(scratch.path());
        let buildah = |args: &[&str]| containers("buildah", scratch).args(args.iter().copied());
        let loaded = buildah(&["pull", "-q"]).arg(format!("oci-archive:{}", archive.display())).ok();
        let to = format!("docker://{name}");
        let _ = buildah(&["push", "-q"]).args(registry.flags()).args([loaded.trim(), &to]).ok();
        let _ = buildah(&["rmi", "-f", "-a"]).ok();
        let _ = buildah(&["pull", "-q"]).args(registry.flags()).arg(name).ok();
        assert!(buildah(&["images", "--digests"]).ok().contains(&registry.digest("team/buildah:1")));
    });
}

/// Starts a daemon and waits until it answers.
fn daemon(daemon: &Cmd, log: PathBuf, probe: &Cmd) -> Process {
    let log = std::fs::File::create(log).expect("writable");
    let child = daemon
        .command()
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", daemon.line()));
    let process = Process(child);
    eventually("the daemon answers", SOON, || probe.run().status.success().then_some(()));
    process
}

#[test]
fn docker_pushes_and_pulls() {
    let scratch = Scratch::new("docker");
    let socket = format!("unix://{}", scratch.join("sock").display());
    let docker =
        |args: &[&str]| Cmd::new("docker").args(["-H", &socket]).args(args.iter().copied()).env("HOME", scratch.path());
    let dockerd = Cmd::new(binaries::tool("dockerd", "docker.io"))
        .args(["-H", &socket, "--bridge", "none", "--iptables=false", "--storage-driver", "vfs"])
        .arg("--data-root")
        .arg(scratch.join("data"))
        .arg("--exec-root")
        .arg(scratch.join("exec"))
        .arg("--pidfile")
        .arg(scratch.join("pid"));
    let _daemon = daemon(&dockerd, scratch.join("log"), &docker(&["info"]));
    let (archive, _) = busybox(scratch.path());
    let loadable = scratch.join("docker.tar");
    let convert = Cmd::new(binaries::tool("skopeo", "skopeo")).arg("copy");
    let from = format!("oci-archive:{}", archive.display());
    let _ = convert.arg(from).arg(format!("docker-archive:{}:box:1", loadable.display())).ok();
    let _ = docker(&["load", "-q", "-i"]).arg(loadable).ok();
    // Docker trusts 127.0.0.1 with any certificate.
    with_every_registry("team/docker", |registry, _, name| {
        if registry.guarded {
            let (user, password) = USER.split_once(':').expect("user and password");
            let login = docker(&["login", "-u", user, "--password-stdin", &registry.address]);
            let _ = login.input(password).ok();
        }
        let _ = docker(&["tag", "box:1", name]).ok();
        let _ = docker(&["push", "-q", name]).ok();
        let _ = docker(&["rmi", name]).ok();
        let _ = docker(&["pull", "-q", name]).ok();
        let digests = docker(&["inspect", "--format", "{{json .RepoDigests}}", name]).ok();
        assert!(digests.contains(&registry.digest("team/docker:1")), "{digests}");
    });
}

#[test]
fn ctr_pushes_and_pulls() {
    let scratch = Scratch::new("ctr");
    let socket = scratch.join("sock");
    let config = scratch.join("config.toml");
    let text = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n",
        scratch.path().display()
    );
    std::fs::write(&config, text).expect("writable");
    let ctr = |args: &[&str]| Cmd::new("ctr").arg("-a").arg(&socket).args(args.iter().copied());
    let containerd = Cmd::new(binaries::tool("containerd", "containerd")).arg("-c").arg(&config);
    let _daemon = daemon(&containerd, scratch.join("log"), &ctr(&["version"]));
    let (archive, digest) = busybox(scratch.path());
    let _ = ctr(&["images", "import", "--snapshotter", "native"]).arg(archive).ok();
    let imported = ctr(&["images", "ls", "-q"]).ok();
    with_every_registry("team/ctr", |registry, _, name| {
        // On loopback ctr speaks plain HTTP unless a hosts.toml says otherwise.
        let flags = if registry.guarded {
            let hosts = scratch.join("hosts");
            let folder = hosts.join(&registry.address);
            std::fs::create_dir_all(&folder).expect("writable");
            let (server, authority) = (format!("https://{}", registry.address), registry.authority.join("ca.crt"));
            let text = format!(
                "server = \"{server}\"\n[host.\"{server}\"]\ncapabilities = [\"pull\", \"resolve\", \"push\"]\nca = \"{}\"\n",
                authority.display()
            );
            std::fs::write(folder.join("hosts.toml"), text).expect("writable");
            vec!["--hosts-dir".to_owned(), hosts.display().to_string(), "--user".to_owned(), USER.to_owned()]
        } else {
            vec!["--plain-http".to_owned()]
        };
        let _ = ctr(&["images", "push"]).args(flags.iter()).args([name, imported.trim()]).run().expect_success();
        assert_eq!(registry.digest("team/ctr:1"), digest, "bytes are kept");
        let _ = ctr(&["images", "rm", name]).run();
        let _ = ctr(&["images", "pull", "--snapshotter", "native"]).args(flags.iter()).arg(name).ok();
        assert!(ctr(&["images", "ls"]).ok().contains(&digest));
    });
}

#[test]
fn a_server_whose_own_certificate_is_given_as_the_authority_is_trusted_as_curl_trusts_it() {
    for marked in [true, false] {
        let scratch = Scratch::new("selfsigned");
        let (archive, digest) = busybox(scratch.path());
        let pair = self_signed(&scratch.join("own"), marked);
        let registry = Served::ours_with(&scratch, &scratch.join("server"), pair.clone());
        let curl = Cmd::new(binaries::tool("curl", "curl")).args(["-fsS", "--cacert"]).arg(&pair.0);
        let _ = curl.arg(format!("https://{}/v2/", registry.address)).ok();
        let client = scratch.join("client");
        let trusted = scratch.join("certs").join(&registry.address);
        std::fs::create_dir_all(&trusted).expect("writable");
        std::fs::copy(&pair.0, trusted.join("ca.crt")).expect("it was made");
        let flag = format!("--cert-dir={}", scratch.join("certs").display());
        let name = registry.name("own:1");
        let _ = shoal(&client, &["load", "-i"]).arg(archive).ok();
        let _ = shoal(&client, &["tag", "box:1", &name]).ok();
        let _ = shoal(&client, &["push", &flag, &name]).ok();
        let outcome = shoal(&scratch.join("other"), &["pull", &flag, &name]).run().expect_success();
        assert_eq!(pulled(&outcome), digest);
        // Without it (loopback is then asked in plain), and with another certificate of the same name, nothing is trusted.
        let _ = shoal(&scratch.join("other"), &["pull", &name]).run().expect_failure();
        let (stranger, _) = self_signed(&scratch.join("stranger"), marked);
        std::fs::copy(stranger, trusted.join("ca.crt")).expect("it was made");
        let refused = shoal(&scratch.join("other"), &["pull", &flag, &name]).run().expect_failure();
        assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    }
}
