//! The official conformance suite of Gateway API, unchanged, against the DaemonSet on two real nodes.
//!
//! ```text
//! cargo xtask test conformance                     all that the GatewayClass claims, in `status.supportedFeatures`
//! cargo xtask test conformance -- HTTPRouteWeight  these tests alone, claimed or not
//! cargo xtask test conformance -- --report         and write the report to deploy/conformance/
//! ```
//!
//! The mesh profiles (routes whose parents are Services) are a second run. No GatewayClass claims their features, so [`MESH`] does.
//! Their pods run an echo of ours (`tests/kubernetes/cmd/meshecho`), and kube-proxy serves the Services without a route.
//!
//! The suite runs where a client is, on the network of the nodes, and dials the addresses that Gateways show. It skips what
//! needs a feature that is not claimed, and nothing else; a test that fails prints what the suite said of it.
#[path = "conformance/options.rs"]
mod options;
#[path = "conformance/outcome.rs"]
mod outcome;
#[path = "conformance/suite.rs"]
mod suite;

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;
use sluice_tests::cluster::Cluster;

use self::{options::Options, suite::Suite};

/// Where Gateways have their addresses from: 45 at once is what the suite needs.
const POOL: [&str; 1] = ["198.51.100.128/25"];
/// An address of the pool that nobody else is given soon, and one that is in no pool: for GatewayStaticAddresses.
const ADDRESSES: [&str; 2] = ["198.51.100.250", "203.0.113.7"];
/// The class that is installed.
const CLASS: &str = "sluice";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that was run has passed.
fn run() -> anyhow::Result<bool> {
    let options = Options::parse(std::env::args().skip(1))?;
    let programs = xtask::kubernetes::conformance()?;
    let cluster = Cluster::up(2)?;
    for image in std::fs::read_dir(programs.join("images")).context("read the suite's images")? {
        cluster.load_image(&image?.path())?;
    }
    cluster.load_image(&xtask::kubernetes::mesh_echo()?)?;
    // There is no name server: its clients ask the API server for the ClusterIP of the Service that they dial.
    let names = ["--clusterrole=view", "--group=system:serviceaccounts"];
    cluster.plane.kubectl(&[&["create", "clusterrolebinding", "meshecho"][..], &names].concat(), "")?;
    cluster.plane.install_gateway_api()?;
    cluster.install(&POOL)?;
    let class = xtask::root().join("deploy/gateway").display().to_string();
    cluster.plane.kubectl(&["apply", "-k", &class], "")?;
    let wait = format!("gatewayclass/{CLASS}");
    cluster.plane.kubectl(&["wait", "--for=condition=Accepted", "--timeout=60s", &wait], "")?;
    let features = features(&cluster)?;
    println!("{} features are claimed", features.len());
    let suite =
        Suite { program: programs.join(xtask::kubernetes::SUITE), class: CLASS, addresses: ADDRESSES, mesh: &MESH };
    let outcome = suite.run(&cluster, &features, &options)?;
    print!("{outcome}");
    if !outcome.is_passed() {
        eprintln!("{}", cluster.told());
    }
    Ok(outcome.is_passed())
}

/// The mesh features that are claimed, by flag: a GatewayClass cannot claim them, and XMesh, which can, is of the experimental channel.
///
/// `MeshConsumerRoute` is not among them: see CHANGELOG.md, "Not yet".
const MESH: [&str; 9] = [
    "Mesh",
    "MeshClusterIPMatching",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// What the class claims.
fn features(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let class = cluster.plane.api().get(&format!("/apis/gateway.networking.k8s.io/v1/gatewayclasses/{CLASS}"))?;
    let features = class["status"]["supportedFeatures"].as_array().cloned().unwrap_or_default();
    let names: Vec<String> = features.iter().filter_map(|f: &Value| f["name"].as_str().map(str::to_owned)).collect();
    anyhow::ensure!(!names.is_empty(), "GatewayClass {CLASS} claims no feature: {:#}", class["status"]);
    Ok(names)
}
