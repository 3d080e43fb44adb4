//! The part of Go's text/template that people write after `--format`: fields, pipes, functions, `if`, `range`, `with`,
//! variables. In: a template and a JSON value. Out: text. Nothing outside the value is reached.

use serde_json::Value;
use std::collections::BTreeMap;

/// How deep blocks may nest; templates are typed by hand.
const DEPTH_MAX: usize = 32;
/// The longest text a template may make, in bytes.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError(String);

impl std::fmt::Display for TemplateError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "template: {}", self.0)
    }
}

impl std::error::Error for TemplateError {}

fn error<T>(text: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError(text.into()))
}

/// A template that has been read.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    Set(String, Pipeline),
    If(Pipeline, Vec<Self>, Vec<Self>),
    With(Pipeline, Vec<Self>, Vec<Self>),
    Range { names: Vec<String>, over: Pipeline, body: Vec<Self>, otherwise: Vec<Self> },
}

/// Commands from left to right; each one's result is the last argument of the next.
#[derive(Debug, Clone)]
struct Pipeline(Vec<Vec<Operand>>);

#[derive(Debug, Clone)]
enum Operand {
    Fields(Vec<String>),
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    Nested(Pipeline, Vec<String>),
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = parts(text)?.into_iter().peekable();
        let (nodes, end) = block(&mut parts, 0)?;
        match end {
            None => Ok(Self { nodes }),
            Some(word) => error(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// Renders it over one value.
    pub(crate) fn render(&self, root: &Value) -> Result<String, TemplateError> {
        let mut scope = Scope { root, variables: BTreeMap::new() };
        let mut out = String::new();
        scope.run(&self.nodes, root, &mut out)?;
        Ok(out)
    }
}

#[derive(Debug)]
enum Part {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// `.A.B`, or `.` as an empty list.
    Field(Vec<String>),
    /// `$name.A.B`.
    Variable(String, Vec<String>),
    Word(String),
    Literal(Value),
    Open,
    Close(Vec<String>),
    Pipe,
    Comma,
    Assign,
}

fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some(at) = rest.find("{{") {
        let (before, after) = rest.split_at(at);
        let inner = &after[2..];
        let trims = inner.starts_with("- ");
        let mut literal = if trim_next { before.trim_start() } else { before };
        if trims {
            literal = literal.trim_end();
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        let Some(end) = closing(inner) else { return error("unclosed action: }} is missing") };
        let mut action = inner[..end].strip_prefix("- ").unwrap_or(&inner[..end]);
        trim_next = action.ends_with(" -");
        action = action.strip_suffix(" -").unwrap_or(action);
        if !action.trim_start().starts_with("/*") {
            parts.push(Part::Action(tokens(action)?));
        }
        rest = &inner[end + 2..];
    }
    let literal = if trim_next { rest.trim_start() } else { rest };
    if !literal.is_empty() {
        parts.push(Part::Text(literal.to_owned()));
    }
    Ok(parts)
}

/// Where an action's `}}` begins, quoted text set aside.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let letters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let fields = |at: &mut usize| -> Vec<String> {
        let mut names = Vec::new();
        while letters.get(*at) == Some(&'.') && letters.get(*at + 1).is_some_and(|letter| is_name(*letter)) {
            let start = *at + 1;
            *at = start;
            while letters.get(*at).is_some_and(|letter| is_name(*letter)) {
                *at += 1;
            }
            names.push(letters[start..*at].iter().collect());
        }
        names
    };
    while let Some(&letter) = letters.get(at) {
        match letter {
            ' ' | '\t' | '\n' | '\r' => at += 1,
            '(' => {
                tokens.push(Token::Open);
                at += 1;
            }
            ')' => {
                at += 1;
                tokens.push(Token::Close(fields(&mut at)));
            }
            '|' => {
                tokens.push(Token::Pipe);
                at += 1;
            }
            ',' => {
                tokens.push(Token::Comma);
                at += 1;
            }
            ':' if letters.get(at + 1) == Some(&'=') => {
                tokens.push(Token::Assign);
                at += 2;
            }
            '=' => {
                tokens.push(Token::Assign);
                at += 1;
            }
            '.' => {
                let names = fields(&mut at);
                if names.is_empty() {
                    at += 1;
                }
                tokens.push(Token::Field(names));
            }
            '$' => {
                let start = at + 1;
                at = start;
                while letters.get(at).is_some_and(|letter| is_name(*letter)) {
                    at += 1;
                }
                let name = letters[start..at].iter().collect();
                tokens.push(Token::Variable(name, fields(&mut at)));
            }
            '"' => {
                let (text, next) = quoted(&letters, at + 1)?;
                tokens.push(Token::Literal(text.into()));
                at = next;
            }
            '`' => {
                let Some(end) = letters[at + 1..].iter().position(|letter| *letter == '`') else {
                    return error("unterminated raw string");
                };
                tokens.push(Token::Literal(letters[at + 1..at + 1 + end].iter().collect::<String>().into()));
                at += end + 2;
            }
            _ if letter.is_ascii_digit() || letter == '-' => {
                let start = at;
                at += 1;
                while letters.get(at).is_some_and(|letter| letter.is_ascii_digit() || *letter == '.') {
                    at += 1;
                }
                let text: String = letters[start..at].iter().collect();
                let number = serde_json::from_str::<Value>(&text);
                tokens.push(Token::Literal(number.map_err(|_| TemplateError(format!("bad number {text:?}")))?));
            }
            _ if is_name(letter) => {
                let start = at;
                while letters.get(at).is_some_and(|letter| is_name(*letter)) {
                    at += 1;
                }
                let word: String = letters[start..at].iter().collect();
                tokens.push(match word.as_str() {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(word),
                });
            }
            other => return error(format!("unexpected {other:?}")),
        }
    }
    Ok(tokens)
}

