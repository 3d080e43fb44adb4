//! Images against podman, containerd, umoci and docker-registry, all on one journaled ext4, interleaved.

mod fixture;
mod serving;

use super::figure::Figures;
use super::measured::{Cost, cost};
use crate::shell::{self, Result};
use fixture::{Daemon, Disk, Image, free_address, listens};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Rounds of every side; the least counts.
const ROUNDS: u8 = 3;

/// The tools, and where they work.
struct Bench {
    disk: Disk,
    image: Image,
    shoal: PathBuf,
    registry: String,
    _registry: Daemon,
}

/// Takes and prints the figures; only those of one part (`pull`, `unpack` or `serve`) when it is named.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut figures = Figures::default();
    take(&mut figures, args.first().map_or("", String::as_str))?;
    match super::value(args, "--json") {
        Some(path) => std::fs::write(path, figures.json()?).map_err(|error| format!("write {path}: {error}")),
        None => Ok(()),
    }
}

fn take(figures: &mut Figures, part: &str) -> Result<()> {
    let all = !["pull", "unpack", "serve"].contains(&part);
    let need = |name: &str, package: &str| {
        find(name).ok_or_else(|| format!("{name} is not installed: apt-get install {package}"))
    };
    let skopeo = need("skopeo", "skopeo")?;
    let registry = need("docker-registry", "docker-registry")?;
    let disk = Disk::make()?;
    let image = Image::make(&disk.path())?;
    println!("image layers=6 files={} plain={} packed={}", image.files, image.plain, image.packed);
    let (daemon, address) = docker_registry(&disk, &registry, "peer")?;
    let layout = format!("oci:{}:1", image.layout.display());
    let to = format!("docker://{address}/bench:1");
    let _ = shell::output(&skopeo.display().to_string(), &["copy", "-q", "--dest-tls-verify=false", &layout, &to])?;
    let shoal = shell::bin_dir().join("shoal");
    let bench = Bench { disk, image, shoal, registry: address, _registry: daemon };
    for (name, args) in [
        ("podman", &["--version"][..]),
        ("umoci", &["--version"]),
        ("ctr", &["--version"]),
        ("docker-registry", &["--version"]),
    ] {
        let version =
            find(name).and_then(|path| shell::output(&path.display().to_string(), args).ok()).unwrap_or_default();
        println!("version {name} {}", version.lines().next().unwrap_or("not installed"));
    }
    if all || part == "pull" {
        bench.pull(figures)?;
    }
    if all || part == "unpack" {
        bench.unpack(figures)?;
    }
    if all || part == "serve" {
        bench.serve(figures, &registry)?;
    }
    Ok(())
}

/// Runs a line of shell, measured; everything before has reached the disk.
fn measured(script: &str) -> Result<Cost> {
    let _ = shell::output("sync", &[])?;
    cost(&["sh", "-ec", script].map(OsString::from))
}

fn quiet(script: &str) -> Result<()> {
    shell::output("sh", &["-ec", script]).map(drop)
}

/// The least of one side's rounds.
#[derive(Debug, Clone, Copy)]
struct Least {
    cpu: f64,
    wall: f64,
}

impl Least {
    const NONE: Self = Self { cpu: f64::INFINITY, wall: f64::INFINITY };

    fn take(&mut self, cost: Cost) {
        self.cpu = self.cpu.min(cost.cpu_ms);
        self.wall = self.wall.min(cost.wall_ms);
    }
}

fn compare(figures: &mut Figures, name: &str, ours: Least, peer: &str, theirs: Least, goal: f64) {
    figures.ratio(&format!("{name}-cpu"), "ms", ours.cpu, peer, theirs.cpu, Some(goal));
    figures.ratio(&format!("{name}-wall"), "ms", ours.wall, peer, theirs.wall, Some(goal));
}

impl Bench {
    fn ours(&self) -> String {
        format!("{} --root {}", self.shoal.display(), self.disk.join("ours").display())
    }

