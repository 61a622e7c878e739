//! A real Kubernetes: its own etcd, API server and controllers, for tests and for people.
//!
//! ```no_run
//! use sluice_tests::cluster::{ControlPlane, Identity};
//!
//! let plane = ControlPlane::shared();
//! let ns = plane.namespace("web");
//! ns.apply("", "services/web", &serde_json::json!({
//!     "kind": "Service",
//!     "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
//! }));
//! let service = plane.api().get(&ns.path("", "services/web")).expect("the Service");
//! let kubeconfig = plane.kubeconfig(&Identity::Admin).expect("a kubeconfig");
//! ```
//!
//! [`ControlPlane`] is the api half: no nodes, up in seconds. [`ControlPlane::shared`] is for tests that keep to a
//! namespace of their own; a test that kills a part, or that must be alone with its agent, starts one. An agent reaches
//! it in its own network namespace ([`ControlPlane::space`]), or from a lab through a [`faults::Proxy`].
//!
//! [`Cluster`] is the nodes half: the same control plane, and real nodes with pods.
//!
//! # Design
//! Nothing stands in for the API server. What it cannot be made to show (a 410 at will, a stale list, a call that takes
//! half a second) is done by a proxy in front of it.
pub mod api;
pub mod ask;
pub mod assets;
pub mod faults;
pub mod guard;
pub mod identity;
pub mod keep;
pub mod look;
pub mod nodes;
pub mod pki;
pub mod plane;
pub mod process;
pub mod scene;

pub use api::{Api, Patch};
pub use ask::TestNamespace;
pub use faults::{Calls, Fault, Proxy, Verb};
pub use identity::Identity;
pub use nodes::Cluster;
pub use plane::{ControlPlane, Part, Tuning};
