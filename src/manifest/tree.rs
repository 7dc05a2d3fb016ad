//! The events of the YAML parser into trees with positions. Bounded: nesting, nodes, documents, and what
//! aliases copy. Tags and merge keys are refused, and so is a key that is there twice.
//!
//! JSON is read as the YAML it is; several JSON documents may follow each other without `---`.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use serde::de::IgnoredAny;
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, StrInput};

use super::{
    MAX_TEXT,
    log::{Log, Place, Problem},
};

/// Collections inside each other.
const MAX_DEPTH: usize = 64;
/// Nodes of one document.
const MAX_NODES: usize = 4_000_000;
/// Nodes of one document that aliases repeat: enough for anchors that people write, and no bomb.
const MAX_COPIES: usize = 10_000;
/// Documents of one text.
const MAX_DOCUMENTS: usize = 10_000;

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) value: Value<'t>,
    pub(super) place: Place,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value<'t> {
    /// A scalar, and how it was written.
    Scalar(Cow<'t, str>, ScalarStyle),
    /// A list.
    List(Vec<Node<'t>>),
    /// A map, in the text's order, no key twice.
    Map(Vec<(Key<'t>, Node<'t>)>),
}

/// A key with its place.
#[derive(Clone, Debug)]
pub(super) struct Key<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) place: Place,
}

impl Node<'_> {
    /// True for nothing, `~` and `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(text, ScalarStyle::Plain) => {
                matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }
}

/// Calls `each` with the tree of every document that can be read; a syntax error ends its document only.
pub(super) fn each_document<'t>(
    log: &mut Log,
    text: &'t str,
    mut each: impl FnMut(&mut Log, &Node<'t>),
) {
    if text.len() > MAX_TEXT {
        log.next_document();
        let problem = Problem::new(format!("longer than {} MiB", MAX_TEXT >> 20));
        log.error("", 0, problem.help("split it into several files"));
        return;
    }
    for (start, part) in parts(text) {
        read_part(log, start, part, &mut each);
    }
}

/// JSON documents one behind the other, each with its offset; else the whole text.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let whole = vec![(0, text)];
    if !text.trim_start().starts_with('{') {
        return whole;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(document) = stream.next() {
        let end = stream.byte_offset();
        match (document, text.get(start..end)) {
            (Ok(_), Some(part)) if found.len() < MAX_DOCUMENTS => found.push((start, part)),
            _ => return whole,
        }
        start = end;
    }
    if found.len() > 1 { found } else { whole }
}

fn read_part<'t>(
    log: &mut Log,
    start: usize,
    text: &'t str,
    each: &mut impl FnMut(&mut Log, &Node<'t>),
) {
    let mut options = granit_parser::options! {
        disallow_directives: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    options.set_emit_comments(false);
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut counted = 0;
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => return,
            Some(Ok((Event::DocumentStart(..), at))) => {
                counted += 1;
                log.next_document();
                if counted > MAX_DOCUMENTS {
                    let problem = Problem::new(format!("more than {MAX_DOCUMENTS} documents"));
                    log.error("", start + byte(&at), problem);
                    return;
                }
                match Builder::new(start).document(log, &mut parser) {
                    Ok(Some(node)) => each(log, &node),
                    Ok(None) => {}
                    Err(()) if recovers(&mut parser) => {}
                    Err(()) => return,
                }
            }
            Some(Ok(_)) => {}
            // In front of a document, such as a directive.
            Some(Err(error)) => {
                log.next_document();
                syntax(log, start, &error);
                if !recovers(&mut parser) {
                    return;
                }
            }
        }
    }
}

fn recovers<'t>(parser: &mut Parser<'t, StrInput<'t>>) -> bool {
    matches!(parser.proceed_next_document(), Ok(true))
}

fn syntax(log: &mut Log, start: usize, error: &granit_parser::ScanError) {
    let at = error.marker().byte_offset().unwrap_or(0);
    let problem = Problem::new(error.info());
    log.error(
        "",
        start + at,
        problem.help("this is not YAML; nothing of this document is used"),
    );
}

fn byte(span: &Span) -> usize {
    span.start.byte_offset().unwrap_or(0)
}

/// A collection that is not closed yet.
enum Open<'t> {
    List(Vec<Node<'t>>),
    Map(Vec<(Key<'t>, Node<'t>)>, HashSet<Cow<'t, str>>, Waits<'t>),
}

/// What an open map waits for.
enum Waits<'t> {
    /// A key.
    Key,
    /// The value of this key; `None`: of one that was refused.
    Value(Option<Key<'t>>),
}

/// One document.
struct Builder<'t> {
    /// Offset of the part in the text.
    start: usize,
    open: Vec<(Open<'t>, usize, usize)>,
    anchors: HashMap<usize, Node<'t>>,
    nodes: usize,
    copies: usize,
    root: Option<Node<'t>>,
}

impl<'t> Builder<'t> {
    fn new(start: usize) -> Self {
        Self {
            start,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            copies: 0,
            root: None,
        }
    }

