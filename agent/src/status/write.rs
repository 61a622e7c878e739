//! What is to be written to one object, as a value.
use serde_json::Value;

use crate::{
    api::{Kind, ObjectMeta},
    model::ObjectRef,
};

/// One write. All are merge patches that name the revision they are based on: an object that was changed meanwhile, or
/// deleted and made anew, is refused by the API server and looked at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The object.
    pub object: ObjectRef,
    /// Its path, with the subresource.
    pub path: String,
    /// The revision that the write is based on.
    pub revision: String,
    /// The patch.
    pub body: Value,
    /// What is told about it once it is done.
    pub event: Option<Note>,
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
        let group = if T::GROUP.is_empty() { "/api".to_owned() } else { format!("/apis/{}", T::GROUP) };
        let namespace = if T::IS_NAMESPACED { format!("/namespaces/{}", metadata.namespace) } else { String::new() };
        let subresource = subresource.map(|s| format!("/{s}")).unwrap_or_default();
        Self {
            object: ObjectRef::new(T::KIND, metadata.object_name()),
            path: format!("{group}/{}{namespace}/{}/{}{subresource}", T::VERSION, T::PLURAL, metadata.name),
            revision: metadata.resource_version.clone(),
            body,
            event: None,
        }
    }

    /// The same, with something to tell.
    #[must_use]
    pub fn telling(mut self, reason: &'static str, text: String) -> Self {
        self.event = Some(Note { is_warning: false, reason, text });
        self
    }
}
