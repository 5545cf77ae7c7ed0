//! A copy of the source tree in which every mutant is compiled in, and its build.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    fs,
    ops::Range,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::mutate::{self, Mutant, SWITCH};

/// Only these are built, since they name no others: with optimisation, which the models among the tests repay.
const MODULES: &[&str] = &["model", "xds", "manifest", "identity", "snapshot", "feedback", "serve", "fuzzing"];

/// What `crate::mutant` is in the copy: `MUTANT` names the one that is on; without, `MUTANTS_REACHED` names a file to
/// which each that is asked for is written once.
const RUNTIME: &str = r#"
pub(crate) fn mutant(id: u32) -> bool {
    use std::{env, fs, io::Write, sync::{LazyLock, Mutex}};
    static ON: LazyLock<Option<u32>> = LazyLock::new(|| env::var("MUTANT").ok()?.parse().ok());
    static REACHED: LazyLock<Option<Mutex<(Vec<bool>, fs::File)>>> = LazyLock::new(|| {
        let file = fs::OpenOptions::new().create(true).append(true).open(env::var("MUTANTS_REACHED").ok()?).ok()?;
        Some(Mutex::new((Vec::new(), file)))
    });
    if let Some(reached) = &*REACHED {
        let mut reached = reached.lock().unwrap_or_else(|e| e.into_inner());
        let (known, file) = &mut *reached;
        let at = id as usize;
        known.resize(known.len().max(at + 1), false);
        if !known[at] {
            known[at] = true;
            file.write_all(format!("{id}\n").as_bytes()).unwrap();
        }
    }
    *ON == Some(id)
}
"#;

/// The mutants of these files and folders, but for what is there for tests.
pub fn mutants(root: &Path, places: &[String]) -> Result<Vec<Mutant>> {
    let mut files = BTreeSet::new();
    places.iter().try_for_each(|place| list(root, Path::new(place), &mut files))?;
    let (mut found, mut tests) = (Vec::new(), Vec::new());
    for file in files {
        let text = fs::read_to_string(root.join(&file))?;
        let mut modules = Vec::new();
        found.extend(mutate::mutants(&file, &text, &mut modules).with_context(|| file.clone())?);
        let folder = file.trim_end_matches(".rs");
        tests.extend(modules.iter().map(|module| format!("{folder}/{module}")));
    }
    found.retain(|m| !tests.iter().any(|test| Path::new(m.file.trim_end_matches(".rs")).starts_with(test)));
    // Two changes of one function that look alike.
    let mut alike: HashMap<String, usize> = HashMap::new();
    for mutant in &mut found {
        let count = alike.entry(mutant.key()).or_default();
        *count += 1;
        if *count > 1 {
            mutant.what = format!("{} ({count})", mutant.what);
        }
    }
    Ok(found)
}

fn list(root: &Path, place: &Path, files: &mut BTreeSet<String>) -> Result<()> {
    let path = root.join(place);
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            list(root, &place.join(entry?.file_name()), files)?;
        }
    } else if place.extension().is_some_and(|extension| extension == "rs") {
        fs::metadata(&path).with_context(|| path.display().to_string())?;
        files.insert(place.display().to_string());
    }
    Ok(())
}

/// A mutant as it stands in the copy.
struct Placed {
    key: String,
    open: Range<usize>,
    close: Range<usize>,
}

/// Builds the tests with all mutants but those that do not compile, whose keys come to `dropped`; gives the path of the
/// test binary. A mutant's number is its place among `mutants`.
pub fn build(root: &Path, work: &Path, mutants: &[Mutant], dropped: &mut BTreeSet<String>) -> Result<PathBuf> {
    let tree = work.join("tree");
    fs::create_dir_all(&tree)?;
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let (from, to) = (root.join(&name), tree.join(&name));
        if ["Cargo.toml", "Cargo.lock"].iter().any(|copied| name == *copied) {
            write(&to, &fs::read_to_string(from)?)?;
        } else if !["src", "target", ".git"].iter().any(|left| name == *left) && !to.exists() {
            symlink(from, to)?;
        }
    }
    loop {
        let placed = write_sources(root, &tree, mutants, dropped)?;
        let (binary, errors) = compile(root, &tree)?;
        if let Some(binary) = binary {
            return Ok(binary);
        }
        let before = dropped.len();
        for error in &errors {
            dropped.extend(blamed(error, &placed));
        }
        if dropped.len() == before {
            bail!("the copy does not compile: {}", errors.first().map_or("", |error| &*error.text));
        }
        eprintln!("{} mutants do not compile, {} so far", dropped.len() - before, dropped.len());
    }
}

