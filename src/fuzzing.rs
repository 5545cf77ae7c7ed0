//! The fuzz targets without a fuzzer: each gets its corpus, then a bounded number of mutations of it by a seed that stays,
//! and by one from outside, if there is one. See `fuzz/README.md`.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fastrand::Rng;

/// What stays: a failure of it is everybody's.
const SEED: u64 = 0x7469_6465_6761_7465;
/// Bytes that stand at the edges of encodings.
const EDGES: [u8; 10] = [0, 1, 0x0a, 0x12, 0x20, 0x2d, 0x3a, 0x7f, 0x80, 0xff];
/// An input grows no further.
const LENGTH_MAX: usize = 64 << 10;

/// The corpus of a target, in the order of its names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One to eight changes of an input of the corpus.
fn mutated(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut data = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..random.usize(1..=8) {
        let at = random.usize(..=data.len());
        let end = random.usize(at..=data.len());
        match random.u8(..8) {
            0 if at < data.len() => data[at] ^= 1 << random.u8(..8),
            1 if at < data.len() => data[at] = random.u8(..),
            2 => data.insert(at, EDGES[random.usize(..EDGES.len())]),
            3 => data.insert(at, random.u8(..)),
            4 => drop(data.drain(at..end.min(at + 16))),
            5 => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            6 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                data.splice(at.., other[from..].iter().copied());
            }
            _ => data.truncate(data.len().max(8) - random.usize(..8)),
        }
        data.truncate(LENGTH_MAX);
    }
    data
}

fn run(target: &str, data: &[u8], which: &str, call: fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| call(data))).is_err() {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{target} fails for {which}, which is (`xxd -r -p` makes it a file of fuzz/corpus/{target}):\n{hex}");
    }
}

fn replay(target: &str, mutations: u32, call: fn(&[u8])) {
    let corpus = corpus(target);
    for data in &corpus {
        run(target, data, "an input of the corpus", call);
    }
    let other = std::env::var("FUZZ_SEED").ok().map(|seed| seed.trim().parse().unwrap());
    for seed in std::iter::once(SEED).chain(other) {
        let mut random = Rng::with_seed(seed);
        for number in 0..mutations {
            run(target, &mutated(&corpus, &mut random), &format!("mutation {number} of the seed {seed:#x}"), call);
        }
    }
}

#[test]
fn any_bytes_are_a_request_or_refused() {
    replay("requests", 5_000, crate::serve::fuzz::requests);
}

#[test]
fn no_sequence_of_events_makes_a_session_break_a_rule() {
    replay("sessions", 5_000, crate::serve::fuzz::sessions);
}

#[test]
fn any_text_is_a_manifest_or_refused_with_its_place() {
    replay("manifests", 1_000, crate::manifest::fuzz::manifests);
}
