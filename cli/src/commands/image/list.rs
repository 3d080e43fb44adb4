//! `shoal images`, `shoal image ls`.

use crate::commands::Global;
use crate::error::Error;
use crate::output::size::bytes;
use crate::output::{Column, Format};
use image::{ImageRecord, Store};
use oci::config::ImageConfig;
use serde_json::{Value, json};
use std::process::ExitCode;

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those without a name that others are built on (there are none here; for docker's scripts)
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only these: dangling=true|false, reference=GLOB, label=KEY[=VALUE], before=IMAGE, since=IMAGE, until=TIME
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only images of this repository (and tag)
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

const COLUMNS: [Column; 5] = [
    Column { field: "Repository", heading: "REPOSITORY" },
    Column { field: "Tag", heading: "TAG" },
    Column { field: "ID", heading: "IMAGE ID" },
    Column { field: "CreatedSince", heading: "CREATED" },
    Column { field: "Size", heading: "SIZE" },
];
const DIGEST: Column = Column { field: "Digest", heading: "DIGEST" };
const KNOWN: [Column; 3] = [
    DIGEST,
    Column { field: "CreatedAt", heading: "CREATED AT" },
    Column { field: "SharedSize", heading: "SHARED SIZE" },
];

pub(crate) fn run(global: &Global, args: &Args) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let mut filter = args.filter.clone();
    filter.extend(args.reference.as_ref().map(|reference| format!("reference={reference}")));
    let filters = Filters::parse(&store, &filter)?;
    let format = Format::parse(args.format.as_deref())?;
    let mut images = Vec::new();
    for image in store.images()? {
        if filters.keep(&store, &image)? {
            let created = created(&store.config(&image)?);
            images.push((created, image));
        }
    }
    // Newest first, as docker.
    images.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    if args.quiet {
        let mut seen = std::collections::HashSet::new();
        for (_, image) in images.iter().filter(|(_, image)| seen.insert(image.id)) {
            println!("{}", if args.no_trunc { image.id.to_string() } else { image.id.short() });
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for (created, image) in &images {
        rows.extend(self::rows(&store, image, *created, &filters, args)?);
    }
    let mut columns = COLUMNS.to_vec();
    if args.digests {
        columns.insert(2, DIGEST);
    }
    print!("{}", format.render(&rows, &columns, &KNOWN)?);
    Ok(ExitCode::SUCCESS)
}

/// A row for each name; one without a name for an image that has none.
fn rows(
    store: &Store,
    image: &ImageRecord,
    created: i128,
    filters: &Filters,
    args: &Args,
) -> Result<Vec<Value>, Error> {
    let since = match created {
        0 => "N/A".to_owned(),
        created => format!("{} ago", engine::time::human(age(created))),
    };
    let at = store.config(image)?.created.unwrap_or_default();
    let row = |repository: String, tag: String, digest: String| {
        json!({
            "Repository": repository,
            "Tag": tag,
            "Digest": digest,
            "ID": if args.no_trunc { image.id.to_string() } else { image.id.short() },
            "CreatedSince": since,
            "CreatedAt": at,
            "Size": bytes(size(store, image)),
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
            "VirtualSize": bytes(size(store, image)),
            "Containers": "N/A",
        })
    };
    let target = image.target.digest.to_string();
    let mut rows: Vec<Value> = image
        .names
        .iter()
        .filter(|name| filters.matches_name(name))
        .map(|name| row(name.familiar_name(), name.tag().unwrap_or("<none>").to_owned(), target.clone()))
        .collect();
    if image.names.is_empty() {
        let repository = image.digests.first().map_or_else(|| "<none>".to_owned(), oci::Reference::familiar_name);
        let digest = if image.digests.is_empty() { "<none>".to_owned() } else { target };
        rows.push(row(repository, "<none>".to_owned(), digest));
    }
    Ok(rows)
}

/// Bytes of the plain layers where they are known, else of the packed image.
pub(super) fn size(store: &Store, image: &ImageRecord) -> u64 {
    let plain: Option<Vec<u64>> = store.plain_sizes(image).ok().and_then(|sizes| sizes.into_iter().collect());
    plain.map_or_else(|| image.packed_size(), |sizes| sizes.iter().sum())
}

/// Nanoseconds since 1970 at which the image was made; 0 when it does not say.
pub(super) fn created(config: &ImageConfig) -> i128 {
    config.created.as_deref().and_then(|text| engine::time::parse(text, engine::time::now())).map_or(0, i128::from)
}

/// Nanoseconds from then to now.
pub(super) fn age(created: i128) -> u64 {
    u64::try_from(i128::from(engine::time::now()) - created).unwrap_or(0)
}

/// What `--filter` asks for.
#[derive(Debug, Default)]
pub(super) struct Filters {
    dangling: Option<bool>,
    references: Vec<String>,
    labels: Vec<(String, bool)>,
    before: Option<i128>,
    since: Option<i128>,
}

impl Filters {
    pub(super) fn parse(store: &Store, filters: &[String]) -> Result<Self, Error> {
        let mut parsed = Self::default();
        for filter in filters {
            let bad = || Error::new(format!("\"{filter}\" is not a filter: write KEY=VALUE")).code(2);
            let (key, value) = filter.split_once('=').ok_or_else(bad)?;
            match key {
                "dangling" => {
                    parsed.dangling = Some(match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(Error::new(format!("dangling is true or false, not \"{value}\"")).code(2)),
                    });
                }
                "reference" => parsed.references.push(value.to_owned()),
                "label" => parsed.labels.push((value.to_owned(), true)),
                "label!" => parsed.labels.push((value.to_owned(), false)),
                "before" => parsed.before = Some(created(&store.config(&store.find(value)?)?)),
                "since" => parsed.since = Some(created(&store.config(&store.find(value)?)?)),
                "until" => {
                    let until = engine::time::parse(value, engine::time::now())
                        .ok_or_else(|| Error::new(format!("until: \"{value}\" is no time")).code(2))?;
                    parsed.before = Some(i128::from(until));
                }
                _ => {
                    return Err(Error::new(format!("filter \"{key}\" is not known for images"))
                        .hint("dangling, reference, label, label!, before, since, until")
                        .code(2));
                }
            }
        }
        Ok(parsed)
    }

    pub(super) fn keep(&self, store: &Store, image: &ImageRecord) -> Result<bool, Error> {
        let unnamed = image.names.is_empty();
        if self.dangling.is_some_and(|dangling| dangling != unnamed) {
            return Ok(false);
        }
        if !self.references.is_empty() && !image.names.iter().any(|name| self.matches_name(name)) {
            return Ok(false);
        }
        if self.labels.is_empty() && self.before.is_none() && self.since.is_none() {
            return Ok(true);
        }
        let config = store.config(image)?;
        let labels = &config.config.labels;
        let has = |text: &str| match text.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
            None => labels.contains_key(text),
        };
        let made = created(&config);
        Ok(self.labels.iter().all(|(text, wanted)| has(text) == *wanted)
            && self.before.is_none_or(|before| made < before)
            && self.since.is_none_or(|since| made > since))
    }

    fn matches_name(&self, name: &oci::Reference) -> bool {
        self.references.is_empty()
            || self.references.iter().any(|pattern| {
                let familiar = (name.familiar_name(), name.familiar());
                let full = (name.name(), name.to_string());
                [familiar, full].iter().any(|(bare, whole)| glob(pattern, bare) || glob(pattern, whole))
            })
    }
}

/// Whether `text` matches `pattern`: `*` and `?` stay within a path component.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // One row of the usual table: reachable[j] says that the pattern so far matches the first j characters.
    let mut reachable = vec![false; text.len() + 1];
    reachable[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        for j in 0..=text.len() {
            next[j] = match part {
                '*' => reachable[j] || (j > 0 && next[j - 1] && text[j - 1] != '/'),
                '?' => j > 0 && reachable[j - 1] && text[j - 1] != '/',
                part => j > 0 && reachable[j - 1] && text[j - 1] == part,
            };
        }
        reachable = next;
    }
    reachable[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_by_component() {
        assert!(glob("alp*", "alpine"));
        assert!(glob("*:3.?", "alpine:3.2"));
        assert!(!glob("*", "user/app"));
        assert!(glob("user/*", "user/app"));
        assert!(!glob("alpine", "alpine:3"));
    }
}
