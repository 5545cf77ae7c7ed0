//! YAML or JSON text → a tree in which every node knows its line and column.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span as Marks};
use serde_json::Number;

/// Largest object, in bytes of its text (design: one transaction stores it twice).
pub(super) const MAX_OBJECT_BYTES: usize = 512 * 1024;
/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;

/// Where something begins; both count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Line of the file.
    pub line: u32,
    /// Character in the line.
    pub column: u32,
}

impl From<Marker> for Span {
    fn from(m: Marker) -> Self {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { line: narrow(m.line()).max(1), column: narrow(m.col()).saturating_add(1) }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Span,
}

/// YAML 1.2's core schema.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping's entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) span: Span,
}

impl Node {
    /// The value of a key of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The same as JSON.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Number(n) => Json::Number(n.clone()),
            Value::Text(t) => Json::String(t.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => Json::Object(entries.iter().map(|(k, v)| (k.text.clone(), v.to_json())).collect()),
        }
    }

    /// What was found, for messages: `the number 5`.
    pub(super) fn found(&self) -> String {
        match &self.value {
            Value::Null => "nothing".into(),
            Value::Bool(b) => format!("the boolean {b}"),
            Value::Number(n) => format!("the number {n}"),
            Value::Text(t) => format!("the text {}", quoted(t)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a mapping".into(),
        }
    }
}

/// A text in quotes, cut to what a message can carry.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// Something that is wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) span: Span,
    pub(super) message: String,
}

/// One document of a file; `root` is still worth a walk when there are troubles.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) root: Node,
    pub(super) troubles: Vec<Trouble>,
}

/// All documents up to the first place that is not YAML, and that place.
pub(super) fn documents(text: &str) -> (Vec<Document>, Option<Trouble>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = &*join_surrogates(text);
    let lines = LineEnds::of(text);
    let mut parser = Parser::new_from_str(text);
    let mut done = Vec::new();
    let mut builder = Builder::default();
    let mut first_line = 1;
    while let Some(next) = parser.next_event() {
        let (event, marks) = match next {
            Ok(next) => next,
            Err(error) => {
                let span = Span::from(*error.marker());
                return (done, Some(Trouble { span, message: format!("this is not YAML: {}", error.info()) }));
            }
        };
        match event {
            Event::DocumentStart(_) => {
                builder = Builder::default();
                first_line = marks.start.line();
            }
            Event::DocumentEnd => {
                let mut builder = std::mem::take(&mut builder);
                let Some(root) = builder.root.take() else { continue };
                if lines.bytes(first_line, marks.end.line()) > MAX_OBJECT_BYTES {
                    builder.trouble(root.span, format!("the object is larger than {} KiB", MAX_OBJECT_BYTES / 1024));
                }
                done.push(Document { root, troubles: builder.troubles });
            }
            Event::StreamEnd => break,
            event => {
                if let Err(trouble) = builder.feed(event, marks) {
                    return (done, Some(trouble));
                }
            }
        }
    }
    (done, None)
}

/// JSON writes characters beyond 16 bits as two escapes (RFC 8259, section 7), which YAML does not know: they are put
/// in clear. Lines stay; columns behind such a character in the same line move.
fn join_surrogates(text: &str) -> Cow<'_, str> {
    let has_one = text.contains("\\ud") || text.contains("\\uD");
    if !has_one || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.push_str(plain);
        let pair = escape.get(..12).and_then(|pair| {
            let (high, low) = pair.strip_prefix("\\u")?.split_once("\\u")?;
            let units = [u16::from_str_radix(high, 16).ok()?, u16::from_str_radix(low, 16).ok()?];
            char::decode_utf16(units).next()?.ok().filter(|c| c.len_utf16() == 2)
        });
        let length = match pair {
            Some(c) => {
                out.push(c);
                12
            }
            None => {
                let length = escape.chars().take(2).map(char::len_utf8).sum();
                out.push_str(escape.get(..length).unwrap_or_default());
                length
            }
        };
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Where each line of a text ends. Found once: looking for the lines of each document from the start is quadratic.
struct LineEnds(Vec<usize>);

impl LineEnds {
    fn of(text: &str) -> Self {
        let lengths = text.split_inclusive('\n').map(str::len);
        Self(
            lengths
                .scan(0, |end, length| {
                    *end += length;
                    Some(*end)
                })
                .collect(),
        )
    }

    /// Bytes from the start of one line to the end of another; lines count from 1.
    fn bytes(&self, first: usize, last: usize) -> usize {
        let end =
            |line: usize| line.min(self.0.len()).checked_sub(1).and_then(|at| self.0.get(at)).copied().unwrap_or(0);
        end(last).saturating_sub(end(first.saturating_sub(1)))
    }
}

/// A list or mapping that is not closed yet.
struct Frame {
    span: Span,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashMap<String, Span>, key: Option<Key> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Frame>,
    root: Option<Node>,
    troubles: Vec<Trouble>,
}

