//! The ranges that addresses are given from, as sequences of numbers.
//!
//! A pool is never enumerated: an IPv6 pool of 2^64 addresses costs as much as one of two.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::endpoints::Family;

/// Ranges that no VIP may come from.
const RESERVED: [IpNet; 9] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

const fn v4([a, b, c, d]: [u8; 4], len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), len))
}

fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// What is wrong with the pools: ranges that no VIP may come from, which are not used, and overlaps, where the pool
/// named first gives the addresses.
#[must_use]
pub fn check_pools(pools: &[IpNet]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        if let Some(reserved) = RESERVED.iter().find(|r| overlaps(r, pool)) {
            found.push(format!("pool {pool} is not used: it overlaps the reserved range {reserved}; want unicast addresses that are routed"));
            continue;
        }
        for earlier in pools.iter().take(index).filter(|earlier| overlaps(earlier, pool)) {
            found.push(format!(
                "pool {pool} overlaps pool {earlier}, which comes first and gives the addresses of both"
            ));
        }
    }
    found
}

/// One pool in use.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    net: IpNet,
    first: u128,
    last: u128,
    /// All before it are taken; `None` past the end.
    next: Option<u128>,
}

impl Pool {
    /// `None` for a range that no VIP may come from.
    pub(super) fn try_new(net: &IpNet) -> Option<Self> {
        if RESERVED.iter().any(|reserved| overlaps(reserved, net)) {
            return None;
        }
        let (mut first, mut last) = (to_number(net.network()), to_number(net.broadcast()));
        // Some hosts take the first and the last address of an IPv4 range for its network and broadcast address.
        if matches!(net, IpNet::V4(_)) && net.prefix_len() < 31 {
            (first, last) = (first + 1, last - 1);
        }
        Some(Self { net: net.trunc(), first, last, next: Some(first) })
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.net.network())
    }

    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        self.net.contains(&addr)
    }

    /// The lowest address that nobody holds.
    pub(super) fn lowest_free<T>(&mut self, taken: &BTreeMap<IpAddr, T>) -> Option<IpAddr> {
        while let Some(number) = self.next {
            let addr = self.addr(number);
            if !taken.contains_key(&addr) {
                return Some(addr);
            }
            self.next = number.checked_add(1).filter(|n| *n <= self.last);
        }
        None
    }

    /// Tells that an address has become free.
    pub(super) fn release(&mut self, addr: IpAddr) {
        let number = to_number(addr);
        if self.contains(addr) && (self.first..=self.last).contains(&number) {
            self.next = Some(self.next.map_or(number, |next| next.min(number)));
        }
    }

    /// How full it is, for people: `14 of 14 addresses of 192.0.2.240/28 are in use`.
    pub(super) fn occupancy<T>(&self, taken: &BTreeMap<IpAddr, T>) -> String {
        let used = taken.range(self.addr(self.first)..=self.addr(self.last)).count();
        let size = (self.last - self.first).saturating_add(1);
        format!("{used} of {size} addresses of {} are in use", self.net)
    }

    fn addr(&self, number: u128) -> IpAddr {
        match self.net {
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }
}

fn to_number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}
