//! The CustomResourceDefinitions of our kinds, made from their Rust types: `deploy/crds/`.
//!
//! What the types cannot say (bounds, rules over several fields) is added here, as what the API server checks before an
//! object is stored. The model checks all of it again: an object may be older than a rule.
use schemars::{JsonSchema, generate::SchemaSettings, transform::AddNullable};
use serde_json::{Map, Value, json};

use super::address_pool::{AddressPoolSpec, AddressPoolStatus, GROUP, MAX_ENTRIES, VERSION};

/// Characters of one entry of `spec.addresses` at most: two IPv6 addresses and a dash.
const MAX_ENTRY: usize = 79;
/// Labels of a selector at most.
const MAX_REQUIREMENTS: usize = 32;

/// The definition of AddressPool as YAML: `deploy/crds/addresspools.yaml`.
#[must_use]
pub fn address_pools() -> String {
    let mut text =
        String::from("# Written by `cargo xtask generate` from agent/src/api/address_pool.rs: edit the types there.\n");
    write(&address_pool(), 0, &mut text);
    text
}

pub(crate) fn address_pool() -> Value {
    let column = |name: &str, type_: &str, path: &str, description: &str| json!({"name": name, "type": type_, "jsonPath": path, "description": description});
    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("addresspools.{GROUP}"), "labels": {"app.kubernetes.io/name": "sluice"}},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": "AddressPool", "listKind": "AddressPoolList", "plural": "addresspools",
                "singular": "addresspool", "shortNames": ["pool"], "categories": ["sluice"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Addresses", "string", ".spec.addresses", "The addresses."),
                    column("Auto", "boolean", ".spec.autoAssign", "Whether who does not ask gets one."),
                    column("Priority", "integer", ".spec.priority", "Higher ones are tried first."),
                    column("Used", "string", ".status.used", "How many are in use."),
                    column("Free", "string", ".status.free", "How many can be given."),
                    column("Ready", "string", ready, "Whether all of it can be given from."),
                    column("Age", "date", ".metadata.creationTimestamp", "Since when it exists."),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "A pool of addresses that Services and Gateways get theirs from.",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": pool_spec(),
                        "status": pool_status(),
                    },
                }},
            }],
        },
    })
}

/// `spec` of a pool with the rules that hold for it.
fn pool_spec() -> Value {
    let mut spec = schema::<AddressPoolSpec>();
    add(
        &mut spec,
        "",
        json!({"x-kubernetes-validations": [
            {
                "rule": "has(self.addresses) != has(self.nodeAddresses)",
                "message": "want exactly one of addresses and nodeAddresses",
            },
            {
                "rule": "has(self.nodeAddresses) == has(oldSelf.nodeAddresses)",
                "message": "a pool of ranges cannot become one of nodes' addresses, nor the reverse: make another pool",
            },
        ]}),
    );
    add(&mut spec, "/properties/addresses", json!({"minItems": 1, "maxItems": MAX_ENTRIES}));
    add(
        &mut spec,
        "/properties/addresses/items",
        json!({"maxLength": MAX_ENTRY, "x-kubernetes-validations": [
            {
                "rule": "self.contains('-') ? self.split('-').size() == 2 && self.split('-').all(a, isIP(a)) : isCIDR(self) || isIP(self)",
                "message": "want a CIDR as 203.0.113.0/24, a range as 203.0.113.10-203.0.113.20 or an address",
            },
            {
                "rule": "!self.contains('-') || self.split('-').size() != 2 || !self.split('-').all(a, isIP(a)) || ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family()",
                "message": "a range begins and ends in different families, want one",
            },
            {
                "rule": "!isCIDR(self) || cidr(self) == cidr(self).masked()",
                "message": "bits are set behind the prefix, want the first address of the CIDR",
            },
        ]}),
    );
    add(&mut spec, "/properties/nodeAddresses/properties/types", json!({"minItems": 1, "maxItems": 2}));
    add(&mut spec, "/properties/nodeAddresses/properties/reservedPorts", json!({"maxItems": 64}));
    let port = json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
    set(&mut spec, "/properties/nodeAddresses/properties/reservedPorts/items", port);
    for selector in ["namespaceSelector", "serviceSelector", "nodeAddresses/properties/nodeSelector"]
        .map(|s| format!("/properties/{s}"))
    {
        let bare = spec.pointer(&selector).cloned().map(without_defaults).unwrap_or_default();
        set(&mut spec, &selector, bare);
        add(&mut spec, &selector, json!({"x-kubernetes-map-type": "atomic"}));
        let requirements = format!("{selector}/properties/matchExpressions");
        add(&mut spec, &requirements, json!({"maxItems": MAX_REQUIREMENTS}));
        add(&mut spec, &format!("{requirements}/items"), json!({"required": ["key", "operator"]}));
        let operators = json!({"enum": ["In", "NotIn", "Exists", "DoesNotExist"]});
        add(&mut spec, &format!("{requirements}/items/properties/operator"), operators);
    }
    spec
}

/// `status` of a pool; a list by keys needs them.
fn pool_status() -> Value {
    let mut status = without_defaults(schema::<AddressPoolStatus>());
    add(&mut status, "/properties/conditions/items", json!({"required": ["type", "status"]}));
    status
}

/// A type's schema as the API server takes it: structural and in one piece.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let settings = settings
        .with_transform(AddNullable::default())
        .with_transform(kube::core::schema::StructuralSchemaRewriter)
        .with_transform(kube::core::schema::OptionalEnum);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy(&mut schema);
    schema
}