fn quoted(letters: &[char], mut at: usize) -> Result<(String, usize), TemplateError> {
    let mut text = String::new();
    loop {
        match letters.get(at) {
            None => return error("unterminated string"),
            Some('"') => return Ok((text, at + 1)),
            Some('\\') => {
                at += 1;
                text.push(match letters.get(at) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(other) => *other,
                    None => return error("unterminated string"),
                });
            }
            Some(letter) => text.push(*letter),
        }
        at += 1;
    }
}

type Parts = std::iter::Peekable<std::vec::IntoIter<Part>>;

/// Reads nodes up to `end` or `else`; returns which one, with what follows an `else`.
fn block(parts: &mut Parts, depth: usize) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    if depth > DEPTH_MAX {
        return error("blocks nest too deep");
    }
    let mut nodes = Vec::new();
    while let Some(part) = parts.next() {
        let tokens = match part {
            Part::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Part::Action(tokens) => tokens,
        };
        match tokens.first() {
            None => return error("missing value for command"),
            Some(Token::Word(word)) if word == "end" => return Ok((nodes, Some("end".to_owned()))),
            Some(Token::Word(word)) if word == "else" => {
                if let Some(Token::Word(next)) = tokens.get(1) {
                    if next != "if" && next != "with" {
                        return error(format!("else {next}: only if and with can follow"));
                    }
                    // `else if`: a block of its own that shares the end.
                    let node = opened(&tokens[1..], parts, depth + 1)?;
                    return Ok((nodes, Some("else-chain".to_owned()))).map(|(mut nodes, end)| {
                        nodes.push(Node::Text(String::new()));
                        nodes.push(node);
                        (nodes, end)
                    });
                }
                return Ok((nodes, Some("else".to_owned())));
            }
            Some(Token::Word(word)) if ["if", "with", "range"].contains(&word.as_str()) => {
                nodes.push(opened(&tokens, parts, depth + 1)?);
            }
            Some(Token::Variable(name, fields)) if fields.is_empty() && tokens.get(1) == Some(&Token::Assign) => {
                nodes.push(Node::Set(name.clone(), pipeline(&tokens[2..])?));
            }
            Some(_) => nodes.push(Node::Print(pipeline(&tokens)?)),
        }
    }
    Ok((nodes, None))
}

