//! What a host remembers of its neighbours: the ARP and NDP cache of a namespace.
use std::net::IpAddr;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    link::LinkAttribute,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::link::Net;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One entry of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where it is; `None` while that is not known.
    pub mac: Option<Mac>,
    /// How sure the host is.
    pub state: NeighbourState,
}

impl Net {
    /// The Ethernet address of a link.
    ///
    /// # Errors
    /// There is no such link, or it has none.
    pub async fn mac(&self, link: &str) -> anyhow::Result<Mac> {
        let mut links = self.handle.link().get().match_name(link.to_owned()).execute();
        let found = links.try_next().await.with_context(|| format!("look up link {link}"))?;
        let attributes = found.with_context(|| format!("no link {link}"))?.attributes;
        let mac = attributes.into_iter().find_map(|a| match a {
            LinkAttribute::Address(bytes) => bytes.try_into().ok(),
            _ => None,
        });
        mac.with_context(|| format!("link {link} has no Ethernet address"))
    }

    /// What is remembered of an address.
    ///
    /// # Errors
    /// Nothing is.
    pub async fn neighbour(&self, ip: IpAddr) -> anyhow::Result<Neighbour> {
        let entry = self.entry(ip).await?;
        let mac = entry.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
        Ok(Neighbour { mac, state: entry.header.state })
    }

    /// Forgets an address, if it was known.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn forget(&self, ip: IpAddr) -> anyhow::Result<()> {
        let Ok(entry) = self.entry(ip).await else { return Ok(()) };
        self.handle.neighbours().del(entry).execute().await.with_context(|| format!("forget {ip}"))
    }

    async fn entry(&self, ip: IpAddr) -> anyhow::Result<NeighbourMessage> {
        let wanted = NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        });
        let all: Vec<_> = self.handle.neighbours().get().execute().try_collect().await.context("list neighbours")?;
        let entry = all.into_iter().find(|n| n.attributes.contains(&wanted));
        entry.with_context(|| format!("{ip} is no neighbour"))
    }

    /// Remembers an address, as if it had been learned.
    ///
    /// # Errors
    /// There is no such link.
    pub async fn remember(&self, link: &str, ip: IpAddr, mac: Mac, state: NeighbourState) -> anyhow::Result<()> {
        let add = self.handle.neighbours().add(self.index(link).await?, ip).link_layer_address(&mac).state(state);
        add.replace().execute().await.with_context(|| format!("remember {ip}"))
    }
}
