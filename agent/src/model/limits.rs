//! What a Gateway's annotations say of how the proxy serves it: `proxy.sluice.dev/NAME`.
//!
//! In: a Gateway's annotations. Out: [`Limits`], and all that is wrong with them at once.
//!
//! # Design
//! A typo must not take a Gateway down that serves: while something is not understood, the settings go on that it had before, all of
//! them ([`super::gateway`] has those of the last model). Where there are none, as after a start of the agent, what is understood holds,
//! of lists each member, and the rest is as if nobody had written it. Status and `why` say so until it is mended.
//!
//! Annotations and no ConfigMap by `infrastructure.parametersRef`: they change with the Gateway, in one write, by whoever may
//! edit it, and need no permission to read another kind.
use std::{collections::BTreeMap, num::NonZeroU16, ops::RangeInclusive, str::FromStr, time::Duration};

use ipnet::IpNet;

use super::{
    http::limits::{Length, Limits, Underscores},
    report::Fault,
};
use crate::spelling::nearest;

/// What these annotations begin with; whatever else does is a fault.
pub(super) const PREFIX: &str = "proxy.sluice.dev/";

/// Their names. README.md lists them with their defaults.
const NAMES: [&str; 14] = [
    "max-connections",
    "max-requests",
    "max-stalled-bytes",
    "max-head-bytes",
    "underscores",
    "length-beside-chunked",
    "min-body-rate",
    "max-requests-per-connection",
    "max-connection-age",
    "max-pending-resets",
    "stream-idle-timeout",
    "trusted-hops",
    "trusted-proxies",
    "proxy-protocol-ports",
];

/// How large a head may be made. Units: bytes. The least is what hyper takes, the most what one connection may hold.
const HEAD: RangeInclusive<u64> = 8 << 10..=1 << 20;
/// How much a Gateway may hold for bodies that are not taken. Units: bytes.
const STALLED: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// How long a list may be: ranges are looked through for each request.
const LIST: usize = 64;
/// How long the times may be. Units: seconds.
const SECONDS: RangeInclusive<u64> = 1..=7 * 24 * 3600;

/// The settings that a Gateway's annotations make, and all that is not understood of them.
pub(super) fn of(annotations: &BTreeMap<String, String>) -> (Limits, Option<Fault>) {
    let (mut limits, mut faults) = (Limits::default(), Vec::new());
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if let Err(want) = set(&mut limits, name, value) {
            faults.push(Fault::new("InvalidParameters", format!("annotation {key} is {value:?}, want {want}")));
        }
    }
    (limits, Fault::join(&faults))
}

