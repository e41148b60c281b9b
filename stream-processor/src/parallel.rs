//! Shares of one piece of work, side by side on the machine's cores.

use std::panic::resume_unwind;
use std::thread::{available_parallelism, scope};

/// How many cores this process may use; one where the system does not say.
pub(crate) fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Runs each share at once, the first on the calling thread; results come in the order of the shares.
pub(crate) fn side_by_side<T: Send, R: Send>(
    mut shares: impl Iterator<Item = T>,
    run: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let run = &run;
    scope(|scope| {
        let own = shares.next();
        let others: Vec<_> = shares
            .map(|share| scope.spawn(move || run(share)))
            .collect();
        let own = own.map(run);
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        own.into_iter().chain(others).collect()
    })
}
