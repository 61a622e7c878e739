//! `Route` (route.openshift.io/v1), as far as it is read: how an OpenShift cluster lets clients reach a Service.
use serde::{Deserialize, Serialize};

use super::{meta::ObjectMeta, service::IntOrString, wire::or_default};

/// A `Route`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenShiftRoute {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: OpenShiftRouteSpec,
}

/// `spec` of a Route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenShiftRouteSpec {
    /// The host name that clients ask for; the cluster chooses one where none is asked for.
    #[serde(deserialize_with = "or_default")]
    pub host: String,
    /// Where requests go.
    #[serde(deserialize_with = "or_default")]
    pub to: OpenShiftRouteTarget,
    /// To which port; any without it.
    pub port: Option<OpenShiftRoutePort>,
    /// How TLS is dealt with; without it there is none.
    pub tls: Option<OpenShiftRouteTls>,
}

/// `spec.to` of a Route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct OpenShiftRouteTarget {
    /// `Service`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Its name, in the namespace of the Route.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// `spec.port` of a Route.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenShiftRoutePort {
    /// The name of the Service's port, or the number of the endpoints'.
    pub target_port: IntOrString,
}

/// `spec.tls` of a Route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenShiftRouteTls {
    /// `passthrough`, `edge` or `reencrypt`.
    #[serde(deserialize_with = "or_default")]
    pub termination: String,
}