fn write_sources(
    root: &Path,
    tree: &Path,
    mutants: &[Mutant],
    dropped: &BTreeSet<String>,
) -> Result<HashMap<String, Vec<Placed>>> {
    let mut files = BTreeSet::new();
    list(root, Path::new("src"), &mut files)?;
    let mut placed = HashMap::new();
    for file in files {
        let mut text = fs::read_to_string(root.join(&file))?;
        let of_file = mutants.iter().enumerate().filter(|(_, m)| m.file == file && !dropped.contains(&m.key()));
        let of_file: Vec<_> = of_file.collect();
        if !of_file.is_empty() {
            let (changed, places) = render(&text, of_file);
            text = changed;
            placed.insert(file.clone(), places);
        }
        if file == "src/lib.rs" {
            let module = |line: &str| line.trim_start_matches("pub ").strip_prefix("mod ").map(|rest| rest.to_owned());
            let kept = |line: &&str| module(line).is_none_or(|name| MODULES.contains(&name.trim_end_matches(';')));
            let lines: Vec<_> = text.lines().filter(kept).collect();
            text = format!("#![allow(warnings)]\n{}\n{RUNTIME}", lines.join("\n"));
        }
        write(&tree.join(&file), &text)?;
    }
    Ok(placed)
}

/// The text with all of its mutants, each around those that stand within it.
fn render(text: &str, mut mutants: Vec<(usize, &Mutant)>) -> (String, Vec<Placed>) {
    mutants.sort_by_key(|(_, m)| (m.span.start, Reverse(m.span.end)));
    let placed = |(_, m): &(usize, &Mutant)| Placed { key: m.key(), open: 0..0, close: 0..0 };
    let text_of = |id: usize, put: &str| put.replace(SWITCH, &format!("crate::mutant({id})"));
    let mut all: Vec<_> = mutants.iter().map(placed).collect();
    let (mut out, mut done, mut around) = (String::new(), 0, Vec::<usize>::new());
    for at in 0..=mutants.len() {
        let start = mutants.get(at).map_or(text.len(), |(_, m)| m.span.start);
        while let Some(inner) = around.pop_if(|inner| mutants[*inner].1.span.end <= start) {
            let (id, mutant) = &mutants[inner];
            out.push_str(&text[done..mutant.span.end]);
            done = mutant.span.end;
            all[inner].close = push(&mut out, &text_of(*id, &mutant.close));
        }
        out.push_str(&text[done..start]);
        done = start;
        if let Some((id, mutant)) = mutants.get(at) {
            all[at].open = push(&mut out, &text_of(*id, &mutant.open));
            around.push(at);
        }
    }
    (out, all)
}

fn push(out: &mut String, text: &str) -> Range<usize> {
    let start = out.len();
    out.push_str(text);
    start..out.len()
}

/// Not what is the same: cargo looks at times.
fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    path.parent().map(fs::create_dir_all).transpose()?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

struct CompileError {
    text: String,
    /// Files and places, the important ones first.
    places: Vec<(String, Range<usize>)>,
}

fn compile(root: &Path, tree: &Path) -> Result<(Option<PathBuf>, Vec<CompileError>)> {
    let mut cargo = Command::new("nice");
    cargo.args(["-n", "10", "cargo", "test", "--lib", "--no-run", "--quiet", "--locked", "--message-format", "json"]);
    cargo.args(["--config", "profile.dev.package.tidegate.opt-level=1"]);
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        cargo.env("CARGO_TARGET_DIR", root.join("target"));
    }
    let output = cargo.current_dir(tree).stderr(Stdio::inherit()).output()?;
    let (mut binary, mut errors) = (None, Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        let message = &line["message"];
        if line["reason"] == "compiler-artifact" && line["executable"].is_string() {
            binary = line["executable"].as_str().map(PathBuf::from);
        } else if line["reason"] == "compiler-message" && message["level"] == "error" {
            let spans = message["spans"].as_array().cloned().unwrap_or_default();
            let (main, others): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| span["is_primary"] == true);
            let places = main.into_iter().chain(others).filter_map(place).collect();
            errors.push(CompileError { text: message["rendered"].as_str().unwrap_or_default().to_owned(), places });
        }
    }
    Ok((binary.filter(|_| output.status.success()), errors))
}

/// Where the text of a span stands in the end.
fn place(mut span: Value) -> Option<(String, Range<usize>)> {
    while span["expansion"]["span"].is_object() {
        span = span["expansion"]["span"].clone();
    }
    let at = |name: &str| usize::try_from(span[name].as_u64()?).ok();
    Some((span["file_name"].as_str()?.to_owned(), at("byte_start")?..at("byte_end")?))
}

/// Whose fault an error is: of the mutant in whose text it is, else of the innermost around it, else of all in it.
fn blamed(error: &CompileError, placed: &HashMap<String, Vec<Placed>>) -> Vec<String> {
    for (file, at) in &error.places {
        let Some(mutants) = placed.get(file) else { continue };
        let within = |range: &Range<usize>| range.start <= at.start && at.start < range.end;
        let own = mutants.iter().find(|m| within(&m.open) || within(&m.close));
        let around = mutants.iter().filter(|m| within(&(m.open.start..m.close.end)));
        if let Some(mutant) = own.or(around.min_by_key(|m| m.close.end - m.open.start)) {
            return vec![mutant.key.clone()];
        }
        let inside: Vec<_> = mutants.iter().filter(|m| at.contains(&m.open.start)).map(|m| m.key.clone()).collect();
        if !inside.is_empty() {
            return inside;
        }
    }
    Vec::new()
}
