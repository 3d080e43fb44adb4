//! The house rules as a test: arrows between crates, rooms for unsafe, headers, formats, names. Each rule names the
//! invariant of docs/architecture.md that it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom: crate folder → our crates it may name in `[dependencies]`.
const ARROWS: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("runtime", &["oci"]),
    ("image", &["oci"]),
    ("p2p", &["oci"]),
    ("engine", &["oci", "runtime", "image"]),
    ("scheduler", &["oci", "p2p", "engine", "image"]),
    ("cli", &["oci", "runtime", "image", "engine", "p2p", "scheduler"]),
    ("cli/runtime", &["oci", "runtime"]),
    ("cli/monitor", &["oci", "engine"]),
    ("tests", &["oci", "runtime", "image", "engine", "p2p", "scheduler"]),
    ("integration", &[]),
    ("integration/probe", &[]),
    ("xtask", &[]),
];

/// The rooms of `unsafe` (I2). The probe is a guest, never part of the product.
const UNSAFE_ROOMS: &[&str] = &[
    "runtime/src/host/sys/",
    "runtime/src/host/sys.rs",
    "image/src/store/sys.rs",
    "engine/src/host/sys.rs",
    "engine/src/host/sys/",
    "integration/",
];

/// Only here may scheduler meet engine, image and p2p's shell (I1).
const NODE: &str = "scheduler/src/node";

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Every Rust file of the workspace, by its path from the top, with its text.
fn sources() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in ARROWS.iter().map(|(folder, _)| *folder) {
        collect(&top().join(folder), &mut files);
    }
    assert!(files.len() > 50, "the workspace was not found");
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(top()).expect("below the top").to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path).expect("a source file is text"));
        }
    }
}

/// Lines outside comments, with their numbers. String literals stay: a rule that could meet one says so.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The part of a file before its unit tests.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/")
        || name.starts_with("integration/")
        || name.ends_with("tests.rs")
        || name.contains("/tests/")
}

fn none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}\n  {}", found.join("\n  "));
}

#[test]
fn crates_import_only_along_the_arrows() {
    let ours: Vec<&str> = ARROWS.iter().map(|(folder, _)| *folder).filter(|folder| !folder.contains('/')).collect();
    let mut found = Vec::new();
    for (folder, allowed) in ARROWS {
        let manifest = fs::read_to_string(top().join(folder).join("Cargo.toml")).expect("every member has a manifest");
        let dependencies =
            manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
        for line in dependencies.lines() {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if ours.contains(&name) && !allowed.contains(&name) {
                found.push(format!("{folder} imports {name}"));
            }
        }
    }
    none("docs/architecture.md \"Who may import whom\"", &found);
}

#[test]
fn oci_does_no_io() {
    let banned = [
        "std::fs",
        "net::Tcp",
        "net::Udp",
        "std::process",
        "SystemTime::now",
        "Instant::now",
        "env::var",
        "std::thread",
    ];
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name.starts_with("oci/src")) {
        for (at, line) in code(shipped(text)) {
            if banned.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("I1: oci does no I/O", &found);
}

#[test]
fn the_scheduler_meets_its_siblings_only_in_the_node() {
    let mut found = Vec::new();
    for (name, text) in
        sources().iter().filter(|(name, _)| name.starts_with("scheduler/src") && !name.starts_with(NODE))
    {
        for (at, line) in code(text) {
            if ["engine::", "image::", "p2p::Mesh", "tokio::", "std::fs", "Instant::now", "SystemTime::now"].iter().any(
                |word| {
                    line.match_indices(word).any(|(start, _)| {
                        !line[..start]
                            .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
                    })
                },
            ) {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("I1: siblings meet only in scheduler/src/node", &found);
}

#[test]
fn unsafe_stays_in_its_rooms_with_its_reason() {
    let mut found = Vec::new();
    for (name, text) in &sources() {
        if UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) {
            continue;
        }
        for (at, line) in code(text) {
            if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| line.contains(word))
                && !line.contains('"')
            {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("I2: unsafe lives only in its rooms", &found);
}

#[test]
fn the_runtime_is_synchronous_and_single_threaded() {
    let mut found = Vec::new();
    for (name, text) in
        sources().iter().filter(|(name, _)| name.starts_with("runtime/src") || name.starts_with("cli/runtime"))
    {
        for (at, line) in code(shipped(text)).filter(|_| !is_test(name)) {
            if ["thread::spawn", "tokio", "async fn", "rayon"].iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("I3: runtime is synchronous and single-threaded", &found);
}

#[test]
fn every_format_has_an_owner_file_that_exists() {
    let text = fs::read_to_string(top().join("docs/formats.md")).expect("docs/formats.md");
    let mut found = Vec::new();
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with('|')).skip(2) {
        rows += 1;
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let owner = cells.get(3).map_or("", |cell| cell.trim_matches('`'));
        let first = owner.split([',', ' ']).next().unwrap_or_default().trim_matches('`');
        if cells.len() != 5 || !top().join(first).exists() {
            found.push(row.to_owned());
        }
    }
    assert!(rows > 3, "docs/formats.md lists {rows} formats");
    none("I6: a row is format, where, version, owner file, old reader / new data", &found);
}

#[test]
fn channels_are_bounded() {
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name) && !name.starts_with("xtask/")) {
        for (at, line) in code(shipped(text)) {
            if line.contains("unbounded_channel(") || line.contains("mpsc::unbounded(") {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("I7: every channel is bounded by a named constant", &found);
}

#[test]
fn every_file_says_what_it_is() {
    let found: Vec<String> =
        sources().iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name.clone()).collect();
    none("a file starts with what goes in, what comes out, what it never does", &found);
}

#[test]
fn nothing_is_left_to_do() {
    let banned = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("FIX", "ME"),
        concat!("XX", "X "),
        concat!("#[al", "low("),
        concat!("(being ", "written)"),
    ];
    let mut found = Vec::new();
    for (name, text) in &sources() {
        for (at, line) in text.lines().enumerate() {
            if banned.iter().any(|word| line.contains(word)) {
                found.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    none("no stub is called done; lints are expected with a reason, never allowed", &found);
}

#[test]
fn names_are_nouns() {
    let banned = ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "misc.rs", "common.rs", "mod.rs"];
    let found: Vec<String> = sources()
        .keys()
        .filter(|name| banned.iter().any(|word| Path::new(name).file_name().is_some_and(|file| file == *word)))
        .cloned()
        .collect();
    none("one noun a file; foo.rs + foo/, no mod.rs", &found);
}

#[test]
fn tests_wait_with_deadlines_and_not_with_sleeps() {
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name.contains("/suites/")) {
        for (at, line) in code(text) {
            if line.contains(concat!("thread::", "sleep(")) {
                found.push(format!("{name}:{at}: {}", line.trim()));
            }
        }
    }
    none("poll with integration::eventually", &found);
}

#[test]
fn documents_link_to_what_exists() {
    let mut found = Vec::new();
    let mut pages: Vec<PathBuf> =
        fs::read_dir(top().join("docs")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    pages.push(top().join("README.md"));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let Ok(text) = fs::read_to_string(page) else { continue };
        for (start, _) in text.match_indices("](") {
            let link = text[start + 2..].split([')', '#']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") || link.contains(' ') {
                continue;
            }
            if !page.parent().expect("a page lies in a folder").join(link).exists() {
                found.push(format!("{}: {link}", page.display()));
            }
        }
    }
    none("links in documents", &found);
}
