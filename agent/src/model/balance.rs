//! What a Service's annotations say of how requests are spread over its endpoints: `proxy.sluice.dev/NAME`.
//!
//! In: the annotations of the Services that routes name. Out: a [`Balance`] for each of their ports that is not the default, and a sentence
//! in the verdict of each route that names one of which something is not understood. What is not understood does not hold, all else does:
//! none of it says who may come in, so a typo must not take a Service away. But for [`proxy_protocol`]: endpoints that want to be told who
//! their clients are take whoever speaks first for somebody else, so where it is not understood nobody speaks to them.
use std::sync::Arc;

use http::HeaderName;

use super::{
    http::{
        HttpModel, ServicePort,
        balance::{Balance, Balancer, Ejection, HashKey, ProxyProtocol},
    },
    limits::{PREFIX, list, number, seconds_to, unknown},
};
use crate::{api::Service, source::Snapshot};

/// Their names. README.md lists them with their defaults.
const NAMES: [&str; 8] = [
    "balancer",
    "hash-on",
    "eject-after",
    "eject-codes",
    "eject-time",
    "max-ejected-percent",
    "proxy-protocol",
    "slow-start",
];

/// How a Service's endpoints are balanced, and sentences about what is not understood.
#[must_use]
pub fn of(service: &Service) -> (Balance, Vec<String>) {
    let (mut balance, mut faults) = (Balance::default(), Vec::new());
    for (key, value) in &service.metadata.annotations {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if let Err(want) = set(&mut balance, name, value) {
            faults.push(format!("annotation {key} is {value:?} and has no effect, want {want}"));
        }
    }
    (balance, faults)
}

