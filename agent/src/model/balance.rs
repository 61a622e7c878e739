//! What a Service's annotations say of how requests are spread over its endpoints: `proxy.sluice.dev/NAME`.
//!
//! In: the annotations of the Services that routes name. Out: a [`Balance`] for each of their ports that is not the default, and a sentence
//! in the verdict of each route that names one of which something is not understood. What is not understood does not hold, all else does:
//! none of it says who may come in, so a typo must not take a Service away.
use std::sync::Arc;

use http::HeaderName;

use super::{
    http::{
        HttpModel, ServicePort,
        balance::{Balance, Balancer, Ejection, HashKey},
    },
    limits::{PREFIX, list, number, seconds_to, unknown},
};
use crate::{api::Service, source::Snapshot};

/// Their names. README.md lists them with their defaults.
const NAMES: [&str; 7] =
    ["balancer", "hash-on", "eject-after", "eject-codes", "eject-time", "max-ejected-percent", "slow-start"];

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
        "slow-start" => {
            let time = seconds_to(value, Balance::LONGEST_START)?;
            balance.slow_start = Some(time).filter(|time| !time.is_zero());
        }
        _ => return Err(unknown(name, NAMES)),
    }
    Ok(())
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
    use crate::model::{ObjectRef, Outcome, compile, fixture};

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
            ("slow-start", "30s"),
        ];
        let ejection = Ejection { after: Some(3), codes: [500, 503].into(), time: Duration::from_secs(5), most: 100 };
        let (balancer, retries) = (Balancer::ConsistentHash(HashKey::Cookie("User".into())), None);
        let slow_start = Some(Duration::from_secs(30));
        assert_eq!(read(&all), (Balance { balancer, ejection, slow_start, retries }, Vec::new()));
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
