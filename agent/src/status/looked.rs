//! What the writer has seen at its last look: one that sees the same has nothing to do.
//!
//! With many Services a look at all of them costs milliseconds, and endpoints come and go all the time.
use std::sync::Arc;

use crate::{api::EndpointSlice, membership::Members, model::Model, shared::SharedMap, source::Snapshot};

/// What one look sees.
pub(super) struct Looked {
    snapshot: Snapshot,
    model: Model,
    members: Arc<Members>,
    /// The slices that we have written.
    own: Vec<Arc<EndpointSlice>>,
}

impl Looked {
    /// Without the endpoints, which are not to be kept for this.
    pub(super) fn new(snapshot: &Snapshot, model: &Model, members: &Arc<Members>) -> Self {
        let own = model.own_slices.iter().filter_map(|name| snapshot.slices.get(name)).cloned().collect();
        let snapshot = Snapshot { slices: SharedMap::new(), ..snapshot.clone() };
        let model = Model { frontends: SharedMap::new(), ..model.clone() };
        Self { snapshot, model, members: Arc::clone(members), own }
    }

    /// Whether it leads to the same writes. Endpoints come and go all the time, and few of them matter here.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (a, b) = (&self.model, &other.model);
        self.snapshot.is_same_but_slices(&other.snapshot)
            && Arc::ptr_eq(&self.members, &other.members)
            && Arc::ptr_eq(&a.pools, &b.pools)
            && Arc::ptr_eq(&a.wanted, &b.wanted)
            && Arc::ptr_eq(&a.allocations, &b.allocations)
            && Arc::ptr_eq(&a.announcers, &b.announcers)
            && Arc::ptr_eq(&a.announced, &b.announced)
            && Arc::ptr_eq(&a.http, &b.http)
            && Arc::ptr_eq(&a.gateways, &b.gateways)
            && a.routes.is_one(&b.routes)
            && Arc::ptr_eq(&a.policies, &b.policies)
            && a.verdicts.is_one(&b.verdicts)
            && Arc::ptr_eq(&a.chains, &b.chains)
            && self.own.len() == other.own.len()
            && self.own.iter().zip(&other.own).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}
