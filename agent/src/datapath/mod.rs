//! Model -> maps, programs, links: the stage that makes the kernel forward.
//!
//! The path: [`desired`] (what must be in the maps, as [`rows`]) -> [`plan`] (ordered operations, pure) -> [`maps`] (the
//! writes); [`placement`] finds tables their places, and [`capacity`] says who is refused where not all fits;
//! [`load`] brings the programs in and attaches them, [`uplink`] decides where, [`stage`] is the task that runs it all.
//! [`sides`] finds the interfaces besides by which flows go on or return, [`reach`] what cannot be reached at all.
//! [`announce`] tells the neighbours which VIPs are here.
//! [`sweep`] and [`observe`] read the flows and counters.
//!
//! Invariant: the kernel forwards without us. Maps and links are pinned; a start adopts them, an end leaves them.
mod adopted;
pub mod announce;
pub mod capacity;
mod census;
mod departures;
pub mod desired;
mod feature;
pub mod groups;
mod host;
pub mod lists;
pub mod load;
pub mod maps;
mod mesh;
pub mod observe;
mod peers;
pub mod permission;
pub mod pins;
pub mod placement;
pub mod plan;
pub mod probe;
pub mod reach;
pub mod rendezvous;
pub mod rows;
pub mod sides;
pub mod space;
pub mod stage;
pub mod sweep;
mod sweeps;
pub mod table;
pub mod uplink;

pub use load::OBJECT;
pub use stage::{Config, Datapath, DatapathError};
