//! What proxies before us say about a client, where they are trusted to say it.
//!
//! In: the head as it came, and who sent it. Out: the claims that count, which are written over those of
//! [`super::headers::set_forwarded`]. Everybody else is the client himself, whatever he says.
//!
//! # Design
//! - The chain is read from its end, the address of the connection first: the first that is not trusted is the client. What stands
//!   before it he may have written himself; it stays in the chain, as Envoy and nginx leave it, and nobody should trust it.
//! - Whatever he writes there, what stands behind it counts: a chain is kept from its end on, as far as it is text and within
//!   [`CHAIN_LIMIT`], and nothing of what else a trusted proxy says depends on it.
//! - `Forwarded` (RFC 7239) is read where there is no `X-Forwarded-For`, in the form that proxies write: no escapes within quotes, so
//!   that it can be read from its end too.
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::model::http::{limits::Trust, work::work};

/// How much of a chain is believed, from its end on. What is before it is dropped. Units: bytes.
const CHAIN_LIMIT: usize = 1024;
/// How long another claim may be. Beyond it there is none. Units: bytes.
const CLAIM_LIMIT: usize = 255;
/// Who sent it to whom.
const CHAIN: &str = "x-forwarded-for";
/// What a trusted proxy says beside the chain, and nobody else: with the parameters of `Forwarded` that say the same.
const SAID: [(&str, &str); 3] =
    [("x-forwarded-proto", "proto"), ("x-forwarded-host", "host"), ("x-forwarded-port", "")];

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
    ///
    /// Cost: linear in the fields that it reads.
    pub(super) fn of(headers: &HeaderMap, peer: SocketAddr, trust: &Trust) -> Option<Self> {
        let peer = peer.ip();
        if !trust.has(peer, 0) {
            return None;
        }
        let mut elements = from_end(headers, header::FORWARDED.as_str());
        let formed = elements.iter().take_while(|element| parameter(element, "for").is_ok()).count();
        elements.truncate(formed);
        let (chain, client, element) = if headers.contains_key(CHAIN) {
            let entries = from_end(headers, CHAIN);
            let (client, _) = client(peer, trust, entries.iter().map(|entry| address(entry)));
            (listed(&entries, &peer.to_string()), client, None)
        } else {
            let addresses = elements.iter().map_while(|element| node(parameter(element, "for").ok()??)).map(Some);
            let addresses: Vec<_> = addresses.collect();
            let (client, hops) = client(peer, trust, addresses.iter().copied());
            let known: Vec<String> = addresses.iter().flatten().map(ToString::to_string).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let element = hops.checked_sub(1).and_then(|at| elements.get(at));
            (listed(&known[..hops], &peer.to_string()), client, element)
        };
        let said = |(name, key): (&'static str, &str)| {
            // He who is nearest wrote the last one.
            let own = headers.get_all(name).iter().next_back().cloned();
            let value = own.or_else(|| HeaderValue::from_str(parameter(element?, key).ok()??).ok())?;
            let is_fit = (1..=CLAIM_LIMIT).contains(&value.len()) && value.to_str().is_ok();
            is_fit.then(|| (HeaderName::from_static(name), value))
        };
        let said = SAID.into_iter().filter_map(said).collect();
        let last = match peer {
            IpAddr::V4(ip) => format!("for={ip}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
        };
        let forwarded = (!elements.is_empty()).then(|| listed(&elements, &last)).flatten();
        Some(Self { chain: chain?, client, said, forwarded })
    }

    /// Writes them into a head that has only what the connection shows.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(CHAIN, self.chain);
        if let Ok(client) = HeaderValue::from_str(&self.client.to_string()) {
            headers.insert("x-real-ip", client);
        }
        headers.extend(self.said.into_iter().map(|(name, value)| (Some(name), value)));
        headers.extend(self.forwarded.map(|value| (header::FORWARDED, value)));
    }
}

