//! What the last model wants in the maps, kept from one model to the next: a new model costs what it changes.
//!
//! In: models. Out: [`Rows`], and which of them may be others than before. Invariant, property-tested: the rows are
//! those of the last model, whichever came before it.
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use sluice_ebpf::{
    Addr, BACKEND_LOCAL, BACKEND_REMOTE, FRONTEND_PROXY, FrontendKey, UDP, VIP_ANNOUNCE, VIP_ECHO, VIP_HOST, VIP_NODE,
    VIP_PROXY, VIP_REJECT, Vip,
};

use super::{
    maglev::Place,
    rows::{self, FrontendRow, Rows, addr, frontend_key, ip, place},
};
use crate::{
    model::{EndpointTarget, Frontend, Locality, Model, Target, memo, pool::Pools},
    shared::Difference,
};

/// See the module.
#[derive(Debug, Default)]
pub struct Desired {
    model: Arc<Model>,
    rows: Rows,
    mentions: BTreeMap<Place, Mentions>,
    host: HostAddresses,
}

/// The addresses that this host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// On the uplinks: neighbours find the host by them, so it answers for them itself.
    pub on_uplinks: BTreeSet<IpAddr>,
    /// On any interface. An address there that is a VIP was bound by something else (kube-proxy's `kube-ipvs0`, a service on
    /// `lo`) and is no more the host's than without that; but for a node's own address.
    pub anywhere: BTreeSet<IpAddr>,
}

/// Which rows may be others than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Frontends, with those that are gone.
    pub frontends: BTreeSet<FrontendKey>,
    /// Backends, with those that are gone.
    pub backends: BTreeSet<Place>,
    /// VIPs, with those that are gone.
    pub vips: BTreeSet<Addr>,
    /// Frontends that lead to the proxy came or went.
    pub proxied: bool,
    /// Flows may have to move or end at once: a frontend is gone, admits others than before, or is of UDP and has lost a
    /// backend.
    pub orphans: bool,
}

/// How many targets name a backend, by what they say about where it runs.
#[derive(Clone, Copy, Debug, Default)]
struct Mentions {
    local: u32,
    remote: u32,
    unknown: u32,
}

impl Mentions {
    fn of(&mut self, locality: Locality) -> &mut u32 {
        match locality {
            Locality::Local => &mut self.local,
            Locality::Remote => &mut self.remote,
            Locality::Unknown => &mut self.unknown,
        }
    }

    /// `None` when nobody names it.
    fn flags(self) -> Option<u16> {
        match self {
            Self { local: 0, remote: 0, unknown: 0 } => None,
            Self { local: 1.., remote: 0, .. } => Some(BACKEND_LOCAL),
            Self { local: 0, remote: 1.., .. } => Some(BACKEND_REMOTE),
            // Two slices may disagree on where an endpoint runs; then neither is believed and the route decides.
            _ => Some(0),
        }
    }
}

