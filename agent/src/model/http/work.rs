//! What the canonical form and the router do for a request, counted: bytes looked at, copied, compared or hashed, and
//! lookups. Tests bound it per byte of the request; outside tests nothing is counted and nothing is left of the calls.
//!
//! Every loop over something that a client chooses calls [`work`] once a turn, with the bytes that the turn looks at.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts so many bytes, and one for the turn itself.
#[cfg(test)]
pub(crate) fn work(bytes: usize) {
    DONE.with(|done| done.set(done.get() + 1 + bytes as u64));
}

/// Counts nothing.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn work(_bytes: usize) {}

/// What was done by this thread since the last call.
#[cfg(test)]
pub(crate) fn done() -> u64 {
    DONE.with(std::cell::Cell::take)
}
