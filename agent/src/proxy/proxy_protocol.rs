//! The PROXY protocol: who the client is, in front of the first byte of a connection: from what stands before us, and for endpoints that
//! want to be told.
//!
//! # Design
//! - Where it is asked for it is required: a connection that begins otherwise is closed, since whoever could leave it out
//!   could choose who he is taken for. Nothing is guessed from the first bytes.
//! - What endpoints are told is the client's address as the connection has it, by the PROXY protocol where that comes in, and never by a
//!   field of a request: it holds for a whole connection. Of two families both addresses are written as IPv6, as HAProxy does.
//! - An own reader: one line or one head of fixed form, of which two addresses are used. TLVs are skipped, a checksum among
//!   them, which TCP makes needless.
//!
//! Source: haproxy.org, PROXY protocol, versions 1 and 2, parts 2.1 and 2.2.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::http::balance::ProxyProtocol;

/// How long a head of version 1 may be, its line end included. Units: bytes.
const V1_MOST: usize = 107;
/// How long one is at least: `PROXY UNKNOWN`. Units: bytes.
const V1_LEAST: usize = 15;
/// What a head of version 2 begins with.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How long it is before the addresses. Units: bytes.
const V2_HEAD: usize = 16;
/// How long it may be in all: addresses, and what load balancers of clouds add. Units: bytes.
const V2_MOST: usize = 2048;

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The client.
    pub client: SocketAddr,
    /// What it dialled.
    pub local: SocketAddr,
}

