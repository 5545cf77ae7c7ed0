//! Copies that were damaged, planted or cut off, a disk that fails, and a writer that is killed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, UNIX_EPOCH},
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Keeper,
    file::{Copy, decode, encode},
    shelf::Shelf,
};
use crate::{
    model::Revision,
    store::{
        CopyStatus, Embedded, Feed, KeyValue, Listing, Sheltered, Store, StoreId,
        held::Held,
        suite::{PATIENCE, delete, put, write},
    },
};

const PREFIX: &str = "/tidegate/v1/";

/// A copy whose values are derived from its revision, so that a mixture shows.
fn copy(revision: u64) -> Copy {
    let entries = (0..3).map(|n| KeyValue {
        key: format!("{PREFIX}{n}"),
        value: format!("value {n} at {revision}").into(),
        create_revision: Revision(1),
        mod_revision: Revision(revision),
    });
    let listing = Listing { store: StoreId(7), revision: Revision(revision), entries: entries.collect() };
    let written = UNIX_EPOCH + Duration::from_secs(1_764_081_000);
    Copy { generation: 0, written, prefix: PREFIX.to_owned(), listing }
}

/// A folder with copies of these revisions, the last one the newest.
fn folder(revisions: &[u64]) -> (TempDir, PathBuf) {
    let above = TempDir::new().unwrap();
    let dir = above.path().join("last-known-good");
    let mut shelf = Shelf::new(dir.clone());
    for revision in revisions {
        shelf.write(copy(*revision), false).unwrap();
    }
    (above, dir)
}

/// The revision that is loaded, and why others are not.
fn load(dir: &Path) -> (Option<u64>, String) {
    load_whole(dir, copy)
}

/// As [`load`], of copies that `make` makes.
fn load_whole(dir: &Path, make: fn(u64) -> Copy) -> (Option<u64>, String) {
    let (copy, refused) = Shelf::new(dir.to_owned()).load(PREFIX);
    if let Some(whole) = &copy {
        assert!(whole.listing == make(whole.listing.revision.0).listing, "never a half");
    }
    (copy.map(|copy| copy.listing.revision.0), refused.join("\n"))
}

/// A copy that takes a while to write.
fn large(revision: u64) -> Copy {
    let mut large = copy(revision);
    large.listing.entries[0].value = vec![(revision % 251) as u8; 2 << 20].into();
    large
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_byte_of_a_copy_counts() {
    let file = encode(&copy(5));
    assert_eq!(decode(&file), Ok(copy(5)));
    for at in 0..file.len() {
        assert!(decode(&file.slice(..at)).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut flipped = file.to_vec();
            flipped[at] ^= 1 << bit;
            assert!(decode(&Bytes::from(flipped)).is_err(), "bit {bit} of byte {at} flipped");
        }
        let mut lost = file.to_vec();
        lost.remove(at);
        assert!(decode(&Bytes::from(lost)).is_err(), "byte {at} lost");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(decode(&Bytes::from(longer)).is_err());
}

#[test]
fn three_generations_are_kept_and_the_newest_is_loaded() {
    let (_above, dir) = folder(&[1, 2, 3, 4, 5]);
    assert_eq!(names(&dir), ["generation-3", "generation-4", "generation-5"]);
    assert_eq!(load(&dir), (Some(5), String::new()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("generation-5"))), (0o700, 0o600));
    let mut shelf = Shelf::new(dir.clone());
    shelf.load(PREFIX);
    shelf.write(copy(6), false).unwrap();
    assert_eq!(names(&dir), ["generation-4", "generation-5", "generation-6"], "counted on after a start");
    shelf.write(copy(2), true).unwrap();
    assert_eq!((names(&dir), load(&dir).0), (vec!["generation-7".to_owned()], Some(2)), "an accepted, older store");
}

#[test]
fn a_damaged_copy_leaves_the_generation_before_and_a_reason() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("is empty", |path| fs::write(path, "").unwrap()),
        ("cut off", |path| fs::write(path, &fs::read(path).unwrap()[..30]).unwrap()),
        ("length is wrong", |path| fs::write(path, &fs::read(path).unwrap()[..90]).unwrap()),
        ("first bytes", |path| fs::write(path, [0; 200]).unwrap()),
        ("not a regular file", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("symbolic link", |path| {
            let aside = path.with_file_name("aside");
            fs::rename(path, &aside).unwrap();
            symlink(&aside, path).unwrap();
        }),
        ("others may write", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o620)).unwrap()),
    ];
    for (words, damage) in damages {
        let (_above, dir) = folder(&[1, 2]);
        damage(&dir.join("generation-2"));
        let (loaded, why) = load(&dir);
        assert_eq!(loaded, Some(1), "{words}");
        assert!(why.contains("generation-2: ") && why.contains(words), "{words}: {why}");
        fs::remove_file(dir.join("generation-1")).unwrap();
        let (loaded, why) = load(&dir);
        assert!(loaded.is_none() && why.contains(words), "{words}: {why}");
    }
}

