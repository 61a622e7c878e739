//! What crosses the arrows between stages, where it is no [`Snapshot`](crate::source::Snapshot) and no
//! [`Model`](crate::model::Model).
//!
//! Invariant: nothing here knows a stage, so that stages need not know each other.
pub mod applied;
mod capacity;
mod census;
mod validity;

pub use applied::{Applied, Bound, Holder, Occupancy, SideStatus, UplinkStatus, XdpKind};
pub use capacity::Capacity;
pub use census::Census;
pub use validity::{Answering, Validity};
