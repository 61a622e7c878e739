//! An object from the API server: our own type of it, and what the watch needs to know.
use std::{borrow::Cow, marker::PhantomData, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta as WireMeta;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::{Kind, ObjectMeta};

/// Kept out of memory: the largest annotation there is, and of no use here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the API server sent for one object.
///
/// # Design
/// One that does not read as a `T` must not keep the others of its list from being read: it is an object with a reason.
#[derive(Debug)]
pub(super) struct Received<T> {
    /// Name, namespace and version alone, for the watch.
    wire: WireMeta,
    /// The same for us.
    pub(super) metadata: ObjectMeta,
    /// The object, or why it is none.
    pub(super) object: Result<Arc<T>, String>,
    kind: PhantomData<T>,
}

// Derived, it would want a `T: Clone`.
impl<T> Clone for Received<T> {
    fn clone(&self) -> Self {
        let Self { wire, metadata, object, kind: _ } = self;
        Self { wire: wire.clone(), metadata: metadata.clone(), object: object.clone(), kind: PhantomData }
    }
}

impl<'de, T: Kind> Deserialize<'de> for Received<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(LAST_APPLIED);
            }
        }
        let metadata = value.get("metadata").map(ObjectMeta::deserialize).transpose();
        let text = |field: &str| value.get("metadata")?.get(field)?.as_str().map(str::to_owned);
        // What does not read is refused below with its place; its name is still its name.
        let metadata = metadata.ok().flatten().unwrap_or_else(|| {
            let [name, namespace, resource_version, uid] =
                ["name", "namespace", "resourceVersion", "uid"].map(|field| text(field).unwrap_or_default());
            ObjectMeta { name, namespace, resource_version, uid, ..ObjectMeta::default() }
        });
        let wire = WireMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            uid: text("uid"),
            // A streaming list ends with a bookmark that carries an annotation.
            annotations: Some(metadata.annotations.clone()).filter(|a| a.contains_key("k8s.io/initial-events-end")),
            ..WireMeta::default()
        };
        if !T::keeps_revision(&metadata)
            && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("resourceVersion");
        }
        let object = serde_path_to_error::deserialize::<_, T>(value).map(Arc::new);
        let object = object.map_err(|error| format!("{}: {}", error.path(), error.inner()));
        Ok(Self { wire, metadata, object, kind: PhantomData })
    }
}

impl<T: Kind> kube::Resource for Received<T> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        T::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        T::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &WireMeta {
        &self.wire
    }

    fn meta_mut(&mut self) -> &mut WireMeta {
        &mut self.wire
    }
}

#[cfg(test)]
mod any;
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Service;

    #[test]
    fn an_object_that_is_nonsense_keeps_its_name_and_says_where() {
        let received: Received<Service> = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
            "spec": {"ports": [{"port": "eighty"}]}
        }))
        .unwrap();
        assert_eq!(received.metadata.object_name().to_string(), "shop/web");
        let reason = received.object.unwrap_err();
        assert!(reason.starts_with("spec.ports[0].port: ") && reason.contains("eighty"), "{reason}");
    }

    #[test]
    fn what_is_of_no_use_is_not_kept() {
        let received: Received<Service> = serde_json::from_value(json!({
            "metadata": {"name": "web", "annotations": {LAST_APPLIED: "{}", "a": "b"}, "managedFields": [{}]},
        }))
        .unwrap();
        assert_eq!(received.object.unwrap().metadata.annotations.keys().collect::<Vec<_>>(), ["a"]);
    }
}
