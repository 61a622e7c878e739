//! Services of type LoadBalancer -> claims for addresses, frontends and their backends.
use super::{Model, Node, endpoints::SliceIndex, ipam::Claim};
use crate::source::Snapshot;

/// What the Services that are ours claim.
#[must_use]
pub fn claims(snapshot: &Snapshot) -> Vec<Claim> {
    let _ = snapshot;
    Vec::new()
}

/// Adds the frontends of the Services that are ours, at the addresses in `model.allocations`.
pub fn compile(snapshot: &Snapshot, slices: &SliceIndex, node: &Node, model: &mut Model) {
    let _ = (snapshot, slices, node, model);
}