/// Reads an `if`, `with` or `range` whose first action is `tokens`.
fn opened(tokens: &[Token], parts: &mut Parts, depth: usize) -> Result<Node, TemplateError> {
    let Some(Token::Word(word)) = tokens.first() else { return error("a block begins with a word") };
    let mut rest = &tokens[1..];
    let mut names = Vec::new();
    if word == "range"
        && let Some(at) = rest.iter().position(|token| *token == Token::Assign)
    {
        for token in &rest[..at] {
            match token {
                Token::Variable(name, fields) if fields.is_empty() => names.push(name.clone()),
                Token::Comma => {}
                _ => return error("range needs variables before :="),
            }
        }
        rest = &rest[at + 1..];
    }
    let condition = pipeline(rest)?;
    let (mut body, end) = block(parts, depth)?;
    let otherwise = match end.as_deref() {
        Some("end") => Vec::new(),
        Some("else") => match block(parts, depth)? {
            (otherwise, Some(end)) if end == "end" => otherwise,
            _ => return error(format!("{word} without end")),
        },
        Some("else-chain") => {
            let chained = body.pop();
            body.pop();
            chained.into_iter().collect()
        }
        _ => return error(format!("{word} without end")),
    };
    Ok(match word.as_str() {
        "if" => Node::If(condition, body, otherwise),
        "with" => Node::With(condition, body, otherwise),
        _ => Node::Range { names, over: condition, body, otherwise },
    })
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut at = 0;
    let made = pipeline_at(tokens, &mut at, 0)?;
    if at < tokens.len() { error("unexpected right parenthesis") } else { Ok(made) }
}

fn pipeline_at(tokens: &[Token], at: &mut usize, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > DEPTH_MAX {
        return error("parentheses nest too deep");
    }
    let mut commands = vec![Vec::new()];
    while let Some(token) = tokens.get(*at) {
        let command = commands.last_mut().expect("there is always a last command");
        match token {
            Token::Pipe => commands.push(Vec::new()),
            Token::Field(names) => command.push(Operand::Fields(names.clone())),
            Token::Variable(name, fields) => command.push(Operand::Variable(name.clone(), fields.clone())),
            Token::Literal(value) => command.push(Operand::Literal(value.clone())),
            Token::Word(name) => {
                if !FUNCTIONS.contains(&name.as_str()) {
                    return error(format!("function {name:?} not defined"));
                }
                command.push(Operand::Function(name.clone()));
            }
            Token::Open => {
                *at += 1;
                let inner = pipeline_at(tokens, at, depth + 1)?;
                let Some(Token::Close(fields)) = tokens.get(*at) else { return error("unclosed left parenthesis") };
                command.push(Operand::Nested(inner, fields.clone()));
            }
            Token::Close(_) => break,
            Token::Comma | Token::Assign => return error("unexpected , or ="),
        }
        *at += 1;
    }
    if commands.iter().any(Vec::is_empty) {
        return error("missing value for command");
    }
    Ok(Pipeline(commands))
}

/// What a template may call.
const FUNCTIONS: [&str; 25] = [
    "json", "join", "len", "printf", "print", "println", "upper", "lower", "title", "split", "index", "slice", "eq",
    "ne", "lt", "le", "gt", "ge", "and", "or", "not", "pad", "truncate", "html", "toJson",
];

struct Scope<'a> {
    root: &'a Value,
    variables: BTreeMap<String, Value>,
}

