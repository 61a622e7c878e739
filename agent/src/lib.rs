//! Sluice: a load balancer for Kubernetes in one process.
//!
//! ```text
//! manifests dir --> source --Snapshot--> compiler --Model--+--> datapath --> eBPF maps, programs, links
//!                                                          +--> proxy    --> listeners, route tables
//!                      admin reads every stage and changes nothing
//! ```
//! Where [`controller`] leads, the same source and compiler feed `status` in a process of their own.
//!
//! Each arrow is one type, sent through a `tokio::sync::watch`: the latest value wins, bursts coalesce, nothing queues.
//! Each stage is one task that owns its state. `model::compile` is pure.
#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod arrows;
pub mod cli;
pub mod compiler;
pub mod config;
pub mod controller;
pub mod datapath;
pub mod descriptors;
pub mod discovery;
pub mod host;
pub mod mac;
pub mod membership;
pub mod memory;
pub mod model;
pub mod printable;
pub mod proxy;
pub mod secrecy;
pub mod shared;
pub mod source;
pub mod spelling;
pub mod stable;
pub mod status;
pub mod telemetry;

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Stages,
    arrows::{Applied, Validity},
    compiler::{Compiler, allocations},
    config::{AgentArgs, ConfigError, route_hosts::RouteHosts},
    datapath::{Datapath, DatapathError},
    discovery::Directory,
    host::network::Network,
    membership::{Members, Membership},
    model::{Model, Node, Role, tls::references},
    proxy::Proxy,
    source::{Snapshot, kubernetes, manifests},
};

/// How long the stages may take to end: a little more than the proxy gives requests in flight.
pub const STOP: Duration = Duration::from_secs(35);

