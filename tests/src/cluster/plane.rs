//! The control plane: etcd, the API server and the controllers of Kubernetes, alone in a network namespace.
//!
//! Their ports are the usual ones, because nobody else is in the namespace. What tests ask of it is in [`super::ask`].
//!
//! # Design
//! - No port is chosen by chance and nothing is shared with the host, so that any number of them run side by side.
//! - etcd keeps its data in memory and syncs nothing: a power failure of the machine is not a case, and disks of CI are
//!   slow.
//! - Nobody works for a node in the api half, so its Nodes and Pods are objects that tests write. The controllers that
//!   would take them for dead (node lifecycle, pod garbage collection) are off; all others run.
use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{sys::signal::Signal, unistd::Pid};

use super::{
    api::Api,
    assets::Assets,
    guard::Guard,
    identity::kubeconfig,
    pki::{Authority, Credential},
    process::Process,
};
use crate::netns::{Namespace, Run};

/// How long a part may take to be ready: seconds, on a machine that is not busy with something else.
const READY: Duration = Duration::from_secs(180);
/// The port of the API server: that of the Service `kubernetes`, whose addresses it has too. So what runs in a pod finds it
/// where Kubernetes says it is, with nobody there who serves cluster IPs.
const PORT: u16 = 443;
/// An address that the control plane has where it has no network: it may not advertise a loopback address.
const ALONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The ranges of cluster IPs.
pub const CLUSTER_IPS: &str = "10.96.0.0/16,fd00:96::/112";
/// The first addresses of these: the Service `kubernetes`.
pub(super) const KUBERNETES: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

/// A part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Keeps the data.
    Etcd,
    /// Answers everybody.
    ApiServer,
    /// The controllers: namespaces, EndpointSlices, Deployments, and so on.
    Controllers,
    /// Chooses nodes for pods.
    Scheduler,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Part {
    fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::Controllers => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// What a part is started with besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tuning {
    /// Flags; the last one of a name holds.
    pub flags: &'static [&'static str],
    /// Variables of the environment.
    pub variables: &'static [(&'static str, &'static str)],
}

/// A control plane, running. Everything is gone when it is dropped.
pub struct ControlPlane {
    /// Its namespace.
    pub space: Namespace,
    pub(super) admin: Api,
    pub(super) assets: Assets,
    pub(super) authority: Authority,
    pub(super) address: IpAddr,
    nodes: bool,
    parts: Mutex<BTreeMap<Part, Process>>,
    tuning: Mutex<BTreeMap<Part, Tuning>>,
    run: Run,
    // Last: it finds nothing left to remove.
    _guard: Guard,
}

