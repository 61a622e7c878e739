//! The host's interfaces and routes, by netlink: which interfaces are uplinks, which addresses they have, and the local
//! routes by which packets for the proxy's VIPs reach a socket.
//!
//! Reads and writes happen in the network namespace that the process started in. Only routes that carry
//! [`ROUTE_PROTOCOL`] are ours; no other is touched.
pub mod neighbours;
pub mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::{Stream, StreamExt as _, TryStreamExt};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
};

use routes::Route;

/// What marks a route as ours; free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 83;
/// The kernel's table of local addresses.
const LOCAL_TABLE: u32 = 255;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
#[error("netlink: {what}: {source}")]
pub struct NetworkError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index; another one means another device, whatever its name.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether its other end is in another network namespace: a pod's way out.
    pub guest: bool,
    /// The bridge, or whatever else it is a port of, by its index.
    pub master: Option<u32>,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// What its packets begin with.
    pub head: Head,
    /// Whether it is up.
    pub up: bool,
    /// Its Ethernet address; `None` where it has none.
    pub mac: Option<[u8; 6]>,
    /// How often its carrier has come up; `None` while it has no carrier.
    pub carrier: Option<u32>,
    /// All its addresses but those that were found to be another host's: what comes from them is that host's.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that packets may be sent from, the best one first: global, and not tentative; those that
    /// are deprecated come last (RFC 6724, rule 3).
    pub usable: Vec<IpAddr>,
}

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: a tunnel for IP alone.
    Bare,
    /// Something else: InfiniBand, the loopback interface.
    Other,
}

impl Link {
    /// The best IPv4 and the best IPv6 address to send from, among those that `admits` says yes to.
    #[must_use]
    pub fn sources(&self, admits: impl Fn(&IpAddr) -> bool) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let all = || self.usable.iter().filter(|ip| admits(ip));
        let v4 = all().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let v6 = all().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        (v4, v6)
    }
}

/// A netlink socket in this network namespace.
#[derive(Clone)]
pub struct Network {
    pub(super) handle: Handle,
}