    /// The document's tree; an error was reported.
    fn document(
        mut self,
        log: &mut Log,
        parser: &mut Parser<'t, StrInput<'t>>,
    ) -> Result<Option<Node<'t>>, ()> {
        loop {
            let (event, span) = match parser.next_event() {
                Some(Ok(next)) => next,
                Some(Err(error)) => {
                    syntax(log, self.start, &error);
                    return Err(());
                }
                None => return Err(()),
            };
            if matches!(event, Event::DocumentEnd | Event::StreamEnd) {
                return Ok(self.root);
            }
            self.event(log, event, &span)?;
        }
    }

    fn event(&mut self, log: &mut Log, event: Event<'t>, span: &Span) -> Result<(), ()> {
        let place = self.place(span);
        if let Some(tag) = event.tag() {
            let problem = Problem::new(format!("the tag {} is not taken", short(&tag.original())));
            let problem = problem.help("write the value itself; a text stands in quotes");
            let tag = span.tag_start().and_then(|mark| mark.byte_offset());
            let at = tag.map_or(place.start, |at| self.start + at);
            return refuse(log, at, problem);
        }
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let problem = Problem::new(format!("more than {MAX_NODES} values in one document"));
            return refuse(log, place.start, problem);
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = Value::Scalar(text, style);
                self.add(log, Node { value, place }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(log, Open::List(Vec::new()), place.start, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let map = Open::Map(Vec::new(), HashSet::new(), Waits::Key);
                self.open(log, map, place.start, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((open, start, anchor)) = self.open.pop() else {
                    return Ok(());
                };
                let value = match open {
                    Open::List(items) => Value::List(items),
                    Open::Map(pairs, ..) => Value::Map(pairs),
                };
                let end = place.end.max(start);
                let place = Place { start, end };
                self.add(log, Node { value, place }, anchor)
            }
            Event::Alias(anchor) => self.alias(log, anchor, place),
            _ => Ok(()),
        }
    }

    fn open(
        &mut self,
        log: &mut Log,
        open: Open<'t>,
        start: usize,
        anchor: usize,
    ) -> Result<(), ()> {
        if let Some((Open::Map(_, _, Waits::Key), ..)) = self.open.last() {
            return refuse(log, start, Problem::new("a key must be a text"));
        }
        if self.open.len() >= MAX_DEPTH {
            let problem = Problem::new(format!("more than {MAX_DEPTH} levels inside each other"));
            return refuse(log, start, problem);
        }
        self.open.push((open, start, anchor));
        Ok(())
    }

    fn alias(&mut self, log: &mut Log, anchor: usize, place: Place) -> Result<(), ()> {
        let Some(node) = self.anchors.get(&anchor) else {
            let problem = Problem::new("an alias inside its own anchor");
            return refuse(log, place.start, problem);
        };
        self.copies += count(node);
        if self.copies > MAX_COPIES {
            let problem = Problem::new(format!("aliases repeat more than {MAX_COPIES} values"));
            return refuse(log, place.start, problem.help("write the values out"));
        }
        let node = node.clone();
        self.add(log, node, 0)
    }

    fn add(&mut self, log: &mut Log, node: Node<'t>, anchor: usize) -> Result<(), ()> {
        if anchor != 0 {
            self.copies += count(&node);
            if self.copies > MAX_COPIES {
                let problem = Problem::new(format!("anchors hold more than {MAX_COPIES} values"));
                return refuse(log, node.place.start, problem.help("remove the anchor"));
            }
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((Open::List(items), ..)) => items.push(node),
            Some((Open::Map(pairs, seen, waits), ..)) => {
                match std::mem::replace(waits, Waits::Key) {
                    Waits::Key => *waits = Waits::Value(key(log, seen, node)?),
                    Waits::Value(Some(key)) => pairs.push((key, node)),
                    Waits::Value(None) => {}
                }
            }
        }
        Ok(())
    }

    fn place(&self, span: &Span) -> Place {
        let start = byte(span);
        let end = span.end.byte_offset().unwrap_or(start).max(start);
        Place {
            start: self.start + start,
            end: self.start + end,
        }
    }
}

/// A key; `None` when it is there already, which is reported.
fn key<'t>(
    log: &mut Log,
    seen: &mut HashSet<Cow<'t, str>>,
    node: Node<'t>,
) -> Result<Option<Key<'t>>, ()> {
    let place = node.place;
    let Value::Scalar(text, style) = node.value else {
        return refuse(log, place.start, Problem::new("a key must be a text"));
    };
    if text == "<<" && style == ScalarStyle::Plain {
        let problem = Problem::new("merge keys are not taken").help("write the keys out");
        return refuse(log, place.start, problem);
    }
    if !seen.insert(text.clone()) {
        let problem = Problem::new(format!("the key {} is there twice", short(&text)));
        log.error("", place.start, problem.help("keep one of them"));
        return Ok(None);
    }
    Ok(Some(Key { text, place }))
}

/// Reports what makes the whole document unusable.
fn refuse<T>(log: &mut Log, start: usize, problem: Problem) -> Result<T, ()> {
    log.error("", start, problem);
    Err(())
}

/// Values of a tree.
fn count(node: &Node<'_>) -> usize {
    1 + match &node.value {
        Value::Scalar(..) => 0,
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(pairs) => pairs.iter().map(|(_, node)| 1 + count(node)).sum(),
    }
}

/// In quotes, printable and short enough for a message.
pub(super) fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((cut, _)) => format!("{:?}...", text.get(..cut).unwrap_or_default()),
    }
}
