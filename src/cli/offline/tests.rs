//! What the examples in `envoy-configs/` compile to, as a person reviews it. `UPDATE_GOLDEN=1` writes the files anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::compile::Judgement;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy-configs/examples");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/compile/testdata/examples");

/// Files of a folder by their names.
fn files(folder: &str) -> BTreeMap<String, PathBuf> {
    let paths = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path)).collect()
}

fn source(path: &Path) -> Source {
    Source { name: path.display().to_string(), text: fs::read_to_string(path).unwrap() }
}

/// An example with what it says must be applied before it.
fn sources(example: &str) -> Vec<Source> {
    let mut names = vec!["fleet.yaml", "shop.yaml"];
    names.retain(|name| *name == "fleet.yaml" || example != "fleet.yaml");
    if !names.contains(&example) {
        names.push(example);
    }
    names.into_iter().map(|name| source(&Path::new(EXAMPLES).join(name))).collect()
}

/// What `tidegate translate` prints, and its warnings.
fn translated(site: &str, sources: &[Source]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut io = Io { out: &mut out, err: &mut err, input: &mut std::io::empty() };
    translate(site, sources, Output::Yaml, &mut io).unwrap_or_else(|failure| panic!("{failure:?}"));
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[test]
fn each_example_compiles_to_its_golden_files_without_a_warning() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut expected = BTreeSet::new();
    let mut differing = Vec::new();
    for example in files(EXAMPLES).keys() {
        for site in ["edge1", "core1"] {
            let (text, warnings) = translated(site, &sources(example));
            assert_eq!(warnings, "", "{example} at {site}");
            let name = format!("{}.{site}.yaml", example.trim_end_matches(".yaml"));
            let path = Path::new(GOLDEN).join(&name);
            if update {
                fs::create_dir_all(GOLDEN).unwrap();
                fs::write(&path, &text).unwrap();
            }
            if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
                differing.push(name.clone());
            }
            expected.insert(name);
        }
    }
    for (name, path) in files(GOLDEN).into_iter().filter(|(name, _)| !expected.contains(name)) {
        if update {
            fs::remove_file(path).unwrap();
        } else {
            differing.push(format!("{name} (stale)"));
        }
    }
    assert!(differing.is_empty(), "review `UPDATE_GOLDEN=1 cargo test golden` by git diff: {differing:?}");
    assert!(expected.len() >= 12, "the examples are not where this test looks: {expected:?}");
}

#[test]
fn nothing_is_wrong_between_the_objects_of_an_example() {
    for example in files(EXAMPLES).keys() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut io = Io { out: &mut out, err: &mut err, input: &mut std::io::empty() };
        let configuration = read(&sources(example), &mut io).unwrap_or_else(|failure| panic!("{failure:?}"));
        let problems = Judgement::of(&configuration, &Runtime::default()).problems;
        assert!(problems.is_empty(), "{example}: {problems:?}");
    }
}

#[test]
fn golden_files_hold_no_private_key() {
    for (name, path) in files(GOLDEN) {
        assert!(!fs::read_to_string(path).unwrap().contains("PRIVATE KEY"), "{name}");
    }
    let (https, _) = translated("edge1", &sources("https.yaml"));
    assert!(https.contains("name: shop/example"), "the edge is told the certificate:\n{https}");
}