impl Scope<'_> {
    fn run(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            if out.len() > OUTPUT_BYTES_MAX {
                return error("the output is too long");
            }
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => out.push_str(&shown(&self.value(pipeline, dot)?)),
                Node::Set(name, pipeline) => {
                    let value = self.value(pipeline, dot)?;
                    self.variables.insert(name.clone(), value);
                }
                Node::If(condition, body, otherwise) => {
                    let chosen = if truth(&self.value(condition, dot)?) { body } else { otherwise };
                    self.run(chosen, dot, out)?;
                }
                Node::With(value, body, otherwise) => {
                    let value = self.value(value, dot)?;
                    if truth(&value) { self.run(body, &value, out)? } else { self.run(otherwise, dot, out)? }
                }
                Node::Range { names, over, body, otherwise } => {
                    let items: Vec<(Value, Value)> = match self.value(over, dot)? {
                        Value::Array(items) => {
                            items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect()
                        }
                        Value::Object(map) => map.into_iter().map(|(key, item)| (key.into(), item)).collect(),
                        Value::Null => Vec::new(),
                        other => return error(format!("range can't iterate over {other}")),
                    };
                    if items.is_empty() {
                        self.run(otherwise, dot, out)?;
                    }
                    for (key, item) in items {
                        match &names[..] {
                            [value] => drop(self.variables.insert(value.clone(), item.clone())),
                            [at, value, ..] => {
                                self.variables.insert(at.clone(), key);
                                self.variables.insert(value.clone(), item.clone());
                            }
                            [] => {}
                        }
                        self.run(body, &item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn value(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last: Option<Value> = None;
        for command in &pipeline.0 {
            let (first, rest) = command.split_first().expect("commands are not empty");
            if let Operand::Function(name) = first {
                let mut arguments =
                    rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
                arguments.extend(last.take());
                last = Some(call(name, arguments)?);
            } else if rest.is_empty() && last.is_none() {
                last = Some(self.operand(first, dot)?);
            } else {
                // A method: `.Label "key"` is an entry of a map, an absent one is empty as in docker.
                let mut arguments =
                    rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
                arguments.extend(last.take());
                last = Some(match (self.operand(first, dot)?, &arguments[..]) {
                    (Value::Object(map), [Value::String(key)]) => map.get(key).cloned().unwrap_or_else(|| "".into()),
                    (_, [_]) => return error("a value takes no arguments"),
                    _ => return error("a method takes one argument"),
                });
            }
        }
        Ok(last.expect("pipelines are not empty"))
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match operand {
            Operand::Fields(names) => walk(dot, names),
            Operand::Variable(name, names) if name.is_empty() => walk(self.root, names),
            Operand::Variable(name, names) => match self.variables.get(name) {
                Some(value) => walk(value, names),
                None => error(format!("undefined variable \"${name}\"")),
            },
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Nested(pipeline, names) => walk(&self.value(pipeline, dot)?, names),
            Operand::Function(name) => call(name, Vec::new()),
        }
    }
}

/// Follows field names. A missing key of a map of the user's (labels) is nothing; any other missing field is an error,
/// as it is in Go for a struct.
fn walk(value: &Value, names: &[String]) -> Result<Value, TemplateError> {
    let mut here = value;
    for (at, name) in names.iter().enumerate() {
        here = match here {
            Value::Object(map) => match map.get(name) {
                Some(next) => next,
                None if at > 0 && map.values().all(Value::is_string) => return Ok(Value::Null),
                None => return error(format!("can't evaluate field {name}")),
            },
            Value::Null => return error(format!("nil data; no entry for field {name}")),
            _ => return error(format!("can't evaluate field {name} of a plain value")),
        };
    }
    Ok(here.clone())
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

fn call(name: &str, arguments: Vec<Value>) -> Result<Value, TemplateError> {
    let text = |at: usize| arguments.get(at).map(shown).unwrap_or_default();
    let need = |count: usize| {
        if arguments.len() < count { error(format!("{name}: {count} arguments needed")) } else { Ok(()) }
    };
    Ok(match name {
        "json" | "toJson" => {
            need(1)?;
            arguments[0].to_string().into()
        }
        "upper" => text(0).to_uppercase().into(),
        "lower" => text(0).to_lowercase().into(),
        "title" => {
            let mut inside = false;
            let raised = text(0).chars().fold(String::new(), |mut out, letter| {
                if inside {
                    out.push(letter)
                } else {
                    out.extend(letter.to_uppercase())
                }
                inside = letter.is_alphanumeric() || letter == '_' || letter == '\'';
                out
            });
            raised.into()
        }
        "join" => {
            need(2)?;
            match &arguments[0] {
                Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(&text(1)).into(),
                Value::Null => String::new().into(),
                other => return error(format!("join: {other} is no list")),
            }
        }
        "split" => {
            need(2)?;
            text(0).split(&text(1)).map(str::to_owned).collect::<Vec<_>>().into()
        }
        "len" => {
            need(1)?;
            match &arguments[0] {
                Value::String(text) => text.len().into(),
                Value::Array(items) => items.len().into(),
                Value::Object(map) => map.len().into(),
                Value::Null => 0.into(),
                other => return error(format!("len of {other}")),
            }
        }
        "index" => {
            need(1)?;
            let mut here = arguments[0].clone();
            for key in &arguments[1..] {
                here = match (&here, key) {
                    (Value::Array(items), Value::Number(at)) => {
                        let at = at.as_u64().and_then(|at| usize::try_from(at).ok());
                        match at.and_then(|at| items.get(at)) {
                            Some(item) => item.clone(),
                            None => return error("index out of range"),
                        }
                    }
                    (Value::Object(map), key) => map.get(&shown(key)).cloned().unwrap_or_else(|| "".into()),
                    _ => return error("index of a plain value"),
                };
            }
            here
        }
        "slice" => {
            need(1)?;
            let bound =
                |at: usize| arguments.get(at).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
            match &arguments[0] {
                Value::String(text) => {
                    let (start, end) = (bound(1).unwrap_or(0), bound(2).unwrap_or(text.len()));
                    match text.get(start..end) {
                        Some(part) => part.into(),
                        None => return error("slice out of range"),
                    }
                }
                Value::Array(items) => {
                    let (start, end) = (bound(1).unwrap_or(0), bound(2).unwrap_or(items.len()));
                    match items.get(start..end) {
                        Some(part) => part.to_vec().into(),
                        None => return error("slice out of range"),
                    }
                }
                other => return error(format!("slice of {other}")),
            }
        }
        "pad" => {
            need(3)?;
            let count = |at: usize| usize::try_from(arguments[at].as_u64().unwrap_or(0).min(1024)).unwrap_or(0);
            format!("{}{}{}", " ".repeat(count(1)), text(0), " ".repeat(count(2))).into()
        }
        "truncate" => {
            need(2)?;
            let most = usize::try_from(arguments[1].as_u64().unwrap_or(0)).unwrap_or(0);
            text(0).chars().take(most).collect::<String>().into()
        }
        "html" => text(0).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").into(),
        "print" => arguments.iter().map(shown).collect::<String>().into(),
        "println" => format!("{}\n", arguments.iter().map(shown).collect::<Vec<_>>().join(" ")).into(),
        "printf" => {
            need(1)?;
            printf(&text(0), &arguments[1..]).into()
        }
        "not" => {
            need(1)?;
            (!truth(&arguments[0])).into()
        }
        "and" => {
            arguments.iter().find(|value| !truth(value)).or_else(|| arguments.last()).cloned().unwrap_or(Value::Null)
        }
        "or" => {
            arguments.iter().find(|value| truth(value)).or_else(|| arguments.last()).cloned().unwrap_or(Value::Null)
        }
        "eq" => {
            need(2)?;
            arguments[1..].iter().any(|other| same(&arguments[0], other)).into()
        }
        "ne" => {
            need(2)?;
            (!same(&arguments[0], &arguments[1])).into()
        }
        "lt" | "le" | "gt" | "ge" => {
            need(2)?;
            let order = match (arguments[0].as_f64(), arguments[1].as_f64()) {
                (Some(one), Some(other)) => one.partial_cmp(&other),
                _ => Some(text(0).cmp(&text(1))),
            };
            match (name, order) {
                ("lt", Some(order)) => order.is_lt().into(),
                ("le", Some(order)) => order.is_le().into(),
                ("gt", Some(order)) => order.is_gt().into(),
                (_, Some(order)) => order.is_ge().into(),
                (_, None) => false.into(),
            }
        }
        other => return error(format!("function {other:?} not defined")),
    })
}

fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => (one - other).abs() == 0.0,
        _ => one == other,
    }
}

/// `%s %v %d %q %t %x %%` with a width and `-`.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let left = letters.next_if_eq(&'-').is_some();
        let zero = letters.next_if_eq(&'0').is_some();
        let mut width = 0usize;
        while let Some(digit) = letters.next_if(char::is_ascii_digit) {
            width = (width * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(4096);
        }
        let mut precision = None;
        if letters.next_if_eq(&'.').is_some() {
            let mut digits = 0usize;
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                digits = (digits * 10 + digit.to_digit(10).unwrap_or(0) as usize).min(64);
            }
            precision = Some(digits);
        }
        let verb = letters.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(argument) = arguments.next() else {
            out.push_str("%!(MISSING)");
            continue;
        };
        let text = match verb {
            Some('q') => format!("{:?}", shown(argument)),
            Some('x') => argument.as_u64().map_or_else(|| shown(argument), |number| format!("{number:x}")),
            Some('f') => format!("{:.*}", precision.unwrap_or(6), argument.as_f64().unwrap_or(0.0)),
            Some('s') if precision.is_some() => shown(argument).chars().take(precision.unwrap_or(0)).collect(),
            _ => shown(argument),
        };
        let fill = width.saturating_sub(text.chars().count());
        let filler = if zero && !left { "0" } else { " " };
        if left {
            out.push_str(&text);
            out.push_str(&" ".repeat(fill));
        } else {
            out.push_str(&filler.repeat(fill));
            out.push_str(&text);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str) -> String {
        let value = json!({
            "Name": "web", "Config": {"Labels": {"a": "1"}, "Env": ["A=1", "B=2"]},
            "State": {"Running": true, "Pid": 42}, "Ports": {}, "List": [{"N": 1}, {"N": 2}]
        });
        match Template::parse(template).and_then(|template| template.render(&value)) {
            Ok(text) => text,
            Err(error) => format!("ERROR {error}"),
        }
    }

    #[test]
    fn what_people_write_after_format() {
        assert_eq!(render("{{.Name}} {{.State.Pid}}"), "web 42");
        assert_eq!(render("{{json .Config.Env}}"), "[\"A=1\",\"B=2\"]");
        assert_eq!(render("{{range .Config.Env}}{{println .}}{{end}}"), "A=1\nB=2\n");
        assert_eq!(render("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}"), "A=1,B=2");
        assert_eq!(render("{{if .State.Running}}up{{else}}down{{end}}"), "up");
        assert_eq!(render("{{if eq .Name \"db\"}}a{{else if eq .Name \"web\"}}b{{else}}c{{end}}"), "b");
        assert_eq!(render("{{index .Config.Labels \"a\"}}"), "1");
        assert_eq!(render("{{join .Config.Env \", \"}}"), "A=1, B=2");
        assert_eq!(render("{{len .Config.Env}} {{upper .Name}} {{.Name | title}}"), "2 WEB Web");
        assert_eq!(render("{{printf \"%-5s|%05d\" .Name 42}}"), "web  |00042");
        assert_eq!(render("{{with index .List 1}}{{.N}}{{end}}"), "2");
        assert_eq!(render("{{(index .List 0).N}} {{$.Name}}"), "1 web");
        assert_eq!(render("{{index (split \"a:b\" \":\") 1}}"), "b");
        assert_eq!(render("a {{- /* gone */ -}} b{{range .Ports}}x{{else}}none{{end}}"), "abnone");
        assert_eq!(render("{{.Config.Labels}} {{.Config.Env}}"), "map[a:1] [A=1 B=2]");
        assert_eq!(
            render("{{.Config.Label \"a\"}}{{.Config.Label \"b\"}}"),
            "ERROR template: can't evaluate field Label"
        );
        assert_eq!(render("{{.Config.Labels \"a\"}}-{{.Config.Labels \"b\"}}-{{\"a\" | .Config.Labels}}"), "1--1");
        assert_eq!(render("{{title \"two words\"}} {{lower \"ÄB\"}} {{split \"a,b\" \",\" | len}}"), "Two Words äb 2");
        assert_eq!(render("{{if and (eq .Name \"web\") (gt (len .List) 1)}}both{{end}}"), "both");
        assert_eq!(render("{{$x := .Name}}{{$x}} {{and true .Name}} {{not false}}"), "web web true");
    }

    #[test]
    fn mistakes_are_errors_not_output() {
        for bad in [
            "{{.Nope}}",
            "{{.Name",
            "{{if .Name}}x",
            "{{end}}",
            "{{nope .}}",
            "{{.Name.X}}",
            "{{}}",
            "{{range .Name}}x{{end}}",
            "{{.Name \"x\"}}",
            "{{.Config.Labels \"a\" \"b\"}}",
        ] {
            assert!(render(bad).starts_with("ERROR"), "{bad}: {}", render(bad));
        }
    }
}
