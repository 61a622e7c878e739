//! The datapath's task: each new model becomes rows, a plan, writes; time and the host's interfaces are followed.
//!
//! In: models. Out: [`Applied`]. Invariant: programs are attached only after the first model is in the maps, so that a
//! node that starts never rejects what it is about to serve; on exit everything stays attached and forwards.
mod interfaces;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData};
use futures_util::{Stream, StreamExt as _};
use sluice_ebpf::{Addr, FrontendKey, Heard, Settings, VIP_ANNOUNCE, map};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    announce::Announcer,
    capacity::{Capacity, Shortage},
    desired::{Desired, Touched},
    host::Host,
    load::{LoadError, Programs},
    maps::{Pinned, TableError, Tables, fault, open},
    mesh::Mesh,
    peers::Peers,
    permission::{self, NotPermitted},
    plan::{Observed, Op, Refused, State},
    reach::Reach,
    sweep::monotonic_nanoseconds,
    sweeps::Sweeps,
    uplink::Uplinks,
};
use crate::{
    arrows::{Answering, Applied, Validity},
    config::Mode,
    host::network::{
        Link, Network, NetworkError,
        routes::{Route, Rules},
    },
    mac::Mac,
    model::{Model, Target},
};

/// How often interfaces are looked at and what was left behind is removed.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two walks over the flows.
const SWEEP_TICKS: u64 = 10;
/// Ticks between two looks at our local routes.
const ROUTE_TICKS: u64 = 5;
/// How long the proxy is given to know a new frontend before packets are led to it.
const PROXY_WAIT: Duration = Duration::from_millis(200);
/// Replies (RST, ICMP unreachable) that one CPU may make in a second.
const REJECT_RATE: u32 = 1_000;

/// The stage's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the pins; the layout's version is added.
    pub bpf_dir: PathBuf,
    /// The uplinks; empty: those of the default routes.
    pub interfaces: Vec<String>,
    /// Which programs forward.
    pub mode: Mode,
    /// Source ports for flows to other nodes, first and last.
    pub snat_ports: (u16, u16),
    /// For how long VIPs may be announced; in a cluster, for as long as no other node takes them over.
    pub validity: watch::Receiver<Validity>,
    /// The Ethernet addresses of the other nodes' uplinks; `None` before the others were seen.
    pub peers: watch::Receiver<Option<BTreeSet<Mac>>>,
    /// The revision of the model that the proxy routes by.
    pub proxy_rev: watch::Receiver<u64>,
}

