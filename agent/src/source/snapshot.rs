//! Everything that the API (or the manifests directory) says, at one moment.
use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    api::{
        AddressPool, BackendTlsPolicy, BackendTrafficPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass,
        GrpcRoute, HttpRoute, ListenerSet, Namespace, Node, ObjectName, OpenShiftRoute, ReferenceGrant, Secret,
        Service, TcpRoute, TlsRoute, UdpRoute,
    },
    shared::SharedMap,
};

/// Immutable, indexed by kind and name. Cheap to clone: maps and objects are shared with the snapshot before.
///
/// # Design
/// Objects are `Arc`s that keep their identity while the object does not change, so that a stage may compare pointers
/// to find what an event touched.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Services.
    pub services: SharedMap<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub slices: SharedMap<ObjectName, Arc<EndpointSlice>>,
    /// GatewayClasses, by name.
    pub gateway_classes: SharedMap<String, Arc<GatewayClass>>,
    /// Gateways.
    pub gateways: SharedMap<ObjectName, Arc<Gateway>>,
    /// HTTPRoutes.
    pub http_routes: SharedMap<ObjectName, Arc<HttpRoute>>,
    /// GRPCRoutes.
    pub grpc_routes: SharedMap<ObjectName, Arc<GrpcRoute>>,
    /// TLSRoutes.
    pub tls_routes: SharedMap<ObjectName, Arc<TlsRoute>>,
    /// TCPRoutes.
    pub tcp_routes: SharedMap<ObjectName, Arc<TcpRoute>>,
    /// UDPRoutes.
    pub udp_routes: SharedMap<ObjectName, Arc<UdpRoute>>,
    /// ListenerSets.
    pub listener_sets: SharedMap<ObjectName, Arc<ListenerSet>>,
    /// BackendTLSPolicies.
    pub backend_tls_policies: SharedMap<ObjectName, Arc<BackendTlsPolicy>>,
    /// XBackendTrafficPolicies.
    pub backend_traffic_policies: SharedMap<ObjectName, Arc<BackendTrafficPolicy>>,
    /// ReferenceGrants.
    pub grants: SharedMap<ObjectName, Arc<ReferenceGrant>>,
    /// Up to where the API server was followed; all 0 from manifests.
    pub seen: Seen,
    /// AddressPools, by name.
    pub pools: SharedMap<String, Arc<AddressPool>>,
    /// Namespaces, by name.
    pub namespaces: SharedMap<String, Arc<Namespace>>,
    /// Nodes, by name.
    pub nodes: SharedMap<String, Arc<Node>>,
    /// Routes of OpenShift.
    pub openshift_routes: SharedMap<ObjectName, Arc<OpenShiftRoute>>,
    /// Secrets that were asked for by name, or all of the manifests.
    pub secrets: SharedMap<ObjectName, Arc<Secret>>,
    /// ConfigMaps likewise.
    pub config_maps: SharedMap<ObjectName, Arc<ConfigMap>>,
    /// Why one that was asked for is not there. What is in neither map nor here does not exist.
    pub unread: BTreeMap<(NamedKind, ObjectName), Unread>,
    /// The resources of which nothing is known, `routes.route.openshift.io`: what depends on them is off.
    pub off: BTreeMap<String, Off>,
    /// What could not be read. The objects last read from there, if any, are still in the maps above.
    pub faults: Vec<Fault>,
}

impl Snapshot {
    /// Whether objects may be made in a namespace: it is not being deleted, as far as is known.
    #[must_use]
    pub fn accepts(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_none_or(|ns| ns.metadata.deletion_timestamp.is_none())
    }

    /// Whether both have the same objects of the kinds that refer to Secrets and ConfigMaps, or say who may.
    #[must_use]
    pub fn refers_alike(&self, other: &Self) -> bool {
        self.gateway_classes.is_same(&other.gateway_classes)
            && self.gateways.is_same(&other.gateways)
            && self.listener_sets.is_same(&other.listener_sets)
            // Their labels say which ListenerSets a Gateway lets in.
            && self.namespaces.is_same(&other.namespaces)
            && self.grants.is_same(&other.grants)
            && self.backend_tls_policies.is_same(&other.backend_tls_policies)
    }

