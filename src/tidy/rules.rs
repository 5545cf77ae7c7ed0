//! The rules, as functions of one file's text: each returns its complaints, `file:line: what`.

use super::source::{Token, blank, tokens, without_tests};
use super::{GUARDED, LAYERS, PURE};

/// How long a file may be without its test modules.
const LINES_MAX: usize = 500;

/// How long a file of tests, or a file with its test modules, may be.
const LINES_WITH_TESTS_MAX: usize = 700;

/// What pure modules must not name: I/O, other threads, the environment.
const IMPURE_STD: [&str; 4] = ["fs", "process", "thread", "env"];

/// A file of `src/`, `e2e/` or `proto/`.
pub(super) struct File<'a> {
    /// From the package's folder: `src/store/etcd.rs`.
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    /// Whether no shipped code contains it; tests may name what they like.
    pub(super) is_test: bool,
}

impl File<'_> {
    /// `["store", "etcd"]`; empty for `lib.rs` and for files outside `src/`.
    pub(super) fn module(&self) -> Vec<&str> {
        let Some(path) = self.path.strip_prefix("src/").and_then(|path| path.strip_suffix(".rs")) else {
            return Vec::new();
        };
        if path == "lib" { Vec::new() } else { path.split('/').collect() }
    }

    fn complain(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// All rules that need one file only.
pub(super) fn check(file: &File<'_>) -> Vec<String> {
    let all = tokens(&blank(file.text));
    let (code, test_lines) = without_tests(&all);
    let mut complaints = header_and_length(file, test_lines);
    complaints.extend(unfinished(file, &all));
    if !file.is_test {
        complaints.extend(layering(file, &code));
        complaints.extend(guarded(file, &code));
        complaints.extend(purity(file, &code));
    }
    complaints
}

/// The modules that a file declares as files of their own: `mod name;`, all of them and those of shipped code.
pub(super) fn declared(text: &str) -> (Vec<String>, Vec<String>) {
    let all = tokens(&blank(text));
    let (shipped, _) = without_tests(&all);
    let names = |code: &[Token]| {
        let declarations = code.windows(3).filter(|three| three[0].text == "mod" && three[2].text == ";");
        declarations.map(|three| three[1].text.clone()).collect()
    };
    (names(&all), names(&shipped))
}

fn header_and_length(file: &File<'_>, test_lines: usize) -> Vec<String> {
    let mut complaints = Vec::new();
    if !file.text.starts_with("//!") {
        complaints.push(file.complain(1, "open with `//!`: what this file's one job is"));
    }
    let lines = file.text.lines().count();
    if lines > LINES_WITH_TESTS_MAX || (!file.is_test && lines - test_lines > LINES_MAX) {
        complaints.push(file.complain(
            lines,
            &format!("split it: {LINES_MAX} lines are the limit, {LINES_WITH_TESTS_MAX} with or for tests"),
        ));
    }
    complaints
}

fn unfinished(file: &File<'_>, all: &[Token]) -> Vec<String> {
    let marked = all.windows(2).filter_map(|two| match (two[0].text.as_str(), two[1].text.as_str()) {
        ("todo" | "unimplemented", "!") => Some(file.complain(two[0].line, "finish it, or leave it out")),
        ("[", "ignore") => Some(file.complain(two[0].line, "a test runs, or it is not there")),
        ("[", "path") => Some(file.complain(two[0].line, "a module stands where its name says")),
        _ => None,
    });
    marked.collect()
}

fn layering(file: &File<'_>, code: &[Token]) -> Vec<String> {
    let module = file.module();
    let Some(&own) = module.first() else { return Vec::new() };
    let Some((_, may_name)) = LAYERS.iter().find(|(name, _)| *name == own) else {
        return vec![file.complain(1, &format!("`{own}` has no row in tidy's table of layers"))];
    };
    let named = named_modules(code, module.len()).into_iter();
    named
        .filter(|(_, name)| name != own && !may_name.contains(&"*") && !may_name.contains(&name.as_str()))
        .map(|(line, name)| file.complain(line, &format!("`{own}` may not name `{name}`")))
        .collect()
}

/// The top-level modules that `crate::…` and `super::…` paths lead to, from a file `depth` modules below the root.
fn named_modules(code: &[Token], depth: usize) -> Vec<(usize, String)> {
    let mut named = Vec::new();
    for at in 0..code.len() {
        if at > 0 && is(code, at - 1, "::") {
            continue;
        }
        let steps = (0..).take_while(|n| is(code, at + 2 * n, "super") && is(code, at + 2 * n + 1, "::")).count();
        let from_root = if is(code, at, "crate") && is(code, at + 1, "::") {
            at + 2
        } else if steps > 0 && steps >= depth {
            at + 2 * steps
        } else {
            continue;
        };
        named.extend(heads(code, from_root).into_iter().map(|head| (code[at].line, head)));
    }
    named
}

/// The first words of a path or of the paths in a brace group: `a` of `a::b`, `a` and `c` of `{a::b, c}`.
fn heads(code: &[Token], start: usize) -> Vec<String> {
    if !is(code, start, "{") {
        return code.get(start).map(|token| token.text.clone()).into_iter().collect();
    }
    let (mut depth, mut found) = (0_usize, Vec::new());
    for at in start..code.len() {
        match code[at].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        let opens = (at == start || is(code, at, ",")) && depth == 1;
        if opens && let Some(head) = code.get(at + 1).filter(|head| head.text != "}") {
            found.push(head.text.clone());
        }
    }
    found
}

fn guarded(file: &File<'_>, code: &[Token]) -> Vec<String> {
    let module = file.module().join("::");
    let mut complaints = Vec::new();
    for at in 0..code.len() {
        let name = code[at].text.as_str();
        let Some((_, rooms)) = GUARDED.iter().find(|(guarded, _)| *guarded == name) else { continue };
        let is_path = is(code, at + 1, "::") || (at > 0 && is(code, at - 1, "use"));
        if is_path && !(at > 0 && is(code, at - 1, "::")) && !rooms.iter().any(|room| within(&module, room)) {
            complaints.push(file.complain(code[at].line, &format!("`{name}` stays in {}", rooms.join(", "))));
        }
    }
    complaints
}

fn purity(file: &File<'_>, code: &[Token]) -> Vec<String> {
    let module = file.module().join("::");
    if !PURE.iter().any(|pure| within(&module, pure)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    for at in 0..code.len() {
        let clock = matches!(code[at].text.as_str(), "Instant" | "SystemTime")
            && is(code, at + 1, "::")
            && is(code, at + 2, "now");
        let tokio = is(code, at, "tokio") && is(code, at + 1, "::");
        let std = is(code, at, "std")
            && is(code, at + 1, "::")
            && heads(code, at + 2).iter().any(|head| IMPURE_STD.contains(&head.as_str()));
        if clock || tokio || std {
            complaints.push(file.complain(code[at].line, "a pure module reads no clock and does no I/O"));
        }
    }
    complaints
}

fn within(module: &str, room: &str) -> bool {
    module.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is(code: &[Token], at: usize, text: &str) -> bool {
    code.get(at).is_some_and(|token| token.text == text)
}
