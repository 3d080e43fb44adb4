//! What the README and the how-tos tell a reader to type is typed here: every block that opens with three backticks and `sh`.
//!
//! A document is one shell, its blocks in order. HTML comments, which a reader does not see, say the rest: `<!-- on n2 -->` before
//! a block types it on that host (`n1` until told otherwise; three hosts on one switch, 10.20.0.1 to 10.20.0.3), and
//! `<!-- setup` … `-->` is shell that the reader is taken to have done; `docs/prelude.sh` lists what it may call. What is not to be
//! run (another machine's prompt, an example's output) opens with `text`.

use integration::host::Lan;
use integration::{Cmd, Host, Scratch, binaries};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest document on two busy cores.
const PATIENCE: Duration = Duration::from_secs(150);

const PRELUDE: &str = include_str!("docs/prelude.sh");

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration/ lies in the workspace").to_owned()
}

/// Returns the document as a shell script.
fn script(name: &str, text: &str) -> String {
    let mut out = String::from(PRELUDE);
    let mut close: Option<&str> = None;
    for (at, line) in text.lines().enumerate() {
        match (close, line) {
            (Some(end), _) if line == end => close = None,
            (Some(_), _) => {
                let _ = writeln!(out, "{line}");
            }
            (None, "```sh" | "<!-- setup") => {
                close = Some(if line == "```sh" { "```" } else { "-->" });
                let _ = writeln!(out, "echo '# {name}:{}' >&2", at + 1);
            }
            (None, _) => {
                if let Some(host) = line.strip_prefix("<!-- on ").and_then(|rest| rest.strip_suffix(" -->")) {
                    let _ = writeln!(out, "on {host}");
                }
            }
        }
    }
    assert!(close.is_none(), "{name}: a block is not closed");
    out
}

/// Ends the node and the containers before the folders go.
struct Hosts(Vec<Host>);

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.0 {
            if host.root().join("run/node.sock").exists() {
                let _ = host.shoal(["mesh", "down"]).deadline(Duration::from_secs(40)).attempt();
            }
        }
    }
}

/// Types a document.
fn read(name: &str) {
    for (tool, package) in [("busybox", "busybox-static"), ("curl", "curl"), ("jq", "jq"), ("skopeo", "skopeo")] {
        let _ = binaries::tool(tool, package);
    }
    let text = std::fs::read_to_string(top().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let scratch = Scratch::new("docs");
    let lan = Lan::new(20, 0);
    let hosts = Hosts((0..3).map(|_| Host::new("docs")).collect());
    let mut list = String::new();
    for (number, host) in hosts.0.iter().enumerate() {
        let _ = lan.plug(host);
        let _ = writeln!(list, "n{} {} {}", number + 1, host.netns, host.root().display());
    }
    let (work, own) = (scratch.join("work"), scratch.join("own"));
    for folder in [&work, &own] {
        std::fs::create_dir(folder).expect("writable");
    }
    let file = scratch.join("script");
    std::fs::write(&file, script(name, &text)).expect("writable");
    let outcome = Cmd::new("bash")
        .arg(&file)
        .folder(&work)
        .env("BIN", binaries::folder())
        .env("BIN_SCRATCH", &own)
        .env("HOSTS", list.trim_end())
        .deadline(PATIENCE)
        .run();
    assert!(outcome.status.success(), "{name}:\n{}\n{}", outcome.stdout, outcome.stderr);
}

macro_rules! documents {
    ($($test:ident: $path:literal,)*) => {
        $(#[test] fn $test() { read($path); })*

        #[test]
        fn no_how_to_is_left_out() {
            let mut there: Vec<String> = std::fs::read_dir(top().join("docs/how-to"))
                .expect("the how-tos are there")
                .flatten()
                .map(|entry| format!("docs/how-to/{}", entry.file_name().display()))
                .collect();
            there.retain(|name| name.ends_with(".md"));
            there.sort();
            let mut read: Vec<&str> = [$($path),*].into_iter().filter(|path| path.starts_with("docs/how-to/")).collect();
            read.sort_unstable();
            assert_eq!(there, read);
        }
    };
}

documents! {
    the_readme: "README.md",
    a_first_container: "docs/how-to/first-container.md",
    a_first_cluster: "docs/how-to/first-cluster.md",
    a_node_drained: "docs/how-to/drain-a-node.md",
    two_sites_mirrored: "docs/how-to/mirror-two-sites.md",
    other_engines_runtime: "docs/how-to/runtime-of-other-engines.md",
    without_root: "docs/how-to/rootless.md",
    backup_and_restore: "docs/how-to/backup.md",
}
