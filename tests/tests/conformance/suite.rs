//! Starts the suite and follows what it says.
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use sluice_tests::cluster::Cluster;

use super::{options::Options, outcome::Outcome};

/// Where the report goes.
const REPORTS: &str = "deploy/conformance";
/// All that the suite has said, for whoever looks closer.
const LOG: &str = "target/conformance.log";
/// The profiles of Gateways: their names, and the feature that is their kind of route.
const PROFILES: [(&str, &str); 5] = [
    ("GATEWAY-HTTP", "HTTPRoute"),
    ("GATEWAY-GRPC", "GRPCRoute"),
    ("GATEWAY-TLS", "TLSRoute"),
    ("GATEWAY-TCP", "TCPRoute"),
    ("GATEWAY-UDP", "UDPRoute"),
];
/// The profiles of routes whose parents are Services.
const MESH_PROFILES: &str = "MESH-HTTP,MESH-GRPC";
/// The features of the class that count for the mesh profiles as well begin with these.
const OF_ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// What one run of the suite is of.
#[derive(Clone, Copy, Debug)]
enum Run<'a> {
    /// All tests of Gateways.
    Gateways,
    /// All tests of Services as parents, with what is claimed of these.
    Mesh(&'a [&'a str]),
    /// One test.
    One(&'a str),
}

/// The suite.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    /// The program.
    pub(crate) program: PathBuf,
    /// The GatewayClass.
    pub(crate) class: &'a str,
    /// An address that a Gateway can have, and one that none can.
    pub(crate) addresses: [&'a str; 2],
    /// The mesh features that are claimed.
    pub(crate) mesh: &'a [&'a str],
}

impl Suite<'_> {
    /// Runs it against a cluster whose class claims `features`.
    ///
    /// # Errors
    /// It cannot be started, or its words cannot be read.
    pub(crate) fn run(&self, cluster: &Cluster, features: &[String], options: &Options) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        let path = xtask::root().join(LOG);
        fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if options.tests.is_empty() {
            self.once(cluster, features, Run::Gateways, options.report, &mut outcome)?;
        }
        // kube-proxy serves the Services that no route has as its parent; the tests of Gateways do without.
        let is_mesh = options.tests.is_empty() || options.tests.iter().any(|test| test.starts_with("Mesh"));
        let _proxies = if is_mesh { cluster.kube_proxies("nftables")? } else { Vec::new() };
        if options.tests.is_empty() {
            self.once(cluster, features, Run::Mesh(self.mesh), options.report, &mut outcome)?;
        }
        for test in &options.tests {
            self.once(cluster, features, Run::One(test), false, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn once(
        &self,
        cluster: &Cluster,
        features: &[String],
        what: Run<'_>,
        report: bool,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let [usable, unusable] = self.addresses;
        let mut command = Command::new(&self.program);
        command.args(["-test.v", "-test.timeout=0", "-test.run=^TestConformance$"]);
        command.arg(format!("-gateway-class={}", self.class));
        command.args([format!("-usable-address={usable}"), format!("-unusable-address={unusable}")]);
        // The cluster goes when the suite has ended, and all that is in it.
        command.arg("-cleanup-base-resources=false");
        let mode = match what {
            Run::One(test) => {
                command.arg(format!("-run-test={test}"));
                "default"
            }
            Run::Gateways => {
                let claimed = PROFILES.iter().filter(|(_, kind)| features.iter().any(|f| f == kind));
                let profiles: Vec<&str> = claimed.map(|(profile, _)| *profile).collect();
                command.arg(format!("-conformance-profiles={}", profiles.join(",")));
                "default"
            }
            Run::Mesh(mesh) => {
                let is_of_routes = |f: &&str| OF_ROUTES.iter().any(|kind| f.starts_with(kind));
                let of_routes = features.iter().map(String::as_str).filter(is_of_routes);
                let all: Vec<&str> = mesh.iter().copied().chain(of_routes).collect();
                command.arg(format!("-conformance-profiles={MESH_PROFILES}"));
                command.arg(format!("-supported-features={}", all.join(",")));
                "mesh"
            }
        };
        if report {
            command.args(implementation(mode)?);
        }
        // Whatever proxy the machine has does not know the way.
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("KUBECONFIG", cluster.plane.run().dir().join("admin.kubeconfig"));
        // One pipe for both: the suite's own words go to standard error, those of Go's test runner to standard output.
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = cluster.plane.space.enter(|| command.spawn()).context("start the suite")?;
        // Its ends of the pipe would stay open with it.
        drop(command);
        let path = xtask::root().join(LOG);
        let mut log = fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;
        for line in BufReader::new(reader).split(b'\n') {
            let line = line.context("read what the suite says")?;
            let line = String::from_utf8_lossy(&line).into_owned();
            writeln!(log, "{line}").with_context(|| format!("write {}", path.display()))?;
            outcome.take(&line);
        }
        let status = child.wait().context("wait for the suite")?;
        outcome.end(status.success());
        Ok(())
    }
}

/// What the report says of us, and where it goes. The version is the one in Cargo.toml.
fn implementation(mode: &str) -> anyhow::Result<Vec<String>> {
    let dir = xtask::root().join(REPORTS);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let file = dir.join(format!("standard-{version}-{mode}-report.yaml"));
    Ok(vec![
        format!("-report-output={}", file.display()),
        format!("-mode={mode}"),
        "-organization=sluice".to_owned(),
        "-project=sluice".to_owned(),
        "-url=https://sluice.dev".to_owned(),
        format!("-version={version}"),
        "-contact=https://sluice.dev/support".to_owned(),
    ])
}
