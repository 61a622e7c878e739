//! The admin API: read-only HTTP that shows every stage.
//!
//! `/livez /readyz /metrics` and `/api/v1/{status,services,backends,routes,explain,flows,objects,instances}`. [`view`] has the shapes,
//! [`collect`] builds them, [`server`] serves them, [`metrics`] has every metric, `why` what became
//! of one object.
mod bounds;
mod certificates;
pub mod collect;
pub mod discovery;
mod explain;
pub mod flows;
pub mod metrics;
pub mod red;
pub mod server;
mod slots;
pub mod view;
mod why;

pub use collect::Stages;
