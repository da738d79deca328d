//! Makes a tree of the parser's events.

use std::collections::{HashMap, HashSet};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::input::LenientInput;
use super::{Mapping, Node, Scalar, Sequence};
use crate::release::name::shown;

/// How deep lists and mappings may be nested. A manifest needs four.
pub const MAX_DEPTH: usize = 100;

/// How many nodes a document may have once its aliases are resolved; twenty are a package.
pub const MAX_NODES: usize = 1_000_000;

/// How many bytes of text a document may have once its aliases are resolved: twice what a manifest may be long.
pub const MAX_TEXT: usize = 128 * 1024 * 1024;

/// A text that is not usable YAML, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct Error {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: ErrorKind,
}

/// What is wrong with a text that should be YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// The parser does not understand it.
    #[error("{message}")]
    Syntax {
        /// In the parser's words.
        message: String,
    },
    /// A character that YAML does not allow, not even in quotes.
    #[error("the control character {found:?} is not allowed")]
    ControlCharacter {
        /// The character.
        found: char,
    },
    /// A key that the mapping already has.
    #[error("the key `{key}` is already on line {first}")]
    DuplicateKey {
        /// The key, escaped and shortened.
        key: String,
        /// The line of the first, from 1.
        first: usize,
    },
    /// A key that is a list or a mapping.
    #[error("a key must be a scalar, this one is {found}")]
    KeyNotScalar {
        /// What it is.
        found: &'static str,
    },
    /// A `<<` with something that cannot be merged.
    #[error("`<<` needs a mapping or a list of mappings")]
    Merge,
    /// An alias inside the node that it stands for.
    #[error("the alias stands for a node that contains it")]
    RecursiveAlias,
    /// A `!binary` that is not text in base64.
    #[error("the binary value is not base64 of UTF-8 text")]
    Binary,
    /// Nesting beyond [`MAX_DEPTH`].
    #[error("more than {MAX_DEPTH} levels are nested")]
    TooDeep,
    /// More than [`MAX_NODES`] nodes or [`MAX_TEXT`] bytes of text.
    #[error("the document is too large once its aliases are resolved")]
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

/// Reads the first document of a text, as Psych's `load` and yaml.v3's `Unmarshal` do: documents after it are ignored. An
/// empty text is a null.
///
/// # Errors
/// Text that is not YAML, or that is outside the rules and limits of this module.
pub fn parse(text: &str) -> Result<Node, Error> {
    refuse_control_characters(text)?;
    let mut builder = Builder::default();
    for event in Parser::new(LenientInput::new(text)) {
        let (event, span) = event?;
        if matches!(event, Event::DocumentStart(_)) && builder.root.is_some() {
            break;
        }
        builder.take(event, span.start)?;
    }
    Ok(match builder.root {
        Some(node) => node,
        None => {
            let start = Marker::new(0, 1, 0);
            Node::Scalar(builder.scalar(String::new(), true, None, start)?)
        }
    })
}

/// The parser lets them pass and takes a NUL for the end of a token; YAML allows none (chapter 5.1).
fn refuse_control_characters(text: &str) -> Result<(), Error> {
    for (line, content) in text.split('\n').enumerate() {
        let control = |c: char| c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}');
        if let Some((column, found)) = content.chars().enumerate().find(|(_, c)| control(*c)) {
            let kind = ErrorKind::ControlCharacter { found };
            return Err(kind.at(Marker::new(0, line + 1, column)));
        }
    }
    Ok(())
}

/// Decodes a `!binary` scalar. White space is ignored; padding is complete or absent.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    let padding = match text.contains('=') {
        true => DecodePaddingMode::RequireCanonical,
        false => DecodePaddingMode::RequireNone,
    };
    // Other decoders ignore bits after the last byte, too.
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(padding)
        .with_decode_allow_trailing_bits(true);
    GeneralPurpose::new(&STANDARD, config).decode(text).ok()
}

/// What a node costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    text: usize,
    /// How many levels it has; a scalar has none.
    depth: usize,
}

