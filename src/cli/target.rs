//! How objects are named on the command line, and how they are printed so that they can be named again.

use super::Failure;
use crate::{model::Kind, rpc};

/// A kind, and a name where one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None` for `all`.
    pub(crate) kind: Option<Kind>,
    /// Empty: every object of the kind.
    pub(crate) name: String,
    /// The namespace that the name itself carries (`KIND/NAMESPACE/NAME`).
    pub(crate) namespace: Option<String>,
}

impl Target {
    /// The object named, in `namespace` unless the name carries its own.
    pub(crate) fn object(&self, namespace: &str) -> Result<rpc::ObjectRef, Failure> {
        match self.kind {
            Some(kind) if !self.name.is_empty() => Ok(rpc::ObjectRef {
                kind: kind.to_string(),
                namespace: self.namespace_or(namespace).to_owned(),
                name: self.name.clone(),
            }),
            Some(kind) => {
                Err(Failure::Usage(format!("which {kind}? Name it as {}/NAME", kind.as_str().to_lowercase())))
            }
            None => Err(Failure::Usage("`all` names no object".to_owned())),
        }
    }

    /// The namespace to ask in: empty for cluster-scoped kinds.
    pub(crate) fn namespace_or<'a>(&'a self, namespace: &'a str) -> &'a str {
        if self.kind.is_some_and(|kind| !kind.namespaced()) {
            return "";
        }
        self.namespace.as_deref().unwrap_or(namespace)
    }
}

/// Reads `KIND`, `KIND NAME…` or any number of `KIND/NAME` and `KIND/NAMESPACE/NAME`.
pub(crate) fn parse(words: &[String]) -> Result<Vec<Target>, Failure> {
    let mixed = || Failure::Usage("name objects as KIND NAME… or as KIND/NAME…, not both ways at once".to_owned());
    match words {
        [] => Err(Failure::Usage("name an object as KIND/NAME".to_owned())),
        [first, rest @ ..] if !first.contains('/') => {
            let kind = if first == "all" { None } else { Some(kind(first)?) };
            if rest.iter().any(|word| word.contains('/')) || (kind.is_none() && !rest.is_empty()) {
                return Err(mixed());
            }
            if rest.is_empty() {
                return Ok(vec![Target { kind, name: String::new(), namespace: None }]);
            }
            Ok(rest.iter().map(|name| Target { kind, name: name.clone(), namespace: None }).collect())
        }
        words => words.iter().map(|word| slashed(word).unwrap_or_else(|| Err(mixed()))).collect(),
    }
}

fn slashed(word: &str) -> Option<Result<Target, Failure>> {
    let parts: Vec<&str> = word.split('/').collect();
    let (first, namespace, name) = match parts.as_slice() {
        [first, name] => (first, None, name),
        [first, namespace, name] => (first, Some((*namespace).to_owned()), name),
        _ => return None,
    };
    if name.is_empty() {
        return Some(Err(Failure::Usage(format!("{word:?} ends without a name"))));
    }
    Some(kind(first).map(|kind| Target { kind: Some(kind), name: (*name).to_owned(), namespace }))
}

fn kind(word: &str) -> Result<Kind, Failure> {
    Kind::parse(word).ok_or_else(|| {
        let near = Kind::ALL
            .into_iter()
            .map(|kind| (strsim::damerau_levenshtein(kind.plural(), &word.to_lowercase()), kind.plural()))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        match near {
            Some((_, plural)) => Failure::Usage(format!("there is no kind {word:?}; did you mean {plural}?")),
            None => {
                let all: Vec<&str> = Kind::ALL.into_iter().map(Kind::plural).collect();
                Failure::Usage(format!("there is no kind {word:?}; there are {}", all.join(", ")))
            }
        }
    })
}

/// `httproute/shop/web`, `site/fra1`: what every command accepts as a target.
pub(crate) fn path(object: &rpc::ObjectRef) -> String {
    let kind = object.kind.to_lowercase();
    if object.namespace.is_empty() {
        format!("{kind}/{}", object.name)
    } else {
        format!("{kind}/{}/{}", object.namespace, object.name)
    }
}