/// The client, by a chain from its end on, and how many of its entries lead to him.
fn client(peer: IpAddr, trust: &Trust, chain: impl Iterator<Item = Option<IpAddr>>) -> (IpAddr, usize) {
    let (mut client, mut hops) = (peer, 0);
    for addr in chain.map_while(|addr| addr) {
        (client, hops) = (addr, hops + 1);
        if !trust.has(addr, hops) {
            break;
        }
    }
    (client, hops)
}

/// Entries from the end on as a list, with one more behind.
fn listed(from_end: &[&str], last: &str) -> Option<HeaderValue> {
    let all: Vec<&str> = from_end.iter().rev().copied().chain([last]).collect();
    HeaderValue::from_str(&all.join(", ")).ok()
}

/// The entries of a list from its end on, of all fields of a name: as far as they are text, and within [`CHAIN_LIMIT`] together.
/// Empty ones count and are left out.
fn from_end<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let (mut out, mut used) = (Vec::new(), 0);
    for value in headers.get_all(name).iter().rev() {
        let mut rest = Some(value.as_bytes());
        while let Some(list) = rest {
            let (before, entry) = last_entry(list);
            work(entry.len() + 1);
            used += entry.len() + 1;
            let is_text = entry.iter().all(|byte| matches!(byte, b' ' | b'\t' | 0x21..=0x7e));
            let Some(text) = std::str::from_utf8(entry).ok().filter(|_| is_text && used <= CHAIN_LIMIT) else {
                return out;
            };
            out.extend(Some(text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty()));
            rest = before;
        }
    }
    out
}

/// What is before the last comma that is in no quotes, and what is behind it.
fn last_entry(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    let comma = list.iter().rposition(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    });
    comma.map_or((None, list), |at| (Some(&list[..at]), &list[at + 1..]))
}

/// An element of `Forwarded` that has not its form.
struct Malformed;

/// A parameter of an element of `Forwarded`; `None` when it is not there. Source: RFC 7239 part 4.
///
/// # Errors
/// The element is none, or has the parameter twice.
fn parameter<'a>(element: &'a str, name: &str) -> Result<Option<&'a str>, Malformed> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let (key, value) = pairs.split_once('=').filter(|(key, _)| is_token(key)).ok_or(Malformed)?;
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.contains('\\')),
            None => Some(value.split_at(value.find(';').unwrap_or(value.len()))).filter(|(value, _)| is_token(value)),
        }
        .ok_or(Malformed)?;
        if key.eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return Err(Malformed);
        }
        rest = match after.strip_prefix(';') {
            None if !after.is_empty() => return Err(Malformed),
            more => more,
        };
    }
    Ok(found)
}

/// Source: RFC 9110 part 5.6.2. `:` as well, which proxies leave without quotes.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&byte))
}

