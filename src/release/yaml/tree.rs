//! Builds a tree of nodes from the events of the YAML parser. An alias becomes a copy of its anchored node.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::input::LenientInput;
use super::{Mapping, Node, Scalar, Sequence};
use crate::release::name::excerpt;

/// The maximum depth of nested lists and mappings. A manifest needs four.
pub(crate) const MAX_DEPTH: usize = 100;

/// The maximum number of nodes after resolving aliases. A package in a manifest has about twenty.
pub(crate) const MAX_NODES: usize = 1_000_000;

/// The maximum size of all texts after resolving aliases, in bytes: twice the maximum size of a manifest.
pub(crate) const MAX_TEXT: usize = 128 * 1024 * 1024;

/// Why a text is not usable YAML, with the position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct Error {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The problem at that position.
    pub kind: ErrorKind,
}

/// A problem of a YAML document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The parser reports a syntax error.
    #[error("{message}")]
    Syntax {
        /// The message of the parser.
        message: String,
    },
    /// A character that YAML allows nowhere, not even in quotes.
    #[error("the control character {found:?} is not allowed")]
    ControlCharacter {
        /// The character.
        found: char,
    },
    /// A key that occurs twice in a mapping.
    #[error("duplicate key `{key}`; the first is on line {first}")]
    DuplicateKey {
        /// An [excerpt] of the key.
        key: String,
        /// The line of the first occurrence, from 1.
        first: usize,
    },
    /// A key that is a list or a mapping.
    #[error("the key is {found}; expected a scalar")]
    KeyNotScalar {
        /// The kind of the key.
        found: &'static str,
    },
    /// The value of `<<` cannot be merged.
    #[error("the value of `<<` is neither a mapping nor a list of mappings")]
    Merge,
    /// An alias inside the node that it refers to.
    #[error("the alias refers to a node that contains it")]
    RecursiveAlias,
    /// A `!binary` scalar that is not text in base64.
    #[error("the binary value is not UTF-8 text in base64")]
    Binary,
    /// Nesting beyond [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// More than [`MAX_NODES`] nodes or [`MAX_TEXT`] bytes of text.
    #[error("the document is too large after resolving its aliases")]
    TooLarge,
}

impl ErrorKind {
    fn at(self, mark: Marker) -> Error {
        Error {
            line: mark.line(),
            column: mark.col() + 1,
            kind: self,
        }
    }
}

impl From<ScanError> for Error {
    fn from(error: ScanError) -> Self {
        let message = error.info().to_owned();
        ErrorKind::Syntax { message }.at(*error.marker())
    }
}

/// Parses the first document of a text and ignores further documents, as Psych's `load` and yaml.v3's `Unmarshal` do. Returns a null for an
/// empty text.
///
/// # Errors
/// The text is not valid YAML, or violates a rule or limit of this module.
pub(crate) fn parse(text: &str) -> Result<Node, Error> {
    reject_control_characters(text)?;
    let mut builder = Builder::default();
    for event in Parser::new(LenientInput::new(text)) {
        let (event, span) = event?;
        if matches!(event, Event::DocumentStart(_)) && builder.root.is_some() {
            break;
        }
        builder.add_event(event, span.start)?;
    }
    Ok(match builder.root {
        Some(node) => node,
        None => {
            let start = Marker::new(0, 1, 0);
            Node::Scalar(builder.scalar(String::new(), true, None, start)?)
        }
    })
}

/// YAML forbids control characters (chapter 5.1), but the parser accepts them and ends a token at a NUL.
fn reject_control_characters(text: &str) -> Result<(), Error> {
    for (line, content) in text.split('\n').enumerate() {
        let control = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}');
        if let Some((column, found)) = content.chars().enumerate().find(|(_, c)| control(*c)) {
            let kind = ErrorKind::ControlCharacter { found };
            return Err(kind.at(Marker::new(0, line + 1, column)));
        }
    }
    Ok(())
}

/// Decodes the text of a `!binary` scalar. Ignores white space. The padding must be complete or missing.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    let padding = match text.contains('=') {
        true => DecodePaddingMode::RequireCanonical,
        false => DecodePaddingMode::RequireNone,
    };
    // Ignore bits after the last byte, as other decoders do.
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(padding)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}

/// The size of a node, including its descendants.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    /// The number of nested levels, 0 for a scalar.
    depth: usize,
}

/// A complete node that has an anchor. It is copied for each alias.
struct Anchored {
    node: Node,
    size: Size,
}

/// A list or mapping that is not yet complete.
struct Open {
    node: Node,
    /// The key whose value is next.
    key: Option<(Scalar, Marker)>,
    /// The keys so far, with their lines.
    keys: HashMap<String, usize>,
    /// The values of the keys `<<`.
    merges: Vec<Node>,
    /// The number of the anchor; 0 if there is none.
    anchor: usize,
    start: Marker,
    size: Size,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    /// The size of all nodes, including copies for aliases and anchors.
    total: Size,
}

