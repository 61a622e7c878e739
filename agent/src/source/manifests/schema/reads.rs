//! Which fields a type reads, as its derived `Deserialize` asks for them.
//!
//! A deserializer that has whatever it is asked for: of a structure every field, of a list one element. So the names that it is
//! asked for are all that the type has, and can be held against the published ones. Below a name that is not published there is nothing.
use std::{cell::RefCell, collections::BTreeSet};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};

/// The paths of all fields that a type reads, with `/` before each name; `is_published` says which there are.
pub(super) fn fields<T: for<'de> Deserialize<'de>>(is_published: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let seen = RefCell::default();
    let all = Asked { path: String::new(), is_end: false, is_published, seen: &seen };
    T::deserialize(all).expect("what has everything lacks nothing");
    seen.into_inner()
}

/// Whatever is at a path.
struct Asked<'a> {
    path: String,
    /// Nothing is below it.
    is_end: bool,
    is_published: &'a dyn Fn(&str) -> bool,
    seen: &'a RefCell<BTreeSet<String>>,
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(1)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("1")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("1")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(One(Some(self).filter(|asked| !asked.is_end)))
    }

    /// Its keys are anybody's.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { asked: self, names: &[] })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let names = if self.is_end { &[] } else { names };
        visitor.visit_map(Fields { asked: self, names })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(variants[0]))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

/// A list of one element.
struct One<'a>(Option<Asked<'a>>);

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.0.take().map(|asked| seed.deserialize(asked)).transpose()
    }
}

/// A structure with these fields.
struct Fields<'a> {
    asked: Asked<'a>,
    names: &'static [&'static str],
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let name = self.names.first().map(|name| StrDeserializer::<Error>::new(name));
        name.map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, rest) = self.names.split_first().expect("a value has a key before it");
        self.names = rest;
        let path = format!("{}/{name}", self.asked.path);
        let Asked { is_published, seen, .. } = self.asked;
        seen.borrow_mut().insert(path.clone());
        let is_end = !is_published(&path);
        seed.deserialize(Asked { path, is_end, is_published, seen })
    }
}
