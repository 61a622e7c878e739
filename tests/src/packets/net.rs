//! The addresses of the lab, the same names in both families.

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    /// Who asks; behind the gateway on `up0`.
    pub client: &'static str,
    /// Another client.
    pub client2: &'static str,
    /// The address that is ours.
    pub vip: &'static str,
    /// A second one.
    pub vip2: &'static str,
    /// This node on `up0`.
    pub node: &'static str,
    /// This node on `up1`.
    pub node1: &'static str,
    /// A backend on another node, on the network of `up0`.
    pub remote: &'static str,
    /// A backend on another node, on the network of `up1`.
    pub remote1: &'static str,
    /// A backend on another node whose neighbour is not known.
    pub unresolved: &'static str,
    /// A backend on this node.
    pub pod: &'static str,
    /// A host that has nothing to do with us.
    pub stranger: &'static str,
}

/// IPv4.
pub const V4: Net = Net {
    client: "198.51.100.7",
    client2: "198.51.100.8",
    vip: "192.0.2.200",
    vip2: "192.0.2.201",
    node: "192.0.2.1",
    node1: "203.0.113.1",
    remote: "192.0.2.20",
    remote1: "203.0.113.20",
    unresolved: "192.0.2.99",
    pod: "10.244.0.5",
    stranger: "192.0.2.77",
};

/// IPv6.
pub const V6: Net = Net {
    client: "2001:db8:c::7",
    client2: "2001:db8:c::8",
    vip: "2001:db8:1::200",
    vip2: "2001:db8:1::201",
    node: "2001:db8:1::1",
    node1: "2001:db8:2::1",
    remote: "2001:db8:1::20",
    remote1: "2001:db8:2::20",
    unresolved: "2001:db8:1::99",
    pod: "2001:db8:f::5",
    stranger: "2001:db8:1::77",
};

/// Both families.
pub const NETS: [Net; 2] = [V4, V6];

/// `up0` itself.
pub const UP0: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// `up1` itself.
pub const UP1: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// The gateway on `up0`.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// [`Net::remote`].
pub const REMOTE: [u8; 6] = [2, 0, 0, 0, 0, 0x14];
/// [`Net::remote1`].
pub const REMOTE1: [u8; 6] = [2, 0, 0, 0, 2, 0x14];
