//! The index against an oracle that reads the specification's sentences one by one, over routes as written.
mod many;

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Gateway, HttpRoute, ObjectName},
    model::{self, Node},
    source::Snapshot,
};

#[derive(Clone, Debug)]
struct Rule {
    exact: bool,
    path: &'static str,
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Route {
    created: Option<&'static str>,
    hostnames: Vec<&'static str>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    path: &'static str,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

const HOSTNAMES: [&str; 5] = ["a.example.com", "b.a.example.com", "*.example.com", "*.a.example.com", "*.com"];
const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"];
const NAMED: [(&str, &str); 4] = [("x", "1"), ("x", "2"), ("y", "1"), ("y", "2")];

fn named() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let one = |name: &'static str| {
        let values: Vec<_> = NAMED.into_iter().filter(|(n, _)| *n == name).collect();
        proptest::option::weighted(0.4, select(values))
    };
    (one("x"), one("y")).prop_map(|(x, y)| x.into_iter().chain(y).collect())
}

fn rule() -> impl Strategy<Value = Rule> {
    let method = proptest::option::weighted(0.3, select(vec!["GET", "POST"]));
    (any::<bool>(), select(PATHS.to_vec()), method, named(), named())
        .prop_map(|(exact, path, method, headers, query)| Rule { exact, path, method, headers, query })
}

fn route() -> impl Strategy<Value = Route> {
    let created = proptest::option::of(select(vec!["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]));
    let hostnames = proptest::sample::subsequence(HOSTNAMES.to_vec(), 0..3);
    let rules = proptest::collection::vec(rule(), 1..12);
    (created, hostnames, rules).prop_map(|(created, hostnames, rules)| Route { created, hostnames, rules })
}

fn asked() -> impl Strategy<Value = Asked> {
    let hosts = vec!["a.example.com", "b.a.example.com", "c.b.a.example.com", "example.com", "z.com", "com", "other"];
    let paths = vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/a/b/c/d", "/a//b", "/x"];
    (select(hosts), select(paths), select(vec!["GET", "POST", "PUT"]), named(), named())
        .prop_map(|(host, path, method, headers, query)| Asked { host, path, method, headers, query })
}

fn host_holds(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => name == host,
    }
}

/// Exact before wildcard before none, then more characters.
fn host_rank(name: Option<&str>) -> (u8, Reverse<usize>) {
    name.map_or((2, Reverse(0)), |n| (u8::from(n.starts_with('*')), Reverse(n.len())))
}

fn rule_holds(rule: &Rule, asked: &Asked) -> bool {
    let prefix = rule.path.trim_end_matches('/');
    let path = match rule.exact {
        true => asked.path == rule.path,
        false => asked.path == prefix || asked.path.starts_with(&format!("{prefix}/")),
    };
    path && rule.method.is_none_or(|m| m == asked.method)
        && rule.headers.iter().all(|h| asked.headers.contains(h))
        && rule.query.iter().all(|q| asked.query.contains(q))
}

/// Which route and rule the specification names.
fn oracle(listeners: &[Option<&str>], routes: &[Route], asked: &Asked) -> Option<(usize, usize)> {
    let listener = listeners.iter().filter(|l| l.is_none_or(|name| host_holds(name, asked.host)));
    listener.min_by_key(|l| host_rank(**l))?;
    // Every route attaches to every listener its names fit; a name that holds for the host fits the listener that does.
    let mut found = Vec::new();
    for (number, route) in routes.iter().enumerate() {
        let names: Vec<Option<&str>> = match route.hostnames.as_slice() {
            [] => vec![None],
            names => names.iter().copied().map(Some).collect(),
        };
        for name in names.into_iter().filter(|n| n.is_none_or(|n| host_holds(n, asked.host))) {
            for (index, rule) in route.rules.iter().enumerate().filter(|(_, rule)| rule_holds(rule, asked)) {
                let path =
                    (!rule.exact, Reverse(rule.path.len() - usize::from(!rule.exact && rule.path.ends_with('/'))));
                let counts = (rule.method.is_none(), Reverse(rule.headers.len()), Reverse(rule.query.len()));
                found.push((host_rank(name), path, counts, route.created, number, index));
            }
        }
    }
    found.into_iter().min().map(|(.., number, index)| (number, index))
}

fn pairs(all: &[(&str, &str)]) -> Value {
    all.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

fn compile(listeners: &[Option<&str>], routes: &[Route]) -> Site {
    let mut snapshot = Snapshot::default();
    let listener = |(i, hostname): (usize, &Option<&str>)| json!({"name": format!("l{i}"), "port": 80, "protocol": "HTTP", "hostname": hostname});
    let listeners: Vec<Value> = listeners.iter().enumerate().map(listener).collect();
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": listeners}});
    let gateway: Gateway = serde_json::from_value(gateway).unwrap();
    snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(gateway));
    for (i, route) in routes.iter().enumerate() {
        let rule = |rule: &Rule| {
            json!({"matches": [{
                "path": {"type": if rule.exact { "Exact" } else { "PathPrefix" }, "value": rule.path},
                "method": rule.method, "headers": pairs(&rule.headers), "queryParams": pairs(&rule.query)}]})
        };
        let rules: Vec<Value> = route.rules.iter().map(rule).collect();
        let name = format!("r{i}");
        let object: HttpRoute = serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": route.created},
            "spec": {"parentRefs": [{"name": "gw"}], "hostnames": route.hostnames, "rules": rules}}))
        .unwrap();
        snapshot.http_routes.insert(ObjectName::new("default", name), Arc::new(object));
    }
    let pools = vec!["192.0.2.0/24".parse().unwrap()];
    let model = model::compile(&snapshot, &Node { pools, ..Node::alone("n") });
    let listeners = model.http.frontends.values().next().expect("an address").clone();
    Site::new(listeners)
}

