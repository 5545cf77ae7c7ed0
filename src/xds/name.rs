//! `xdstp://authority/type/id?context` names (xRFC TP1): equal by their parts, not by their spelling. All other names
//! are opaque.
//!
//! The normal form is the one that Envoy writes: each part percent-decoded and encoded again, context parameters sorted.
//! Clients read a resource's name by its parts too, so that one spelling is enough for what is sent; what is said of a
//! name that a client wrote otherwise has to be said in its own words.

use std::{borrow::Cow, collections::BTreeMap};

use super::ResourceType;

const SCHEME: &str = "xdstp://";

/// Why there can be no resource of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The type in the name is not the type that is asked for.
    #[error("the type in the name is not the type that is asked for")]
    Type,
    /// Not `xdstp://authority/type/id`.
    #[error("not of the form xdstp://authority/type/id?context")]
    Form,
    /// `#alt=…`, `#entry=…`.
    #[error("directives (#…) are the client's own affair and are never sent")]
    Directive,
}

/// The parts of a name, as they are written.
struct Parts<'a> {
    authority: &'a str,
    kind: &'a str,
    id: &'a str,
    context: Option<&'a str>,
}

fn parts(name: &str) -> Option<Parts<'_>> {
    let rest = name.strip_prefix(SCHEME)?;
    let (path, context) = rest.split_once('?').map_or((rest, None), |(path, context)| (path, Some(context)));
    let (authority, path) = path.split_once('/')?;
    let (kind, id) = path.split_once('/')?;
    (!kind.is_empty() && !id.is_empty()).then_some(Parts { authority, kind, id, context })
}

/// The normal form of a name: equal for names that mean the same. A name that is no such URI, or that [`fault`] finds
/// to be none, is left as it is.
pub fn normal(name: &str) -> Cow<'_, str> {
    let Some(parts) = parts(name).filter(|_| !name.contains('#')) else { return Cow::Borrowed(name) };
    let mut out = String::with_capacity(name.len());
    out.push_str(SCHEME);
    encode(&decode(parts.authority), "%/?#", &mut out);
    out.push('/');
    out.push_str(parts.kind);
    out.push('/');
    encode(&decode(parts.id), "%:?#[]", &mut out);
    let pairs = parts.context.into_iter().flat_map(|context| context.split('&')).filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let context: BTreeMap<_, _> = pairs.map(|(key, value)| (decode(key), decode(value))).collect();
    for (at, (key, value)) in context.iter().enumerate() {
        out.push(if at == 0 { '?' } else { '&' });
        encode(key, "%#[]&=", &mut out);
        out.push('=');
        encode(value, "%#[]&=", &mut out);
    }
    if out == name { Cow::Borrowed(name) } else { Cow::Owned(out) }
}

/// Why no resource of type `kind` can have this name; none for one that can.
pub fn fault(kind: ResourceType, name: &str) -> Option<Fault> {
    if !name.starts_with(SCHEME) {
        return None;
    }
    if name.contains('#') {
        return Some(Fault::Directive);
    }
    let Some(parts) = parts(name) else { return Some(Fault::Form) };
    let ours = kind.url().rsplit('/').next().unwrap_or_default();
    (parts.kind != ours).then_some(Fault::Type)
}

/// Whether a name in normal form means a glob collection: all names one level under it with the same context.
pub fn is_glob(name: &str) -> bool {
    parts(name).is_some_and(|parts| parts.id == "*" || parts.id.ends_with("/*"))
}

/// The glob collection that a name in normal form is a member of, in normal form.
pub fn collection(name: &str) -> Option<String> {
    let Parts { authority, kind, id, context } = parts(name)?;
    let level = id.rfind('/').map_or("", |at| id.get(..=at).unwrap_or_default());
    let member = id.get(level.len()..).is_some_and(|last| !last.is_empty() && last != "*");
    let context = context.map(|context| format!("?{context}")).unwrap_or_default();
    member.then(|| format!("{SCHEME}{authority}/{kind}/{level}*{context}"))
}

fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = match (first, rest) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(escaped.unwrap_or(*first));
        bytes = if escaped.is_some() { rest.get(2..).unwrap_or_default() } else { rest };
    }
    out
}

fn encode(bytes: &[u8], reserved: &str, out: &mut String) {
    for byte in bytes {
        let plain = (b' '..b'~').contains(byte) && !reserved.as_bytes().contains(byte);
        if plain {
            out.push(char::from(*byte));
        } else {
            let digits = [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
            out.push('%');
            out.extend(digits.into_iter().flatten().map(|digit| digit.to_ascii_uppercase()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "xdstp://a/envoy.config.listener.v3.Listener";

    #[test]
    fn spellings_of_one_name_have_one_normal_form_and_other_names_are_opaque() {
        let one = format!("{LISTENER}/x/y%5B1%5D?a=1&b=2%263");
        for spelling in ["/x%2Fy[1]?b=2%263&a=1", "/x/y%5b1%5D?a=1&b=2%263", "/x/%79[1]?&b=2%263&a=1"] {
            assert_eq!(normal(&format!("{LISTENER}{spelling}")), one);
        }
        assert_eq!(normal(&one), one);
        assert!(matches!(normal(&one), Cow::Borrowed(_)), "what is normal is not copied");
        assert_ne!(normal(&format!("{LISTENER}/x/y%5B1%5D?a=1")), one);
        assert_ne!(normal(&format!("{LISTENER}/x/y%5B1%5D?a=1&b=2&3")), one);
        let server = "grpc/server?xds.resource.listening_address=[::]:80";
        for opaque in [server, "shop/web:80", "*", "", "xdstp://a", "xdstp://a/type", "xdstp://a/t/x#entry=b"] {
            assert_eq!(normal(opaque), opaque);
        }
        // What is no escape stays itself, whatever it is spelled like afterwards.
        let odd = format!("{LISTENER}/%zz%");
        assert_eq!(normal(&normal(&odd)), normal(&odd));
    }

    #[test]
    fn a_name_that_cannot_be_says_why() {
        assert_eq!(fault(ResourceType::Listener, &format!("{LISTENER}/x")), None);
        assert_eq!(fault(ResourceType::Cluster, &format!("{LISTENER}/x")), Some(Fault::Type));
        assert_eq!(fault(ResourceType::Listener, &format!("{LISTENER}/")), Some(Fault::Form));
        assert_eq!(fault(ResourceType::Listener, &format!("{LISTENER}/x#alt=y")), Some(Fault::Directive));
        assert_eq!(fault(ResourceType::Cluster, "shop/web:80"), None);
    }

    #[test]
    fn a_collection_has_what_stands_one_level_under_it_with_the_same_context() {
        let of = |id: &str| collection(&format!("{LISTENER}/{id}"));
        assert_eq!(of("x/y?a=1"), Some(format!("{LISTENER}/x/*?a=1")));
        assert_eq!(of("x/y/z"), Some(format!("{LISTENER}/x/y/*")));
        assert_eq!(of("y"), Some(format!("{LISTENER}/*")));
        assert_eq!((of("x/*"), of("x/"), collection("x/y")), (None, None, None));
        assert!(is_glob(&format!("{LISTENER}/x/*?a=1")) && is_glob(&format!("{LISTENER}/*")));
        assert!(!is_glob(&format!("{LISTENER}/x*")) && !is_glob("x/*"));
    }
}
