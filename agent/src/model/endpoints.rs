//! EndpointSlices -> the endpoints that a Service port's flows may go to.
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Backend, Node};
use crate::{
    api::{EndpointSlice, ObjectName, Service},
    source::Snapshot,
};

/// The slices of each Service, by `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default)]
pub struct SliceIndex {
    by_service: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
}

impl SliceIndex {
    /// Indexes a snapshot's slices.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let _ = snapshot;
        Self::default()
    }

    /// The slices of a Service, in the order of their names.
    #[must_use]
    pub fn of(&self, service: &ObjectName) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }
}

/// Which IP family endpoints must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Either: the proxy does not care.
    Any,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The outcome of endpoint selection for one Service port, as kube-proxy's `CategorizeEndpoints` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Where new flows may go under policy Cluster; topology hints are honoured.
    pub cluster: Vec<Backend>,
    /// Where new flows may go under policy Local.
    pub local: Vec<Backend>,
    /// Endpoints that still serve but get no new flow.
    pub draining: Vec<Backend>,
}

/// Selects the endpoints of one Service port. `port_name` is the port's name in the Service, "" for an unnamed one.
#[must_use]
pub fn select(slices: &SliceIndex, service: &Service, port_name: &str, family: Family, node: &Node) -> Selected {
    let _ = (slices, service, port_name, family, node);
    Selected::default()
}
