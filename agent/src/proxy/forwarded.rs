//! What proxies before us say about a client, where they are trusted to say it.
//!
//! In: the head as it came, and who sent it. Out: the claims that count, which are written over those of
//! [`super::headers::set_forwarded`]. Everybody else is the client himself, whatever he says.
//!
//! # Design
//! The chain is read from its end, the address of the connection first: the first that is not trusted is the client. What stands
//! before it he may have written himself; it stays in the chain, as Envoy and nginx leave it, and nobody should trust it.
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::http::{limits::Trust, work::work};

/// How long a chain may be that is believed. Beyond it none of it is. Units: bytes.
const CHAIN_LIMIT: usize = 1024;
/// What else a trusted proxy says, and nobody else.
const SAID: [&str; 3] = ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

/// What is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    chain: HeaderValue,
    client: IpAddr,
    said: Vec<(HeaderName, HeaderValue)>,
    forwarded: Option<HeaderValue>,
}

impl Claims {
    /// What the sender of this head is believed; `None` where he is nobody whom this Gateway trusts.
    pub(super) fn of(headers: &HeaderMap, peer: SocketAddr, trust: &Trust) -> Option<Self> {
        if !trust.has(peer.ip(), 0) {
            return None;
        }
        let chain = joined(headers, "x-forwarded-for")?;
        let mut client = peer.ip();
        for (hop, entry) in chain.split(',').rev().inspect(|entry| work(entry.len())).enumerate() {
            let Some(addr) = address(entry.trim()) else { break };
            client = addr;
            if !trust.has(addr, hop + 1) {
                break;
            }
        }
        let chain = if chain.is_empty() { peer.ip().to_string() } else { format!("{chain}, {}", peer.ip()) };
        let one = |name: &'static str| Some((HeaderName::from_static(name), only(headers, name)?.clone()));
        let forwarded = joined(headers, "forwarded").filter(|f| !f.is_empty()).and_then(|said| {
            let element = match peer.ip() {
                IpAddr::V4(ip) => format!("for={ip}"),
                IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
            };
            HeaderValue::from_str(&format!("{said}, {element}")).ok()
        });
        let said = SAID.into_iter().filter_map(one).collect();
        Some(Self { chain: HeaderValue::from_str(&chain).ok()?, client, said, forwarded })
    }

    /// Writes them into a head that has only what the connection shows.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert("x-forwarded-for", self.chain);
        if let Ok(client) = HeaderValue::from_str(&self.client.to_string()) {
            headers.insert("x-real-ip", client);
        }
        headers.extend(self.said.into_iter().map(|(name, value)| (Some(name), value)));
        headers.extend(self.forwarded.map(|value| (http::header::FORWARDED, value)));
    }
}

/// All values of a field as one list; `None` when it is none, or too long.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().map(|value| value.to_str().ok()).collect::<Option<_>>()?;
    Some(values.join(", ")).filter(|all| all.len() <= CHAIN_LIMIT)
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|value| values.next().is_none() && !value.is_empty() && value.len() <= 255)
}

/// An address with or without a port, as proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let ip = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|addr| addr.ip()));
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.or_else(bare).map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trust: &Trust, peer: &str, chain: &[&str]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for value in chain {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        let claims = Claims::of(&headers, SocketAddr::new(peer.parse().unwrap(), 1), trust)?;
        Some((claims.client.to_string(), claims.chain.to_str().unwrap().to_owned()))
    }

    #[test]
    fn h109_the_client_is_the_first_from_the_end_who_is_not_trusted() {
        let ranges = Trust { hops: 0, ranges: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()] };
        let hops = Trust { hops: 2, ranges: Vec::new() };
        for (trust, peer, chain, want) in [
            (&ranges, "192.0.2.1", &["198.51.100.1"][..], None),
            (&ranges, "10.0.0.1", &[], Some(("10.0.0.1", "10.0.0.1"))),
            (&ranges, "10.0.0.1", &["198.51.100.1"], Some(("198.51.100.1", "198.51.100.1, 10.0.0.1"))),
            (
                &ranges,
                "10.0.0.1",
                &["evil, 198.51.100.1", "10.9.9.9:80"],
                Some(("198.51.100.1", "evil, 198.51.100.1, 10.9.9.9:80, 10.0.0.1")),
            ),
            (&ranges, "2001:db8::1", &["[2001:db8::7]"], Some(("2001:db8::7", "[2001:db8::7], 2001:db8::1"))),
            (&ranges, "10.0.0.1", &["198.51.100.1, what?"], Some(("10.0.0.1", "198.51.100.1, what?, 10.0.0.1"))),
            (
                &hops,
                "192.0.2.1",
                &["evil, 203.0.113.1, 198.51.100.1"],
                Some(("203.0.113.1", "evil, 203.0.113.1, 198.51.100.1, 192.0.2.1")),
            ),
            (&Trust::default(), "10.0.0.1", &["198.51.100.1"], None),
        ] {
            let want = want.map(|(client, chain)| (client.to_owned(), chain.to_owned()));
            assert_eq!(client(trust, peer, chain), want, "{peer} {chain:?}");
        }
        let long = vec!["198.51.100.1"; 100].join(",");
        assert_eq!(client(&ranges, "10.0.0.1", &[&long]), None);
    }
}
