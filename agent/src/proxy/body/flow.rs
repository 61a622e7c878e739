//! What the two bodies of an exchange know of each other.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http_body::Body;

use crate::proxy::balance::Moment;

/// What the bodies of an exchange know of each other: nothing, where the request has none.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Flow(Option<Arc<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    /// How often the response has moved, for the request's body to see: the sides of an exchange may take turns for hours,
    /// and a client that listens need not speak. Envoy's idle timeout of a stream is for both directions likewise.
    moved: AtomicU64,
    /// When nothing of the request was still to come; 0 before. Source: [`Moment::to_bits`].
    read_at: AtomicU64,
    /// How much of the request has come. Units: bytes.
    received: AtomicU64,
}

impl Flow {
    /// That of an exchange with this request.
    #[must_use]
    pub(in crate::proxy) fn of(request: Option<&impl Body>) -> Self {
        Self(request.filter(|body| !body.is_end_stream()).map(|_| Arc::default()))
    }

    /// Whether the client has sent all of its request's body, and the backend was given it.
    #[must_use]
    pub(in crate::proxy) fn request_is_read(&self) -> bool {
        self.0.as_ref().is_none_or(|progress| progress.read_at.load(Relaxed) != 0)
    }

    /// When that was so.
    #[must_use]
    pub(in crate::proxy) fn read_at(&self) -> Option<Moment> {
        let at = self.0.as_ref()?.read_at.load(Relaxed);
        Some(at).filter(|at| *at != 0).map(Moment::from_bits)
    }

    /// It is so.
    pub(super) fn is_read(&self) {
        self.0.iter().for_each(|progress| progress.read_at.store(Moment::now().to_bits(), Relaxed));
    }

    /// It has to be sent from its start.
    pub(super) fn rewind(&self) {
        self.0.iter().for_each(|progress| progress.read_at.store(0, Relaxed));
    }

    /// Some more of the request has come.
    pub(in crate::proxy) fn comes(&self, bytes: usize) {
        self.0.iter().for_each(|progress| _ = progress.received.fetch_add(bytes as u64, Relaxed));
    }

    /// How much of the request's body has come. Units: bytes.
    #[must_use]
    pub(in crate::proxy) fn received(&self) -> u64 {
        self.0.as_ref().map_or(0, |progress| progress.received.load(Relaxed))
    }

    /// How often the response has moved.
    pub(super) fn moved(&self) -> u64 {
        self.0.as_ref().map_or(0, |progress| progress.moved.load(Relaxed))
    }

    /// It has moved.
    pub(super) fn moves(&self) {
        self.0.iter().for_each(|progress| _ = progress.moved.fetch_add(1, Relaxed));
    }
}