fn answer(site: &Site, asked: &Asked) -> Option<(usize, usize)> {
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let query: Vec<String> = asked.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (method, query) = (Method::from_bytes(asked.method.as_bytes()).unwrap(), query.join("&"));
    let head = RequestHead { method: &method, path: asked.path, query: Some(&query), headers: &headers };
    match site.route(asked.host, &head) {
        Routed::Entry(entry) => Some((entry.rule.route.name[1..].parse().unwrap(), entry.rule.index)),
        Routed::NoListener | Routed::NoEntry => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 2000 }))]
    #[test]
    fn the_index_answers_as_the_specification_does(
        listeners in select(vec![
            vec![None],
            vec![None, Some("*.example.com"), Some("a.example.com")],
            vec![Some("*.com"), Some("*.a.example.com")],
        ]),
        routes in proptest::collection::vec(route(), 1..6),
        requests in proptest::collection::vec(asked(), 24),
    ) {
        let site = compile(&listeners, &routes);
        for asked in &requests {
            prop_assert_eq!(answer(&site, asked), oracle(&listeners, &routes, asked), "{:?}", asked);
        }
    }
}

#[test]
fn many_rules_on_one_path_are_found_by_their_header() {
    let names: Vec<String> = (0..1000).map(|i| format!("pr-{i}")).collect();
    let rules: Vec<Value> = names
        .iter()
        .map(|name| json!({"matches": [{"headers": [{"name": "x-sandbox", "value": name}]}]}))
        .chain([json!({})])
        .collect();
    let mut snapshot = Snapshot::default();
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
    snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(serde_json::from_value(gateway).unwrap()));
    let route = json!({"metadata": {"name": "r0"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}});
    snapshot.http_routes.insert(ObjectName::new("default", "r0"), Arc::new(serde_json::from_value(route).unwrap()));
    let pools = vec!["192.0.2.0/24".parse().unwrap()];
    let model = model::compile(&snapshot, &Node { pools, ..Node::alone("n") });
    let site = Site::new(model.http.frontends.values().next().unwrap().clone());
    let ask = |value: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.extend(value.map(|v| (HeaderName::from_static("x-sandbox"), HeaderValue::from_str(v).unwrap())));
        let head = RequestHead { method: &Method::GET, path: "/", query: None, headers: &headers };
        match site.route("any", &head) {
            Routed::Entry(entry) => entry.rule.index,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(Some("pr-999")), 999);
    assert_eq!(ask(Some("pr-0")), 0);
    assert_eq!(ask(Some("unknown")), 1000);
    assert_eq!(ask(None), 1000);
    let (_, group) = site.listeners()[0].entries.groups().next().unwrap();
    assert_eq!(Rules::new(group).listed_at_root(), [1000], "all others are found by value");
}

