//! Kubernetes objects, reduced to the fields that the model reads.
//!
//! Parsed from YAML, JSON or the API server alike. Fields that are not read are ignored here: the API server has
//! validated them, and `source::manifests` checks its documents before they are read. What is read is checked in `model`, where a bad
//! value becomes a verdict; a type here is as permissive as the wire.
pub mod address_pool;
pub mod backend_tls_policy;
pub mod backend_traffic_policy;
pub mod choice;
pub mod condition;
pub mod crd;
pub mod endpoint_slice;
pub mod gateway;
pub mod gateway_class;
pub mod gateway_tls;
pub mod grpc_route;
pub mod http_route;
pub mod kind;
pub mod lease;
pub mod listener_set;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod openshift_route;
pub mod policy;
pub mod reference_grant;
pub mod route;
pub mod secret;
pub mod selector;
pub mod service;
pub mod stream_route;
pub mod wire;

pub use address_pool::AddressPool;
pub use backend_tls_policy::BackendTlsPolicy;
pub use backend_traffic_policy::BackendTrafficPolicy;
pub use condition::Condition;
pub use endpoint_slice::EndpointSlice;
pub use gateway::Gateway;
pub use gateway_class::GatewayClass;
pub use grpc_route::GrpcRoute;
pub use http_route::HttpRoute;
pub use kind::Kind;
pub use lease::Lease;
pub use listener_set::ListenerSet;
pub use meta::{ObjectMeta, ObjectName};
pub use namespace::Namespace;
pub use node::Node;
pub use openshift_route::OpenShiftRoute;
pub use policy::Policy;
pub use reference_grant::ReferenceGrant;
pub use route::{Route, RouteKind};
pub use secret::{ConfigMap, Secret};
pub use selector::LabelSelector;
pub use service::Service;
pub use stream_route::{TcpRoute, TlsRoute, UdpRoute};
