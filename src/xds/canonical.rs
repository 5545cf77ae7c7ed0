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
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::descriptor::{ANY, MAX_DEPTH, message_name, message_of, pool};

/// The canonical encoding of `bytes`, an encoded `full_name` (`envoy.config.cluster.v3.Cluster`): maps sorted by key
/// at every depth. It decodes to the same message. Returns its input where no map has two entries, and for a type that
/// the pool lacks or bytes that are no message.
pub fn canonical(full_name: &str, bytes: Bytes) -> Bytes {
    let Some(shape) = SHAPES.named(full_name).and_then(|index| SHAPES.all.get(index)) else { return bytes };
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
    /// The index of its shape.
    Message(usize),
    /// The kind of its keys, and the index of its values' shape where those can hold a map.
    Map { key: KeyKind, value: Option<usize> },
}

#[derive(Clone, Copy)]
enum KeyKind {
    Text,
    Signed,
    ZigZag,
    Unsigned,
}

/// Shapes of the messages from which a map or an `Any` can be reached.
struct Shapes {
    names: HashMap<String, usize>,
    all: Vec<Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::read);

impl Shapes {
    fn named(&self, full_name: &str) -> Option<usize> {
        self.names.get(full_name).copied()
    }

    fn read() -> Self {
        let mut parents: HashMap<String, Vec<MessageDescriptor>> = HashMap::new();
        let mut open = Vec::new();
        for message in pool().all_messages() {
            for child in message.fields().filter_map(|f| message_of(&f)) {
                parents.entry(child.full_name().to_owned()).or_default().push(message.clone());
            }
            if message.full_name() == ANY || message.fields().any(|f| f.is_map()) {
                open.push(message);
            }
        }
        let mut names = HashMap::new();
        let mut reaching = Vec::new();
        while let Some(message) = open.pop() {
            if !names.contains_key(message.full_name()) {
                names.insert(message.full_name().to_owned(), reaching.len());
                open.extend(parents.get(message.full_name()).into_iter().flatten().cloned());
                reaching.push(message);
            }
        }
        let all = reaching.iter().map(|message| Shape::read(message, &names)).collect();
        Self { names, all }
    }
}

impl Shape {
    fn read(message: &MessageDescriptor, names: &HashMap<String, usize>) -> Self {
        if message.full_name() == ANY {
            return Self::Any;
        }
        let fields = message.fields().filter_map(|field| {
            let inner = message_of(&field).and_then(|m| names.get(m.full_name()).copied());
            let shape = match field.is_map() {
                true => Field::Map { key: key_kind(&field), value: inner },
                false => Field::Message(inner?),
            };
            Some((field.number(), shape))
        });
        Self::Fields(fields.collect())
    }
}

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
            Field::Message(shape) => changes.extend(replace(*shape, &raw, depth)?),
            Field::Map { key, value } => {
                let entry = Entry::read(*key, *value, &raw, bytes, depth)?;
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

/// The change to a field that holds a message of the shape `index`, if it is not in order.
fn replace<'a>(index: usize, raw: &Raw<'a>, depth: usize) -> Result<Option<Change<'a>>, DecodeError> {
    let Some(shape) = SHAPES.all.get(index) else { return Ok(None) };
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
    let (Some(value), Some(shape)) = (value, SHAPES.named(message_name(url))) else { return Ok(Cow::Borrowed(bytes)) };
    // Where the value is no message, what is around it can be sorted all the same.
    let change = replace(shape, &value, depth).unwrap_or_default();
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
        value: Option<usize>,
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
                (2, Some(shape)) if field.wire == WireType::LengthDelimited => {
                    changes.extend(replace(shape, &field, depth + 1)?);
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