/// Sets one of them; else what it should be.
fn set(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    match name {
        "max-connections" => limits.max_connections = Some(count(value)?),
        "max-requests" => limits.max_requests = Some(count(value)?),
        "max-stalled-bytes" => limits.max_held = Some(usize::try_from(number(value, STALLED)?).unwrap_or(usize::MAX)),
        "max-head-bytes" => limits.max_head = Some(usize::try_from(number(value, HEAD)?).unwrap_or(usize::MAX)),
        "underscores" => {
            limits.underscores = match value {
                "allow" => Underscores::Allow,
                "drop" => Underscores::Drop,
                "reject" => Underscores::Reject,
                _ => return Err(r#""allow", "drop" or "reject""#.to_owned()),
            }
        }
        "length-beside-chunked" => {
            limits.length_beside_chunked = match value {
                "reject" => Length::Reject,
                "ignore" => Length::Ignore,
                _ => return Err(r#""reject" or "ignore""#.to_owned()),
            }
        }
        "min-body-rate" => limits.min_body_rate = Some(number(value, 0..=1 << 30)?),
        "max-requests-per-connection" => limits.requests_per_connection = Some(number(value, 1..=1 << 30)?),
        "max-connection-age" => limits.max_age = Some(seconds(value)?),
        "max-pending-resets" => limits.max_resets = Some(count(value)?),
        "stream-idle-timeout" => limits.stream_idle = Some(seconds(value)?),
        "trusted-hops" => limits.trust.hops = usize::try_from(number(value, 0..=16)?).unwrap_or(usize::MAX),
        "trusted-proxies" => {
            limits.trust.ranges = members(value);
            list::<IpNet>(value, "ranges like 10.0.0.0/8")?;
        }
        "proxy-protocol-ports" => {
            limits.proxy_ports = members(value).into_iter().map(NonZeroU16::get).collect();
            list::<NonZeroU16>(value, "ports from 1 to 65535")?;
        }
        _ => return Err(unknown(name, NAMES)),
    }
    Ok(())
}

/// What is said of a name that is none of these.
pub(super) fn unknown<const N: usize>(name: &str, names: [&str; N]) -> String {
    let meant = nearest(name, names).map(|name| format!(", did you mean {PREFIX}{name}?")).unwrap_or_default();
    format!("no annotation of this name{meant}")
}

/// A whole number, written in digits.
pub(super) fn number(value: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let parsed = value.parse().ok().filter(|n| range.contains(n) && !value.starts_with('+'));
    parsed.ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
}

fn count(value: &str) -> Result<usize, String> {
    number(value, 1..=1 << 20).map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// What is written between commas; `LIST` of it at most.
pub(super) fn list<T: FromStr>(value: &str, what: &str) -> Result<Vec<T>, String> {
    let want = || format!("{what} between commas, at most {LIST}");
    let all: Vec<T> = value.split(',').map(|one| one.trim().parse().map_err(|_| want())).collect::<Result<_, _>>()?;
    if all.len() > LIST { Err(want()) } else { Ok(all) }
}

/// Those of a list that are understood; `LIST` at most.
fn members<T: FromStr>(value: &str) -> Vec<T> {
    value.split(',').filter_map(|one| one.trim().parse().ok()).take(LIST).collect()
}

/// A time as the Gateway API writes it, of whole seconds: `90s`, `15m`, `1h30m`. Source: GEP-2257.
pub(super) fn seconds(value: &str) -> Result<Duration, String> {
    let parsed = whole_seconds(value).filter(|seconds| SECONDS.contains(seconds)).map(Duration::from_secs);
    parsed.ok_or_else(|| "a time from 1s to 168h, in h, m or s".to_owned())
}

/// The same up to so long.
pub(super) fn seconds_to(value: &str, longest: Duration) -> Result<Duration, String> {
    let parsed = seconds(value).ok().filter(|time| *time <= longest);
    parsed.ok_or_else(|| format!("a time from 1s to {}s, in h, m or s", longest.as_secs()))
}

/// Each unit once at most, the longest first.
fn whole_seconds(value: &str) -> Option<u64> {
    let (mut rest, mut all) = (value, 0_u64);
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, behind)) = rest.split_once(unit) else { continue };
        let digits = Some(digits).filter(|d| (1..=6).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()))?;
        all = all.checked_add(digits.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = behind;
    }
    (rest.is_empty() && !value.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{
        api::ObjectName,
        model::{Memo, ObjectRef, Outcome, fixture, http::limits::Trust},
    };

    fn limits(annotations: &[(&str, &str)]) -> Result<Limits, String> {
        let written = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        let others = [("sluice.dev/addresses".to_owned(), "x".to_owned())];
        let (limits, fault) = of(&written.chain(others).collect());
        fault.map_or(Ok(limits), |fault| Err(fault.message))
    }

    #[test]
    fn each_name_is_a_setting() {
        let all = NAMES.map(|name| match name {
            "underscores" => (name, "drop"),
            "length-beside-chunked" => (name, "ignore"),
            "max-connection-age" | "stream-idle-timeout" => (name, "2m"),
            "trusted-hops" => (name, "2"),
            "trusted-proxies" => (name, "10.0.0.0/8, 2001:db8::/32"),
            "proxy-protocol-ports" => (name, "80,8443"),
            "max-stalled-bytes" => (name, "1048576"),
            _ => (name, "8192"),
        });
        let want = Limits {
            max_connections: Some(8192),
            max_requests: Some(8192),
            max_held: Some(1 << 20),
            max_head: Some(8192),
            underscores: Underscores::Drop,
            length_beside_chunked: Length::Ignore,
            min_body_rate: Some(8192),
            requests_per_connection: Some(8192),
            max_age: Some(Duration::from_secs(120)),
            max_resets: Some(8192),
            stream_idle: Some(Duration::from_secs(120)),
            trust: Trust { hops: 2, ranges: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()] },
            proxy_ports: [80, 8443].into(),
        };
        assert_eq!(limits(&all), Ok(want));
        assert_eq!(limits(&[]), Ok(Limits::default()));
    }

    #[test]
    fn times_are_written_as_the_api_has_them() {
        for (text, want) in [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1h0m5s", 3605), ("24h", 86_400)] {
            assert_eq!(seconds(text), Ok(Duration::from_secs(want)), "{text}");
        }
        assert_eq!(seconds_to("11s", Duration::from_secs(10)), Err("a time from 1s to 10s, in h, m or s".to_owned()));
    }

    #[test]
    fn nonsense_is_refused_by_name_all_of_it_at_once() {
        for (name, value) in [
            ("max-connections", "0"),
            ("max-requests", "-1"),
            ("max-requests", "+1"),
            ("max-requests", ""),
            ("max-head-bytes", "8191"),
            ("max-head-bytes", "64k"),
            ("max-head-bytes", "99999999999999999999999"),
            ("underscores", "Reject"),
            ("length-beside-chunked", "true"),
            ("max-connection-age", "90"),
            ("max-connection-age", "1e3s"),
            ("max-connection-age", "169h"),
            ("stream-idle-timeout", "0s"),
            ("stream-idle-timeout", "é"),
            ("stream-idle-timeout", "30m1h"),
            ("stream-idle-timeout", "1h30"),
            ("stream-idle-timeout", "hm"),
            ("trusted-hops", "17"),
            ("trusted-proxies", "10.0.0.0/33"),
            ("trusted-proxies", ""),
            ("proxy-protocol-ports", "0"),
            ("proxy-protocol-ports", "http"),
        ] {
            let fault = limits(&[(name, value)]).unwrap_err();
            assert!(fault.starts_with(&format!("annotation {PREFIX}{name} is {value:?}, want ")), "{fault}");
        }
        let fault = limits(&[("max-request", "1"), ("underscores", "no")]).unwrap_err();
        assert!(fault.contains("did you mean proxy.sluice.dev/max-requests?") && fault.contains("\"drop\""), "{fault}");
    }

    #[test]
    fn beside_nonsense_the_rest_holds_and_of_lists_each_member() {
        let written = [
            ("max-requests", "7"),
            ("max-connections", "x"),
            ("trusted-proxies", "10.0.0.0/8, nonsense"),
            ("proxy-protocol-ports", "80,8O"),
        ];
        let written = written.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        let (limits, fault) = of(&written.collect());
        let trust = Trust { hops: 0, ranges: vec!["10.0.0.0/8".parse().unwrap()] };
        let want = Limits { max_requests: Some(7), trust, proxy_ports: [80].into(), ..Limits::default() };
        assert_eq!(limits, want);
        let fault = fault.unwrap();
        assert_eq!((fault.reason, fault.message.matches("annotation ").count()), ("InvalidParameters", 3), "{fault:?}");
    }

    #[test]
    fn a_typo_in_a_live_gateway_changes_nothing_and_is_named() {
        let gateway = |uid: &str, ports: &str| {
            json!({"kind": "Gateway", "metadata": {"name": "gw", "namespace": "default", "uid": uid, "annotations":
                {"proxy.sluice.dev/proxy-protocol-ports": ports, "proxy.sluice.dev/max-requests": "5"}},
                "spec": {"gatewayClassName": "sluice", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}})
        };
        let (name, mut memo) = (ObjectName::new("default", "gw"), Memo::default());
        let node = fixture::node(&["192.0.2.0/24"]);
        let object = ObjectRef::new("Gateway", name.clone());
        let mut served = |uid: &str, ports: &str| {
            let model = memo.compile(&Arc::new(fixture::snapshot(&json!([gateway(uid, ports)]))), &node);
            assert_eq!(model.http.frontends.len(), 1, "{ports}");
            let verdict = model.verdicts[&object].clone();
            let limits = model.http.limits[&name].clone();
            assert_eq!(limits.max_requests, Some(5));
            (limits.proxy_ports.iter().copied().collect::<Vec<_>>(), verdict.outcome, verdict.messages.join("\n"))
        };
        assert_eq!(served("a", "80"), (vec![80], Outcome::Accepted, String::new()));
        for again in ["8O", "8O", "http"] {
            let (ports, outcome, why) = served("a", again);
            assert_eq!((ports, outcome), (vec![80], Outcome::Partial));
            let want = format!(
                "the settings before this one go on: annotation {PREFIX}proxy-protocol-ports is {again:?}, want ports"
            );
            assert!(why.starts_with(&want), "{why}");
        }
        // Another Gateway of this name has nothing of that.
        let (ports, _, why) = served("b", "8O");
        assert!(ports.is_empty() && why.starts_with("as if it were not there: annotation "), "{ports:?} {why}");
        assert_eq!(served("b", "80").0, [80]);
        let (ports, outcome, why) = served("b", "80,81");
        assert_eq!((ports, outcome), (vec![80, 81], Outcome::Partial));
        assert_eq!(why, "no listener is at port 81, which is among its proxy-protocol-ports");
    }
}