impl Desired {
    /// What must be in the maps.
    #[must_use]
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The last model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Takes over a model.
    pub fn follow(&mut self, model: &Arc<Model>) -> Touched {
        let last = std::mem::replace(&mut self.model, Arc::clone(model));
        let mut touched = Touched::default();
        let is_same = |(a, old): (&Frontend, &Target), (b, new): (&Frontend, &Target)| {
            // Targets compare by pointer first.
            a == b && old == new
        };
        let differences = last.frontends.differences(&model.frontends, is_same).collect::<Vec<_>>();
        for Difference { key, old, new } in &differences {
            self.change(key, *old, *new, &mut touched);
        }
        if !Arc::ptr_eq(&last.announced, &model.announced) {
            touched.vips.extend(last.announced.symmetric_difference(&model.announced).map(|vip| addr(*vip)));
        }
        if !Arc::ptr_eq(&last.pools, &model.pools) {
            // Which addresses are a node's.
            touched
                .vips
                .extend(self.host.anywhere.iter().map(|ip| addr(*ip)).filter(|a| self.rows.vips.contains_key(a)));
        }
        if !Arc::ptr_eq(&last.relays, &model.relays) {
            let moved = memo::differences(&last.relays, &model.relays, |old, new| old == new);
            touched.vips.extend(moved.map(|moved| addr(*moved.key)));
        }
        if !Arc::ptr_eq(&last.pools, &model.pools) {
            // A node has come or gone, or got another address.
            let of_node = |pools: &Pools, vip: &Addr| pools.is_of_node(ip(*vip));
            let vips = self.rows.vips.keys();
            touched.vips.extend(vips.filter(|v| of_node(&last.pools, v) != of_node(&model.pools, v)));
        }
        self.flag_vips(&touched.vips);
        for place in &touched.backends {
            match self.mentions.get(place).and_then(|mentions| mentions.flags()) {
                Some(flags) => drop(self.rows.backends.insert(*place, flags)),
                None => {
                    self.mentions.remove(place);
                    self.rows.backends.remove(place);
                }
            }
        }
        let lost_udp = |d: &Difference<'_, Frontend, Target>| {
            frontend_key(d.key).proto == UDP && d.old.is_some_and(|old| self.lacks_one_of(old))
        };
        let admits_others =
            |d: &Difference<'_, Frontend, Target>| d.old.and_then(Target::sources) != d.new.and_then(Target::sources);
        touched.orphans = differences.iter().any(|d| d.new.is_none() || admits_others(d) || lost_udp(d));
        touched
    }

    fn change(&mut self, frontend: &Frontend, old: Option<&Target>, new: Option<&Target>, touched: &mut Touched) {
        let key = frontend_key(frontend);
        touched.frontends.insert(key);
        touched.proxied |= [old, new].iter().any(|t| matches!(t, Some(Target::Proxy { .. })));
        if let Some(Target::Endpoints(old)) = old {
            for (place, locality) in named(old) {
                let count = self.mentions.entry(place).or_default().of(locality);
                *count = count.saturating_sub(1);
                touched.backends.insert(place);
            }
        }
        if let Some(Target::Endpoints(new)) = new {
            for (place, locality) in named(new) {
                *self.mentions.entry(place).or_default().of(locality) += 1;
                touched.backends.insert(place);
            }
        }
        match new {
            Some(target) => drop(self.rows.frontends.insert(key, FrontendRow::new(target))),
            None => drop(self.rows.frontends.remove(&key)),
        }
        if old.is_none() != new.is_none() {
            touched.vips.insert(key.vip);
            match self.rows.vips.entry(key.vip) {
                Entry::Vacant(free) => drop(free.insert(Vip { frontends: 1, ..Vip::default() })),
                Entry::Occupied(mut known) if new.is_some() => known.get_mut().frontends += 1,
                Entry::Occupied(known) if known.get().frontends <= 1 => drop(known.remove()),
                Entry::Occupied(mut known) => known.get_mut().frontends -= 1,
            }
        }
        if [old, new].iter().any(|t| matches!(t, Some(Target::Proxy { .. }))) {
            touched.vips.insert(key.vip);
        }
    }

    /// Takes over the host's own addresses.
    pub fn follow_host(&mut self, host: HostAddresses) -> Touched {
        let vips = self.host.on_uplinks.symmetric_difference(&host.on_uplinks);
        let vips = vips.chain(self.host.anywhere.symmetric_difference(&host.anywhere));
        let touched = Touched { vips: vips.map(|ip| addr(*ip)).collect(), ..Touched::default() };
        self.host = host;
        self.flag_vips(&touched.vips);
        touched
    }

    /// Whether an address is the host's for whatever no frontend names.
    fn is_hosts(&self, ip: IpAddr) -> bool {
        let HostAddresses { on_uplinks, anywhere } = &self.host;
        on_uplinks.contains(&ip) || (anywhere.contains(&ip) && self.model.pools.is_of_node(ip))
    }

    /// Computes the flags of these VIPs anew.
    fn flag_vips(&mut self, vips: &BTreeSet<Addr>) {
        for &addr in vips {
            let is_hosts = self.is_hosts(ip(addr));
            let Some(vip) = self.rows.vips.get_mut(&addr) else { continue };
            let first = FrontendKey { vip: addr, port: 0, proto: 0, family: 0 };
            let last = FrontendKey { vip: addr, port: u16::MAX, proto: u8::MAX, family: u8::MAX };
            let proxied = self.rows.frontends.range(first..=last).any(|(_, row)| row.flags & FRONTEND_PROXY != 0);
            let ip = ip(addr);
            let announced = self.model.announced.contains(&ip);
            // Of an address that the host has as well, we own the frontends and nothing else.
            let own = if is_hosts { VIP_HOST } else { VIP_ECHO | VIP_REJECT };
            let node = if self.model.pools.is_of_node(ip) { VIP_NODE } else { 0 };
            vip.flags = own | node | if proxied { VIP_PROXY } else { 0 } | if announced { VIP_ANNOUNCE } else { 0 };
            vip.relay = self.model.relays.get(&ip).map_or(Addr::NONE, |relay| rows::addr(*relay));
        }
    }

    /// Whether nobody names some backend of a target any more.
    fn lacks_one_of(&self, target: &Target) -> bool {
        let Target::Endpoints(endpoints) = target else { return false };
        named(endpoints).any(|(place, _)| !self.rows.backends.contains_key(&place))
    }
}

/// The backends that a target names.
fn named(target: &EndpointTarget) -> impl Iterator<Item = (Place, Locality)> {
    let all = target.backends.iter().chain(&target.draining);
    all.map(|backend| (place(backend), backend.locality))
}

#[cfg(test)]
mod tests;
