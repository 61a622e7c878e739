//! Writes to the API server, many at once: some connections, each with one request at a time.
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};

use crate::cluster::Api;

/// Connections. More do not help a server of two cores.
const CONNECTIONS: usize = 16;

/// One write.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    /// What the body is, and the answer shall be.
    pub(super) content: &'static str,
    pub(super) body: Bytes,
}

/// Writes that are under way or done, in the order in which they are begun.
pub(super) struct Feed {
    next: AtomicUsize,
    /// When each was answered.
    answered: Vec<OnceLock<Instant>>,
    /// How many a second at most; `None`: as many as go.
    rate: Option<f64>,
}

impl Feed {
    pub(super) fn new(calls: usize, rate: Option<f64>) -> Self {
        let answered = std::iter::repeat_with(OnceLock::new).take(calls).collect();
        Self { next: AtomicUsize::new(0), answered, rate }
    }

    /// Does all the calls, `make(n)` being the one of that number.
    ///
    /// # Errors
    /// One of them is refused.
    pub(super) fn run(&self, api: &Api, make: impl Fn(usize) -> Call + Send + Sync) -> anyhow::Result<()> {
        let make = &make;
        api.block_on(|| async move {
            let began = Instant::now();
            let workers = (0..CONNECTIONS).map(|_| self.work(api, began, make));
            futures_util::future::try_join_all(workers).await.map(drop)
        })
    }

    async fn work(&self, api: &Api, began: Instant, make: &(impl Fn(usize) -> Call + Sync)) -> anyhow::Result<()> {
        let mut sender = api.connect().await?;
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(answered) = self.answered.get(n) else { return Ok(()) };
            let Call { method, path, content, body } = make(n);
            let request = Request::builder().method(method).uri(&path);
            let request = request.header(header::CONTENT_TYPE, content).header(header::ACCEPT, content);
            let request = api.signed(request.body(body)?)?.map(Full::new);
            if let Some(rate) = self.rate {
                tokio::time::sleep_until((began + Duration::from_secs_f64(n as f64 / rate)).into()).await;
            }
            sender.ready().await?;
            let answer = sender.send_request(request).await.with_context(|| path.clone())?;
            let status = answer.status();
            let body = answer.into_body().collect().await.with_context(|| path.clone())?.to_bytes();
            let _ = answered.set(Instant::now());
            ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
    }

    /// When the call of this number was answered.
    pub(super) fn answered(&self, n: usize) -> Option<Instant> {
        self.answered.get(n).and_then(OnceLock::get).copied()
    }

    /// A call that was begun, the newest one; `None` before the first.
    pub(super) fn newest(&self) -> Option<usize> {
        self.next.load(Ordering::Relaxed).min(self.answered.len()).checked_sub(1)
    }
}
