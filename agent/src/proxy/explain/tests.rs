mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Gateway, HttpRoute, ObjectName, Service},
    model::{
        self, Backend, Locality, Node, Port,
        http::{
            ServicePort,
            balance::{Balance, Balancer, HashKey},
            limits::Length,
        },
    },
    source::Snapshot,
};

/// A Gateway at 203.0.113.1:80 for `*.example` and `other.test`, with one route; `web` has an endpoint, `none` has none.
fn http(hostnames: &Value, rules: &Value) -> HttpModel {
    compiled(&objects(hostnames, rules))
}

fn objects(hostnames: &Value, rules: &Value) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let name = |name: &str| ObjectName::new("default", name);
    let listener =
        |name: &str, hostname: &str| json!({"name": name, "port": 80, "protocol": "HTTP", "hostname": hostname});
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [listener("shops", "*.example"), listener("other", "other.test")]}});
    let gateway: Gateway = serde_json::from_value(gateway).unwrap();
    snapshot.gateways.insert(name("gw"), Arc::new(gateway));
    let route = json!({"metadata": {"name": "shop"},
        "spec": {"parentRefs": [{"name": "gw"}], "hostnames": hostnames, "rules": rules}});
    let route: HttpRoute = serde_json::from_value(route).unwrap();
    snapshot.http_routes.insert(name("shop"), Arc::new(route));
    for (service, protocol) in [("web", "http"), ("none", "http"), ("h2", "kubernetes.io/h2c")] {
        let object = json!({"metadata": {"name": service}, "spec": {"ports": [{"port": 80, "appProtocol": protocol}]}});
        let object: Service = serde_json::from_value(object).unwrap();
        snapshot.services.insert(name(service), Arc::new(object));
    }
    snapshot
}

fn compiled(snapshot: &Snapshot) -> HttpModel {
    let node = Node { pools: vec!["192.0.2.0/24".parse().unwrap()], ..Node::alone("n1") };
    let mut http = HttpModel::clone(&model::compile(snapshot, &node).http);
    let at: SocketAddr = "203.0.113.1:80".parse().unwrap();
    http.frontends = http.frontends.into_values().map(|listeners| (at, listeners)).collect();
    let port = |n: i64| Port::try_new(n).unwrap();
    let backend = Backend { addr: "10.0.0.1".parse().unwrap(), port: port(8080), locality: Locality::Local };
    if let Some(backends) =
        http.services.get_mut(&ServicePort { service: ObjectName::new("default", "web"), port: port(80) })
    {
        *backends = vec![backend].into();
    }
    http
}

fn to(service: &str, matches: &Value) -> Value {
    json!({"matches": [matches], "backendRefs": [{"name": service, "port": 80}]})
}

fn ask(http: &HttpModel, method: &str, url: &str, headers: &[&str]) -> Explanation {
    let headers: Vec<String> = headers.iter().map(ToString::to_string).collect();
    let asked = Asked::try_new(method, url, &headers, None).unwrap();
    one(http, &BTreeMap::new(), &asked)
}

