//! The host around the programs: where they are attached, which addresses the host has, by which ways endpoints are reached,
//! and which of its settings are in the way.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sluice_ebpf::VIP_HOST;

use super::{
    super::{departures, reach::Surroundings, rows::addr, sides},
    Datapath, DatapathError,
};
use crate::{
    arrows::{Bound, UplinkStatus},
    host::network::Link,
    mac::Mac,
    model::HostAddresses,
};

impl Datapath {
    /// Takes over the host's own addresses: of a VIP that is one of them the host keeps the rest.
    pub(super) fn follow_host(&mut self, links: &BTreeMap<String, Link>) {
        let on_uplinks = self.uplinks.addresses(links);
        let anywhere: BTreeSet<IpAddr> = links.values().flat_map(|link| &link.addresses).copied().collect();
        match self.host.follow(&anywhere) {
            Ok(0) => {}
            Ok(missing) => tracing::debug!(missing, "more addresses than the map of the host's own has room for"),
            Err(error) => tracing::warn!(reason = %error, "addresses of the host"),
        }
        self.end_flows_of_departed();
        let touched = self.desired.follow_host(HostAddresses { on_uplinks, anywhere });
        self.write_touched(&touched, "addresses of the host");
    }

    /// Ends flows that come from an address that the host has lost: their replies come to nobody.
    fn end_flows_of_departed(&mut self) {
        let gone = self.host.departed();
        if gone.is_empty() {
            return;
        }
        let dir = self.programs.dir().to_owned();
        tokio::task::spawn_blocking(move || match departures::end_flows(&dir, &gone) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "ended flows that came from an address that this host has no more"),
            Err(error) => tracing::warn!(%error, "flows from an address that this host has no more"),
        });
    }

    /// The VIPs that something else has bound here, as they are programmed now.
    fn bound(&self, links: &BTreeMap<String, Link>) -> BTreeMap<IpAddr, Bound> {
        let is_bound = |ip: &IpAddr| {
            let is_nodes = self.desired.model().pools.is_of_node(*ip);
            !is_nodes && self.desired.rows().vips.contains_key(&addr(*ip))
        };
        let on = |link: &Link| Bound { interface: link.name.clone(), on_uplink: self.uplinks.is_uplink(&link.name) };
        let of_link =
            |link: &Link| link.addresses.iter().filter(|ip| is_bound(ip)).map(|ip| (*ip, on(link))).collect::<Vec<_>>();
        let mut bound: Vec<_> = links.values().flat_map(of_link).collect();
        // Of two places the uplink counts.
        bound.sort_by_key(|(_, at)| at.on_uplink);
        bound.into_iter().collect()
    }

    /// Takes the interfaces of the default routes where none is named.
    pub(super) async fn name_uplinks(&mut self) {
        if self.by_default_route && self.uplinks.is_unnamed() {
            match self.network.default_interfaces().await {
                Ok(names) => self.uplinks.name(names),
                Err(error) => tracing::warn!(reason = %error, "default routes"),
            }
        }
    }

    /// Attaches what is not attached; follows interfaces and routes that come, go or change.
    pub(super) async fn attach(&mut self) {
        self.name_uplinks().await;
        match self.follow_interfaces().await {
            Ok(statuses) => {
                if statuses != self.applied.uplinks {
                    for status in statuses.iter().filter(|s| !s.tc) {
                        tracing::error!(iface = %status.name, reason = status.note.as_deref(), "uplink is not attached");
                    }
                }
                self.applied.uplinks = statuses;
            }
            Err(error) => tracing::error!(%error, "uplinks"),
        }
        if !self.lookup_attached {
            match self.programs.attach_lookup() {
                Ok(()) => self.lookup_attached = true,
                Err(error) if self.applied.faults.contains(&error.to_string()) => {}
                Err(error) => {
                    tracing::error!(%error, "layer 7 frontends cannot be steered to the proxy");
                    self.applied.faults.push(error.to_string());
                }
            }
        }
    }

    async fn follow_interfaces(&mut self) -> Result<Vec<UplinkStatus>, DatapathError> {
        let (links, routes) = (self.network.links().await?, self.network.routes().await?);
        self.follow_host(&links);
        let bound = self.bound(&links);
        for (vip, at) in bound.iter().filter(|(vip, at)| self.applied.bound.get(*vip) != Some(*at)) {
            tracing::warn!(%vip, iface = %at.interface, reason = at.sentence(), "a VIP is bound on this host");
        }
        self.applied.bound = bound;
        let vips = &self.desired.rows().vips;
        let is_vip = |ip: &IpAddr| vips.get(&addr(*ip)).is_some_and(|vip| vip.flags & VIP_HOST == 0);
        let sides = sides::find(&links, &routes, |name| self.uplinks.is_uplink(name));
        let statuses = self.uplinks.refresh(&mut self.programs, &links, &sides, is_vip)?;
        self.mesh.follow(&mut self.programs, links.values(), |name| self.uplinks.is_uplink(name));
        self.applied.guests = self.mesh.faults();
        let (named, known) = (self.uplinks.names(), self.uplinks.sides());
        let host = host_faults(&named, sides::default_beside(&links, &routes, |name| named.contains(name)));
        for reason in host.iter().filter(|h| !self.applied.host.contains(h)) {
            tracing::warn!(reason, "a setting of this host is in the way of flows");
        }
        self.applied.host = host;
        let ports = self.uplinks.ports(&links);
        self.applied.macs = ports.values().map(|port| Mac(port.mac)).collect();
        self.desired.prober_mut().follow_ports(&ports);
        self.announcer.follow_ports(ports);
        let (rules, is_new) = (self.network.rules().await, known != self.applied.sides);
        let changed = is_new || self.ways.0 != routes || self.ways.1 != rules;
        self.ways = (routes, rules);
        self.applied.sides = known;
        let around = Surroundings { links: &links, uplinks: &named, sides: &self.applied.sides, changed };
        let moved = self.desired.moved();
        self.reach.look(&self.network, &around, &moved).await;
        self.leave_out();
        Ok(statuses)
    }

    /// Attaches to the interfaces of pods, where something is served to them.
    pub(super) async fn follow_guests(&mut self) {
        if self.mesh.is_empty() {
            return;
        }
        self.name_uplinks().await;
        match self.network.links().await {
            Ok(links) => self.mesh.follow(&mut self.programs, links.values(), |name| self.uplinks.is_uplink(name)),
            Err(error) => tracing::warn!(reason = %error, "interfaces of pods"),
        }
    }

    /// Attaches to an interface that has come, where it is a pod's: it does not wait for the next tick.
    pub(super) fn follow_guest(&mut self, link: &Link) {
        if !self.mesh.is_empty() && self.applied.rev > 0 {
            self.mesh.follow_one(&mut self.programs, link);
        }
    }

    /// Takes endpoints that cannot be reached out of the tables, and those that can be reached again in.
    fn leave_out(&mut self) {
        let left_out = self.reach.left_out();
        let touched = self.desired.leave_out(left_out.keys().copied().collect());
        self.write_touched(&touched, "endpoints that cannot be reached");
        let sentences = left_out.iter().map(|((ip, _), lacking)| (*ip, lacking.sentence()));
        let sentences: BTreeMap<IpAddr, String> = sentences.collect();
        for (endpoint, reason) in sentences.iter().filter(|(ip, _)| !self.applied.left_out.contains_key(*ip)) {
            tracing::warn!(%endpoint, reason, "an endpoint is left out");
        }
        for endpoint in self.applied.left_out.keys().filter(|ip| !sentences.contains_key(*ip)) {
            tracing::info!(%endpoint, "an endpoint is taken in again");
        }
        self.applied.lacking = self.desired.lacking(&sentences);
        self.applied.left_out = sentences;
    }
}