/// A rule of a GRPCRoute: service and method, each written out, as a pattern that matches it alone, or any.
#[derive(Clone, Debug)]
struct CallRule {
    is_pattern: bool,
    service: Option<&'static str>,
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
}

fn call_rule() -> impl Strategy<Value = CallRule> {
    let part = |all: [&'static str; 3]| proptest::option::weighted(0.7, select(all.to_vec()));
    (any::<bool>(), part(["a", "ab", "a.B"]), part(["M", "N", "Mx"]), named())
        .prop_map(|(is_pattern, service, method, headers)| CallRule { is_pattern, service, method, headers })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Calls by the sentences of `GRPCRouteRule.matches`, and everything else by the HTTPRoute beside it.
    #[test]
    fn calls_are_found_as_the_specification_says(
        routes in proptest::collection::vec((select(vec!["a.example.com", "*.example.com"]), proptest::collection::vec(call_rule(), 1..8)), 1..4),
        requests in proptest::collection::vec((select(vec!["a", "ab", "a.B", "c"]), select(vec!["M", "N", "Mx", "O"]), named(), any::<bool>()), 16),
    ) {
        let mut snapshot = Snapshot::default();
        let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
        snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(serde_json::from_value(gateway).unwrap()));
        for (i, (hostname, rules)) in routes.iter().enumerate() {
            let rule = |rule: &CallRule| {
                let kind = if rule.is_pattern { "RegularExpression" } else { "Exact" };
                let method = (rule.service, rule.method) != (None, None);
                let method = method.then(|| json!({"type": kind, "service": rule.service, "method": rule.method}));
                json!({"matches": [{"method": method, "headers": pairs(&rule.headers)}]})
            };
            let rules: Vec<Value> = rules.iter().map(rule).collect();
            let route = json!({"metadata": {"name": format!("r{i}")}, "spec": {
                "parentRefs": [{"name": "gw"}], "hostnames": [hostname], "rules": rules}});
            let name = ObjectName::new("default", format!("r{i}"));
            snapshot.grpc_routes.insert(name, Arc::new(serde_json::from_value(route).unwrap()));
        }
        let web = json!({"metadata": {"name": "r99"}, "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["a.example.com"]}});
        snapshot.http_routes.insert(ObjectName::new("default", "r99"), Arc::new(serde_json::from_value(web).unwrap()));
        let pools = vec!["192.0.2.0/24".parse().unwrap()];
        let model = model::compile(&snapshot, &Node { pools, ..Node::alone("n") });
        let site = Site::new(model.http.frontends.values().next().unwrap().clone());
        for (service, method, headers, is_call) in &requests {
            // The HTTPRoute has the most specific name, and comes after all GRPCRoutes of that name.
            let mut found = vec![((0, 1), None, 99, 0)];
            for (number, (hostname, rules)) in routes.iter().enumerate().filter(|_| *is_call) {
                for (index, rule) in rules.iter().enumerate() {
                    // Dots are part of what is asked, so that as patterns these match themselves alone, but for `a.B`.
                    let holds = rule.service.is_none_or(|s| s == *service)
                        && rule.method.is_none_or(|m| m == *method)
                        && rule.headers.iter().all(|h| headers.contains(h));
                    let part = |text: Option<&str>| match text {
                        None => (2, Reverse(0)),
                        Some(text) => (u8::from(rule.is_pattern), Reverse(text.len())),
                    };
                    if holds {
                        let name = (u8::from(hostname.starts_with('*')), 0);
                        let rank = (part(rule.service), part(rule.method), Reverse(rule.headers.len()));
                        found.push((name, Some(rank), number, index));
                    }
                }
            }
            let wanted = found.into_iter().min().map(|(_, _, number, index)| (number, index));
            let path = format!("/{service}/{method}");
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            if *is_call {
                map.insert("content-type", HeaderValue::from_static("application/grpc"));
            }
            let head = RequestHead { method: &Method::POST, path: &path, query: None, headers: &map };
            let answer = match site.route("a.example.com", &head) {
                Routed::Entry(entry) => Some((entry.rule.route.name[1..].parse().unwrap(), entry.rule.index)),
                Routed::NoListener | Routed::NoEntry => None,
            };
            prop_assert_eq!(answer, wanted, "{} {:?} {}", path, headers, is_call);
        }
    }
}
