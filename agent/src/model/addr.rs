//! Host-order types that cannot hold nonsense: ports, protocols, frontends.
use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

/// A port, 1 to 65535. Order: host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

impl Port {
    /// The least one.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// From an API number; `None` outside 1 to 65535.
    #[must_use]
    pub fn try_new(n: i64) -> Option<Self> {
        u16::try_from(n).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// The number, host order.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transport protocol that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// What a client dials: VIP, port, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// The address.
    pub vip: IpAddr,
    /// The port.
    pub port: Port,
    /// The protocol.
    pub proto: Proto,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(a) => write!(f, "{a}:{}/{}", self.port, self.proto),
            IpAddr::V6(a) => write!(f, "[{a}]:{}/{}", self.port, self.proto),
        }
    }
}

/// The addresses that this host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// On the uplinks: neighbours find the host by them, so it answers for them itself.
    pub on_uplinks: BTreeSet<IpAddr>,
    /// On any interface. An address there that is a VIP was bound by something else (kube-proxy's `kube-ipvs0`, a service on
    /// `lo`) and is no more the host's than without that; but for a node's own address.
    pub anywhere: BTreeSet<IpAddr>,
}
