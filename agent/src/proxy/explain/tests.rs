use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Gateway, HttpRoute, ObjectName, Service},
    model::{self, Backend, Locality, Node, Port, http::ServicePort},
    source::Snapshot,
};

/// A Gateway at 203.0.113.1:80 for `*.example` and `other.test`, with one route; `web` has an endpoint, `none` has none.
fn http(hostnames: &Value, rules: &Value) -> HttpModel {
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
    for service in ["web", "none"] {
        let object = json!({"metadata": {"name": service}, "spec": {"ports": [{"port": 80}]}});
        let object: Service = serde_json::from_value(object).unwrap();
        snapshot.services.insert(name(service), Arc::new(object));
    }
    let node = Node { pools: vec!["192.0.2.0/24".parse().unwrap()], ..Node::alone("n1") };
    let mut http = HttpModel::clone(&model::compile(&snapshot, &node).http);
    let at: SocketAddr = "203.0.113.1:80".parse().unwrap();
    http.frontends = http.frontends.into_values().map(|listeners| (at, listeners)).collect();
    let port = |n: i64| Port::try_new(n).unwrap();
    let backend = Backend { addr: "10.0.0.1".parse().unwrap(), port: port(8080), locality: Locality::Local };
    if let Some(backends) = http.services.get_mut(&ServicePort { service: name("web"), port: port(80) }) {
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
    let mut all = explain(http, &asked).unwrap();
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
    assert_eq!((found.status, found.answer.as_str()), (None, "1 of 1: default/web:80 at 10.0.0.1:8080"));
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
    assert_eq!(outcome("http://a.example/none"), own(503, "1 of 1: 503: default/none:80 has no ready endpoint"));
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
            "3 of 4: default/web:80 at 10.0.0.1:8080; 1 of 4: 503: default/none:80 has no ready endpoint".to_owned()
        )
    );
    let hosts = ask(&http, "GET", "http://a.test/", &[]).hostnames;
    assert_eq!(hosts, ["*.example", "other.test"]);
    assert_eq!(ask(&http, "GET", "http://203.0.113.1/none", &["Host: a.example"]).status, Some(503));
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
        assert_eq!(explain(&http, &asked).unwrap_err(), want);
    }
}

#[test]
fn a_question_is_read_as_it_is_written_and_nonsense_is_named() {
    let headers = ["x-a: 1 & 2".to_owned(), "x-a: ü=ö".to_owned()];
    let asked = Asked::try_new("PATCH", "http://a.example:81/c?d=e&f", &headers, Some("[::1]:80".parse().unwrap()));
    let asked = asked.unwrap();
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
        explain(&http(&json!(["a.example"]), rules), &asked).unwrap().remove(0)
    };
    let found = asked(&rules);
    assert!(found.answer.contains("default/web:80 at 10.0.0.1:8080") && found.passed_over.is_empty(), "{found:?}");
    let found = asked(&json!([to("none", &json!({}))]));
    assert_eq!((found.status, reasons(&found)), (Some(405), vec!["the method is CONNECT, want a match that names it"]));
    let found = ask(&http(&json!(["a.example"]), &rules), "GET", "http://a.example/", &[]);
    assert_eq!(reasons(&found), ["the method is GET, want CONNECT"]);
}
