//! Work that falls apart, over a few threads; the answers come in the order of the items, whoever was done first.

use std::{num::NonZero, panic::resume_unwind, thread};

/// Fewer items than this for each thread are not worth one.
const SHARE: usize = 64;
/// Compiling may not crowd out those who serve.
const THREADS_MAX: usize = 4;

/// Does `work` for each of `items`.
pub(super) fn spread<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX).min(items.len() / SHARE);
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let share = |items: &'_ [T]| -> Vec<R> { items.iter().map(work).collect() };
        let shares = items.chunks(items.len().div_ceil(threads)).map(|items| scope.spawn(move || share(items)));
        let shares: Vec<_> = shares.collect();
        let done = shares.into_iter().map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_items() {
        for length in [0, 1, SHARE, 2 * SHARE, 10 * SHARE + 7] {
            let items: Vec<usize> = (0..length).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(spread(&items, |item| item * 2), doubled);
        }
    }
}
