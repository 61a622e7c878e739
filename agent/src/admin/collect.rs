//! The stages' outputs -> what the admin API answers. Reads every stage, changes nothing.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use tokio::sync::{Semaphore, watch};

use super::{certificates, explain, flows::FlowQuery, view};
use crate::{
    arrows::{Applied, Holder, SideStatus, UplinkStatus, XdpKind},
    datapath::{
        maps::TableError,
        observe::{self, FrontendCount},
    },
    discovery::Directory,
    model::{EndpointShare, Frontend, Model, ObjectRef, Outcome, Target, Verdict, http::listing::RouteRow, policy},
    proxy::{
        self,
        explain::{Asked, Explanation, explain},
    },
    source::{Snapshot, kubernetes::Health},
};

/// The ends of every arrow, to look at.
#[derive(Clone)]
pub struct Stages {
    /// The node's name.
    pub node: String,
    /// When the agent started.
    pub started: Instant,
    /// The directory of this layout's pins.
    pub pins: PathBuf,
    /// The directory of the manifests; `None` where the API server is the source.
    pub manifests: Option<PathBuf>,
    /// What the source said last; `None` before everything was read once.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// How well the API server is followed; empty with manifests.
    pub health: watch::Receiver<Health>,
    /// The newest model.
    pub models: watch::Receiver<Arc<Model>>,
    /// What is programmed.
    pub applied: watch::Receiver<Applied>,
    /// What the proxy counts.
    pub proxy: proxy::Counters,
    /// Which endpoints the proxy passes over.
    pub ejections: proxy::Ejections,
    /// Which bounds Gateways have reached.
    pub gateways: proxy::Gateways,
    /// What the proxy counts by route and by backend.
    pub metrics: proxy::Metrics,
    /// The revision of the model that the proxy routes by; 0 before the first.
    pub routed: watch::Receiver<u64>,
    /// Who is behind each Service.
    pub directory: watch::Receiver<Directory>,
    /// One permit for each request that waits for the directory to change.
    pub waiters: Arc<Semaphore>,
}

impl Stages {
    /// What keeps the node from being ready; empty when it is.
    #[must_use]
    pub fn blockers(&self) -> Vec<String> {
        let mut unread = self.health.borrow().blockers();
        if unread.is_empty() && self.snapshots.borrow().is_none() {
            unread.push(self.unread());
        }
        let unrouted = (*self.routed.borrow() == 0).then(|| "proxy: no route table yet".to_owned());
        unread.into_iter().chain(self.applied.borrow().blocker()).chain(unrouted).collect()
    }

    /// Why there is no snapshot yet.
    fn unread(&self) -> String {
        let failed = self.manifests.as_deref().and_then(|dir| Some((dir, std::fs::read_dir(dir).err()?)));
        match failed {
            Some((dir, error)) => {
                format!("source: --manifests {} cannot be read: {error}; want a directory of manifests", dir.display())
            }
            None => "source: the objects are not read yet".to_owned(),
        }
    }

