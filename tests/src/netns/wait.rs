//! Waiting for something that another process will do.
use std::time::{Duration, Instant};

/// How long to wait between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Calls `look` until it is `Ok`, and returns its value.
///
/// # Panics
/// With `what` and the last error when `limit` has passed.
pub fn eventually<T, E: std::fmt::Display>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(error) if began.elapsed() > limit => panic!("{what}: not within {limit:?}: {error}"),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
