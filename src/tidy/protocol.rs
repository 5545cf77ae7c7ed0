//! The tables of rules: every number has a row, every row something that holds it, and every test named exists.

use std::collections::BTreeSet;

use super::{read, rust_files};

/// The parts that are still being built, as rows may name them.
const PENDING: [&str; 2] = ["features", "grpc"];
/// Words in which a rule is said.
const WORDS_MAX: usize = 12;

/// The rows of a table: number, rule, what holds it.
fn rows<'a>(text: &'a str, prefix: &str) -> Vec<(u32, &'a str, &'a str)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(prefix)?.strip_suffix(" |"));
    let cells =
        lines.filter_map(|line| line.split_once(" | ").and_then(|(n, rest)| Some((n, rest.split_once(" | ")?))));
    cells.filter_map(|(number, (rule, held))| Some((number.parse().ok()?, rule, held))).collect()
}

/// The names of all tests of the package.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in ["src", "e2e"].into_iter().flat_map(rust_files) {
        let text = read(&path);
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                let named = lines.by_ref().find_map(|line| line.split_once("fn ")?.1.split_once('('));
                found.extend(named.map(|(name, _)| name.to_owned()));
            }
        }
    }
    found
}

/// What is wrong with the table of rules from 1 to `last`.
fn complaints(text: &str, prefix: &str, last: u32) -> Vec<String> {
    let (rows, tests) = (rows(text, prefix), tests());
    let mut wrong = Vec::new();
    let numbers: Vec<u32> = rows.iter().map(|(number, ..)| *number).collect();
    if numbers != (1..=last).collect::<Vec<_>>() {
        wrong.push(format!("the numbers are {numbers:?}"));
    }
    for (number, rule, held) in rows {
        if rule.split_whitespace().count() > WORDS_MAX {
            wrong.push(format!("{number} is said in more than {WORDS_MAX} words"));
        }
        let pending = held.strip_prefix("pending: ").is_some_and(|part| PENDING.contains(&part));
        let not = held.strip_prefix("not applicable: ").is_some_and(|reason| !reason.is_empty());
        if pending || not {
            continue;
        }
        for test in held.split(", ") {
            match test.strip_prefix('`').and_then(|test| test.strip_suffix('`')) {
                Some(name) if tests.contains(name) => {}
                _ => wrong.push(format!("{number} is held by {test}, which is no test")),
            }
        }
    }
    wrong
}

#[test]
fn every_rule_of_the_protocol_has_a_test_that_exists() {
    let wrong = complaints(&read("docs/protocol.md"), "| ", 118);
    assert!(wrong.is_empty(), "docs/protocol.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_corner_case_has_a_test_that_exists() {
    let wrong = complaints(&read("e2e/corner.rs"), "//! | ", 32);
    assert!(wrong.is_empty(), "e2e/corner.rs:\n{}", wrong.join("\n"));
}

#[test]
fn a_table_with_a_hole_an_unknown_test_or_an_empty_row_is_found_out() {
    let row = |number: u32, held: &str| format!("| {number} | a rule | {held} |\n");
    let good = "`every_corner_case_has_a_test_that_exists`";
    assert_eq!(complaints(&(row(1, good) + &row(2, "pending: grpc")), "| ", 2), Vec::<String>::new());
    for bad in ["", "`no_such_test`", "pending: something", "not applicable: ", good.trim_matches('`')] {
        assert_eq!(complaints(&row(1, bad), "| ", 1).len(), 1, "{bad:?}");
    }
    assert_eq!(complaints(&row(1, good), "| ", 2).len(), 1);
    assert_eq!(complaints(&(row(1, good) + &row(1, good)), "| ", 1).len(), 1);
}
