//! Sizes of files and functions, documentation and unsafe blocks, beside the models' figures.

use crate::shell::{self, Result};
use std::fs;

/// (project, functions median/p90/p99/max, files median/p90/max), as published in the style guide's models.
const MODELS: &[(&str, &str, &str)] = &[
    ("quinn", "6/30/127/554", "220/897/4124"),
    ("rustls", "6/23/93/372", "300/1143/1802"),
    ("firecracker", "7/30/103/275", "157/642/1425"),
];

/// Prints the figures of this tree.
pub(crate) fn run() -> Result<()> {
    let list = shell::output("git", &["-C", &shell::top().to_string_lossy(), "ls-files", "*.rs"])?;
    let (mut files, mut functions, mut unsafes, mut public, mut documented) = (Vec::new(), Vec::new(), 0, 0, 0);
    for name in list.lines() {
        let Ok(text) = fs::read_to_string(shell::top().join(name)) else { continue };
        files.push((text.lines().count(), name.to_owned()));
        functions.extend(function_lengths(&text));
        unsafes += text.lines().filter(|line| line.contains("unsafe {") || line.contains("unsafe fn")).count();
        let (all, with) = documentation(&text);
        public += all;
        documented += with;
    }
    files.sort();
    functions.sort_unstable();
    let lines: usize = files.iter().map(|(count, _)| count).sum();
    let at = |list: &[usize], part: f64| -> usize {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within a short list"
        )]
        let rank = (list.len() as f64 * part) as usize;
        list.get(rank.min(list.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let sizes: Vec<usize> = files.iter().map(|(count, _)| *count).collect();
    println!("{:12} {:>24} {:>22}", "", "functions med/p90/p99/max", "files med/p90/max");
    println!(
        "{:12} {:>24} {:>22}",
        "shoal",
        format!("{}/{}/{}/{}", at(&functions, 0.5), at(&functions, 0.9), at(&functions, 0.99), at(&functions, 1.0)),
        format!("{}/{}/{}", at(&sizes, 0.5), at(&sizes, 0.9), at(&sizes, 1.0)),
    );
    for (name, functions, files) in MODELS {
        println!("{name:12} {functions:>24} {files:>22}");
    }
    println!(
        "{} files, {lines} lines, {} functions, {unsafes} unsafe, {documented} of {public} public items documented",
        files.len(),
        functions.len()
    );
    for (count, name) in files.iter().rev().take_while(|(count, _)| *count > 800) {
        println!("  {count:5} {name}");
    }
    Ok(())
}

/// Lengths of functions in lines, found by their indentation: rustfmt closes a function at the column where it opened.
fn function_lengths(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut lengths = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let head = body.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        let head = head.trim_start_matches("const ").trim_start_matches("async ").trim_start_matches("unsafe ");
        if !head.starts_with("fn ") {
            continue;
        }
        let indent = &line[..line.len() - body.len()];
        let close = format!("{indent}}}");
        if let Some(length) = lines[at..]
            .iter()
            .take(1_000)
            .position(|line| *line == close || (line.starts_with(&close) && line.len() == close.len()))
        {
            lengths.push(length + 1);
        }
    }
    lengths
}

/// Counts public items, and those whose line above is a doc comment or an attribute.
fn documentation(text: &str) -> (usize, usize) {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let mut all = 0;
    let mut with = 0;
    for (at, line) in lines.iter().enumerate() {
        if ["pub fn ", "pub struct ", "pub enum ", "pub trait ", "pub const ", "pub type "]
            .iter()
            .any(|head| line.starts_with(head))
        {
            all += 1;
            let above = lines[..at].iter().rev().find(|line| !line.starts_with("#["));
            if above.is_some_and(|line| line.starts_with("///")) {
                with += 1;
            }
        }
    }
    (all, with)
}
