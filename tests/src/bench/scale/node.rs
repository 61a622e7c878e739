//! One node of many: all of the agent that speaks to the API server, and a datapath that has programmed whatever it is given.
use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf, sync::Arc};

use kube::Client;
use sluice::{
    arrows::{Answering, Applied, UplinkStatus, Validity, XdpKind},
    compiler::{self, Compiler},
    config::route_hosts::RouteHosts,
    host::Seen,
    mac::Mac,
    membership::{self, Membership},
    model::{Model, Node, Role, tls::references},
    source::kubernetes::{self, Connector},
    status::writer,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::counted::{Counted, Counts};
use crate::cluster::scene::SYSTEM;

/// The name of a node.
pub(super) fn name(n: usize) -> String {
    format!("node-{n:04}")
}

/// Its address: 10.1.0.0/16.
pub(super) fn address(n: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(n + 1).expect("nodes of one subnet").to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}

/// What ends all nodes.
#[derive(Clone, Default)]
pub(super) struct End {
    /// Who is asked to leave in order.
    pub(super) leave: CancellationToken,
    /// Who has left.
    pub(super) cancel: CancellationToken,
}

/// Starts a node's stages.
///
/// # Errors
/// The configuration makes no client.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    n: usize,
    connector: &Connector,
    counts: &Arc<Counts>,
    end: &End,
) -> anyhow::Result<()> {
    let client = || anyhow::Ok(Counted::client(connector.client()?, Arc::clone(counts)));
    let (client, leases): (Client, Client) = (client()?, client()?);
    let node = Node { role: Role::Member, announce: true, ..Node::alone(&name(n)) };
    let (snapshot_out, snapshots) = watch::channel(None);
    let (model_out, models) = watch::channel::<Arc<Model>>(Arc::default());
    let (health_out, health) = watch::channel(kubernetes::Health::default());
    let (members_out, members) = watch::channel(Arc::default());
    let (applied_out, applied) = watch::channel(Applied::default());
    let (routed_out, routed) = watch::channel(0);
    let (validity_out, _) = watch::channel(Validity::Before);
    let (peers_out, _) = watch::channel(None::<BTreeSet<Mac>>);
    let (host_out, host) = watch::channel(Seen::default());
    let (addresses_out, addresses) = watch::channel(None);

    tasks.spawn(kubernetes::watch(
        (client.clone(), connector.clone()),
        references,
        snapshot_out,
        health_out,
        end.cancel.clone(),
    ));
    let inputs = compiler::Inputs { snapshots: snapshots.clone(), members: members.clone(), host, addresses };
    tasks.spawn(Compiler::new(node, PathBuf::new()).run(inputs, model_out, end.cancel.clone()));
    let route_hosts = Arc::new(RouteHosts::default());
    let writes = writer::Inputs { snapshots: snapshots.clone(), models: models.clone(), members, health, route_hosts };
    tasks.spawn(writer::run(client, SYSTEM.to_owned(), name(n), writes, end.leave.clone()));
    let inputs = membership::Inputs { snapshots, models: models.clone(), applied, routed };
    let membership = Membership::new(name(n), leases, SYSTEM.to_owned(), inputs, Answering::Never);
    let outputs = membership::Outputs { members: members_out, validity: validity_out, peers: peers_out };
    tasks.spawn(membership.run(outputs, end.leave.clone()));
    let cancel = end.cancel.clone();
    tasks.spawn(async move {
        // The ends that nobody sends to.
        let _kept = (host_out, addresses_out);
        let program = program(n, models, applied_out, routed_out);
        cancel.run_until_cancelled(program).await;
    });
    Ok(())
}

/// Stands for the datapath and the proxy: whatever comes is programmed at once.
async fn program(
    n: usize,
    mut models: watch::Receiver<Arc<Model>>,
    applied: watch::Sender<Applied>,
    routed: watch::Sender<u64>,
) {
    let v4 = address(n);
    let [.., high, low] = v4.octets();
    let uplink = UplinkStatus {
        name: "eth0".to_owned(),
        xdp: Some(XdpKind::Native),
        tc: true,
        v4: Some(v4),
        v6: None,
        note: None,
    };
    while models.changed().await.is_ok() {
        let rev = models.borrow_and_update().rev;
        routed.send_replace(rev);
        applied.send_replace(Applied {
            rev,
            uplinks: vec![uplink.clone()],
            macs: vec![Mac([2, 0, 0, 0, high, low])],
            ..Applied::default()
        });
    }
}
