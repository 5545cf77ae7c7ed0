//! The file: its tables, how it is opened, and its errors in words.

use std::{fs::OpenOptions, io::ErrorKind, path::Path};

use redb::{
    Builder, Database, TableDefinition,
    backends::{FileBackend, InMemoryBackend},
};

use crate::store::StoreError;

/// Key → [`super::record::Entry`].
pub(super) const KV: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kv");
/// Revision → [`super::record::LogEntry`].
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Name → number; the names follow.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Lease → seconds that it lives after its last renewal. When it ends is not kept: it lives on in full after a start.
pub(super) const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");

/// The revision of the last commit.
pub(super) const REVISION: &str = "revision";
/// The last revision that is not in the log.
pub(super) const COMPACTED: &str = "compacted";
/// The last lease that was granted.
pub(super) const LAST_LEASE: &str = "lease";
/// Which store it is.
pub(super) const IDENTITY: &str = "identity";
/// The layout of the file; see [`LAYOUT`].
pub(super) const LAYOUT_KEY: &str = "layout";
/// The one layout that this version reads and writes.
pub(super) const LAYOUT: u64 = 1;

/// redb's cache of pages.
const CACHE_BYTES: usize = 16 << 20;

/// An open file, or memory.
pub(super) struct Disk {
    pub(super) db: Database,
    pub(super) name: String,
}

impl Disk {
    /// Opens or makes the file. It holds keys of certificates: nobody else may read it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let name = path.display().to_string();
        let file =
            options.open(path).map_err(|error| StoreError::Unavailable(format!("{name} cannot be opened: {error}")))?;
        let backend = FileBackend::new(file).map_err(|error| words(error, &name))?;
        let db = builder().create_with_backend(backend).map_err(|error| words(error, &name))?;
        Ok(Disk { db, name })
    }

    /// A store without a file.
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        let name = "memory".to_owned();
        let db =
            Database::builder().create_with_backend(InMemoryBackend::new()).map_err(|error| words(error, &name))?;
        Ok(Disk { db, name })
    }

    /// An error of redb, as the contract says it.
    pub(super) fn words(&self, error: impl Into<redb::Error>) -> StoreError {
        words(error, &self.name)
    }
}

/// Readers have their own copy of everything, so redb's cache (1 GiB if nothing is said) serves the writer only.
fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn words(error: impl Into<redb::Error>, name: &str) -> StoreError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Unavailable(format!("{name} is open in another process; only one may use it at a time"))
        }
        redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            StoreError::Damaged(format!("{name} is not a store, or is cut off: {error}"))
        }
        redb::Error::Io(error) => StoreError::Unavailable(format!("{name}: {error}")),
        error @ redb::Error::PreviousIo => {
            StoreError::Unavailable(format!("{name}: {error}; restart to open it again"))
        }
        error => StoreError::Damaged(format!("{name}: {error}")),
    }
}