#[test]
fn a_pipe_is_not_waited_for() {
    let (_above, dir) = folder(&[1]);
    let pipe = dir.join("generation-2");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (loaded, why) = load(&dir);
    assert!(loaded == Some(1) && why.contains("not a regular file"), "{why}");
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let (_above, dir) = folder(&[1, 2]);
    fs::File::options().write(true).open(dir.join("generation-2")).unwrap().set_len((1 << 30) + 1).unwrap();
    let (loaded, why) = load(&dir);
    assert!(loaded == Some(1) && why.contains("are the limit"), "{why}");
}

#[test]
fn an_older_copy_under_a_newer_name_is_an_older_copy() {
    let (_above, dir) = folder(&[1, 2, 3]);
    fs::copy(dir.join("generation-1"), dir.join("generation-9")).unwrap();
    assert_eq!(load(&dir).0, Some(3));
}

#[test]
fn what_belongs_to_somebody_else_is_not_loaded() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away; the rule is the same for everybody.
        return;
    }
    let (_above, dir) = folder(&[1, 2]);
    let give = |path: &Path| assert!(Command::new("chown").arg("12345").arg(path).status().unwrap().success());
    give(&dir.join("generation-2"));
    let (loaded, why) = load(&dir);
    assert!(loaded == Some(1) && why.contains("belongs to the user 12345"), "{why}");
    give(&dir);
    let (loaded, why) = load(&dir);
    assert!(loaded.is_none() && why.contains("last-known-good: it belongs"), "{why}");
    assert!(Shelf::new(dir).write(copy(3), false).is_err(), "nor written to");
}