/// How long the other nodes may take to hear that this agent ends.
const LEAVE: Duration = Duration::from_secs(5);

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The agent cannot run, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The flags do not fit together, or do not fit this host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The addresses given before cannot be read.
    #[error(transparent)]
    Allocations(#[from] allocations::AllocationsError),
    /// No API server is known.
    #[error("{}", telemetry::chain(.0))]
    Client(#[from] kubernetes::ClientError),
    /// The datapath cannot be loaded.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// A socket or a signal cannot be had.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A stage ended that should not.
    #[error("stage {stage} ended: {reason}")]
    Stage {
        /// Its name.
        stage: &'static str,
        /// Why.
        reason: String,
    },
}

/// Runs the agent until SIGTERM or SIGINT. What is attached stays attached.
///
/// # Errors
/// It cannot start, or a stage ends on its own.
pub async fn run(args: AgentArgs) -> Result<(), RunError> {
    args.process.prepare();
    args.cluster.check_pools()?;
    config::warn_of_port_overlap(args.cluster.snat_ports);
    let name = args.node_name()?;
    let allocations = Arc::new(allocations::load(&args.state_dir)?);
    let node = Node {
        name: name.clone(),
        zone: args.zone.clone(),
        pools: args.cluster.pools.clone(),
        refused: args.cluster.refuse_endpoints.clone(),
        allocations,
        role: if args.manifests.is_some() { Role::Alone } else { Role::Member },
        default_class: args.cluster.classless_services == config::Classless::Take,
        announce: args.announce == config::Announce::Auto,
        candidates: Vec::new(),
        host: Arc::default(),
        addresses: Arc::default(),
        system_authorities: Arc::new(compiler::authorities::load()),
    };

    let is_member = args.manifests.is_none();
    // The renewal of a Lease must not wait behind a list of everything: its connection is another one.
    let clients = match &args.manifests {
        Some(_) => None,
        None => {
            let connector = kubernetes::connector(args.api.kubeconfig.clone()).await?;
            Some((connector.client()?, connector.client()?, connector))
        }
    };

    // Before anything in the kernel is touched: a second agent must not put its socket in the first one's place.
    let admin = admin::server::bind_unix(&args.admin_socket).await?;
    let settings = proxy::Settings::within(&descriptors::raise()?, memory::limit());
    let (mut settings, access_log) = args.observe.apply(settings)?;
    settings.workers = args.proxy_workers.map_or(settings.workers, usize::from);
    let proxy = Proxy::bind_with(settings)?;
    // Nobody else takes over what a node that stands alone announces.
    let (validity_out, validity) = watch::channel(if is_member { Validity::Before } else { Validity::Always });
    let (peers_out, peers) = watch::channel(None);
    let datapath = datapath::Config {
        bpf_dir: args.bpf_dir.clone(),
        interfaces: args.interfaces.clone(),
        mode: args.datapath,
        snat_ports: args.cluster.snat_ports,
        validity,
        peers,
        proxy_rev: proxy.applied(),
    };
    let datapath = Datapath::load(&datapath, proxy.socket())?;
    let was_answering = datapath.answering();
    let node = Node { host: Arc::new(args.host(proxy.socket().local_addr()?.port())), ..node };
    let (host_out, host) = watch::channel(host::look(&args.interfaces).await.map_err(DatapathError::from)?);

    let (snapshot_out, snapshots) = watch::channel::<Option<Arc<Snapshot>>>(None);
    let (model_out, models) = watch::channel::<Arc<Model>>(Arc::default());
    let (health_out, health) = watch::channel(kubernetes::Health::default());
    let (applied_out, applied) = watch::channel(Applied::default());
    let (members_out, members) = watch::channel::<Arc<Members>>(Arc::default());
    let (directory_out, directory) = watch::channel(Directory::new(jiff::Timestamp::now()));
    let stages = Arc::new(Stages {
        node: name.clone(),
        started: Instant::now(),
        manifests: args.manifests.clone(),
        pins: datapath::pins::pin_dir(&args.bpf_dir),
        snapshots: snapshots.clone(),
        health: health.clone(),
        models: models.clone(),
        applied,
        proxy: proxy.counters(),
        ejections: proxy.ejections(),
        gateways: proxy.gateways(),
        metrics: proxy.metrics(),
        routed: proxy.applied(),
        directory,
        waiters: Arc::new(Semaphore::new(admin::discovery::WAITERS)),
    });

    let inputs = membership::Inputs {
        snapshots: snapshots.clone(),
        models: models.clone(),
        applied: stages.applied.clone(),
        routed: stages.routed.clone(),
    };
    let cancel = CancellationToken::new();
    let mut tasks = Tasks::default();
    tasks.spawn("admin", admin::server::serve_unix(admin, stages.clone()));
    if let Some(addr) = args.metrics_addr {
        let listener = admin::server::bind_tcp("--metrics-addr", addr).await?;
        tasks.spawn("metrics", admin::server::serve_tcp(listener, stages.clone()));
    }
    if let Some(addr) = args.health_addr {
        let listener = admin::server::bind_tcp("--health-addr", addr).await?;
        tasks.spawn("health", admin::server::serve_health(listener, stages.clone()));
    }
    if let Some(addr) = args.discovery_addr {
        let listener = admin::server::bind_tcp("--discovery-addr", addr).await?;
        tasks.spawn("discovery API", admin::server::serve_discovery(listener, stages));
    }
    let watcher = clients.as_ref().map(|(client, ..)| client.clone());
    let (applied, about) = (inputs.applied.clone(), Path::new(status::node::TERMINATION_LOG));
    tasks.spawn("node events", status::node::run(watcher, name.clone(), applied, about));
    let (addresses_out, addresses) = watch::channel(None);
    if !is_member {
        let network = Network::try_new().map_err(DatapathError::from)?;
        tasks.spawn(
            "addresses",
            host::addresses::watch(network, args.interfaces.clone(), addresses_out, cancel.clone()),
        );
    }
    tasks.spawn("discovery", discovery::run(snapshots.clone(), directory_out, cancel.clone()));
    tasks.spawn("host", host::run(args.interfaces, host_out, cancel.clone()));
    tasks.spawn("datapath", datapath.run(models.clone(), applied_out, cancel.clone()));
    tasks.spawn("proxy", proxy.run(models.clone(), cancel.clone()));
    tasks.spawn(
        "compiler",
        Compiler::new(node, args.state_dir).run(
            compiler::Inputs { snapshots: snapshots.clone(), members: members.clone(), host, addresses },
            model_out,
            cancel.clone(),
        ),
    );
    let leave = CancellationToken::new();
    let leads = args.leader == config::Leader::Agents;
    match (args.manifests, clients) {
        (Some(dir), _) => {
            tracing::info!(version = env!("CARGO_PKG_VERSION"), node = name, manifests = %dir.display(), "agent started");
            tasks.spawn_fallible("source", manifests::watch(dir, snapshot_out, cancel.clone()));
        }
        (None, Some((client, leases, connector))) => {
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                node = name,
                namespace = args.api.namespace,
                "agent started"
            );
            tasks.spawn(
                "source",
                kubernetes::watch((client.clone(), connector), references, snapshot_out, health_out, cancel.clone()),
            );
            if leads {
                let route_hosts = Arc::new(RouteHosts(args.cluster.route_hosts));
                let (snapshots, models) = (snapshots.clone(), models.clone());
                let writes = status::writer::Inputs { snapshots, models, members, health, route_hosts };
                let (client, namespace, name) = (client.clone(), args.api.namespace.clone(), name.clone());
                tasks.spawn("status", status::writer::run(client, namespace, name, writes, leave.clone()));
            }
            let outputs = membership::Outputs { members: members_out, validity: validity_out, peers: peers_out };
            let membership = Membership::new(name, leases, args.api.namespace, inputs, was_answering);
            tasks.spawn("membership", membership.run(outputs, leave.clone()));
        }
        (None, None) => unreachable!("without a directory there is a client"),
    }

    let result = tokio::select! {
        told = until_told() => told.map_err(RunError::from),
        ended = tasks.next() => Err(ended),
    };
    if let Err(RunError::Stage { stage: "proxy", .. }) = &result {
        return result;
    }
    tracing::info!("stopping; the programs stay attached and go on forwarding");
    // The others hear of it while everything still works.
    leave.cancel();
    let leaving: &[&str] = if leads { &["membership", "status"] } else { &["membership"] };
    if is_member && tokio::time::timeout(LEAVE, tasks.wait_for(leaving)).await.is_err() {
        tracing::warn!("stopped before the other nodes were told");
    }
    cancel.cancel();
    // The proxy lets requests in flight end; when it is what has ended, there is nothing to wait for.
    if tokio::time::timeout(STOP, tasks.wait_for(&["proxy"])).await.is_err() {
        tracing::warn!("stopped before the proxy had ended");
    }
    if let Some(writer) = access_log {
        writer.finish(LAST_LINES);
    }
    // The socket of an agent that is gone would only refuse connections.
    if let Err(error) = std::fs::remove_file(&args.admin_socket) {
        tracing::debug!(%error, "admin socket");
    }
    result
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be waited for.
pub async fn until_told() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Detaches everything below the directory of the pins and removes our routes.
///
/// # Errors
/// A pin or a route cannot be removed.
pub async fn cleanup(bpf_dir: &Path) -> Result<(), RunError> {
    datapath::pins::cleanup(bpf_dir).map_err(DatapathError::from)?;
    let network = Network::try_new().map_err(DatapathError::from)?;
    network.sync_local_routes(&std::collections::BTreeSet::new()).await.map_err(DatapathError::from)?;
    Ok(())
}

/// The stages' tasks, by name.
#[derive(Default)]
struct Tasks {
    set: JoinSet<(&'static str, Result<(), String>)>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            (name, Ok(()))
        });
    }

    fn spawn_fallible<E: ToString>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await.map_err(|e| e.to_string())) });
    }

    /// Waits for the next stage to end, which none should.
    async fn next(&mut self) -> RunError {
        match self.set.join_next().await {
            Some(Ok((stage, result))) => {
                RunError::Stage { stage, reason: result.err().unwrap_or_else(|| "it returned".into()) }
            }
            Some(Err(error)) => RunError::Stage { stage: "unknown", reason: error.to_string() },
            None => RunError::Stage { stage: "all", reason: "none is left".to_owned() },
        }
    }

    /// Waits for stages to end, which they do after they were cancelled; the others are aborted on drop.
    async fn wait_for(&mut self, names: &[&str]) {
        let mut left = names.to_vec();
        while let Some(ended) = self.set.join_next().await {
            if let Ok((stage, _)) = ended {
                left.retain(|name| *name != stage);
            }
            if left.is_empty() {
                return;
            }
        }
    }
}
