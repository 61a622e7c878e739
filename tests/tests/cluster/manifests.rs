//! What `deploy/` holds, as a real API server takes it: every manifest, and the rules of our own kind.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sluice_tests::cluster::ControlPlane;

/// A control plane with Gateway API and our kinds.
fn plane() -> &'static ControlPlane {
    let plane = ControlPlane::shared();
    plane.install_gateway_api().expect("the CRDs of Gateway API");
    plane.kubectl(&["apply", "-k", &deploy("crds")], "").expect("our CRDs");
    plane
        .kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/addresspools.sluice.dev"], "")
        .expect("served");
    plane.until("pools are served", |api| api.list("/apis/sluice.dev/v1alpha1/addresspools").map(drop));
    plane
}

fn deploy(path: &str) -> String {
    xtask::root().join("deploy").join(path).display().to_string()
}

fn is_kustomization(dir: &Path) -> bool {
    dir.join("kustomization.yaml").exists()
}

/// Whether a kustomization is one that changes others, and none by itself.
fn is_component(dir: &Path) -> bool {
    fs::read_to_string(dir.join("kustomization.yaml")).expect("a kustomization").contains("kind: Component")
}

/// A kustomization of everything with a component, as the README has it; removed when dropped.
struct Whole(PathBuf);

impl Whole {
    fn with(component: &Path) -> Self {
        // kustomize follows no absolute paths.
        let name = component.strip_prefix(xtask::root()).expect("below the root").display();
        let dir = xtask::root().join(format!("target/whole-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let text = format!("resources:\n  - ../../deploy\ncomponents:\n  - ../../{name}\n");
        fs::write(dir.join("kustomization.yaml"), text).expect("a kustomization");
        Self(dir)
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every directory below one.
fn directories(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    found.push(dir.to_owned());
    let entries = fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path());
    let mut below: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    below.sort();
    below.iter().for_each(|dir| directories(dir, found));
}

#[test]
fn every_manifest_is_taken_by_the_api_server() {
    let plane = plane();
    // What is checked needs its namespace.
    plane.kubectl(&["apply", "-f", &deploy("base/namespace.yaml")], "").expect("a namespace");
    let (mut all, mut taken) = (Vec::new(), Vec::new());
    directories(&xtask::root().join("deploy"), &mut all);
    for dir in all {
        let name = dir.strip_prefix(xtask::root()).expect("below the root").display().to_string();
        let path = dir.display().to_string();
        if is_kustomization(&dir) {
            let whole = is_component(&dir).then(|| Whole::with(&dir));
            let path = whole.as_ref().map_or(path, |whole| whole.0.display().to_string());
            let said = plane.kubectl(&["apply", "--dry-run=server", "-k", &path], "");
            let said = said.unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert!(said.lines().count() > 0 && said.lines().all(|l| l.contains("server dry run")), "{name}: {said}");
            taken.push(name);
        } else if dir.starts_with(xtask::root().join("deploy/examples")) && has_manifests(&dir) {
            let said = plane.kubectl(&["apply", "--dry-run=server", "-f", &path], "");
            taken.push(name.clone());
            said.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }
    for wanted in [
        "deploy",
        "deploy/base",
        "deploy/crds",
        "deploy/gateway",
        "deploy/examples/demo",
        "deploy/components/tls-namespaces",
        "deploy/components/without-flow-control",
    ] {
        assert!(taken.iter().any(|name| name == wanted), "{wanted} is not among {taken:?}");
    }
    let overlays = fs::read_dir(xtask::root().join("deploy/overlays")).expect("overlays").count();
    assert_eq!(taken.iter().filter(|name| name.starts_with("deploy/overlays/")).count(), overlays, "{taken:?}");
}

fn has_manifests(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path());
    entries.any(|path| path.extension().is_some_and(|e| e == "yaml"))
}

/// Asks the API server whether it would take a pool.
fn create(plane: &ControlPlane, spec: &Value) -> Result<Value, String> {
    let pool = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "AddressPool", "metadata": { "generateName": "p-" }, "spec": spec,
    });
    let taken = plane.api().create("/apis/sluice.dev/v1alpha1/addresspools?dryRun=All", &pool);
    taken.map_err(|error| format!("{error:#}"))
}

#[test]
fn the_api_server_takes_pools_that_make_sense_and_fills_in_what_is_not_said() {
    let plane = plane();
    let good = [
        json!({ "addresses": ["203.0.113.0/24"] }),
        json!({ "addresses": ["203.0.113.7", "203.0.113.10-203.0.113.20", "2001:db8::/64", "2001:db8:1::1-2001:db8:1::9"] }),
        json!({ "addresses": ["203.0.113.7/32"], "announce": "none", "autoAssign": false, "priority": -5 }),
        json!({ "nodeAddresses": {} }),
        json!({ "nodeAddresses": { "types": ["ExternalIP"], "reservedPorts": [22, 65535] } }),
        json!({ "addresses": ["203.0.113.7"], "namespaceSelector": { "matchLabels": { "team": "a" } },
            "serviceSelector": { "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["web"] }] } }),
    ];
    for spec in &good {
        let pool = create(plane, spec).unwrap_or_else(|said| panic!("{spec}: {said}"));
        assert_eq!(pool["spec"]["announce"], spec.get("announce").cloned().unwrap_or(json!("auto")), "{pool:#}");
        assert_eq!(pool["spec"]["autoAssign"], spec.get("autoAssign").cloned().unwrap_or(json!(true)), "{pool:#}");
        assert!(pool["spec"].get("addresses") == spec.get("addresses"), "{pool:#}");
    }
}

#[test]
fn the_api_server_refuses_pools_that_make_none_and_says_what_it_wants() {
    let plane = plane();
    let one_of = "want exactly one of addresses and nodeAddresses";
    let entry = "want a CIDR as 203.0.113.0/24, a range as 203.0.113.10-203.0.113.20 or an address";
    let requirement = |operator: &str| {
        json!({ "addresses": ["203.0.113.1"],
        "serviceSelector": { "matchExpressions": [{ "key": "tier", "operator": operator }] } })
    };
    let many: Vec<_> = (0..65).map(|n| format!("203.0.113.{n}")).collect();
    let bad = [
        (json!({}), one_of),
        (json!({ "addresses": ["203.0.113.1"], "nodeAddresses": {} }), one_of),
        (json!({ "addresses": [] }), "should have at least 1 items"),
        (json!({ "addresses": many }), "must have at most 64 items"),
        (json!({ "addresses": ["web.example"] }), entry),
        (json!({ "addresses": ["203.0.113.256"] }), entry),
        (json!({ "addresses": ["203.0.113.0/33"] }), entry),
        (json!({ "addresses": ["203.0.113.1-203.0.113.2-203.0.113.3"] }), entry),
        (json!({ "addresses": ["203.0.113.1-"] }), entry),
        (json!({ "addresses": [" 203.0.113.1"] }), entry),
        (
            json!({ "addresses": ["203.0.113.1-2001:db8::1"] }),
            "a range begins and ends in different families, want one",
        ),
        (
            json!({ "addresses": ["203.0.113.1/24"] }),
            "bits are set behind the prefix, want the first address of the CIDR",
        ),
        (json!({ "addresses": ["203.0.113.1"], "announce": "bgp" }), "supported values: \"auto\", \"none\""),
        (json!({ "addresses": ["203.0.113.1"], "priority": "high" }), "priority"),
        (json!({ "nodeAddresses": { "reservedPorts": [0] } }), "should be greater than or equal to 1"),
        (json!({ "nodeAddresses": { "reservedPorts": [65536] } }), "should be less than or equal to 65535"),
        (json!({ "nodeAddresses": { "types": ["Hostname"] } }), "supported values: \"InternalIP\", \"ExternalIP\""),
        (requirement("Near"), "supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\""),
    ];
    for (spec, wanted) in &bad {
        let said = create(plane, spec).expect_err(&format!("{spec} is taken"));
        assert!(said.contains("422") && said.contains(wanted), "{spec}: {said}");
    }
}

#[test]
fn a_pool_may_change_but_not_from_ranges_to_nodes() {
    let plane = plane();
    let pool = |spec: &Value| {
        let pool = json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "AddressPool", "metadata": { "name": "changes" }, "spec": spec,
        });
        plane.apply(&pool.to_string())
    };
    pool(&json!({ "addresses": ["203.0.113.0/28"] })).expect("a pool");
    pool(&json!({ "addresses": ["203.0.113.0/29", "2001:db8::/120"], "autoAssign": false })).expect("it may change");
    let said = pool(&json!({ "nodeAddresses": {} })).expect_err("another kind of pool").to_string();
    assert!(said.contains("make another pool"), "{said}");
    let path = "/apis/sluice.dev/v1alpha1/addresspools/changes";
    let shown = plane.kubectl(&["get", "pool", "changes"], "").expect("the columns");
    assert!(shown.contains("ADDRESSES") && shown.contains("203.0.113.0/29"), "{shown}");
    plane.api().delete(path).expect("it is there");
}
