//! `Gateway` (gateway.networking.k8s.io/v1), as far as it is read.
//!
//! Enumerations stay text here: a value that is not known is for `model::gateway` to refuse, with the object's name.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    LabelSelector,
    condition::Condition,
    gateway_tls::{GatewayTls, ListenerTls},
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// A `Gateway`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: GatewaySpec,
    /// What was given.
    #[serde(deserialize_with = "or_default")]
    pub status: GatewayStatus,
}

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Whose Gateway it is.
    #[serde(deserialize_with = "or_default")]
    pub gateway_class_name: String,
    /// Where it listens.
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Listener>,
    /// The addresses asked for.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<GatewayAddress>,
    /// Which ListenerSets may add listeners; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_listeners: Option<AllowedListeners>,
    /// What is wanted of what serves it.
    #[serde(deserialize_with = "or_default")]
    pub infrastructure: GatewayInfrastructure,
    /// TLS beside the listeners'.
    #[serde(deserialize_with = "or_default")]
    pub tls: GatewayTls,
}

/// `spec.infrastructure` of a Gateway, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayInfrastructure {
    /// Settings of the controller's own; we have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<Value>,
    /// Labels of what is made for it.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of what is made for it.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// Which ListenerSets may add listeners to a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedListeners {
    /// From which namespaces; from none when absent.
    #[serde(deserialize_with = "or_default")]
    pub namespaces: RouteNamespaces,
}

/// `status` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// The addresses it has.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<GatewayAddress>,
    /// `Accepted`, `Programmed` and those of others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
    /// What became of each listener.
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<ListenerStatus>,
    /// How many ListenerSets are attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<i64>,
}

/// An entry of `status.listeners`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerStatus {
    /// The listener's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The kinds of routes that it takes, among those that it asks for.
    #[serde(deserialize_with = "list")]
    pub supported_kinds: Vec<RouteGroupKind>,
    /// How many routes are attached.
    #[serde(deserialize_with = "or_default")]
    pub attached_routes: i64,
    /// `Accepted`, `Conflicted`, `ResolvedRefs`, `Programmed` and those of others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
}

/// An address that is asked for or given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    /// `IPAddress` (the default), `Hostname` or a name with a domain.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The address; without one any address will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name, unique in the Gateway.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The host name it serves, exact or `*.suffix`; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port.
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// Which routes may attach.
    #[serde(deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
    /// For HTTPS and TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Which routes may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    #[serde(deserialize_with = "or_default")]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; those that fit the protocol when empty.
    #[serde(deserialize_with = "list")]
    pub kinds: Vec<RouteGroupKind>,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteNamespaces {
    /// `Same` (the default), `All`, `Selector`, `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// For `Selector`: the labels of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A kind of route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteGroupKind {
    /// The API group; gateway.networking.k8s.io when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_gateway_and_ignores_what_it_does_not_know() {
        let gateway: Gateway = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "edge", "namespace": "infra"},
            "spec": {
                "gatewayClassName": "sluice",
                "infrastructure": {"labels": {"a": "b"}},
                "addresses": [{"type": "IPAddress", "value": "192.0.2.10"}, {"value": "2001:db8::1"}],
                "listeners": [{"name": "web", "port": 80, "protocol": "HTTP", "hostname": "*.example.com",
                    "allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "HTTPRoute"}]}}]
            },
            "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.10"}]}
        }))
        .unwrap();
        assert_eq!(gateway.spec.gateway_class_name, "sluice");
        assert_eq!(gateway.spec.addresses[1].value.as_deref(), Some("2001:db8::1"));
        assert_eq!(gateway.spec.listeners[0].allowed_routes.namespaces.from.as_deref(), Some("All"));
        assert_eq!(gateway.spec.listeners[0].allowed_routes.kinds[0].kind, "HTTPRoute");
        assert_eq!(gateway.status.addresses.len(), 1);
    }
}
