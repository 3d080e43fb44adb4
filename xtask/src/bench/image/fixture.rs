//! What the image benchmark works on: a journaled ext4 in a file, an image of this host's own files, and daemons.
//!
//! The root file system of a test machine may have no journal, which makes the creation of files ten times cheaper than it
//! is for everyone else: both sides therefore work on a loop-mounted ext4 of their own.

use crate::shell::{self, Result};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Size of the file system, in bytes: room for a handful of copies of the image; the file is sparse.
const DISK_BYTES: u64 = 12 << 30;
/// Least size of the image's plain layers, in bytes, and least number of its files.
const IMAGE_BYTES: u64 = 270 << 20;
const IMAGE_FILES: usize = 12_000;
/// Layers of the image.
const LAYERS: usize = 6;
/// How long a daemon may take to listen.
const SOON: Duration = Duration::from_secs(60);

/// A journaled ext4 that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    pub(crate) fn make() -> Result<Self> {
        let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let folder = base.join(format!("shoal-bench-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("disk")).map_err(|error| format!("make {}: {error}", folder.display()))?;
        let disk = Self { folder };
        let file = disk.folder.join("ext4");
        std::fs::File::create(&file)
            .and_then(|made| made.set_len(DISK_BYTES))
            .map_err(|error| format!("make {}: {error}", file.display()))?;
        let (file, at) = (file.display().to_string(), disk.path().display().to_string());
        let _ = shell::output("mkfs.ext4", &["-q", "-F", "-O", "has_journal", &file])?;
        let _ = shell::output("mount", &["-o", "loop", &file, &at])?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("disk")
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What a failed round left mounted goes first, deepest first.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mine = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|at| Path::new(at).starts_with(&self.folder));
        for at in mine.collect::<Vec<_>>().iter().rev() {
            let _ = Command::new("umount").args(["-l", at]).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// An image in an OCI layout.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) layout: PathBuf,
    pub(crate) files: usize,
    pub(crate) plain: u64,
    pub(crate) packed: u64,
}

impl Image {
    /// Makes an image of files of this host's `/usr`: text, programs and libraries in the proportions people ship.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let layout = folder.join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).map_err(|error| format!("make the layout: {error}"))?;
        let mut image = Self { layout, files: 0, plain: 0, packed: 0 };
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (number, files) in choose()?.iter().enumerate() {
            image.files += files.len();
            let (list, tar) = (folder.join("list"), folder.join(format!("layer{number}.tar")));
            std::fs::write(&list, with_parents(files)).map_err(|error| format!("write the list: {error}"))?;
            let (list, tar) = (list.display().to_string(), tar.display().to_string());
            let _ = shell::output("tar", &["-C", "/", "--no-recursion", "--format=pax", "-T", &list, "-cf", &tar])?;
            diff_ids.push(format!("sha256:{}", sha256(&tar)?));
            image.plain += size(&tar)?;
            let _ = shell::output("gzip", &["-n", "-6", &tar])?;
            let descriptor = image.blob(&format!("{tar}.gz"), "application/vnd.oci.image.layer.v1.tar+gzip")?;
            image.packed += descriptor["size"].as_u64().unwrap_or(0);
            layers.push(descriptor);
        }
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = image.document(folder, &config, "application/vnd.oci.image.config.v1+json")?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let mut manifest = image.document(folder, &manifest, kind)?;
        manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "1"});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
        let write = |name: &str, text: String| {
            std::fs::write(image.layout.join(name), text).map_err(|error| format!("write {name}: {error}"))
        };
        write("index.json", index.to_string())?;
        write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned())?;
        Ok(image)
    }

    fn document(&self, folder: &Path, value: &serde_json::Value, kind: &str) -> Result<serde_json::Value> {
        let path = folder.join("document");
        std::fs::write(&path, value.to_string()).map_err(|error| format!("write a document: {error}"))?;
        self.blob(&path.display().to_string(), kind)
    }

    fn blob(&self, path: &str, kind: &str) -> Result<serde_json::Value> {
        let (digest, size) = (sha256(path)?, size(path)?);
        let to = self.layout.join("blobs/sha256").join(&digest);
        std::fs::rename(path, to).map_err(|error| format!("move {path}: {error}"))?;
        Ok(serde_json::json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": size}))
    }
}

