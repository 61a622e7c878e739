//! Model -> rows of the maps: the only place where the model's types become those of the ABI.
//!
//! Rows say what must be in the maps, without ids and without places in the table array; [`super::plan`] gives those.
use std::{collections::BTreeMap, net::IpAddr};

use sluice_ebpf::{
    Addr, BACKEND_LOCAL, BACKEND_REMOTE, FRONTEND_AFFINITY, FRONTEND_DROP, FRONTEND_PROXY, FrontendKey, TCP, UDP,
    VIP_ECHO, VIP_PROXY, VIP_REJECT, Vip,
};

use super::maglev::Place;
use crate::model::{Frontend, Locality, Model, Proto, Target, WhenEmpty};

/// What must be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Every frontend.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// Every backend that a table names or that drains, with its flags.
    pub backends: BTreeMap<Place, u16>,
    /// Every owned VIP.
    pub vips: BTreeMap<Addr, Vip>,
}

/// One frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontendRow {
    /// `FRONTEND_*` bits.
    pub flags: u32,
    /// The backends in its table, sorted and distinct.
    pub backends: Vec<Place>,
}

/// The rows of a model.
#[must_use]
pub fn rows(model: &Model) -> Rows {
    let mut rows = Rows::default();
    for (frontend, target) in &model.frontends {
        let mut row = FrontendRow::default();
        match target {
            Target::Proxy { .. } => row.flags = FRONTEND_PROXY,
            Target::Endpoints(endpoints) => {
                if endpoints.affinity {
                    row.flags |= FRONTEND_AFFINITY;
                }
                if endpoints.when_empty == WhenEmpty::Drop {
                    row.flags |= FRONTEND_DROP;
                }
                for backend in endpoints.backends.iter().chain(&endpoints.draining) {
                    let flags = rows.backends.entry((addr(backend.addr), backend.port.get())).or_default();
                    *flags |= locality(backend.locality);
                }
                row.backends = endpoints.backends.iter().map(|b| (addr(b.addr), b.port.get())).collect();
                row.backends.sort_unstable();
                row.backends.dedup();
            }
        }
        let vip = rows.vips.entry(addr(frontend.vip)).or_default();
        vip.flags |= VIP_ECHO | VIP_REJECT;
        if row.flags & FRONTEND_PROXY != 0 {
            vip.flags |= VIP_PROXY;
        }
        vip.frontends += 1;
        rows.frontends.insert(frontend_key(frontend), row);
    }
    // Two slices may disagree on where an endpoint runs; then neither is believed and the route decides.
    for flags in rows.backends.values_mut().filter(|f| **f == BACKEND_LOCAL | BACKEND_REMOTE) {
        *flags = 0;
    }
    rows
}

/// An address as the maps hold it: IPv4 becomes IPv4-mapped.
#[must_use]
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// The way back from [`addr`].
#[must_use]
pub fn ip(addr: Addr) -> IpAddr {
    IpAddr::from(addr.octets).to_canonical()
}

/// The key of a frontend.
#[must_use]
pub fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey {
        vip: addr(frontend.vip),
        port: frontend.port.get(),
        proto: match frontend.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        },
        family: if frontend.vip.is_ipv4() { 4 } else { 6 },
    }
}

fn locality(locality: Locality) -> u16 {
    match locality {
        Locality::Local => BACKEND_LOCAL,
        Locality::Remote => BACKEND_REMOTE,
        Locality::Unknown => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ObjectName,
        model::{EndpointTarget, Port},
    };

    fn name() -> ObjectName {
        ObjectName::new("default", "web")
    }

    #[test]
    fn a_vip_says_whether_a_frontend_of_it_is_the_proxys() {
        let mut model = Model::default();
        let mut add = |vip: &str, port: i64, target: Target| {
            let vip = vip.parse().expect("an address");
            let port = Port::try_new(port).expect("a port");
            model.frontends.insert(Frontend { vip, port, proto: Proto::Tcp }, target);
        };
        let layer4 = || {
            Target::Endpoints(EndpointTarget {
                service: name(),
                port_name: String::new(),
                backends: Vec::new(),
                draining: Vec::new(),
                when_empty: WhenEmpty::Reject,
                affinity: false,
            })
        };
        let layer7 = || Target::Proxy { gateway: name() };
        add("192.0.2.1", 80, layer4());
        add("192.0.2.2", 80, layer7());
        // The proxy's frontend is the first of one, and the last of the other.
        add("192.0.2.3", 80, layer7());
        add("192.0.2.3", 81, layer4());
        add("2001:db8::4", 80, layer4());
        add("2001:db8::4", 81, layer7());
        let vips: Vec<_> =
            rows(&model).vips.into_iter().map(|(at, v)| (ip(at).to_string(), v.flags, v.frontends)).collect();
        let both = VIP_ECHO | VIP_REJECT;
        let want = [
            ("192.0.2.1", both, 1),
            ("192.0.2.2", both | VIP_PROXY, 1),
            ("192.0.2.3", both | VIP_PROXY, 2),
            ("2001:db8::4", both | VIP_PROXY, 2),
        ];
        assert_eq!(vips, want.map(|(at, flags, frontends)| (at.to_owned(), flags, frontends)));
    }
}
