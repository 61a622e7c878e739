//! `Lease` (coordination.k8s.io/v1), as far as it is read.
use serde::{Deserialize, Serialize};

use super::{meta::ObjectMeta, wire::or_default};

/// A `Lease`: who holds something, and when they last said so.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lease {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// Who and when.
    #[serde(deserialize_with = "or_default")]
    pub spec: LeaseSpec,
}

/// `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    /// Who holds it; empty when nobody does.
    #[serde(deserialize_with = "or_default")]
    pub holder_identity: String,
    /// Units: seconds.
    #[serde(deserialize_with = "or_default")]
    pub lease_duration_seconds: i64,
    /// When the holder last renewed it, RFC 3339 by the holder's clock: only compared for change.
    #[serde(deserialize_with = "or_default")]
    pub renew_time: String,
}