    /// `GET /api/v1/status`.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn status(&self) -> Result<view::Status, TableError> {
        // One after the other: a borrow that lives while the same value is borrowed again waits for ever once a stage wants to
        // write between the two, and the stage with it.
        let model = self.models.borrow().clone();
        let applied = self.applied.borrow().clone();
        let blockers = self.blockers();
        let faults = self.snapshots.borrow().as_ref().map_or_else(Vec::new, |s| s.faults.clone());
        let faults = faults.into_iter().map(|f| view::Fault {
            origin: f.line.map_or_else(|| f.origin.clone(), |line| format!("{}:{line}", f.origin)),
            reason: f.reason,
        });
        let broken = model.verdicts.iter().filter(|(_, v)| matches!(v.outcome, Outcome::Partial | Outcome::Refused));
        let is_odd = |message: &String| !message.starts_with(policy::IN_FORCE);
        let odd = |v: &Verdict| v.outcome == Outcome::Accepted && v.messages.iter().any(is_odd);
        let remarks = model.verdicts.iter().filter(|(_, v)| odd(v));
        let reasons = observe::reasons(&self.pins)?.into_iter().filter(|(_, n)| *n > 0);
        let of_certificates = certificates::warnings(&model.http, jiff::Timestamp::now().as_second());
        let pressed = self.gateways.pressed().into_iter().filter(proxy::Pressed::is_recent);
        let pressed = pressed.map(|pressed| format!("Gateway {}: {pressed}", pressed.gateway));
        let limits = self.proxy.total().limits().into_iter().chain(pressed).chain(of_certificates);
        Ok(view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: blockers.is_empty(),
            blockers,
            model_rev: model.rev,
            programmed_rev: applied.rev,
            programmed_in_us: u64::try_from(applied.took.as_micros()).unwrap_or(u64::MAX),
            frontends: applied.frontends,
            backends: applied.backends,
            table_chunks: (applied.table_chunks, applied.capacity.chunks),
            uplinks: applied.uplinks.iter().map(uplink).collect(),
            sides: applied.sides.iter().map(side).collect(),
            faults: faults.collect(),
            unread: self.health.borrow().remarks(),
            nearly_full: applied.nearly_full().map(|occupancy| occupancy.to_string()).collect(),
            unprogrammed: applied.faults.into_iter().chain(applied.guests).collect(),
            limits: limits.chain(applied.census.pressure()).collect(),
            host: applied.host,
            conflicts: applied.conflicts.iter().map(|(vip, by)| format!("{vip}: {}", by.sentence())).collect(),
            left_out: applied.left_out.iter().map(|(endpoint, why)| format!("{endpoint}: {why}")).collect(),
            bound: applied.bound.iter().map(|(vip, at)| format!("{vip}: {}", at.sentence())).collect(),
            remarks: remarks.map(|(object, verdict)| object_view(object, Some(verdict))).collect(),
            problems: broken.map(|(object, verdict)| object_view(object, Some(verdict))).collect(),
            reasons: reasons.map(|(name, n)| (name.to_owned(), n)).collect(),
            pins: self.pins.display().to_string(),
        })
    }

    /// `GET /api/v1/services`.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn services(&self) -> Result<Vec<view::Service>, TableError> {
        let model = self.models.borrow().clone();
        let conflicts = self.applied.borrow().conflicts.clone();
        let counts = observe::frontends(&self.pins)?;
        let mut by_owner: BTreeMap<ObjectRef, Vec<(&Frontend, &Target)>> = BTreeMap::new();
        for (frontend, target) in &model.frontends {
            by_owner.entry(target.owner()).or_default().push((frontend, target));
        }
        let listed = |object: &ObjectRef| matches!(object.kind.as_str(), "Service" | "Gateway");
        let seen = model.verdicts.iter().filter(|(o, v)| listed(o) && v.outcome != Outcome::Ignored);
        let mut objects: Vec<ObjectRef> = seen.map(|(o, _)| o.clone()).collect();
        objects.extend(by_owner.keys().filter(|o| !model.verdicts.contains_key(o)).cloned());
        objects.sort();
        let view = |object: ObjectRef| {
            let frontends = by_owner.get(&object).map_or(&[][..], Vec::as_slice);
            service((&model, &conflicts), &object, frontends, &counts)
        };
        Ok(objects.into_iter().map(view).collect())
    }

    /// `GET /api/v1/backends`.
    #[must_use]
    pub fn backends(&self) -> Vec<view::Backend> {
        let model = self.models.borrow().clone();
        let mut rows = Vec::new();
        for (frontend, target) in &model.frontends {
            let Target::Endpoints(endpoints) = target else { continue };
            let with = |share: &EndpointShare, state| {
                let weight = endpoints.route.is_some().then_some(share.weight);
                (share.service.to_string(), weight, state)
            };
            let active = endpoints.shares.iter().flat_map(|s| s.backends.iter().map(move |b| (b, with(s, "active"))));
            let draining =
                endpoints.shares.iter().flat_map(|s| s.draining.iter().map(move |b| (b, with(s, "draining"))));
            for (backend, (service, weight, state)) in active.chain(draining) {
                rows.push(view::Backend {
                    frontend: frontend.to_string(),
                    service,
                    weight,
                    backend: SocketAddr::new(backend.addr, backend.port.get()).to_string(),
                    locality: format!("{:?}", backend.locality).to_lowercase(),
                    state: state.to_owned(),
                });
            }
        }
        rows
    }

    /// `GET /api/v1/routes`.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteRow> {
        let mut rows = self.models.borrow().http.rows();
        let ejected = self.ejections.now();
        rows.iter_mut().for_each(|row| row.note(&ejected));
        rows
    }

    /// `GET /api/v1/explain`: by the model that the proxy has, or is about to have.
    ///
    /// # Errors
    /// Nothing listens where the request would come in.
    pub fn explain(&self, asked: &Asked) -> Result<Vec<Explanation>, String> {
        let model = self.models.borrow().clone();
        explain(&model.http, &self.ejections.now(), asked)
    }

    /// `GET /api/v1/flows`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flows(&self, query: &FlowQuery) -> Result<view::Flows, TableError> {
        let model = self.models.borrow().clone();
        let (flows, total) = observe::flows(&self.pins, query.limit, query.filter(&model))?;
        Ok(view::Flows { total, flows: flows.iter().map(view::Flow::from).collect() })
    }
}

