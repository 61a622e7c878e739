//! Every address of the lab, in one place. Documentation and benchmark ranges only, and 10.244/16 for pods as most
//! clusters have it.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The client, IPv4.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The client, IPv6.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10);
/// VIP ranges that the client routes to node1, IPv4: prefix and length. The second is for benchmarks: 131,072 VIPs.
pub const VIPS_V4: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::new(203, 0, 113, 0), 24), (Ipv4Addr::new(198, 18, 0, 0), 15)];
/// VIP range that the client routes to node1, IPv6: prefix and length.
pub const VIPS_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0), 64);
/// The default pools of the agent, as flags.
pub const POOLS: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

/// A node's address on the lan, IPv4. `node` counts from 1.
#[must_use]
pub fn node_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, node)
}

/// A node's address on the lan, IPv6. `node` counts from 1.
#[must_use]
pub fn node_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, u16::from(node))
}

/// The range of a node's pods, IPv4: a /24.
#[must_use]
pub fn pods_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 0)
}

/// The range of a node's pods, IPv6: a /64.
#[must_use]
pub fn pods_v6(node: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x244, u16::from(node), 0, 0, 0, 0)
}

/// What a pod has as its gateway, IPv4: on every host side of a veth pair.
#[must_use]
pub fn gateway_v4(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 1)
}

/// What a pod has as its gateway, IPv6: on every host side of a veth pair.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The address of a node's n-th pod (from 1), IPv4.
#[must_use]
pub fn pod_v4(node: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, node, 10 + n)
}

/// The address of a node's n-th pod (from 1), IPv6.
#[must_use]
pub fn pod_v6(node: u8, n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x244, u16::from(node), 0, 0, 0, 10 + u16::from(n))
}

/// An address that is written in a test.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