    /// Whether nothing but EndpointSlices differs, up to where the API server was followed aside.
    #[must_use]
    pub fn is_same_but_slices(&self, other: &Self) -> bool {
        let Self {
            services,
            slices: _,
            gateway_classes,
            gateways,
            http_routes,
            grpc_routes,
            tls_routes,
            tcp_routes,
            udp_routes,
            listener_sets,
            backend_tls_policies,
            backend_traffic_policies,
            grants,
            seen: _,
            pools,
            namespaces,
            nodes,
            openshift_routes,
            secrets,
            config_maps,
            unread,
            off,
            faults,
        } = self;
        services.is_same(&other.services)
            && gateway_classes.is_same(&other.gateway_classes)
            && gateways.is_same(&other.gateways)
            && http_routes.is_same(&other.http_routes)
            && grpc_routes.is_same(&other.grpc_routes)
            && tls_routes.is_same(&other.tls_routes)
            && tcp_routes.is_same(&other.tcp_routes)
            && udp_routes.is_same(&other.udp_routes)
            && listener_sets.is_same(&other.listener_sets)
            && backend_tls_policies.is_same(&other.backend_tls_policies)
            && backend_traffic_policies.is_same(&other.backend_traffic_policies)
            && grants.is_same(&other.grants)
            && pools.is_same(&other.pools)
            && namespaces.is_same(&other.namespaces)
            && nodes.is_same(&other.nodes)
            && openshift_routes.is_same(&other.openshift_routes)
            && secrets.is_same(&other.secrets)
            && config_maps.is_same(&other.config_maps)
            && *unread == other.unread
            && *off == other.off
            && *faults == other.faults
    }
}

/// Why nothing is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// The cluster does not have it.
    Absent,
    /// The agent may not read it. What it has read before, if anything, is kept.
    Forbidden,
    /// The API server has not said yet.
    Unread,
}

/// A kind whose objects are read one by one, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedKind {
    /// `Secret`.
    Secret,
    /// `ConfigMap`.
    ConfigMap,
}

impl fmt::Display for NamedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        })
    }
}

/// Why nothing is known of an object that was asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The API server has not said yet.
    Pending,
    /// The agent may not read it.
    Forbidden(String),
    /// It cannot be asked for.
    Failing(String),
}

/// Revisions of the API server's store: every write up to there is in the snapshot, or in what was made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// For Services.
    pub services: u64,
    /// For Gateways.
    pub gateways: u64,
}

/// Something that could not be read: a file, a document in it, a watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, or the resource.
    pub origin: String,
    /// The line in the file, from 1.
    pub line: Option<u64>,
    /// The one object that it concerns, `Service default/web`; `None` where it may concern more.
    pub object: Option<String>,
    /// What was found and what was wanted.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::model::{fixture, tls::references};

    /// Else the Secret of a ListenerSet that comes is not read until something else changes.
    #[test]
    fn whatever_changes_what_is_referred_to_is_noticed() {
        let selector = json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}});
        let mut snapshot = fixture::snapshot(&json!([{"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {
            "gatewayClassName": "sluice", "allowedListeners": {"namespaces": selector}, "listeners": []}}]));
        let tls = json!({"certificateRefs": [{"name": "cert"}]});
        let set = json!({"kind": "ListenerSet", "metadata": {"name": "set", "namespace": "other"}, "spec": {
            "parentRef": {"name": "gw", "namespace": "default"},
            "listeners": [{"name": "web", "port": 443, "protocol": "HTTPS", "tls": tls}]}});
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "other", "labels": {"team": "a"}}});
        for (object, count) in [(set, 0), (namespace, 1)] {
            let before = snapshot.clone();
            fixture::add(&mut snapshot, &object).unwrap();
            assert!(!before.refers_alike(&snapshot), "{object}");
            assert_eq!(references(&snapshot).len(), count, "{object}");
        }
    }
}
