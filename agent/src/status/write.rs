//! What is to be written to one object, as a value.
use serde_json::{Value, json};

use crate::{
    api::{Kind, ObjectMeta},
    model::ObjectRef,
};

/// One write. All name the revision they are based on: what was changed meanwhile, or deleted and made anew, is refused
/// by the API server and looked at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What is done.
    pub verb: Verb,
    /// The object.
    pub object: ObjectRef,
    /// Its path, with the subresource; that of its collection where it is created.
    pub path: String,
    /// The revision that the write is based on; empty where there is no object yet.
    pub revision: String,
    /// The patch, the object, or the conditions of its deletion.
    pub body: Value,
    /// What is told about it once it is done.
    pub events: Vec<Note>,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A merge patch.
    Patch,
    /// Creates an object; one that is there already stays as it is.
    Create,
    /// Deletes an object.
    Delete,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether a person should look.
    pub is_warning: bool,
    /// CamelCase, the upstream name where there is one.
    pub reason: &'static str,
    /// The sentence.
    pub text: String,
}

impl Write {
    /// A write to an object, or to a subresource of it.
    pub fn new<T: Kind>(metadata: &ObjectMeta, subresource: Option<&str>, mut body: Value) -> Self {
        if let Some(body) = body.as_object_mut() {
            let target = body.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(target) = target.as_object_mut() {
                target.insert("resourceVersion".to_owned(), metadata.resource_version.clone().into());
                target.insert("uid".to_owned(), metadata.uid.clone().into());
            }
        }
        let subresource = subresource.map(|s| format!("/{s}")).unwrap_or_default();
        let path = format!("{}/{}{subresource}", collection::<T>(&metadata.namespace), metadata.name);
        Self::with::<T>(Verb::Patch, metadata, path, body)
    }

    /// Creates an object with this metadata and this content.
    pub fn create<T: Kind>(metadata: &ObjectMeta, body: Value) -> Self {
        Self::with::<T>(Verb::Create, metadata, collection::<T>(&metadata.namespace), body)
    }

    /// Deletes an object.
    pub fn delete<T: Kind>(metadata: &ObjectMeta) -> Self {
        let path = format!("{}/{}", collection::<T>(&metadata.namespace), metadata.name);
        let conditions = json!({ "uid": metadata.uid, "resourceVersion": metadata.resource_version });
        Self::with::<T>(Verb::Delete, metadata, path, json!({ "preconditions": conditions }))
    }

    fn with<T: Kind>(verb: Verb, metadata: &ObjectMeta, path: String, body: Value) -> Self {
        let object = ObjectRef::new(T::KIND, metadata.object_name());
        Self { verb, object, path, revision: metadata.resource_version.clone(), body, events: Vec::new() }
    }

    /// The same, with something to tell.
    #[must_use]
    pub fn telling(mut self, reason: &'static str, text: String) -> Self {
        self.events.push(Note { is_warning: false, reason, text });
        self
    }

    /// The same, with something to warn of.
    #[must_use]
    pub fn warning(mut self, reason: &'static str, text: String) -> Self {
        self.events.push(Note { is_warning: true, reason, text });
        self
    }
}

/// The path of all objects of a kind, or of those in a namespace.
fn collection<T: Kind>(namespace: &str) -> String {
    let group = if T::GROUP.is_empty() { "/api".to_owned() } else { format!("/apis/{}", T::GROUP) };
    let namespace = if T::IS_NAMESPACED { format!("/namespaces/{namespace}") } else { String::new() };
    format!("{group}/{}{namespace}/{}", T::VERSION, T::PLURAL)
}
