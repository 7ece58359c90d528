//! Work over many seeds, on all processors.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// Splits seeds among as many threads as there are processors, and returns what each made of
/// its part.
///
/// # Panics
/// If one of them does.
pub fn split<R: Send>(
    seeds: &[u64],
    work: impl Fn(&mut dyn Iterator<Item = u64>) -> R + Sync,
) -> Vec<R> {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let work = &work;
    thread::scope(|scope| {
        let start = |first| {
            scope.spawn(move || work(&mut seeds.iter().copied().skip(first).step_by(workers)))
        };
        let running: Vec<_> = (0..workers).map(start).collect();
        let ended = running.into_iter().map(|worker| worker.join());
        ended
            .map(|part| part.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}
