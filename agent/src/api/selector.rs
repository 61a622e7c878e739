//! Label selectors.
use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire::{list, or_default};

/// Selects objects by their labels; all requirements must hold, and without any it selects every object. Source:
/// `meta/v1 LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be equal.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement {
    /// The label.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "or_default")]
    pub operator: String,
    /// For `In` and `NotIn`: the values.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// What is wrong with it, if anything is; such a selector selects nothing.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.match_expressions.iter().enumerate().find_map(|(index, requirement)| {
            let Requirement { key, operator, values } = requirement;
            let text = match (operator.as_str(), values.is_empty()) {
                _ if key.is_empty() => "key is empty, want a label".to_owned(),
                ("In" | "NotIn", true) => format!("operator {operator} has no values, want one at least"),
                ("Exists" | "DoesNotExist", false) => format!("operator {operator} has values, want none"),
                ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => return None,
                _ => format!("operator is {operator:?}, want In, NotIn, Exists or DoesNotExist"),
            };
            Some(format!("matchExpressions[{index}]: {text}"))
        })
    }

    /// Whether it selects an object with these labels.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    /// A label that is absent is in no set of values: `NotIn` holds, as in Kubernetes.
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => found.is_some_and(|value| self.values.contains(value)),
            "NotIn" => !self.values.is_empty() && found.is_none_or(|value| !self.values.contains(value)),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    }
}

impl fmt::Display for LabelSelector {
    /// As `kubectl --selector` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let equal = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let further =
            self.match_expressions.iter().map(|Requirement { key, operator, values }| match operator.as_str() {
                "In" => format!("{key} in ({})", values.join(",")),
                "NotIn" => format!("{key} notin ({})", values.join(",")),
                "Exists" => key.clone(),
                "DoesNotExist" => format!("!{key}"),
                odd => format!("{key} {odd}"),
            });
        f.write_str(&equal.chain(further).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_kubernetes_does() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())]);
        for (text, expected) in [
            ("{}", true),
            ("{matchLabels: {app: web}}", true),
            ("{matchLabels: {app: web, tier: back}}", false),
            ("{matchLabels: {other: web}}", false),
            ("{matchExpressions: [{key: app, operator: In, values: [db, web]}]}", true),
            ("{matchExpressions: [{key: none, operator: In, values: [web]}]}", false),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [db]}]}", true),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [web]}]}", false),
            ("{matchExpressions: [{key: none, operator: NotIn, values: [web]}]}", true),
            ("{matchExpressions: [{key: app, operator: Exists}]}", true),
            ("{matchExpressions: [{key: app, operator: DoesNotExist}]}", false),
            ("{matchExpressions: [{key: none, operator: DoesNotExist}, {key: app, operator: Exists}]}", true),
            ("{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: NotIn, values: [front]}]}", false),
            ("{matchExpressions: [{key: app, operator: Is, values: [web]}]}", false),
        ] {
            let selector = serde_saphyr::from_str::<LabelSelector>(text).unwrap();
            assert_eq!(selector.selects(&labels), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_named_and_selects_nothing() {
        for (text, expected) in [
            ("{key: app, operator: Is}", "operator is \"Is\", want In, NotIn, Exists or DoesNotExist"),
            ("{key: app, operator: In}", "operator In has no values, want one at least"),
            ("{key: app, operator: NotIn, values: []}", "operator NotIn has no values, want one at least"),
            ("{key: app, operator: Exists, values: [a]}", "operator Exists has values, want none"),
            ("{operator: Exists}", "key is empty, want a label"),
        ] {
            let selector = format!("{{matchExpressions: [{{key: a, operator: Exists}}, {text}]}}");
            let selector = serde_saphyr::from_str::<LabelSelector>(&selector).unwrap();
            assert_eq!(selector.fault(), Some(format!("matchExpressions[1]: {expected}")));
        }
        let all = "{matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d, e]}, {key: f, operator: DoesNotExist}]}";
        let all = serde_saphyr::from_str::<LabelSelector>(all).unwrap();
        assert_eq!((all.fault(), all.to_string()), (None, "a=b,c in (d,e),!f".to_owned()));
    }
}
