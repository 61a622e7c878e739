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
    VIP_PROBE, VIP_PROXY, VIP_REJECT, Vip,
};

use super::{
    probe::Prober,
    reach::Place,
    rows::{self, BackendRow, FrontendRow, Rows, addr, frontend_key, ip},
};
use crate::{
    model::{EndpointTarget, Frontend, HostAddresses, Model, Target, memo, pool::Pools},
    shared::Difference,
};

/// See the module.
#[derive(Debug, Default)]
pub struct Desired {
    model: Arc<Model>,
    rows: Rows,
    /// How many targets name each backend.
    mentions: BTreeMap<BackendRow, u32>,
    host: HostAddresses,
    elsewhere: Elsewhere,
    /// Endpoints that no table names: this node cannot reach them.
    left_out: BTreeSet<Place>,
    /// The VIPs that the maps have announced when the agent started.
    adopted: BTreeSet<IpAddr>,
    /// Whether another host has the VIPs that this node is to announce.
    prober: Prober,
}

/// Which rows may be others than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Frontends, with those that are gone.
    pub frontends: BTreeSet<FrontendKey>,
    /// Backends, with those that are gone.
    pub backends: BTreeSet<BackendRow>,
    /// Backends that a frontend has lost and that others have.
    pub left: Vec<(FrontendKey, BackendRow)>,
    /// VIPs, with those that are gone.
    pub vips: BTreeSet<Addr>,
    /// Frontends that lead to the proxy came or went.
    pub proxied: bool,
    /// Flows may have to move or end at once: a frontend is gone, admits others than before, or is of UDP and has itself lost
    /// a backend.
    pub orphans: bool,
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
        if !Arc::ptr_eq(&last.announced, &model.announced) || !Arc::ptr_eq(&last.pools, &model.pools) {
            touched.vips.extend(self.follow_prober(&last));
        }
        if !model.partial {
            self.adopted.clear();
        }
        self.flag_vips(&touched.vips);
        for row in &touched.backends {
            if self.mentions.get(row).is_some_and(|mentions| *mentions > 0) {
                if self.rows.backends.insert(*row) {
                    self.elsewhere.add(row);
                }
            } else {
                self.mentions.remove(row);
                if self.rows.backends.remove(row) {
                    self.elsewhere.remove(row);
                }
            }
        }
        // A frontend that is gone takes its flows along.
        for d in differences.iter().filter(|d| d.new.is_some()) {
            let key = frontend_key(d.key);
            let left = lost(d.old, d.new).into_iter().filter(|row| self.rows.backends.contains(row));
            touched.left.extend(left.map(|row| (key, row)));
        }
        let lost_udp =
            |d: &Difference<'_, Frontend, Target>| frontend_key(d.key).proto == UDP && !lost(d.old, d.new).is_empty();
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
            for row in named(old) {
                let count = self.mentions.entry(row).or_default();
                *count = count.saturating_sub(1);
                touched.backends.insert(row);
            }
        }
        if let Some(Target::Endpoints(new)) = new {
            for row in named(new) {
                *self.mentions.entry(row).or_default() += 1;
                touched.backends.insert(row);
            }
        }
        match new {
            Some(target) => drop(self.rows.frontends.insert(key, row_without(target, &self.left_out))),
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

    /// The addresses of endpoints that are not known to be of this node, as far as they have come or gone since this was asked
    /// last: with each whether there are any now.
    pub fn moved(&mut self) -> Vec<(Place, bool)> {
        let Elsewhere { rows, touched } = &mut self.elsewhere;
        std::mem::take(touched).into_iter().map(|place| (place, rows.contains_key(&place))).collect()
    }

    /// Takes over which endpoints cannot be reached; the rows of their frontends are others.
    pub fn leave_out(&mut self, left_out: BTreeSet<Place>) -> Touched {
        let mut touched = Touched::default();
        let changed: BTreeSet<Place> = self.left_out.symmetric_difference(&left_out).copied().collect();
        if changed.is_empty() {
            return touched;
        }
        self.left_out = left_out;
        for (frontend, target) in &self.model.frontends {
            let Target::Endpoints(endpoints) = target else { continue };
            if !endpoints.backends().map(BackendRow::new).any(|row| changed.contains(&place_of(&row))) {
                continue;
            }
            let (key, row) = (frontend_key(frontend), row_without(target, &self.left_out));
            // Who waits for an answer from there chooses anew.
            let gone = named(endpoints)
                .filter(|row| changed.contains(&place_of(row)) && self.left_out.contains(&place_of(row)));
            touched.left.extend(gone.map(|row| (key, row)));
            touched.frontends.insert(key);
            self.rows.frontends.insert(key, row);
        }
        touched
    }

    /// The objects with an endpoint that is left out, with a sentence about each.
    #[must_use]
    pub fn lacking(&self, left_out: &BTreeMap<IpAddr, String>) -> BTreeMap<String, String> {
        let mut lacking = BTreeMap::new();
        if left_out.is_empty() {
            return lacking;
        }
        for (_, target) in &self.model.frontends {
            let Target::Endpoints(endpoints) = target else { continue };
            let rows = endpoints.backends().map(BackendRow::new).map(|row| place_of(&row));
            let mut out = rows.filter(|place| self.left_out.contains(place)).map(|(ip, _)| ip);
            if let Some((ip, sentence)) = out.find_map(|ip| Some((ip, left_out.get(&ip)?))) {
                lacking.entry(target.owner().to_string()).or_insert_with(|| format!("{ip}: {sentence}"));
            }
        }
        lacking
    }

    /// Takes over the VIPs that the maps announce already: they are not asked for.
    pub fn adopt(&mut self, vips: impl IntoIterator<Item = IpAddr>) {
        self.adopted.extend(vips);
    }

    /// Whether other hosts have VIPs.
    #[must_use]
    pub fn prober(&self) -> &Prober {
        &self.prober
    }

    /// The same, to go on; [`Self::reflag`] must hear of what changes.
    pub fn prober_mut(&mut self) -> &mut Prober {
        &mut self.prober
    }

    /// Computes the rows of these VIPs anew, whose state with the prober is another.
    pub fn reflag(&mut self, vips: &BTreeSet<IpAddr>) -> Touched {
        let touched = Touched { vips: vips.iter().map(|ip| addr(*ip)).collect(), ..Touched::default() };
        self.flag_vips(&touched.vips);
        touched
    }

    /// Takes over the host's own addresses.
    pub fn follow_host(&mut self, host: HostAddresses) -> Touched {
        let vips = self.host.on_uplinks.symmetric_difference(&host.on_uplinks);
        let vips = vips.chain(self.host.anywhere.symmetric_difference(&host.anywhere));
        let mut touched = Touched { vips: vips.map(|ip| addr(*ip)).collect(), ..Touched::default() };
        self.host = host;
        let model = Arc::clone(&self.model);
        touched.vips.extend(self.follow_prober(&model));
        self.flag_vips(&touched.vips);
        touched
    }

    /// Takes over what this node is to announce; the VIPs whose state with the prober is another. Those that some node has
    /// announced before, as far as the last model or the object's status tells, are not asked for.
    fn follow_prober(&mut self, last: &Model) -> impl Iterator<Item = Addr> + use<> {
        let model = Arc::clone(&self.model);
        let announced: BTreeSet<IpAddr> = model.announced.iter().filter(|vip| !self.is_hosts(**vip)).copied().collect();
        let adopted = &self.adopted;
        let is_known =
            |vip: &IpAddr| model.published.contains(vip) || last.announcers.contains_key(vip) || adopted.contains(vip);
        self.prober.follow(&announced, is_known).into_iter().map(addr)
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
            let is_announced = self.model.announced.contains(&ip);
            let (is_free, is_asking) = (self.prober.is_free(&ip), self.prober.is_asking(&ip));
            // Of an address that the host has as well, we own the frontends and nothing else.
            let own = if is_hosts { VIP_HOST } else { VIP_ECHO | VIP_REJECT };
            let announce = match is_announced {
                // The host's own address is asked for by the host, where it is asked for.
                true if is_hosts || is_free => VIP_ANNOUNCE,
                true if is_asking => VIP_PROBE,
                _ => 0,
            };
            let node = if self.model.pools.is_of_node(ip) { VIP_NODE } else { 0 };
            vip.flags = own | node | if proxied { VIP_PROXY } else { 0 } | announce;
            vip.relay = self.model.relays.get(&ip).map_or(Addr::NONE, |relay| rows::addr(*relay));
        }
    }
}