/// Takes out titles and line breaks, which are those of the source.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("title").filter(|title| !title.is_string()).map(|field| map.insert("title".to_owned(), field));
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(all) => all.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Without `default`, where the API server would fill in what nobody means.
fn without_defaults(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            map.remove("default");
            map.values_mut().for_each(|v| *v = without_defaults(v.take()));
        }
        Value::Array(all) => all.iter_mut().for_each(|v| *v = without_defaults(v.take())),
        _ => {}
    }
    schema
}

/// Adds fields to what is at a place; the tests see to it that each place exists.
fn add(schema: &mut Value, place: &str, fields: Value) {
    if let (Some(Value::Object(map)), Value::Object(fields)) = (schema.pointer_mut(place), fields) {
        map.extend(fields);
    }
}

fn set(schema: &mut Value, place: &str, value: Value) {
    if let Some(at) = schema.pointer_mut(place) {
        *at = value;
    }
}

/// Any value as YAML.
#[must_use]
pub(crate) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if map.is_empty() => text.push_str("{}\n"),
        Value::Array(all) if all.is_empty() => text.push_str("[]\n"),
        _ => write(value, 0, &mut text),
    }
    text
}

/// Writes a map or a list as YAML, in the order of its keys.
fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => write_map(map, indent, "", out),
        Value::Array(all) => {
            for element in all {
                match element {
                    Value::Object(map) if !map.is_empty() => write_map(map, indent + 2, &format!("{pad}- "), out),
                    other => *out += &format!("{pad}- {}\n", scalar(other)),
                }
            }
        }
        other => *out += &format!("{pad}{}\n", scalar(other)),
    }
}

/// The first line begins with `head` where there is one, as in a list.
fn write_map(map: &Map<String, Value>, indent: usize, head: &str, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        let pad = if index == 0 && !head.is_empty() { head.to_owned() } else { " ".repeat(indent) };
        *out += &pad;
        *out += &plain(key);
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                *out += ":\n";
                write(value, indent + 2, out);
            }
            Value::Array(inner) if !inner.is_empty() => {
                *out += ":\n";
                write(value, indent + 2, out);
            }
            other => *out += &format!(": {}\n", scalar(other)),
        }
    }
}

/// A scalar or something empty, for which YAML is JSON; a word that cannot be mistaken goes without quotes.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

fn plain(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/'));
    let is_odd = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if is_word && !is_odd { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AddressPool;

    #[test]
    fn the_file_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds/addresspools.yaml");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == address_pools(), "{path} is stale: run `cargo xtask generate`");
    }

    #[test]
    fn the_text_is_the_definition() {
        let read: Value = serde_saphyr::from_str(&address_pools()).unwrap();
        assert_eq!(read, address_pool());
    }

    #[test]
    fn the_schema_is_structural_and_has_the_rules() {
        let crd = address_pool();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let spec = &root["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-validations"].as_array().map(Vec::len), Some(2));
        let entries = &spec["properties"]["addresses"];
        assert_eq!(
            (&entries["minItems"], &entries["maxItems"], &entries["default"]),
            (&json!(1), &json!(64), &Value::Null)
        );
        assert_eq!(entries["items"]["x-kubernetes-validations"].as_array().map(Vec::len), Some(3));
        assert_eq!(spec["properties"]["autoAssign"]["default"], json!(true));
        assert_eq!(spec["properties"]["announce"]["enum"], json!(["auto", "none"]));
        assert_eq!(spec["properties"]["announce"]["default"], json!("auto"));
        let nodes = &spec["properties"]["nodeAddresses"]["properties"];
        assert_eq!(nodes["reservedPorts"]["items"]["maximum"], json!(65535));
        assert_eq!(nodes["types"]["items"]["enum"], json!(["InternalIP", "ExternalIP"]));
        for selector in
            [&spec["properties"]["namespaceSelector"], &spec["properties"]["serviceSelector"], &nodes["nodeSelector"]]
        {
            let requirement = &selector["properties"]["matchExpressions"]["items"];
            assert_eq!(requirement["required"], json!(["key", "operator"]));
            assert_eq!(requirement["properties"]["operator"]["enum"].as_array().map(Vec::len), Some(4));
        }
        assert_eq!(root["properties"]["status"]["properties"]["total"]["default"], Value::Null);
        each(root, "", &mut |place, schema| {
            for odd in ["$ref", "definitions", "title", "anyOf", "oneOf", "const"] {
                assert!(schema.get(odd).is_none(), "{place}: {odd}");
            }
            assert!(schema["type"].is_string(), "{place} has no type");
        });
    }

    /// Visits each schema below one.
    fn each(schema: &Value, place: &str, visit: &mut dyn FnMut(&str, &Value)) {
        visit(place, schema);
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            each(inner, &format!("{place}.{name}"), visit);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                each(&schema[inner], &format!("{place}[]"), visit);
            }
        }
    }

    #[test]
    fn what_the_columns_show_is_there() {
        let mut pool = AddressPool::default();
        pool.status.conditions.push(crate::api::condition::Condition { type_: "Ready".into(), ..Default::default() });
        pool.spec.addresses.push("192.0.2.1".into());
        let written = serde_json::to_value(&pool).unwrap();
        for column in address_pool()["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap() {
            let path = column["jsonPath"].as_str().unwrap();
            let place = path.split('[').next().unwrap().replace('.', "/");
            assert!(written.pointer(&place).is_some(), "{path}");
        }
    }
}
