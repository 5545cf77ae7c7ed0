//! Manifests on this side: files, folders, standard input, and the documents in them.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Failure;
use crate::{model::Kind, rpc};

/// One text with manifests, and what errors call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's path, or `-`.
    pub name: String,
    /// Its content.
    pub text: String,
}

impl From<Source> for rpc::ManifestSource {
    fn from(source: Source) -> Self {
        Self { name: source.name, text: source.text }
    }
}

/// Reads every file of `paths`: a file as it is named, of a folder all `*.yaml`, `*.yml` and `*.json`, recursively and
/// in the order of their paths, `-` from `input`.
///
/// # Errors
/// [`Failure::Failed`] with the path, when something cannot be read or a folder holds no manifest.
pub fn read_sources(paths: &[PathBuf], input: &mut dyn Read) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            input.read_to_string(&mut text).map_err(|error| Failure::Failed(format!("-: {error}")))?;
            sources.push(Source { name: "-".to_owned(), text });
        } else if path.is_dir() {
            let mut files = Vec::new();
            collect(path, &mut files)?;
            if files.is_empty() {
                return Err(Failure::Failed(format!("{}: no *.yaml, *.yml or *.json in it", path.display())));
            }
            files.sort();
            for file in files {
                sources.push(read(&file)?);
            }
        } else {
            sources.push(read(path)?);
        }
    }
    Ok(sources)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let told = |error: std::io::Error| Failure::Failed(format!("{}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        // A link to a folder is not followed: it could lead back to where we are.
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if path.is_file() && matches!(path.extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Source, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    Ok(Source { name: path.display().to_string(), text })
}

/// A manifest as plain data, and the object that it names.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Kind, namespace (filled in) and name.
    pub(crate) object: rpc::ObjectRef,
    /// The manifest.
    pub(crate) value: Value,
}

/// The manifests in `sources`, read as far as their names only: what else is wrong with them the control plane says.
pub(crate) fn documents(sources: &[Source]) -> Result<Vec<Document>, Failure> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for source in sources {
        match serde_saphyr::from_multiple::<Value>(&source.text) {
            Ok(values) => {
                for value in values.into_iter().filter(|v| !v.is_null()) {
                    match named(&value) {
                        Ok(object) => found.push(Document { object, value }),
                        Err(why) => faults.push(fault(source, 0, 0, why)),
                    }
                }
            }
            Err(error) => {
                let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default().to_owned();
                faults.push(fault(source, line as u32, column as u32, first));
            }
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(Failure::Faults(faults)) }
}

fn fault(source: &Source, line: u32, column: u32, message: String) -> rpc::Fault {
    rpc::Fault { source: source.name.clone(), line, column, message }
}

fn named(value: &Value) -> Result<rpc::ObjectRef, String> {
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).filter(|t| !t.is_empty());
    let kind = text("/kind").ok_or("a manifest without a kind")?;
    let kind =
        Kind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or_else(|| format!("there is no kind {kind:?}"))?;
    let name = text("/metadata/name").ok_or_else(|| format!("a {kind} without metadata.name"))?;
    let namespace = if kind.namespaced() { text("/metadata/namespace").unwrap_or("default") } else { "" };
    Ok(rpc::ObjectRef { kind: kind.to_string(), namespace: namespace.to_owned(), name: name.to_owned() })
}
