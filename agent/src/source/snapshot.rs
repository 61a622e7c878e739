//! Everything that the API (or the manifests directory) says, at one moment.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::api::{
    AddressPool, EndpointSlice, Gateway, GatewayClass, HttpRoute, Namespace, Node, ObjectName, OpenShiftRoute, Service,
};

/// Immutable, indexed by kind and name. Cheap to clone: objects are shared with the snapshot before.
///
/// # Design
/// Objects are `Arc`s that keep their identity while the object does not change, so that a stage may compare pointers
/// to find what an event touched.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// GatewayClasses, by name.
    pub gateway_classes: BTreeMap<String, Arc<GatewayClass>>,
    /// Gateways.
    pub gateways: BTreeMap<ObjectName, Arc<Gateway>>,
    /// HTTPRoutes.
    pub http_routes: BTreeMap<ObjectName, Arc<HttpRoute>>,
    /// Up to where the API server was followed; all 0 from manifests.
    pub seen: Seen,
    /// AddressPools, by name.
    pub pools: BTreeMap<String, Arc<AddressPool>>,
    /// Namespaces, by name.
    pub namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Nodes, by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// Routes of OpenShift.
    pub openshift_routes: BTreeMap<ObjectName, Arc<OpenShiftRoute>>,
    /// The resources that the cluster does not have, `routes.route.openshift.io`.
    pub absent: BTreeSet<String>,
    /// What could not be read. The objects last read from there, if any, are still in the maps above.
    pub faults: Vec<Fault>,
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
    /// What was found and what was wanted.
    pub reason: String,
}
