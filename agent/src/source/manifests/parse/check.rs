//! A document against the published shape of its kind: fields that do not exist, values that no enumeration has.
//!
//! In: the document's text once more, and what its heads said. Out: each fault with the path of the field, as the API
//! server's strict validation names it. Types are not checked here: reading the object does that.
//!
//! # Invariant
//! Every value of the document is counted, those that aliases repeat and those that nobody reads as well, so that what is
//! read afterwards is bounded by [`MAX_VALUES`].
use std::{cell::Cell, fmt};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::plan::Plan;
use crate::{
    source::manifests::schema::{Shape, of_kind},
    spelling,
};

/// Values of one file at most: scalars, lists and maps, those that aliases repeat included. A document that has more than
/// is left is a fault.
pub(super) const MAX_VALUES: usize = 1_000_000;
/// Faults of one object that are told; those beyond are left out.
const MAX_FAULTS: usize = 16;

/// The field of a Service that says who gets in.
pub(super) const SOURCE_RANGES: &str = "loadBalancerSourceRanges";

/// Bytes of a field's name that are told.
const MAX_NAME: usize = 64;

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// Which element of the list it is in; 0 where the document is the object.
    pub(super) element: usize,
    /// The path, what was found and what was wanted.
    pub(super) reason: String,
    /// It is about who gets in.
    pub(super) is_about_sources: bool,
}

/// Checks what a plan names.
pub(super) struct Check<'a> {
    plan: &'a Plan,
    report: &'a Report<'a>,
}

/// What all parts of one check share.
pub(super) struct Report<'a> {
    /// How many values the file may still have.
    left: &'a Cell<usize>,
    misfits: Cell<Vec<Misfit>>,
}

impl<'a> Report<'a> {
    /// Takes from `left` what it finds.
    pub(super) fn new(left: &'a Cell<usize>) -> Self {
        Self { left, misfits: Cell::default() }
    }

    /// The seed that runs over a document.
    pub(super) fn check(&'a self, plan: &'a Plan) -> Check<'a> {
        Check { plan, report: self }
    }

    /// What was found.
    pub(super) fn into_misfits(self) -> Vec<Misfit> {
        self.misfits.into_inner()
    }

    fn count<E: de::Error>(&self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| {
            E::custom(format!("the file has more than {MAX_VALUES} values, aliases counted as what they stand for"))
        })?);
        Ok(())
    }

    fn add(&self, element: usize, place: &Place<'_>, reason: String, is_about_sources: bool) {
        let mut misfits = self.misfits.take();
        let others = misfits.iter().filter(|m| m.element == element && !m.is_about_sources).count();
        if is_about_sources || others < MAX_FAULTS {
            misfits.push(Misfit { element, reason: format!("{place}: {reason}"), is_about_sources });
        }
        self.misfits.set(misfits);
    }
}

/// Where in a document.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Element(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Element(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

/// One value and what lies below it.
struct Part<'a> {
    /// `None` where anything may be.
    shape: Option<&'a Shape>,
    place: &'a Place<'a>,
    element: usize,
    report: &'a Report<'a>,
}

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { plan, report } = self;
        match plan {
            Plan::List(items) => deserializer.deserialize_any(List { items, report, is_inside: false }),
            Plan::Object(kind, _) => {
                let shape = of_kind(kind.name());
                Part { shape, place: &Place::Root, element: 0, report }.deserialize(deserializer)
            }
            Plan::Unknown(_) => Part { shape: None, place: &Place::Root, element: 0, report }.deserialize(deserializer),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.report.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { shape, place, element, report } = self;
        let shape = shape.filter(|shape| !shape.fields.is_empty());
        while let Some(name) = map.next_key::<String>()? {
            report.count()?;
            let place = Place::Field(place, &name[..name.floor_char_boundary(MAX_NAME)]);
            let inner = shape.and_then(|shape| shape.fields.get(&name));
            if let (Some(shape), None) = (shape, inner) {
                report.add(element, &place, unknown(&name, shape), is_about_sources(&name));
            }
            map.next_value_seed(Part { shape: inner, place: &place, element, report })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { shape, place, element, report } = self;
        for index in 0.. {
            let place = Place::Element(place, index);
            if seq.next_element_seed(Part { shape, place: &place, element, report })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_str<E: de::Error>(self, found: &str) -> Result<(), E> {
        let Self { shape, place, element, report } = self;
        // An empty value is as good as an absent one.
        let values = shape.map_or(&[][..], |shape| &shape.values);
        if !found.is_empty() && !values.is_empty() && values.iter().all(|v| v != found) {
            report.add(element, place, format!("found {found:?}, want {}", one_of(values)), false);
        }
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i128<E>(self, _: i128) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u128<E>(self, _: u128) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A list of objects, or its `items`.
struct List<'a> {
    items: &'a [Plan],
    report: &'a Report<'a>,
    is_inside: bool,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_inside { "a sequence of objects" } else { "a list of objects" })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { items, report, is_inside: _ } = self;
        while let Some(name) = map.next_key::<String>()? {
            report.count()?;
            if name == "items" {
                map.next_value_seed(List { items, report, is_inside: true })?;
            } else {
                map.next_value_seed(Part { shape: None, place: &Place::Root, element: 0, report })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { items, report, is_inside: _ } = self;
        for element in 0.. {
            let shape = match items.get(element) {
                Some(Plan::Object(kind, _)) => of_kind(kind.name()),
                Some(Plan::List(_) | Plan::Unknown(_)) | None => None,
            };
            let list = Place::Field(&Place::Root, "items");
            let place = Place::Element(&list, element);
            if seq.next_element_seed(Part { shape, place: &place, element, report })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Whether a field that does not exist, wherever it is written, was probably meant to say who gets in.
fn is_about_sources(name: &str) -> bool {
    let name = &name[..name.floor_char_boundary(MAX_NAME)];
    spelling::nearest(name, [SOURCE_RANGES]).is_some() || name.to_lowercase().contains("sourcerange")
}

fn unknown(name: &str, shape: &Shape) -> String {
    match spelling::nearest(name, shape.fields.keys().map(String::as_str)) {
        Some(known) => format!("unknown field, did you mean {known}?"),
        None => "unknown field".to_owned(),
    }
}

/// `A`, `A or B`, `A, B or C`.
fn one_of(values: &[String]) -> String {
    match values {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}