/// The stage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The process may not do what the datapath needs.
    #[error(transparent)]
    Permission(#[from] NotPermitted),
    /// The programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The host's interfaces cannot be read.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// The stage's state.
pub struct Datapath {
    programs: Programs,
    settings: Array<MapData, Settings>,
    row: Settings,
    /// For how long VIPs may be announced.
    validity: watch::Receiver<Validity>,
    /// The other nodes' uplinks, as reported and as written.
    peers: (watch::Receiver<Option<BTreeSet<Mac>>>, Peers),
    pinned: Pinned,
    state: State,
    uplinks: Uplinks,
    /// No interface was named: those of the default routes are taken once there are any.
    by_default_route: bool,
    network: Network,
    /// The routes and the rules of the last tick.
    ways: (Vec<Route>, Rules),
    /// Which endpoints can be reached.
    reach: Reach,
    host: Host,
    /// The ClusterIPs that the proxy serves.
    mesh: Mesh,
    desired: Desired,
    /// Who was heard to have a VIP that is asked for.
    heard: HashMap<MapData, Addr, Heard>,
    /// The VIPs that have local routes.
    routed: Option<BTreeSet<IpAddr>>,
    lookup_attached: bool,
    sweeps: Sweeps,
    announcer: Announcer,
    /// The revision of the model that the proxy routes by.
    proxy: watch::Receiver<u64>,
    /// A write failed: the state was read again and the model must be planned anew.
    dirty: bool,
    applied: Applied,
}

impl Datapath {
    /// Loads the programs, adopts or creates the maps. Nothing is attached yet.
    ///
    /// # Errors
    /// The kernel refuses, a pin is incompatible, or there is no permission.
    pub fn load(config: &Config, proxy: &impl AsRawFd) -> Result<Self, DatapathError> {
        permission::check()?;
        let network = Network::try_new()?;
        let programs = Programs::load(&config.bpf_dir)?;
        programs.set_proxy_socket(proxy)?;
        let dir = programs.dir();
        let mut settings: Array<MapData, Settings> = open(dir, map::SETTINGS)?;
        let before = settings.get(&0, 0).map_err(|e| fault(map::SETTINGS, e))?;
        let (snat_first, snat_last) = config.snat_ports;
        let mut validity = config.validity.clone();
        let valid = *validity.borrow_and_update();
        let row = Settings {
            snat_first,
            snat_last,
            reject_rate: REJECT_RATE,
            announce_until: valid.nanoseconds(before.announce_until),
            blind_since: if valid == Validity::Before { before.blind_since } else { 0 },
        };
        write_settings(&mut settings, row)?;
        let peers = (config.peers.clone(), Peers::open(dir)?);
        let pinned = Pinned::open(dir)?;
        let observed = pinned.observe()?;
        let state = State::new(&observed, Capacity::default());
        let mut desired = Desired::default();
        let adopted = observed.vips.iter().filter(|(_, vip)| vip.flags & VIP_ANNOUNCE != 0);
        desired.adopt(adopted.map(|(vip, _)| super::rows::ip(*vip)));
        let heard = open(dir, map::HEARD)?;
        let uplinks = Uplinks::open(dir, config.interfaces.clone(), config.mode)?;
        let host = Host::open(dir)?;
        let mesh = Mesh::open(dir)?;
        let by_default_route = config.interfaces.is_empty();
        Ok(Self {
            programs,
            settings,
            row,
            validity,
            peers,
            pinned,
            state,
            uplinks,
            by_default_route,
            network,
            ways: Default::default(),
            reach: Reach::default(),
            host,
            mesh,
            desired,
            heard,
            routed: None,
            lookup_attached: false,
            sweeps: Sweeps::default(),
            announcer: Announcer::new(valid),
            proxy: config.proxy_rev.clone(),
            dirty: false,
            applied: Applied::default(),
        })
    }

    /// Follows the models until cancelled.
    pub async fn run(
        mut self,
        mut models: watch::Receiver<Arc<Model>>,
        out: watch::Sender<Applied>,
        cancel: CancellationToken,
    ) {
        let mut changes = Network::changes().map_err(|error| tracing::warn!(%error, "interfaces")).ok();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        loop {
            tokio::select! {
                () = cancel.cancelled() => {
                    // How long the programs may answer alone.
                    if self.validity.has_changed().is_ok_and(|changed| changed) {
                        self.follow_validity();
                    }
                    return;
                }
                changed = models.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let model = models.borrow_and_update().clone();
                    if model.rev > 0 {
                        self.apply(&model).await;
                    }
                }
                Some(()) = self.sweeps.rested() => {}
                Ok(()) = self.validity.changed() => self.follow_validity(),
                Ok(()) = self.peers.0.changed() => self.follow_peers(),
                Some(()) = self.desired.prober().due() => self.probe(),
                Some(()) = self.announcer.due() => self.announcer.send(&self.programs),
                link = next(&mut changes) => match link {
                    Some(link) => self.follow_guest(&link),
                    None => changes = Network::changes().ok(),
                },
                _ = tick.tick() => {
                    ticks += 1;
                    self.sweeps.due |= ticks.is_multiple_of(SWEEP_TICKS);
                    if ticks.is_multiple_of(ROUTE_TICKS) {
                        // Somebody else may have removed a route, or taken lo down and up.
                        self.routed = None;
                    }
                    let model = models.borrow().clone();
                    self.pass_time(&model).await;
                }
            }
            // What cannot be read is not gone, and neither are its flows.
            if self.applied.rev > 0 && !models.borrow().partial {
                let model = models.borrow().clone();
                self.sweeps.start_if_due(self.programs.dir(), &model);
            }
            self.applied.announcements = self.announcer.sent();
            self.applied.census.clone_from(&self.sweeps.census);
            out.send_replace(self.applied.clone());
        }
    }

    async fn apply(&mut self, model: &Arc<Model>) {
        let began = Instant::now();
        let first = self.applied.rev == 0;
        if first {
            self.name_uplinks().await;
            if let Ok(links) = self.network.links().await {
                self.follow_host(&links);
            }
        }
        let touched = self.desired.follow(model);
        let is_mesh_new = self.mesh.differs(&model.http.mesh);
        if touched.proxied || is_mesh_new {
            self.await_proxy(model).await;
        }
        self.dirty |= self.state.keep_adopted(model.partial);
        let is_whole = self.is_whole();
        let (ops, refused) = self.plan(&touched);
        let mut faults: Vec<String> = refused.iter().map(|(key, shortage)| fault_of(key, shortage)).collect();
        let written = self.write(&ops);
        let rev = if written.is_ok() { model.rev } else { self.applied.rev };
        faults.extend(written.as_ref().err().map(ToString::to_string));
        self.sweeps.due |= !first && touched.orphans;
        // What is dialled no more must not lead to an address that is not here any more.
        let removed = self.mesh.remove_others(&model.http.mesh);
        if let Err(error) = self.route(model, touched.proxied || is_mesh_new).await {
            self.dirty = true;
            faults.push(error.to_string());
        } else if is_mesh_new {
            let added = removed.and_then(|()| self.mesh.add(&model.http.mesh));
            faults.extend(added.err().map(|error| error.to_string()));
            self.dirty |= self.mesh.differs(&model.http.mesh);
            self.follow_guests().await;
        }
        if written.is_ok() {
            let rows = self.desired.rows();
            if is_whole { self.announcer.follow(rows, &touched.vips) } else { self.announcer.follow_all(rows) }
        }
        let (frontends, backends, table_chunks, sources) = self.state.occupancy();
        let took = began.elapsed();
        for reason in faults.iter().filter(|f| !self.applied.faults.contains(f)) {
            tracing::warn!(rev = model.rev, reason, "not programmed");
        }
        let were_full: BTreeSet<_> = self.applied.nearly_full().map(|occupancy| occupancy.map).collect();
        self.applied = Applied {
            rev,
            took,
            ops: ops.len(),
            frontends,
            backends,
            table_chunks,
            sources,
            unprogrammed: if faults.is_empty() { BTreeMap::new() } else { self.unprogrammed(model, &refused, &faults) },
            refused: by_map(&refused),
            capacity: self.state.capacity(),
            faults,
            uplinks: std::mem::take(&mut self.applied.uplinks),
            host: std::mem::take(&mut self.applied.host),
            bound: std::mem::take(&mut self.applied.bound),
            sides: std::mem::take(&mut self.applied.sides),
            guests: std::mem::take(&mut self.applied.guests),
            left_out: std::mem::take(&mut self.applied.left_out),
            lacking: std::mem::take(&mut self.applied.lacking),
            macs: std::mem::take(&mut self.applied.macs),
            conflicts: std::mem::take(&mut self.applied.conflicts),
            unannounced: std::mem::take(&mut self.applied.unannounced),
            announcements: self.announcer.sent(),
            census: std::mem::take(&mut self.applied.census),
        };
        self.note_conflicts();
        for full in self.applied.nearly_full().filter(|full| !were_full.contains(full.map)) {
            tracing::warn!(map = full.map, used = full.used, capacity = full.capacity, "a map is nearly full");
        }
        if first && rev > 0 {
            self.attach().await;
            tracing::info!(rev = model.rev, frontends, backends, ops = ops.len(), elapsed = ?took, "programmed");
        } else {
            tracing::debug!(rev = model.rev, frontends, backends, ops = ops.len(), elapsed = ?took, "programmed");
        }
    }

    /// The objects that lack a frontend in the maps, each with the reason of the first.
    fn unprogrammed(&self, model: &Model, refused: &Refused, faults: &[String]) -> BTreeMap<String, String> {
        let mut objects = BTreeMap::new();
        for (frontend, target) in &model.frontends {
            let key = super::rows::frontend_key(frontend);
            if !self.state.has_frontend(&key) {
                let why = refused.get(&key).map(|shortage| fault_of(&key, shortage)).or(faults.first().cloned());
                objects.entry(target.owner().to_string()).or_insert_with(|| why.unwrap_or_default());
            }
        }
        objects
    }

    /// Looks at what the model has touched, and at everything when the maps are not as the last model wanted them.
    fn plan(&mut self, touched: &Touched) -> (Vec<Op>, Refused) {
        let is_whole = self.is_whole();
        self.dirty = false;
        if is_whole { self.state.follow(self.desired.rows(), touched) } else { self.state.plan(self.desired.rows()) }
    }

    /// Whether the maps are as the last model wanted them.
    fn is_whole(&self) -> bool {
        self.applied.rev > 0 && !self.dirty && self.applied.faults.is_empty()
    }

    /// What the agent before this one has left of the right to announce VIPs.
    #[must_use]
    pub fn answering(&self) -> Answering {
        let now = monotonic_nanoseconds();
        let since = |at: u64| {
            let now_here = std::time::Instant::now();
            now_here.checked_sub(std::time::Duration::from_nanos(now.saturating_sub(at))).unwrap_or(now_here)
        };
        let Settings { announce_until: until, blind_since: blind, .. } = self.row;
        let missed = if blind == 0 { until } else { blind.min(until) };
        match until {
            0 => Answering::Never,
            _ if until <= now => Answering::Lapsed { since: since(missed) },
            _ => Answering::Now { blind_since: (blind != 0).then(|| since(blind)) },
        }
    }

    /// Takes over for how long VIPs may be announced.
    fn follow_validity(&mut self) {
        let valid = *self.validity.borrow_and_update();
        self.row.announce_until = valid.nanoseconds(self.row.announce_until);
        self.row.blind_since = valid.blind_since();
        match write_settings(&mut self.settings, self.row) {
            Ok(()) => self.announcer.follow_validity(valid),
            Err(error) => tracing::error!(%error, "how long VIPs may be announced"),
        }
    }

    /// Applies who the other nodes are.
    fn follow_peers(&mut self) {
        let peers = self.peers.0.borrow_and_update().clone();
        if let Some(peers) = peers
            && let Err(error) = self.peers.1.follow(&peers)
        {
            tracing::error!(%error, "the other nodes' uplinks");
        }
    }

    /// Goes on to ask whether other hosts have VIPs that are to be announced.
    fn probe(&mut self) {
        let rows = &self.heard;
        let heard = |vip: &IpAddr| rows.get(&super::rows::addr(*vip), 0).ok();
        let (questions, changed) = self.desired.prober_mut().step(tokio::time::Instant::now(), heard);
        for (port, frame) in questions {
            if let Err(error) = self.programs.send(port, &frame) {
                tracing::debug!(port, %error, "whether another host has a VIP");
            }
        }
        if changed.is_empty() {
            return;
        }
        let touched = self.desired.reflag(&changed);
        self.write_touched(&touched, "VIPs to announce");
        self.note_conflicts();
    }

    /// Says which VIPs are not announced, and why.
    fn note_conflicts(&mut self) {
        let conflicts = self.desired.prober().conflicts();
        for (vip, holder) in conflicts.iter().filter(|(vip, by)| self.applied.conflicts.get(*vip) != Some(*by)) {
            tracing::warn!(%vip, reason = holder.sentence(), "an address is in use");
        }
        let vips: BTreeSet<IpAddr> = self.desired.prober().unannounced().collect();
        let objects = self.desired.model().allocations.iter();
        let lacking = objects.filter(|(_, addrs)| !vips.is_empty() && addrs.iter().any(|addr| vips.contains(addr)));
        self.applied.unannounced = lacking.map(|(object, _)| object.to_string()).collect();
        self.applied.conflicts = conflicts;
    }

    /// Brings the local routes in step when the proxy's VIPs have changed.
    async fn route(&mut self, model: &Model, changed: bool) -> Result<(), NetworkError> {
        if !changed && self.routed.is_some() {
            return Ok(());
        }
        let vips = proxy_vips(model);
        if self.routed.as_ref() != Some(&vips) {
            self.routed = None;
            self.network.sync_local_routes(&vips).await?;
            self.routed = Some(vips);
        }
        Ok(())
    }

    /// Lets the proxy know a new frontend first: a connection that it does not know would be closed.
    async fn await_proxy(&mut self, model: &Model) {
        // It may be at a newer model already, which serves as well.
        let known = self.proxy.wait_for(|routed| *routed >= model.rev);
        let _ = tokio::time::timeout(PROXY_WAIT, known).await;
    }

    async fn pass_time(&mut self, model: &Arc<Model>) {
        if self.dirty && model.rev > 0 {
            self.apply(model).await;
        }
        if self.applied.rev == 0 {
            return;
        }
        if self.routed.is_none()
            && let Err(error) = self.route(model, false).await
        {
            tracing::warn!(reason = %error, "local routes");
        }
        let ops = self.state.tick();
        // What found no room may find it now.
        self.dirty |= !ops.is_empty() && !self.applied.faults.is_empty();
        if let Err(error) = self.write(&ops) {
            tracing::warn!(reason = %error, "clean-up");
        }
        self.attach().await;
    }

    /// Writes rows that are others without a new model. Until one is programmed, what it names is not in the maps either.
    fn write_touched(&mut self, touched: &Touched, what: &'static str) {
        if self.applied.rev == 0 || *touched == Touched::default() {
            return;
        }
        let (ops, refused) = self.state.follow(self.desired.rows(), touched);
        // The next tick says who.
        self.dirty |= !refused.is_empty();
        match self.write(&ops) {
            Ok(()) => self.announcer.follow(self.desired.rows(), &touched.vips),
            Err(error) => tracing::warn!(reason = %error, what, "not programmed"),
        }
    }

    /// Writes until one fails; then the state is what the maps hold, and the next tick plans again.
    fn write(&mut self, ops: &[Op]) -> Result<(), TableError> {
        let result = ops.iter().try_for_each(|op| self.pinned.run(op));
        if result.is_err() {
            self.dirty = true;
            match self.pinned.observe() {
                Ok(observed) => self.state = State::new(&observed, self.state.capacity()),
                // Every row is written again: what was not written is not known.
                Err(error) => {
                    tracing::error!(%error, "the maps cannot be read back");
                    self.state = State::new(&Observed::default(), self.state.capacity());
                }
            }
        }
        result
    }
}

