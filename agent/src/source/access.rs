//! What the agent may do at the API server: the one table, of which the RBAC rules of `deploy/` are made.
//!
//! Each row says why, and whether every agent needs it or whoever leads. `cargo xtask generate` writes the rules; a test compares them with the files, and another one the
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

/// Who has a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Every agent, and whoever leads.
    Agents,
    /// Whoever leads: an agent, unless a controller does.
    Leader,
    /// Every agent, and whoever leads: what TLS needs, in all namespaces or in some. The binding is `deploy/`'s, not of this table.
    Tls,
}

impl Holder {
    /// The name of its role.
    const fn role(self) -> &'static str {
        match self {
            Self::Agents => "sluice",
            Self::Leader => "sluice-leader",
            Self::Tls => "sluice-tls",
        }
    }
}

/// Verbs on one resource.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whose.
    pub holder: Holder,
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
const GATEWAY_X: &str = "gateway.networking.x-k8s.io";
const OPENSHIFT: &str = "route.openshift.io";
const POOLS: &str = "sluice.dev";

const fn agents(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Access {
    Access { holder: Holder::Agents, scope: Scope::Cluster, group, resource, verbs, why }
}

const fn leader(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Access {
    Access { holder: Holder::Leader, ..agents(group, resource, verbs, why) }
}

/// The table.
pub const ACCESS: &[Access] = &[
    agents("", "namespaces", READ, "pools and listeners select namespaces by label"),
    agents("", "nodes", READ, "zones, addresses and exclusion from load balancers"),
    agents("", "services", READ, "the Services to serve, and those that routes name"),
    leader("", "services", &["patch"], "metadata alone: the given addresses and the finalizer"),
    leader("", "services", &["create"], "headless ones that carry a Gateway's infrastructure labels and annotations"),
    leader("", "services/status", &["patch"], "addresses and conditions"),
    agents("", "events", &["create", "patch"], "say what happened to an object"),
    agents("events.k8s.io", "events", &["create", "patch"], "the same, under the name that newer clients use"),
    agents(DISCOVERY, "endpointslices", READ, "the endpoints"),
    leader(
        DISCOVERY,
        "endpointslices",
        &["create", "delete", "patch", "update"],
        "those of Services that a Gateway stands behind",
    ),
    leader(DISCOVERY, "endpointslices/restricted", &["create"], "OpenShift wants it where endpoints are pods"),
    agents(OPENSHIFT, "routes", READ, "those of Services that ask for one, where the cluster is OpenShift"),
    leader(OPENSHIFT, "routes", &["create", "delete", "patch"], "one for each Service that asks for it"),
    leader(OPENSHIFT, "routes/custom-host", &["create", "update"], "the host name that the Service asks for"),
    leader(EXTENSIONS, "customresourcedefinitions", &["get"], "metadata alone: which version of Gateway API there is"),
    agents(GATEWAY, "gatewayclasses", READ, "the classes that are ours"),
    leader(GATEWAY, "gatewayclasses/status", &["patch", "update"], "accepted or not"),
    agents(GATEWAY, "gateways", READ, "listeners"),
    leader(GATEWAY, "gateways", &["patch"], "metadata alone: the given addresses"),
    leader(GATEWAY, "gateways/status", &["patch", "update"], "addresses and conditions"),
    agents(GATEWAY, "httproutes", READ, "routes"),
    leader(GATEWAY, "httproutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY, "grpcroutes", READ, "routes"),
    leader(GATEWAY, "grpcroutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY, "tlsroutes", READ, "routes"),
    leader(GATEWAY, "tlsroutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY, "tcproutes", READ, "routes"),
    leader(GATEWAY, "tcproutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY, "udproutes", READ, "routes"),
    leader(GATEWAY, "udproutes/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY, "listenersets", READ, "listeners of Gateways that others keep"),
    leader(GATEWAY, "listenersets/status", &["patch", "update"], "conditions"),
    agents(GATEWAY, "backendtlspolicies", READ, "TLS to backends"),
    leader(GATEWAY, "backendtlspolicies/status", &["patch", "update"], "conditions, among those of other controllers"),
    agents(GATEWAY_X, "xbackendtrafficpolicies", READ, "budgets of retries, where the cluster has them"),
    leader(
        GATEWAY_X,
        "xbackendtrafficpolicies/status",
        &["patch", "update"],
        "conditions, among those of other controllers",
    ),
    agents(GATEWAY, "referencegrants", READ, "which references across namespaces are permitted"),
    Access {
        holder: Holder::Tls,
        ..agents(
            "",
            "secrets",
            READ,
            "certificates and authorities: watched one by one, by the names that Gateways and policies refer to",
        )
    },
    Access { holder: Holder::Tls, ..agents("", "configmaps", READ, "authorities likewise") },
    agents(POOLS, "addresspools", READ, "where addresses come from"),
    leader(POOLS, "addresspools/status", &["patch", "update"], "counts and conditions"),
    Access {
        holder: Holder::Agents,
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
    for (kind, scope) in [("ClusterRole", Scope::Cluster), ("Role", Scope::Own)] {
        for holder in [Holder::Agents, Holder::Leader, Holder::Tls] {
            let rows: Vec<&Access> = ACCESS.iter().filter(|a| (a.holder, a.scope) == (holder, scope)).collect();
            if !rows.is_empty() {
                role(&mut text, kind, scope, holder.role(), &rows);
                if holder != Holder::Tls {
                    binding(&mut text, kind, scope, holder.role());
                }
            }
        }
    }
    text
}

fn role(text: &mut String, kind: &str, scope: Scope, name: &str, rows: &[&Access]) {
    head(text, kind, scope, name);
    text.push_str("rules:\n");
    for Access { holder: _, scope: _, group, resource, verbs, why } in rows {
        let verbs = verbs.join(", ");
        let _ = writeln!(text, "  # {why}");
        let _ = writeln!(text, "  - apiGroups: [\"{group}\"]\n    resources: [{resource}]\n    verbs: [{verbs}]");
    }
}

fn binding(text: &mut String, kind: &str, scope: Scope, name: &str) {
    head(text, &format!("{kind}Binding"), scope, name);
    let _ = write!(
        text,
        "roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: {name}\n\
         subjects:\n  - kind: ServiceAccount\n    name: sluice\n    namespace: sluice-system\n"
    );
}

fn head(text: &mut String, kind: &str, scope: Scope, name: &str) {
    let namespace = if scope == Scope::Own { "  namespace: sluice-system\n" } else { "" };
    let _ = write!(
        text,
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n{namespace}  \
         labels:\n    app.kubernetes.io/name: sluice\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GrpcRoute, HttpRoute, Kind, Lease, OpenShiftRoute,
        ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute,
    };

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
        assert_read::<GrpcRoute>(Scope::Cluster);
        assert_read::<TlsRoute>(Scope::Cluster);
        assert_read::<TcpRoute>(Scope::Cluster);
        assert_read::<UdpRoute>(Scope::Cluster);
        assert_read::<BackendTlsPolicy>(Scope::Cluster);
        assert_read::<crate::api::BackendTrafficPolicy>(Scope::Cluster);
        assert_read::<ReferenceGrant>(Scope::Cluster);
        assert_read::<Secret>(Scope::Cluster);
        assert_read::<ConfigMap>(Scope::Cluster);
        assert_read::<OpenShiftRoute>(Scope::Cluster);
        assert_read::<Lease>(Scope::Own);
    }

    #[test]
    fn nothing_is_granted_that_is_not_named() {
        assert!(ACCESS.iter().all(|a| !a.resource.contains('*') && !a.verbs.contains(&"*")));
        assert!(ACCESS.iter().all(|a| !a.why.is_empty() && !a.verbs.is_empty()));
        // Whoever could write these would have the cluster.
        for resource in ["pods", "serviceaccounts", "clusterroles"] {
            assert!(ACCESS.iter().all(|a| a.resource != resource), "{resource}");
        }
        // Secrets are read for TLS, by a role of their own: whoever installs says where it holds.
        for of_tls in ACCESS.iter().filter(|a| a.resource.starts_with("secrets") || a.holder == Holder::Tls) {
            assert_eq!((of_tls.holder, of_tls.verbs, of_tls.group), (Holder::Tls, READ, ""));
            assert!(["secrets", "configmaps"].contains(&of_tls.resource), "{}", of_tls.resource);
        }
        // Leases elsewhere are those of other controllers.
        assert!(!is_granted(Scope::Cluster, "coordination.k8s.io", "leases", "patch"));
        // A Service's spec is its owner's: status and metadata are patched, never updated.
        assert!(!is_granted(Scope::Cluster, "", "services", "update"));
    }

    #[test]
    fn what_changes_objects_is_the_leaders_alone() {
        let writes = |a: &&Access| a.verbs.iter().any(|verb| !READ.contains(verb));
        let of_agents: Vec<_> = ACCESS.iter().filter(|a| a.holder == Holder::Agents).filter(writes).collect();
        let resources: std::collections::BTreeSet<_> = of_agents.iter().map(|a| a.resource).collect();
        assert_eq!(resources, ["events", "leases"].into());
    }

    #[test]
    fn the_file_of_deploy_is_fresh() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base/rbac.yaml");
        let found = std::fs::read_to_string(file).unwrap();
        assert_eq!(found, rbac(), "run `cargo xtask generate`");
    }
}
