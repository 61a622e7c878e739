//! The streams of an HTTP/2 connection, each a task that ends when its client takes nothing of a response that is there, or when its
//! Gateway holds more in memory than it may for streams like it.
//!
//! A client that shuts a stream's window has hyper wait for it, which asks the response's body for nothing meanwhile: no clock
//! of the body's own would run, and socket and connection are busy with other streams. So the task that hyper makes of a
//! stream is watched from outside, and what it holds (the bodies, the endpoint's connection) is dropped with it, which
//! resets the stream. A request's body that its endpoint does not take is watched likewise.
use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;

use super::held::{Room, Stall};

/// What a stalled response may hold: the window of a stream to the endpoint, and what hyper has for the client. Units: bytes.
const RESPONSE: usize = super::multiplex::STREAM_WINDOW as usize + super::connection::SEND_BUFFER;
/// What a stalled request may hold: the window of the client's stream, and what hyper has for the endpoint. Units: bytes.
const REQUEST: usize = super::connection::STREAM_WINDOW as usize + super::multiplex::SEND_BUFFER;

tokio::task_local! {
    static UPTAKE: Arc<Uptake>;
}

/// How the bodies of a stream are taken.
#[derive(Debug, Default)]
pub(super) struct Uptake {
    response: Side,
    request: Side,
    /// The stream's task, where the request's body may be read by another one.
    task: AtomicWaker,
    /// That task looks at the request's body by itself.
    is_watching: AtomicBool,
}

/// How one of them is.
#[derive(Debug, Default)]
struct Side {
    /// A part of the body was given to hyper, which has not asked for more.
    waits: AtomicBool,
    /// How often one was.
    moved: AtomicU64,
}

impl Side {
    fn given(&self, part: bool) {
        self.waits.store(part, Relaxed);
        self.moved.fetch_add(u64::from(part), Relaxed);
    }

    /// Whether hyper was given a part that it has not asked beyond, and how many it was given.
    fn waits(&self) -> Option<u64> {
        self.waits.load(Relaxed).then(|| self.moved.load(Relaxed))
    }
}

impl Uptake {
    /// That of the stream that this task serves; `None` outside HTTP/2.
    #[must_use]
    pub(super) fn current() -> Option<Arc<Self>> {
        UPTAKE.try_with(Arc::clone).ok()
    }

    /// hyper was given a part of the response's body, or told that there is none yet.
    pub(super) fn response_given(&self, part: bool) {
        self.response.given(part);
    }

    /// hyper was given a part of the request's body that is not the last, or told that there is none yet.
    pub(super) fn request_given(&self, part: bool) {
        self.request.given(part);
        if part && !self.is_watching.swap(true, Relaxed) {
            self.task.wake();
        }
    }
}

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    /// How long a client may take nothing of a response that is there.
    pub limit: Duration,
    /// What its Gateway may hold.
    pub room: Room,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Self { limit, room } = self.clone();
        tokio::spawn(async move {
            let uptake = Arc::<Uptake>::default();
            let mut stream = pin!(UPTAKE.scope(Arc::clone(&uptake), stream));
            let (mut response, mut request) = (None, None);
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                uptake.task.register(cx.waker());
                let limit = Some(limit);
                if poll_side(cx, &mut response, (&uptake.response, RESPONSE), || Stall::new(&room, limit)).is_ready()
                    || poll_side(cx, &mut request, (&uptake.request, REQUEST), || Stall::new(&room, None)).is_ready()
                {
                    tracing::trace!("a stream's body is not taken");
                    return Poll::Ready(());
                }
                uptake.is_watching.store(request.is_some(), Relaxed);
                Poll::Pending
            })
            .await;
        });
    }
}

/// Ready when a body has stalled for too long. `stall` is there while a part waits to be taken: most streams are done at once
/// and need none.
fn poll_side(
    cx: &mut Context<'_>,
    stall: &mut Option<Stall>,
    (side, bytes): (&Side, usize),
    new: impl FnOnce() -> Stall,
) -> Poll<()> {
    let Some(moved) = side.waits() else {
        *stall = None;
        return Poll::Pending;
    };
    stall.get_or_insert_with(new).poll(cx, moved, bytes)
}
