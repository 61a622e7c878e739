//! The controller: leads in the agents' place, so that the token of a node can write no object.
//!
//! ```text
//! API server --> source --Snapshot--> compiler --Model--> status --> addresses, conditions, slices, Routes
//! Leases ------> membership::observe --Members--^
//! ```
//!
//! It is the agent without what is the node's: no datapath, no proxy, no Lease of a node. What it compiles is what every agent
//! compiles, since [`crate::model::compile`] is pure and its flags are theirs.
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    LEAVE, RunError, Tasks,
    compiler::{self, Compiler},
    config::{Classless, ControllerArgs, route_hosts::RouteHosts},
    host, membership,
    membership::Members,
    model::{Model, Node, Role, host::Host, tls::references},
    source::{Snapshot, kubernetes},
    status::writer,
    until_told,
};

/// Runs the controller until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start, or a stage ends on its own.
pub async fn run(args: ControllerArgs) -> Result<(), RunError> {
    args.process.prepare();
    args.cluster.check_pools()?;
    let name = args.own_name()?;
    let (first, last) = args.cluster.snat_ports;
    let node = Node {
        name: name.clone(),
        zone: None,
        pools: args.cluster.pools,
        refused: args.cluster.refuse_endpoints,
        allocations: Arc::default(),
        role: Role::Member,
        default_class: args.cluster.classless_services == Classless::Take,
        // It says who does; it is no candidate itself.
        announce: true,
        candidates: Vec::new(),
        host: Arc::new(Host { snat_ports: Some(first..=last), ..Host::default() }),
        addresses: Arc::default(),
        system_authorities: Arc::new(crate::compiler::authorities::load()),
    };
    let connector = kubernetes::connector(args.api.kubeconfig).await?;
    let client = connector.client()?;
    // As with agents: a Lease must not wait behind a list of everything.
    let leases = connector.client()?;

    let (snapshot_out, snapshots) = watch::channel::<Option<Arc<Snapshot>>>(None);
    let (model_out, models) = watch::channel::<Arc<Model>>(Arc::default());
    let (health_out, health) = watch::channel(kubernetes::Health::default());
    let (members_out, members) = watch::channel::<Arc<Members>>(Arc::default());
    // What a host has does not concern it; the senders live as long as it does.
    let (_host, host) = watch::channel(host::Seen::default());
    let (_addresses, addresses) = watch::channel(None);
    let (cancel, leave) = (CancellationToken::new(), CancellationToken::new());
    let inputs = compiler::Inputs { snapshots: snapshots.clone(), members: members.clone(), host, addresses };
    let route_hosts = Arc::new(RouteHosts(args.cluster.route_hosts));
    let writes = writer::Inputs { snapshots, models, members, health, route_hosts };
    let mut tasks = Tasks::default();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), name, namespace = args.api.namespace, "controller started");
    tasks.spawn(
        "source",
        kubernetes::watch((client.clone(), connector), references, snapshot_out, health_out, cancel.clone()),
    );
    tasks.spawn("compiler", Compiler::new(node, std::path::PathBuf::new()).run(inputs, model_out, cancel.clone()));
    tasks.spawn("membership", membership::observe(leases, args.api.namespace.clone(), members_out, leave.clone()));
    tasks.spawn("status", writer::run(client, args.api.namespace, name, writes, leave.clone()));
    let result = tokio::select! {
        told = until_told() => told.map_err(RunError::from),
        ended = tasks.next() => Err(ended),
    };
    tracing::info!("stopping; another controller may lead");
    leave.cancel();
    if tokio::time::timeout(LEAVE, tasks.wait_for(&["status"])).await.is_err() {
        tracing::warn!("stopped before the Lease was given back");
    }
    result
}
