//! What passes and what does not; the corpus is also put before a real Envoy by the end-to-end tests.

use super::*;

const CORPUS: &str = include_str!("../../../e2e/data/regexes.txt");

#[test]
fn the_corpus_is_accepted_and_large() {
    let refused: Vec<_> = CORPUS.lines().filter_map(|p| Some(format!("{p}: {}", check(p).err()?))).collect();
    assert_eq!(refused, Vec::<String>::new());
    assert!(CORPUS.lines().count() >= 200);
}

/// Each is refused by RE2 or by `regex-syntax`, or means something else in one of them.
const REFUSED: &[&str] = &[
    "(",
    ")",
    "[a",
    "a{2,1}",
    "*a",
    "a**",
    "a+*",
    "a{2}{3}",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!a)",
    "(?>a)",
    r"(a)\1",
    r"\k<a>",
    "a{1001}",
    "a{2,1001}",
    "(a{100}){11}",
    "(?:(a{10}){11}){10}",
    "a{ 2}",
    "a{02}",
    "a{2, 3}",
    r"\u0041",
    r"\u{41}",
    r"\U00000041",
    r"\h",
    r"\R",
    r"\X",
    r"\Q.\E",
    r"\012",
    r"\0",
    r"\Z",
    r"\G",
    r"\e",
    r"\_",
    r"\é",
    r"\b{start}",
    r"\b{end-half}",
    r"\<a",
    r"a\>",
    "[a&&b]",
    "[a--b]",
    "[a~~b]",
    "[a[b]]",
    "[^a[^b]]",
    "(?x) a",
    "(?x:a)",
    "(?R)a",
    "(?u)a",
    "(?-u)a",
    "(?-u:a)",
    "(?q)",
    "(?<name>a)",
    "(?P<ä>a)",
    "(?P=a)",
    "(?i)*",
    r"\pL",
    r"[\pN]",
    r"\p{Greek}",
    "é",
    "[à-ÿ]",
    r"\x{e9}",
    r"\xff",
    r"\x{1F600}",
    r"\p{Alphabetic}",
    r"\p{Emoji}",
    r"\p{sc=Greek}",
    r"\p{Script_Extensions=Greek}",
    r"\p{Lowercase_Letter}",
    r"\p{^Greek}",
    r"\p{greek}",
    r"\p{NoSuch}",
    r"\p{Cn}",
    r"\p{Age=6.0}",
    r"\p{any}",
    r"\pY",
    r"\x4",
    r"\x{110000}",
    r"[z-a]",
    r"[a-\d]",
    "(?#comment)",
    "a++",
    "a?+",
    "(?|a|b)",
    "(?P<n>a)(?P<n>b)",
];

#[test]
fn what_re2_lacks_is_refused() {
    for bad in REFUSED {
        assert!(check(bad).is_err(), "{bad}");
    }
    assert!(check("").is_err(), "Envoy's own rules want a character at least");
    assert!(check(&"x".repeat(1025)).is_err());
    assert!(check(&format!("{}a{}", "(".repeat(101), ")".repeat(101))).is_err());
}

#[test]
fn programs_that_are_too_large_are_refused() {
    for bad in [r"[a-z.,;]{999}", r"(?:[^/]{30}x.{100}){10}", &"(a|b|c|d){500}".repeat(20)] {
        let message = check(bad).unwrap_err();
        assert!(message.contains("steps"), "{bad}: {message}");
    }
}

#[test]
fn a_message_says_where() {
    assert_eq!(
        check(r"ab\u0041").unwrap_err(),
        r"uses \u and \U (write \x{…}), which RE2 does not have (at character 3 of the pattern)"
    );
}
