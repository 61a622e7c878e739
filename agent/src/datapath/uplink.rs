//! Uplinks: attaches the programs to the interfaces that were asked for, follows their coming, going and renumbering.
//!
//! # Design
//! `auto` takes native XDP where the driver has it, except on veth: there XDP turns segmentation offload off, which costs
//! bulk transfers four fifths of their rate, and frames sent back are lost unless the peer runs XDP too.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use aya::maps::{HashMap, MapData};
use sluice_ebpf::{Addr, MAX_UPLINKS, UPLINK_GUESTS, UPLINK_SIDE, Uplink, map};

use super::{
    announce::Port,
    load::{LoadError, Programs},
    maps::{TableError, fault, open},
    sides::Side,
};
use crate::{
    arrows::{SideStatus, UplinkStatus, XdpKind},
    config::Mode,
    host::network::{Head, Link},
};

/// The interfaces that the programs are attached to.
pub struct Uplinks {
    wanted: Vec<String>,
    mode: Mode,
    rows: HashMap<MapData, u32, Uplink>,
    attached: BTreeMap<String, (u32, UplinkStatus)>,
    /// The side interfaces, by index.
    sides: BTreeMap<u32, SideStatus>,
}

impl Uplinks {
    /// Nothing attached yet.
    ///
    /// # Errors
    /// The map of uplinks cannot be opened.
    pub fn open(dir: &Path, wanted: Vec<String>, mode: Mode) -> Result<Self, TableError> {
        Ok(Self { wanted, mode, rows: open(dir, map::UPLINKS)?, attached: BTreeMap::new(), sides: BTreeMap::new() })
    }

    /// Whether there is no interface to attach to.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Takes these interfaces.
    pub fn name(&mut self, interfaces: impl IntoIterator<Item = String>) {
        self.wanted.extend(interfaces);
    }

