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
    /// The last accepted copy of an object; see `catalog::accepted`.
    Accepted(ObjectRef),
    /// How far the gateways of a site have come, by the leader: a [`super::Watermark`].
    Acked(String),
    /// Written by the replica of this name to learn, by its own watch, that it has read all that was written before.
    Mark(String),
    /// Compared and bumped by every API write, so that checks across objects are serialisable.
    Head,
    /// A key that later parts of Tidegate use (`plans/`, `releases/`).
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
            StoreKey::Object(object) => self.object("objects", object),
            StoreKey::Accepted(object) => self.object("accepted", object),
            StoreKey::Acked(site) => format!("{}/v1/acked/{site}", self.prefix),
            StoreKey::Mark(replica) => format!("{}/v1/marks/{replica}", self.prefix),
            StoreKey::Endpoint { site, namespace, service, id } => {
                format!("{}/v1/endpoints/{site}/{namespace}/{service}/{id}", self.prefix)
            }
            StoreKey::Head => format!("{}/v1/head", self.prefix),
            StoreKey::Reserved => self.watched(),
        }
    }

    fn object(&self, room: &str, object: &ObjectRef) -> String {
        let (kind, name) = (object.kind.plural(), &object.name);
        if object.namespace.is_empty() {
            format!("{}/v1/{room}/{kind}/{name}", self.prefix)
        } else {
            format!("{}/v1/{room}/{kind}/{}/{name}", self.prefix, object.namespace)
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
            ["objects", plural, names @ ..] => object_key("objects", plural, names).map(StoreKey::Object),
            ["accepted", plural, names @ ..] => object_key("accepted", plural, names).map(StoreKey::Accepted),
            ["acked", site] => Ok(StoreKey::Acked((*site).into())),
            ["marks", replica] => Ok(StoreKey::Mark((*replica).into())),
            ["endpoints", site, namespace, service, id] => Ok(StoreKey::Endpoint {
                site: (*site).into(),
                namespace: (*namespace).into(),
                service: (*service).into(),
                id: (*id).into(),
            }),
            ["endpoints", ..] => Err(KeyError::Unknown("endpoints/<site>/<namespace>/<service>/<id> expected".into())),
            ["head"] => Ok(StoreKey::Head),
            ["plans" | "releases", ..] => Ok(StoreKey::Reserved),
            _ => Err(KeyError::Unknown(format!("{rest:?} is neither objects/, endpoints/ nor head"))),
        }
    }
}

fn object_key(room: &str, plural: &str, names: &[&str]) -> Result<ObjectRef, KeyError> {
    let kind = Kind::ALL
        .into_iter()
        .find(|k| k.plural() == plural)
        .ok_or_else(|| KeyError::Unknown(format!("there is no kind {plural:?}")))?;
    match (kind.namespaced(), names) {
        (true, [namespace, name]) => Ok(ObjectRef::new(kind, namespace, name)),
        (false, [name]) => Ok(ObjectRef::new(kind, "", name)),
        (true, _) => Err(KeyError::Unknown(format!("{room}/{plural}/<namespace>/<name> expected"))),
        (false, _) => Err(KeyError::Unknown(format!("{room}/{plural}/<name> expected"))),
    }
}