/// Paths of files for each layer, without the leading slash.
fn choose() -> Result<Vec<Vec<String>>> {
    let found = shell::output("find", &["/usr", "-xdev", "-type", "f", "-size", "-8000k", "-printf", "%s %P\\n"])?;
    let mut files: Vec<(u64, &str)> = found
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(size, path)| Some((size.parse().ok()?, path)))
        .collect();
    // Large and small ones mixed, the same on every run.
    files
        .sort_by_key(|(_, path)| path.bytes().fold(0u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into())));
    let total: u64 = files.iter().map(|(size, _)| size).sum();
    if total < IMAGE_BYTES || files.len() < IMAGE_FILES {
        return Err(format!("/usr of this host has {} files with {total} bytes: too few for the image", files.len()));
    }
    // Of many small files first, then large ones until the size is reached.
    let mean = IMAGE_BYTES / u64::try_from(IMAGE_FILES).map_err(|error| error.to_string())?;
    let (mut bytes, mut chosen) = (0, Vec::new());
    for (size, path) in &files {
        if bytes >= IMAGE_BYTES && chosen.len() >= IMAGE_FILES {
            break;
        }
        let few = chosen.len() < IMAGE_FILES;
        if (few && bytes + size <= (chosen.len() as u64 + 1) * mean * 2) || (!few && bytes < IMAGE_BYTES) {
            bytes += size;
            chosen.push(format!("usr/{path}"));
        }
    }
    Ok(chosen.chunks(chosen.len().div_ceil(LAYERS)).map(<[String]>::to_vec).collect())
}

/// A list for tar: each directory before what is in it.
fn with_parents(files: &[String]) -> String {
    let mut all = std::collections::BTreeSet::new();
    for file in files {
        let mut at = Path::new(file);
        loop {
            all.insert(at.display().to_string());
            match at.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => at = parent,
                _ => break,
            }
        }
    }
    all.into_iter().map(|path| path + "\n").collect()
}

fn sha256(path: &str) -> Result<String> {
    let line = shell::output("sha256sum", &[path])?;
    line.split(' ').next().map(str::to_owned).ok_or_else(|| format!("sha256sum of {path} printed nothing"))
}

fn size(path: &str) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(|error| format!("look at {path}: {error}"))?.len())
}

/// A daemon that ends with the benchmark.
#[derive(Debug)]
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts `program` and waits until `ready`.
    pub(crate) fn start(program: &Path, args: &[&str], log: &Path, ready: impl Fn() -> bool) -> Result<Self> {
        let log = std::fs::File::create(log).map_err(|error| format!("make the log: {error}"))?;
        let again = log.try_clone().map_err(|error| format!("make the log: {error}"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log).stderr(again);
        let daemon = Self(command.spawn().map_err(|error| format!("start {}: {error}", program.display()))?);
        let begun = Instant::now();
        while !ready() {
            if begun.elapsed() > SOON {
                return Err(format!("{} does not answer", program.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// CPU of it and of the children it waited for, in ms. The kernel counts in steps of 10 ms.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.0.id());
        let stat = std::fs::read_to_string(&path).map_err(|error| format!("read {path}: {error}"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = fields.get(11..15).unwrap_or_default().iter().filter_map(|field| field.parse::<u32>().ok());
        Ok(ticks.map(f64::from).sum::<f64>() * 10.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// An address of loopback that nobody uses.
pub(crate) fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("listen on loopback: {error}"))?;
    Ok(listener.local_addr().map_err(|error| format!("listen on loopback: {error}"))?.to_string())
}

pub(crate) fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}