    /// The addresses of the interfaces themselves: what is bound there is the host's.
    #[must_use]
    pub fn addresses(&self, links: &BTreeMap<String, Link>) -> BTreeSet<IpAddr> {
        self.wanted.iter().filter_map(|name| links.get(name)).flat_map(|link| &link.addresses).copied().collect()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn is_uplink(&self, name: &str) -> bool {
        self.wanted.iter().any(|wanted| wanted == name)
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.wanted.iter().cloned().collect()
    }

    /// What became of the side interfaces.
    #[must_use]
    pub fn sides(&self) -> Vec<SideStatus> {
        self.sides.values().cloned().collect()
    }

    /// Brings attachments and addresses in step with the host's interfaces; returns what became of each uplink. No packet is
    /// sent from what `is_vip` says yes to.
    ///
    /// # Errors
    /// The map of uplinks cannot be written.
    pub fn refresh(
        &mut self,
        programs: &mut Programs,
        links: &BTreeMap<String, Link>,
        sides: &[Side<'_>],
        is_vip: impl Fn(&IpAddr) -> bool,
    ) -> Result<Vec<UplinkStatus>, TableError> {
        let sources = |link: &Link| {
            // In a routed network the node's address is on lo.
            let own = link.sources(|ip| !is_vip(ip));
            let lo = links.get("lo").map_or((None, None), |lo| lo.sources(|ip| !is_vip(ip)));
            (own.0.or(lo.0), own.1.or(lo.1))
        };
        self.attach_sides(programs, sides);
        self.write_rows(links, sides, sources)?;
        let mut statuses = Vec::new();
        for name in self.wanted.clone() {
            let status = match links.get(&name) {
                None => {
                    self.attached.remove(&name);
                    UplinkStatus::detached(&name, "no such interface; it is attached when it appears".to_owned())
                }
                Some(link) => match self.attached.get(&name) {
                    Some((index, status)) if *index == link.index && status.tc => status.clone(),
                    _ => self.attach(programs, link),
                },
            };
            let (v4, v6) = links.get(&name).map_or((None, None), sources);
            statuses.push(UplinkStatus { v4, v6, ..status });
        }
        let present: Vec<&Link> = self.wanted.iter().filter_map(|name| links.get(name)).collect();
        let beside: Vec<&Link> = sides.iter().map(|side| side.link).collect();
        if let Err(error) = programs.keep_attached(&present, &beside) {
            tracing::warn!(reason = %error, "a link of an earlier run stays");
        }
        Ok(statuses)
    }

    /// The interfaces on which VIPs can be announced: attached, and with an Ethernet address.
    #[must_use]
    pub fn ports(&self, links: &BTreeMap<String, Link>) -> BTreeMap<u32, Port> {
        let attached = self.attached.values().filter(|(_, status)| status.tc);
        let links = attached.filter_map(|(index, status)| links.get(&status.name).filter(|l| l.index == *index));
        links.filter_map(|l| Some((l.index, Port { mac: l.mac?, carrier: l.carrier }))).collect()
    }

    fn write_rows(
        &mut self,
        links: &BTreeMap<String, Link>,
        sides: &[Side<'_>],
        sources: impl Fn(&Link) -> (Option<Ipv4Addr>, Option<Ipv6Addr>),
    ) -> Result<(), TableError> {
        let wrong = |e: aya::maps::MapError| fault(map::UPLINKS, e);
        let uplinks = self.wanted.iter().filter_map(|name| links.get(name)).map(|link| (link, 0));
        // Where replies would not be seen no flow is sent.
        let is_attached = |side: &&Side<'_>| self.sides.get(&side.link.index).is_some_and(|s| s.fault.is_none());
        let flags = |side: &Side<'_>| UPLINK_SIDE | if side.guests { UPLINK_GUESTS } else { 0 };
        let beside = sides.iter().filter(is_attached).map(|side| (side.link, flags(side)));
        let wanted: BTreeMap<u32, Uplink> =
            beside.chain(uplinks).map(|(link, flags)| (link.index, row(link, sources(link), flags))).collect();
        let found: BTreeMap<u32, Uplink> = self.rows.iter().collect::<Result<_, _>>().map_err(wrong)?;
        for (index, row) in wanted.iter().filter(|(index, row)| found.get(index) != Some(row)) {
            self.rows.insert(index, row, 0).map_err(wrong)?;
        }
        for index in found.keys().filter(|index| !wanted.contains_key(index)) {
            self.rows.remove(index).map_err(wrong)?;
        }
        Ok(())
    }

    /// Attaches to side interfaces, as far as there is room for their rows, and forgets those that are gone.
    fn attach_sides(&mut self, programs: &mut Programs, sides: &[Side<'_>]) {
        self.sides.retain(|index, _| sides.iter().any(|side| side.link.index == *index));
        let room = (MAX_UPLINKS as usize).saturating_sub(self.wanted.len());
        for (n, Side { link, .. }) in sides.iter().enumerate() {
            if self.sides.get(&link.index).is_some_and(|known| known.fault.is_none()) {
                continue;
            }
            let fault = if n >= room {
                Some(format!("there are more than {MAX_UPLINKS} interfaces by which routes leave"))
            } else {
                programs.attach_side(link, link.head == Head::Bare).err().map(|e| e.to_string())
            };
            let status = SideStatus { name: link.name.clone(), fault };
            match (&status.fault, self.sides.get(&link.index) == Some(&status)) {
                (_, true) => {}
                (None, _) => tracing::info!(iface = %link.name, "attached beside the uplinks"),
                (Some(reason), _) => tracing::warn!(iface = %link.name, reason, "not attached beside the uplinks"),
            }
            self.sides.insert(link.index, status);
        }
    }

    fn attach(&mut self, programs: &mut Programs, link: &Link) -> UplinkStatus {
        let name = &link.name;
        let status = match programs.attach_tc(link) {
            Err(e) => UplinkStatus::detached(name, e.to_string()),
            Ok(()) => {
                let (xdp, note) = self.attach_xdp(programs, link);
                UplinkStatus { name: name.clone(), xdp, tc: true, v4: None, v6: None, note }
            }
        };
        if status.tc {
            tracing::info!(iface = %name, xdp = status.xdp.map(|mode| format!("{mode:?}")), reason = status.note.as_deref(), "attached");
        }
        self.attached.insert(name.clone(), (link.index, status.clone()));
        status
    }

    fn attach_xdp(&self, programs: &mut Programs, link: &Link) -> (Option<XdpKind>, Option<String>) {
        let settle = |result: Result<(), LoadError>, kind| match result {
            Ok(()) => (Some(kind), None),
            Err(e) => (None, Some(format!("TC alone: {e}"))),
        };
        match self.mode {
            Mode::Auto if !link.veth => match settle(programs.attach_xdp(link, XdpKind::Native), XdpKind::Native) {
                (None, _) => settle(programs.attach_xdp(link, XdpKind::Generic), XdpKind::Generic),
                native => native,
            },
            Mode::Xdp => settle(programs.attach_xdp(link, XdpKind::Native), XdpKind::Native),
            Mode::XdpGeneric => settle(programs.attach_xdp(link, XdpKind::Generic), XdpKind::Generic),
            Mode::Auto => {
                (None, without(programs, link).or(Some("TC alone: XDP on veth costs more than it saves".into())))
            }
            Mode::Tc => (None, without(programs, link)),
        }
    }
}

/// Removes XDP of an earlier run; a note when that fails.
fn without(programs: &Programs, link: &Link) -> Option<String> {
    programs.detach_xdp(link).err().map(|e| e.to_string())
}

fn row(link: &Link, (v4, v6): (Option<Ipv4Addr>, Option<Ipv6Addr>), flags: u16) -> Uplink {
    Uplink {
        v4: v4.map_or(Addr::NONE, |ip| Addr::v4(ip.octets())),
        v6: v6.map_or(Addr::NONE, |ip| Addr::v6(ip.octets())),
        mac: link.mac.unwrap_or_default(),
        flags,
    }
}

impl UplinkStatus {
    fn detached(name: &str, note: String) -> Self {
        Self { name: name.to_owned(), xdp: None, tc: false, v4: None, v6: None, note: Some(note) }
    }
}
