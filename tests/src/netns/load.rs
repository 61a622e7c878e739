//! TCP load: many connections, or as many as fit until told to stop; each counted with its outcome.
//!
//! A connection succeeds when the line that says who answers has come, every byte sent has come back, and the end was
//! orderly. Blocking threads in the client's namespace.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use super::{
    connection::Connection,
    namespace::Namespace,
    outcome::{Failure, Tally},
    request,
};

/// Bytes that a connection of a load sends and wants back.
const BODY: usize = 64;

/// Makes `n` connections from `space`, `concurrency` at a time.
///
/// # Panics
/// If a client's thread does.
#[must_use]
pub fn burst(space: &Namespace, to: SocketAddr, n: usize, concurrency: usize) -> Tally {
    Load::run(space, to, n, concurrency).finish()
}

/// Connections that are being made, one after the other on each of several threads.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts making connections until [`Load::stop`].
    #[must_use]
    pub fn start(space: &Namespace, to: SocketAddr, concurrency: usize) -> Self {
        Self::run(space, to, usize::MAX, concurrency)
    }

    /// Starts making connections until [`Load::stop`], each with one request to the image `echo`.
    #[must_use]
    pub fn requests(space: &Namespace, to: SocketAddr, concurrency: usize) -> Self {
        Self::repeat(space, to, usize::MAX, concurrency, request::whole)
    }

    /// Starts making `n` connections.
    #[must_use]
    pub fn run(space: &Namespace, to: SocketAddr, n: usize, concurrency: usize) -> Self {
        Self::repeat(space, to, n, concurrency, whole)
    }

    fn repeat(
        space: &Namespace,
        to: SocketAddr,
        n: usize,
        concurrency: usize,
        once: fn(SocketAddr) -> Result<String, Failure>,
    ) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let taken = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let client = || {
            let (stop, done, taken) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&taken));
            // A thread keeps the namespace of the thread that has started it.
            space.enter(|| {
                std::thread::spawn(move || {
                    let mut tally = Tally::default();
                    while !stop.load(Ordering::Relaxed) && taken.fetch_add(1, Ordering::Relaxed) < n {
                        let dialled = Instant::now();
                        let outcome = once(to);
                        tally.count(outcome, dialled.elapsed(), began.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    tally
                })
            })
        };
        let threads = (0..concurrency).map(|_| client()).collect();
        Self { stop, done, threads }
    }

    /// Connections that have ended, well or not.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until all are made.
    ///
    /// # Panics
    /// If a client's thread does.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        let mut sum = Tally::default();
        self.threads.drain(..).for_each(|t| sum.merge(t.join().expect("a client does not panic")));
        sum
    }

    /// Lets the connections that are open end, and starts no others.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection from beginning to end; returns the pod.
fn whole(to: SocketAddr) -> Result<String, Failure> {
    let mut connection = Connection::dial(to)?;
    connection.exchange(BODY)?;
    let pod = connection.answer.pod.clone();
    connection.close()?;
    Ok(pod)
}
