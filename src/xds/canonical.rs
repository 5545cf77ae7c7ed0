//! Canonical bytes: equal messages become equal encodings.
//!
//! Protobuf maps are hash maps in the generated code, so that equal messages encode to different bytes in each run.
//! The walk works on the wire format: it sorts the entries of each map by key, also inside `google.protobuf.Any`, and
//! copies everything else as it stands, fields that it does not know included.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::LazyLock,
};

use bytes::Bytes;
use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};
use prost_reflect::{FieldDescriptor, Kind};

use super::descriptor::{ANY, MAX_DEPTH, message_name, message_of, pool};

/// The canonical encoding of `bytes`, an encoded `full_name` (`envoy.config.cluster.v3.Cluster`): maps sorted by key
/// at every depth. It decodes to the same message. Returns its input where no map has two entries, and for a type that
/// the pool lacks or bytes that are no message.
pub fn canonical(full_name: &str, bytes: Bytes) -> Bytes {
    let Some(shape) = SHAPES.get(full_name) else { return bytes };
    match message(shape, &bytes, 0) {
        Ok(Cow::Owned(sorted)) => sorted.into(),
        Ok(Cow::Borrowed(_)) | Err(_) => bytes,
    }
}

/// What of a message can hold a map: its other fields are skipped unread.
enum Shape {
    Any,
    Fields(HashMap<u32, Field>),
}

/// A field below which a map can be.
enum Field {
    Message(String),
    Map { key: KeyKind, value: Option<String> },
}

#[derive(Clone, Copy)]
enum KeyKind {
    Text,
    Signed,
    ZigZag,
    Unsigned,
}

/// Shapes of the messages from which a map or an `Any` can be reached.
static SHAPES: LazyLock<HashMap<String, Shape>> = LazyLock::new(|| {
    let mut reaches: HashMap<String, bool> = HashMap::new();
    let mut parents: HashMap<String, Vec<String>> = HashMap::new();
    let mut open = Vec::new();
    for descriptor in pool().all_messages() {
        let name = descriptor.full_name().to_owned();
        if name == ANY || descriptor.fields().any(|f| f.is_map()) {
            open.push(name.clone());
        }
        for child in descriptor.fields().filter_map(|f| message_of(&f)) {
            parents.entry(child.full_name().to_owned()).or_default().push(name.clone());
        }
    }
    while let Some(name) = open.pop() {
        if reaches.insert(name.clone(), true).is_none() {
            open.extend(parents.get(&name).into_iter().flatten().cloned());
        }
    }
    let reaching = |field: &FieldDescriptor| {
        message_of(field).map(|m| m.full_name().to_owned()).filter(|name| reaches.contains_key(name))
    };
    let shape = |name: &String| {
        if name == ANY {
            return Some(Shape::Any);
        }
        let fields = pool().get_message_by_name(name)?;
        let fields = fields.fields().filter_map(|field| {
            let shape = match field.is_map() {
                true => Field::Map { key: key_kind(&field), value: reaching(&field) },
                false => Field::Message(reaching(&field)?),
            };
            Some((field.number(), shape))
        });
        Some(Shape::Fields(fields.collect()))
    };
    reaches.keys().filter_map(|name| Some((name.clone(), shape(name)?))).collect()
});

fn key_kind(map: &FieldDescriptor) -> KeyKind {
    let Kind::Message(entry) = map.kind() else { return KeyKind::Text };
    match entry.map_entry_key_field().kind() {
        Kind::Int32 | Kind::Int64 | Kind::Sfixed32 | Kind::Sfixed64 => KeyKind::Signed,
        Kind::Sint32 | Kind::Sint64 => KeyKind::ZigZag,
        Kind::Bool | Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => KeyKind::Unsigned,
        _ => KeyKind::Text,
    }
}

/// One field as it stands in its message.
struct Raw<'a> {
    number: u32,
    wire: WireType,
    /// Tag, length and value.
    whole: Range<usize>,
    /// The value alone.
    value: &'a [u8],
}

/// The fields of an encoded message, in order.
fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<Raw<'_>, DecodeError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at;
        let mut next = || {
            let (number, wire) = decode_key(&mut rest)?;
            let mut body = rest;
            skip_field(wire, number, &mut rest, DecodeContext::default())?;
            if wire == WireType::LengthDelimited {
                decode_varint(&mut body)?;
            }
            let value = body.get(..body.len() - rest.len()).unwrap_or_default();
            Ok(Raw { number, wire, whole: start..bytes.len() - rest.len(), value })
        };
        let field = next();
        // After an error nothing that follows has a meaning.
        at = field.as_ref().map_or(bytes.len(), |f| f.whole.end);
        Some(field)
    })
}

