//! The status of objects: written by one agent of the cluster, the leader, from what the nodes report.
//!
//! In: the snapshot, the model, the members with their reports. Out: patches and Events. What is to be written is planned
//! by pure functions, one per kind; [`writer`] carries it out.
//!
//! # Design
//! - An address is shown only after the nodes that serve it have programmed it and read it back.
//! - At most one write per object is under way; the next one is planned from what the API server says after it.
mod allowance;
mod attempt;
pub mod conditions;
mod due;
mod events;
pub mod gateway;
pub mod infrastructure;
pub mod leader;
pub mod listener_set;
mod looked;
mod moves;
pub mod node;
mod objects;
pub mod openshift;
mod plan;
pub mod policy;
pub mod service;
pub mod slices;
mod told;
mod unheard;
pub mod version;
pub mod view;
pub mod write;
pub mod writer;

/// Stands for the time of a condition's last change until it is written.
pub(crate) const NOW: &str = "now";
/// Who records Events.
pub(crate) const CONTROLLER: &str = "sluice.dev/sluice";
