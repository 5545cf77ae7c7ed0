//! The walker: reads a spanned tree field by field and collects every fault, so that all come at once.

use std::{cell::RefCell, collections::BTreeMap};

use super::{
    Fault, Mode,
    tree::{Node, Span, Trouble, Value, quoted},
};

/// Collects the faults and warnings of one document.
pub(super) struct Report<'s> {
    source: &'s str,
    mode: Mode,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
}

impl<'s> Report<'s> {
    pub(super) fn new(source: &'s str, mode: Mode) -> Self {
        Self { source, mode, faults: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn fault(&self, span: Span, path: &str, message: impl Into<String>) {
        self.faults.borrow_mut().push(self.make(span, path, message.into()));
    }

    pub(super) fn warn(&self, span: Span, path: &str, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.make(span, path, message.into()));
    }

    pub(super) fn trouble(&self, trouble: Trouble) {
        self.fault(trouble.span, "", trouble.message);
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// How many faults there are so far.
    pub(super) fn count(&self) -> usize {
        self.faults.borrow().len()
    }

    pub(super) fn clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// Faults, then warnings, each in the order of the text.
    pub(super) fn finish(self) -> (Vec<Fault>, Vec<Fault>) {
        let (mut faults, mut warnings) = (self.faults.into_inner(), self.warnings.into_inner());
        faults.sort_by_key(|f| (f.line, f.column));
        warnings.sort_by_key(|f| (f.line, f.column));
        (faults, warnings)
    }

    fn make(&self, span: Span, path: &str, message: String) -> Fault {
        Fault { source: self.source.to_owned(), line: span.line, column: span.column, path: path.to_owned(), message }
    }
}

/// A node, the way to it, and where to report.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
    pub(super) report: &'n Report<'n>,
}

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node, report: &'n Report<'n>) -> Self {
        Self { node, path: String::new(), report }
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.report.fault(self.node.span, &self.path, message);
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        self.report.warn(self.node.span, &self.path, message);
    }

    fn expected<T>(&self, what: &str) -> Option<T> {
        self.fault(format!("expected {what}, found {}", self.node.found()));
        None
    }

    /// A mapping with these fields and no others.
    pub(super) fn fields(&self, known: &'static [&'static str]) -> Option<Fields<'n>> {
        self.fields_but(known, &[])
    }

    /// As [`At::fields`]; `refused` are (field, why not).
    pub(super) fn fields_but(&self, known: &'static [&'static str], refused: &[(&str, &str)]) -> Option<Fields<'n>> {
        let Value::Map(entries) = &self.node.value else { return self.expected("a mapping") };
        for (key, value) in entries {
            if known.contains(&key.text.as_str()) {
                continue;
            }
            match refused.iter().find(|(name, _)| *name == key.text) {
                Some(_) if value.value == Value::Null => {}
                Some((_, why)) => self.report.fault(key.span, &join(&self.path, &key.text), *why),
                None => self.unknown(&key.text, key.span, known),
            }
        }
        Some(Fields { at: self.clone(), known })
    }

    fn unknown(&self, name: &str, span: Span, known: &[&str]) {
        let near = known
            .iter()
            .map(|k| (strsim::damerau_levenshtein(&k.to_lowercase(), &name.to_lowercase()), k))
            .min()
            .filter(|(distance, k)| *distance <= 2.max(k.len() / 3));
        let message = match near {
            Some((_, near)) => format!("there is no field {}: did you mean `{near}`?", quoted(name)),
            None if known.is_empty() => format!("there is no field {}: remove it", quoted(name)),
            None => format!("there is no field {} (known here: {}): remove it", quoted(name), known.join(", ")),
        };
        match self.report.mode {
            Mode::Strict => self.report.fault(span, &join(&self.path, name), message),
            Mode::Tolerant => self.report.warn(span, &join(&self.path, name), message),
        }
    }

    pub(super) fn text(&self) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Number(_) => {
                self.fault(format!("expected a text, found {}: put it in quotes", self.node.found()));
                None
            }
            _ => self.expected("a text"),
        }
    }

    /// A text that passes `check`, whose error completes `must …`.
    pub(super) fn checked(&self, check: impl Fn(&str) -> Result<(), String>) -> Option<&'n str> {
        let text = self.text()?;
        match check(text) {
            Ok(()) => Some(text),
            Err(why) => {
                self.fault(format!("{} {why}", quoted(text)));
                None
            }
        }
    }

    /// A text that `parse` understands.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text()?;
        parse(text).map_err(|why| self.fault(format!("{} {why}", quoted(text)))).ok()
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let near =
            words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text) || strsim::levenshtein(word, text) <= 2);
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        match near {
            Some((near, _)) => self.fault(format!("{} is none of {list}: did you mean `{near}`?", quoted(text))),
            None => self.fault(format!("{} is none of {list}", quoted(text))),
        }
        None
    }

    pub(super) fn whole(&self, low: u64, high: u64) -> Option<u64> {
        match &self.node.value {
            Value::Number(n) => match n.as_u64() {
                Some(n) if (low..=high).contains(&n) => Some(n),
                _ => {
                    self.fault(format!("{n} is not a whole number from {low} to {high}"));
                    None
                }
            },
            Value::Text(t) if t.parse::<u64>().is_ok() => {
                self.fault(format!("expected a number, found {}: remove the quotes", self.node.found()));
                None
            }
            _ => self.expected("a number"),
        }
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.whole(1, 65_535).and_then(|n| u16::try_from(n).ok())
    }

    pub(super) fn count(&self, low: u32, high: u32) -> Option<u32> {
        self.whole(low.into(), high.into()).and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn fraction(&self, low: f64, high: f64) -> Option<f64> {
        match &self.node.value {
            Value::Number(n) => match n.as_f64() {
                Some(n) if (low..=high).contains(&n) => Some(n),
                _ => {
                    self.fault(format!("{n} is not a number from {low} to {high}"));
                    None
                }
            },
            _ => self.expected("a number"),
        }
    }

    /// The items of a list of at most `most`.
    pub(super) fn items(&self, most: usize) -> Vec<At<'n>> {
        let Value::List(items) = &self.node.value else {
            self.expected::<()>("a list");
            return Vec::new();
        };
        if items.len() > most {
            self.fault(format!("at most {most} are allowed here, there are {}", items.len()));
        }
        let item = |(i, node)| At { node, path: format!("{}[{i}]", self.path), report: self.report };
        items.iter().enumerate().take(most).map(item).collect()
    }

    /// A mapping of texts with keys of any name.
    pub(super) fn entries(&self) -> Vec<(&'n str, At<'n>)> {
        let Value::Map(entries) = &self.node.value else {
            self.expected::<()>("a mapping");
            return Vec::new();
        };
        let entry = |(key, node): &'n (super::tree::Key, Node)| {
            (key.text.as_str(), At { node, path: join(&self.path, &key.text), report: self.report })
        };
        entries.iter().map(entry).collect()
    }
}

