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
/// The profiles: their names, and the feature that is their kind of route.
const PROFILES: [(&str, &str); 5] = [
    ("GATEWAY-HTTP", "HTTPRoute"),
    ("GATEWAY-GRPC", "GRPCRoute"),
    ("GATEWAY-TLS", "TLSRoute"),
    ("GATEWAY-TCP", "TCPRoute"),
    ("GATEWAY-UDP", "UDPRoute"),
];

/// The suite.
#[derive(Debug)]
pub(crate) struct Suite<'a> {
    /// The program.
    pub(crate) program: PathBuf,
    /// The GatewayClass.
    pub(crate) class: &'a str,
    /// An address that a Gateway can have, and one that none can.
    pub(crate) addresses: [&'a str; 2],
}

impl Suite<'_> {
    /// Runs it against a cluster whose class claims `features`.
    ///
    /// # Errors
    /// It cannot be started, or its words cannot be read.
    pub(crate) fn run(&self, cluster: &Cluster, features: &[String], options: &Options) -> anyhow::Result<Outcome> {
        let mut outcome = Outcome::default();
        if options.tests.is_empty() {
            self.once(cluster, features, None, options.report, &mut outcome)?;
        }
        for test in &options.tests {
            self.once(cluster, features, Some(test), false, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn once(
        &self,
        cluster: &Cluster,
        features: &[String],
        test: Option<&String>,
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
        if let Some(test) = test {
            command.arg(format!("-run-test={test}"));
        } else {
            let claimed = PROFILES.iter().filter(|(_, kind)| features.iter().any(|f| f == kind));
            let profiles: Vec<&str> = claimed.map(|(profile, _)| *profile).collect();
            command.arg(format!("-conformance-profiles={}", profiles.join(",")));
        }
        if report {
            command.args(implementation()?);
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
        let mut log = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
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
fn implementation() -> anyhow::Result<Vec<String>> {
    let dir = xtask::root().join(REPORTS);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let file = dir.join(format!("standard-{version}-default-report.yaml"));
    Ok(vec![
        format!("-report-output={}", file.display()),
        "-organization=sluice".to_owned(),
        "-project=sluice".to_owned(),
        "-url=https://sluice.dev".to_owned(),
        format!("-version={version}"),
        "-contact=https://sluice.dev/support".to_owned(),
    ])
}