/// Sorts one message; borrowed when it was in order.
fn message<'a>(shape: &Shape, bytes: &'a [u8], depth: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
    if depth > MAX_DEPTH {
        return Ok(Cow::Borrowed(bytes));
    }
    let known = match shape {
        Shape::Any => return any(bytes, depth),
        Shape::Fields(known) => known,
    };
    let mut changes = Vec::new();
    let mut maps: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
    for raw in fields(bytes) {
        let raw = raw?;
        let Some(field) = known.get(&raw.number).filter(|_| raw.wire == WireType::LengthDelimited) else { continue };
        match field {
            Field::Message(name) => changes.extend(replace(name, &raw, depth)?),
            Field::Map { key, value } => {
                let entry = Entry::read(*key, value.as_deref(), &raw, bytes, depth)?;
                maps.entry(raw.number).or_default().push(entry);
            }
        }
    }
    for entries in maps.into_values() {
        let slots: Vec<_> = entries.iter().map(|e| e.slot.clone()).collect();
        let mut sorted = entries;
        // Stable: of two entries with one key the last still wins.
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (slot, entry) in slots.into_iter().zip(sorted) {
            if slot != entry.slot || matches!(entry.bytes, Cow::Owned(_)) {
                changes.push((slot, entry.bytes));
            }
        }
    }
    Ok(splice(bytes, changes))
}

/// A field's range and the bytes to stand there instead, tag included.
type Change<'a> = (Range<usize>, Cow<'a, [u8]>);

/// The change to a field that holds a `name`, if it is not in order.
fn replace<'a>(name: &str, raw: &Raw<'a>, depth: usize) -> Result<Option<Change<'a>>, DecodeError> {
    let Some(shape) = SHAPES.get(name) else { return Ok(None) };
    Ok(match message(shape, raw.value, depth + 1)? {
        Cow::Borrowed(_) => None,
        Cow::Owned(value) => Some((raw.whole.clone(), Cow::Owned(delimited(raw.number, &value)))),
    })
}

fn splice<'a>(bytes: &'a [u8], mut changes: Vec<Change<'_>>) -> Cow<'a, [u8]> {
    if changes.is_empty() {
        return Cow::Borrowed(bytes);
    }
    changes.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let mut at = 0;
    for (range, new) in changes {
        out.extend_from_slice(bytes.get(at..range.start).unwrap_or_default());
        out.extend_from_slice(&new);
        at = range.end;
    }
    out.extend_from_slice(bytes.get(at..).unwrap_or_default());
    Cow::Owned(out)
}

fn delimited(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 10);
    encode_key(number, WireType::LengthDelimited, &mut out);
    encode_varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

/// Sorts the value of an `Any` as its type says.
fn any(bytes: &[u8], depth: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
    let (mut url, mut value) = ("", None);
    for raw in fields(bytes) {
        let raw = raw?;
        match (raw.number, raw.wire) {
            (1, WireType::LengthDelimited) => url = std::str::from_utf8(raw.value).unwrap_or_default(),
            (2, WireType::LengthDelimited) => value = Some(raw),
            _ => {}
        }
    }
    let Some(value) = value else { return Ok(Cow::Borrowed(bytes)) };
    // Where the value is no message, what is around it can be sorted all the same.
    let change = replace(message_name(url), &value, depth).unwrap_or_default();
    Ok(splice(bytes, change.into_iter().collect()))
}

/// One entry of a map.
struct Entry<'a> {
    key: Key<'a>,
    /// Where it stands.
    slot: Range<usize>,
    /// Tag, length and the entry, its value sorted.
    bytes: Cow<'a, [u8]>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Number(i128),
    Text(&'a [u8]),
}

impl<'a> Entry<'a> {
    fn read(
        kind: KeyKind,
        value: Option<&str>,
        raw: &Raw<'a>,
        bytes: &'a [u8],
        depth: usize,
    ) -> Result<Self, DecodeError> {
        // An absent key is the default one.
        let mut key = if matches!(kind, KeyKind::Text) { Key::Text(&[]) } else { Key::Number(0) };
        let mut changes = Vec::new();
        for field in fields(raw.value) {
            let field = field?;
            match (field.number, value) {
                (1, _) => key = Key::read(kind, &field)?,
                (2, Some(name)) if field.wire == WireType::LengthDelimited => {
                    changes.extend(replace(name, &field, depth + 1)?);
                }
                _ => {}
            }
        }
        let bytes = match splice(raw.value, changes) {
            Cow::Borrowed(_) => Cow::Borrowed(bytes.get(raw.whole.clone()).unwrap_or_default()),
            Cow::Owned(entry) => Cow::Owned(delimited(raw.number, &entry)),
        };
        Ok(Self { key, slot: raw.whole.clone(), bytes })
    }
}

impl<'a> Key<'a> {
    fn read(kind: KeyKind, field: &Raw<'a>) -> Result<Self, DecodeError> {
        let mut value = field.value;
        let number = match field.wire {
            WireType::LengthDelimited => return Ok(Self::Text(value)),
            WireType::Varint => decode_varint(&mut value)?,
            // Fixed widths are little-endian; the narrow ones are widened with their sign.
            _ => match (<[u8; 4]>::try_from(value), <[u8; 8]>::try_from(value)) {
                (Ok(b), _) if matches!(kind, KeyKind::Signed) => i64::from(i32::from_le_bytes(b)) as u64,
                (Ok(b), _) => u64::from(u32::from_le_bytes(b)),
                (_, Ok(b)) => u64::from_le_bytes(b),
                _ => 0,
            },
        };
        Ok(Self::Number(match kind {
            KeyKind::Signed => i128::from(number as i64),
            KeyKind::ZigZag => i128::from((number >> 1) as i64 ^ -((number & 1) as i64)),
            KeyKind::Unsigned | KeyKind::Text => i128::from(number),
        }))
    }
}

#[cfg(test)]
mod tests;
