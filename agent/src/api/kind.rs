//! What the API server must be asked for, kind by kind.
use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::{
    AddressPool, BackendTlsPolicy, BackendTrafficPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, GrpcRoute,
    HttpRoute, Lease, ListenerSet, Namespace, Node, ObjectMeta, ObjectName, OpenShiftRoute, ReferenceGrant, Secret,
    Service, TcpRoute, TlsRoute, UdpRoute,
    endpoint_slice::{MANAGED_BY_LABEL, MANAGER},
};

/// A kind of object that is read.
pub trait Kind: DeserializeOwned + Debug + PartialEq + Send + Sync + 'static {
    /// The API group; empty for the core.
    const GROUP: &'static str;
    /// The version that is read.
    const VERSION: &'static str;
    /// Its name.
    const KIND: &'static str;
    /// Its resource, as paths and RBAC rules name it.
    const PLURAL: &'static str;
    /// Comes with a CustomResourceDefinition: the cluster may not have it, and we do without.
    const IS_CUSTOM: bool;
    /// Its objects are in namespaces.
    const IS_NAMESPACED: bool;
    /// Whether the revision it was written at is kept: where it is not, writes that change nothing that is read go unseen.
    const KEEPS_REVISION: bool;
    /// What objects of the kind are known by in a snapshot.
    type Key: Clone + Debug + Ord + Send + Sync + 'static;

    /// Whether the revision of this object is kept although [`Kind::KEEPS_REVISION`] is not: it is one that we write.
    #[must_use]
    fn keeps_revision(_metadata: &ObjectMeta) -> bool {
        Self::KEEPS_REVISION
    }

    /// `metadata`.
    fn metadata(&self) -> &ObjectMeta;

    /// Whether the new one says the same in all that counts for what is made of it: a change of `status`, `managedFields` or
    /// `resourceVersion` alone does not count. The status of a Node does: it is what others say of it.
    fn is_quiet(&self, new: &Self) -> bool;

    /// What an object with this name is known by.
    fn key(metadata: &ObjectMeta) -> Self::Key;

    /// The resource with its group, as messages name it: `services`, `httproutes.gateway.networking.k8s.io`.
    #[must_use]
    fn resource() -> String {
        if Self::GROUP.is_empty() { Self::PLURAL.to_owned() } else { format!("{}.{}", Self::PLURAL, Self::GROUP) }
    }
}

macro_rules! kinds {
    ($($type:ident, $kind:literal; $group:literal, $version:literal, $plural:literal, $custom:literal, $revision:literal, $namespaced:literal, $key:ty, $by:expr, [$($counts:ident),*];)*) => {$(
        impl Kind for $type {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const IS_CUSTOM: bool = $custom;
            const KEEPS_REVISION: bool = $revision;
            const IS_NAMESPACED: bool = $namespaced;
            type Key = $key;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn is_quiet(&self, new: &Self) -> bool {
                self.metadata.is_quiet(&new.metadata) $(&& self.$counts == new.$counts)*
            }

            fn key(metadata: &ObjectMeta) -> $key {
                $by(metadata)
            }
        }
    )*};
}

fn by_name(metadata: &ObjectMeta) -> String {
    metadata.name.clone()
}

kinds! {
    Service, "Service"; "", "v1", "services", false, true, true, ObjectName, ObjectMeta::object_name, [spec];
    Namespace, "Namespace"; "", "v1", "namespaces", false, false, false, String, by_name, [];
    Node, "Node"; "", "v1", "nodes", false, false, false, String, by_name, [spec, status];
    Lease, "Lease"; "coordination.k8s.io", "v1", "leases", false, true, true, String, by_name, [spec];
    Gateway, "Gateway"; "gateway.networking.k8s.io", "v1", "gateways", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    GatewayClass, "GatewayClass"; "gateway.networking.k8s.io", "v1", "gatewayclasses", true, true, false, String, by_name, [spec];
    HttpRoute, "HTTPRoute"; "gateway.networking.k8s.io", "v1", "httproutes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    GrpcRoute, "GRPCRoute"; "gateway.networking.k8s.io", "v1", "grpcroutes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    TlsRoute, "TLSRoute"; "gateway.networking.k8s.io", "v1", "tlsroutes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    TcpRoute, "TCPRoute"; "gateway.networking.k8s.io", "v1", "tcproutes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    UdpRoute, "UDPRoute"; "gateway.networking.k8s.io", "v1", "udproutes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    ListenerSet, "ListenerSet"; "gateway.networking.k8s.io", "v1", "listenersets", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    BackendTlsPolicy, "BackendTLSPolicy"; "gateway.networking.k8s.io", "v1", "backendtlspolicies", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    BackendTrafficPolicy, "XBackendTrafficPolicy"; "gateway.networking.x-k8s.io", "v1alpha1", "xbackendtrafficpolicies", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
    ReferenceGrant, "ReferenceGrant"; "gateway.networking.k8s.io", "v1beta1", "referencegrants", true, false, true, ObjectName, ObjectMeta::object_name, [spec];
    AddressPool, "AddressPool"; "sluice.dev", "v1alpha1", "addresspools", true, true, false, String, by_name, [spec];
    Secret, "Secret"; "", "v1", "secrets", false, false, true, ObjectName, ObjectMeta::object_name, [kind, data];
    ConfigMap, "ConfigMap"; "", "v1", "configmaps", false, false, true, ObjectName, ObjectMeta::object_name, [data];
    OpenShiftRoute, "Route"; "route.openshift.io", "v1", "routes", true, true, true, ObjectName, ObjectMeta::object_name, [spec];
}

impl Kind for EndpointSlice {
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
    const IS_CUSTOM: bool = false;
    const IS_NAMESPACED: bool = true;
    const KEEPS_REVISION: bool = false;
    type Key = ObjectName;

    fn keeps_revision(metadata: &ObjectMeta) -> bool {
        metadata.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGER)
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn is_quiet(&self, new: &Self) -> bool {
        let Self { metadata, address_type, endpoints, ports } = new;
        self.metadata.is_quiet(metadata)
            && (address_type, endpoints, ports) == (&self.address_type, &self.endpoints, &self.ports)
    }

    fn key(metadata: &ObjectMeta) -> ObjectName {
        metadata.object_name()
    }
}