#[test]
fn a_folder_that_others_may_write_to_is_not_trusted() {
    let (above, dir) = folder(&[1]);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
    let (loaded, why) = load(&dir);
    assert!(loaded.is_none() && why.contains("others may write"), "{why}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let aside = above.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    symlink(&aside, &dir).unwrap();
    let (loaded, why) = load(&dir);
    assert!(loaded.is_none() && why.contains("symbolic link"), "{why}");
}

#[test]
fn copies_of_another_prefix_are_not_loaded() {
    let (_above, dir) = folder(&[1]);
    let (copy, refused) = Shelf::new(dir).load("/other/v1/");
    assert!(copy.is_none() && refused[0].contains(PREFIX) && refused[0].contains("--prefix"), "{refused:?}");
}

#[test]
fn what_was_never_finished_is_ignored_and_removed() {
    let (_above, dir) = folder(&[1]);
    let whole = fs::read(dir.join("generation-1")).unwrap();
    fs::write(dir.join("generation-2.unfinished"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.join("generation-3.unfinished"), &whole).unwrap();
    assert_eq!(load(&dir), (Some(1), String::new()));
    let mut shelf = Shelf::new(dir.clone());
    shelf.load(PREFIX);
    shelf.write(copy(2), false).unwrap();
    assert_eq!(names(&dir), ["generation-1", "generation-2"]);
}

#[test]
fn without_a_folder_there_is_no_copy_yet() {
    let above = TempDir::new().unwrap();
    let dir = above.path().join("last-known-good");
    assert_eq!(load(&dir), (None, String::new()));
    let (keeper, good) = Keeper::open(dir, PREFIX);
    assert!(good.is_err_and(|why| why.contains("last-known-good: no copy has been written yet")));
    assert_eq!(*keeper.status().borrow(), CopyStatus::default(), "which is no fault");
}

#[test]
fn copies_that_are_not_used_are_named() {
    let (_above, dir) = folder(&[1, 2]);
    fs::write(dir.join("generation-2"), "").unwrap();
    let (keeper, good) = Keeper::open(dir, PREFIX);
    assert_eq!(good.unwrap().listing.revision, Revision(1));
    let refused = keeper.status().borrow().refused.clone();
    assert!(matches!(&refused[..], [why] if why.contains("generation-2: it is empty")), "{refused:?}");
}

/// A keeper that writes at once, what it is fed, and how it stands.
struct Kept {
    held: watch::Sender<Held>,
    status: watch::Receiver<CopyStatus>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

fn keep(dir: &Path, pause: Duration) -> Kept {
    let (mut keeper, _) = Keeper::open(dir.to_owned(), PREFIX);
    keeper.pause = pause;
    let (held, status, cancel) = (watch::Sender::new(Held::default()), keeper.status(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(held.subscribe(), cancel.clone()));
    Kept { held, status, cancel, tasks }
}

impl Kept {
    fn holds(&self, revision: u64) {
        self.held.send_if_modified(|held| held.reset(&copy(revision).listing));
    }

    async fn until(&mut self, what: impl FnMut(&CopyStatus) -> bool) -> CopyStatus {
        timeout(PATIENCE, self.status.wait_for(what)).await.expect("in time").expect("it runs").clone()
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        timeout(PATIENCE, self.tasks.join_next()).await.expect("in time");
    }
}

fn at(revision: u64) -> impl FnMut(&CopyStatus) -> bool {
    move |status| status.newest.is_some_and(|newest| newest.revision == Revision(revision))
}

#[tokio::test]
async fn what_changes_is_written_not_too_often_and_once_more_at_the_end() {
    let above = TempDir::new().unwrap();
    let dir = above.path().join("new").join("last-known-good");
    let mut kept = keep(&dir, Duration::from_secs(3600));
    kept.holds(1);
    kept.until(at(1)).await;
    kept.holds(2);
    kept.holds(3);
    assert!(timeout(Duration::from_millis(200), kept.status.changed()).await.is_err(), "it is too early");
    assert_eq!(load(&dir).0, Some(1));
    kept.stop().await;
    assert_eq!((load(&dir).0, names(&dir).len()), (Some(3), 2));
    let kept = keep(&dir, Duration::from_secs(3600));
    kept.stop().await;
    assert_eq!(names(&dir).len(), 2, "nothing has changed");
}

#[tokio::test]
async fn copies_of_a_store_that_was_left_behind_go_with_the_first_of_the_next() {
    let (_above, dir) = folder(&[7, 8]);
    let mut kept = keep(&dir, Duration::from_millis(1));
    kept.held.send_modify(|held| {
        held.adopt();
        held.reset(&copy(3).listing);
    });
    kept.until(at(3)).await;
    assert_eq!((load(&dir).0, names(&dir).len()), (Some(3), 1));
    kept.holds(4);
    kept.until(at(4)).await;
    assert_eq!((load(&dir).0, names(&dir).len()), (Some(4), 2), "those of the same store stay");
}

#[tokio::test]
async fn a_disk_that_fails_is_said_and_tried_again_and_the_old_copies_stay() {
    let (above, dir) = folder(&[1]);
    let mut kept = keep(&dir, Duration::from_millis(20));
    // A file where the folder was: nobody, root included, can write a copy below it.
    let aside = above.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    fs::write(&dir, "").unwrap();
    kept.holds(2);
    let status = kept.until(|status| status.failures >= 2).await;
    assert!(status.trouble.is_some_and(|why| why.contains("not a folder")));
    assert_eq!(status.newest.unwrap().revision, Revision(1));
    fs::remove_file(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    let status = kept.until(at(2)).await;
    assert_eq!(status.trouble, None);
    assert_eq!((load(&dir).0, names(&dir).len()), (Some(2), 2));
}

#[test]
fn a_copy_that_cannot_be_finished_costs_no_other_and_leaves_no_rest() {
    let (_above, dir) = folder(&[1]);
    let mut shelf = Shelf::new(dir.clone());
    shelf.load(PREFIX);
    fs::create_dir(dir.join("generation-2")).unwrap();
    assert!(shelf.write(copy(2), false).is_err(), "its name is taken");
    assert_eq!((names(&dir), load(&dir).0), (vec!["generation-1".to_owned(), "generation-2".to_owned()], Some(1)));
}

#[tokio::test]
async fn a_sheltered_store_is_copied_and_its_copy_is_where_it_was() {
    let above = TempDir::new().unwrap();
    let dir = above.path().join("last-known-good");
    let store = Embedded::in_memory().unwrap();
    write(&*store, vec![put("/p/a", "1"), put("/p/b", "1"), put("/else", "1")]).await;
    let sheltered = Sheltered::open(store.clone(), "/p/".to_owned(), dir.clone()).await;
    let (out, mut feed) = mpsc::channel(8);
    let cancel = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(sheltered.run(cancel.clone(), out));
    assert!(matches!(timeout(PATIENCE, feed.recv()).await, Ok(Some(Feed::Reset(_)))));
    let last = write(&*store, vec![delete("/p/a"), put("/p/c", "1")]).await;
    assert!(matches!(timeout(PATIENCE, feed.recv()).await, Ok(Some(Feed::Batch(_)))));
    cancel.cancel();
    timeout(PATIENCE, tasks.join_next()).await.expect("it ends");
    let (copy, refused) = Shelf::new(dir).load("/p/");
    assert_eq!(refused, Vec::<String>::new());
    let mut expected = store.list("/p/").await.unwrap();
    expected.revision = last;
    assert_eq!(copy.unwrap().listing, expected);
}

/// Set: this process is the writer that is killed, and this is its folder.
const VICTIM: &str = "TIDEGATE_TEST_WRITES_COPIES_TO";

/// The writer, when a test below starts this binary again.
#[test]
fn a_writer_that_is_killed_writes() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let mut shelf = Shelf::new(dir.into());
    let (loaded, _) = shelf.load(PREFIX);
    for revision in loaded.map_or(1, |copy| copy.listing.revision.0 + 1).. {
        shelf.write(large(revision), false).unwrap();
    }
}

#[test]
fn killed_at_any_moment_of_writing_a_valid_copy_is_there_at_every_start() {
    let (_above, dir) = folder(&[]);
    Shelf::new(dir.clone()).write(large(1), false).unwrap();
    let began = Instant::now();
    let mut newest = 1;
    let mut moved = 0;
    for round in 0..200 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::good::tests::a_writer_that_is_killed_writes"])
            .env(VICTIM, &dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Once it writes, at any moment of it.
        let until = Instant::now() + PATIENCE;
        let before = names(&dir);
        while names(&dir) == before {
            assert!(Instant::now() < until, "round {round}: nothing is written");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..40_000)));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let (loaded, why) = load_whole(&dir, large);
        let loaded = loaded.unwrap_or_else(|| panic!("round {round}: no copy: {why}"));
        assert_eq!(why, "", "round {round}: no damaged file is there under a name that counts");
        assert!(loaded >= newest, "round {round}: {loaded} after {newest}");
        moved += u64::from(loaded > newest);
        newest = loaded;
    }
    assert!(moved > 20, "a whole copy was finished in {moved} of 200 rounds only: they say nothing");
    eprintln!("200 kills in {:?}, {newest} copies", began.elapsed());
}
