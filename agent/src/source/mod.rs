//! Where objects come from: watches what the model needs and emits a [`Snapshot`] once everything has been read once.
pub mod access;
pub mod kubernetes;
pub mod manifests;
pub mod snapshot;

pub use snapshot::Snapshot;