    fn podman(&self) -> String {
        let (root, run) = (self.disk.join("podman"), self.disk.join("podman-run"));
        format!(
            "podman --root {} --runroot {} --storage-driver overlay --cgroup-manager cgroupfs --events-backend none",
            root.display(),
            run.display()
        )
    }

    /// Pull to mounted root file system, save, removal.
    fn pull(&self, figures: &mut Figures) -> Result<()> {
        let name = format!("{}/bench:1", self.registry);
        let mut pulls = [Least::NONE; 3];
        let mut saves = [Least::NONE; 2];
        let mut removals = [Least::NONE; 2];
        let has_podman = find("podman").is_some();
        let containerd = self.containerd()?;
        let (ours, podman) = (self.ours(), self.podman());
        let archive = self.disk.join("saved.tar").display().to_string();
        let mount = self.disk.join("mounted").display().to_string();
        for _ in 0..ROUNDS {
            pulls[0].take(measured(&format!("{ours} pull -q {name}; {ours} image mount {name} {mount}"))?);
            quiet(&format!("{ours} image unmount {mount}"))?;
            saves[0].take(measured(&format!("{ours} save --format oci-archive -o {archive} {name}"))?);
            quiet(&format!("rm {archive}"))?;
            removals[0].take(measured(&format!("{ours} rmi {name}"))?);
            quiet(&format!("rm -rf {}", self.disk.join("ours").display()))?;
            if has_podman {
                pulls[1].take(measured(&format!(
                    "{podman} pull -q --tls-verify=false {name}; {podman} image mount {name}"
                ))?);
                quiet(&format!("{podman} image umount -a"))?;
                saves[1].take(measured(&format!("{podman} save -q --format oci-archive -o {archive} {name}"))?);
                quiet(&format!("rm {archive}"))?;
                removals[1].take(measured(&format!("{podman} rmi {name}"))?);
            }
            if let Some((daemon, ctr)) = &containerd {
                let before = daemon.cpu_ms()?;
                let pull = format!(
                    "{ctr} images pull --plain-http --snapshotter overlayfs {name}; {ctr} images mount --snapshotter overlayfs {name} {mount}"
                );
                quiet(&format!("mkdir -p {mount}"))?;
                let mut taken = measured(&pull)?;
                // The work is the daemon's.
                taken.cpu_ms += daemon.cpu_ms()? - before;
                pulls[2].take(taken);
                quiet(&format!("{ctr} images unmount --rm {mount}; {ctr} images rm --sync {name}"))?;
            }
        }
        if has_podman {
            compare(figures, "pull-mounted", pulls[0], "podman", pulls[1], 0.25);
            compare(figures, "save", saves[0], "podman", saves[1], 0.10);
            compare(figures, "rmi", removals[0], "podman", removals[1], 0.2);
        } else {
            figures.unmeasured("pull-mounted", "podman is not installed");
        }
        if containerd.is_some() {
            compare(figures, "pull-mounted", pulls[0], "ctr", pulls[2], 0.35);
        } else {
            figures.unmeasured("pull-mounted", "containerd is not installed");
        }
        Ok(())
    }

    fn containerd(&self) -> Result<Option<(Daemon, String)>> {
        let (Some(containerd), Some(ctr)) = (find("containerd"), find("ctr")) else { return Ok(None) };
        let folder = self.disk.join("containerd");
        std::fs::create_dir_all(&folder).map_err(|error| format!("make {}: {error}", folder.display()))?;
        let config = folder.join("config.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/sock\"\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n",
            folder.display()
        );
        std::fs::write(&config, text).map_err(|error| format!("write {}: {error}", config.display()))?;
        let ctr = format!("{} -a {}", ctr.display(), folder.join("sock").display());
        let ready = || shell::output("sh", &["-c", &format!("{ctr} version")]).is_ok();
        let daemon = Daemon::start(&containerd, &["-c", &config.display().to_string()], &folder.join("log"), ready)?;
        Ok(Some((daemon, ctr)))
    }

