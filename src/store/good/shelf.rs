//! The folder of the last-known-good copies: written whole or not at all, three generations kept, nothing loaded that
//! somebody else could have put there.

use std::{
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::file::{self, Copy};

/// How many copies are kept.
const GENERATIONS: usize = 3;
/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 30;
/// The name of a copy is this and its generation.
const NAME: &str = "generation-";
/// Of a file that is being written.
const UNFINISHED: &str = ".unfinished";

/// The folder. One process at a time writes to it.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    /// The generation of the next copy.
    next: u64,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, next: 1 }
    }

    /// The newest copy that can be trusted, and why others cannot. Damage is never fatal: the generation before is
    /// taken, or none.
    pub(super) fn load(&mut self, prefix: &str) -> (Option<Copy>, Vec<String>) {
        if fs::symlink_metadata(&self.dir).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return (None, Vec::new());
        }
        let generations = match trusted_folder(&self.dir).and_then(|()| generations(&self.dir)) {
            Ok(generations) => generations,
            Err(why) => return (None, vec![why]),
        };
        let mut best: Option<Copy> = None;
        let mut refused = Vec::new();
        for (number, path) in generations {
            self.next = self.next.max(number.saturating_add(1));
            match read(&path, prefix) {
                // By what stands in it: an older copy under a newer name is an older copy.
                Ok(copy) if best.as_ref().is_none_or(|best| copy.generation > best.generation) => best = Some(copy),
                Ok(_) => {}
                Err(why) => refused.push(why),
            }
        }
        if let Some(best) = &best {
            self.next = self.next.max(best.generation.saturating_add(1));
        }
        (best, refused)
    }

    /// Writes a copy as the next generation; the oldest goes. With `alone` all others go: they are of another store.
    ///
    /// # Errors
    /// In words; what was there before is still there.
    pub(super) fn write(&mut self, mut copy: Copy, alone: bool) -> Result<(), String> {
        self.make_folder()?;
        trusted_folder(&self.dir)?;
        copy.generation = self.next;
        let path = self.dir.join(format!("{NAME}{}", copy.generation));
        let unfinished = self.dir.join(format!("{NAME}{}{UNFINISHED}", copy.generation));
        let written = write_whole(&unfinished, &file::encode(&copy)).and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            // What cannot be removed now is removed by the next copy that succeeds.
            let _ = fs::remove_file(&unfinished);
            return Err(format!("{}: cannot be written: {error}", path.display()));
        }
        self.next = copy.generation.saturating_add(1);
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| format!("{}: cannot be synced: {error}", self.dir.display()))?;
        self.tidy_up(if alone { 1 } else { GENERATIONS });
        Ok(())
    }

    fn make_folder(&self) -> Result<(), String> {
        let above = self.dir.parent().map_or(Ok(()), fs::create_dir_all);
        let made = above.and_then(|()| DirBuilder::new().mode(0o700).create(&self.dir));
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(format!("{}: cannot be made: {error}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes all but the newest `keep`, and what was never finished.
    fn tidy_up(&self, keep: usize) {
        let mut surplus: Vec<PathBuf> = Vec::new();
        if let Ok(generations) = generations(&self.dir) {
            surplus.extend(generations.into_iter().skip(keep).map(|(_, path)| path));
        }
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        surplus.extend(entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(NAME) && name.ends_with(UNFINISHED)
        }));
        for path in surplus {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "an old copy of the store cannot be removed");
            }
        }
    }
}

/// The copies in a folder, the newest name first.
fn generations(dir: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: cannot be read: {error}", dir.display()))?;
    let number = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.strip_prefix(NAME)?.parse().ok()?;
        Some((number, path))
    };
    let mut found: Vec<_> = entries.flatten().filter_map(|entry| number(entry.path())).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Nobody but us may have put something into the folder.
fn trusted_folder(dir: &Path) -> Result<(), String> {
    match fs::symlink_metadata(dir) {
        Err(error) => Err(format!("{}: cannot be looked at: {error}", dir.display())),
        Ok(folder) if !folder.is_dir() => {
            Err(format!("{}: it is not a folder of its own (a symbolic link, or a file): move it away", dir.display()))
        }
        Ok(folder) => trusted_owner(dir, &folder),
    }
}

fn trusted_owner(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(format!(
            "{}: it belongs to the user {}, this process runs as {us}: `chown` it, if it is yours",
            path.display(),
            metadata.uid()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(format!(
            "{}: others may write to it (mode {mode:04o}): remove it, or `chmod go-w` it if nobody has",
            path.display()
        ));
    }
    Ok(())
}

/// One file, if it can be trusted.
fn read(path: &Path, prefix: &str) -> Result<Copy, String> {
    let say = |why: String| format!("{}: {why}", path.display());
    let damaged = |why: String| say(format!("{why}; remove it"));
    // Not through a link, and without waiting for a pipe's other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let mut file = opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => damaged("it is a symbolic link".to_owned()),
        _ => say(format!("cannot be opened: {error}")),
    })?;
    let metadata = file.metadata().map_err(|error| say(format!("cannot be looked at: {error}")))?;
    if !metadata.is_file() {
        return Err(damaged("it is not a regular file".to_owned()));
    }
    trusted_owner(path, &metadata)?;
    if metadata.len() > MAX_BYTES {
        return Err(damaged(format!("it has {} bytes, {MAX_BYTES} are the limit", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    file.read_to_end(&mut bytes).map_err(|error| say(format!("cannot be read: {error}")))?;
    let copy = file::decode(&Bytes::from(bytes)).map_err(damaged)?;
    if copy.prefix != prefix {
        let other = &copy.prefix;
        return Err(say(format!("it is of the keys below {other}, this process follows {prefix}: see --prefix")));
    }
    Ok(copy)
}

/// The content is on the disk when it returns.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that a killed process left behind; a link is removed, not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
