//! The host's routes as far as they matter here: by which interfaces packets leave, and whether there is a way at all.
//!
//! In: netlink. Out: every [`Route`] of every table, and for one address the [`Way`] that the kernel itself would take, with
//! its rules and tables.
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Network, NetworkError, failed};

/// A route by which packets leave this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The destination; unspecified for a default route.
    pub to: IpAddr,
    /// The length of its prefix.
    pub prefix: u8,
    /// Of two routes to one destination the one with the lower number is taken.
    pub metric: u32,
    /// The table that it is in.
    pub table: u32,
    /// Where its packets go next; more than one for a multipath route.
    pub hops: Vec<Hop>,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The index of the interface to leave by.
    pub index: u32,
    /// Whether a gateway is between.
    pub gateway: bool,
}

impl Route {
    /// The route in a message; `None` for one by which no packet leaves.
    pub(super) fn of(message: &RouteMessage) -> Option<Self> {
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let mut route = Self {
            to: match message.header.address_family {
                netlink_packet_route::AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
                netlink_packet_route::AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
                _ => return None,
            },
            prefix: message.header.destination_prefix_length,
            metric: 0,
            table: message.header.table.into(),
            hops: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => route.to = (*ip).into(),
                RouteAttribute::Destination(RouteAddress::Inet6(ip)) => route.to = (*ip).into(),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::MultiPath(hops) => {
                    route.hops = hops.iter().map(|h| hop(h.interface_index, &h.attributes)).collect();
                }
                RouteAttribute::Oif(index) => route.hops = vec![hop(*index, &message.attributes)],
                _ => {}
            }
        }
        Some(route)
    }

    /// Whether it is to one address alone.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.prefix == if self.to.is_ipv4() { 32 } else { 128 }
    }
}

fn hop(index: u32, attributes: &[RouteAttribute]) -> Hop {
    let is_gateway = |a: &RouteAttribute| matches!(a, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    Hop { index, gateway: attributes.iter().any(is_gateway) }
}

/// What the kernel does with a packet to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leaves by the interface with this index.
    Out(u32),
    /// The same, put into another packet by the route itself.
    Encapsulated,
    /// It is the host's own.
    Here,
    /// A route says that it is not to be sent: what `ip route` calls its type.
    Refused(&'static str),
    /// There is no route.
    Nowhere,
}

/// The rules that choose a table, as text: only whether they are others than before is asked.
pub type Rules = Vec<String>;

impl Network {
    /// All routes by which packets leave, of both families and all tables, in order.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn routes(&self) -> Result<Vec<Route>, NetworkError> {
        let mut routes = Vec::new();
        for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            routes.extend(self.dump_routes(message).await?.iter().filter_map(Route::of));
        }
        routes.sort_unstable();
        Ok(routes)
    }

    /// The rules of both families; none where the kernel has no rules.
    pub async fn rules(&self) -> Rules {
        let mut rules = Vec::new();
        for version in [rtnetlink::IpVersion::V4, rtnetlink::IpVersion::V6] {
            let found: Vec<_> = self.handle.rule().get(version).execute().try_collect().await.unwrap_or_default();
            rules.extend(found.iter().map(|rule| format!("{rule:?}")));
        }
        rules
    }

    /// The way to an address.
    ///
    /// # Errors
    /// The kernel does not answer the question.
    pub async fn way(&self, to: IpAddr) -> Result<Way, NetworkError> {
        let message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        let wrong = |e| failed(format!("ask for the route to {to}"), e);
        let answer: Result<Vec<RouteMessage>, rtnetlink::Error> =
            self.handle.route().get(message).execute().try_collect().await;
        match answer {
            Ok(routes) => Ok(routes.first().map_or(Way::Nowhere, way)),
            Err(rtnetlink::Error::NetlinkError(message)) => {
                refusal(&message.to_io()).ok_or_else(|| wrong(rtnetlink::Error::NetlinkError(message.clone())))
            }
            Err(e) => Err(wrong(e)),
        }
    }
}

fn way(route: &RouteMessage) -> Way {
    match route.header.kind {
        RouteType::BlackHole => return Way::Refused("blackhole"),
        RouteType::Unreachable => return Way::Refused("unreachable"),
        RouteType::Prohibit => return Way::Refused("prohibit"),
        RouteType::Local | RouteType::Anycast | RouteType::Broadcast => return Way::Here,
        _ => {}
    }
    if route.attributes.iter().any(|a| matches!(a, RouteAttribute::EncapType(_) | RouteAttribute::Encap(_))) {
        return Way::Encapsulated;
    }
    let index = route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(i) = a { Some(*i) } else { None });
    index.map_or(Way::Nowhere, Way::Out)
}

/// What an error says about the way: the kernel answers with one where a route refuses (`fib_props` in
/// `net/ipv4/fib_semantics.c`, `ip6_rt_type_to_error` in `net/ipv6/route.c`).
fn refusal(error: &io::Error) -> Option<Way> {
    match error.raw_os_error()? {
        nix::libc::ENETUNREACH => Some(Way::Nowhere),
        nix::libc::EHOSTUNREACH => Some(Way::Refused("unreachable")),
        nix::libc::EINVAL => Some(Way::Refused("blackhole")),
        nix::libc::EACCES => Some(Way::Refused("prohibit")),
        nix::libc::EAGAIN => Some(Way::Refused("throw")),
        _ => None,
    }
}
