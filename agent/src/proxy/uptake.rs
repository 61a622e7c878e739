//! The streams of an HTTP/2 connection, each a task that ends when its client takes nothing of a response that is there.
//!
//! A client that shuts a stream's window has hyper wait for it, which asks the response's body for nothing meanwhile: no clock
//! of the body's own would run, and socket and connection are busy with other streams. So the task that hyper makes of a
//! stream is watched from outside, and what it holds (the body, the endpoint's connection) is dropped with it, which
//! resets the stream.
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

tokio::task_local! {
    static UPTAKE: Arc<Uptake>;
}

/// How a stream's response is taken.
#[derive(Debug, Default)]
pub(super) struct Uptake {
    /// A part of the body was given to hyper, which has not asked for more.
    waits: AtomicBool,
    /// How often one was.
    moved: AtomicU64,
}

impl Uptake {
    /// That of the stream that this task serves; `None` outside HTTP/2.
    #[must_use]
    pub(super) fn current() -> Option<Arc<Self>> {
        UPTAKE.try_with(Arc::clone).ok()
    }

    /// hyper was given a part of the body, or told that there is none yet.
    pub(super) fn given(&self, part: bool) {
        self.waits.store(part, Relaxed);
        self.moved.fetch_add(u64::from(part), Relaxed);
    }

    /// Whether hyper was given a part that it has not asked beyond, and how many it was given.
    fn waits(&self) -> Option<u64> {
        self.waits.load(Relaxed).then(|| self.moved.load(Relaxed))
    }
}

/// Runs the streams of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// How long a client may take nothing of a response that is there.
    pub limit: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let limit = self.limit;
        tokio::spawn(async move {
            let uptake = Arc::<Uptake>::default();
            let mut stream = pin!(UPTAKE.scope(Arc::clone(&uptake), stream));
            // Set while something waits to be taken: most streams are done at once and need none.
            let mut clock: Option<Pin<Box<Sleep>>> = None;
            let mut seen = 0;
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                let Some(moved) = uptake.waits() else {
                    clock = None;
                    return Poll::Pending;
                };
                let clock = clock.get_or_insert_with(|| {
                    seen = moved;
                    Box::pin(tokio::time::sleep(limit))
                });
                while clock.as_mut().poll(cx).is_ready() {
                    if seen == moved {
                        tracing::trace!("a stream's client takes nothing");
                        return Poll::Ready(());
                    }
                    seen = moved;
                    clock.as_mut().reset(Instant::now() + limit);
                }
                Poll::Pending
            })
            .await;
        });
    }
}
