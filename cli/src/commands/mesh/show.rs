//! How the verbs of the mesh print: docker's tables, or `-o json|yaml|name`.

use crate::error::Error;
use clap::{Args, ValueEnum};
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Output {
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(crate) output: Form,
    /// Print a Go template for each entry, or `json`
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Print ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not cut long ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

/// The forms of a result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// A table for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// Names, one a line
    Name,
}

/// One entry: what a table shows, its id and its name.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) cells: Vec<String>,
}

impl Output {
    /// Prints entries in the form asked for; `values` are the same entries in whole.
    pub(crate) fn print<T: Serialize>(&self, headings: &[&str], entries: &[Entry], values: &[T]) -> Result<(), Error> {
        if let Some(template) = &self.format {
            return self.print_format(template, headings, entries, values);
        }
        if self.quiet {
            entries.iter().for_each(|entry| println!("{}", entry.id));
            return Ok(());
        }
        match self.output {
            Form::Table => print_table(headings, entries),
            Form::Json => println!("{}", serde_json::to_string_pretty(values)?),
            Form::Yaml => print!("{}", yaml(values)?),
            Form::Name => entries.iter().for_each(|entry| println!("{}", entry.name)),
        }
        Ok(())
    }

    fn print_format<T: Serialize>(
        &self,
        template: &str,
        headings: &[&str],
        entries: &[Entry],
        values: &[T],
    ) -> Result<(), Error> {
        if template == "json" {
            for value in values {
                println!("{}", serde_json::to_string(value)?);
            }
            return Ok(());
        }
        let (table, body) = match template.strip_prefix("table ") {
            Some(body) => (true, body),
            None => (false, template),
        };
        let keys: Vec<String> = headings.iter().map(|heading| field_name(heading)).collect();
        let line = |cell: &dyn Fn(usize) -> String| -> Result<String, Error> {
            let mut out = String::new();
            let mut rest = body;
            while let Some(at) = rest.find("{{") {
                out.push_str(&rest[..at]);
                let (inner, after) = rest[at + 2..]
                    .split_once("}}")
                    .ok_or_else(|| Error::new(format!("template {template:?}: {{{{ is not closed")).code(2))?;
                let name = inner.trim().trim_start_matches('.');
                let index = keys.iter().position(|key| key == name).ok_or_else(|| {
                    Error::new(format!("template {template:?}: there is no field {name}"))
                        .hint(format!("fields: .{}", keys.join(", .")))
                        .code(2)
                })?;
                out.push_str(&cell(index));
                rest = after;
            }
            out.push_str(rest);
            Ok(out.replace("\\t", "\t").replace("\\n", "\n"))
        };
        if table {
            println!("{}", line(&|index| headings[index].to_owned())?);
        }
        for entry in entries {
            println!("{}", line(&|index| entry.cells[index].clone())?);
        }
        Ok(())
    }
}

/// `DESIRED STATE` → `DesiredState`, `ID` → `ID`.
fn field_name(heading: &str) -> String {
    if matches!(heading, "ID" | "RTT") {
        return heading.to_owned();
    }
    heading
        .split(' ')
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or_else(String::new, |first| first.to_string() + &chars.as_str().to_lowercase())
        })
        .collect()
}

/// Prints columns as docker does: padded with spaces, three between.
pub(crate) fn print_table(headings: &[&str], entries: &[Entry]) {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = headings.iter().map(|heading| width(heading)).collect();
    for entry in entries {
        for (index, cell) in entry.cells.iter().enumerate() {
            widths[index] = widths[index].max(width(cell));
        }
    }
    let line = |cells: &[String]| {
        let mut out = String::new();
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if index + 1 < cells.len() {
                out.push_str(&" ".repeat(widths[index] - width(cell) + 3));
            }
        }
        println!("{}", out.trim_end());
    };
    line(&headings.iter().map(|heading| (*heading).to_owned()).collect::<Vec<_>>());
    entries.iter().for_each(|entry| line(&entry.cells));
}

/// Prints one document: JSON unless YAML is asked for.
pub(crate) fn print_document<T: Serialize>(form: Form, value: &T) -> Result<(), Error> {
    match form {
        Form::Yaml => print!("{}", yaml(value)?),
        _ => println!("{}", serde_json::to_string_pretty(value)?),
    }
    Ok(())
}

/// Writes a value as YAML.
fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    // Through JSON, so that both documents have the same fields.
    Ok(serde_yaml_ng::to_string(&serde_json::to_value(value)?)?)
}

/// Cuts an id to docker's twelve digits.
pub(crate) fn short(id: &str, no_trunc: bool) -> String {
    if no_trunc { id.to_owned() } else { id.chars().take(12).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_fields() {
        assert_eq!(field_name("DESIRED STATE"), "DesiredState");
        assert_eq!(field_name("ID"), "ID");
        assert_eq!(field_name("NAME"), "Name");
    }
}
