//! The rules of this source tree that the compiler does not hold, as tests: which module may name which, where the
//! outer world may be touched, no dead files, files that say their job and stay short.

mod protocol;
mod rules;
mod source;
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rules::File;

/// The modules in reading order, and what each may name beside itself: only what stands before it. `*` is all.
const LAYERS: &[(&str, &[&str])] = &[
    // Words.
    ("model", &[]),
    ("manifest", &["model"]),
    ("xds", &["model"]),
    ("identity", &["model"]),
    ("rpc", &[]),
    // The line.
    ("store", &["model"]),
    ("catalog", &["model", "manifest", "xds", "store"]),
    ("compile", &["model", "xds", "catalog"]),
    ("snapshot", &["model", "xds"]),
    ("feedback", &["model", "xds"]),
    ("serve", &["model", "xds", "identity", "snapshot", "feedback"]),
    ("pipeline", &["model", "xds", "store", "catalog", "compile", "snapshot"]),
    // Judgement.
    ("admission", &["model", "manifest", "xds", "catalog", "compile"]),
    ("status", &["model", "xds", "catalog", "compile", "snapshot", "feedback", "pipeline"]),
    ("replicas", &["model", "xds", "store", "rpc", "identity", "status"]),
    ("leader", &["model", "store", "catalog", "pipeline", "snapshot", "admission", "feedback", "status", "replicas"]),
    // The rim.
    (
        "api",
        &[
            "model",
            "manifest",
            "xds",
            "identity",
            "rpc",
            "store",
            "catalog",
            "compile",
            "snapshot",
            "feedback",
            "pipeline",
            "admission",
            "status",
            "replicas",
        ],
    ),
    ("bootstrap", &["model"]),
    ("certs", &["model"]),
    ("cli", &["model", "manifest", "xds", "rpc", "store", "catalog", "compile", "admission", "bootstrap", "certs"]),
    ("app", &["*"]),
    ("demo", &["*"]),
    ("telemetry", &["*"]),
    ("main", &["*"]),
];

/// Crates that stand for a part of the outer world, and the modules that may know it.
const GUARDED: &[(&str, &[&str])] = &[
    ("tonic", &["rpc", "serve", "replicas", "api", "cli", "app", "demo", "store::etcd"]),
    ("etcd_client", &["store"]),
    ("redb", &["store"]),
    ("envoy_types", &["xds", "compile", "serve"]),
];

/// Modules that compute: no I/O, no clock, no tasks.
const PURE: &[&str] = &[
    "model",
    "manifest",
    "xds",
    "identity",
    "catalog",
    "compile",
    "admission",
    "status",
    "serve::session",
    "serve::sotw",
];

/// The files that are the roots of a build target.
const ROOTS: [&str; 3] = ["src/lib.rs", "src/main.rs", "e2e/main.rs"];

#[test]
fn every_file_obeys_the_rules() {
    let mut shipped = BTreeSet::new();
    for root in ROOTS {
        visit(root, Code::Shipped, &mut shipped);
    }
    let mut complaints = Vec::new();
    for path in ["src", "e2e", "proto"].into_iter().flat_map(rust_files) {
        let is_test = path.starts_with("e2e/") || !shipped.contains(&path);
        complaints.extend(rules::check(&File { path: &path, text: &read(&path), is_test }));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_is_part_of_the_build() {
    let mut alive = BTreeSet::new();
    for root in ROOTS {
        visit(root, Code::All, &mut alive);
    }
    let dead: Vec<_> = ["src", "e2e"].into_iter().flat_map(rust_files).filter(|path| !alive.contains(path)).collect();
    assert!(dead.is_empty(), "no `mod` line leads to {dead:?}: their tests never run");
}

#[test]
fn a_module_names_only_what_stands_before_it() {
    for (row, (module, may_name)) in LAYERS.iter().enumerate() {
        for name in may_name.iter().filter(|name| **name != "*") {
            let before = LAYERS[..row].iter().any(|(earlier, _)| earlier == name);
            assert!(before, "{module} may name {name}, which does not stand before it");
        }
    }
}

/// Which `mod` lines are followed.
#[derive(Clone, Copy)]
enum Code {
    All,
    /// Without those under `#[cfg(test)]`.
    Shipped,
}

/// Adds a file, and what its `mod` lines lead to.
fn visit(path: &str, code: Code, reached: &mut BTreeSet<String>) {
    if !reached.insert(path.to_owned()) {
        return;
    }
    let stem = path.strip_suffix(".rs").unwrap();
    let (parent, name) = stem.rsplit_once('/').unwrap();
    let folder = if matches!(name, "lib" | "main") { parent } else { stem };
    let (all, shipped) = rules::declared(&read(path));
    let names = match code {
        Code::All => all,
        Code::Shipped => shipped,
    };
    for name in names {
        visit(&format!("{folder}/{name}.rs"), code, reached);
    }
}

/// All Rust files under a folder of the package, by their paths from it, in order.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if Path::new(&path).extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}