    /// From the store, or a layout, into a plain directory.
    fn unpack(&self, figures: &mut Figures) -> Result<()> {
        let Some(umoci) = find("umoci") else {
            figures.unmeasured("unpack", "umoci is not installed");
            return Ok(());
        };
        let (ours, name) = (self.ours(), format!("{}/bench:1", self.registry));
        quiet(&format!("{ours} image copy -q oci:{}:1 store:{name}", self.image.layout.display()))?;
        let to = self.disk.join("unpacked").display().to_string();
        let (mut mine, mut theirs) = (Least::NONE, Least::NONE);
        for _ in 0..ROUNDS {
            mine.take(measured(&format!("{ours} image unpack -q {name} {to}"))?);
            quiet(&format!("rm -rf {to}"))?;
            let layout = self.image.layout.display();
            theirs.take(measured(&format!("{} unpack --image {layout}:1 {to}", umoci.display()))?);
            quiet(&format!("rm -rf {to}"))?;
        }
        quiet(&format!("rm -rf {}", self.disk.join("ours").display()))?;
        compare(figures, "unpack", mine, "umoci", theirs, 0.40);
        Ok(())
    }

    /// The servers under the same load.
    fn serve(&self, figures: &mut Figures, registry: &Path) -> Result<()> {
        let skopeo = find("skopeo").ok_or("skopeo is not installed")?.display().to_string();
        let (theirs, their_address) = docker_registry(&self.disk, registry, "load")?;
        let address = free_address()?;
        let root = self.disk.join("served").display().to_string();
        let args = ["--root", &root, "image", "serve", "--listen", &address];
        let ours = Daemon::start(&self.shoal, &args, &self.disk.join("served.log"), || listens(&address))?;
        for address in [&address, &their_address] {
            let (from, to) = (format!("oci:{}:1", self.image.layout.display()), format!("docker://{address}/bench:1"));
            let _ = shell::output(&skopeo, &["copy", "-q", "--dest-tls-verify=false", &from, &to])?;
        }
        let mut least =
            [serving::Load { get: f64::INFINITY, head: f64::INFINITY, put: f64::INFINITY, blob: f64::INFINITY }; 2];
        for round in 0..ROUNDS {
            let bytes = serving::blob(round);
            let path = self.disk.join("blob");
            std::fs::write(&path, &bytes).map_err(|error| format!("write the blob: {error}"))?;
            let sum = shell::output("sha256sum", &[&path.display().to_string()])?;
            let digest = format!("sha256:{}", sum.split(' ').next().unwrap_or_default());
            for (at, (server, address)) in [(&ours, &address), (&theirs, &their_address)].into_iter().enumerate() {
                let load = serving::load(server, address, &bytes, &digest)?;
                let best = &mut least[at];
                best.get = best.get.min(load.get);
                best.head = best.head.min(load.head);
                best.put = best.put.min(load.put);
                best.blob = best.blob.min(load.blob);
            }
        }
        let [mine, theirs] = least;
        figures.ratio("registry-get-1000-cpu", "ms", mine.get, "docker-registry", theirs.get, Some(0.2));
        figures.ratio("registry-head-1000-cpu", "ms", mine.head, "docker-registry", theirs.head, Some(0.2));
        figures.ratio("registry-put-gb-cpu", "ms", mine.put, "docker-registry", theirs.put, Some(0.5));
        figures.ratio("registry-blob-gb-cpu", "ms", mine.blob, "docker-registry", theirs.blob, Some(1.1));
        Ok(())
    }
}

/// A docker-registry with a folder of its own on the disk.
fn docker_registry(disk: &Disk, program: &Path, name: &str) -> Result<(Daemon, String)> {
    let address = free_address()?;
    let config = disk.join(&format!("registry-{name}.yml"));
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        disk.join(&format!("registry-{name}")).display()
    );
    std::fs::write(&config, text).map_err(|error| format!("write {}: {error}", config.display()))?;
    let (config, log) = (config.display().to_string(), disk.join(&format!("registry-{name}.log")));
    let daemon = Daemon::start(program, &["serve", &config], &log, || listens(&address))?;
    Ok((daemon, address))
}

/// A program of PATH or the sbin folders.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
}