fn service(
    (model, conflicts): (&Model, &BTreeMap<IpAddr, Holder>),
    object: &ObjectRef,
    frontends: &[(&Frontend, &Target)],
    counts: &BTreeMap<Frontend, FrontendCount>,
) -> view::Service {
    let mut ports: Vec<_> = frontends.iter().map(|(f, _)| (f.port, f.proto)).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut backends: Option<Vec<(IpAddr, u16)>> = None;
    let mut total = FrontendCount::default();
    for (frontend, target) in frontends {
        if let Target::Endpoints(e) = target {
            backends.get_or_insert_default().extend(e.backends().map(|b| (b.addr, b.port.get())));
        }
        if let Some(count) = counts.get(frontend) {
            total.flows += count.flows;
            total.request_bytes += count.request_bytes;
            total.reply_bytes += count.reply_bytes;
            total.dropped_packets += count.dropped_packets;
        }
    }
    let is_proxied = frontends.iter().any(|(_, target)| matches!(target, Target::Proxy { .. }));
    let backends = backends.map(|mut all| {
        all.sort_unstable();
        all.dedup();
        all
    });
    let families = backends.as_ref().map(|all| {
        let ipv4 = all.iter().filter(|(addr, _)| addr.is_ipv4()).count();
        view::Families { ipv4, ipv6: all.len() - ipv4 }
    });
    let addresses = model.allocations.get(object).map_or(&[][..], Vec::as_slice);
    let is_announced = |vip: &&IpAddr| model.announced.contains(*vip) && !conflicts.contains_key(*vip);
    let by = |vip: &IpAddr| Some((vip.to_string(), model.announcers.get(vip)?.clone()));
    view::Service {
        object: object_view(object, model.verdicts.get(object)),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        announced: addresses.iter().filter(is_announced).map(ToString::to_string).collect(),
        announcers: addresses.iter().filter_map(by).collect(),
        ports: ports.iter().map(|(port, proto)| format!("{port}/{proto}")).collect(),
        sources: explain::sources(frontends.iter().copied()),
        backends: backends.map(|all| all.len()),
        backend_families: families,
        flows: (!is_proxied).then_some(total.flows),
        bytes: (!is_proxied).then_some(total.request_bytes + total.reply_bytes),
        dropped: total.dropped_packets,
    }
}

pub(super) fn object_view(object: &ObjectRef, verdict: Option<&Verdict>) -> view::Object {
    view::Object {
        kind: object.kind.clone(),
        name: object.object.to_string(),
        outcome: verdict.map_or("accepted", |v| outcome(v.outcome)).to_owned(),
        reason: verdict.map_or("Accepted", |v| v.reason).to_owned(),
        messages: verdict.map_or_else(Vec::new, |v| v.messages.clone()),
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Partial => "partial",
        Outcome::Refused => "refused",
        Outcome::Ignored => "ignored",
    }
}

fn side(status: &SideStatus) -> view::Uplink {
    let (programs, note) = match &status.fault {
        None => ("TC for replies", "no uplink: endpoints, or clients, are reached by it".to_owned()),
        Some(why) => ("none", why.clone()),
    };
    let (name, programs) = (status.name.clone(), programs.to_owned());
    view::Uplink { name, programs, addresses: Vec::new(), note: Some(note) }
}

fn uplink(status: &UplinkStatus) -> view::Uplink {
    let UplinkStatus { name, xdp, tc, v4, v6, note } = status;
    let programs = match (xdp, tc) {
        (Some(XdpKind::Native), true) => "native XDP + TC",
        (Some(XdpKind::Generic), true) => "generic XDP + TC",
        (None, true) => "TC",
        (_, false) => "none",
    };
    let addresses = v4.iter().map(ToString::to_string).chain(v6.iter().map(ToString::to_string));
    view::Uplink {
        name: name.clone(),
        programs: programs.to_owned(),
        addresses: addresses.collect(),
        note: note.clone(),
    }
}

impl From<&observe::Flow> for view::Flow {
    fn from(flow: &observe::Flow) -> Self {
        let pair = |ip, port| SocketAddr::new(ip, port).to_string();
        Self {
            proto: flow.proto.to_string(),
            client: pair(flow.client, flow.client_port),
            frontend: pair(flow.vip, flow.port),
            backend: pair(flow.backend, flow.backend_port),
            snat: flow.snat.map(|(ip, port)| pair(ip, port)),
            state: flow.state.to_owned(),
            idle_seconds: flow.idle_seconds,
            age_seconds: flow.age_seconds,
        }
    }
}
