//! `--format`: a table with headings, `table TEMPLATE`, `json`, or a bare template, over rows of JSON.

use super::table::aligned;
use super::template::{Template, TemplateError};
use serde_json::Value;

/// One column: its field and its heading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// The row's field.
    pub(crate) field: &'static str,
    /// docker's heading.
    pub(crate) heading: &'static str,
}

/// How rows are printed.
#[derive(Debug)]
pub(crate) enum Format {
    /// Every default column.
    Table,
    /// `table TEMPLATE`: headings from the fields the template names.
    TableOf(String),
    /// One JSON object a line.
    Json,
    /// One rendering a line.
    Template(Template),
}

impl Format {
    /// Reads `--format`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, TemplateError> {
        match text {
            None | Some("" | "table") => Ok(Self::Table),
            Some("json" | "{{json .}}") => Ok(Self::Json),
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => {
                    Template::parse(columns)?;
                    Ok(Self::TableOf(unescape(columns)))
                }
                None => Ok(Self::Template(Template::parse(&unescape(text))?)),
            },
        }
    }

    /// Renders rows; `all` are the columns a default table has, `known` those a `table` template may name as well.
    pub(crate) fn render(&self, rows: &[Value], all: &[Column], known: &[Column]) -> Result<String, TemplateError> {
        let pairs =
            |columns: &[Column]| columns.iter().map(|column| (column.field, column.heading)).collect::<Vec<_>>();
        self.render_fields(rows, &pairs(all), &pairs(known))
    }

    /// The same for columns that are pairs of a field and its heading.
    pub(crate) fn render_fields(
        &self,
        rows: &[Value],
        all: &[(&str, &str)],
        known: &[(&str, &str)],
    ) -> Result<String, TemplateError> {
        match self {
            Self::Json => Ok(rows.iter().map(|row| format!("{}\n", without_methods(row))).collect()),
            Self::Template(template) => {
                let mut text = String::new();
                for row in rows {
                    text.push_str(&template.render(row)?);
                    text.push('\n');
                }
                Ok(text)
            }
            Self::Table => {
                let mut table = vec![all.iter().map(|(_, heading)| (*heading).to_owned()).collect()];
                for row in rows {
                    table.push(all.iter().map(|(field, _)| cell(&row[*field])).collect());
                }
                Ok(aligned(&table))
            }
            Self::TableOf(columns) => {
                let template = Template::parse(columns)?;
                let headings: serde_json::Map<String, Value> =
                    all.iter().chain(known).map(|(field, heading)| ((*field).to_owned(), (*heading).into())).collect();
                let split = |text: &str| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut table = vec![split(&template.render(&Value::Object(headings))?)];
                for row in rows {
                    table.push(split(&template.render(row)?));
                }
                Ok(aligned(&table))
            }
        }
    }
}

/// The field that answers `.Label "key"`: a map beside docker's fields, for templates alone.
pub(crate) const LABEL: &str = "Label";

fn without_methods(row: &Value) -> Value {
    let mut row = row.clone();
    if let Value::Object(fields) = &mut row {
        fields.remove(LABEL);
    }
    row
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Shells pass `\t` and `\n` as two letters; docker turns them into what they mean.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: [Column; 2] =
        [Column { field: "ID", heading: "CONTAINER ID" }, Column { field: "Names", heading: "NAMES" }];

    #[test]
    fn tables_have_headings_and_templates_do_not() {
        let rows = [json!({"ID": "abc", "Names": "web", "Label": {"tier": "front"}})];
        let render = |format: Option<&str>| Format::parse(format).unwrap().render(&rows, &COLUMNS, &[]).unwrap();
        assert_eq!(render(None), "CONTAINER ID   NAMES\nabc            web\n");
        assert_eq!(render(Some("table {{.Names}}\\t{{.ID}}")), "NAMES   CONTAINER ID\nweb     abc\n");
        assert_eq!(render(Some("{{.ID}}")), "abc\n");
        assert_eq!(render(Some("{{.Label \"tier\"}}{{.Label \"no\"}}")), "front\n");
        assert_eq!(render(Some("json")), "{\"ID\":\"abc\",\"Names\":\"web\"}\n");
    }
}