impl Builder {
    fn trouble(&mut self, span: Span, message: impl Into<String>) {
        self.troubles.push(Trouble { span, message: message.into() });
    }

    /// Whether the next scalar is a key.
    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Frame { body: Body::Map { key: None, .. }, .. }))
    }

    fn feed(&mut self, event: Event<'_>, marks: Marks) -> Result<(), Trouble> {
        let span = Span::from(marks.start);
        match event {
            Event::Alias(_) => {
                self.trouble(span, "aliases (`*name`) are not supported: write the value out");
                self.place(Node { value: Value::Null, span });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(span, anchor, tag.is_some());
                if self.wants_key() {
                    if text == "<<" && style == ScalarStyle::Plain {
                        self.trouble(span, "merge keys (`<<`) are not supported: write the fields out");
                    }
                    self.take_key(Key { text: text.into_owned(), span });
                } else {
                    let value = match style {
                        ScalarStyle::Plain => self.plain(&text, span),
                        _ => Value::Text(text.into_owned()),
                    };
                    self.place(Node { value, span });
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(span, anchor, tag.is_some());
                self.push(span, Body::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(span, anchor, tag.is_some());
                self.push(span, Body::Map { entries: Vec::new(), seen: HashMap::new(), key: None })?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(),
            _ => {}
        }
        Ok(())
    }

    fn push(&mut self, span: Span, body: Body) -> Result<(), Trouble> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Trouble { span, message: format!("lists and mappings are nested deeper than {MAX_DEPTH}") });
        }
        self.open.push(Frame { span, body });
        Ok(())
    }

    fn pop(&mut self) {
        let Some(Frame { span, body }) = self.open.pop() else { return };
        let value = match body {
            Body::List(items) => Value::List(items),
            Body::Map { entries, .. } => Value::Map(entries),
        };
        self.place(Node { value, span });
    }

    fn refuse_extras(&mut self, span: Span, anchor: usize, tag: bool) {
        if anchor != 0 {
            self.trouble(span, "anchors (`&name`) are not supported: write the value out where it is used");
        }
        if tag {
            self.trouble(span, "tags (`!name`) are not supported: remove the tag (quotes make a text)");
        }
    }

    fn take_key(&mut self, new: Key) {
        let Some(Frame { body: Body::Map { seen, key, .. }, .. }) = self.open.last_mut() else { return };
        let before = seen.insert(new.text.clone(), new.span);
        let (span, text) = (new.span, quoted(&new.text));
        *key = Some(new);
        if let Some(before) = before {
            self.trouble(span, format!("the key {text} stands here twice, first in line {}: remove one", before.line));
        }
    }

    fn place(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Frame { body: Body::List(items), .. }) => items.push(node),
            Some(Frame { body: Body::Map { entries, key, .. }, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let span = node.span;
                    self.trouble(span, format!("a key must be a text, not {}", node.found()));
                    self.take_key(Key { text: String::new(), span });
                }
            },
        }
    }

    /// A plain scalar by the core schema (YAML 1.2.2, 10.3.2).
    fn plain(&mut self, text: &str, span: Span) -> Value {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
            "true" | "True" | "TRUE" => return Value::Bool(true),
            "false" | "False" | "FALSE" => return Value::Bool(false),
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
            self.trouble(span, format!("{text} is not a finite number (quotes make a text)"));
            return Value::Null;
        }
        match number(text) {
            Some(number) => Value::Number(number),
            None => Value::Text(text.to_owned()),
        }
    }
}

/// A number of the core schema; an integer beyond 64 bits becomes a fraction.
pub(super) fn number(text: &str) -> Option<Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |b| b.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
            .map(Number::from);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |b| b.is_ascii_digit())
            .then(|| u64::from_str_radix(digits, 8).ok())
            .flatten()
            .map(Number::from);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if all(unsigned, |b| b.is_ascii_digit()) {
        let signed = text.strip_prefix('+').unwrap_or(text);
        let whole = signed.parse::<u64>().map(Number::from).or_else(|_| signed.parse::<i64>().map(Number::from));
        return whole.ok().or_else(|| signed.parse::<f64>().ok().and_then(Number::from_f64));
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_fits = exponent.is_none_or(|e| all(e.strip_prefix(['-', '+']).unwrap_or(e), |b| b.is_ascii_digit()));
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => all(fraction, |b| b.is_ascii_digit()),
        Some((whole, "")) => all(whole, |b| b.is_ascii_digit()),
        Some((whole, fraction)) => all(whole, |b| b.is_ascii_digit()) && all(fraction, |b| b.is_ascii_digit()),
        None => all(mantissa, |b| b.is_ascii_digit()),
    };
    (exponent_fits && mantissa_fits).then(|| text.parse::<f64>().ok()).flatten().and_then(Number::from_f64)
}

fn all(text: &str, test: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(test)
}
