//! Gateways -> claims for addresses, frontends that lead to the proxy, and the proxy's listeners.
use super::{Model, Node, endpoints::SliceIndex, ipam::Claim};
use crate::source::Snapshot;

/// What the Gateways that are ours claim.
#[must_use]
pub fn claims(snapshot: &Snapshot) -> Vec<Claim> {
    let _ = snapshot;
    Vec::new()
}

/// Adds the frontends and listeners of the Gateways that are ours, at the addresses in `model.allocations`.
pub fn compile(snapshot: &Snapshot, slices: &SliceIndex, node: &Node, model: &mut Model) {
    let _ = (snapshot, slices, node, model);
}
