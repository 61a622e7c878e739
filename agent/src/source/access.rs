//! What the agent may do at the API server: the one table, of which the RBAC rules of `deploy/` are made.
//!
//! Each row says why. `cargo xtask generate` writes the rules; a test compares them with the files, and another one the
//! table with the kinds that the source reads. Invariant: no `*`, and nothing that no code uses.
use std::fmt::Write as _;

/// Where a permission holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In every namespace.
    Cluster,
    /// In the agents' own.
    Own,
}

/// Verbs on one resource.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Where.
    pub scope: Scope,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, with its subresource.
    pub resource: &'static str,
    /// The verbs.
    pub verbs: &'static [&'static str],
    /// What for.
    pub why: &'static str,
}

const READ: &[&str] = &["get", "list", "watch"];
const DISCOVERY: &str = "discovery.k8s.io";
const EXTENSIONS: &str = "apiextensions.k8s.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const OPENSHIFT: &str = "route.openshift.io";
const POOLS: &str = "sluice.dev";

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Access {
    Access { scope: Scope::Cluster, group, resource, verbs, why }
}

/// The table.
pub const ACCESS: &[Access] = &[
    cluster("", "namespaces", READ, "pools and listeners select namespaces by label"),
    cluster("", "nodes", READ, "zones, addresses and exclusion from load balancers"),
    cluster("", "services", READ, "the Services to serve, and those that routes name"),
    cluster("", "services", &["patch"], "metadata alone: the given addresses and the finalizer"),
    cluster("", "services/status", &["patch"], "addresses and conditions"),
    cluster("", "events", &["create", "patch"], "say what happened to an object"),
    cluster("events.k8s.io", "events", &["create", "patch"], "the same, under the name that newer clients use"),
    cluster(DISCOVERY, "endpointslices", READ, "the endpoints"),
    cluster(
        DISCOVERY,
        "endpointslices",
        &["create", "delete", "patch", "update"],
        "those of Services that a Gateway stands behind",
    ),
    cluster(DISCOVERY, "endpointslices/restricted", &["create"], "OpenShift wants it where endpoints are pods"),
    cluster(OPENSHIFT, "routes", READ, "those of Services that ask for one, where the cluster is OpenShift"),
    cluster(OPENSHIFT, "routes", &["create", "delete", "patch"], "one for each Service that asks for it"),
    cluster(OPENSHIFT, "routes/custom-host", &["create", "update"], "the host name that the Service asks for"),
    cluster(EXTENSIONS, "customresourcedefinitions", &["get"], "metadata alone: which version of Gateway API there is"),
    cluster(GATEWAY, "gatewayclasses", READ, "the classes that are ours"),
    cluster(GATEWAY, "gatewayclasses/status", &["patch", "update"], "accepted or not"),
    cluster(GATEWAY, "gateways", READ, "listeners"),
    cluster(GATEWAY, "gateways", &["patch"], "metadata alone: the given addresses"),
    cluster(GATEWAY, "gateways/status", &["patch", "update"], "addresses and conditions"),
    cluster(GATEWAY, "httproutes", READ, "routes"),
    cluster(GATEWAY, "httproutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    cluster(POOLS, "addresspools", READ, "where addresses come from"),
    cluster(POOLS, "addresspools/status", &["patch", "update"], "counts and conditions"),
    Access {
        scope: Scope::Own,
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["create", "get", "list", "patch", "update", "watch"],
        why: "who leads, which nodes live and what each has programmed",
    },
];

/// Whether the table grants a verb; what is granted in every namespace is granted in ours.
#[must_use]
pub fn is_granted(scope: Scope, group: &str, resource: &str, verb: &str) -> bool {
    let rows = ACCESS.iter().filter(|a| a.group == group && a.resource == resource);
    rows.filter(|a| a.scope == Scope::Cluster || a.scope == scope).any(|a| a.verbs.contains(&verb))
}

/// The RBAC objects as YAML: `deploy/base/rbac.yaml`.
#[must_use]
pub fn rbac() -> String {
    let mut text =
        String::from("# Written by `cargo xtask generate` from agent/src/source/access.rs: edit the table there.\n");
    role(&mut text, "ClusterRole", Scope::Cluster);
    binding(&mut text, "ClusterRole", Scope::Cluster);
    role(&mut text, "Role", Scope::Own);
    binding(&mut text, "Role", Scope::Own);
    text
}

fn role(text: &mut String, kind: &str, scope: Scope) {
    head(text, kind, scope);
    text.push_str("rules:\n");
    for Access { scope: _, group, resource, verbs, why } in ACCESS.iter().filter(|a| a.scope == scope) {
        let verbs = verbs.join(", ");
        let _ = writeln!(text, "  # {why}");
        let _ = writeln!(text, "  - apiGroups: [\"{group}\"]\n    resources: [{resource}]\n    verbs: [{verbs}]");
    }
}

fn binding(text: &mut String, kind: &str, scope: Scope) {
    head(text, &format!("{kind}Binding"), scope);
    let _ = write!(
        text,
        "roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: sluice\n\
         subjects:\n  - kind: ServiceAccount\n    name: sluice\n    namespace: sluice-system\n"
    );
}

fn head(text: &mut String, kind: &str, scope: Scope) {
    let namespace = if scope == Scope::Own { "  namespace: sluice-system\n" } else { "" };
    let _ = write!(
        text,
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: sluice\n{namespace}  \
         labels:\n    app.kubernetes.io/name: sluice\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{EndpointSlice, Gateway, HttpRoute, Kind, Lease, OpenShiftRoute, Service};

    fn assert_read<T: Kind>(scope: Scope) {
        for verb in READ {
            assert!(is_granted(scope, T::GROUP, T::PLURAL, verb), "{verb} on {}", T::resource());
        }
    }

    #[test]
    fn every_kind_that_is_read_may_be_read() {
        assert_read::<Service>(Scope::Cluster);
        assert_read::<EndpointSlice>(Scope::Cluster);
        assert_read::<Gateway>(Scope::Cluster);
        assert_read::<HttpRoute>(Scope::Cluster);
        assert_read::<OpenShiftRoute>(Scope::Cluster);
        assert_read::<Lease>(Scope::Own);
    }

    #[test]
    fn nothing_is_granted_that_is_not_named() {
        assert!(ACCESS.iter().all(|a| !a.resource.contains('*') && !a.verbs.contains(&"*")));
        assert!(ACCESS.iter().all(|a| !a.why.is_empty() && !a.verbs.is_empty()));
        // Whoever could write these would have the cluster.
        for resource in ["secrets", "pods", "serviceaccounts", "clusterroles"] {
            assert!(ACCESS.iter().all(|a| a.resource != resource), "{resource}");
        }
        // Leases elsewhere are those of other controllers.
        assert!(!is_granted(Scope::Cluster, "coordination.k8s.io", "leases", "patch"));
        // A Service's spec is its owner's: status and metadata are patched, never updated.
        assert!(!is_granted(Scope::Cluster, "", "services", "update"));
    }

    #[test]
    fn the_file_of_deploy_is_fresh() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base/rbac.yaml");
        let found = std::fs::read_to_string(file).unwrap();
        assert_eq!(found, rbac(), "run `cargo xtask generate`");
    }
}
