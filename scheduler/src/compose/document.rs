//! A YAML document whose every value knows its line and column. Bounded: depth, nodes and aliases, before anything grows.

use super::ComposeError;
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::BTreeMap;

/// The largest file that is read.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// The deepest nesting.
const DEPTH_MAX: usize = 32;
/// The most values, those that aliases repeat counted each time (a few lines of aliases can stand for billions).
const NODES_MAX: usize = 50_000;

/// Where a value stands, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value. Scalars stay text: what they mean depends on the key.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In order; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

/// What is being read: the file's name for messages, anchors, the count.
struct Reader<'a> {
    file: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
}

/// Reads one document.
pub(super) fn read(file: &str, text: &str) -> Result<Node, ComposeError> {
    if text.len() > BYTES_MAX {
        return Err(ComposeError::new(file, Place { line: 1, column: 1 }, "the file is larger than 1 MiB"));
    }
    let mut reader = Reader { file, parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => {
                return Err(ComposeError::new(file, place(&span), "the file holds nothing"));
            }
            event => {
                let node = reader.node(event, &span, 0)?;
                reader.end()?;
                return Ok(node);
            }
        }
    }
}

impl Reader<'_> {
    fn next(&mut self) -> Result<(Event<'static>, Span), ComposeError> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((owned(event), span)),
            Some(Err(error)) => {
                let mark = error.marker();
                let place = Place { line: mark.line(), column: mark.col() + 1 };
                Err(ComposeError::new(self.file, place, error.info()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// A second document would be ignored: refused.
    fn end(&mut self) -> Result<(), ComposeError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd | Event::Nothing => {}
                _ => {
                    return Err(ComposeError::new(
                        self.file,
                        place(&span),
                        "a second document is not read; split the file",
                    ));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'static>, span: &Span, depth: usize) -> Result<Node, ComposeError> {
        let place = place(span);
        let fail = |reason: &str| ComposeError::new(self.file, place, reason);
        if depth > DEPTH_MAX {
            return Err(fail("nested deeper than 32"));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(fail("more than 50,000 values, aliases counted each time"));
        }
        let before = self.nodes;
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let (mut node, size) =
                    self.anchors.get(&id).cloned().ok_or_else(|| fail("an alias stands inside its own anchor"))?;
                self.nodes += size;
                if self.nodes > NODES_MAX {
                    return Err(fail("more than 50,000 values, aliases counted each time"));
                }
                node.place = place;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.is_some_and(|tag| tag.suffix == "str");
                let plain = style == ScalarStyle::Plain && !text_tag;
                let null = plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                (if null { Value::Null } else { Value::Text(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (Value::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Value::Map(self.map(depth)?), anchor),
            _ => return Err(fail("not a value")),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ComposeError> {
        let mut out = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(out);
            }
            out.push(self.node(event, &span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, ComposeError> {
        let mut own: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let place = place(&span);
            let text = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(ComposeError::new(self.file, place, "a key must be a word")),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span, depth + 1)?;
            if text == "<<" {
                merged.extend(self.merge(node)?);
                continue;
            }
            if own.iter().any(|(key, _)| key.text == text) {
                return Err(ComposeError::new(self.file, place, &format!("{text} stands twice")));
            }
            own.push((Key { place, text }, node));
        }
        for (key, node) in merged {
            if !own.iter().any(|(known, _)| known.text == key.text) {
                own.push((key, node));
            }
        }
        Ok(own)
    }

    /// `<<: *base` and `<<: [*a, *b]`: the first to name a key wins.
    fn merge(&self, node: Node) -> Result<Vec<(Key, Node)>, ComposeError> {
        match node.value {
            Value::Map(entries) => Ok(entries),
            Value::List(nodes) => {
                let mut out = Vec::new();
                for node in nodes {
                    out.extend(self.merge(node)?);
                }
                Ok(out)
            }
            _ => Err(ComposeError::new(self.file, node.place, "<< takes a mapping")),
        }
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn owned(event: Event<'_>) -> Event<'static> {
    use std::borrow::Cow;
    match event {
        Event::Scalar(text, style, anchor, tag) => {
            Event::Scalar(Cow::Owned(text.into_owned()), style, anchor, tag.map(|tag| Cow::Owned(tag.into_owned())))
        }
        Event::SequenceStart(anchor, _) => Event::SequenceStart(anchor, None),
        Event::MappingStart(anchor, _) => Event::MappingStart(anchor, None),
        Event::Nothing => Event::Nothing,
        Event::StreamStart => Event::StreamStart,
        Event::StreamEnd => Event::StreamEnd,
        Event::DocumentStart(explicit) => Event::DocumentStart(explicit),
        Event::DocumentEnd => Event::DocumentEnd,
        Event::Alias(id) => Event::Alias(id),
        Event::SequenceEnd => Event::SequenceEnd,
        Event::MappingEnd => Event::MappingEnd,
    }
}
