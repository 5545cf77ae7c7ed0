//! What a client says that it has, `initial_resource_versions`: ten thousand names in the first message of each of ten
//! thousand streams that come back at once.

use std::{collections::HashMap, str::from_utf8, sync::Arc};

use bytes::Bytes;

use super::Violation;
use crate::{
    snapshot::Content,
    xds::{ResourceType, Version, name},
};

/// Names and versions, as they came: slices of the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reported(Vec<(Bytes, Bytes)>);

/// Names in normal form, as the view keeps them where it has them; none: in a version that is none of ours.
pub(super) type Versions = HashMap<Arc<str>, Option<Version>>;

impl Reported {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The names.
    ///
    /// # Errors
    /// [`Violation::NotText`].
    pub(super) fn names(&self) -> impl Iterator<Item = Result<&str, Violation>> {
        self.0.iter().map(|(name, _)| from_utf8(name).map_err(|_| Violation::NotText))
    }

    /// What it says, without a copy of what the view knows. The last of a name counts, as in every map of protobuf.
    pub(super) fn versions(&self, kind: ResourceType, content: &Content) -> Versions {
        let mut versions = Versions::with_capacity(self.len());
        for (name, version) in &self.0 {
            let Ok(name) = from_utf8(name) else { continue };
            let name = name::normal(name);
            let name = content.name(kind, &name).cloned().unwrap_or_else(|| name.into());
            versions.insert(name, from_utf8(version).ok().and_then(Version::parse));
        }
        versions
    }
}

impl<T: Into<Bytes>> FromIterator<(T, T)> for Reported {
    fn from_iter<I: IntoIterator<Item = (T, T)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(name, version)| (name.into(), version.into())).collect())
    }
}
