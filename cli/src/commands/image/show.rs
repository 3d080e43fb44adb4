//! `shoal image inspect`, `shoal history`.

use super::list::{age, created, size};
use crate::commands::Global;
use crate::error::Error;
use crate::output::size::bytes;
use crate::output::template::Template;
use crate::output::{Column, Format};
use image::{ImageRecord, Store};
use oci::Reference;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Show everything about images
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A Go template instead of JSON
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(crate) fn inspect(global: &Global, args: &InspectArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for text in &args.images {
        match store.find(text).map_err(Error::from).and_then(|image| document(&store, &image)) {
            Ok(document) => documents.push(document),
            Err(error) => code = error.report(),
        }
    }
    match template {
        Some(template) => {
            for document in &documents {
                println!("{}", template.render(document)?);
            }
        }
        None if args.format.is_some() => println!("{}", Value::Array(documents)),
        None => println!("{}", serde_json::to_string_pretty(&documents)?),
    }
    Ok(code)
}

/// docker's document of an image.
pub(crate) fn document(store: &Store, image: &ImageRecord) -> Result<Value, Error> {
    let config = store.config(image)?;
    let names: Vec<String> = image.names.iter().map(Reference::familiar).collect();
    let digests: Vec<String> = image.digests.iter().map(Reference::familiar).collect();
    let mut run = serde_json::to_value(&config.config)?;
    if let Value::Object(fields) = &mut run {
        // docker always writes these.
        for (key, empty) in [
            ("User", json!("")),
            ("Env", json!([])),
            ("Cmd", Value::Null),
            ("Entrypoint", Value::Null),
            ("WorkingDir", json!("")),
            ("Volumes", Value::Null),
            ("Labels", Value::Null),
            ("OnBuild", Value::Null),
        ] {
            fields.entry(key).or_insert(empty);
        }
    }
    let comment = config.history.last().and_then(|step| step.comment.clone()).unwrap_or_default();
    Ok(json!({
        "Id": image.id.to_string(),
        "RepoTags": names,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": comment,
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Config": run,
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "Size": size(store, image),
        "PackedSize": image.packed_size(),
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Descriptor": image.target,
        "Manifest": image.manifest,
        "Layers": image.layers,
        "History": config.history,
    }))
}

/// Show how an image was made
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Layer digests only
    #[arg(short, long)]
    quiet: bool,
    /// Whole commands and ids
    #[arg(long)]
    no_trunc: bool,
    /// Dates and sizes for people
    #[arg(short = 'H', long, default_value = "true", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    human: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// A name or an id
    #[arg(value_name = "IMAGE")]
    image: String,
}

const HISTORY: [Column; 5] = [
    Column { field: "ID", heading: "IMAGE" },
    Column { field: "CreatedSince", heading: "CREATED" },
    Column { field: "CreatedBy", heading: "CREATED BY" },
    Column { field: "Size", heading: "SIZE" },
    Column { field: "Comment", heading: "COMMENT" },
];

pub(crate) fn history(global: &Global, args: &HistoryArgs) -> Result<ExitCode, Error> {
    let store = super::open_store(global)?;
    let image = store.find(&args.image)?;
    let config = store.config(&image)?;
    let format = Format::parse(args.format.as_deref())?;
    let plain = store.plain_sizes(&image)?;
    let mut layers = image.layers.iter().zip(plain).map(|(layer, plain)| plain.unwrap_or(layer.size));
    let mut rows = Vec::new();
    for step in &config.history {
        let size = if step.empty_layer { 0 } else { layers.next().unwrap_or(0) };
        let made = created(&oci::config::ImageConfig { created: step.created.clone(), ..Default::default() });
        let by = step.created_by.clone().unwrap_or_default().replace(['\n', '\t'], " ");
        let at = step.created.clone().unwrap_or_default();
        let since = match made {
            0 => "N/A".to_owned(),
            made => format!("{} ago", engine::time::human(age(made))),
        };
        rows.push(json!({
            "ID": "<missing>",
            "CreatedSince": if args.human { since } else { at.clone() },
            "CreatedAt": at,
            "CreatedBy": if args.no_trunc { by } else { shorten(&by, 45) },
            "Size": if args.human { bytes(size) } else { size.to_string() },
            "Comment": step.comment.clone().unwrap_or_default(),
        }));
    }
    rows.reverse();
    let id = if args.no_trunc { image.id.to_string() } else { image.id.short() };
    if let Some(first) = rows.first_mut() {
        first["ID"] = id.into();
    }
    if args.quiet {
        for row in &rows {
            println!("{}", row["ID"].as_str().unwrap_or_default());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let known = [Column { field: "CreatedAt", heading: "CREATED AT" }];
    print!("{}", format.render(&rows, &HISTORY, &known)?);
    Ok(ExitCode::SUCCESS)
}

fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max - 1).collect();
    short.push('…');
    short
}
