//! Whether a neighbour on the network answers, as the kernel's own neighbour table finds out: by ARP, or by neighbour
//! solicitations. No firewall stands in their way.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Network, NetworkError, failed};

/// The port of the datagram that makes the kernel look for a neighbour: nobody listens there (RFC 863).
const DISCARD: u16 = 9;

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Nothing: it was never asked for, or is reached by a router.
    Unknown,
    /// It has an address; whether it still answers is not known.
    Known {
        /// The interface that it is on.
        index: u32,
    },
    /// It is being asked.
    Asked,
    /// It was asked several times and has not answered.
    Silent,
}

impl Network {
    /// What the kernel knows of a neighbour.
    ///
    /// # Errors
    /// The dump fails.
    pub async fn neighbour(&self, ip: IpAddr) -> Result<Neighbour, NetworkError> {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let get = self.handle.neighbours().get().set_address_family(family);
        let all: Vec<_> = get.execute().try_collect().await.map_err(|e| failed("list the neighbours", e))?;
        Ok(all.iter().find(|m| is_of(m, ip)).map_or(Neighbour::Unknown, |m| match m.header.state {
            NeighbourState::Failed => Neighbour::Silent,
            NeighbourState::Incomplete | NeighbourState::Probe => Neighbour::Asked,
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay => {
                Neighbour::Known { index: m.header.ifindex }
            }
            _ => Neighbour::Unknown,
        }))
    }

    /// Has the kernel ask a neighbour whether it is still there: three times, a second apart.
    ///
    /// # Errors
    /// The kernel does not take it, or there is no way to the neighbour.
    pub async fn ask(&self, ip: IpAddr, known: Neighbour) -> Result<(), NetworkError> {
        let what = || format!("ask the neighbour {ip}");
        match known {
            Neighbour::Asked => Ok(()),
            Neighbour::Known { index } => {
                let request = self.handle.neighbours().add(index, ip).state(NeighbourState::Probe).replace();
                request.execute().await.map_err(|e| failed(what(), e))
            }
            // What has no entry is looked for when something is sent to it.
            Neighbour::Unknown | Neighbour::Silent => {
                let own: IpAddr =
                    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let send =
                    async { tokio::net::UdpSocket::bind((own, 0)).await?.send_to(&[], (ip, DISCARD)).await.map(drop) };
                send.await.map_err(|e| failed(what(), e))
            }
        }
    }
}

fn is_of(message: &NeighbourMessage, ip: IpAddr) -> bool {
    message.attributes.iter().any(|a| match (a, ip) {
        (NeighbourAttribute::Destination(NeighbourAddress::Inet(found)), IpAddr::V4(ip)) => *found == ip,
        (NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)), IpAddr::V6(ip)) => *found == ip,
        _ => false,
    })
}
