//! The kinds that manifests may hold: one table, of which everything that differs by kind is made.
//!
//! A kind that is added is one line here, its fields in `schema/fields.txt`, its type in `api/` and its map in the
//! [`Snapshot`].
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::{
    api::{self, Kind as _, ObjectName},
    shared::SharedMap,
    source::Snapshot,
};

macro_rules! objects {
    ($($variant:ident: $type:ident, $field:ident, [$($version:literal),+];)*) => {
        /// One object of a kind that the model reads.
        #[derive(Clone, Debug)]
        pub(in super::super) enum Object {
            $($variant(Arc<api::$type>),)*
        }

        /// A kind that the model reads.
        #[derive(Clone, Copy)]
        pub(super) enum Kind {
            $($variant,)*
        }

        impl Object {
            /// Whether it is the very same object.
            pub(in super::super) fn is(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$variant(a), Self::$variant(b)) => Arc::ptr_eq(a, b),)*
                    _ => false,
                }
            }

            /// Kind and name; that of a cluster-scoped object has no namespace.
            pub(in super::super) fn describe(&self) -> (&'static str, ObjectName) {
                match self {
                    $(Self::$variant(object) => {
                        let ns = if api::$type::IS_NAMESPACED { object.metadata.namespace.as_str() } else { "" };
                        (api::$type::KIND, ObjectName::new(ns, &object.metadata.name))
                    })*
                }
            }

            /// Whether a snapshot has one of its kind and name.
            pub(in super::super) fn is_in(&self, snapshot: &Snapshot) -> bool {
                match self {
                    $(Self::$variant(object) => {
                        snapshot.$field.contains_key(&api::$type::key(&object.metadata))
                    })*
                }
            }

            /// Takes the one of its kind and name out of a snapshot.
            pub(in super::super) fn remove(&self, from: &mut Snapshot) {
                match self {
                    $(Self::$variant(object) => drop(from.$field.remove(&api::$type::key(&object.metadata))),)*
                }
            }

            /// Adds it to a snapshot; one that equals the last snapshot's becomes that one.
            pub(in super::super) fn insert(&mut self, into: &mut Snapshot, last: &Snapshot) {
                match self {
                    $(Self::$variant(object) => {
                        insert(api::$type::key(&object.metadata), object, &mut into.$field, &last.$field);
                    })*
                }
            }
        }

        impl Kind {
            /// The kind of a document.
            pub(super) fn of(api_version: &str, kind: &str) -> Option<Self> {
                $(if kind == api::$type::KIND && [$($version),+].contains(&api_version) {
                    return Some(Self::$variant);
                })*
                None
            }

            /// As the API names it.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => api::$type::KIND,)*
                }
            }

            pub(super) fn is_cluster_scoped(self) -> bool {
                match self {
                    $(Self::$variant => !api::$type::IS_NAMESPACED,)*
                }
            }

            /// Reads an object of this kind, and fills in what the API server would.
            pub(super) fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
                let mut object = match self {
                    $(Self::$variant => Object::$variant(Arc::new(api::$type::deserialize(deserializer)?)),)*
                };
                object.complete();
                Ok(object)
            }
        }
    };
}

// The kinds, where they are kept, and the versions that are read.
objects! {
    Service: Service, services, ["v1"];
    Namespace: Namespace, namespaces, ["v1"];
    Node: Node, nodes, ["v1"];
    Pool: AddressPool, pools, ["sluice.dev/v1alpha1"];
    Secret: Secret, secrets, ["v1"];
    ConfigMap: ConfigMap, config_maps, ["v1"];
    Slice: EndpointSlice, slices, ["discovery.k8s.io/v1"];
    GatewayClass: GatewayClass, gateway_classes, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    Gateway: Gateway, gateways, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    HttpRoute: HttpRoute, http_routes, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    GrpcRoute: GrpcRoute, grpc_routes, ["gateway.networking.k8s.io/v1"];
    TlsRoute: TlsRoute, tls_routes, ["gateway.networking.k8s.io/v1"];
    TcpRoute: TcpRoute, tcp_routes, ["gateway.networking.k8s.io/v1"];
    UdpRoute: UdpRoute, udp_routes, ["gateway.networking.k8s.io/v1"];
    ListenerSet: ListenerSet, listener_sets, ["gateway.networking.k8s.io/v1"];
    BackendTlsPolicy: BackendTlsPolicy, backend_tls_policies, ["gateway.networking.k8s.io/v1"];
    BackendTrafficPolicy: BackendTrafficPolicy, backend_traffic_policies, ["gateway.networking.x-k8s.io/v1alpha1"];
    ReferenceGrant: ReferenceGrant, grants, ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
}

impl Object {
    /// The same object, to which nobody may connect; where it is a Service.
    pub(in super::super) fn closed(self, reason: &str) -> Self {
        match self {
            Self::Service(mut service) => {
                Arc::make_mut(&mut service).spec.unread_sources = Some(reason.to_owned());
                Self::Service(service)
            }
            other => other,
        }
    }

    /// `Service default/web`, as flaws name it.
    pub(in super::super) fn name(&self) -> String {
        let (kind, name) = self.describe();
        format!("{kind} {name}")
    }

    /// As the API server writes it: an absent port name of a slice is "".
    fn complete(&mut self) {
        if let Self::Slice(slice) = self {
            for port in &mut Arc::make_mut(slice).ports {
                port.name.get_or_insert_default();
            }
        }
    }
}

fn insert<K: Ord + Clone, T: PartialEq>(
    key: K,
    object: &mut Arc<T>,
    into: &mut SharedMap<K, Arc<T>>,
    last: &SharedMap<K, Arc<T>>,
) {
    if let Some(last) = last.get(&key).filter(|last| !Arc::ptr_eq(last, object) && ***last == **object) {
        *object = Arc::clone(last);
    }
    into.insert(key, Arc::clone(object));
}
