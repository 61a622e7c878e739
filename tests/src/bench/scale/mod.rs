//! What many nodes cost the API server: the agent's own reading, compiling, membership and status, so many times over, against
//! one real API server. Nothing is programmed, and no packet is sent.
//!
//! Each size has a control plane of its own, with as many Nodes, and [`SERVICES`] Services. What is counted is what passes between
//! each node's clients and the server, in four spans: the start; rest, with kubelets that report as those of a real cluster do; a
//! Service that somebody changes every second; and new Services.
mod counted;
mod node;

use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use self::{
    counted::{Counts, Passed},
    node::End,
};
use super::{figures::Figures, objects};
use crate::cluster::{
    Api, ControlPlane,
    api::Patch,
    scene::{self, SYSTEM},
};
use sluice::source::kubernetes;

/// What is measured.
#[derive(Clone, Debug)]
pub struct ScaleOptions {
    /// How many nodes, one size after the other.
    pub nodes: Vec<usize>,
    /// For how many seconds each span is measured.
    pub seconds: u64,
    /// Where the figures go besides standard output.
    pub json: Option<std::path::PathBuf>,
}

/// Services that are there from the start.
const SERVICES: usize = 100;
/// Services that come at once.
const NEW: usize = 20;
/// How often a kubelet writes its Node's status when nothing changes. Source: `nodeStatusReportFrequency`.
const KUBELET: Duration = Duration::from_secs(300);
/// How long the nodes may take to come to rest.
const LIMIT: Duration = Duration::from_secs(300);
/// How long they are left alone before they are taken to be at rest.
const SETTLE: Duration = Duration::from_secs(10);
/// At most so much is spent by a node at rest, at any size. Source: issue 10.
const REQUESTS: f64 = 0.2;
/// See [`REQUESTS`].
const EVENTS: f64 = 4.0;

/// Measures, prints a table, writes the file.
///
/// # Errors
/// Not root, or the nodes do not do their work.
pub fn scale(options: &ScaleOptions) -> anyhow::Result<()> {
    let mut figures = Figures::default();
    for &nodes in &options.nodes {
        println!("\n{nodes} nodes, {SERVICES} Services");
        one(nodes, options.seconds, &mut figures).with_context(|| format!("{nodes} nodes"))?;
    }
    options.json.as_ref().map_or(Ok(()), |path| figures.write(path))
}

fn one(nodes: usize, seconds: u64, figures: &mut Figures) -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    scene::install(&plane)?;
    scene::pool_of(&plane, "bench", &json!({ "addresses": [objects::POOL] }));
    for n in 0..nodes {
        plane.api().create("/api/v1/nodes", &node_object(n))?;
        plane.api().patch(&format!("/api/v1/nodes/{}/status", node::name(n)), Patch::Merge, &node_status(n, 0))?;
    }
    (0..SERVICES).try_for_each(|n| create(plane.api(), n))?;
    let began = Instant::now();
    let swarm = Swarm::start(&plane, nodes)?;
    until_served(plane.api(), 0..SERVICES)?;
    until_leases(plane.api(), nodes)?;
    let mut table = Table { nodes, figures };
    table.figure("start: until all Services have an address", began.elapsed().as_secs_f64(), "s");
    sleep(SETTLE);
    table.row("start", swarm.counts.now(), None);

    let span = Duration::from_secs(seconds);
    let rest = swarm.during(span, |at| kubelets(plane.api(), nodes, at))?;
    table.row("rest", rest, Some(span));
    let changes = swarm.during(span, |at| relabel(plane.api(), at))?;
    table.row("a Service changes each second", changes, Some(span));
    let writes = changes.writes.saturating_sub(rest.writes) as f64 / seconds as f64;
    table.figure("writes of all nodes for one such change", writes, "");

    let before = swarm.counts.now();
    let began = Instant::now();
    (SERVICES..SERVICES + NEW).try_for_each(|n| create(plane.api(), n))?;
    until_served(plane.api(), SERVICES..SERVICES + NEW)?;
    table.figure("until new Services have an address", began.elapsed().as_secs_f64(), "s");
    sleep(SETTLE);
    let rested = rest.writes as f64 / span.as_secs_f64() * began.elapsed().as_secs_f64();
    let writes = swarm.counts.now().since(before).writes as f64 - rested;
    table.figure("writes of all nodes for a new Service", (writes / NEW as f64).max(0.0), "");
    swarm.end();
    Ok(())
}

/// All nodes, on two threads of the control plane's namespace.
struct Swarm {
    runtime: Runtime,
    tasks: JoinSet<()>,
    counts: Arc<Counts>,
    end: End,
}

impl Swarm {
    fn start(plane: &ControlPlane, nodes: usize) -> anyhow::Result<Self> {
        let (counts, end) = (Arc::new(Counts::default()), End::default());
        let file = plane.run().dir().join("admin.kubeconfig");
        plane.space.enter(|| {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let mut tasks = JoinSet::new();
            runtime.block_on(async {
                let connector = kubernetes::connector(Some(file)).await?;
                (0..nodes).try_for_each(|n| node::start(&mut tasks, n, &connector, &counts, &end))
            })?;
            Ok(Self { runtime, tasks, counts, end })
        })
    }