fn one(http: &HttpModel, ejected: &BTreeMap<SocketAddr, String>, asked: &Asked) -> Explanation {
    let mut all = explain(http, ejected, asked).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn reasons(e: &Explanation) -> Vec<&str> {
    e.passed_over.iter().map(|passed| passed.reason.as_str()).collect()
}

#[test]
fn what_is_passed_over_says_the_first_thing_that_does_not_hold() {
    let rules = json!([
        to("web", &json!({"path": {"type": "Exact", "value": "/cart"}, "method": "POST"})),
        to(
            "web",
            &json!({"path": {"type": "Exact", "value": "/cart"}, "headers": [{"name": "x-canary", "value": "1"}]})
        ),
        to("web", &json!({"path": {"type": "Exact", "value": "/cart"}, "queryParams": [{"name": "v", "value": "2"}]})),
        to("web", &json!({"path": {"value": "/ca"}})),
        to("web", &json!({"path": {"value": "/"}})),
    ]);
    let http = http(&json!(["a.example", "b.example"]), &rules);
    let found = ask(&http, "GET", "http://a.example/cart?v=1", &["X-Canary: 2"]);
    assert_eq!(found.listener.as_deref(), Some("default/gw/shops"));
    let mut said = reasons(&found);
    said.sort_unstable();
    assert_eq!(
        said,
        [
            "the header is x-canary: 2, want x-canary: 1",
            "the method is GET, want POST",
            "the path is /cart, want /ca/*",
            "the query does not have ?v=2",
        ]
    );
    assert_eq!(found.matched.as_ref().map(|row| row.rule), Some(4));
    assert_eq!((found.status, found.answer.as_str()), (None, "default/web:80 at 10.0.0.1:8080"));
    assert!(
        reasons(&ask(&http, "GET", "http://a.example/cart", &[]))
            .contains(&"there is no header x-canary, want x-canary: 1")
    );
    // The rules of another host are tried for it first, by their place.
    let other = ask(&http, "GET", "http://b.example/", &[]);
    assert!(reasons(&other).contains(&"the host is b.example, want a.example"), "{other:?}");
    // Encoded as a client may have it, in the one form that rules are compared with.
    assert_eq!(ask(&http, "GET", "http://a.example/x/../%63art?v=2", &[]).matched.map(|row| row.rule), Some(2));
}

#[test]
fn own_answers_are_those_that_a_client_gets() {
    let rules = json!([
        to("none", &json!({"path": {"value": "/none"}})),
        to("gone", &json!({"path": {"value": "/gone"}})),
        {"matches": [{"path": {"value": "/old"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301, "hostname": "new.example"}}]},
        {"matches": [{"path": {"value": "/split"}}],
            "backendRefs": [{"name": "web", "port": 80, "weight": 3}, {"name": "none", "port": 80, "weight": 1}]},
    ]);
    let http = http(&json!([]), &rules);
    let outcome = |url: &str| {
        let found = ask(&http, "GET", url, &[]);
        (found.status, found.answer)
    };
    let own = |status: u16, answer: &str| (Some(status), answer.to_owned());
    assert_eq!(outcome("http://a.example/none"), own(503, "503: default/none:80 has no ready endpoint"));
    assert_eq!(outcome("http://a.example/old"), own(301, "301: a redirect"));
    assert_eq!(outcome("http://a.example/nowhere"), own(404, "404: no route matches the request"));
    assert_eq!(outcome("http://a.test/"), own(404, "404: no listener has the host a.test"));
    assert_eq!(outcome("http://a.example/%zz"), own(400, "400: broken escape in path"));
    let (status, answer) = outcome("http://a.example/gone");
    assert!(status == Some(500) && answer.contains("default/gone"), "{answer}");
    assert_eq!(
        outcome("http://a.example/split"),
        (
            None,
            "weight 3 of 4: default/web:80 at 10.0.0.1:8080; weight 1 of 4: 503: default/none:80 has no ready endpoint"
                .to_owned()
        )
    );
    let hosts = ask(&http, "GET", "http://a.test/", &[]).hostnames;
    assert_eq!(hosts, ["*.example", "other.test"]);
    assert_eq!(ask(&http, "GET", "http://203.0.113.1/none", &["Host: a.example"]).status, Some(503));
}

#[test]
fn a_field_that_is_written_twice_comes_in_twice() {
    let rules = json!([to("none", &json!({"headers": [{"name": "x-env", "value": "prod"}]})), to("web", &json!({}))]);
    let http = http(&json!([]), &rules);
    let matched = |headers: &[&str]| ask(&http, "GET", "http://a.example/", headers).matched.unwrap().rule;
    assert_eq!(matched(&["x-env: prod"]), 0);
    // Several are one list, as on the wire, and that is no rule's value.
    let several = ask(&http, "GET", "http://a.example/", &["x-env: dev", "x-env: prod"]);
    assert_eq!(several.matched.as_ref().map(|row| row.rule), Some(1));
    assert_eq!(reasons(&several), ["the header is x-env: dev,prod, want x-env: prod"]);
    let hosts = ask(&http, "GET", "http://a.example/", &["Host: a.example", "Host: b.example"]);
    assert_eq!((hosts.status, hosts.answer.as_str()), (Some(400), "400: more than one host"));
}

#[test]
fn a_call_of_grpc_meets_both_kinds_of_route() {
    let mut snapshot = objects(&json!([]), &json!([to("web", &json!({}))]));
    let route = json!({"metadata": {"name": "calls"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [
        {"matches": [{"method": {"service": "a.Service"}}], "backendRefs": [{"name": "h2", "port": 80}]}]}});
    let route = Arc::new(serde_json::from_value(route).unwrap());
    snapshot.grpc_routes.insert(ObjectName::new("default", "calls"), route);
    let http = compiled(&snapshot);
    let matched = |path: &str, headers: &[&str]| {
        let found = ask(&http, "POST", &format!("http://a.example/{path}"), headers);
        let row = found.matched.clone().unwrap();
        (format!("{} {}", row.kind, row.route), found)
    };
    let call = ["content-type: application/grpc+proto"];
    let (route, found) = matched("a.Service/Call", &call);
    assert_eq!(
        (route.as_str(), found.answer.as_str()),
        ("GRPCRoute default/calls", "200 with grpc-status 14: default/h2:80 (HTTP/2) has no ready endpoint")
    );
    // What no GRPCRoute has is a request as any other, but a backend of HTTP/1.1 is not for it.
    let (route, found) = matched("b.Service/Call", &call);
    assert_eq!((route.as_str(), found.grpc_status), ("HTTPRoute default/shop", Some(12)), "{found:?}");
    assert_eq!(found.passed_over[0].kind, "GRPCRoute");
    let (route, found) = matched("a.Service/Call", &[]);
    assert_eq!((route.as_str(), found.status), ("HTTPRoute default/shop", None), "{found:?}");
}

#[test]
fn what_the_proxy_refuses_no_explanation_serves() {
    let rules = json!([{"backendRefs": [{"name": "web", "port": 80}], "retry": {"attempts": 5, "codes": [500, 502]}}]);
    let mut http = http(&json!([]), &rules);
    let url = "http://a.example/a.Service/Call";
    let call = ask(&http, "POST", url, &["Content-Type: application/grpc"]);
    assert_eq!((call.status, call.grpc_status), (Some(200), Some(12)), "{call:?}");
    assert!(call.answer.starts_with("200 with grpc-status 12: gRPC needs a backend of HTTP/2"), "{call:?}");
    let row = call.matched.unwrap();
    assert_eq!((row.kind.as_str(), row.actions), ("HTTPRoute", vec!["retried up to 5 times for 500, 502".to_owned()]));
    let nowhere = ask(&http, "POST", "http://a.test/", &["Content-Type: application/grpc"]);
    assert_eq!(nowhere.answer, "200 with grpc-status 12: no listener has the host a.test");
    let two = ["Content-Length: 5", "Transfer-Encoding: chunked"];
    let doubt = ask(&http, "POST", url, &two);
    assert_eq!((doubt.status, doubt.answer.as_str()), (Some(400), "400: content-length beside transfer-encoding"));
    let limits = Limits { length_beside_chunked: Length::Ignore, proxy_ports: [80].into(), ..Limits::default() };
    http.limits.insert(ObjectName::new("default", "gw"), Arc::new(limits));
    let let_in = ask(&http, "POST", url, &two);
    assert_eq!(let_in.status, None, "{let_in:?}");
    assert_eq!(let_in.conditions, ["connections begin with a head of the PROXY protocol; others are cut off"]);
}

/// `http` with three endpoints behind `web`, balanced like this.
fn balanced(rules: &Value, balancer: Balancer) -> HttpModel {
    let mut http = http(&json!([]), rules);
    let port = |n: i64| Port::try_new(n).unwrap();
    let web = ServicePort { service: ObjectName::new("default", "web"), port: port(80) };
    let backend = |n: u8| Backend { addr: [10, 0, 0, n].into(), port: port(8080), locality: Locality::Local };
    *http.services.get_mut(&web).unwrap() = Arc::new((1..=3).map(backend).collect());
    http.balances.insert(web, Arc::new(Balance { balancer, ..Balance::default() }));
    http
}

#[test]
fn the_endpoint_is_named_where_it_is_determined_else_how_it_is_chosen() {
    let rules = json!([to("web", &json!({}))]);
    let url = "http://a.example/";
    let answer = |balancer| ask(&balanced(&rules, balancer), "GET", url, &[]).answer;
    let all = "default/web:80 at 10.0.0.1:8080, 10.0.0.2:8080, 10.0.0.3:8080";
    assert_eq!(answer(Balancer::LeastRequest), format!("{all}, the less busy of two at random"));
    assert_eq!(answer(Balancer::RoundRobin), format!("{all}, one after the other"));

    let by_header = Balancer::ConsistentHash(HashKey::Header("x-user".parse().unwrap()));
    let http = balanced(&rules, by_header.clone());
    // What the proxy itself chooses.
    let upstreams = http.addresses(http.services.keys().find(|port| port.service.name == "web").unwrap());
    let chosen = |user: &str, ejected: Option<SocketAddr>| {
        let asked = Asked::try_new("GET", url, &[format!("x-user: {user}")], None).unwrap();
        let ejected = ejected.map(|at| (at, "tests".to_owned())).into_iter().collect();
        one(&http, &ejected, &asked)
    };
    let mut seen = BTreeSet::new();
    for user in 0..20 {
        let user = user.to_string();
        let key = crate::stable::hash(user.as_bytes());
        let own = crate::proxy::balance::Maglev::new(upstreams.iter().copied()).unwrap();
        let want: Vec<SocketAddr> = own.of(key).take(16).map(|at| upstreams[at]).collect();
        let found = chosen(&user, None);
        assert_eq!(found.endpoint, Some(want[0]));
        assert_eq!(found.answer, format!("default/web:80 at {}, by the hash of the header x-user", want[0]));
        let next = want.iter().find(|at| **at != want[0]).copied();
        assert_eq!(chosen(&user, Some(want[0])).endpoint, next);
        seen.insert(want[0]);
    }
    assert_eq!(seen.len(), 3, "keys are spread");
    assert!(ask(&http, "GET", url, &[]).answer.contains("the request has not the header x-user"));

    let http = balanced(&rules, Balancer::ConsistentHash(HashKey::Client));
    assert_eq!(
        ask(&http, "GET", url, &[]).answer,
        format!("{all}, by the hash of the client's address: --client says it")
    );
    let asked = Asked::try_new("GET", url, &[], None).unwrap().from(Some("198.51.100.7".parse().unwrap()));
    let found = one(&http, &BTreeMap::new(), &asked);
    assert!(found.endpoint.is_some() && found.answer.ends_with(", by the hash of the client's address"), "{found:?}");
}

#[test]
fn a_session_goes_where_it_has_been_whatever_the_weights_are() {
    let rules = json!([{"sessionPersistence": {"type": "Header", "header": {"name": "x-session"}},
        "backendRefs": [{"name": "none", "port": 80}, {"name": "web", "port": 80, "weight": 0}]}]);
    let http = balanced(&rules, Balancer::LeastRequest);
    let listener = http.frontends.values().flat_map(|all| all.iter()).find(|l| l.entries.iter().count() > 0).unwrap();
    let entry = listener.entries.iter().next().unwrap();
    let session = entry.rule.session.as_deref().expect("the rule has sessions");
    let port = http.services.keys().find(|port| port.service.name == "web").unwrap().clone();
    let token = |endpoint: &str| {
        let mut headers = http::HeaderMap::new();
        let bound = crate::proxy::session::Bound::read(session, &headers);
        bound.write(&mut headers, (&port, endpoint.parse().unwrap()), false);
        format!("x-session: {}", headers["x-session"].to_str().unwrap())
    };
    let url = "http://a.example/";
    assert_eq!(ask(&http, "GET", url, &[]).status, Some(503));
    let there = ask(&http, "GET", url, &[&token("10.0.0.2:8080")]);
    assert_eq!((there.status, there.answer.as_str()), (None, "default/web:80 at 10.0.0.2:8080, which has the session"));
    // One that is no endpoint of the rule any more is no session.
    assert_eq!(ask(&http, "GET", url, &[&token("10.0.0.9:8080")]).status, Some(503));
}

#[test]
fn a_place_where_nothing_listens_is_said_with_those_where_something_does() {
    let http = http(&json!([]), &json!([to("web", &json!({}))]));
    for (url, at, want) in [
        ("http://a.example:8080/", None, "no listener is at port 8080: there are some at 203.0.113.1:80"),
        ("http://203.0.113.9/", None, "no listener is at 203.0.113.9:80: there are some at 203.0.113.1:80"),
        (
            "http://a.example/",
            Some("[2001:db8::1]:80"),
            "no listener is at [2001:db8::1]:80: there are some at 203.0.113.1:80",
        ),
    ] {
        let asked = Asked::try_new("GET", url, &[], at.map(|at| at.parse().unwrap())).unwrap();
        assert_eq!(explain(&http, &BTreeMap::new(), &asked).unwrap_err(), want);
    }
}

#[test]
fn a_request_that_is_too_long_to_ask_for_is_said_to_be() {
    let said = Asked::try_new("GET", "http://a.example/", &[format!("x-a: {}", "a".repeat(90_000))], None).unwrap_err();
    assert_eq!(said, "URL and headers have 90020 bytes, want 20000 at most");
}

#[test]
fn a_question_is_read_as_it_is_written_and_nonsense_is_named() {
    let headers = ["x-a: 1 & 2".to_owned(), "x-a: ü=ö".to_owned()];
    let asked = Asked::try_new("PATCH", "http://a.example:81/c?d=e&f", &headers, Some("[::1]:80".parse().unwrap()));
    let asked = asked.unwrap().from(Some("2001:db8::9".parse().unwrap()));
    assert_eq!(Asked::parse(&asked.to_string()), Ok(asked));
    for (query, want) in [
        ("", "no url: want one as"),
        ("url=/x", "URL \"/x\": want one as"),
        ("url=ftp%3A%2F%2Fx", "want one as http"),
        ("url=http%3A%2F%2Fx%20y", "URL \"http://x y\""),
        ("url=http%3A%2F%2Fx&method=G%20T", "method \"G T\": want one as GET"),
        ("url=http%3A%2F%2Fx&header=a", "header \"a\": want NAME: VALUE"),
        ("url=http%3A%2F%2Fx&header=a%3A%01", "want NAME: VALUE"),
        ("url=http%3A%2F%2Fx&at=1", "at \"1\": want ADDR:PORT"),
        ("url=http%3A%2F%2Fx&client=me", "client \"me\": want an address"),
        ("uri=x", "parameter \"uri\" is not known here"),
    ] {
        let said = Asked::parse(query).unwrap_err();
        assert!(said.contains(want), "{query}: {said}");
    }
}

#[test]
fn connect_is_for_a_rule_that_names_it() {
    let rules = json!([to("web", &json!({"method": "CONNECT"})), to("none", &json!({}))]);
    let asked = |rules: &Value| {
        let at = Some("203.0.113.1:80".parse().unwrap());
        let asked = Asked::try_new("CONNECT", "http://a.example:5432", &[], at).unwrap();
        explain(&http(&json!(["a.example"]), rules), &BTreeMap::new(), &asked).unwrap().remove(0)
    };
    let found = asked(&rules);
    assert!(found.answer.contains("default/web:80 at 10.0.0.1:8080") && found.passed_over.is_empty(), "{found:?}");
    let found = asked(&json!([to("none", &json!({}))]));
    assert_eq!((found.status, reasons(&found)), (Some(405), vec!["the method is CONNECT, want a match that names it"]));
    let found = ask(&http(&json!(["a.example"]), &rules), "GET", "http://a.example/", &[]);
    assert_eq!(reasons(&found), ["the method is GET, want CONNECT"]);
}