/// A node with an anchor, as aliases copy it.
struct Anchored {
    node: Node,
    cost: Cost,
}

/// A list or mapping that is not yet complete.
struct Open {
    node: Node,
    /// The key that waits for its value.
    key: Option<(Scalar, Marker)>,
    /// The keys so far, with their lines.
    keys: HashMap<String, usize>,
    merges: Vec<Node>,
    anchor: usize,
    start: Marker,
    cost: Cost,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    /// Everything that was made, copies for aliases and anchors included.
    spent: Cost,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, mark: Marker) -> Result<(), Error> {
        let line = mark.line();
        match event {
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::Alias(anchor) => {
                // The parser refuses unknown anchors: one that is not here yet is still open.
                let anchored = self.anchors.get(&anchor);
                let Anchored { node, cost } =
                    anchored.ok_or_else(|| ErrorKind::RecursiveAlias.at(mark))?;
                let cost = *cost;
                if self.open.len() + cost.depth > MAX_DEPTH {
                    return Err(ErrorKind::TooDeep.at(mark));
                }
                // Counted before it is copied.
                spend(&mut self.spent, cost, mark)?;
                let node = node.clone();
                self.add(node, cost, 0, mark)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let scalar = self.scalar(text.into_owned(), plain, tag.as_deref(), mark)?;
                let cost = Cost {
                    nodes: 1,
                    text: scalar.text.len(),
                    depth: 0,
                };
                self.add(Node::Scalar(scalar), cost, anchor, mark)
            }
            Event::SequenceStart(anchor, _) => {
                let items = Vec::new();
                self.start(Node::Sequence(Sequence { items, line }), anchor, mark)
            }
            Event::MappingStart(anchor, _) => {
                let entries = Vec::new();
                self.start(Node::Mapping(Mapping { entries, line }), anchor, mark)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
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
        // Old Ruby tools wrote `!binary` where `!!binary` is meant.
        if matches!(tag.as_deref(), Some("!binary" | "tag:yaml.org,2002:binary")) {
            text = decode_base64(&text)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| ErrorKind::Binary.at(mark))?;
        }
        let cost = Cost {
            nodes: 1,
            text: text.len(),
            depth: 0,
        };
        spend(&mut self.spent, cost, mark)?;
        Ok(Scalar {
            text,
            plain,
            tag,
            line: mark.line(),
        })
    }

    fn start(&mut self, node: Node, anchor: usize, mark: Marker) -> Result<(), Error> {
        if self.open.len() >= MAX_DEPTH {
            return Err(ErrorKind::TooDeep.at(mark));
        }
        let cost = Cost {
            nodes: 1,
            text: 0,
            depth: 1,
        };
        spend(&mut self.spent, cost, mark)?;
        self.open.push(Open {
            node,
            key: None,
            keys: HashMap::new(),
            merges: Vec::new(),
            anchor,
            start: mark,
            cost,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let mut node = open.node;
        if let Node::Mapping(mapping) = &mut node {
            merge(mapping, open.merges);
        }
        self.add(node, open.cost, open.anchor, open.start)
    }

    /// Puts a complete node into the one that is open.
    fn add(&mut self, node: Node, cost: Cost, anchor: usize, mark: Marker) -> Result<(), Error> {
        if anchor > 0 {
            spend(&mut self.spent, cost, mark)?;
            let node = node.clone();
            self.anchors.insert(anchor, Anchored { node, cost });
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.cost.nodes += cost.nodes;
        open.cost.text += cost.text;
        open.cost.depth = open.cost.depth.max(cost.depth + 1);
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
                    let key = shown(&key.text);
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

fn spend(spent: &mut Cost, cost: Cost, mark: Marker) -> Result<(), Error> {
    spent.nodes = spent.nodes.saturating_add(cost.nodes);
    spent.text = spent.text.saturating_add(cost.text);
    if spent.nodes > MAX_NODES || spent.text > MAX_TEXT {
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

/// Adds what the mapping does not say itself; of several mappings the first that says it counts.
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
