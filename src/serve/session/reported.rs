//! What a client says that it has, `initial_resource_versions`: ten thousand names in the first message of each of ten
//! thousand streams that come back at once.

use std::{collections::HashMap, str::from_utf8, sync::Arc};

use bytes::Bytes;

use super::{MAX_NAME, Violation};
use crate::{
    serve::wire,
    snapshot::Content,
    xds::{ResourceType, Version, name},
};

/// Entries of the map, as they came: slices of the message, each read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported(Vec<Bytes>);

/// Names in normal form, as the view keeps them where it has them; none: in a version that is none of ours.
pub(super) type Versions = HashMap<Arc<str>, Option<Version>>;

impl Reported {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What it says, without a copy of what the view knows. The last of a name counts, as in every map of protobuf.
    ///
    /// # Errors
    /// The [`Violation`] of an entry.
    pub(super) fn versions(&self, kind: ResourceType, content: &Content) -> Result<Versions, Violation> {
        let mut versions = Versions::with_capacity(self.len());
        for entry in &self.0 {
            let (name, version) = wire::pair(entry).ok_or(Violation::NoEntry)?;
            if name.len() > MAX_NAME {
                return Err(Violation::LongName);
            }
            let name = name::normal(from_utf8(name).map_err(|_| Violation::NotText)?);
            let name = content.name(kind, &name).cloned().unwrap_or_else(|| name.into());
            versions.insert(name, from_utf8(version).ok().and_then(Version::parse));
        }
        Ok(versions)
    }
}

impl From<Vec<Bytes>> for Reported {
    fn from(entries: Vec<Bytes>) -> Self {
        Self(entries)
    }
}

#[cfg(any(test, fuzzing))]
impl<T: AsRef<[u8]>> FromIterator<(T, T)> for Reported {
    fn from_iter<I: IntoIterator<Item = (T, T)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, version)| wire::entry(name.as_ref(), version.as_ref())).collect())
    }
}
