//! Which references across namespaces ReferenceGrants permit.
//!
//! In: the ReferenceGrants of a snapshot. Out: the answer to one question, [`Grants::permits`], that every reference asks
//! before anything else: whether what it names exists is told nobody who may not refer to it.
//!
//! # Design
//! Grants are indexed once per compile, so that a reference costs a look-up, however many grants there are.
use std::collections::{BTreeMap, BTreeSet};

use crate::{api::ReferenceGrant, source::Snapshot};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKind<'a> {
    /// The API group; empty for the core.
    pub group: &'a str,
    /// The kind.
    pub kind: &'a str,
}

impl<'a> GroupKind<'a> {
    /// Of the core, as Service, Secret and ConfigMap are.
    #[must_use]
    pub const fn core(kind: &'a str) -> Self {
        Self { group: "", kind }
    }

    /// Of the Gateway API, as Gateway, ListenerSet and the routes are.
    #[must_use]
    pub const fn gateway(kind: &'a str) -> Self {
        Self { group: super::listener::GROUP, kind }
    }
}

/// Who refers: an object of a kind in a namespace.
pub type Referrer<'a> = (GroupKind<'a>, &'a str);

/// What is referred to: an object of a kind, by namespace and name.
pub type Referent<'a> = (GroupKind<'a>, &'a str, &'a str);

/// The names that a grant permits.
#[derive(Debug)]
enum Names<'a> {
    All,
    These(BTreeSet<&'a str>),
}

/// See the module. Borrows from the snapshot.
#[derive(Debug, Default)]
pub struct Grants<'a> {
    /// Who may refer -> kind and namespace of what -> which.
    permitted: BTreeMap<(Referrer<'a>, Referrer<'a>), Names<'a>>,
}

impl<'a> Grants<'a> {
    /// The grants of a snapshot.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut grants = Self::default();
        for grant in snapshot.grants.values() {
            grants.add(grant);
        }
        grants
    }

    fn add(&mut self, grant: &'a ReferenceGrant) {
        let ReferenceGrant { metadata, spec } = grant;
        for from in &spec.from {
            let from = (GroupKind { group: &from.group, kind: &from.kind }, from.namespace.as_str());
            for to in &spec.to {
                let of = (GroupKind { group: &to.group, kind: &to.kind }, metadata.namespace.as_str());
                let names = self.permitted.entry((from, of)).or_insert(Names::These(BTreeSet::new()));
                match (to.name.as_deref().unwrap_or_default(), names) {
                    ("", names) => *names = Names::All,
                    (_, Names::All) => {}
                    (name, Names::These(known)) => {
                        known.insert(name);
                    }
                }
            }
        }
    }

    /// Whether an object may refer to another: it is of the same namespace, or a grant there permits it.
    #[must_use]
    pub fn permits(&self, from: Referrer<'_>, to: Referent<'_>) -> bool {
        let (kind, ns, name) = to;
        from.1 == ns
            || match self.permitted.get(&(from, (kind, ns))) {
                None => false,
                Some(Names::All) => true,
                Some(Names::These(names)) => names.contains(name),
            }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::fixture;

    const ROUTE: GroupKind<'_> = GroupKind::gateway("HTTPRoute");
    const SERVICE: GroupKind<'_> = GroupKind::core("Service");

    fn grant(ns: &str, name: &str, from: &Value, to: &Value) -> Value {
        json!({"kind": "ReferenceGrant", "metadata": {"name": name, "namespace": ns}, "spec": {"from": from, "to": to}})
    }

    #[test]
    fn a_grant_permits_its_kinds_namespaces_and_names_and_nothing_else() {
        let from = json!([
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"},
            {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "namespace": "shop"},
        ]);
        let snapshot = fixture::snapshot(&json!([
            grant("infra", "one", &from, &json!([{"group": "", "kind": "Service", "name": "web"}])),
            grant("infra", "two", &from, &json!([{"group": "", "kind": "Service", "name": "api"}])),
            grant("all", "any", &from, &json!([{"kind": "Secret"}, {"group": "", "kind": "Service", "name": ""}])),
            grant("none", "empty", &json!([]), &json!([{"kind": "Service"}])),
        ]));
        let grants = Grants::of(&snapshot);
        for (from, to, want) in [
            ((ROUTE, "shop"), (SERVICE, "infra", "web"), true),
            ((ROUTE, "shop"), (SERVICE, "infra", "api"), true),
            ((ROUTE, "shop"), (SERVICE, "infra", "other"), false),
            ((GroupKind::gateway("GRPCRoute"), "shop"), (SERVICE, "infra", "web"), true),
            ((GroupKind::gateway("TCPRoute"), "shop"), (SERVICE, "infra", "web"), false),
            ((GroupKind::core("HTTPRoute"), "shop"), (SERVICE, "infra", "web"), false),
            ((ROUTE, "other"), (SERVICE, "infra", "web"), false),
            ((ROUTE, "shop"), (GroupKind::core("Secret"), "infra", "web"), false),
            ((ROUTE, "shop"), (GroupKind::gateway("Service"), "infra", "web"), false),
            ((ROUTE, "shop"), (SERVICE, "all", "whatever"), true),
            ((ROUTE, "shop"), (GroupKind::core("Secret"), "all", "whatever"), true),
            ((ROUTE, "shop"), (SERVICE, "none", "web"), false),
            // Within a namespace nobody asks.
            ((ROUTE, "none"), (SERVICE, "none", "web"), true),
        ] {
            assert_eq!(grants.permits(from, to), want, "{from:?} -> {to:?}");
        }
    }

    #[test]
    fn a_grant_of_all_names_counts_before_and_after_one_of_a_name() {
        let from = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"}]);
        let (all, one) = (json!([{"kind": "Service"}]), json!([{"kind": "Service", "name": "web"}]));
        for (first, second) in [(&all, &one), (&one, &all)] {
            let objects = json!([grant("infra", "a", &from, first), grant("infra", "b", &from, second)]);
            let snapshot = fixture::snapshot(&objects);
            assert!(Grants::of(&snapshot).permits((ROUTE, "shop"), (SERVICE, "infra", "other")));
        }
    }
}