impl Network {
    /// Opens the socket; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn try_new() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|e| failed("open the socket", e))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interfaces that come, or change, from now on; their addresses are not among what is told. A stream that ends has been
    /// overrun, or has lost its socket.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn changes() -> Result<impl Stream<Item = Link> + Unpin + Send, NetworkError> {
        let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Link]);
        let (connection, handle, messages) = opened.map_err(|e| failed("follow the interfaces", e))?;
        tokio::spawn(connection);
        let link = move |(message, _): (NetlinkMessage<RouteNetlinkMessage>, _)| {
            // Held, so that the connection lives as long as the stream.
            let _ = &handle;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => link(&message),
                _ => None,
            }
        };
        Ok(messages.filter_map(move |message| std::future::ready(link(message))))
    }

    /// Every interface, by name.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn links(&self) -> Result<BTreeMap<String, Link>, NetworkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(|e| failed("list the interfaces", e))?;
        let mut links: BTreeMap<u32, Link> = messages.iter().filter_map(link).map(|link| (link.index, link)).collect();
        let addresses: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(|e| failed("list the addresses", e))?;
        let (mut usable, mut deprecated) = (Vec::new(), Vec::new());
        for message in addresses {
            let Some(link) = links.get_mut(&message.header.index) else { continue };
            // For IPv4 `Local` is the host's own address and `Address` the peer's on point-to-point links.
            let find = |want_local: bool| {
                message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(ip) if want_local => Some(*ip),
                    AddressAttribute::Address(ip) if !want_local => Some(*ip),
                    _ => None,
                })
            };
            let own = find(true).or_else(|| find(false));
            let flags = flags(&message);
            link.addresses.extend(own.filter(|_| !flags.contains(AddressFlags::Dadfailed)));
            let is_usable = message.header.scope == AddressScope::Universe
                && !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
            if let Some(ip) = own.filter(|_| is_usable) {
                if flags.contains(AddressFlags::Deprecated) { &mut deprecated } else { &mut usable }
                    .push((message.header.index, ip));
            }
        }
        for (index, ip) in usable.into_iter().chain(deprecated) {
            if let Some(link) = links.get_mut(&index) {
                link.usable.push(ip);
            }
        }
        Ok(links.into_values().map(|link| (link.name.clone(), link)).collect())
    }

    /// The interfaces that default routes leave by: the uplinks, where none is named.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn default_interfaces(&self) -> Result<BTreeSet<String>, NetworkError> {
        let mut indexes = BTreeSet::new();
        for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let routes: Vec<RouteMessage> = self.dump_routes(message).await?;
            let defaults = routes.iter().filter_map(Route::of).filter(|route| route.prefix == 0);
            indexes.extend(defaults.flat_map(|route| route.hops).map(|hop| hop.index));
        }
        let links = self.links().await?;
        Ok(links.into_values().filter(|l| indexes.contains(&l.index) && l.name != "lo").map(|l| l.name).collect())
    }

    /// The uplinks: these interfaces; where none is named, those of the default routes.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn uplinks(&self, named: &[String]) -> Result<BTreeSet<String>, NetworkError> {
        if named.is_empty() { self.default_interfaces().await } else { Ok(named.iter().cloned().collect()) }
    }

    /// Makes our local routes those of `vips`: adds what is missing, removes what is not wanted.
    ///
    /// # Errors
    /// A dump, an addition or a removal fails; the rest is done all the same.
    pub async fn sync_local_routes(&self, vips: &BTreeSet<IpAddr>) -> Result<(), NetworkError> {
        let (mut present, mut of_others) = (BTreeMap::new(), BTreeSet::new());
        for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            for route in self.dump_routes(message).await? {
                let is_local = route.header.kind == RouteType::Local;
                let Some(ip) = destination(&route).filter(|_| is_local) else { continue };
                if route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
                    present.insert(ip, route);
                } else if route.header.destination_prefix_length == if ip.is_ipv4() { 32 } else { 128 } {
                    of_others.insert(ip);
                }
            }
        }
        // Where something on this host has bound the address, the kernel has the route, which ours would replace.
        let missing: Vec<_> = vips.iter().filter(|ip| !present.contains_key(ip) && !of_others.contains(ip)).collect();
        let mut result = Ok(());
        if !missing.is_empty() {
            let loopback = self.links().await?.get("lo").map_or(1, |l| l.index);
            for &ip in missing {
                let added = self.handle.route().add(local_route(ip, loopback)).replace().execute().await;
                result = result.and(added.map_err(|e| failed(format!("add the local route to {ip}"), e)));
            }
        }
        for (ip, route) in present.into_iter().filter(|(ip, _)| !vips.contains(ip)) {
            let removed = self.handle.route().del(route).execute().await;
            result = result.and(removed.map_err(|e| failed(format!("remove the local route to {ip}"), e)));
        }
        result
    }

    pub(super) async fn dump_routes(&self, message: RouteMessage) -> Result<Vec<RouteMessage>, NetworkError> {
        let routes: Result<Vec<_>, rtnetlink::Error> = self.handle.route().get(message).execute().try_collect().await;
        match routes {
            // The kernel lacks the family.
            Err(rtnetlink::Error::NetlinkError(e)) if e.to_io().raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                Ok(Vec::new())
            }
            routes => routes.map_err(|e| failed("list the routes", e)),
        }
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let is = |kind: InfoKind| {
        let kind = LinkInfo::Kind(kind);
        message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(info) if info.contains(&kind)))
    };
    let (veth, bridge) = (is(InfoKind::Veth), is(InfoKind::Bridge));
    let is_elsewhere = message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    let master = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let guest = is_elsewhere && (veth || is(InfoKind::Netkit));
    let up = message.header.flags.contains(LinkFlags::Up);
    // As the kernel divides them where a program redirects a packet (`dev_is_mac_header_xmit`).
    let head = match message.header.link_layer_type {
        LinkLayerType::Ether => Head::Ethernet,
        LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre
        | LinkLayerType::Void
        | LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Ppp => Head::Bare,
        _ => Head::Other,
    };
    let is_ethernet = head == Head::Ethernet;
    let mac = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) if is_ethernet => bytes.as_slice().try_into().ok(),
        _ => None,
    });
    let ups = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::CarrierUpCount(count) => Some(*count),
        _ => None,
    });
    let has_carrier = up && message.header.flags.contains(LinkFlags::LowerUp);
    let carrier = has_carrier.then(|| ups.unwrap_or_default());
    let (addresses, usable) = (BTreeSet::new(), Vec::new());
    Some(Link {
        index: message.header.index,
        name,
        veth,
        guest,
        master,
        bridge,
        head,
        up,
        mac,
        carrier,
        addresses,
        usable,
    })
}

/// What is to be known of an address. The header has room for the first eight flags; tentative is one of them.
fn flags(message: &AddressMessage) -> AddressFlags {
    let all = message.attributes.iter().find_map(|a| if let AddressAttribute::Flags(f) = a { Some(*f) } else { None });
    all.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn local_route(ip: IpAddr, loopback: u32) -> RouteMessage {
    let protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    match ip {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, 32)
            .output_interface(loopback)
            .table_id(LOCAL_TABLE)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .protocol(protocol)
            .build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(ip, 128)
            .output_interface(loopback)
            .table_id(LOCAL_TABLE)
            .kind(RouteType::Local)
            .protocol(protocol)
            .build(),
    }
}

pub(super) fn failed(
    what: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> NetworkError {
    NetworkError { what: what.into(), source: source.into() }
}