/// Sets one of them; else what it should be.
fn set(balance: &mut Balance, name: &str, value: &str) -> Result<(), String> {
    let ejection = &mut balance.ejection;
    match name {
        "balancer" => {
            balance.balancer = match value {
                "least-request" => Balancer::LeastRequest,
                "round-robin" => Balancer::RoundRobin,
                "consistent-hash" => Balancer::ConsistentHash(HashKey::Client),
                _ => return Err(r#""least-request", "round-robin" or "consistent-hash""#.to_owned()),
            }
        }
        // Behind `balancer` in the order of the names.
        "hash-on" => {
            let Balancer::ConsistentHash(key) = &mut balance.balancer else {
                return Err(format!("it beside {PREFIX}balancer: consistent-hash"));
            };
            *key = hash_key(value).ok_or_else(|| {
                r#""client-address", "header:" and a field's name, or "cookie:" and a cookie's"#.to_owned()
            })?;
        }
        "eject-after" => {
            let after = number(value, 0..=1000)?;
            ejection.after = u32::try_from(after).ok().filter(|after| *after > 0);
        }
        "eject-codes" => {
            let want = "statuses from 400 to 599";
            let codes: Vec<u16> = list(value, want)?;
            if !codes.iter().all(|code| (400..600).contains(code)) {
                return Err(want.to_owned());
            }
            ejection.codes = codes.into_iter().collect();
        }
        "eject-time" => {
            ejection.time = seconds_to(value, Ejection::LONGEST)?;
        }
        "max-ejected-percent" => ejection.most = u8::try_from(number(value, 0..=100)?).unwrap_or(100),
        // Whoever refers to the Service says what is wrong with it.
        "proxy-protocol" => balance.proxy_protocol = version(value),
        "slow-start" => {
            let time = seconds_to(value, Balance::LONGEST_START)?;
            balance.slow_start = Some(time).filter(|time| !time.is_zero());
        }
        _ => return Err(unknown(name, NAMES)),
    }
    Ok(())
}

/// What each connection to a Service's endpoints begins with.
///
/// # Errors
/// Nobody knows, so nobody may connect them.
pub(super) fn proxy_protocol(service: &Service) -> Result<Option<ProxyProtocol>, String> {
    let key = format!("{PREFIX}proxy-protocol");
    let Some(value) = service.metadata.annotations.get(&key) else { return Ok(None) };
    let unknown = || format!("annotation {key} is {value:?}, want \"v1\" or \"v2\": nothing is sent there");
    version(value).map(Some).ok_or_else(unknown)
}

fn version(value: &str) -> Option<ProxyProtocol> {
    [ProxyProtocol::V1, ProxyProtocol::V2].into_iter().find(|version| version.to_string() == value)
}

fn hash_key(value: &str) -> Option<HashKey> {
    if value == "client-address" {
        return Some(HashKey::Client);
    }
    let (kind, name) = value.split_once(':')?;
    // Both are tokens of HTTP.
    let field = HeaderName::from_bytes(name.as_bytes()).ok()?;
    match kind {
        "header" => Some(HashKey::Header(field)),
        "cookie" => Some(HashKey::Cookie(name.to_owned())),
        _ => None,
    }
}

/// Notes how a port is balanced, where that is not the default; sentences about what is not understood.
pub(super) fn note(snapshot: &Snapshot, http: &mut HttpModel, port: &ServicePort) -> Vec<String> {
    let Some(service) = snapshot.services.get(&port.service) else { return Vec::new() };
    let (balance, wrong) = of(service);
    if balance != Balance::default() {
        http.balances.insert(port.clone(), Arc::new(balance));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::model::{Memo, ObjectRef, Outcome, compile, fixture};

    fn read(annotations: &[(&str, &str)]) -> (Balance, Vec<String>) {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), json!(value))).collect();
        of(&serde_json::from_value(json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap())
    }

    #[test]
    fn each_name_is_a_setting() {
        let all = [
            ("balancer", "consistent-hash"),
            ("hash-on", "cookie:User"),
            ("eject-after", "3"),
            ("eject-codes", "500, 503"),
            ("eject-time", "5s"),
            ("max-ejected-percent", "100"),
            ("proxy-protocol", "v2"),
            ("slow-start", "30s"),
        ];
        let ejection = Ejection { after: Some(3), codes: [500, 503].into(), time: Duration::from_secs(5), most: 100 };
        let (balancer, retries) = (Balancer::ConsistentHash(HashKey::Cookie("User".into())), None);
        let (slow_start, proxy_protocol) = (Some(Duration::from_secs(30)), Some(ProxyProtocol::V2));
        assert_eq!(read(&all), (Balance { balancer, ejection, slow_start, proxy_protocol, retries }, Vec::new()));
        assert_eq!(all.map(|(name, _)| name), NAMES);
        assert_eq!(read(&[]), (Balance::default(), Vec::new()));
        assert_eq!(read(&[("eject-after", "0")]).0.ejection.after, None);
    }

    #[test]
    fn nonsense_is_named_and_the_rest_holds() {
        for (name, value, want) in [
            ("balancer", "fastest", "want \"least-request\", \"round-robin\" or \"consistent-hash\""),
            ("balancer", "", "want \"least-request\""),
            ("hash-on", "client-address", "want it beside proxy.sluice.dev/balancer: consistent-hash"),
            ("eject-after", "-1", "want a number from 0 to 1000"),
            ("eject-codes", "200", "want statuses from 400 to 599"),
            ("eject-codes", "5xx", "want statuses from 400 to 599 between commas"),
            ("eject-time", "1h", "want a time from 1s to 10s"),
            ("max-ejected-percent", "101", "want a number from 0 to 100"),
            ("slow-start", "2h", "want a time from 1s to 3600s"),
            ("max-ejected-percents", "5", "did you mean proxy.sluice.dev/max-ejected-percent?"),
        ] {
            let (balance, faults) = read(&[(name, value)]);
            assert_eq!(balance, Balance::default());
            assert!(faults[0].starts_with(&format!("annotation {PREFIX}{name} is {value:?}")), "{faults:?}");
            assert!(faults[0].contains(want), "{faults:?}");
        }
        for wrong in ["header:", "header:a b", "query:x", "x"] {
            let (balance, faults) = read(&[("balancer", "consistent-hash"), ("hash-on", wrong)]);
            assert_eq!((balance.balancer, faults.len()), (Balancer::ConsistentHash(HashKey::Client), 1), "{wrong}");
        }
        let on = |on| read(&[("balancer", "consistent-hash"), ("hash-on", on)]).0.balancer;
        assert_eq!(on("header:X-User"), Balancer::ConsistentHash(HashKey::Header(HeaderName::from_static("x-user"))));
        let (balance, faults) = read(&[("balancer", "round-robin"), ("eject-time", "soon")]);
        assert_eq!((balance.balancer, faults.len()), (Balancer::RoundRobin, 1));
    }

    /// Who wants to be told who its clients are takes the first bytes of whoever does not say it for a head.
    #[test]
    fn nobody_speaks_to_a_service_in_another_way_than_it_wants() {
        let listener =
            |name: &str, protocol: &str, port: u16| json!({"name": name, "port": port, "protocol": protocol});
        let route = |kind: &str, name: &str| {
            json!({"kind": kind, "metadata": {"name": name}, "spec": {"parentRefs": [{"name": "gw"}],
                "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}})
        };
        let objects = |value: Option<&str>| {
            let annotations = value.map_or(json!({}), |value| json!({"proxy.sluice.dev/proxy-protocol": value}));
            json!([
                {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
                    "listeners": [listener("web", "HTTP", 80), listener("tcp", "TCP", 81)]}},
                route("HTTPRoute", "h"), route("TCPRoute", "t"),
                {"kind": "Service", "metadata": {"name": "a", "annotations": annotations}, "spec": {"ports": [{"port": 80}]}},
            ])
        };
        // Each is a change of the one before.
        let (mut memo, node) = (Memo::default(), fixture::node(&["192.0.2.0/24"]));
        for (value, told, http, tcp) in [
            (None, None, None, None),
            (Some("v1"), Some(ProxyProtocol::V1), None, Some("which no TCPRoute speaks")),
            (
                Some("V2"),
                None,
                Some("is \"V2\", want \"v1\" or \"v2\": nothing is sent there"),
                Some("is \"V2\", want"),
            ),
            (Some(""), None, Some("is \"\", want"), Some("is \"\", want")),
            (Some("v2"), Some(ProxyProtocol::V2), None, Some("want a Service without")),
            (None, None, None, None),
        ] {
            let model = memo.compile(&Arc::new(fixture::snapshot(&objects(value))), &node);
            let balances: Vec<_> = model.http.balances.values().filter_map(|balance| balance.proxy_protocol).collect();
            assert_eq!(balances, Vec::from_iter(told), "{value:?}");
            let is_served = model.http.services.keys().any(|port| port.service.name == "a");
            assert_eq!(is_served, http.is_none(), "{value:?}");
            for (kind, name, want) in [("HTTPRoute", "h", http), ("TCPRoute", "t", tcp)] {
                let verdict = &model.verdicts[&ObjectRef::new(kind, crate::api::ObjectName::new("default", name))];
                let said = verdict.messages.iter().any(|message| want.is_some_and(|want| message.contains(want)));
                assert_eq!(
                    (said, verdict.messages.is_empty()),
                    (want.is_some(), want.is_none()),
                    "{value:?} {verdict:?}"
                );
            }
        }
    }

    #[test]
    fn a_route_says_what_is_wrong_with_its_service_and_is_served() {
        let annotations = json!({"proxy.sluice.dev/balancer": "round-robin", "proxy.sluice.dev/eject-time": "soon"});
        let objects = json!([
            {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
                "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}},
            {"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
                "rules": [{"backendRefs": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}]}},
            {"kind": "Service", "metadata": {"name": "a", "annotations": annotations}, "spec": {"ports": [{"port": 80}]}},
            {"kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": [{"port": 80}]}},
        ]);
        let model = compile(&fixture::snapshot(&objects), &fixture::node(&["192.0.2.0/24"]));
        let balances: Vec<_> =
            model.http.balances.iter().map(|(port, b)| (port.to_string(), b.balancer.clone())).collect();
        assert_eq!(balances, [("default/a:80".to_owned(), Balancer::RoundRobin)]);
        let verdict = &model.verdicts[&ObjectRef::new("HTTPRoute", crate::api::ObjectName::new("default", "r"))];
        assert_eq!(verdict.outcome, Outcome::Accepted);
        assert!(
            verdict.messages[0].starts_with("Service default/a: annotation proxy.sluice.dev/eject-time is \"soon\"")
        );
    }
}
