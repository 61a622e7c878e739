//! Sets the stage: the lab, the agent with the example's manifests, the addresses that it gives. Clears it afterwards.
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::story::Story;
use crate::netns::{Agent, AgentSpec, Datapath, Lab, LabSpec, PodSpec, run};

/// The port of the Service `shop`, TCP and UDP.
pub(super) const PORT: u16 = 5000;
/// The Service.
const SHOP: &str = "Service default/shop";
/// The Gateway.
const FRONT: &str = "Gateway default/front";
/// The file with the endpoints of the Service.
pub(super) const ENDPOINTS: &str = "2-shop-endpoints.yaml";
/// How long a change of the manifests may take to be applied.
const APPLIED: Duration = Duration::from_secs(5);

/// Everything that the chapters act on. The agent ends before the lab goes.
pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) lab: Lab,
    /// The Service's IPv4 address and port.
    pub(super) shop: SocketAddr,
    /// The Service's IPv6 address and port.
    pub(super) shop_v6: SocketAddr,
    /// The Gateway's address and port; none when it was not given one, which the chapters on layer 7 then say.
    pub(super) front: Option<SocketAddr>,
}

impl Stage {
    /// Builds the lab and starts the agent.
    pub(super) fn set(story: &mut Story) -> anyhow::Result<Self> {
        let mut lab = None;
        story.chapter("network of namespaces", |tell| {
            tell.say("198.51.100.0/24   a bridge, as the switch of a rack");
            tell.say("client   .10      dials");
            tell.say("node1    .1       runs the agent; pods shop-1, shop-2, shop-5 (alice's version)");
            tell.say("node2    .2       another host; pods shop-3, shop-4 (the next version)");
            let began = Instant::now();
            let built = lab.insert(Lab::build(&spec())?);
            Ok(format!("3 hosts and {} pods in {:.0?}, IPv4 and IPv6", built.pods.len(), began.elapsed()))
        });
        let lab = lab.context("the network cannot be built")?;
        let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Xdp))?;
        copy_manifests(&agent.manifests())?;
        story.chapter("the agent reads Kubernetes YAML", |tell| {
            let began = Instant::now();
            agent.launch()?;
            let took = began.elapsed();
            tell.say(format!("sluice agent --manifests {} ...", agent.manifests().display()));
            tell.quote(&agent.show(&["status"])?);
            Ok(format!("ready in {took:.0?}: XDP and TC on eth0, sk_lookup for layer 7"))
        });
        let addresses = |object: &str| -> anyhow::Result<Vec<IpAddr>> {
            let began = Instant::now();
            loop {
                match agent.addresses(object) {
                    Err(_) if began.elapsed() < APPLIED => std::thread::sleep(Duration::from_millis(20)),
                    outcome => return outcome,
                }
            }
        };
        let (shop, front) = (addresses(SHOP)?, addresses(FRONT).unwrap_or_default());
        let of = |all: &[IpAddr], v6: bool| all.iter().copied().find(|a| a.is_ipv6() == v6);
        let stage = Self {
            shop: (of(&shop, false).context("shop has no IPv4 address")?, PORT).into(),
            shop_v6: (of(&shop, true).context("shop has no IPv6 address")?, PORT).into(),
            front: front.first().map(|ip| (*ip, 80).into()),
            agent,
            lab,
        };
        story.chapter("addresses from the pools", |tell| {
            tell.quote(&stage.agent.show(&["services"])?);
            let front = stage.front()?.ip();
            Ok(format!("shop {} and {}, front {front}", stage.shop.ip(), stage.shop_v6.ip()))
        });
        Ok(stage)
    }

    /// The Gateway's address and port.
    pub(super) fn front(&self) -> anyhow::Result<SocketAddr> {
        self.front.context("the Gateway front has no address")
    }

    /// Removes everything, and proves it.
    pub(super) fn clear(self, story: &mut Story) {
        let Self { mut agent, lab, .. } = self;
        story.chapter("nothing stays", |tell| {
            agent.stop()?;
            let said = agent.cleanup()?;
            tell.say("sluice cleanup");
            tell.quote(&said);
            let pins = agent.bpf_dir().to_owned();
            anyhow::ensure!(!pins.exists(), "{} is still there after the clean-up", pins.display());
            let (id, dir) = (lab.run().id().to_owned(), lab.dir());
            drop((agent, lab));
            let left = run::namespaces_of(&id);
            anyhow::ensure!(left.is_empty() && !dir.exists(), "left behind: {left:?}, {}", dir.display());
            Ok("programs, pins, namespaces and files are gone".to_owned())
        });
    }
}

/// Three pods of the shop, one of its next version, one of alice's.
fn spec() -> LabSpec {
    let pods = vec![
        PodSpec::new("shop-1", 1),
        PodSpec::new("shop-2", 1),
        PodSpec::new("shop-5", 1).version("alice"),
        PodSpec::new("shop-3", 2),
        PodSpec::new("shop-4", 2).version("v2"),
    ];
    LabSpec { kind: "demo".to_owned(), pods, xdp: true }
}

fn copy_manifests(to: &Path) -> anyhow::Result<()> {
    let from = examples();
    for entry in std::fs::read_dir(&from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().context("a file without a name")?;
        std::fs::copy(&path, to.join(name)).with_context(|| format!("copy {}", path.display()))?;
    }
    Ok(())
}

/// `deploy/examples/demo`.
pub(super) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/demo")
}
