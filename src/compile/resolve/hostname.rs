//! Host names of listeners and routes: a name, `*.` and a suffix (any number of labels before it), or `*` for all.

/// `hostname` and everything less specific that names all of its hosts, the most specific first:
/// `a.b.c` → `a.b.c`, `*.b.c`, `*.c`, `*`.
pub(crate) fn widening(hostname: &str) -> Vec<String> {
    let mut all = vec![hostname.to_owned()];
    let mut rest = hostname.strip_prefix("*.").unwrap_or(hostname);
    while let Some((_, suffix)) = rest.split_once('.') {
        all.push(format!("*.{suffix}"));
        rest = suffix;
    }
    if hostname != "*" {
        all.push("*".to_owned());
    }
    all
}

/// Whether every host that `narrow` names is one that `wide` names.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => match narrow.strip_prefix('*') {
            Some(inner) => inner.ends_with(suffix),
            None => narrow.len() > suffix.len() && narrow.ends_with(suffix),
        },
        None => wide == narrow,
    }
}

/// The hosts that both name (Gateway API, `HTTPRouteSpec.hostnames`): the narrower of the two, or none.
pub(crate) fn intersection<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_any_number_of_labels_but_not_its_own_suffix() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(covers("*.example.com", "*.b.example.com"));
        assert!(covers("*.example.com", "*.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        assert!(!covers("*.b.example.com", "*.example.com"));
        assert!(!covers("*.example.com", "*"));
        assert!(covers("*", "*.com"));
        assert!(!covers("a.com", "*.com"));
    }

    #[test]
    fn the_intersection_is_the_narrower_name() {
        assert_eq!(intersection("*.a.com", "x.a.com"), Some("x.a.com"));
        assert_eq!(intersection("x.a.com", "*.a.com"), Some("x.a.com"));
        assert_eq!(intersection("*", "*.a.com"), Some("*.a.com"));
        assert_eq!(intersection("*.a.com", "*.b.com"), None);
        assert_eq!(intersection("a.com", "*.a.com"), None);
    }

    #[test]
    fn widening_gives_exactly_the_names_that_cover() {
        assert_eq!(widening("a.b.c"), ["a.b.c", "*.b.c", "*.c", "*"]);
        assert_eq!(widening("*.b.c"), ["*.b.c", "*.c", "*"]);
        assert_eq!(widening("*"), ["*"]);
        for name in ["a.b.c", "*.b.c", "c"] {
            assert!(widening(name).iter().all(|wide| covers(wide, name)), "{name}");
        }
    }
}
