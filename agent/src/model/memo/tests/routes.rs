//! Layer 7: routes, listeners, certificates and what they refer to, one after the other in any order.
use std::sync::LazyLock;

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;
use crate::model::fixture::{add, node, snapshot};

/// Two certificates with their keys.
static CERTIFICATES: LazyLock<[Value; 2]> = LazyLock::new(|| {
    [0, 1].map(|_| {
        let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
        json!({"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()})
    })
});

const NAMESPACES: [&str; 2] = ["default", "other"];
const HOSTNAMES: [&str; 5] = ["a.example.com", "b.example.com", "*.example.com", "a.test", "no name"];
const AGES: [Option<&str>; 3] = [None, Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z")];

fn secret(n: u8, variant: usize) -> Value {
    let data = CERTIFICATES.get(variant).cloned().unwrap_or_else(|| json!({"tls.crt": "x", "tls.key": "y"}));
    json!({"kind": "Secret", "metadata": {"name": format!("c{n}")}, "type": "kubernetes.io/tls", "stringData": data})
}

/// Listeners of all protocols; some for all namespaces, or by their labels; some that conflict.
fn listener(variant: u8) -> Value {
    let from = match variant % 3 {
        0 => json!({"from": "All"}),
        1 => json!({"from": "Same"}),
        _ => json!({"from": "Selector", "selector": {"matchLabels": {"team": "t1"}}}),
    };
    let allowed = json!({"namespaces": from});
    let tls = json!({"certificateRefs": [{"name": format!("c{}", variant % 2)}]});
    match variant % 7 {
        0 => json!({"name": "a", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed}),
        1 => {
            json!({"name": "b", "port": 80, "protocol": "HTTP", "hostname": "*.example.com", "allowedRoutes": allowed})
        }
        2 => {
            json!({"name": "c", "port": 80, "protocol": "HTTP", "hostname": "a.example.com", "allowedRoutes": allowed})
        }
        3 => json!({"name": "d", "port": 443, "protocol": "HTTPS", "tls": tls, "allowedRoutes": allowed}),
        4 => {
            json!({"name": "e", "port": 443, "protocol": "TLS", "hostname": "*.example.com", "tls": {"mode": "Passthrough"}})
        }
        5 => json!({"name": "f", "port": 9300, "protocol": "TCP"}),
        _ => json!({"name": "a", "port": 81, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}),
    }
}

fn gateway() -> impl Strategy<Value = Value> {
    let shown = prop::option::weighted(0.5, 0..3_u8);
    (0..2_u8, prop::collection::vec(0..21_u8, 0..4), shown).prop_map(|(n, listeners, shown)| {
        let listeners: Vec<Value> = listeners.into_iter().map(listener).collect();
        let shown = shown.map(|n| json!({"backend": {"clientCertificateRef": {"name": format!("c{n}")}}}));
        json!({"kind": "Gateway", "metadata": {"name": format!("g{n}")}, "spec": {"gatewayClassName": "sluice",
            "allowedListeners": {"namespaces": {"from": "All"}}, "listeners": listeners, "tls": shown}})
    })
}

/// Whom backends are to be signed by: somebody, or nobody.
fn authorities(n: u8, variant: usize) -> Value {
    let text = CERTIFICATES.get(variant).map_or_else(|| json!("x"), |certificate| certificate["tls.crt"].clone());
    json!({"kind": "ConfigMap", "metadata": {"name": format!("a{n}")}, "data": {"ca.crt": text}})
}

fn policy(n: u8, services: &[String], section: Option<&str>, hostname: &str, authorities: &[String]) -> Value {
    let target = |name: &String| json!({"group": "", "kind": "Service", "name": name, "sectionName": section});
    let targets: Vec<Value> = services.iter().map(target).collect();
    let refs: Vec<Value> =
        authorities.iter().map(|name| json!({"group": "", "kind": "ConfigMap", "name": name})).collect();
    json!({"kind": "BackendTLSPolicy", "metadata": {"name": format!("p{n}")},
        "spec": {"targetRefs": targets, "validation": {"hostname": hostname, "caCertificateRefs": refs}}})
}

fn any_policy() -> impl Strategy<Value = Value> {
    let names = |all: &[&str], at_most| {
        prop::sample::subsequence(all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), 1..=at_most)
    };
    let section = prop::option::weighted(0.3, select(vec!["http", "dns"]));
    let hostname = select(vec!["a.example.com", "a.example.com", "no name"]);
    (0..3_u8, names(&["s0", "s1"], 2), section, hostname, names(&["a0", "a1"], 2))
        .prop_map(|(n, services, section, hostname, authorities)| policy(n, &services, section, hostname, &authorities))
}

fn listener_set() -> impl Strategy<Value = Value> {
    (0..2_u8, 0..2_u8, prop::collection::vec(0..21_u8, 0..3)).prop_map(|(n, gateway, listeners)| {
        let listeners: Vec<Value> = listeners.into_iter().map(listener).collect();
        json!({"kind": "ListenerSet", "metadata": {"name": format!("l{n}")},
            "spec": {"parentRef": {"name": format!("g{gateway}")}, "listeners": listeners}})
    })
}

fn parent() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..3_u8, prop::option::of(select(vec!["a", "b", "d", "e", "f"])), prop::option::of(select(vec![80, 443])))
            .prop_map(|(n, section, port)| json!({"name": format!("g{n}"), "namespace": "default",
                "sectionName": section, "port": port})),
        (0..3_u8).prop_map(|n| json!({"kind": "ListenerSet", "name": format!("l{n}"), "namespace": "default"})),
        Just(json!({"kind": "Service", "name": "s0"})),
        (0..3_u8, prop::option::of(select(vec![80, 53]))).prop_map(|(n, port)| json!({"group": "", "kind": "Service",
            "name": format!("s{n}"), "port": port})),
    ]
}