/// The address of a node of `Forwarded`; `None` for `unknown` and made-up names. Source: RFC 7239 part 6.
fn node(text: &str) -> Option<IpAddr> {
    let v4 = || text.parse::<Ipv4Addr>().ok().or_else(|| Some(*text.parse::<SocketAddrV4>().ok()?.ip()));
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let v6 = || bare().or_else(|| Some(*text.parse::<SocketAddrV6>().ok()?.ip()));
    v4().map(IpAddr::V4).or_else(|| v6().map(IpAddr::V6)).map(|ip| ip.to_canonical())
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
        let ranges = ranges();
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
    }

    fn ranges() -> Trust {
        Trust { hops: 0, ranges: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()] }
    }

    /// The head that a trusted proxy sends, as the next one gets it.
    fn written(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value).unwrap());
        }
        let mut out = HeaderMap::new();
        Claims::of(&headers, "10.0.0.1:1".parse().unwrap(), &ranges()).unwrap().write(&mut out);
        out
    }

    #[test]
    fn whatever_a_client_writes_before_it_the_word_of_a_trusted_proxy_counts() {
        let junk = "j, ".repeat(340);
        for own in [junk.as_bytes(), b"\xff, ", &[b'j'; 5000], b"\"", b"1.2.3.4, ", b",,,", b"\xff,,\t,"] {
            for split in [false, true] {
                let appended = [own, b", 198.51.100.9"].concat();
                let chains: &[(&str, &[u8])] =
                    if split { &[(CHAIN, own), (CHAIN, b"198.51.100.9")] } else { &[(CHAIN, &appended)] };
                let proto: &[(&str, &[u8])] = &[("x-forwarded-proto", own), ("x-forwarded-proto", b"https")];
                let headers = written(&[chains, proto, &[("x-forwarded-host", b"shop.example")]].concat());
                assert_eq!(headers["x-real-ip"], "198.51.100.9", "{own:?}");
                let chain = headers[CHAIN].to_str().unwrap();
                assert!(chain.ends_with("198.51.100.9, 10.0.0.1") && chain.len() <= CHAIN_LIMIT + 20, "{chain}");
                assert_eq!(headers["x-forwarded-proto"], "https");
                assert_eq!(headers["x-forwarded-host"], "shop.example");
            }
        }
        let many = vec!["10.0.0.7"; 1000].join(",");
        let headers = written(&[(CHAIN, format!("198.51.100.9,{many}").as_bytes()), ("x-forwarded-proto", b"https")]);
        assert_eq!(
            (&headers["x-real-ip"], &headers["x-forwarded-proto"]),
            (&HeaderValue::from_static("10.0.0.7"), &HeaderValue::from_static("https"))
        );
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_other_chain() {
        for (said, real, proto, host, chain) in [
            (
                "for=198.51.100.9;proto=https;host=shop.example",
                "198.51.100.9",
                Some("https"),
                Some("shop.example"),
                "198.51.100.9, 10.0.0.1",
            ),
            (
                "For=\"[2001:db9::9]:4711\";Proto=https, for=10.0.0.2;proto=http",
                "2001:db9::9",
                Some("https"),
                None,
                "2001:db9::9, 10.0.0.2, 10.0.0.1",
            ),
            (
                "for=1.2.3.4;proto=http, for=198.51.100.9:80;proto=https",
                "198.51.100.9",
                Some("https"),
                None,
                "198.51.100.9, 10.0.0.1",
            ),
            ("for=\", for=198.51.100.9;proto=https", "198.51.100.9", Some("https"), None, "198.51.100.9, 10.0.0.1"),
            ("for=\"a,b\";for=x, for=\"198.51.100.9\"", "198.51.100.9", None, None, "198.51.100.9, 10.0.0.1"),
            // Nothing that says who he is.
            ("for=unknown;proto=https", "10.0.0.1", None, None, "10.0.0.1"),
            ("for=_hidden", "10.0.0.1", None, None, "10.0.0.1"),
            ("for=2001:db8::9", "10.0.0.1", None, None, "10.0.0.1"),
            ("for=198.51.100.9;for=1.2.3.4", "10.0.0.1", None, None, "10.0.0.1"),
            ("for=198.51.100.9 ;proto=https", "10.0.0.1", None, None, "10.0.0.1"),
            ("for=\"198.51.100.\\9\"", "10.0.0.1", None, None, "10.0.0.1"),
            ("proto=https", "10.0.0.1", None, None, "10.0.0.1"),
            ("nonsense", "10.0.0.1", None, None, "10.0.0.1"),
        ] {
            let headers = written(&[("forwarded", said.as_bytes())]);
            let found = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(found("x-real-ip"), Some(real), "{said}");
            assert_eq!((found("x-forwarded-proto"), found("x-forwarded-host")), (proto, host), "{said}");
            assert_eq!(found(CHAIN), Some(chain), "{said}");
        }
        // Where both are there, the one that more proxies write.
        let headers = written(&[("forwarded", b"for=1.2.3.4;proto=https"), (CHAIN, b"198.51.100.9")]);
        assert_eq!(headers["x-real-ip"], "198.51.100.9");
        assert_eq!(
            (headers.get("x-forwarded-proto"), &headers["forwarded"]),
            (None, &HeaderValue::from_static("for=1.2.3.4;proto=https, for=10.0.0.1"))
        );
    }
}