/// The fields of a mapping. A `null` field counts as absent, as in Kubernetes.
pub(super) struct Fields<'n> {
    pub(super) at: At<'n>,
    known: &'static [&'static str],
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, name: &'static str) -> Option<At<'n>> {
        debug_assert!(self.known.contains(&name), "{name} is not declared");
        let node = self.at.node.get(name).filter(|n| n.value != Value::Null)?;
        Some(At { node, path: join(&self.at.path, name), report: self.at.report })
    }

    /// A field that must be there.
    pub(super) fn need(&self, name: &'static str) -> Option<At<'n>> {
        let found = self.get(name);
        if found.is_none() {
            self.at.report.fault(self.at.node.span, &join(&self.at.path, name), "this field is missing: add it");
        }
        found
    }

    pub(super) fn items(&self, name: &'static str, most: usize) -> Vec<At<'n>> {
        self.get(name).map(|at| at.items(most)).unwrap_or_default()
    }

    /// A list that must have an item.
    pub(super) fn need_items(&self, name: &'static str, most: usize) -> Vec<At<'n>> {
        let Some(at) = self.need(name) else { return Vec::new() };
        let items = at.items(most);
        if items.is_empty() && matches!(at.node.value, Value::List(_)) {
            at.fault("at least one is needed here");
        }
        items
    }

    pub(super) fn text(&self, name: &'static str) -> Option<&'n str> {
        self.get(name)?.text()
    }
}

/// `a`, `b` → `a.b`; names with other characters → `a["x.y/z"]`.
pub(super) fn join(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{}]", quoted(name)),
    }
}

/// Reports every item whose key came before.
pub(super) fn distinct<'n, K: Ord>(items: impl IntoIterator<Item = (K, At<'n>)>, what: &str) {
    let mut seen = BTreeMap::new();
    for (key, at) in items {
        let line = at.node.span.line;
        if let Some(first) = seen.get(&key) {
            at.fault(format!("{what} stands here twice, first in line {first}"));
        } else {
            seen.insert(key, line);
        }
    }
}
