//! The published schemas -> `fields.txt`.
use std::{collections::BTreeMap, io, path::PathBuf};

use serde_json::Value;

use super::{METADATA, Shape};

/// The kinds of Kubernetes' own that are read, by the names of their schemas.
const OF_KUBERNETES: [(&str, &str); 7] = [
    ("io.k8s.api.core.v1.Service", "Service"),
    ("io.k8s.api.core.v1.Namespace", "Namespace"),
    ("io.k8s.api.core.v1.Node", "Node"),
    ("io.k8s.api.core.v1.Secret", "Secret"),
    ("io.k8s.api.core.v1.ConfigMap", "ConfigMap"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "EndpointSlice"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", METADATA),
];

/// Enumerations of Kubernetes' own, whose published schemas have none. Source: the constants of `k8s.io/api/core/v1` and
/// `k8s.io/api/discovery/v1`, as `pkg/apis/*/validation` checks them.
const ENUMERATIONS: [(&str, &str, &[&str]); 9] = [
    ("Service", "/spec/externalTrafficPolicy", &["Cluster", "Local"]),
    ("Service", "/spec/internalTrafficPolicy", &["Cluster", "Local"]),
    ("Service", "/spec/ipFamilies", &["IPv4", "IPv6"]),
    ("Service", "/spec/ipFamilyPolicy", &["SingleStack", "PreferDualStack", "RequireDualStack"]),
    ("Service", "/spec/ports/protocol", &["TCP", "UDP", "SCTP"]),
    ("Service", "/spec/sessionAffinity", &["None", "ClientIP"]),
    ("Service", "/spec/type", &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    ("EndpointSlice", "/addressType", &["IPv4", "IPv6", "FQDN"]),
    ("EndpointSlice", "/ports/protocol", &["TCP", "UDP", "SCTP"]),
];

const HEAD: &str = "\
# Fields and enumerations of the kinds that manifests may hold. Written by `sluice generate fields FILE...` from
#   api/openapi-spec/v3/{api__v1,apis__discovery.k8s.io__v1}_openapi.json of the Go module k8s.io/kubernetes v1.36.0
#   config/crd/experimental/gateway.networking.k8s.io_*.yaml of sigs.k8s.io/gateway-api v1.7.0
";

/// A schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is neither JSON nor YAML.
    #[error("{}: {reason}, want an OpenAPI document or a CustomResourceDefinition", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// The documents lack a field.
    #[error("{kind} has no field {place}, want the documents that fields.txt names")]
    Absent {
        /// The kind.
        kind: &'static str,
        /// The field.
        place: &'static str,
    },
}

/// The outline of the kinds that these documents define.
///
/// # Errors
/// A document cannot be read.
pub fn table(files: &[PathBuf]) -> Result<String, TableError> {
    let mut kinds = BTreeMap::new();
    for path in files {
        let text = std::fs::read_to_string(path).map_err(|source| TableError::Read { path: path.clone(), source })?;
        let parsed = match path.extension().is_some_and(|e| e == "json") {
            true => serde_json::from_str::<Value>(&text).map_err(|e| e.to_string()),
            false => serde_saphyr::from_str::<Value>(&text).map_err(|e| e.to_string()),
        };
        let document = parsed.map_err(|reason| TableError::Parse { path: path.clone(), reason })?;
        if let Some(kind) = document["spec"]["names"]["kind"].as_str() {
            kinds.insert(kind.to_owned(), Shape::of_definition(&document));
        }
        let schemas = &document["components"]["schemas"];
        for (name, kind) in OF_KUBERNETES.into_iter().filter(|(name, _)| schemas[name].is_object()) {
            kinds.insert(kind.to_owned(), Shape::of_schema(&schemas[name], schemas).without_status());
        }
    }
    for (kind, place, values) in ENUMERATIONS {
        let mut fields = place.split('/').skip(1);
        let part =
            kinds.get_mut(kind).and_then(|shape| fields.try_fold(shape, |shape, field| shape.fields.get_mut(field)));
        let part = part.ok_or(TableError::Absent { kind, place })?;
        part.values = values.iter().map(ToString::to_string).collect();
    }
    for (_, shape) in kinds.iter_mut().filter(|(kind, _)| *kind != METADATA) {
        shape.fields.insert("metadata".to_owned(), Shape::default());
    }
    Ok(format!("{HEAD}{}", Shape { fields: kinds, values: Vec::new() }))
}
