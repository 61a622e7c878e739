//! Sluice on a cluster of real nodes, installed and removed as people do it; and kube-proxy, beside which it works.
use anyhow::Context as _;
use serde_json::json;

use super::Cluster;
use crate::{
    cluster::{Identity, process::Process, scene},
    netns::http::{self, Protocol},
};

/// What the tests apply.
const OVERLAY: &str = "deploy/overlays/test";
/// How long a rollout may take.
const TIMEOUT: &str = "--timeout=180s";

impl Cluster {
    /// The image into the nodes, `kubectl apply -k deploy/overlays/test`, and a pool of these addresses; returns when the
    /// DaemonSet is Ready.
    ///
    /// # Errors
    /// There is no image, or the DaemonSet is not Ready in time.
    pub fn install(&self, addresses: &[&str]) -> anyhow::Result<()> {
        let image = xtask::image::test_archive();
        anyhow::ensure!(image.exists(), "no {}: `cargo xtask test` builds it", image.display());
        self.load_image(&image)?;
        let overlay = xtask::root().join(OVERLAY).display().to_string();
        self.plane.kubectl(&["apply", "-k", &overlay], "")?;
        self.until_rolled_out("daemonset/sluice", scene::SYSTEM)?;
        scene::pool_of(&self.plane, "lan", &json!({ "addresses": addresses }));
        Ok(())
    }

    /// What the README says about removal, from where the Services are gone.
    ///
    /// # Errors
    /// A node is not cleaned in time, or something cannot be deleted.
    pub fn uninstall(&self) -> anyhow::Result<()> {
        let patch = xtask::root().join("deploy/uninstall.yaml").display().to_string();
        self.plane.kubectl(&["-n", scene::SYSTEM, "patch", "daemonset", "sluice", "--patch-file", &patch], "")?;
        self.until_rolled_out("daemonset/sluice", scene::SYSTEM)?;
        let overlay = xtask::root().join(OVERLAY).display().to_string();
        self.plane.kubectl(&["delete", "-k", &overlay, TIMEOUT], "").map(drop)
    }

    /// Waits for the end of a rollout.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn until_rolled_out(&self, what: &str, ns: &str) -> anyhow::Result<()> {
        let rolled = self.plane.kubectl(&["rollout", "status", what, "-n", ns, TIMEOUT], "");
        rolled.map(drop).with_context(|| format!("the rollout of {what} does not end"))
    }

    /// What the agents have counted, and what the cluster says of them: for a test that fails.
    #[must_use]
    pub fn told(&self) -> String {
        let show = |arguments: &[&str]| {
            let said = self.plane.kubectl_output(arguments, "").map(|o| [o.stdout, o.stderr].concat());
            String::from_utf8_lossy(&said.unwrap_or_default()).into_owned()
        };
        let logs = ["logs", "-n", scene::SYSTEM, "-l", "app.kubernetes.io/name=sluice"];
        let said = [
            self.counted(1),
            self.counted(2),
            show(&["get", "pods", "-A", "-o", "wide"]),
            show(&["get", "events", "-n", scene::SYSTEM, "--sort-by=.lastTimestamp"]),
            show(&[&logs[..], &["--prefix", "--tail=40"]].concat()),
            show(&[&logs[..], &["-p", "--tail=20"]].concat()),
        ];
        said.join("\n")
    }

    /// What the agent of a node has counted, by reason.
    fn counted(&self, number: u8) -> String {
        let [ip, _] = self.node_addresses(number);
        let metrics = http::get("node", "/metrics");
        let reply = http::send(&self.plane.space, (ip, 9640).into(), Protocol::Http1, metrics);
        let text = reply.map_or_else(|e| format!("{e:#}"), |r| String::from_utf8_lossy(&r.body).into_owned());
        let lines = text.lines().filter(|l| l.starts_with("sluice_packets_total{") && !l.ends_with(" 0"));
        lines.map(|l| format!("node{number} {l}\n")).collect()
    }

    /// kube-proxy on every node, in this mode, for as long as the value lives. What it has written stays until the next one
    /// is started, in whichever mode: rules of two modes would act one after the other.
    ///
    /// # Errors
    /// `nft` or `iptables` is missing and cannot be installed.
    pub fn kube_proxies(&self, mode: &str) -> anyhow::Result<Vec<Process>> {
        xtask::install::nft()?;
        if mode == "iptables" {
            xtask::install::iptables()?;
        }
        let numbers: Vec<u8> = self.nodes().keys().copied().collect();
        numbers.into_iter().map(|number| self.kube_proxy(number, mode)).collect()
    }

    fn kube_proxy(&self, number: u8, mode: &str) -> anyhow::Result<Process> {
        for family in ["ip", "ip6"] {
            let table = ["nft", "delete", "table", family, "kube-proxy"];
            // It is there where one has run before.
            self.node_exec(number, &table)?;
        }
        let kubeconfig = self.plane.kubeconfig(&Identity::user("system:kube-proxy"))?;
        let mut command = self.plane.assets.command("kube");
        command.arg("kube-proxy").arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.args([format!("--hostname-override=node{number}"), format!("--proxy-mode={mode}")]);
        // Settings of the whole machine are not the node's to change.
        command.args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]);
        command.args(["--conntrack-tcp-timeout-close-wait=0", "--oom-score-adj=0"]);
        // Whether a bridge shows its frames to netfilter is a setting of the host; replies must come back either way.
        command.arg("--masquerade-all");
        let log = self.plane.run().dir().join(format!("kube-proxy-{number}.log"));
        Process::start(&self.node_space(number)?, command, &log)
    }
}
