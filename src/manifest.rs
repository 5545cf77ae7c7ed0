//! YAML or JSON text ↔ objects: a spanned tree, walked, so that all errors of a file come at once with line and column.

mod certificate;
mod envelope;
mod filter;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gateway;
pub mod regex;
mod route;
mod selector;
mod service;
mod site;
mod text;
mod tree;
mod walk;
mod yaml;

use std::{collections::BTreeMap, fmt};

pub use tree::Span;
pub use yaml::{redact, to_yaml};

use crate::model::{LiveEndpoint, Object, ObjectRef};
use tree::{Document, MAX_OBJECT_BYTES, Node, Value};
use walk::{At, Report};

/// How unknown fields are taken. Everything else is checked the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As faults: what a person applies.
    Strict,
    /// As warnings: what stands in the store, perhaps written by a later version.
    Tolerant,
}

/// Something wrong at one place of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file, as named by the caller.
    pub source: String,
    /// Line, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
    /// The field, e.g. `spec.rules[0].matches[1].path`; may be empty.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// `path: message`, without the place.
    pub fn text(&self) -> String {
        if self.path.is_empty() { self.message.clone() } else { format!("{}: {}", self.path, self.message) }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    /// `file:line:column: path: message`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.source, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// An object of a file, and where it stands.
#[derive(Clone, PartialEq)]
pub struct Located {
    /// The object.
    pub object: Object,
    /// Its first line and column.
    pub span: Span,
    /// The manifest as it is stored: with its namespace, without `status` and fields that a server writes. Holds
    /// secrets in clear text: see [`redact`].
    pub json: serde_json::Value,
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Located").field("object", &self.object).field("span", &self.span).finish_non_exhaustive()
    }
}

/// All that a file says. Objects without a fault are there even if others have some.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// In the order of the file.
    pub objects: Vec<Located>,
    /// Not empty: nothing of the file should be applied.
    pub faults: Vec<Fault>,
    /// For the eyes of a person.
    pub warnings: Vec<Fault>,
}

/// Most faults of one text that are told; one mistake repeated a thousand times is one mistake.
const MAX_FAULTS: usize = 200;

/// Reads every document of a text; `source_name` is what faults call it. Never fails as a whole.
pub fn parse(source_name: &str, text: &str, mode: Mode) -> Parsed {
    let (documents, trouble) = tree::documents(text);
    let mut parsed = Parsed::default();
    let mut seen: BTreeMap<ObjectRef, u32> = BTreeMap::new();
    for document in documents {
        if document.root.value == Value::Null && document.troubles.is_empty() {
            continue;
        }
        let span = document.root.span;
        let report = Report::new(source_name, mode);
        let object = read(&document, &report).filter(|object| {
            let line = seen.entry(object.reference()).or_insert(span.line);
            if *line != span.line {
                let again = format!("{} stands in this file twice, first in line {line}", object.reference());
                report.fault(span, "", again);
            }
            report.clean()
        });
        if let Some(object) = object {
            let json = envelope::stored_form(&document.root, &object);
            parsed.objects.push(Located { object, span, json });
        }
        let (faults, warnings) = report.finish();
        parsed.faults.extend(faults);
        parsed.warnings.extend(warnings);
    }
    if let Some(trouble) = trouble {
        let report = Report::new(source_name, mode);
        report.trouble(trouble);
        parsed.faults.extend(report.finish().0);
    }
    for list in [&mut parsed.faults, &mut parsed.warnings] {
        let more = list.len().saturating_sub(MAX_FAULTS);
        list.truncate(MAX_FAULTS);
        if let (Some(last), true) = (list.last_mut(), more > 0) {
            last.message.push_str(&format!(" (and {more} more after this)"));
        }
    }
    parsed
}

/// Reads a value of the store, and checks that it is the object that its key names. What came past admission is read
/// strictly, what was accepted tolerantly.
///
/// # Errors
/// Every fault of the value; the object is not usable then.
pub fn read_stored(key_ref: &ObjectRef, bytes: &[u8], mode: Mode) -> Result<(Object, Vec<String>), Vec<Fault>> {
    let source = key_ref.to_string();
    let refuse =
        |message: String| vec![Fault { source: source.clone(), line: 1, column: 1, path: String::new(), message }];
    if bytes.len() > MAX_OBJECT_BYTES {
        return Err(refuse(format!("the object is larger than {} KiB", MAX_OBJECT_BYTES / 1024)));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| refuse(format!("the value is not UTF-8 text: {e}")))?;
    let mut parsed = parse(&source, text, mode);
    if !parsed.faults.is_empty() {
        return Err(parsed.faults);
    }
    let warnings = parsed.warnings.iter().map(Fault::to_string).collect();
    match (parsed.objects.pop(), parsed.objects.is_empty()) {
        (Some(one), true) if one.object.reference() == *key_ref => Ok((one.object, warnings)),
        (Some(one), true) => {
            let found = one.object.reference();
            Err(refuse(format!("the value is {found}, but its key names {key_ref}: write it under its own key")))
        }
        (None, _) => Err(refuse("the value is empty: write one object".into())),
        (Some(_), false) => Err(refuse("the value holds several objects: write each under its own key".into())),
    }
}

/// Reads the value of a leased endpoint key: `{"address":"10.0.0.1:8080","weight":1}`.
///
/// # Errors
/// All that is wrong, in words.
pub fn parse_endpoint(bytes: &[u8]) -> Result<LiveEndpoint, String> {
    if bytes.len() > 4096 {
        return Err("the value is longer than 4096 bytes".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("the value is not UTF-8 text: {e}"))?;
    let (documents, trouble) = tree::documents(text);
    if let Some(trouble) = trouble {
        return Err(trouble.message);
    }
    let [Document { root, troubles }] = documents.as_slice() else {
        return Err("the value is not one mapping, for example {\"address\":\"10.0.0.1:8080\",\"weight\":1}".into());
    };
    let report = Report::new("endpoint", Mode::Tolerant);
    troubles.iter().for_each(|t| report.trouble(t.clone()));
    let endpoint = service::read_endpoint(&At::root(root, &report));
    let (faults, _) = report.finish();
    let words = |f: &Fault| match f.path.as_str() {
        "" => f.message.clone(),
        path => format!("{path}: {}", f.message),
    };
    match (endpoint, faults.as_slice()) {
        (Some(endpoint), []) => Ok(endpoint),
        (_, faults) => Err(faults.iter().map(words).collect::<Vec<_>>().join("; ")),
    }
}

fn read(document: &Document, report: &Report<'_>) -> Option<Object> {
    document.troubles.iter().for_each(|t| report.trouble(t.clone()));
    let root: &Node = &document.root;
    envelope::read(&At::root(root, report)).filter(|_| report.clean())
}

#[cfg(test)]
mod tests;
