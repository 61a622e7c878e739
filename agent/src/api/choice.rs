//! Values of closed lists: read once, into a type that is either one of them or says what was written instead.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A closed list of values, by the names that the API has for them; the default is what an absent field means.
pub trait Listed: Copy + Default + Eq + fmt::Debug + 'static {
    /// Each value with its name.
    const ALL: &'static [(Self, &'static str)];
}

/// A field that holds one of a closed list.
///
/// # Errors
/// Reading never fails: an object with a value that nobody knows must be named and refused, and harm no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// One of the list; the default where the field is absent, `null` or empty.
    Known(T),
    /// What was written instead.
    Unknown(String),
}

impl<T: Listed> Choice<T> {
    /// Whether it is this value.
    pub fn is(&self, value: T) -> bool {
        matches!(self, Self::Known(known) if *known == value)
    }

    /// What is wrong with it, with the field's name; `None` for one of the list.
    #[must_use]
    pub fn fault(&self, field: &str) -> Option<String> {
        let Self::Unknown(found) = self else { return None };
        let names = T::ALL.iter().map(|(_, name)| *name).collect::<Vec<_>>();
        Some(format!("{field} is {found:?}, want {}", names.join(" or ")))
    }
}

impl<T: Listed> Default for Choice<T> {
    fn default() -> Self {
        Self::Known(T::default())
    }
}

impl<T: Listed> From<&str> for Choice<T> {
    fn from(written: &str) -> Self {
        if written.is_empty() {
            return Self::default();
        }
        let known = T::ALL.iter().find(|(_, name)| *name == written);
        known.map_or_else(|| Self::Unknown(written.to_owned()), |(value, _)| Self::Known(*value))
    }
}

impl<T: Listed> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => f.write_str(T::ALL.iter().find(|(v, _)| v == value).map_or("", |(_, name)| name)),
            Self::Unknown(written) => f.write_str(written),
        }
    }
}

impl<'de, T: Listed> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Option::<String>::deserialize(deserializer)?;
        Ok(Self::from(written.unwrap_or_default().as_str()))
    }
}

impl<T: Listed> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::service::{ServiceSpec, SessionAffinity, TrafficPolicy};

    #[test]
    fn what_is_written_is_one_of_the_list_or_is_kept_as_it_was() {
        let spec = |text: &str| serde_saphyr::from_str::<ServiceSpec>(text).unwrap();
        for text in
            ["{}", "{externalTrafficPolicy: null}", "{externalTrafficPolicy: ''}", "{externalTrafficPolicy: Cluster}"]
        {
            assert_eq!(spec(text).external_traffic_policy, Choice::Known(TrafficPolicy::Cluster), "{text}");
        }
        assert!(spec("{externalTrafficPolicy: Local}").external_traffic_policy.is(TrafficPolicy::Local));
        let odd = spec("{externalTrafficPolicy: local, sessionAffinity: clientip}");
        assert!(
            !odd.external_traffic_policy.is(TrafficPolicy::Cluster) && !odd.session_affinity.is(SessionAffinity::None)
        );
        let found = [odd.external_traffic_policy.fault("a"), odd.session_affinity.fault("b")];
        let expected = ["a is \"local\", want Cluster or Local", "b is \"clientip\", want None or ClientIP"];
        assert_eq!(found, expected.map(|text| Some(text.to_owned())));
        assert_eq!(serde_json::to_value(&odd.session_affinity).unwrap(), "clientip");
    }
}
