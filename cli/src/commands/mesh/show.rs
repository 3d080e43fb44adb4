//! How the verbs of the mesh print: docker's tables, or `-o json|yaml|name`.

use crate::error::Error;
use crate::output::format::Format;
use crate::output::template::Template;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

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
            let fields: Vec<String> = headings.iter().map(|heading| field_name(heading)).collect();
            let columns: Vec<(&str, &str)> = fields.iter().map(String::as_str).zip(headings.iter().copied()).collect();
            let rows: Vec<Value> = entries.iter().map(|entry| row(&fields, entry)).collect();
            print!("{}", Format::parse(Some(template))?.render_fields(&rows, &columns, &[])?);
            return Ok(());
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
}

/// docker's fields of an entry: what its columns show.
fn row(fields: &[String], entry: &Entry) -> Value {
    fields.iter().cloned().zip(entry.cells.iter().map(|cell| Value::from(cell.as_str()))).collect()
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

/// How `inspect` prints.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Inspection {
    /// json, or a Go template over each document
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "output")]
    format: Option<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Form::Json)]
    output: Form,
}

impl Inspection {
    /// Prints documents: all as one, or a template for each.
    pub(crate) fn print<T: Serialize>(&self, documents: &[T]) -> Result<(), Error> {
        match self.format.as_deref() {
            None => print_document(self.output, &documents),
            Some("json") => {
                println!("{}", serde_json::to_string(documents)?);
                Ok(())
            }
            Some(text) => {
                let template = Template::parse(text)?;
                for document in documents {
                    println!("{}", template.render(&serde_json::to_value(document)?)?);
                }
                Ok(())
            }
        }
    }
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
    fn a_template_sees_what_the_columns_show() {
        let entry = Entry { id: "1".to_owned(), name: "web".to_owned(), cells: vec!["1".to_owned(), "web".to_owned()] };
        let fields = ["ID".to_owned(), "Name".to_owned()];
        let columns = [("ID", "ID"), ("Name", "NAME")];
        let render = |format: &str| {
            let format = Format::parse(Some(format)).expect("a template");
            format.render_fields(&[row(&fields, &entry)], &columns, &[]).expect("known fields")
        };
        assert_eq!(render("{{.Name}}"), "web\n");
        assert_eq!(render("{{json .}}"), "{\"ID\":\"1\",\"Name\":\"web\"}\n");
        assert_eq!(render("{{if .Name}}x{{end}}"), "x\n");
        assert_eq!(render("table {{.ID}}\\t{{.Name}}"), "ID   NAME\n1    web\n");
    }

    #[test]
    fn headings_become_fields() {
        assert_eq!(field_name("DESIRED STATE"), "DesiredState");
        assert_eq!(field_name("ID"), "ID");
        assert_eq!(field_name("NAME"), "Name");
    }
}
