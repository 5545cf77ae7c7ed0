//! The bytes of a last-known-good copy: magic, format, length, a checksum over all of it, then a protobuf body.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{
    model::Revision,
    store::{KeyValue, Listing, StoreId},
};

const MAGIC: &[u8; 8] = b"tidegood";
/// The one format that this version writes and reads. A field that an older reader may ignore is no new format.
const FORMAT: u32 = 1;
/// Magic, format, length of the body, checksum.
const HEADER: usize = 8 + 4 + 8 + 32;

/// The keys of a store at a revision, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// Counts the copies that one folder has seen; the newest has the highest.
    pub(super) generation: u64,
    /// When it was made, to the second.
    pub(super) written: SystemTime,
    /// Below which prefix of the store.
    pub(super) prefix: String,
    pub(super) listing: Listing,
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(uint64, tag = "1")]
    generation: u64,
    #[prost(uint64, tag = "2")]
    written: u64,
    #[prost(string, tag = "3")]
    prefix: String,
    #[prost(uint64, tag = "4")]
    store: u64,
    #[prost(uint64, tag = "5")]
    revision: u64,
    #[prost(message, repeated, tag = "6")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint64, tag = "3")]
    create_revision: u64,
    #[prost(uint64, tag = "4")]
    mod_revision: u64,
}

/// The file of a copy.
pub(super) fn encode(copy: &Copy) -> Bytes {
    let entries = copy.listing.entries.iter().map(|kv| Entry {
        key: kv.key.clone(),
        value: kv.value.clone(),
        create_revision: kv.create_revision.0,
        mod_revision: kv.mod_revision.0,
    });
    let body = Body {
        generation: copy.generation,
        written: copy.written.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        prefix: copy.prefix.clone(),
        store: copy.listing.store.0,
        revision: copy.listing.revision.0,
        entries: entries.collect(),
    }
    .encode_to_vec();
    let mut file = BytesMut::with_capacity(HEADER + body.len());
    file.put_slice(MAGIC);
    file.put_u32_le(FORMAT);
    file.put_u64_le(body.len() as u64);
    let sum = checksum(&file, &body);
    file.put_slice(&sum);
    file.put_slice(&body);
    file.freeze()
}

/// A copy from its file; every byte of it counts.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn decode(file: &Bytes) -> Result<Copy, String> {
    if file.is_empty() {
        return Err("it is empty".to_owned());
    }
    let cut = || format!("it is cut off after {} bytes", file.len());
    let (magic, rest) = file.split_first_chunk::<8>().ok_or_else(cut)?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let (sum, body) = rest.split_first_chunk::<32>().ok_or_else(cut)?;
    if magic != MAGIC {
        return Err("it is not a copy of a store: its first bytes are others".to_owned());
    }
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(format!("it has format {format}, this version reads {FORMAT}"));
    }
    let length = u64::from_le_bytes(*length);
    if length != body.len() as u64 {
        return Err(format!("its length is wrong: {} bytes of content where {length} are announced", body.len()));
    }
    let (head, _) = file.split_at_checked(HEADER - sum.len()).ok_or_else(cut)?;
    if checksum(head, body) != *sum {
        return Err("its checksum is wrong: a part of it was changed".to_owned());
    }
    let body = Body::decode(file.slice(HEADER..)).map_err(|error| format!("its content cannot be read: {error}"))?;
    let entries = body.entries.into_iter().map(|entry| KeyValue {
        key: entry.key,
        value: entry.value,
        create_revision: Revision(entry.create_revision),
        mod_revision: Revision(entry.mod_revision),
    });
    let listing = Listing { store: StoreId(body.store), revision: Revision(body.revision), entries: entries.collect() };
    let written = UNIX_EPOCH.checked_add(Duration::from_secs(body.written)).unwrap_or(UNIX_EPOCH);
    Ok(Copy { generation: body.generation, written, prefix: body.prefix, listing })
}

/// Over everything but itself.
fn checksum(head: &[u8], body: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(head).update(body).finalize().as_bytes()
}
