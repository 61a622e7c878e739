//! What a document is, read first, and the seed that then reads it as that.
use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

pub(super) use super::object::Kind;
use super::object::Object;
use crate::api::{ObjectName, wire::or_default};

/// What a document is, read before the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Head {
    #[serde(deserialize_with = "or_default")]
    api_version: String,
    #[serde(deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    metadata: HeadMeta,
    #[serde(deserialize_with = "heads")]
    items: Option<Vec<Head>>,
}

/// Elements of one list at most.
const MAX_ITEMS: usize = 100_000;

/// Reads the heads of a list's elements, [`MAX_ITEMS`] of them: they are held before anything is counted.
fn heads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Head>>, D::Error> {
    struct Heads;

    impl<'de> Visitor<'de> for Heads {
        type Value = Option<Vec<Head>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence of objects")
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_seq(self)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while let Some(head) = seq.next_element()? {
                if all.len() == MAX_ITEMS {
                    return Err(A::Error::custom(format_args!("has more than {MAX_ITEMS} elements")));
                }
                all.push(head);
            }
            Ok(Some(all))
        }
    }

    deserializer.deserialize_option(Heads)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeadMeta {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
}

/// What to read a document, or an element of a list, as.
pub(super) enum Plan {
    Object(Kind, String),
    List(Vec<Plan>),
    Unknown(String),
}

impl Plan {
    pub(super) fn of(head: &Head, place: &str) -> Result<Self, String> {
        let Head { api_version, kind, metadata, items } = head;
        if kind.is_empty() || api_version.is_empty() {
            let missing = if kind.is_empty() { "kind" } else { "apiVersion" };
            return Err(format!("{place}{missing}: missing, want it, as in \"apiVersion: v1, kind: Service\""));
        }
        if let (Some(items), Some(of)) = (items, kind.strip_suffix("List")) {
            let element = |(index, item): (usize, &Head)| {
                // The elements of a ServiceList need not repeat what they are.
                let mut item = Head { items: None, ..item.clone_head() };
                if item.kind.is_empty() && !of.is_empty() {
                    (item.kind, item.api_version) = (of.to_owned(), api_version.clone());
                }
                Self::of(&item, &format!("{place}items[{index}]."))
            };
            return items.iter().enumerate().map(element).collect::<Result<_, _>>().map(Self::List);
        }
        if (api_version.as_str(), kind.as_str()) == ("v1", "List") {
            return Ok(Self::List(Vec::new()));
        }
        let Some(known) = Kind::of(api_version, kind) else {
            return Ok(Self::Unknown(format!("{api_version} {kind}")));
        };
        if metadata.name.is_empty() {
            return Err(format!("{place}metadata.name: missing in a {kind}, want a name"));
        }
        let ns = match metadata.namespace.as_str() {
            _ if known.is_cluster_scoped() => "",
            "" => "default",
            written => written,
        };
        Ok(Self::Object(known, format!("{kind} {}", ObjectName::new(ns, &metadata.name))))
    }

    pub(super) fn has_objects(&self) -> bool {
        match self {
            Self::Object(..) => true,
            Self::List(items) => items.iter().any(Self::has_objects),
            Self::Unknown(_) => false,
        }
    }

    pub(super) fn unknown(&self, into: &mut Vec<String>) {
        match self {
            Self::Object(..) => {}
            Self::List(items) => items.iter().for_each(|i| i.unknown(into)),
            Self::Unknown(kind) => into.push(kind.clone()),
        }
    }

    /// The object that an element of it is; 0 where it is no list.
    pub(super) fn name_of(&self, element: usize) -> Option<&str> {
        match self {
            Self::Object(_, name) => Some(name),
            Self::List(items) => match items.get(element) {
                Some(Self::Object(_, name)) => Some(name),
                Some(Self::List(_) | Self::Unknown(_)) | None => None,
            },
            Self::Unknown(_) => None,
        }
    }

    /// Leaves out an element, or the whole.
    pub(super) fn skip(&mut self, element: usize) {
        match self {
            Self::List(items) => {
                if let Some(item) = items.get_mut(element) {
                    *item = Self::Unknown(String::new());
                }
            }
            Self::Object(..) | Self::Unknown(_) => *self = Self::Unknown(String::new()),
        }
    }

    /// Puts the object's name before a reason.
    pub(super) fn locate(&self, reason: &str) -> String {
        let index = reason.strip_prefix("items[").and_then(|r| r.split_once(']')?.0.parse::<usize>().ok());
        let of = self.name_of(index.unwrap_or_default()).filter(|_| index.is_some() || !matches!(self, Self::List(_)));
        of.map_or_else(|| reason.to_owned(), |name| format!("{name}: {reason}"))
    }
}

impl Head {
    /// Without the elements: lists are not nested.
    fn clone_head(&self) -> Self {
        let Self { api_version, kind, metadata: HeadMeta { name, namespace }, items: _ } = self;
        let metadata = HeadMeta { name: name.clone(), namespace: namespace.clone() };
        Self { api_version: api_version.clone(), kind: kind.clone(), metadata, items: None }
    }
}

impl<'de> DeserializeSeed<'de> for &Plan {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Object>, D::Error> {
        match self {
            Plan::Object(kind, _) => Ok(vec![kind.read(deserializer)?]),
            Plan::List(items) => deserializer.deserialize_map(ListVisitor(items)),
            Plan::Unknown(_) => IgnoredAny::deserialize(deserializer).map(|_| Vec::new()),
        }
    }
}

/// Reads `items` of a list, each as planned.
struct ListVisitor<'a>(&'a [Plan]);

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Object>, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                objects = map.next_value_seed(Items(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct Items<'a>(&'a [Plan]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Object>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Object>, A::Error> {
        let mut objects = Vec::new();
        for plan in self.0 {
            objects.extend(seq.next_element_seed(plan)?.into_iter().flatten());
        }
        // The heads were read from the same text: nothing is left but the end.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(objects)
    }
}
