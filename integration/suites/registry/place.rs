//! Where images live in this suite: our server, docker-registry, our store, disks of a given size, and images to move.

use integration::image::Builder;
use integration::{Cmd, Outcome, Scratch, binaries, eventually, soon};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// How long a daemon may take to answer on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// A user of the guarded servers, and what `htpasswd -B` makes of the password.
pub(crate) const USER: &str = "alice:wonder land";

/// A process that ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        // One that was waited for has no pid any more: its number may be another's.
        if self.0.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        if soon(Duration::from_secs(5), || self.0.try_wait().ok().flatten()).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A registry on loopback.
pub(crate) struct Served {
    pub(crate) address: String,
    /// Whether it speaks TLS and asks for [`USER`].
    pub(crate) guarded: bool,
    /// The folder of its certificate authority: `ca.crt` directly in it (podman's `--cert-dir`).
    pub(crate) authority: PathBuf,
    _process: Process,
}

impl Served {
    /// Ours, over the store below `root`.
    pub(crate) fn ours(scratch: &Scratch, root: &Path, guarded: bool) -> Self {
        let mut serve = shoal(root, &["image", "serve", "--listen", "127.0.0.1:0"]);
        if guarded {
            let (certificate, key) = certificate(&scratch.join("authority"));
            let users = scratch.join("htpasswd");
            std::fs::write(&users, htpasswd()).expect("writable");
            serve = serve.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key).arg("--htpasswd").arg(users);
        }
        Self::started(scratch, &serve, guarded)
    }

    /// Ours with a certificate and nobody asked for a password; `own_flags` is then not for it.
    pub(crate) fn ours_with(scratch: &Scratch, root: &Path, (certificate, key): (PathBuf, PathBuf)) -> Self {
        let serve = shoal(root, &["image", "serve", "--listen", "127.0.0.1:0", "--tls-cert"]);
        Self::started(scratch, &serve.arg(certificate).arg("--tls-key").arg(key), false)
    }

    fn started(scratch: &Scratch, serve: &Cmd, guarded: bool) -> Self {
        let mut child = serve.command().stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("shoal starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().split("://").nth(1).and_then(|rest| rest.strip_suffix("/v2/"));
        let address = address.unwrap_or_else(|| panic!("not an address: {line:?}")).to_owned();
        Self { address, guarded, authority: scratch.join("authority"), _process: Process(child) }
    }

    /// Debian's docker-registry.
    pub(crate) fn theirs(scratch: &Scratch) -> Self {
        let program = binaries::tool("docker-registry", "docker-registry");
        let address = free_address();
        let config = scratch.join("docker-registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
            scratch.join("docker-registry").display()
        );
        std::fs::write(&config, text).expect("writable");
        let serve = Cmd::new(program).arg("serve").arg(&config);
        let child = serve
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let process = Process(child);
        eventually("docker-registry listens", SOON, || TcpStream::connect(&address).ok());
        Self { address, guarded: false, authority: scratch.join("authority"), _process: process }
    }

    /// A name in this registry.
    pub(crate) fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// The flags of podman, buildah and ours that make them trust this registry.
    pub(crate) fn flags(&self) -> Vec<String> {
        if self.guarded {
            vec![format!("--cert-dir={}", self.authority.display()), format!("--creds={USER}")]
        } else {
            vec!["--tls-verify=false".into()]
        }
    }

    /// The same for skopeo, which has them for one side.
    pub(crate) fn skopeo_flags(&self, side: &str) -> Vec<String> {
        if self.guarded {
            vec![format!("--{side}cert-dir={}", self.authority.display()), format!("--{side}creds={USER}")]
        } else {
            vec![format!("--{side}tls-verify=false")]
        }
    }

    /// The same for ours: its folder has one folder a host.
    pub(crate) fn own_flags(&self) -> Vec<String> {
        if !self.guarded {
            return Vec::new();
        }
        let folder = self.authority.join("certs.d").join(&self.address);
        std::fs::create_dir_all(&folder).expect("writable");
        std::fs::copy(self.authority.join("ca.crt"), folder.join("ca.crt")).expect("the authority was made");
        vec![format!("--cert-dir={}", self.authority.join("certs.d").display()), format!("--creds={USER}")]
    }

    /// The digest of a tag, as skopeo sees it.
    pub(crate) fn digest(&self, name: &str) -> String {
        let name = format!("docker://{}", self.name(name));
        let inspect = Cmd::new(binaries::tool("skopeo", "skopeo")).args(["inspect", "--format", "{{.Digest}}"]);
        inspect.args(self.skopeo_flags("")).arg(name).ok().trim().to_owned()
    }
}

/// A line of `htpasswd -B` for [`USER`].
fn htpasswd() -> String {
    let (user, password) = USER.split_once(':').expect("user and password");
    let script = "import crypt, sys; print(crypt.crypt(sys.argv[1], crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))";
    let hash = Cmd::new("python3").args(["-W", "ignore", "-c", script, password]).ok();
    format!("{user}:{hash}")
}