/// A sentence about a frontend that found no place.
fn fault_of(key: &FrontendKey, shortage: &Shortage) -> String {
    format!("frontend {} port {}: {shortage}", super::rows::ip(key.vip), key.port)
}

/// How many frontends found no place, by the map that is full.
fn by_map(refused: &Refused) -> BTreeMap<&'static str, usize> {
    let mut by_map = BTreeMap::new();
    refused.values().for_each(|shortage| *by_map.entry(shortage.map).or_default() += 1);
    by_map
}

/// What comes next; never, where there is no stream.
async fn next(changes: &mut Option<impl Stream<Item = Link> + Unpin>) -> Option<Link> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

fn write_settings(settings: &mut Array<MapData, Settings>, row: Settings) -> Result<(), TableError> {
    settings.set(0, row, 0).map_err(|e| fault(map::SETTINGS, e))
}

/// The VIPs that the proxy's connections come to; those of a node have the kernel's own route.
fn proxy_vips(model: &Model) -> BTreeSet<IpAddr> {
    let proxied = model.frontends.iter().filter(|(_, target)| matches!(target, Target::Proxy { .. }));
    let vips = proxied.map(|(frontend, _)| frontend.vip).filter(|vip| !model.pools.is_of_node(*vip));
    vips.chain(Mesh::addresses(&model.http.mesh)).collect()
}
