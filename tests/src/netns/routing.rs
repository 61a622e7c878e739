//! Addresses and routes that are not as simple as those of [`link`](super::link): with flags, lifetimes, a source of their
//! own.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, CacheInfo},
    route::{RouteMessage, RouteScope, RouteType},
};
use rtnetlink::RouteMessageBuilder;

use super::link::Net;

impl Net {
    /// Adds an address that is usable at once, but not preferred: no new connection shall come from it.
    ///
    /// # Errors
    /// There is no such link, or it has the address.
    pub async fn address_deprecated(&self, link: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        let attributes = [AddressAttribute::Flags(AddressFlags::Nodad), AddressAttribute::CacheInfo(lifetimes)];
        self.add_address(link, address, prefix, attributes).await
    }

    /// Adds an address that is looked for on the network first, as the settings of the link say.
    ///
    /// # Errors
    /// There is no such link, or it has the address.
    pub async fn address_detected(&self, link: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        self.add_address(link, address, prefix, []).await
    }

    async fn add_address(
        &self,
        link: &str,
        address: IpAddr,
        prefix: u8,
        attributes: impl IntoIterator<Item = AddressAttribute>,
    ) -> anyhow::Result<()> {
        let mut add = self.handle.address().add(self.index(link).await?, address, prefix).replace();
        add.message_mut().attributes.extend(attributes);
        add.execute().await.with_context(|| format!("add {address}/{prefix} to {link}"))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// The link does not have it.
    pub async fn remove_address(&self, link: &str, address: IpAddr) -> anyhow::Result<()> {
        let message = self.find_address(link, address).await?;
        self.handle.address().del(message).execute().await.with_context(|| format!("remove {address} from {link}"))
    }

    /// The flags of an address.
    ///
    /// # Errors
    /// The link does not have it.
    pub async fn address_flags(&self, link: &str, address: IpAddr) -> anyhow::Result<AddressFlags> {
        let message = self.find_address(link, address).await?;
        let flags = message.attributes.into_iter().find_map(|a| match a {
            AddressAttribute::Flags(flags) => Some(flags),
            _ => None,
        });
        flags.with_context(|| format!("{address} has no flags"))
    }

    async fn find_address(
        &self,
        link: &str,
        address: IpAddr,
    ) -> anyhow::Result<netlink_packet_route::address::AddressMessage> {
        let get = self.handle.address().get().set_link_index_filter(self.index(link).await?);
        let all: Vec<_> = get.execute().try_collect().await.context("list the addresses")?;
        let is_it = |a: &AddressAttribute| matches!(a, AddressAttribute::Address(ip) if *ip == address);
        all.into_iter().find(|m| m.attributes.iter().any(is_it)).with_context(|| format!("{link} lacks {address}"))
    }

    /// Makes `to` be reached on `link`, through a gateway where one is given, and from `source` where that is given.
    ///
    /// # Errors
    /// The gateway is out of reach.
    pub async fn replace_route(
        &self,
        (to, prefix): (IpAddr, u8),
        link: &str,
        gateway: Option<IpAddr>,
        source: Option<IpAddr>,
    ) -> anyhow::Result<()> {
        let message = route((to, prefix), self.index(link).await?, gateway, source)?;
        let add = self.handle.route().add(message).replace().execute().await;
        add.with_context(|| format!("make {to}/{prefix} be reached by {link}"))
    }

    /// Makes the host drop whatever goes to `to`, IPv6.
    ///
    /// # Errors
    /// There is a route already.
    pub async fn blackhole(&self, to: Ipv6Addr, prefix: u8) -> anyhow::Result<()> {
        let message = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, prefix);
        let message = message.kind(RouteType::BlackHole).build();
        let add = self.handle.route().add(message).execute().await;
        add.with_context(|| format!("refuse what goes to {to}/{prefix}"))
    }

    /// Removes the route to `to` on `link`.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_route(&self, (to, prefix): (IpAddr, u8), link: &str) -> anyhow::Result<()> {
        let mut message = route((to, prefix), self.index(link).await?, None, None)?;
        message.header.scope = RouteScope::NoWhere;
        let removed = self.handle.route().del(message).execute().await;
        removed.with_context(|| format!("remove the route to {to}/{prefix} by {link}"))
    }
}

fn route(
    (to, prefix): (IpAddr, u8),
    index: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
) -> anyhow::Result<RouteMessage> {
    match to {
        IpAddr::V4(to) => {
            let mut route =
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, prefix).output_interface(index);
            if let Some(IpAddr::V4(gateway)) = gateway {
                // On the link, whether or not an address of ours says so.
                route = route.gateway(gateway).onlink();
            } else {
                route = route.scope(RouteScope::Link);
            }
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(source);
            }
            Ok(route.build())
        }
        IpAddr::V6(to) => {
            let mut route =
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, prefix).output_interface(index);
            if let Some(IpAddr::V6(gateway)) = gateway {
                route = route.gateway(gateway);
            }
            if let Some(IpAddr::V6(source)) = source {
                route = route.pref_source(source);
            }
            Ok(route.build())
        }
    }
}