    /// What passes while `each` is done at the beginning of every second, which it is told.
    fn during(&self, span: Duration, mut each: impl FnMut(u64) -> anyhow::Result<()>) -> anyhow::Result<Passed> {
        let (before, began) = (self.counts.now(), Instant::now());
        for second in 0..span.as_secs() {
            each(second)?;
            sleep((began + Duration::from_secs(second + 1)).saturating_duration_since(Instant::now()));
        }
        Ok(self.counts.now().since(before))
    }

    fn end(mut self) {
        self.end.leave.cancel();
        self.end.cancel.cancel();
        self.runtime.block_on(async {
            let all = async { while self.tasks.join_next().await.is_some() {} };
            // Whoever is late is left to the runtime.
            let _ = tokio::time::timeout(SETTLE, all).await;
        });
        self.runtime.shutdown_timeout(SETTLE);
    }
}

/// Rows of figures of one size.
struct Table<'a> {
    nodes: usize,
    figures: &'a mut Figures,
}

impl Table<'_> {
    /// What passed, by node: in a second of a span, or in all.
    fn row(&mut self, what: &str, passed: Passed, span: Option<Duration>) {
        let share = self.nodes as f64 * span.map_or(1.0, |span| span.as_secs_f64());
        let of = |count: u64| count as f64 / share;
        let per = if span.is_some() { "/s" } else { "" };
        let goal = |most: f64| (what == "rest").then_some(most);
        let mut put = |name: &str, value: f64, goal, unit: &str| {
            self.figures.at_most(&format!("{} nodes, {what}: {name}", self.nodes), value, goal, unit);
        };
        put("requests", of(passed.requests()), goal(REQUESTS), per);
        put("of these writes", of(passed.writes), None, per);
        put("events", of(passed.events), goal(EVENTS), per);
        put("answers", of(passed.bytes) / 1024.0, None, if span.is_some() { "KiB/s" } else { "KiB" });
    }

    fn figure(&mut self, what: &str, value: f64, unit: &str) {
        self.figures.at_most(&format!("{} nodes, {what}", self.nodes), value, None, unit);
    }
}

fn node_object(n: usize) -> serde_json::Value {
    let name = node::name(n);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "zone-a" } },
    })
}

/// What a kubelet writes; of a real one it is some kilobytes.
fn node_status(n: usize, beat: u64) -> serde_json::Value {
    let condition = |type_: &str, status: &str| {
        json!({
            "type": type_, "status": status, "reason": "KubeletReady", "message": format!("beat {beat}"),
            "lastHeartbeatTime": format!("2026-01-01T{:02}:{:02}:{:02}Z", beat / 3600 % 24, beat / 60 % 60, beat % 60),
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({ "status": {
        "addresses": [
            { "type": "InternalIP", "address": node::address(n).to_string() },
            { "type": "Hostname", "address": node::name(n) },
        ],
        "conditions": [
            condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
            condition("PIDPressure", "False"), condition("Ready", "True"),
        ],
    }})
}

/// The kubelets whose turn it is in this second.
fn kubelets(api: &Api, nodes: usize, second: u64) -> anyhow::Result<()> {
    let turns = KUBELET.as_secs();
    for n in (0..nodes).filter(|n| *n as u64 % turns == second % turns) {
        api.patch(&format!("/api/v1/nodes/{}/status", node::name(n)), Patch::Merge, &node_status(n, second + 1))?;
    }
    Ok(())
}

/// Somebody changes what concerns nobody here.
fn relabel(api: &Api, second: u64) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/default/services/{}", objects::name(second as usize % SERVICES));
    let label = json!({ "metadata": { "labels": { "release": format!("r{second}") } } });
    api.patch(&path, Patch::Merge, &label).map(drop)
}

fn create(api: &Api, n: usize) -> anyhow::Result<()> {
    let mut service = objects::service(n);
    for key in ["annotations", "finalizers"] {
        service["metadata"][key].take();
    }
    service["spec"]["loadBalancerIP"].take();
    api.create("/api/v1/namespaces/default/services", &service).map(drop)
}

fn until_served(api: &Api, services: std::ops::Range<usize>) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let all = api.list("/api/v1/namespaces/default/services")?;
        let served = all.iter().filter(|s| s["status"]["loadBalancer"]["ingress"].is_array()).count();
        if served >= services.end {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "{served} Services have an address, want {}", services.end);
        sleep(Duration::from_millis(100));
    }
}

fn until_leases(api: &Api, nodes: usize) -> anyhow::Result<()> {
    let (began, path) = (Instant::now(), format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"));
    loop {
        let all = api.list(&path)?;
        let of_nodes = all.iter().filter(|l| l["metadata"]["name"].as_str().is_some_and(|n| n.contains("node-")));
        let found = of_nodes.count();
        if found >= nodes {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "{found} nodes have a Lease, want {nodes}");
        sleep(Duration::from_millis(200));
    }
}