fn backend() -> impl Strategy<Value = Value> {
    (0..3_u8, select(vec![80, 53]), prop::option::of(select(NAMESPACES.to_vec())), 0..3_u8).prop_map(
        |(n, port, ns, weight)| json!({"name": format!("s{n}"), "namespace": ns, "port": port, "weight": weight}),
    )
}

fn rule() -> impl Strategy<Value = Value> {
    let paths = vec!["/", "/a", "/a/b", "no path"];
    let one = (select(paths), select(vec!["Exact", "PathPrefix"]), prop::option::of(select(vec!["x", "y"])));
    let matches = prop::collection::vec(
        one.prop_map(|(path, kind, query)| {
            let query = query.map(|name| vec![json!({"name": name, "value": "1"})]);
            json!({"path": {"type": kind, "value": path}, "queryParams": query})
        }),
        0..3,
    );
    (matches, prop::collection::vec(backend(), 0..3), prop::option::weighted(0.2, backend())).prop_map(
        |(matches, backends, mirror)| {
            let mirror = mirror.map(|to| vec![json!({"type": "RequestMirror", "requestMirror": {"backendRef": to}})]);
            json!({"matches": matches, "backendRefs": backends, "filters": mirror})
        },
    )
}

fn route() -> impl Strategy<Value = Value> {
    let kinds = vec!["HTTPRoute", "HTTPRoute", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"];
    let hostnames = prop::sample::subsequence(HOSTNAMES.to_vec(), 0..3);
    let parents = prop::collection::vec(parent(), 0..3);
    let rules = prop::collection::vec(rule(), 0..3);
    (select(kinds), select(NAMESPACES.to_vec()), 0..4_u8, select(AGES.to_vec()), hostnames, parents, rules).prop_map(
        |(kind, ns, n, age, hostnames, parents, rules)| {
            let strip = |mut rule: Value| {
                if kind != "HTTPRoute" {
                    let rule = rule.as_object_mut().unwrap();
                    rule.remove("matches");
                    if kind != "GRPCRoute" {
                        rule.remove("filters");
                    }
                }
                rule
            };
            let rules: Vec<Value> = rules.into_iter().map(strip).collect();
            json!({"kind": kind, "metadata": {"name": format!("r{n}"), "namespace": ns, "creationTimestamp": age},
                "spec": {"parentRefs": parents, "hostnames": hostnames, "rules": rules}})
        },
    )
}

fn service() -> impl Strategy<Value = Value> {
    let protocols = vec![None, Some("kubernetes.io/h2c"), Some("odd")];
    let addresses = vec!["10.96.0.1", "10.96.0.2", "26.96.0.1", "None", ""];
    let all = (select(NAMESPACES.to_vec()), 0..2_u8, any::<bool>(), select(protocols), select(addresses));
    all.prop_map(|(ns, n, is_ours, protocol, cluster_ip)| {
        let kind = if is_ours { "LoadBalancer" } else { "ClusterIP" };
        json!({"kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": ns},
            "spec": {"type": kind, "clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80, "appProtocol": protocol}]}})
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let addresses = vec!["10.0.0.1", "10.0.0.2", "192.0.2.1"];
    (select(NAMESPACES.to_vec()), 0..2_u8, prop::sample::subsequence(addresses, 0..3)).prop_map(|(ns, n, addresses)| {
        let endpoints: Vec<Value> = addresses.iter().map(|addr| json!({"addresses": [addr]})).collect();
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "metadata": {"name": format!("e{n}"), "namespace": ns,
                "labels": {"kubernetes.io/service-name": format!("s{n}")}}, "endpoints": endpoints})
    })
}

fn grant() -> impl Strategy<Value = Value> {
    let kinds = vec!["HTTPRoute", "GRPCRoute", "TLSRoute"];
    (select(NAMESPACES.to_vec()), 0..2_u8, select(kinds)).prop_map(|(ns, n, kind)| {
        let from = NAMESPACES.iter().find(|other| **other != ns);
        json!({"kind": "ReferenceGrant", "metadata": {"name": format!("t{n}"), "namespace": ns}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": from}],
            "to": [{"group": "", "kind": "Service"}]}})
    })
}

/// An object that comes, or changes; or one that goes.
#[derive(Clone, Debug)]
enum Event {
    Put(Value),
    Delete(Value),
}

fn event() -> impl Strategy<Value = Event> {
    let namespace = (select(NAMESPACES.to_vec()), 0..2_u8).prop_map(
        |(ns, team)| json!({"kind": "Namespace", "metadata": {"name": ns, "labels": {"team": format!("t{team}")}}}),
    );
    let object = prop_oneof![
        3 => gateway(),
        8 => route(),
        2 => service(),
        2 => slice(),
        1 => grant(),
        1 => listener_set(),
        1 => namespace,
        2 => (0..2_u8, 0..3_usize).prop_map(|(n, variant)| secret(n, variant)),
        3 => any_policy(),
        2 => (0..2_u8, 0..3_usize).prop_map(|(n, variant)| authorities(n, variant)),
    ];
    (object, prop::bool::weighted(0.2))
        .prop_map(|(object, goes)| if goes { Event::Delete(object) } else { Event::Put(object) })
}

impl Event {
    fn happen(&self, snapshot: &mut Snapshot) {
        let object = match self {
            Self::Put(object) => return add(snapshot, object).unwrap(),
            Self::Delete(object) => object,
        };
        let ns = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let name = ObjectName::new(ns, object["metadata"]["name"].as_str().unwrap());
        match object["kind"].as_str().unwrap() {
            "Gateway" => drop(snapshot.gateways.remove(&name)),
            "HTTPRoute" => drop(snapshot.http_routes.remove(&name)),
            "GRPCRoute" => drop(snapshot.grpc_routes.remove(&name)),
            "TLSRoute" => drop(snapshot.tls_routes.remove(&name)),
            "TCPRoute" => drop(snapshot.tcp_routes.remove(&name)),
            "Service" => drop(snapshot.services.remove(&name)),
            "EndpointSlice" => drop(snapshot.slices.remove(&name)),
            "ReferenceGrant" => drop(snapshot.grants.remove(&name)),
            "ListenerSet" => drop(snapshot.listener_sets.remove(&name)),
            "Namespace" => drop(snapshot.namespaces.remove(&name.name)),
            "Secret" => drop(snapshot.secrets.remove(&name)),
            "ConfigMap" => drop(snapshot.config_maps.remove(&name)),
            "BackendTLSPolicy" => drop(snapshot.backend_tls_policies.remove(&name)),
            other => panic!("{other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn any_history_of_routes_leads_to_the_model_of_a_fresh_compile(
        history in prop::collection::vec(prop::collection::vec(event(), 1..4), 1..24),
    ) {
        let (mut memo, node) = (Memo::default(), node(POOLS));
        let (mut snapshot, mut last) = (Snapshot::default(), Arc::<Model>::default());
        let start = [0, 2, 3, 4].map(listener);
        add(&mut snapshot, &json!({"kind": "Gateway", "metadata": {"name": "g0"},
            "spec": {"gatewayClassName": "sluice", "listeners": start}})).unwrap();
        for events in history {
            events.iter().for_each(|event| event.happen(&mut snapshot));
            let model = memo.compile(&Arc::new(snapshot.clone()), &node);
            prop_assert_eq!(text(&model), text(&model::compile(&snapshot, &node)), "after {:?}", events);
            let before = std::mem::replace(&mut last, Arc::clone(&model));
            if before.rev > 0 {
                prop_assert!(shares(&before, &model), "a copy of what is equal");
            }
        }
    }
}

/// So many of each.
const MANY: usize = 20;
/// So many Services have a policy, each with authorities of its own.
const SECURED: usize = 6;

fn host_route(n: usize, port: u16, ns: Option<&str>) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"name": format!("r{n}")}, "spec": {
        "parentRefs": [{"name": format!("g{}", n % 2)}], "hostnames": [format!("r{n}.example.com")],
        "rules": [{"backendRefs": [{"name": format!("s{n}"), "namespace": ns, "port": port}]}]}})
}

