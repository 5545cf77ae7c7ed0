//! Resources as bytes, and the file that carries one server's to another, so that all serve the same.

use std::{io::Write, path::Path};

use anyhow::{Context, Result};

/// One resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    pub version: String,
    pub url: String,
    /// The `Any`'s value.
    pub bytes: Vec<u8>,
}

/// Writes them: per resource type URL, name and value, each behind its length (4 bytes, big-endian).
///
/// # Errors
/// Of the file.
pub fn write(path: &Path, resources: &[Resource]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for resource in resources {
        for part in [resource.url.as_bytes(), resource.name.as_bytes(), &resource.bytes] {
            file.write_all(&u32::try_from(part.len())?.to_be_bytes())?;
            file.write_all(part)?;
        }
    }
    Ok(file.flush()?)
}

/// Reads them, without versions.
///
/// # Errors
/// A file that is not there or not whole.
pub fn read(path: &Path) -> Result<Vec<Resource>> {
    let all = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rest = all.as_slice();
    let mut part = || {
        let (length, more) = rest.split_first_chunk::<4>()?;
        let (part, more) = more.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = more;
        Some(part.to_vec())
    };
    let mut resources = Vec::new();
    while let (Some(url), Some(name), Some(bytes)) = (part(), part(), part()) {
        let (url, name) = (String::from_utf8(url)?, String::from_utf8(name)?);
        resources.push(Resource { name, version: String::new(), url, bytes });
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let resource =
            |name: &str| Resource { name: name.into(), url: "u".into(), bytes: vec![1; 300], ..Resource::default() };
        let path = std::env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
        let all = [resource("a"), resource("b")];
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
        std::fs::remove_file(path).unwrap();
    }
}
