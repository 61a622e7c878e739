//! Which fields each kind has and which values its enumerations, as Kubernetes and the Gateway API publish them.
//!
//! In: `fields.txt`, an outline that `sluice generate fields` makes of the published schemas; for AddressPool our own
//! definition. Out: the [`Shape`] of a kind. Wider than what is read: a field that Kubernetes has and nobody here reads is
//! no fault. `status` is not followed: nobody writes it by hand.
//!
//! # Design
//! The OpenAPI documents and CustomResourceDefinitions are megabytes, their field names some ten kilobytes; so the
//! names are kept, as text that a reader can check. The experimental channel of the Gateway API is taken, which has
//! every field of the standard one.
mod generate;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::LazyLock,
};

pub use generate::{TableError, table};
use serde_json::Value;

use crate::api::crd;

/// A part of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Its fields, those of its elements where it is a list; empty where anything may be below it, or nothing.
    pub fields: BTreeMap<String, Shape>,
    /// The values of an enumeration; empty where any value may be.
    pub values: Vec<String>,
}

/// The outline of `metadata`, which all kinds share.
const METADATA: &str = "ObjectMeta";

static KINDS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
    let mut kinds = parse(include_str!("schema/fields.txt"));
    kinds.insert("AddressPool".to_owned(), Shape::of_definition(&crd::address_pool()));
    let metadata = kinds.remove(METADATA).unwrap_or_default();
    for shape in kinds.values_mut() {
        shape.fields.insert("metadata".to_owned(), metadata.clone());
    }
    kinds
});

/// What an object of a kind looks like; `None` for a kind that is not read.
pub(super) fn of_kind(kind: &str) -> Option<&'static Shape> {
    KINDS.get(kind)
}

impl Shape {
    /// From a schema; `definitions` are what its references name.
    fn of_schema(schema: &Value, definitions: &Value) -> Self {
        let referred = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(name) = referred.and_then(|path| path.rsplit('/').next()) {
            return Self::of_schema(&definitions[name], definitions);
        }
        if schema["items"].is_object() {
            return Self::of_schema(&schema["items"], definitions);
        }
        let fields = schema["properties"].as_object().into_iter().flatten();
        let fields = fields.map(|(name, inner)| (name.clone(), Self::of_schema(inner, definitions)));
        Self { fields: fields.collect(), values: Self::values_of(schema) }
    }

    /// From a CustomResourceDefinition: its stored version.
    fn of_definition(definition: &Value) -> Self {
        let versions = definition["spec"]["versions"].as_array();
        let stored = versions.and_then(|all| all.iter().find(|v| v["storage"] == true));
        let schema = stored.map_or(&Value::Null, |version| &version["schema"]["openAPIV3Schema"]);
        Self::of_schema(schema, &Value::Null).without_status()
    }

    fn without_status(mut self) -> Self {
        if let Some(status) = self.fields.get_mut("status") {
            *status = Self::default();
        }
        self
    }

    fn values_of(schema: &Value) -> Vec<String> {
        let values = schema["enum"].as_array().into_iter().flatten();
        values.filter_map(|v| Some(v.as_str()?.to_owned())).filter(|v| !v.is_empty()).collect()
    }
}

impl fmt::Display for Shape {
    /// Its fields, one a line, each level a blank further in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn write(shape: &Shape, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for (name, inner) in &shape.fields {
                write!(f, "{:depth$}{name}", "")?;
                if !inner.values.is_empty() {
                    write!(f, " = {}", inner.values.join(" | "))?;
                }
                f.write_char('\n')?;
                write(inner, depth + 1, f)?;
            }
            Ok(())
        }
        write(self, 0, f)
    }
}

/// Reads an outline: the shapes at its first level by their names. Lines that begin with `#` are comments.
fn parse(text: &str) -> BTreeMap<String, Shape> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut lines = lines.map(|line| (line.len() - line.trim_start().len(), line.trim_start())).peekable();
    fields(&mut lines, 0)
}

fn fields<'a>(
    lines: &mut std::iter::Peekable<impl Iterator<Item = (usize, &'a str)>>,
    depth: usize,
) -> BTreeMap<String, Shape> {
    let mut out = BTreeMap::new();
    while let Some((_, line)) = lines.next_if(|(at, line)| *at == depth && !line.is_empty()) {
        let (name, values) = line.split_once(" = ").unwrap_or((line, ""));
        let values = values.split(" | ").filter(|v| !v.is_empty()).map(str::to_owned).collect();
        let fields = fields(lines, depth + 1);
        out.insert(name.to_owned(), Shape { fields, values });
    }
    out
}