/// Two Gateways with half of the routes each, one host name and one Service a route, and a listener for each certificate.
fn many() -> Snapshot {
    let mut objects = Vec::new();
    for n in 0..2 {
        let secured = (n * MANY / 2..(n + 1) * MANY / 2).map(|n| {
            json!({"name": format!("t{n}"), "port": 443, "protocol": "HTTPS", "hostname": format!("t{n}.example.com"),
                "tls": {"certificateRefs": [{"name": format!("c{n}")}]}})
        });
        let mut listeners: Vec<Value> = secured.collect();
        listeners.push(json!({"name": "web", "port": 80, "protocol": "HTTP"}));
        objects.push(json!({"kind": "Gateway", "metadata": {"name": format!("g{n}")},
            "spec": {"gatewayClassName": "sluice", "listeners": listeners}}));
    }
    for n in 0..SECURED {
        let at = u8::try_from(n).unwrap();
        objects.push(authorities(at, n % 2));
        objects.push(policy(at, &[format!("s{n}")], None, "a.example.com", &[format!("a{n}")]));
    }
    for n in 0..MANY {
        objects.push(host_route(n, 80, None));
        objects.push(secret(u8::try_from(n).unwrap(), n % 2));
        objects.push(json!({"kind": "Service", "metadata": {"name": format!("s{n}")},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]}}));
        objects.push(
            json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
            "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 8081}],
            "metadata": {"name": format!("s{n}"), "labels": {"kubernetes.io/service-name": format!("s{n}")}}}),
        );
    }
    snapshot(&Value::Array(objects))
}

