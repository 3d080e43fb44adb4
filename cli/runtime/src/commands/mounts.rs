//! `mounts add|remove ID FILE`: mounts of a running container.
//!
//! FILE (or `-`) holds a JSON list of mounts as in `config.json`; `remove` also takes destinations as words.

use std::io::Read;

use lexopt::{Arg, Parser, ValueExt};
use oci::spec::Mount;
use runtime::host::mounts;

use runtime::error::words;

use super::{Context, Failure, need_id};

/// No list of mounts is longer.
const DOCUMENT_LEN_MAX: u64 = 1 << 20;

/// `mounts add|remove ID FILE`.
#[inline(never)]
pub(crate) fn mounts(context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let mut words = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let usage = || Failure::usage("usage: mounts add ID FILE|-, mounts remove ID FILE|-|DESTINATION…");
    let [verb, id, rest @ ..] = words.as_slice() else { return Err(usage()) };
    let id = need_id(Some(id.clone()))?;
    match (verb.as_str(), rest) {
        ("add", [file]) => mounts::add(&context.root(), &id, &document(file)?)?,
        ("remove", [file]) if file == "-" || std::path::Path::new(file).is_file() => {
            let paths: Vec<String> = document(file)?.into_iter().map(|mount| mount.destination).collect();
            mounts::remove(&context.root(), &id, &paths)?;
        }
        ("remove", [_, ..]) => mounts::remove(&context.root(), &id, rest)?,
        _ => return Err(usage()),
    }
    Ok(0)
}

fn document(file: &str) -> Result<Vec<Mount>, Failure> {
    let operation = |cause: std::io::Error| Failure::usage(format!("read {file}: {}", words(&cause)));
    let mut text = Vec::new();
    if file == "-" {
        std::io::stdin().take(DOCUMENT_LEN_MAX).read_to_end(&mut text).map_err(operation)?;
    } else {
        let file = std::fs::File::open(file).map_err(operation)?;
        file.take(DOCUMENT_LEN_MAX).read_to_end(&mut text).map_err(operation)?;
    }
    serde_json::from_slice(&text).map_err(|cause| Failure::usage(format!("{file} is no list of mounts: {cause}")))
}
