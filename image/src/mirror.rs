//! `mirror`: a repository's tags are kept equal somewhere else.
//!
//! In: two repositories and filters. Out: what was copied. Tags whose digest is the same on both sides cost two requests;
//! everything else is copied whole (every platform, what refers to it), the tag last, so that an interrupted run leaves
//! nothing half and the next one goes on.

use crate::copy::{Copied, CopyError, CopyOptions, Place, copy, estimate};
use crate::progress::{Event, Progress};
use crate::remote::client::Repository;
use crate::remote::transport::Transport;
use crate::store::Store;
use oci::digest::Digest;
use oci::reference::Reference;
use std::sync::Arc;

/// What may be said about a mirror run.
#[derive(Debug, Clone, Default)]
pub struct MirrorOptions {
    /// How both sides are spoken to.
    pub copy: CopyOptions,
    /// Globs; a tag must match one. Empty: all.
    pub include: Vec<String>,
    /// Globs; a tag must match none.
    pub exclude: Vec<String>,
    /// Say what would be done and do nothing.
    pub dry_run: bool,
}

/// What happened to one tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides had the same digest.
    Equal(Digest),
    /// It was copied (or would be, in a dry run).
    Copied(Digest, Copied),
    /// It failed; the others went on.
    Failed(String),
}

/// Mirrors every wanted tag of `from` to `to`; returns the outcomes in the order of the tags.
pub async fn mirror(
    store: &Store,
    from: &Reference,
    to: &Reference,
    options: &MirrorOptions,
    progress: &dyn Progress,
) -> Result<Vec<(String, Outcome)>, CopyError> {
    let source = open(from, &options.copy, false)?;
    let target = open(to, &options.copy, true)?;
    let read = |error| CopyError::Remote { step: "list the tags of", place: from.name(), source: Box::new(error) };
    let mut outcomes = Vec::new();
    for tag in source.tags().await.map_err(read)? {
        if !wanted(&tag, &options.include, &options.exclude) {
            continue;
        }
        let outcome = match one(store, from, to, &tag, (&source, &target), options, progress).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(chain(&error)),
        };
        progress.event(Event::Message(&format!("{tag}: {}", said(&outcome, options.dry_run))));
        outcomes.push((tag, outcome));
    }
    Ok(outcomes)
}

async fn one(
    store: &Store,
    from: &Reference,
    to: &Reference,
    tag: &str,
    (source, target): (&Repository, &Repository),
    options: &MirrorOptions,
    progress: &dyn Progress,
) -> Result<Outcome, CopyError> {
    let unreadable = |source| CopyError::Remote { step: "read", place: from.name(), source: Box::new(source) };
    let unwritable = |source| CopyError::Remote { step: "look at", place: to.name(), source: Box::new(source) };
    let theirs = source.head_manifest(tag).await.map_err(unreadable)?;
    let ours = target.head_manifest(tag).await.map_err(unwritable)?;
    if let (Some((Some(theirs), _)), Some((Some(ours), _))) = (&theirs, &ours)
        && theirs == ours
        && !options.copy.referrers
    {
        return Ok(Outcome::Equal(*ours));
    }
    let name = |place: &Reference| {
        place
            .with_tag(tag)
            .map(Place::Registry)
            .map_err(|error| CopyError::Place { place: place.name(), reason: error.to_string() })
    };
    let (from, to) = (name(from)?, name(to)?);
    let (digest, copied) = if options.dry_run {
        estimate(store, &from, &to, &options.copy).await?
    } else {
        copy(store, &from, &to, &options.copy, progress).await?
    };
    let equal = ours.and_then(|(ours, _)| ours) == Some(digest) && copied.bytes == 0;
    Ok(if equal { Outcome::Equal(digest) } else { Outcome::Copied(digest, copied) })
}

fn open(reference: &Reference, options: &CopyOptions, write: bool) -> Result<Repository, CopyError> {
    let (config, identity, limits) = if write {
        (&options.to.config, &options.to.identity, options.to.limits)
    } else {
        (&options.from.config, &options.from.identity, options.from.limits)
    };
    let transport = Arc::new(Transport::new(config.clone(), identity.clone(), limits));
    Repository::open(transport, reference.registry(), reference.repository(), write)
        .map_err(|source| CopyError::Remote { step: "open", place: reference.name(), source: Box::new(source) })
}

fn wanted(tag: &str, include: &[String], exclude: &[String]) -> bool {
    let matches = |globs: &[String]| globs.iter().any(|glob| glob_matches(glob, tag));
    (include.is_empty() || matches(include)) && !matches(exclude)
}

/// `*` is any text, `?` one character. Linear in practice: one place to go back to.
#[must_use]
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if g < glob.len() && glob[g] == '*' {
            star = Some((g, t));
            g += 1;
        } else if g < glob.len() && (glob[g] == '?' || glob[g] == text[t]) {
            g += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            g = at + 1;
            t = from + 1;
            star = Some((at, from + 1));
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

fn said(outcome: &Outcome, dry_run: bool) -> String {
    match outcome {
        Outcome::Equal(_) => "up to date".to_owned(),
        Outcome::Copied(_, copied) => {
            let verb = if dry_run { "would copy" } else { "copied" };
            format!("{verb} {} blobs, {} bytes", copied.blobs, copied.bytes)
        }
        Outcome::Failed(reason) => format!("failed: {reason}"),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_choose_tags() {
        for (glob, text, want) in [
            ("*", "", true),
            ("v1.*", "v1.2.3", true),
            ("v1.*", "v2.1", false),
            ("*-rc?", "1.0-rc1", true),
            ("*-rc?", "1.0-rc10", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("latest", "latest", true),
        ] {
            assert_eq!(glob_matches(glob, text), want, "{glob} {text}");
        }
        assert!(wanted("v1", &[], &[]));
        assert!(!wanted("v1", &["v2*".into()], &[]));
        assert!(!wanted("v1", &["v*".into()], &["v1".into()]));
    }
}