impl ControlPlane {
    /// Starts the api half: etcd, API server and controllers, no nodes.
    ///
    /// # Errors
    /// A part is not ready in time; the error holds the end of its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::prepare("api", ALONE.into(), false)?.launch()
    }

    /// The control plane that all tests of this process share; started on the first call, removed after the process.
    ///
    /// # Panics
    /// It does not start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().expect("a control plane"))
    }

    /// Makes what it takes, and starts nothing. With `nodes`, real ones will come, and `address` is where they ask.
    pub(super) fn prepare(kind: &str, address: IpAddr, nodes: bool) -> anyhow::Result<Self> {
        let assets = Assets::find()?;
        let run = Run::start(kind)?;
        let guard = Guard::set(run.id())?;
        let space = run.namespace("plane")?;
        let authority = Authority::create(&run.dir().join("pki"))?;
        let address_text = address.to_string();
        let hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let addresses = ["127.0.0.1", KUBERNETES[0], KUBERNETES[1], &address_text];
        authority.issue("apiserver", "kube-apiserver", None, &[&hosts[..], &addresses[..]].concat())?;
        authority.issue("to-kubelet", "kube-apiserver-kubelet-client", Some("system:masters"), &[])?;
        authority.issue("front-proxy", "front-proxy-client", None, &[])?;
        let Credential { tls, .. } = authority.issue("admin", "admin", Some("system:masters"), &[])?;
        let admin = Api::new(Namespace::open(space.name())?, SocketAddr::new(address, PORT), tls, None);
        let (parts, tuning) = (Mutex::default(), Mutex::default());
        Ok(Self { space, admin, assets, authority, address, nodes, parts, tuning, run, _guard: guard })
    }

    /// Starts every part and waits until they are ready.
    pub(super) fn launch(self) -> anyhow::Result<Self> {
        if !self.nodes {
            self.space.net(async |net| net.address("lo", self.address, 32).await)?;
        }
        for (part, user) in
            [(Part::Controllers, "system:kube-controller-manager"), (Part::Scheduler, "system:kube-scheduler")]
        {
            let credential = self.authority.issue(part.program(), user, None, &[])?;
            self.write_kubeconfig(part.program(), &credential.user())?;
        }
        self.write_kubeconfig("admin", &self.authority.existing("admin"))?;
        self.spawn(Part::Etcd)?;
        self.start_part(Part::ApiServer)?;
        if self.has_controllers() {
            self.start_part(Part::Controllers)?;
            if self.nodes {
                self.start_part(Part::Scheduler)?;
            }
        }
        Ok(self)
    }

    /// The run that owns its names.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether the controllers run: not with a `$KUBEBUILDER_ASSETS` that has none.
    #[must_use]
    pub fn has_controllers(&self) -> bool {
        self.assets.has(Part::Controllers.program())
    }

    /// Whether it runs on our own build of Kubernetes, not on `$KUBEBUILDER_ASSETS`.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.assets.own
    }

    /// Where the API server is, for those in its namespace or with a way there.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.socket())
    }

    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, PORT)
    }

    /// The log of a part.
    #[must_use]
    pub fn log(&self, part: Part) -> PathBuf {
        self.run.dir().join(format!("{part}.log"))
    }

    /// The process of a part.
    #[must_use]
    pub fn pid(&self, part: Part) -> Option<Pid> {
        self.parts().get(&part).map(Process::pid)
    }

    /// `kill -9` of a part; it stays away until [`ControlPlane::start_part`].
    pub fn kill(&self, part: Part) {
        if let Some(mut process) = self.parts().remove(&part) {
            process.kill();
        }
    }

    /// Starts a part otherwise than usual, from its next start on.
    pub fn tune(&self, part: Part, tuning: Tuning) {
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner).insert(part, tuning);
    }

    /// Stops a part where it stands: it keeps its connections and answers nothing, until [`ControlPlane::thaw`].
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, part: Part) -> anyhow::Result<()> {
        self.signal(part, Signal::SIGSTOP)
    }

    /// Lets a frozen part go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self, part: Part) -> anyhow::Result<()> {
        self.signal(part, Signal::SIGCONT)
    }

    /// Starts a part that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready in time; the error holds the end of its log.
    pub fn start_part(&self, part: Part) -> anyhow::Result<()> {
        self.spawn(part)?;
        let began = Instant::now();
        loop {
            let ready = self.is_ready(part);
            self.parts().get_mut(&part).with_context(|| format!("{part} does not run"))?.lives()?;
            match ready {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > READY => {
                    let tail = self.parts().get(&part).map(Process::tail).unwrap_or_default();
                    anyhow::bail!("{part} is not ready after {READY:?} ({error:#}):\n{tail}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn is_ready(&self, part: Part) -> anyhow::Result<()> {
        let wanted = match part {
            // It has no word for it that all builds share; the API server is not ready before it.
            Part::Etcd => return Ok(()),
            Part::ApiServer => "/readyz",
            // Neither serves health here. That the controllers work shows in what they make: the ServiceAccount `default`.
            Part::Controllers => "/api/v1/namespaces/default/serviceaccounts/default",
            Part::Scheduler => return Ok(()),
        };
        self.admin.get(wanted).map(drop)
    }

    fn spawn(&self, part: Part) -> anyhow::Result<()> {
        let mut parts = self.parts();
        anyhow::ensure!(!parts.contains_key(&part), "{part} runs already");
        let mut command = self.assets.command(part.program());
        match part {
            Part::Etcd => self.etcd(&mut command)?,
            Part::ApiServer => self.api_server(&mut command),
            Part::Controllers => self.controllers(&mut command),
            Part::Scheduler => drop(
                command
                    .args(["--secure-port=0", "--leader-elect=false"])
                    .arg(flag("kubeconfig", self.kubeconfig_path(part.program()))),
            ),
        }
        if let Some(Tuning { flags, variables }) = self.tuning.lock().unwrap_or_else(PoisonError::into_inner).get(&part)
        {
            command.args(*flags).envs(variables.iter().copied());
        }
        parts.insert(part, Process::start(&self.space, command, &self.log(part))?);
        Ok(())
    }

    fn etcd(&self, command: &mut Command) -> anyhow::Result<()> {
        let data = self.run.memory_dir()?.join("etcd");
        fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
        command.args(["--unsafe-no-fsync", "--log-level=warn", "--listen-client-urls=http://127.0.0.1:2379"]);
        command.args(["--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"]);
        command.arg(flag("data-dir", data));
        Ok(())
    }

    fn api_server(&self, command: &mut Command) {
        let pki = |name: &str| self.authority.file(name);
        command.args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--allow-privileged"]);
        command.args([format!("--advertise-address={}", self.address), format!("--secure-port={PORT}")]);
        command.args([format!("--service-cluster-ip-range={CLUSTER_IPS}")]);
        command.args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]);
        if !self.has_controllers() {
            // Nobody makes the ServiceAccounts without which it refuses pods.
            command.arg("--disable-admission-plugins=ServiceAccount");
        }
        for (name, file) in [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("kubelet-client-certificate", "to-kubelet.crt"),
            ("kubelet-client-key", "to-kubelet.key"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("requestheader-client-ca-file", "ca.crt"),
            ("proxy-client-cert-file", "front-proxy.crt"),
            ("proxy-client-key-file", "front-proxy.key"),
        ] {
            command.arg(flag(name, pki(file)));
        }
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        command.args(["--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing"]);
        command
            .args(["--requestheader-allowed-names=front-proxy-client", "--requestheader-group-headers=X-Remote-Group"]);
        command.args(["--requestheader-username-headers=X-Remote-User"]);
        command.args(["--requestheader-extra-headers-prefix=X-Remote-Extra-"]);
        // Many tests at once are one user here; fairness between users would hold them up.
        command.args(["--max-requests-inflight=4000", "--max-mutating-requests-inflight=2000"]);
    }

    fn controllers(&self, command: &mut Command) {
        let pki = |name: &str| self.authority.file(name);
        command.args(["--secure-port=0", "--leader-elect=false", "--use-service-account-credentials"]);
        command.args(["--allocate-node-cidrs=false", "--node-monitor-grace-period=20s"]);
        // Its own limit is 20 calls a second, and it begins with a ServiceAccount for each controller.
        command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
        command.arg(format!("--service-cluster-ip-range={CLUSTER_IPS}"));
        command.arg(flag("kubeconfig", self.kubeconfig_path(Part::Controllers.program())));
        command.arg(flag("root-ca-file", pki("ca.crt"))).arg(flag("service-account-private-key-file", pki("sa.key")));
        command.arg(flag("cluster-signing-cert-file", pki("ca.crt")));
        command.arg(flag("cluster-signing-key-file", pki("ca.key")));
        if !self.nodes {
            let off = ["node-lifecycle-controller", "taint-eviction-controller", "pod-garbage-collector-controller"];
            command.arg(format!("--controllers=*,{}", off.map(|name| format!("-{name}")).join(",")));
        }
    }

    /// Writes a kubeconfig of this server into the run's directory.
    pub(super) fn write_kubeconfig(&self, name: &str, user: &serde_json::Value) -> anyhow::Result<PathBuf> {
        let path = self.kubeconfig_path(name);
        let text = kubeconfig(&self.server(), Some(&self.authority.file("ca.crt")), user);
        fs::write(&path, format!("{text:#}\n")).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn kubeconfig_path(&self, name: &str) -> PathBuf {
        self.run.dir().join(format!("{name}.kubeconfig"))
    }

    fn signal(&self, part: Part, signal: Signal) -> anyhow::Result<()> {
        self.parts().get(&part).with_context(|| format!("{part} does not run"))?.signal(signal)
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<Part, Process>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flag(name: &str, path: PathBuf) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(format!("--{name}="));
    flag.push(path);
    flag
}
