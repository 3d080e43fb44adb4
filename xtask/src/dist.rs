//! A tarball to install from: programs, completions, manual pages, systemd units, a default configuration, `install.sh`, and its
//! SHA-256 beside it. In: the release binaries (`SHOAL_BIN_DIR`, else built now). Out: `dist/shoal-VERSION-ARCH-linux.tar.gz`, the
//! same bytes for the same binaries and commit.

use crate::build;
use crate::shell::{self, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that a user gets.
const PROGRAMS: [&str; 3] = ["shoal", "shoal-runtime", "shoal-monitor"];
/// Where each shell looks for completions, below the prefix.
const COMPLETIONS: [(&str, &str, &str); 6] = [
    ("shoal", "bash", "share/bash-completion/completions/shoal"),
    ("shoal", "zsh", "share/zsh/site-functions/_shoal"),
    ("shoal", "fish", "share/fish/vendor_completions.d/shoal.fish"),
    ("shoal-runtime", "bash", "share/bash-completion/completions/shoal-runtime"),
    ("shoal-runtime", "zsh", "share/zsh/site-functions/_shoal-runtime"),
    ("shoal-runtime", "fish", "share/fish/vendor_completions.d/shoal-runtime.fish"),
];

/// Makes the tarball.
pub(crate) fn run() -> Result<()> {
    if std::env::var_os("SHOAL_BIN_DIR").is_none() {
        build::all()?;
    }
    let top = shell::top();
    let name = format!("shoal-{}-{}-linux", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let out = std::env::var_os("SHOAL_DIST_DIR").map_or_else(|| top.join("dist"), PathBuf::from);
    let folder = out.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| format!("empty {}: {error}", folder.display()))?;
    }
    for program in PROGRAMS {
        copy(&shell::bin_dir().join(program), &folder.join("bin").join(program))?;
    }
    let program = |name: &str| folder.join("bin").join(name).to_string_lossy().into_owned();
    for (name, kind, path) in COMPLETIONS {
        write(&folder.join(path), &shell::output(&program(name), &["completion", kind])?)?;
    }
    let pages = folder.join("share/man");
    shell::output(&program("shoal"), &["man", "--output", &pages.join("man1").to_string_lossy()])?;
    write(&pages.join("man8/shoal-runtime.8"), &shell::output(&program("shoal-runtime"), &["man"])?)?;
    for file in ["README.md", "LICENSE", "CHANGELOG.md"] {
        copy(&top.join(file), &folder.join("share/doc/shoal").join(file))?;
    }
    for from in ["docs", "docs/how-to"] {
        for entry in list(&top.join(from))? {
            if entry.extension().is_some_and(|kind| kind == "md") {
                copy(&entry, &folder.join("share/doc/shoal").join(entry.strip_prefix(top).expect("below the top")))?;
            }
        }
    }
    for unit in ["shoal-boot.service", "shoal-node.service"] {
        copy(&top.join("xtask/dist").join(unit), &folder.join("systemd").join(unit))?;
    }
    copy(&top.join("engine/apparmor/shoal-default"), &folder.join("share/shoal/apparmor/shoal-default"))?;
    copy(&top.join("xtask/dist/node.env"), &folder.join("etc/node.env"))?;
    copy(&top.join("xtask/dist/install.sh"), &folder.join("install.sh"))?;
    pack(&out, &name)
}

/// Packs the folder: names sorted, times those of the commit, no owner.
fn pack(out: &Path, name: &str) -> Result<()> {
    let top = shell::top().to_string_lossy().into_owned();
    let time = shell::output("git", &["-C", &top, "log", "-1", "--format=%ct"])?;
    let tar = out.join(format!("{name}.tar.gz"));
    let mut command = Command::new("tar");
    command.arg("-C").arg(out).args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -n",
    ]);
    command.arg(format!("--mtime=@{}", time.trim())).arg("-cf").arg(&tar).arg(name);
    shell::status(command)?;
    let sum = shell::output("sha256sum", &[&tar.to_string_lossy()])?;
    let digest = sum.split_whitespace().next().unwrap_or_default();
    write(&out.join(format!("{name}.tar.gz.sha256")), &format!("{digest}  {name}.tar.gz\n"))?;
    println!("{digest}  {}", tar.display());
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("list {}: {error}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    parent(to)?;
    fs::copy(from, to).map(drop).map_err(|error| format!("copy {} to {}: {error}", from.display(), to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    parent(to)?;
    fs::write(to, text).map_err(|error| format!("write {}: {error}", to.display()))
}

fn parent(path: &Path) -> Result<()> {
    let folder = path.parent().expect("a path below a folder");
    fs::create_dir_all(folder).map_err(|error| format!("make {}: {error}", folder.display()))
}