impl Source {
    /// A head that says so. Order: network.
    #[must_use]
    pub(super) fn head(self, version: ProxyProtocol) -> Vec<u8> {
        let (client, local) = (self.client.ip().to_canonical(), self.local.ip().to_canonical());
        let ports = (self.client.port(), self.local.port());
        let (client, local) = match (client, local) {
            (IpAddr::V4(client), IpAddr::V6(local)) => (client.to_ipv6_mapped().into(), local.into()),
            (IpAddr::V6(client), IpAddr::V4(local)) => (client.into(), local.to_ipv6_mapped().into()),
            same => same,
        };
        let is_old = client.is_ipv4();
        match version {
            ProxyProtocol::V1 => {
                let family = if is_old { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {client} {local} {} {}\r\n", ports.0, ports.1).into_bytes()
            }
            ProxyProtocol::V2 => {
                let mut head = V2_SIGNATURE.to_vec();
                // PROXY, a stream of this family, and how long the addresses are.
                head.extend(if is_old { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] });
                for ip in [client, local] {
                    match ip {
                        IpAddr::V4(ip) => head.extend(ip.octets()),
                        IpAddr::V6(ip) => head.extend(ip.octets()),
                    }
                }
                head.extend(ports.0.to_be_bytes());
                head.extend(ports.1.to_be_bytes());
                head
            }
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The beginning of a head.
    Partial,
    /// A head, this long; `None` where it names no client: it is the sender's own connection, a probe of its health.
    Whole(usize, Option<SocketAddr>),
    /// No head.
    Foreign,
}

/// Reads a head from the first bytes of a connection.
#[must_use]
pub(super) fn read(bytes: &[u8]) -> Head {
    let known = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..known] == V2_SIGNATURE[..known] {
        return if bytes.len() < V2_HEAD { Head::Partial } else { v2(bytes) };
    }
    let known = bytes.len().min(6);
    if bytes[..known] != b"PROXY "[..known] {
        return Head::Foreign;
    }
    let line = &bytes[..bytes.len().min(V1_MOST)];
    match line.windows(2).position(|end| end == b"\r\n") {
        Some(end) => match std::str::from_utf8(&line[6..end]).ok().and_then(v1) {
            Some(client) => Head::Whole(end + 2, client),
            None => Head::Foreign,
        },
        None if line.len() == V1_MOST => Head::Foreign,
        None => Head::Partial,
    }
}

/// How many bytes more of a head may be read, so that none is read that is behind it: the handshake of TLS begins there.
#[must_use]
pub(super) fn wants(bytes: &[u8]) -> usize {
    match bytes.get(..V2_HEAD) {
        Some(head) if head.starts_with(V2_SIGNATURE) => {
            let length = V2_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
            length.saturating_sub(bytes.len()).max(1)
        }
        None if V2_SIGNATURE.starts_with(&bytes[..bytes.len().min(V2_SIGNATURE.len())]) && !bytes.is_empty() => {
            V2_HEAD - bytes.len()
        }
        // The shortest line, then byte by byte.
        _ => V1_LEAST.saturating_sub(bytes.len()).max(1),
    }
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, or `UNKNOWN` and anything.
fn v1(line: &str) -> Option<Option<SocketAddr>> {
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = line.split(' ');
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let (port, other, end) = (words.next()?, words.next()?, words.next());
    let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    let fits = |ip: IpAddr| matches!((family, ip), ("TCP4", IpAddr::V4(_)) | ("TCP6", IpAddr::V6(_)));
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    number(other)?;
    (end.is_none() && fits(source) && fits(destination)).then_some(())?;
    Some(Some(SocketAddr::new(source.to_canonical(), number(port)?)))
}

/// The binary form; `bytes` has the fixed part at least.
fn v2(bytes: &[u8]) -> Head {
    let (version, family) = (bytes[12], bytes[13]);
    let length = V2_HEAD + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > V2_MOST || version >> 4 != 2 {
        return Head::Foreign;
    }
    let Some(addresses) = bytes.get(V2_HEAD..length) else { return Head::Partial };
    match (version & 15, family) {
        (0, _) => Head::Whole(length, None),
        (1, 0x11) => match addresses.first_chunk::<12>() {
            Some(&[a, b, c, d, _, _, _, _, high, low, _, _]) => {
                let port = u16::from_be_bytes([high, low]);
                Head::Whole(length, Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port)))
            }
            None => Head::Foreign,
        },
        (1, 0x21) => match (addresses.first_chunk::<16>(), addresses.get(32..34), addresses.len() >= 36) {
            (Some(source), Some(&[high, low]), true) => {
                let source = IpAddr::from(Ipv6Addr::from(*source)).to_canonical();
                Head::Whole(length, Some(SocketAddr::new(source, u16::from_be_bytes([high, low]))))
            }
            _ => Head::Foreign,
        },
        // Sockets that are no TCP: the receiver uses the connection's own addresses.
        (1, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Head::Whole(length, None),
        _ => Head::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2_head(version: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[version, family], &length, rest].concat()
    }

    #[test]
    fn a_head_that_is_written_is_read_as_the_same_client() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (client, local, line) in [
            ("192.0.2.7:1000", "198.51.100.1:80", "PROXY TCP4 192.0.2.7 198.51.100.1 1000 80\r\n"),
            ("[2001:db8::7]:1", "[2001:db8::1]:65535", "PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n"),
            ("[2001:db8::7]:1", "192.0.2.1:80", "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 1 80\r\n"),
            ("192.0.2.7:1", "[2001:db8::1]:80", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 80\r\n"),
            ("[::ffff:192.0.2.7]:1", "192.0.2.1:80", "PROXY TCP4 192.0.2.7 192.0.2.1 1 80\r\n"),
        ] {
            let (client, local) = (at(client), at(local));
            let source = Source { client, local };
            assert_eq!(source.head(ProxyProtocol::V1), line.as_bytes());
            let canonical = SocketAddr::new(client.ip().to_canonical(), client.port());
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let head = source.head(version);
                assert_eq!(read(&head), Head::Whole(head.len(), Some(canonical)), "{version} {client} {local}");
            }
        }
        let longest: std::net::Ipv6Addr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        let longest = SocketAddr::from((longest, 65535));
        assert!(Source { client: longest, local: longest }.head(ProxyProtocol::V1).len() <= V1_MOST);
    }

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn heads_are_read_however_much_of_them_is_there() {
        let v4 = [192, 0, 2, 9, 198, 51, 100, 1, 0x30, 0x39, 0, 80];
        let v6 =
            [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 16], &[0x30, 0x39, 0, 80]].concat();
        for (head, want) in [
            (b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 80\r\n".to_vec(), client("192.0.2.9:12345")),
            (b"PROXY TCP6 2001:db8::9 2001:db8::1 12345 80\r\n".to_vec(), client("[2001:db8::9]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n".to_vec(), None),
            (v2_head(0x21, 0x11, &v4), client("192.0.2.9:12345")),
            (v2_head(0x21, 0x11, &[&v4[..], &[3, 0, 1, 7]].concat()), client("192.0.2.9:12345")),
            (v2_head(0x21, 0x21, &v6), client("[2001:db8::9]:12345")),
            (v2_head(0x20, 0, &[]), None),
            (v2_head(0x21, 0, &[]), None),
        ] {
            let bytes = [&head[..], b"GET"].concat();
            assert_eq!(read(&bytes), Head::Whole(head.len(), want), "{head:?}");
            assert!((0..head.len()).all(|n| read(&head[..n]) == Head::Partial), "{head:?}");
            assert!((0..head.len()).all(|n| (1..=head.len() - n).contains(&wants(&head[..n]))), "{head:?}");
        }
    }

    #[test]
    fn what_is_none_is_known_as_soon_as_it_can_be() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for bytes in [
            &b"G"[..],
            b"\r\n\r\nG",
            b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 80 1\r\n",
            b"PROXY TCP4 192.0.2.9  198.51.100.1 12345 80\r\n",
            b"PROXY TCP4 2001:db8::9 2001:db8::1 12345 80\r\n",
            b"PROXY TCP6 192.0.2.9 198.51.100.1 12345 80\r\n",
            b"PROXY TCP4 192.0.2.9 198.51.100.1 +1 80\r\n",
            b"PROXY TCP4 192.0.2.9 198.51.100.1 65536 80\r\n",
            b"PROXY UDP4 192.0.2.9 198.51.100.1 1 80\r\n",
            b"PROXY \r\n",
            b"proxy UNKNOWN\r\n",
            &long,
            &v2_head(0x11, 0x11, &[0; 12]),
            &v2_head(0x22, 0x11, &[0; 12]),
            &v2_head(0x21, 0x11, &[0; 11]),
            &v2_head(0x21, 0x21, &[0; 35]),
            &v2_head(0x21, 0x11, &[0; 2033]),
        ] {
            assert_eq!(read(bytes), Head::Foreign, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_what_was_known(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0..4_usize) {
            let start: &[u8] = [&b""[..], b"PROXY TCP4 ", V2_SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"][version];
            let bytes = [start, &bytes].concat();
            let mut known = Head::Partial;
            for n in 0..=bytes.len() {
                let now = read(&bytes[..n]);
                prop_assert!(known == Head::Partial || now == known, "{:?} then {:?}", known, now);
                known = now;
            }
        }
    }
}