impl Builder {
    fn add_event(&mut self, event: Event<'_>, mark: Marker) -> Result<(), Error> {
        let line = mark.line();
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => {
                // The parser rejects unknown anchors, so an anchor that is missing here belongs to a node that is not yet complete.
                let anchored = self.anchors.get(&anchor);
                let Anchored { node, size } =
                    anchored.ok_or_else(|| ErrorKind::RecursiveAlias.at(mark))?;
                let size = *size;
                if self.open.len() + size.depth > MAX_DEPTH {
                    return Err(ErrorKind::TooDeep.at(mark));
                }
                // Check the limit before copying the node.
                add_size(&mut self.total, size, mark)?;
                let node = node.clone();
                self.add(node, size, 0, mark)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = self.scalar(text.into_owned(), plain, tag.as_deref(), mark)?;
                let size = Size {
                    nodes: 1,
                    text: scalar.text.len(),
                    depth: 0,
                };
                self.add(Node::Scalar(scalar), size, anchor, mark)
            }
            Event::SequenceStart(anchor, _) => {
                let items = Vec::new();
                self.open(Node::Sequence(Sequence { items, line }), anchor, mark)
            }
            Event::MappingStart(anchor, _) => {
                let entries = Vec::new();
                self.open(Node::Mapping(Mapping { entries, line }), anchor, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn scalar(
        &mut self,
        mut text: String,
        plain: bool,
        tag: Option<&Tag>,
        mark: Marker,
    ) -> Result<Scalar, Error> {
        let tag = tag.map(|tag| format!("{}{}", tag.handle, tag.suffix));
        // Old Ruby tools wrote `!binary` instead of `!!binary`.
        if matches!(tag.as_deref(), Some("!binary" | "tag:yaml.org,2002:binary")) {
            text = decode_base64(&text)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| ErrorKind::Binary.at(mark))?;
        }
        let size = Size {
            nodes: 1,
            text: text.len(),
            depth: 0,
        };
        add_size(&mut self.total, size, mark)?;
        Ok(Scalar {
            text,
            plain,
            tag,
            line: mark.line(),
        })
    }

    fn open(&mut self, node: Node, anchor: usize, mark: Marker) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            return Err(ErrorKind::TooDeep.at(mark));
        }
        let size = Size {
            nodes: 1,
            text: 0,
            depth: 1,
        };
        add_size(&mut self.total, size, mark)?;
        self.open.push(Open {
            node,
            key: None,
            keys: HashMap::new(),
            merges: Vec::new(),
            anchor,
            start: mark,
            size,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let mut node = open.node;
        if let Node::Mapping(mapping) = &mut node {
            merge(mapping, open.merges);
        }
        self.add(node, open.size, open.anchor, open.start)
    }

    /// Adds a complete node to the innermost open list or mapping, or makes it the root.
    fn add(&mut self, node: Node, size: Size, anchor: usize, mark: Marker) -> Result<(), Error> {
        if anchor > 0 {
            add_size(&mut self.total, size, mark)?;
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, size });
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size.nodes += size.nodes;
        open.size.text += size.text;
        open.size.depth = open.size.depth.max(size.depth + 1);
        let mapping = match &mut open.node {
            Node::Sequence(sequence) => {
                sequence.items.push(node);
                return Ok(());
            }
            Node::Mapping(mapping) => mapping,
            Node::Scalar(_) => return Ok(()),
        };
        match (open.key.take(), node) {
            (None, Node::Scalar(key)) => {
                if let Some(&first) = open.keys.get(&key.text) {
                    let key = excerpt(&key.text);
                    return Err(ErrorKind::DuplicateKey { key, first }.at(mark));
                }
                open.keys.insert(key.text.clone(), mark.line());
                open.key = Some((key, mark));
            }
            (None, other) => {
                let found = other.kind();
                return Err(ErrorKind::KeyNotScalar { found }.at(mark));
            }
            (Some((key, at)), value) if is_merge(&key) => {
                let mergeable = match &value {
                    Node::Mapping(_) => true,
                    Node::Sequence(list) => list
                        .items
                        .iter()
                        .all(|item| matches!(item, Node::Mapping(_))),
                    Node::Scalar(_) => false,
                };
                if !mergeable {
                    return Err(ErrorKind::Merge.at(at));
                }
                open.merges.push(value);
            }
            (Some((key, _)), value) => mapping.entries.push((key, value)),
        }
        Ok(())
    }
}

fn add_size(total: &mut Size, size: Size, mark: Marker) -> Result<(), Error> {
    total.nodes = total.nodes.saturating_add(size.nodes);
    total.text = total.text.saturating_add(size.text);
    if total.nodes > MAX_NODES || total.text > MAX_TEXT {
        return Err(ErrorKind::TooLarge.at(mark));
    }
    Ok(())
}

fn is_merge(key: &Scalar) -> bool {
    match key.tag.as_deref() {
        None => key.plain && key.text == "<<",
        Some(tag) => tag == "tag:yaml.org,2002:merge",
    }
}

/// Adds those keys of the merged mappings that `mapping` itself does not have. If several merged mappings have a key, the first one wins.
fn merge(mapping: &mut Mapping, merges: Vec<Node>) {
    if merges.is_empty() {
        return;
    }
    let mut keys: HashSet<String> = mapping
        .entries
        .iter()
        .map(|(key, _)| key.text.clone())
        .collect();
    let lists = merges.into_iter().map(|node| match node {
        Node::Sequence(sequence) => sequence.items,
        single @ (Node::Scalar(_) | Node::Mapping(_)) => vec![single],
    });
    for node in lists.flatten() {
        let Node::Mapping(merged) = node else {
            continue;
        };
        for (key, value) in merged.entries {
            if keys.insert(key.text.clone()) {
                mapping.entries.push((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests;
