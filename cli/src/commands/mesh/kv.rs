//! `shoal kv …`: keys and values that every node has.

use super::client::{At, Client, encode};
use super::show::{Entry, Output};
use crate::commands::Global;
use crate::error::Error;
use clap::{Args, Subcommand};
use scheduler::node::api::view::{Done, KvView};
use std::io::{Read, Write};
use std::process::ExitCode;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print the value of a key
    Get(Get),
    /// Write a value
    Put(Put),
    /// List keys
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Delete keys
    Rm(Rm),
    /// Print changes as they come, one JSON object a line
    Watch(Watch),
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The key
    key: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The key
    key: String,
    /// The value; `-` reads standard input
    value: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// The keys
    #[arg(required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: String,
    #[command(flatten)]
    at: At,
}

/// Runs one verb.
pub(crate) fn run(global: &Global, verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Get(get) => {
            let client = Client::new(global, &get.at)?;
            let value = client.send("GET", &format!("/v1/kv/{}", encode(&get.key)), &[])?.ok()?.body;
            let mut out = std::io::stdout();
            out.write_all(&value)?;
            // A value on a terminal ends with a line; in a pipe it stays what it is.
            if std::io::IsTerminal::is_terminal(&out) && !value.ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
        }
        Verb::Put(put) => {
            let client = Client::new(global, &put.at)?;
            let mut value = put.value.into_bytes();
            if value == b"-" {
                value.clear();
                std::io::stdin().read_to_end(&mut value)?;
            }
            let view: KvView = client.send("PUT", &format!("/v1/kv/{}", encode(&put.key)), &value)?.json()?;
            println!("{} generation {} ({})", view.key, view.generation, view.durability.unwrap_or_default());
        }
        Verb::Ls(ls) => {
            let client = Client::new(global, &ls.at)?;
            let keys: Vec<KvView> = client.get(&format!("/v1/kv?prefix={}", encode(&ls.prefix)))?;
            let entries: Vec<Entry> = keys
                .iter()
                .map(|view| Entry {
                    id: view.key.clone(),
                    name: view.key.clone(),
                    cells: vec![
                        view.key.clone(),
                        view.bytes.to_string(),
                        view.generation.to_string(),
                        view.writer.clone(),
                    ],
                })
                .collect();
            ls.output.print(&["KEY", "BYTES", "GENERATION", "WRITER"], &entries, &keys)?;
        }
        Verb::Rm(rm) => {
            let client = Client::new(global, &rm.at)?;
            for key in &rm.keys {
                let done: Done = client.send("DELETE", &format!("/v1/kv/{}", encode(key)), &[])?.json()?;
                println!("{}", done.subject);
            }
        }
        Verb::Watch(watch) => {
            let client = Client::new(global, &watch.at)?;
            let path = format!("/v1/kv?watch=1&prefix={}", encode(&watch.prefix));
            client.follow(&path, |kind, data| {
                if kind != "synced" {
                    println!("{data}");
                    std::io::stdout().flush()?;
                }
                Ok(true)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
