//! Two futures beside each other, of which one has news with each request and the other seldom.
//!
//! `select!` polls all that it waits for whenever the task is woken, and the ends of a connection (its client is gone, the proxy drains, a
//! clock rings) take locks to find out that nothing has happened. Here what happens seldom is polled when it was woken itself.
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::future::Either;

/// Wakes a task, and remembers that it did.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.swap(true, AcqRel);
        self.task.wake_by_ref();
    }
}

/// What is first there; `often`, where both are.
pub(super) async fn beside<A, B>(
    mut often: Pin<&mut impl Future<Output = A>>,
    mut seldom: Pin<&mut impl Future<Output = B>>,
) -> Either<A, B> {
    let mut bell: Option<(Arc<Bell>, Waker)> = None;
    poll_fn(|cx| {
        if let Poll::Ready(first) = often.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(first));
        }
        // A future may move from one task to another.
        if !bell.as_ref().is_some_and(|(bell, _)| bell.task.will_wake(cx.waker())) {
            let new = Arc::new(Bell { rung: AtomicBool::new(true), task: cx.waker().clone() });
            bell = Some((Arc::clone(&new), Waker::from(new)));
        }
        match &bell {
            Some((bell, waker)) if bell.rung.swap(false, AcqRel) => {
                seldom.as_mut().poll(&mut Context::from_waker(waker)).map(Either::Right)
            }
            _ => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::sync::Notify;

    use super::*;

    /// In a task, as connections are: the waker of `block_on` may not know itself again.
    #[tokio::test]
    async fn what_happens_seldom_is_polled_when_it_was_woken_and_not_before() {
        let task = tokio::spawn(async {
            let (polls, news) = (AtomicUsize::new(0), Notify::new());
            let often = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                news.notify_one();
                std::future::pending::<()>().await;
            };
            let mut notified = pin!(news.notified());
            let seldom = poll_fn(|cx| {
                polls.fetch_add(1, Relaxed);
                notified.as_mut().poll(cx)
            });
            assert!(matches!(beside(pin!(often), pin!(seldom)).await, Either::Right(())));
            polls.into_inner()
        });
        assert_eq!(task.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_happens_often_comes_first_and_what_is_there_at_once_is_seen() {
        assert!(matches!(beside(pin!(async { 1 }), pin!(async { 2 })).await, Either::Left(1)));
        assert!(matches!(beside(pin!(std::future::pending::<()>()), pin!(async { 2 })).await, Either::Right(2)));
    }
}
