//! Path rewriting of the Gateway API in Envoy's words: by segments, never `//` at a joint, never an empty path.

use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::wire::regex;
use crate::model::{PathMatch, PathRewrite};

/// How Envoy changes a path. It keeps the query string in every case.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rewrite {
    /// Nothing changes.
    None,
    /// All of it becomes this.
    Full(String),
    /// The matched prefix becomes this.
    Prefix(String),
    /// This pattern, anchored, becomes that text.
    Regex(RegexMatchAndSubstitute),
}

/// What `rewrite` does to paths that `matching` lets through (Gateway API, `HTTPPathModifier`: the table of
/// `replacePrefixMatch`).
pub(super) fn rewrite(rewrite: &PathRewrite, matching: &PathMatch) -> Rewrite {
    let (to, from) = match (rewrite, matching) {
        (PathRewrite::Full(path), _) => return Rewrite::Full(path.clone()),
        (PathRewrite::Prefix(to), PathMatch::Prefix(from)) => (to.trim_end_matches('/'), from.trim_end_matches('/')),
        // Refused when the object is read; a path that has no prefix stays as it is.
        (PathRewrite::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_)) => return Rewrite::None,
    };
    match (from, to) {
        ("", "") => Rewrite::None,
        // Envoy replaces the matched `/` itself, so the joint needs its own.
        ("", to) => Rewrite::Prefix(format!("{to}/")),
        // Replacing `/foo` by `/` would leave `//bar`, by nothing an empty path.
        (from, "") => Rewrite::Regex(substitute(&format!("^{}/*", regex_syntax::escape(from)), "/")),
        (_, to) => Rewrite::Prefix(to.to_owned()),
    }
}

/// The whole path (Envoy hands the pattern the path without its query) becomes `path`.
pub(super) fn replace_all(path: &str) -> RegexMatchAndSubstitute {
    substitute("^/.*$", path)
}

fn substitute(pattern: &str, literal: &str) -> RegexMatchAndSubstitute {
    // In RE2's substitutions a backslash begins a group's number.
    RegexMatchAndSubstitute { pattern: Some(regex(pattern)), substitution: literal.replace('\\', "\\\\") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy does with a path that a segment prefix matched.
    fn applied(from: &str, to: &str, path: &str) -> String {
        match rewrite(&PathRewrite::Prefix(to.into()), &PathMatch::Prefix(from.into())) {
            Rewrite::None => path.to_owned(),
            Rewrite::Full(full) => full,
            Rewrite::Prefix(new) => format!("{new}{}", &path[from.len()..]),
            Rewrite::Regex(r) => {
                let pattern = r.pattern.unwrap().regex;
                let literal = pattern.strip_prefix('^').unwrap().strip_suffix("/*").unwrap().replace('\\', "");
                format!("{}{}", r.substitution, path.strip_prefix(&literal).unwrap().trim_start_matches('/'))
            }
        }
    }

    #[test]
    fn replacing_a_prefix_follows_the_table_of_the_gateway_api() {
        for (path, from, to, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo.x/bar", "/foo.x", "/", "/bar"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "/xyz/", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/", "/bar"),
        ] {
            assert_eq!(applied(from, to, path), want, "{path} with {from} replaced by {to:?}");
        }
    }

    #[test]
    fn a_literal_replacement_is_no_reference_to_a_group() {
        assert_eq!(replace_all(r"/a\1").substitution, r"/a\\1");
    }

    #[test]
    fn a_prefix_is_quoted_in_the_pattern() {
        let Rewrite::Regex(r) = rewrite(&PathRewrite::Prefix("/".into()), &PathMatch::Prefix("/a+b".into())) else {
            panic!("a pattern is expected");
        };
        assert_eq!(r.pattern.unwrap().regex, r"^/a\+b/*");
    }
}
