//! Host names as listeners and routes have them, and how a request's host compares with them.
use std::{borrow::Cow, cmp::Ordering, fmt, net::Ipv6Addr, sync::Arc};

/// A host name to compare with, lower case. Ordered by [`Hostname::by_specificity`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// This name.
    Exact(Arc<str>),
    /// Every name below this one, at any depth, but not the name itself: `*.example.com` holds `example.com`.
    Below(Arc<str>),
    /// Every name.
    Any,
}

impl Hostname {
    /// From an API value: a DNS name, or `*.` and a DNS name. `None` when it is neither.
    #[must_use]
    pub fn try_new(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(parent) if is_name(parent) => Some(Self::Below(parent.into())),
            None if is_name(&text) => Some(Self::Exact(text.into())),
            _ => None,
        }
    }

    /// Whether a host, lower case and without a port or a final dot, is meant.
    #[must_use]
    pub fn holds(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Below(parent) => host.strip_suffix(&**parent).is_some_and(|h| h.len() > 1 && h.ends_with('.')),
            Self::Any => true,
        }
    }

    /// Whether some host is meant by both.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Exact(name), other) | (other, Self::Exact(name)) => other.holds(name),
            (Self::Below(a), Self::Below(b)) => {
                a == b || Self::Below(a.clone()).holds(b) || Self::Below(b.clone()).holds(a)
            }
        }
    }

    /// More specific is less: exact before wildcard before any, then more characters, then the text.
    #[must_use]
    pub fn by_specificity(&self, other: &Self) -> Ordering {
        fn rank(h: &Hostname) -> (u8, std::cmp::Reverse<usize>, &str) {
            match h {
                Hostname::Exact(name) => (0, std::cmp::Reverse(name.len()), name),
                Hostname::Below(parent) => (1, std::cmp::Reverse(parent.len()), parent),
                Hostname::Any => (2, std::cmp::Reverse(0), ""),
            }
        }
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Hostname {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hostname {
    fn cmp(&self, other: &Self) -> Ordering {
        self.by_specificity(other)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// A request's authority, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host for comparison: lower case, no final dot, IPv6 in brackets.
    pub host: Cow<'a, str>,
    /// The port.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// From `Host` or `:authority`. `None` for user information, an empty host, a bad port, anything that is neither a
    /// registered name without escapes nor an address. Source: RFC 9110 part 7.2, RFC 3986 part 3.2.
    #[must_use]
    pub fn try_new(text: &'a str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
                (&text[..address.len() + 2], port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            Some(_) => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if host.is_empty() || host.len() > 255 || !(host.starts_with('[') || host.bytes().all(plain)) {
            return None;
        }
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        Some(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(text: &str) -> Hostname {
        if text == "*" { Hostname::Any } else { Hostname::try_new(text).unwrap() }
    }

    #[test]
    fn a_wildcard_spans_labels_but_not_the_apex() {
        let wild = h("*.example.com");
        assert!(wild.holds("a.example.com"));
        assert!(wild.holds("a.b.example.com"));
        assert!(!wild.holds("example.com"));
        assert!(!wild.holds(".example.com"));
        assert!(!wild.holds("aexample.com"));
    }

    #[test]
    fn names_intersect_as_the_api_says() {
        for (a, b, want) in [
            ("*", "a.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "*.a.example.com", true),
            ("*.example.com", "*.com", true),
            ("*.example.com", "*.example.org", false),
            ("a.example.com", "b.example.com", false),
        ] {
            assert_eq!(h(a).intersects(&h(b)), want, "{a} {b}");
            assert_eq!(h(b).intersects(&h(a)), want, "{b} {a}");
        }
    }

    #[test]
    fn order_is_exact_then_longer_then_any() {
        let mut names = ["*", "*.com", "a.com", "*.example.com", "long.example.com"].map(h);
        names.sort_by(Hostname::by_specificity);
        assert_eq!(names.map(|n| n.to_string()), ["long.example.com", "a.com", "*.example.com", "*.com", "*"]);
    }

    #[test]
    fn refuses_names_that_are_none() {
        for text in ["", "*", "*.", "a..b", "-a.b", "a b", "*.*.a", "a/b", "foo*"] {
            assert_eq!(Hostname::try_new(text), None, "{text:?}");
        }
    }

    #[test]
    fn takes_authorities_apart() {
        let ok = |text| Authority::try_new(text).map(|a| (a.host.into_owned(), a.port));
        assert_eq!(ok("Shop.Example.com:8080"), Some(("shop.example.com".into(), Some(8080))));
        assert_eq!(ok("shop.example.com."), Some(("shop.example.com".into(), None)));
        assert_eq!(ok("[2001:db8::1]:80"), Some(("[2001:db8::1]".into(), Some(80))));
        assert_eq!(ok("a:"), Some(("a".into(), None)));
        for bad in
            ["", ":80", "a b@c/d", "user@host", "a:b", "a:99999", "[::1", "[x]", "[::1]80", "a%41", "a,b", "a:+8"]
        {
            assert_eq!(ok(bad), None, "{bad:?}");
        }
    }
}
