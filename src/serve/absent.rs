//! Why a name that was asked for is not answered with a resource: `resource_errors` (xRFC TP3), beside what old clients
//! read.
//!
//! They are sent to every client: there is no client feature that says who reads them, and whoever does not skips them.
//! In delta they say no more than `removed_resources` does, but with a reason that a person can read; in state of the
//! world they are all that can be said of a missing name, which otherwise is waited for until a timer runs out. Once per
//! question, never for a wildcard or a collection, never beside the resource itself.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use prost::encoding;
use tonic::Code;

use super::wire::put;
use crate::xds::{ResourceType, name};

/// As many are told in one response. In delta the others are only called removed, which says the same; in state of the
/// world they follow.
pub(super) const MOST: usize = 1000;

/// A name without a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// As the client wrote it.
    pub name: Arc<str>,
    /// The reason.
    pub why: Why,
}

/// Why there is no resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The audience has none of that name.
    Unknown(ResourceType),
    /// No resource of the type can have that name.
    Impossible(name::Fault),
    /// State of the world has no collections.
    Collection,
    /// Secrets are for clients with a certificate. Said of every secret, whether it exists or not: else the answer would
    /// tell which do.
    Unproven,
}

impl Absent {
    /// Why a client, `proven` or not, gets no resource of that name.
    pub fn of(kind: ResourceType, name: Arc<str>, proven: bool) -> Self {
        let why = match name::fault(kind, &name) {
            Some(fault) => Why::Impossible(fault),
            None if kind == ResourceType::Secret && !proven => Why::Unproven,
            None => Why::Unknown(kind),
        };
        Self { name, why }
    }

    /// The status: data errors, all of them. What is only late is answered with silence.
    pub fn code(&self) -> Code {
        match self.why {
            Why::Unknown(_) => Code::NotFound,
            Why::Impossible(_) | Why::Collection => Code::InvalidArgument,
            Why::Unproven => Code::PermissionDenied,
        }
    }

    fn message(&self) -> String {
        match self.why {
            Why::Unknown(kind) => {
                format!("no {} resource of this name is served here: ask for it where it is defined", kind.short())
            }
            Why::Impossible(fault) => fault.to_string(),
            Why::Collection => "collections are for incremental xDS only".into(),
            Why::Unproven => "secrets are served to clients that show a certificate only".into(),
        }
    }

    /// A `ResourceError` as field `tag` of a response.
    pub(super) fn encode(&self, tag: u32, out: &mut BytesMut) {
        let (mut name, mut status) = (BytesMut::new(), BytesMut::new());
        put(1, self.name.as_bytes(), &mut name);
        encoding::int32::encode(1, &i32::from(self.code()), &mut status);
        put(2, self.message().as_bytes(), &mut status);
        let mut error = BytesMut::with_capacity(name.len() + status.len() + 8);
        put(1, &name, &mut error);
        put(2, &status, &mut error);
        encoding::encode_key(tag, encoding::WireType::LengthDelimited, out);
        encoding::encode_varint(error.len() as u64, out);
        out.put(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_code_and_its_words() {
        let of = |kind, name: &str, proven| Absent::of(kind, name.into(), proven);
        let collection = Absent { name: "x".into(), why: Why::Collection };
        let cases = [
            (of(ResourceType::Secret, "x", true), Code::NotFound, "no SDS resource of this name is served here"),
            (of(ResourceType::Cluster, "x", false), Code::NotFound, "no CDS resource of this name is served here"),
            (of(ResourceType::Secret, "x", false), Code::PermissionDenied, "clients that show a certificate only"),
            (of(ResourceType::Cluster, "xdstp://a", true), Code::InvalidArgument, "not of the form xdstp://"),
            (collection, Code::InvalidArgument, "collections are for incremental xDS only"),
        ];
        for (absent, code, words) in cases {
            assert_eq!(absent.code(), code, "{absent:?}");
            assert!(absent.message().contains(words), "{}", absent.message());
        }
    }
}