/// A backend as an endpoint that can be reached or not.
/// The addresses of endpoints that are not known to be of this node.
#[derive(Debug, Default)]
struct Elsewhere {
    /// How many backends each has: its ports.
    rows: BTreeMap<Place, usize>,
    /// Those that came or went.
    touched: BTreeSet<Place>,
}

impl Elsewhere {
    fn add(&mut self, row: &BackendRow) {
        if row.flags & BACKEND_LOCAL == 0 {
            let count = self.rows.entry(place_of(row)).or_default();
            *count += 1;
            if *count == 1 {
                self.touched.insert(place_of(row));
            }
        }
    }

    fn remove(&mut self, row: &BackendRow) {
        if let Entry::Occupied(mut known) = self.rows.entry(place_of(row))
            && row.flags & BACKEND_LOCAL == 0
        {
            *known.get_mut() -= 1;
            if *known.get() == 0 {
                self.touched.insert(*known.key());
                known.remove();
            }
        }
    }
}

fn place_of(row: &BackendRow) -> Place {
    (ip(row.place.0), row.flags & BACKEND_REMOTE != 0)
}

/// The row of a frontend without what cannot be reached.
fn row_without(target: &Target, left_out: &BTreeSet<Place>) -> FrontendRow {
    let mut row = FrontendRow::new(target);
    row.retain(|backend| backend.flags & BACKEND_LOCAL != 0 || !left_out.contains(&place_of(backend)));
    row
}

/// The backends that a target names.
fn named(target: &EndpointTarget) -> impl Iterator<Item = BackendRow> {
    target.backends().chain(target.draining()).map(BackendRow::new)
}

/// The backends that a frontend had and has no more, wherever they run.
fn lost(old: Option<&Target>, new: Option<&Target>) -> Vec<BackendRow> {
    let all = |target: Option<&Target>| match target {
        Some(Target::Endpoints(endpoints)) => named(endpoints).collect::<Vec<_>>(),
        Some(Target::Proxy { .. }) | None => Vec::new(),
    };
    let has: BTreeSet<_> = all(new).into_iter().map(|row| row.place).collect();
    all(old).into_iter().filter(|row| !has.contains(&row.place)).collect()
}

#[cfg(test)]
mod tests;
