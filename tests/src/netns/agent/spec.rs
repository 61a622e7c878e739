//! How an agent is run.
use std::path::PathBuf;

use crate::netns::{addr, lab::UPLINK};

/// `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// The agent decides; on veth that is TC.
    Auto,
    /// XDP in the driver, and TC.
    Xdp,
    /// XDP on socket buffers, and TC.
    XdpGeneric,
    /// TC alone.
    Tc,
}

impl Datapath {
    /// The value of the flag.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }
}

/// How to run it.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// `--datapath`.
    pub datapath: Datapath,
    /// `--pool`, each.
    pub pools: Vec<String>,
    /// `--interface`, each.
    pub interfaces: Vec<String>,
    /// `--kubeconfig`; without it the agent reads manifests.
    pub kubeconfig: Option<PathBuf>,
    /// Other arguments.
    pub extra: Vec<String>,
    /// The limits of open files that it starts with, soft and hard.
    pub files: Option<(u64, u64)>,
}

impl AgentSpec {
    /// On the uplink, with the default pools.
    #[must_use]
    pub fn new(datapath: Datapath) -> Self {
        let pools = addr::POOLS.map(str::to_owned).to_vec();
        let interfaces = vec![UPLINK.to_owned()];
        Self { datapath, pools, interfaces, kubeconfig: None, extra: Vec::new(), files: None }
    }

    /// With other pools.
    #[must_use]
    pub fn pools(self, pools: &[&str]) -> Self {
        Self { pools: pools.iter().map(|p| (*p).to_owned()).collect(), ..self }
    }

    /// Following an API server; without pools of its own.
    #[must_use]
    pub fn in_cluster(self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig: Some(kubeconfig), pools: Vec::new(), ..self }
    }
}
