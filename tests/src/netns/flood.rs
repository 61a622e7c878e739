//! Packets from clients that do not exist: nobody hears what they are answered.
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::Range,
    time::Duration,
};

use anyhow::Context as _;
use etherparse::PacketBuilder;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Lab, addr, lab::UPLINK};

/// Where the sources are: 10.99.0.0/16.
const SOURCES: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 0);
/// `IPPROTO_RAW`: the packet has its own IP header.
const RAW: i32 = 255;
/// Packets between two pauses.
const BATCH: u32 = 10;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN.
    Syn,
    /// A segment in the middle of a connection.
    Ack,
    /// A datagram.
    Datagram,
}

/// Leads what is answered to the client's machine, where nobody has those addresses.
///
/// # Errors
/// The kernel refuses.
pub fn prepare(lab: &Lab) -> anyhow::Result<()> {
    for node in [&lab.node1, &lab.node2] {
        node.net(async |net| net.route(SOURCES.into(), 16, UPLINK, Some(addr::CLIENT_V4.into())).await)?;
    }
    Ok(())
}

/// Sends one packet from each of the clients with these numbers, at most `rate` in a second.
///
/// # Errors
/// The target is IPv6, or the socket refuses.
pub fn send(lab: &Lab, kind: Kind, to: SocketAddr, clients: Range<u32>, rate: u32) -> anyhow::Result<()> {
    let IpAddr::V4(vip) = to.ip() else { anyhow::bail!("{to}: want IPv4") };
    lab.client.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).context("a raw socket")?;
        let target = SocketAddrV4::new(vip, 0).into();
        let mut bytes = Vec::new();
        for n in clients {
            let source = Ipv4Addr::from_bits(SOURCES.to_bits() | n & 0xffff);
            let port = 1024 + (n >> 16) as u16;
            let ip = PacketBuilder::ipv4(source.octets(), vip.octets(), 64);
            bytes.clear();
            let built = match kind {
                Kind::Syn => ip.tcp(port, to.port(), n, 1000).syn().write(&mut bytes, &[]),
                Kind::Ack => ip.tcp(port, to.port(), n, 1000).ack(n ^ 0x5555_5555).write(&mut bytes, &[]),
                Kind::Datagram => ip.udp(port, to.port()).write(&mut bytes, b"question"),
            };
            built.context("a packet")?;
            socket.send_to(&bytes, &target).context("send a packet")?;
            if n % BATCH == 0 {
                // What a busy machine was late with is not made up for: a burst would be lost on the way.
                std::thread::sleep(Duration::from_secs(1) * BATCH / rate);
            }
        }
        Ok(())
    })
}
