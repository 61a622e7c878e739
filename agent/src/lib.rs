//! Sluice: a load balancer for Kubernetes in one process.
//!
//! ```text
//! Kubernetes API --> source --Snapshot--> model --Model--+--> datapath --> eBPF maps, programs, links
//! manifests dir  -->                                     +--> proxy    --> listeners, route tables
//!                      status <-- Verdicts (model), Applied (datapath, proxy)
//!                      admin reads every stage and changes nothing
//! ```
//!
//! Each arrow is one type, sent through a `tokio::sync::watch`: the latest value wins, bursts coalesce, nothing queues.
//! Each stage is one task that owns its state. `model::compile` is pure.
#![forbid(unsafe_code)]

pub mod api;
pub mod model;
pub mod proxy;
pub mod source;
