//! The keys of the store: a public contract, readable and writable by a person.

use super::{Kind, ObjectRef};

/// What one key holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKey {
    /// One manifest.
    Object(ObjectRef),
    /// One live endpoint under a lease.
    Endpoint {
        /// The site where it runs.
        site: String,
        /// The service's namespace.
        namespace: String,
        /// The service's name.
        service: String,
        /// Unique among the service's endpoints at the site.
        id: String,
    },
    /// Compared and bumped by every API write, so that checks across objects are serialisable.
    Head,
    /// A key that later parts of Tidegate use (`accepted/`, `acked/`, `plans/`, `releases/`).
    Reserved,
}

/// Why a key is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It does not begin with the prefix.
    #[error("the key does not begin with {0}")]
    Foreign(String),
    /// The part after the prefix has no meaning.
    #[error("the key has no meaning: {0}")]
    Unknown(String),
}

/// Maps [`StoreKey`]s to texts below one prefix and back.
#[derive(Clone, Debug)]
pub struct Keyspace {
    prefix: String,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self::new("/tidegate")
    }
}

impl Keyspace {
    /// A keyspace below `prefix` (a trailing slash is dropped).
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The one prefix that is watched: `/tidegate/v1/`.
    pub fn watched(&self) -> String {
        format!("{}/v1/", self.prefix)
    }

    /// Where Tidegate itself writes what it saw: `/tidegate/observed/v1/`.
    pub fn observed(&self) -> String {
        format!("{}/observed/v1/", self.prefix)
    }

    /// The text of a key; [`StoreKey::Reserved`] has none of its own and gives the watched prefix.
    pub fn format(&self, key: &StoreKey) -> String {
        match key {
            StoreKey::Object(o) if o.namespace.is_empty() => {
                format!("{}/v1/objects/{}/{}", self.prefix, o.kind.plural(), o.name)
            }
            StoreKey::Object(o) => {
                format!("{}/v1/objects/{}/{}/{}", self.prefix, o.kind.plural(), o.namespace, o.name)
            }
            StoreKey::Endpoint { site, namespace, service, id } => {
                format!("{}/v1/endpoints/{site}/{namespace}/{service}/{id}", self.prefix)
            }
            StoreKey::Head => format!("{}/v1/head", self.prefix),
            StoreKey::Reserved => self.watched(),
        }
    }

    /// What the key `text` holds.
    ///
    /// # Errors
    /// [`KeyError`] in words, for keys that are not ours or have no meaning.
    pub fn parse(&self, text: &str) -> Result<StoreKey, KeyError> {
        let watched = self.watched();
        let rest = text.strip_prefix(&watched).ok_or(KeyError::Foreign(watched))?;
        let parts: Vec<&str> = rest.split('/').collect();
        if parts.iter().any(|p| p.is_empty()) {
            return Err(KeyError::Unknown("it has an empty part".into()));
        }
        match parts.as_slice() {
            ["objects", plural, names @ ..] => object_key(plural, names),
            ["endpoints", site, namespace, service, id] => Ok(StoreKey::Endpoint {
                site: (*site).into(),
                namespace: (*namespace).into(),
                service: (*service).into(),
                id: (*id).into(),
            }),
            ["endpoints", ..] => Err(KeyError::Unknown("endpoints/<site>/<namespace>/<service>/<id> expected".into())),
            ["head"] => Ok(StoreKey::Head),
            ["accepted" | "acked" | "plans" | "releases", ..] => Ok(StoreKey::Reserved),
            _ => Err(KeyError::Unknown(format!("{rest:?} is neither objects/, endpoints/ nor head"))),
        }
    }
}

fn object_key(plural: &str, names: &[&str]) -> Result<StoreKey, KeyError> {
    let kind = Kind::ALL
        .into_iter()
        .find(|k| k.plural() == plural)
        .ok_or_else(|| KeyError::Unknown(format!("there is no kind {plural:?}")))?;
    match (kind.namespaced(), names) {
        (true, [namespace, name]) => Ok(StoreKey::Object(ObjectRef::new(kind, namespace, name))),
        (false, [name]) => Ok(StoreKey::Object(ObjectRef::new(kind, "", name))),
        (true, _) => Err(KeyError::Unknown(format!("objects/{plural}/<namespace>/<name> expected"))),
        (false, _) => Err(KeyError::Unknown(format!("objects/{plural}/<name> expected"))),
    }
}
