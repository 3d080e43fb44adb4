//! The tarball that users install from: made of the built binaries, checked by its sum, installed below a folder, removed again.

use integration::{Cmd, Scratch, binaries};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `cargo xtask` may have to be built first, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(300);

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration/ lies in the workspace").to_owned()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

#[test]
fn the_tarball_installs_runs_and_leaves_only_the_configuration_behind() {
    let scratch = Scratch::new("dist");
    let (out, root) = (scratch.join("out"), scratch.join("root"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let _ = Cmd::new(cargo)
        .args(["xtask", "dist"])
        .folder(&top())
        .env("SHOAL_BIN_DIR", binaries::folder())
        .env("SHOAL_DIST_DIR", &out)
        .deadline(PATIENCE)
        .ok();
    let _ = Cmd::new("sh")
        .args(["-c", "sha256sum -c *.sha256 && tar -xzf *.tar.gz --one-top-level=unpacked --strip-components=1"])
        .folder(&out)
        .ok();
    let install = |args: &[&str]| {
        Cmd::new(out.join("unpacked/install.sh")).args(args).env("DESTDIR", &root).env("PREFIX", "/opt/shoal").run()
    };
    let _ = install(&[]).expect_success();
    let prefix = root.join("opt/shoal");
    for program in ["shoal", "shoal-runtime", "shoal-monitor"] {
        let mode = fs::metadata(prefix.join("bin").join(program)).expect("installed").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{program}");
    }
    let version = Cmd::new(prefix.join("bin/shoal")).arg("--version").ok();
    assert!(version.starts_with("shoal "), "{version}");
    let _ = Cmd::new(prefix.join("bin/shoal-runtime")).arg("--version").ok();
    for file in [
        "share/man/man1/shoal.1",
        "share/man/man1/shoal-mesh-up.1",
        "share/man/man8/shoal-runtime.8",
        "share/bash-completion/completions/shoal-runtime",
        "share/zsh/site-functions/_shoal-runtime",
        "share/fish/vendor_completions.d/shoal-runtime.fish",
        "share/bash-completion/completions/shoal",
        "share/zsh/site-functions/_shoal",
        "share/fish/vendor_completions.d/shoal.fish",
        "share/doc/shoal/README.md",
        "share/doc/shoal/docs/how-to/first-container.md",
    ] {
        assert!(fs::metadata(prefix.join(file)).is_ok_and(|file| file.len() > 100), "{file}");
    }
    for program in ["shoal", "shoal-runtime"] {
        let completion = prefix.join("share/bash-completion/completions").join(program);
        let _ = Cmd::new("bash").arg("-n").arg(&completion).ok();
    }
    let unit = fs::read_to_string(prefix.join("lib/systemd/system/shoal-node.service")).expect("installed");
    assert!(unit.contains("ExecStart=/opt/shoal/bin/shoal mesh up"), "{unit}");

    // A second installation keeps what the operator wrote.
    let config = root.join("etc/shoal/node.env");
    fs::write(&config, "MESH_UP=--name here\n").expect("writable");
    let _ = install(&[]).expect_success();
    assert_eq!(fs::read_to_string(&config).expect("kept"), "MESH_UP=--name here\n");

    let _ = install(&["--uninstall"]).expect_success();
    let mut left = Vec::new();
    files(&root, &mut left);
    assert_eq!(left, [config]);
    let again = install(&["--uninstall"]).expect_failure();
    assert!(again.stderr.contains("nothing is installed"), "{}", again.stderr);
}
