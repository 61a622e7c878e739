//! `metadata`, and the names that objects are known by.
use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

use super::wire::{list, or_default};

/// `metadata`, as far as it is read. Source: `meta/v1 ObjectMeta`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// The object's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its namespace; `default` where the manifest has none.
    #[serde(default = "default_namespace", deserialize_with = "namespace")]
    pub namespace: String,
    /// Its identity; empty in manifests.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    /// The revision of the API server's store that it was last written at; empty in manifests.
    #[serde(deserialize_with = "or_default")]
    pub resource_version: String,
    /// When it was created, RFC 3339; empty in manifests. Compares as text.
    pub creation_timestamp: Option<String>,
    /// When its deletion was asked for.
    pub deletion_timestamp: Option<String>,
    /// Counts changes of `spec`; 0 in manifests.
    #[serde(deserialize_with = "or_default")]
    pub generation: i64,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// Who must agree before it is gone.
    #[serde(deserialize_with = "list")]
    pub finalizers: Vec<String>,
    /// What it belongs to.
    #[serde(deserialize_with = "list")]
    pub owner_references: Vec<OwnerReference>,
}

/// What an object belongs to, in the same namespace or cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// The owner's group and version.
    #[serde(deserialize_with = "or_default")]
    pub api_version: String,
    /// The owner's kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// The owner's name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The owner's identity.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    /// Whether the owner manages the object; one does at most.
    #[serde(deserialize_with = "or_default")]
    pub controller: bool,
}

/// The namespace of an object that names none.
#[must_use]
pub fn default_namespace() -> String {
    "default".to_owned()
}

/// Reads a namespace; `null` and "" are [`default_namespace`].
fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let written = Option::<String>::deserialize(deserializer)?;
    Ok(written.filter(|ns| !ns.is_empty()).unwrap_or_else(default_namespace))
}

impl ObjectMeta {
    /// When it was created, to be kept.
    #[must_use]
    pub fn created(&self) -> Option<Arc<str>> {
        self.creation_timestamp.as_deref().map(Arc::from)
    }

    /// Whether the new one says the same, but for what says when it was written and by whom: `resourceVersion`,
    /// `managedFields`, and who must agree before the object is gone.
    #[must_use]
    pub fn is_quiet(&self, new: &Self) -> bool {
        let Self {
            name,
            namespace,
            uid,
            resource_version: _,
            creation_timestamp,
            deletion_timestamp,
            generation,
            labels,
            annotations,
            finalizers: _,
            owner_references,
        } = new;
        (name, namespace, uid) == (&self.name, &self.namespace, &self.uid)
            && (creation_timestamp, deletion_timestamp) == (&self.creation_timestamp, &self.deletion_timestamp)
            && (labels, annotations) == (&self.labels, &self.annotations)
            && (*owner_references == self.owner_references && *generation == self.generation)
    }

    /// Namespace and name.
    #[must_use]
    pub fn object_name(&self) -> ObjectName {
        ObjectName { ns: self.namespace.clone(), name: self.name.clone() }
    }
}

/// Namespace and name; written `namespace/name`, that of a cluster-scoped object, whose namespace is empty, `name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The namespace.
    pub ns: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(ns: impl Into<String>, name: impl Into<String>) -> Self {
        Self { ns: ns.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ns, name } = self;
        if ns.is_empty() { f.write_str(name) } else { write!(f, "{ns}/{name}") }
    }
}
