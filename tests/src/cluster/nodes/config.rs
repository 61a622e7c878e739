//! What containerd, the kubelet and the CNI plugins of a node are told.
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::netns::addr;

/// All that the first process of a node must know; it comes to it as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeSpec {
    /// Counts from 1.
    pub(super) number: u8,
    /// `node1`.
    pub(super) name: String,
    /// The run's directory: certificates, kubeconfigs.
    pub(super) run_dir: PathBuf,
    /// What the node keeps on disk: `root`, `kubelet`, `containerd`, `log`.
    pub(super) data: PathBuf,
    /// The programs of the control plane, with the kubelet.
    pub(super) kube: PathBuf,
    /// containerd and what belongs to it.
    pub(super) programs: PathBuf,
    /// Its cgroups on the host.
    pub(super) cgroups: Vec<PathBuf>,
}

impl NodeSpec {
    /// Its addresses.
    pub(super) fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        (addr::node_v4(self.number), addr::node_v6(self.number))
    }

    /// The ranges of its pods.
    pub(super) fn pods(&self) -> [String; 2] {
        [format!("{}/24", addr::pods_v4(self.number)), format!("{}/64", addr::pods_v6(self.number))]
    }

    /// The Node object. The ranges are fixed here, because what routes to them is fixed too.
    pub(super) fn object(&self) -> Value {
        let [v4, v6] = self.pods();
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.name, "labels": { "kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux" } },
            "spec": { "podCIDR": v4, "podCIDRs": [v4, v6] },
        })
    }

    /// `/etc/cni/net.d/10-pods.conflist`.
    pub(super) fn cni(&self) -> Value {
        let [v4, v6] = self.pods();
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": "/run/cni-ipam",
                    "ranges": [[{ "subnet": v4 }], [{ "subnet": v6 }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            }],
        })
    }

    /// containerd's configuration: TOML.
    pub(super) fn containerd(&self) -> String {
        let cri = "io.containerd.cri.v1";
        let (cni, runc) = (self.programs.join("cni"), self.programs.join("runc"));
        format!(
            r#"version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{SOCKET}"
[plugins."{cri}.images".pinned_images]
  sandbox = "{PREFIX}pause:1"
[plugins."{cri}.runtime"]
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE runc may not make a process less likely to be killed.
  restrict_oom_score_adj = true
  [plugins."{cri}.runtime".cni]
    bin_dirs = ["{cni}"]
    conf_dir = "/etc/cni/net.d"
  [plugins."{cri}.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."{cri}.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"#,
            PREFIX = xtask::kubernetes::IMAGE_PREFIX,
            cni = cni.display(),
            runc = runc.display(),
        )
    }

    /// The kubelet's configuration.
    pub(super) fn kubelet(&self) -> Value {
        let pki = |file: &str| self.run_dir.join("pki").join(file);
        let own = |kind: &str| pki(&format!("{}.{kind}", self.name));
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": true },
                "x509": { "clientCAFile": pki("ca.crt") },
            },
            "authorization": { "mode": "Webhook" },
            "tlsCertFile": own("crt"),
            "tlsPrivateKeyFile": own("key"),
            "address": self.addresses().0,
            "healthzPort": 0,
            "failSwapOn": false,
            "enforceNodeAllocatable": ["pods"],
            // A full disk or a small machine is not what these tests are about.
            "evictionHard": {
                "memory.available": "1Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxPods": 100,
            "nodeStatusUpdateFrequency": "5s",
            "nodeStatusReportFrequency": "10s",
            // Its chains are for kube-proxy, which is not here.
            "makeIPTablesUtilChains": false,
            "clusterDomain": "cluster.local",
        })
    }

    /// Where the programs are that must be seen inside under their own paths.
    pub(super) fn bound(&self) -> [&Path; 3] {
        [&self.run_dir, &self.kube, &self.programs]
    }
}

/// containerd's socket, in a node.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
