//! What the wire allows and serde's derive does not: `null` for a field that has a default.
//!
//! The API server writes `endpoints: null` and `labels: null` for empty collections; both mean the same as a field that
//! is not there.
use serde::{Deserialize, Deserializer};

/// Reads a field; `null` is its default. For `#[serde(default, deserialize_with = "...")]`.
///
/// # Errors
/// When the field is neither `null` nor a `T`.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a list as [`or_default`] does, and gives back what it has reserved for entries that did not come: most lists have one entry,
/// and room for four.
///
/// # Errors
/// When the field is neither `null` nor a list of `T`.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let mut list = or_default::<D, Vec<T>>(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use crate::api::HttpRoute;

    #[test]
    fn a_list_takes_the_room_of_its_entries() {
        let text = "{spec: {parentRefs: [{name: a}], hostnames: [a.example], rules: [{backendRefs: [{name: a}], matches: null}]}}";
        let route: HttpRoute = serde_saphyr::from_str(text).unwrap();
        let spec = &route.spec;
        let rule = &spec.rules[0];
        let room = [spec.parent_refs.capacity(), spec.hostnames.capacity(), spec.rules.capacity()];
        assert_eq!((room, rule.backend_refs.capacity(), rule.matches.capacity()), ([1; 3], 1, 0));
    }
}