#[test]
fn a_changed_object_costs_what_depends_on_it_and_nothing_else() {
    let (mut memo, node, mut snapshot) = (Memo::default(), node(POOLS), many());
    let mut change = |objects: &[Value]| {
        objects.iter().for_each(|object| add(&mut snapshot, object).unwrap());
        let before = memo.work();
        let model = memo.compile(&Arc::new(snapshot.clone()), &node);
        assert_eq!(text(&model), text(&model::compile(&snapshot, &node)));
        let after = memo.work();
        Work {
            whole: after.whole - before.whole,
            services: after.services - before.services,
            routes: after.routes - before.routes,
            attached: after.attached - before.attached,
            gateways: after.gateways - before.gateways,
            certificates: after.certificates - before.certificates,
            streams: after.streams - before.streams,
            selections: after.selections - before.selections,
            policies: after.policies - before.policies,
        }
    };
    let all = MANY as u64;
    let first = Work {
        whole: 1,
        routes: all,
        attached: all,
        gateways: 2,
        certificates: all,
        policies: SECURED as u64,
        ..Work::default()
    };
    assert_eq!(change(&[]), first);
    let one = Work { routes: 1, attached: 1, ..Work::default() };
    assert_eq!(change(&[host_route(3, 81, None)]), one, "a route");
    assert_eq!(
        change(&[host_route(3, 80, Some("other")), host_route(4, 81, None)]),
        Work { routes: 2, attached: 2, ..one }
    );
    assert_eq!(change(&[host_route(MANY, 80, None)]), one, "a route that comes");
    assert_eq!(change(&[secret(5, 0)]), Work { certificates: 1, ..Work::default() }, "a Secret");
    let policies = |policies| Work { policies, ..Work::default() };
    assert_eq!(change(&[authorities(3, 2)]), policies(1), "what a policy refers to, which is bad now");
    assert_eq!(change(&[authorities(3, 1)]), policies(1), "and good again");
    assert_eq!(change(&[host_route(0, 81, None)]), one, "a route that leaves a port with a policy");
    assert_eq!(change(&[host_route(0, 80, None)]), one, "and comes back");
    let other = policy(2, &["s2".to_owned()], None, "b.example.com", &["a2".to_owned()]);
    assert_eq!(change(&[other]), Work { whole: 1, policies: 1, ..one }, "a policy, and the one route that leads there");
    let mut endpoints = many().slices[&ObjectName::new("default", "s3")].as_ref().clone();
    endpoints.endpoints.clear();
    let mut endpoints = serde_json::to_value(&endpoints).unwrap();
    endpoints["kind"] = json!("EndpointSlice");
    assert_eq!(change(&[endpoints]), Work { services: 1, ..Work::default() }, "endpoints");
    let listeners = json!([{"name": "web", "port": 8080, "protocol": "HTTP"}]);
    let gateway = json!({"kind": "Gateway", "metadata": {"name": "g1"},
        "spec": {"gatewayClassName": "sluice", "listeners": listeners}});
    let of_gateway = Work { whole: 1, attached: all / 2, gateways: 1, ..Work::default() };
    assert_eq!(change(&[gateway]), of_gateway, "a Gateway asks its own routes and compiles none");
    let service =
        json!({"kind": "Service", "metadata": {"name": "s7"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    assert_eq!(change(&[service]), Work { whole: 1, ..one }, "a Service, whose one route is compiled");
    let grant = json!({"kind": "ReferenceGrant", "metadata": {"name": "t", "namespace": "other"}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}],
        "to": [{"group": "", "kind": "Service"}]}});
    assert_eq!(change(&[grant]), Work { whole: 1, ..one }, "a grant, of the one route that leads to another namespace");
}