/// Makes a certificate authority `ca.crt` in `folder`, and a certificate of 127.0.0.1 with its key elsewhere.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let own = folder.with_extension("server");
    std::fs::create_dir_all(folder).expect("writable");
    std::fs::create_dir_all(&own).expect("writable");
    let script = r#"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out "$1/ca.crt" -days 30 -subj "/CN=test authority" 2>/dev/null
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out server.csr -subj /CN=127.0.0.1 2>/dev/null
        printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > extensions
        openssl x509 -req -in server.csr -CA "$1/ca.crt" -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out cert.pem 2>/dev/null
    "#;
    let _ = Cmd::new("sh").args(["-ec", script, "sh"]).arg(folder).folder(&own).ok();
    (own.join("cert.pem"), own.join("key.pem"))
}

/// Makes a certificate of 127.0.0.1 that is its own authority, marked as one when `marked`: `cert.pem` and `key.pem` in `folder`.
pub(crate) fn self_signed(folder: &Path, marked: bool) -> (PathBuf, PathBuf) {
    std::fs::create_dir_all(folder).expect("writable");
    let script = r#"
        openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=127.0.0.1 \
            -addext subjectAltName=IP:127.0.0.1 -addext "basicConstraints=critical,CA:$1" 2>/dev/null
    "#;
    let mark = if marked { "TRUE" } else { "FALSE" };
    let _ = Cmd::new("sh").args(["-ec", script, "sh", mark]).folder(folder).ok();
    (folder.join("cert.pem"), folder.join("key.pem"))
}

/// An address on loopback that nobody uses at the moment.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// Our command line with its store below `root`.
pub(crate) fn shoal(root: &Path, args: &[&str]) -> Cmd {
    Cmd::new(binaries::shoal()).arg("--root").arg(root).args(args.iter().copied()).env("HOME", root)
}

/// The digest that `shoal pull` prints.
pub(crate) fn pulled(outcome: &Outcome) -> String {
    let digest = outcome.stdout.lines().find_map(|line| line.strip_prefix("Digest: "));
    digest.unwrap_or_else(|| panic!("no digest: {outcome:?}")).to_owned()
}

/// An image of busybox in one layer; returns the archive and the manifest's digest.
pub(crate) fn busybox(folder: &Path) -> (PathBuf, String) {
    let archive = folder.join("busybox.tar");
    let mut builder = Builder::busybox("box:1");
    builder.config["Cmd"] = serde_json::json!(["/bin/echo", "hello from the image"]);
    let digest = builder.write(&archive);
    (archive, digest)
}

/// Bytes of an archive: those of the image's blobs and a little more.
pub(crate) fn bytes_of(archive: &Path) -> u64 {
    std::fs::metadata(archive).expect("it was written").len()
}

/// An image of `layers` layers with `bytes` each that do not compress; returns the archive and the manifest's digest.
pub(crate) fn noise(folder: &Path, layers: usize, bytes: usize) -> (PathBuf, String) {
    let archive = folder.join("noise.tar");
    let mut builder = Builder::new("noise:1");
    let mut random = std::fs::File::open("/dev/urandom").expect("every kernel has it");
    for layer in 0..layers {
        let mut data = vec![0; bytes];
        std::io::Read::read_exact(&mut random, &mut data).expect("it never ends");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("noise-{layer}"), data.as_slice()).expect("memory");
        builder.layer(&tar.into_inner().expect("memory"));
    }
    let digest = builder.write(&archive);
    (archive, digest)
}

/// Pushes an archive with skopeo, which is not what is tested then.
pub(crate) fn upload(registry: &Served, archive: &Path, name: &str) {
    let to = format!("docker://{}", registry.name(name));
    let copy = Cmd::new(binaries::tool("skopeo", "skopeo")).args(["copy", "--preserve-digests"]);
    let _ = copy.args(registry.skopeo_flags("dest-")).arg(format!("oci-archive:{}", archive.display())).arg(to).ok();
}

/// An ext4 of `mebibytes`, mounted at `at` from a file; it goes with the scratch folder of `at`.
pub(crate) fn disk(at: &Path, mebibytes: u64) {
    let file = at.with_extension("ext4");
    std::fs::File::create(&file).and_then(|file| file.set_len(mebibytes << 20)).expect("writable");
    let _ = Cmd::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file).ok();
    std::fs::create_dir(at).expect("writable");
    let _ = Cmd::new("mount").args(["-o", "loop"]).arg(&file).arg(at).ok();
}

/// A file that takes all room of the disk at `at` but `left` mebibytes.
pub(crate) fn ballast(at: &Path, left: u64) -> PathBuf {
    let stat = nix::sys::statvfs::statvfs(at).expect("it is mounted");
    let free = stat.blocks_available() * stat.fragment_size();
    let path = at.join("ballast");
    let mut file = std::fs::File::create(&path).expect("there is room");
    let block = vec![0; 1 << 20];
    for _ in 0..(free >> 20).saturating_sub(left) {
        file.write_all(&block).expect("there is room");
    }
    file.sync_all().expect("there is room");
    path
}

/// What a broken operation must not leave in a store: files that are being written.
pub(crate) fn unfinished(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join("data/images/tmp")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
