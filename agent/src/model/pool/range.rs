//! One entry of a pool: consecutive addresses, as numbers.
//!
//! A range is never enumerated: one of 2^64 addresses costs as much as one of two.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::endpoints::Family;

/// Ranges that no VIP may come from.
pub(super) const RESERVED: [IpNet; 9] = [
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

/// Which addresses are not given unasked.
///
/// The address of an IPv6 prefix is never given unasked: it is the anycast address of the routers there. Source: RFC
/// 4291, 2.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Avoid {
    /// No other.
    Nothing,
    /// The first and last one of an IPv4 CIDR of more than two: network and broadcast address to some hosts.
    Ends,
    /// And all IPv4 addresses that end in .0 or .255.
    EndsAndOctets,
}

/// Consecutive addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// As written.
    text: String,
    family: Family,
    first: u128,
    last: u128,
    /// What is given unasked lies from here, an empty range has `low > high`, ...
    low: u128,
    /// ... to here, ...
    high: u128,
    /// ... and does not end in .0 or .255.
    avoid_octets: bool,
}

impl Range {
    /// Reads `203.0.113.0/24`, `203.0.113.10-203.0.113.20` or `203.0.113.7`.
    pub(super) fn parse(text: &str, avoid: Avoid) -> Result<Self, String> {
        let text = text.trim();
        let shape = "want a CIDR as 203.0.113.0/24, a range as 203.0.113.10-203.0.113.20 or an address";
        let addr = |written: &str| written.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is none; {shape}"));
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (addr(first)?, addr(last)?);
            if first.is_ipv4() != last.is_ipv4() {
                return Err(format!("{text} begins and ends in different families, want one"));
            }
            if first > last {
                return Err(format!("{text} ends before it begins; want {last}-{first}"));
            }
            return Ok(Self::between(text, first, last, avoid));
        }
        if text.contains('/') {
            let net = text.parse::<IpNet>().map_err(|_| format!("{text:?} is none; {shape}"))?;
            if net.addr() != net.network() {
                return Err(format!("{text} has bits set behind its prefix; want {}", net.trunc()));
            }
            return Ok(Self::of(&net, avoid));
        }
        let addr = addr(text)?;
        Ok(Self::between(text, addr, addr, avoid))
    }

    /// A whole network; host bits do not matter.
    pub(super) fn of(net: &IpNet, avoid: Avoid) -> Self {
        let net = net.trunc();
        let mut range = Self::between(&net.to_string(), net.network(), net.broadcast(), avoid);
        let is_large = net.max_prefix_len() - net.prefix_len() > 1;
        if is_large && (net.addr().is_ipv6() || avoid != Avoid::Nothing) {
            range.low += 1;
        }
        if is_large && net.addr().is_ipv4() && avoid != Avoid::Nothing {
            range.high -= 1;
        }
        range
    }

    fn between(text: &str, first: IpAddr, last: IpAddr, avoid: Avoid) -> Self {
        let (text, family) = (text.to_owned(), Family::of(first));
        let (first, last) = (to_number(first), to_number(last));
        // Who names one single address means that one.
        let avoid_octets = avoid == Avoid::EndsAndOctets && family == Family::V4 && first < last;
        Self { text, family, first, last, low: first, high: last, avoid_octets }
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.family.admits(addr) && (self.first..=self.last).contains(&to_number(addr))
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    pub(super) fn overlaps_net(&self, net: &IpNet) -> bool {
        self.family.admits(net.addr())
            && self.first <= to_number(net.broadcast())
            && to_number(net.network()) <= self.last
    }

    /// Where to begin to look for a free address.
    pub(in crate::model) fn start(&self) -> Option<u128> {
        (self.low <= self.high).then_some(self.low)
    }

    /// The lowest address from `next` on that nobody holds and that is given unasked; `next` moves there.
    pub(in crate::model) fn lowest_free(
        &self,
        next: &mut Option<u128>,
        is_taken: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        while let Some(number) = *next {
            let addr = self.addr(number);
            if self.gives(number) && !is_taken(&addr) {
                return Some(addr);
            }
            *next = number.checked_add(1).filter(|n| *n <= self.high);
        }
        None
    }

    /// Where to look after an address has become free.
    pub(in crate::model) fn freed(&self, next: Option<u128>, addr: IpAddr) -> Option<u128> {
        let number = to_number(addr);
        if self.contains(addr) && self.gives(number) { Some(next.map_or(number, |n| n.min(number))) } else { next }
    }

    /// How many addresses are given unasked.
    pub(in crate::model) fn size(&self) -> u128 {
        if self.low > self.high {
            return 0;
        }
        // Of the numbers from 0 to n, those that end in 0 or 255.
        let ends = |n: u128| n / 256 + 1 + (n + 1) / 256;
        let avoided = if self.avoid_octets { ends(self.high) - self.low.checked_sub(1).map_or(0, ends) } else { 0 };
        (self.high - self.low).saturating_add(1) - avoided
    }

    /// Whether an address is one of those that are given unasked.
    pub(in crate::model) fn gives_addr(&self, addr: IpAddr) -> bool {
        self.family.admits(addr) && self.gives(to_number(addr))
    }

    fn gives(&self, number: u128) -> bool {
        (self.low..=self.high).contains(&number) && !(self.avoid_octets && matches!(number % 256, 0 | 255))
    }

    fn addr(&self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 | Family::Any => Ipv6Addr::from(number).into(),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn to_number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn all_of(text: &str, avoid: Avoid) -> Vec<String> {
        let range = Range::parse(text, avoid).unwrap();
        let (mut taken, mut next) = (BTreeMap::new(), range.start());
        while let Some(addr) = range.lowest_free(&mut next, |addr| taken.contains_key(addr)) {
            taken.insert(addr, ());
        }
        assert_eq!(u128::try_from(taken.len()).unwrap(), range.size(), "{text}");
        assert!(taken.keys().all(|a| range.contains(*a) && range.gives_addr(*a)));
        taken.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn s73_what_is_given_unasked_leaves_out_what_some_hosts_take_for_something_else() {
        let ends = |text: &str, avoid| {
            let all = all_of(text, avoid);
            (all[0].clone(), all[all.len() - 1].clone(), all.len())
        };
        let of = |a: &str, b: &str, n| (a.to_owned(), b.to_owned(), n);
        assert_eq!(ends("192.0.2.0/24", Avoid::Nothing), of("192.0.2.0", "192.0.2.255", 256));
        assert_eq!(ends("192.0.2.0/24", Avoid::Ends), of("192.0.2.1", "192.0.2.254", 254));
        assert_eq!(ends("192.0.2.16/28", Avoid::EndsAndOctets), of("192.0.2.17", "192.0.2.30", 14));
        assert_eq!(ends("192.0.2.0/23", Avoid::Ends), of("192.0.2.1", "192.0.3.254", 510));
        assert_eq!(ends("192.0.2.0/23", Avoid::EndsAndOctets), of("192.0.2.1", "192.0.3.254", 508));
        assert_eq!(ends("192.0.2.254-192.0.3.1", Avoid::EndsAndOctets), of("192.0.2.254", "192.0.3.1", 2));
        assert_eq!(ends("192.0.2.254-192.0.3.1", Avoid::Ends), of("192.0.2.254", "192.0.3.1", 4));
        assert_eq!(ends("192.0.2.4/31", Avoid::EndsAndOctets), of("192.0.2.4", "192.0.2.5", 2));
        assert_eq!(all_of("192.0.2.0/32", Avoid::EndsAndOctets), ["192.0.2.0"], "named alone");
        assert_eq!(all_of("192.0.2.255", Avoid::EndsAndOctets), ["192.0.2.255"]);
        assert_eq!(all_of("192.0.2.254/31", Avoid::EndsAndOctets), ["192.0.2.254"]);
    }

    #[test]
    fn s73_the_routers_anycast_address_of_a_prefix_is_not_given_unasked() {
        assert_eq!(all_of("2001:db8::/126", Avoid::Nothing), ["2001:db8::1", "2001:db8::2", "2001:db8::3"]);
        assert_eq!(all_of("2001:db8::/127", Avoid::EndsAndOctets), ["2001:db8::", "2001:db8::1"]);
        assert_eq!(all_of("2001:db8::/128", Avoid::EndsAndOctets), ["2001:db8::"]);
        assert_eq!(all_of("2001:db8::-2001:db8::1", Avoid::EndsAndOctets), ["2001:db8::", "2001:db8::1"]);
        let huge = Range::parse("2001:db8::/32", Avoid::Ends).unwrap();
        assert_eq!(huge.size(), (1 << 96) - 1);
    }

    #[test]
    fn what_is_no_range_says_what_is_wanted() {
        for (text, want) in [
            ("192.0.2.1/24", "192.0.2.1/24 has bits set behind its prefix; want 192.0.2.0/24"),
            ("192.0.2.9-192.0.2.1", "192.0.2.9-192.0.2.1 ends before it begins; want 192.0.2.1-192.0.2.9"),
            ("192.0.2.9-2001:db8::1", "192.0.2.9-2001:db8::1 begins and ends in different families, want one"),
            ("192.0.2.0/33", "\"192.0.2.0/33\" is none; want a CIDR"),
            ("192.0.2.1-", "\"192.0.2.1-\" is none; want a CIDR"),
            ("", "\"\" is none; want a CIDR"),
        ] {
            let said = Range::parse(text, Avoid::Ends).unwrap_err();
            assert!(said.starts_with(want), "{text}: {said}");
        }
        assert!(Range::parse(" 192.0.2.1 - 192.0.2.9 ", Avoid::Ends).is_ok());
    }
}
