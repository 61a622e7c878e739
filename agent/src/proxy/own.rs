//! The connections to endpoints that one client has for itself: those that begin with who it is.
//!
//! In: an endpoint that is told so ([`Upstream::tells`]), and a client. Out: the same endpoint, with pools of this client's own. What is
//! known of the endpoint (load, health, what it may have) stays one for all.
//!
//! # Design
//! A head of the PROXY protocol holds for all that follows on its connection: a request of somebody else there would be taken for this
//! client's. So what is shared among clients is never used here, and what is here is closed with its client. At the bound of all
//! connections those that are unused make room like any other, and they go with their endpoint: it knows them.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{pool::Upstream, proxy_protocol::Source};

/// Those of one client's connection.
#[derive(Debug, Default)]
pub(super) struct Own(Mutex<Vec<Arc<Upstream>>>);

impl Own {
    /// The endpoint, as this client has it.
    pub(super) fn of(&self, shared: &Arc<Upstream>, worker: usize, source: Source) -> Arc<Upstream> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|own| !own.is_gone());
        if let Some(known) = all.iter().find(|own| own.key() == shared.key()) {
            return Arc::clone(known);
        }
        let own = Arc::new(shared.of_client(worker, source));
        shared.owned.add(&own);
        // Retired meanwhile: nobody else tells the new one.
        if shared.is_gone() {
            own.retire();
        }
        all.push(Arc::clone(&own));
        own
    }
}

/// What clients have of an endpoint for themselves, as long as they do.
#[derive(Debug, Default)]
pub(super) struct Owned(Mutex<Vec<Weak<Upstream>>>);

impl Owned {
    fn add(&self, own: &Arc<Upstream>) {
        self.lock().push(Arc::downgrade(own));
    }

    /// All of it.
    pub(super) fn all(&self) -> Vec<Arc<Upstream>> {
        let mut all = self.lock();
        all.retain(|own| own.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Upstream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
