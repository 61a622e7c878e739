//! Links, addresses and routes of one namespace, by rtnetlink.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags},
    link::{InfoBridge, InfoData, InfoVeth, LinkAttribute, LinkXdp},
    route::RouteScope,
};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::namespace::Namespace;

/// The Ethernet address of every bridge: each is in a namespace of its own.
const BRIDGE_MAC: [u8; 6] = [0x02, 0x53, 0x4c, 0x55, 0x49, 0x43];

/// What is done with a namespace's links; valid on the thread that made it.
pub struct Net {
    pub(super) handle: Handle,
}

impl Namespace {
    /// Runs `f` with this namespace's links.
    ///
    /// # Errors
    /// What `f` returns, or netlink cannot be opened.
    pub fn net<T: Send>(&self, f: impl AsyncFnOnce(&Net) -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        self.block_on(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().context("open netlink")?;
            let task = tokio::spawn(connection);
            let result = f(&Net { handle }).await;
            task.abort();
            result
        })
        .with_context(|| format!("network namespace {}", self.name()))
    }
}

impl Net {
    /// The index of a link.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn index(&self, name: &str) -> anyhow::Result<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.with_context(|| format!("look up link {name}"))?;
        Ok(link.with_context(|| format!("no link {name}"))?.header.index)
    }

    /// The names of all links.
    ///
    /// # Errors
    /// Netlink refuses.
    pub async fn links(&self) -> anyhow::Result<Vec<String>> {
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await.context("list links")?;
        let name = |a| if let LinkAttribute::IfName(name) = a { Some(name) } else { None };
        Ok(links.into_iter().filter_map(|l| l.attributes.into_iter().find_map(name)).collect())
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn up(&self, name: &str) -> anyhow::Result<()> {
        let change = LinkUnspec::new_with_index(self.index(name).await?).up().build();
        self.handle.link().set(change).execute().await.with_context(|| format!("set {name} up"))
    }

    /// Sets a link down.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn down(&self, name: &str) -> anyhow::Result<()> {
        let change = LinkUnspec::new_with_index(self.index(name).await?).down().build();
        self.handle.link().set(change).execute().await.with_context(|| format!("set {name} down"))
    }

    /// Gives a link, which must be down, an Ethernet address.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> anyhow::Result<()> {
        let change = LinkUnspec::new_with_index(self.index(name).await?).address(mac.to_vec()).build();
        self.handle.link().set(change).execute().await.with_context(|| format!("give {name} the address {mac:x?}"))
    }

    /// Gives a link, which must be down, another name.
    ///
    /// # Errors
    /// There is none of that name, or the other one is taken.
    pub async fn rename(&self, name: &str, to: &str) -> anyhow::Result<()> {
        let change = LinkUnspec::new_with_index(self.index(name).await?).name(to).build();
        self.handle.link().set(change).execute().await.with_context(|| format!("call {name} {to}"))
    }

    /// Sets the largest packet that a link takes, in bytes.
    ///
    /// # Errors
    /// There is none of that name, or it takes no such packets.
    pub async fn mtu(&self, name: &str, mtu: u32) -> anyhow::Result<()> {
        let change = LinkUnspec::new_with_index(self.index(name).await?).mtu(mtu).build();
        self.handle.link().set(change).execute().await.with_context(|| format!("give {name} an MTU of {mtu}"))
    }

    /// The XDP program on a link, by its id.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn xdp(&self, name: &str) -> anyhow::Result<Option<u32>> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = links.try_next().await.with_context(|| format!("look up link {name}"))?;
        let attributes = link.with_context(|| format!("no link {name}"))?.attributes.into_iter();
        let of = |xdp: LinkXdp| if let LinkXdp::ProgId(id) = xdp { Some(id) } else { None };
        let mut programs = attributes.filter_map(|a| if let LinkAttribute::Xdp(all) = a { Some(all) } else { None });
        Ok(programs.find_map(|all| all.into_iter().find_map(of)).filter(|id| *id != 0))
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let index = self.index(name).await?;
        self.handle.link().del(index).execute().await.with_context(|| format!("delete {name}"))
    }

    /// Adds a bridge that forwards at once and floods multicast, and sets it up. Its Ethernet address is its own: by
    /// default it is that of a port, and changes when that port goes, which neighbours are told nothing of.
    ///
    /// # Errors
    /// The name is taken.
    pub async fn bridge(&self, name: &str) -> anyhow::Result<()> {
        let bridge = LinkBridge::new(name).append_info_data(InfoBridge::MulticastSnooping(false));
        let bridge = bridge.address(BRIDGE_MAC.to_vec()).build();
        self.handle.link().add(bridge).execute().await.with_context(|| format!("add bridge {name}"))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// There is no such link or bridge.
    pub async fn enslave(&self, name: &str, bridge: &str) -> anyhow::Result<()> {
        let change =
            LinkUnspec::new_with_index(self.index(name).await?).controller(self.index(bridge).await?).up().build();
        self.handle.link().set(change).execute().await.with_context(|| format!("make {name} a port of {bridge}"))
    }

    /// Adds a veth pair: `name` here, up (a port of the bridge `master`, where given), and `peer` there, down.
    ///
    /// # Errors
    /// A name is taken.
    pub async fn veth(&self, name: &str, master: Option<&str>, peer: &str, there: &Namespace) -> anyhow::Result<()> {
        let file = std::fs::File::open(there.path()).with_context(|| format!("open namespace {}", there.name()))?;
        // Not up yet: while the pair is half made the kernel refuses that (ENOTCONN).
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(peer).setns_by_fd(file.as_raw_fd()).build();
        let mut link = LinkVeth::new(name, "").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).up();
        if let Some(master) = master {
            link = link.controller(self.index(master).await?);
        }
        let add = self.handle.link().add(link.build()).execute().await;
        add.with_context(|| format!("add veth {name} with its peer in {}", there.name()))
    }

    /// Adds an address, usable at once: no duplicate address detection.
    ///
    /// # Errors
    /// There is no such link, or it has the address.
    pub async fn address(&self, link: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let mut add = self.handle.address().add(self.index(link).await?, address, prefix);
        if address.is_ipv6() {
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        add.execute().await.with_context(|| format!("add {address}/{prefix} to {link}"))
    }

    /// Adds a route through a gateway on `link`, or to `link` itself.
    ///
    /// # Errors
    /// The gateway is out of reach, or the route exists.
    pub async fn route(&self, to: IpAddr, prefix: u8, link: &str, gateway: Option<IpAddr>) -> anyhow::Result<()> {
        let index = self.index(link).await?;
        let message = match to {
            IpAddr::V4(to) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix);
                let route = route.output_interface(index);
                match gateway {
                    Some(IpAddr::V4(gateway)) => route.gateway(gateway).build(),
                    _ => route.scope(RouteScope::Link).build(),
                }
            }
            IpAddr::V6(to) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, prefix);
                let route = route.output_interface(index);
                match gateway {
                    Some(IpAddr::V6(gateway)) => route.gateway(gateway).build(),
                    _ => route.build(),
                }
            }
        };
        let add = self.handle.route().add(message).execute().await;
        add.with_context(|| format!("add a route to {to}/{prefix} by {link}"))
    }
}