/// Settings without which the kernel forwards nothing, to pods here or between nodes, or drops what comes by one interface
/// and is answered by another, `beside` the uplinks.
fn host_faults(uplinks: &BTreeSet<String>, beside: Option<&str>) -> Vec<String> {
    const NEEDED: [(&str, &str); 2] = [
        ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
        ("net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"),
    ];
    // A host without a family has no such file, and needs none.
    let off = NEEDED.iter().filter(|(_, path)| std::fs::read_to_string(path).is_ok_and(|v| v.trim() == "0"));
    let off = off.map(|(name, _)| format!("{name} is 0, want 1: flows to endpoints are not forwarded"));
    let strict = uplinks.iter().filter_map(|uplink| Some((uplink, beside?))).filter(|(uplink, _)| is_strict(uplink));
    let strict = strict.map(|(uplink, by)| {
        format!(
            "net.ipv4.conf.{uplink}.rp_filter is strict, want 2 (`sysctl -w net.ipv4.conf.{uplink}.rp_filter=2`): replies to \
             clients leave by {by}, so the kernel drops what those send to endpoints on this node"
        )
    });
    off.chain(strict).collect()
}

/// Whether the kernel takes packets on an interface only from sources that it would answer by the same one: the greater of two
/// settings counts (`Documentation/networking/ip-sysctl.rst`).
fn is_strict(interface: &str) -> bool {
    let of = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    ["all", interface].into_iter().filter_map(of).max() == Some(1)
}
