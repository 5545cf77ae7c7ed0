//! The rules themselves, tested on small sources: each must complain about what it forbids, and only about that.

use super::rules::{File, check, declared};
use super::source::{blank, tokens};

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.starts_with("e2e/")
}

/// The complaints about a file of this text, which need not open with its job.
fn complaints(path: &str, text: &str) -> Vec<String> {
    check(&File { path, text: &format!("//! Job.\n{text}"), is_test: is_test(path) })
}

fn assert_forbidden(path: &str, text: &str, part: &str) {
    let found = complaints(path, text);
    assert!(found.len() == 1 && found[0].contains(part), "{text}: {found:?}");
}

fn assert_fine(path: &str, text: &str) {
    assert_eq!(complaints(path, text), Vec::<String>::new(), "{text}");
}

#[test]
fn a_module_above_is_seen_in_every_form_of_path() {
    for text in [
        "use crate::serve::Session;",
        "use crate::{model::Key, serve::{self, Session}};",
        "use crate::{\n    serve,\n};",
        "fn f() { let x = crate::serve::open(); }",
        "fn f(x: &crate::serve::Session<'_>) {}",
        "pub use super::serve::Session;",
        "use crate::*;",
    ] {
        let part = if text.contains('*') { "may not name `*`" } else { "may not name `serve`" };
        assert_forbidden("src/store.rs", text, part);
    }
}

#[test]
fn super_leads_out_only_when_it_climbs_to_the_root() {
    assert_forbidden("src/store/etcd.rs", "use super::super::serve::Session;", "`store` may not name `serve`");
    assert_fine("src/store/etcd.rs", "use super::contract::Store; use super::super::model::Key;");
    assert_fine("src/store/etcd/watch.rs", "use super::super::serve;");
}

#[test]
fn what_the_table_allows_is_fine() {
    assert_fine("src/store.rs", "use crate::model::Key; use crate::store::Contract; pub(crate) fn f() {}");
    assert_fine("src/app.rs", "use crate::{serve, store, demo};");
    assert_fine("src/lib.rs", "pub mod serve;");
}

#[test]
fn comments_and_literals_name_nothing() {
    assert_fine(
        "src/store.rs",
        r###"
        /// See [`crate::serve`]. /* crate::serve */
        fn f<'a>() -> &'a str { let _ = ('"', '\'', b'"', r#"crate::serve" "#); "crate::serve \" crate::serve" }
        /* outer /* crate::serve */ crate::serve */
        "###,
    );
}

#[test]
fn code_after_a_literal_still_counts() {
    assert_forbidden("src/store.rs", "const Q: char = '\"'; use crate::serve::A; const R: char = '\"';", "serve");
    assert_forbidden("src/store.rs", "const Q: &str = r\"\\\"; use crate::serve::A;", "serve");
}

#[test]
fn tests_may_name_what_they_like() {
    assert_fine("src/store.rs", "#[cfg(test)]\nmod tests { use crate::serve::A; fn f() { if true {} } }");
    assert_fine("src/store/tests.rs", "use crate::serve::A;");
    assert_forbidden("src/store.rs", "#[cfg(test)]\nmod tests;\nuse crate::serve::A;", "serve");
    assert_forbidden("src/store.rs", "#[cfg(test)]\nmod tests {}\nuse crate::serve::A;", "serve");
}

#[test]
fn a_module_without_a_row_is_refused() {
    assert_forbidden("src/utils.rs", "", "`utils` has no row");
    assert_forbidden("src/utils/strings.rs", "", "`utils` has no row");
}

#[test]
fn guarded_crates_stay_in_their_rooms() {
    assert_forbidden("src/snapshot.rs", "use tonic::Status;", "`tonic` stays in");
    assert_forbidden("src/store/embedded.rs", "fn f() -> tonic::Status {}", "`tonic` stays in");
    assert_forbidden("src/api.rs", "use redb::Database;", "`redb` stays in");
    assert_forbidden("src/catalog.rs", "use envoy_types::pb;", "`envoy_types` stays in");
    assert_fine("src/store/etcd.rs", "use tonic::Code; use etcd_client::Client;");
    assert_fine("src/snapshot.rs", "use x::tonic::Status; let tonic = 1;");
}

#[test]
fn pure_modules_touch_no_clock_and_no_world() {
    for text in [
        "use std::fs;",
        "use std::{collections::BTreeMap, thread};",
        "fn f() { std::process::exit(1) }",
        "use tokio::sync::watch;",
        "fn f() { let now = Instant::now(); }",
        "fn f() { let now = std::time::SystemTime::now(); }",
    ] {
        assert_forbidden("src/compile/emit.rs", text, "a pure module");
        assert_forbidden("src/serve/session.rs", text, "a pure module");
        assert_fine("src/serve/service.rs", text);
    }
    assert_fine(
        "src/compile/emit.rs",
        "use std::{collections::BTreeMap, net::IpAddr}; fn f(at: Instant, now: Instant) {}",
    );
}

#[test]
fn a_file_says_its_job_and_stays_short() {
    let long = |lines: usize| format!("//! Job.\n{}", "fn f() {}\n".repeat(lines - 1));
    let check_text = |path: &str, text: &str| check(&File { path, text, is_test: is_test(path) }).len();
    assert_eq!(check_text("src/store.rs", "fn f() {}"), 1);
    assert_eq!(check_text("src/store.rs", &long(500)), 0);
    assert_eq!(check_text("src/store.rs", &long(501)), 1);
    assert_eq!(check_text("src/store/tests.rs", &long(700)), 0);
    assert_eq!(check_text("src/store/tests.rs", &long(701)), 1);
    let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", long(450), "fn f() {}\n".repeat(100));
    assert_eq!(check_text("src/store.rs", &with_tests), 0);
}

#[test]
fn unfinished_and_sleeping_code_is_refused() {
    assert_forbidden("src/store.rs", "fn f() { todo!() }", "finish it");
    assert_forbidden("src/store.rs", "#[cfg(test)] mod tests { #[test] #[ignore] fn f() {} }", "a test runs");
    assert_forbidden("e2e/flow.rs", "#[ignore = \"slow\"] fn f() {}", "a test runs");
    assert_forbidden("src/store.rs", "#[path = \"x.rs\"] mod y;", "where its name says");
}

#[test]
fn only_mod_lines_keep_a_file_alive() {
    let text = "mod a; // mod b;\npub(crate) mod c;\n#[cfg(test)]\nmod tests;\nmod inline { mod d; }\nuse e;";
    let (all, shipped) = declared(text);
    assert_eq!(
        (all, shipped),
        (["a", "c", "tests", "d"].map(str::to_owned).into(), ["a", "c", "d"].map(str::to_owned).into())
    );
}

#[test]
fn lines_are_counted_over_literals() {
    let found = tokens(&blank("/* a\nb */ one\n\"c\nd\" two"));
    let places: Vec<_> = found.iter().map(|token| (token.line, token.text.as_str())).collect();
    assert_eq!(places, [(2, "one"), (4, "two")]);
}
