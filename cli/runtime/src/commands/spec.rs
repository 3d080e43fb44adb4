//! `spec`: a bundle's first `config.json`.

use std::path::PathBuf;

use lexopt::{Arg, Parser};

use runtime::error::words;

use super::{Context, Failure};

/// `spec [--bundle DIR] [--rootless]`.
#[inline(never)]
pub(crate) fn spec(_context: &Context<'_>, mut parser: Parser) -> Result<u8, Failure> {
    let (mut bundle, mut rootless) = (PathBuf::from("."), false);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('b') | Arg::Long("bundle") => bundle = parser.value()?.into(),
            Arg::Long("rootless") => rootless = true,
            other => return Err(other.unexpected().into()),
        }
    }
    let path = bundle.join("config.json");
    let (uid, gid) = runtime::host::probe::effective_ids();
    let spec = runtime::template::spec(rootless.then_some((uid, gid)));
    let mut text = serde_json::to_vec_pretty(&spec).map_err(|cause| Failure::usage(cause.to_string()))?;
    text.push(b'\n');
    let file = std::fs::File::options().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, &text));
    match written {
        Ok(()) => Ok(0),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Failure::usage("File config.json exists. Remove it first"))
        }
        Err(cause) => Err(Failure::usage(format!("write {}: {}", path.display(), words(&cause)))),
    }
}
