//! Who has a VIP and port, over all kinds and namespaces, and which ports nobody has.
use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::{
    self, Model, Node, ObjectRef, Outcome, Port, Verdict,
    fixture::{self, add},
    host::Host,
};

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

fn shared(name: &str, ns: &str, other: &str, created: &str) -> Value {
    json!({
        "name": name, "namespace": ns, "creationTimestamp": created,
        "annotations": {
            "sluice.dev/addresses": "192.0.2.7", "sluice.dev/sharing-key": "edge", "sluice.dev/sharing-namespaces": other,
        },
    })
}

fn gateway(metadata: &Value, ports: &[u16]) -> Value {
    let listener = |port: &u16| json!({"name": format!("p{port}"), "port": port, "protocol": "HTTP"});
    let listeners = ports.iter().map(listener).collect::<Vec<_>>();
    let addresses = json!([{"value": "192.0.2.7"}]);
    json!({
        "kind": "Gateway", "metadata": metadata,
        "spec": {"gatewayClassName": "sluice", "listeners": listeners, "addresses": addresses},
    })
}

fn service(metadata: &Value, ports: &[u16]) -> Value {
    let ports = ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect::<Vec<_>>();
    json!({"kind": "Service", "metadata": metadata, "spec": {"type": "LoadBalancer", "ports": ports}})
}

fn verdict<'a>(model: &'a Model, kind: &str, name: &str) -> &'a Verdict {
    model.verdicts.iter().find(|(object, _)| object.kind == kind && object.object.name == name).unwrap().1
}

fn owners(model: &Model) -> Vec<String> {
    model.frontends.iter().map(|(frontend, target)| format!("{frontend} {}", target.owner())).collect()
}

#[test]
fn a_vip_and_port_belongs_to_the_older_object_whatever_its_kind_and_namespace() {
    let pools = fixture::node(&["192.0.2.0/24"]);
    for (gateway_created, service_created, owner, loser) in [
        (OLD, YOUNG, "Gateway infra/edge", ("Service", "thief")),
        (YOUNG, OLD, "Service tenant/thief", ("Gateway", "edge")),
        // Of one age: the lesser kind.
        (OLD, OLD, "Gateway infra/edge", ("Service", "thief")),
    ] {
        let objects = json!([
            gateway(&shared("edge", "infra", "tenant", gateway_created), &[80]),
            service(&shared("thief", "tenant", "infra", service_created), &[80, 8080]),
        ]);
        let model = model::compile(&fixture::snapshot(&objects), &pools);
        let want = [format!("192.0.2.7:80/TCP {owner}"), "192.0.2.7:8080/TCP Service tenant/thief".to_owned()];
        assert_eq!(owners(&model), want, "Gateway of {gateway_created}, Service of {service_created}");
        let lost = verdict(&model, loser.0, loser.1);
        assert_eq!(lost.reason, "PortConflict", "{lost:?}");
        let want = format!("192.0.2.7:80/TCP belongs to {owner}; want another port");
        assert_eq!(lost.messages[0], want);
        let is_routed = model.http.frontends.contains_key(&"192.0.2.7:80".parse().unwrap());
        assert_eq!(is_routed, owner.starts_with("Gateway"), "the proxy serves what leads to it alone");
    }
}

#[test]
fn an_older_object_takes_its_port_back_from_a_younger_one_and_events_in_between_change_nothing() {
    let node = fixture::node(&["192.0.2.0/24"]);
    let mut memo = model::Memo::default();
    let thief = service(&shared("thief", "tenant", "infra", YOUNG), &[80]);
    let mut snapshot = fixture::snapshot(&json!([thief]));
    let first = memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(owners(&first), ["192.0.2.7:80/TCP Service tenant/thief"]);
    add(&mut snapshot, &gateway(&shared("edge", "infra", "tenant", OLD), &[80])).unwrap();
    let second =
        memo.compile(&Arc::new(snapshot.clone()), &Node { allocations: Arc::clone(&first.wanted), ..node.clone() });
    assert_eq!(owners(&second), ["192.0.2.7:80/TCP Gateway infra/edge"]);
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "p80", "port": 80}],
        "metadata": {"name": "thief-1", "namespace": "tenant", "labels": {"kubernetes.io/service-name": "thief"}},
        "endpoints": [{"addresses": ["10.244.1.1"]}],
    });
    add(&mut snapshot, &slice).unwrap();
    let third = memo.compile(&Arc::new(snapshot), &Node { allocations: Arc::clone(&second.wanted), ..node });
    assert_eq!(owners(&third), ["192.0.2.7:80/TCP Gateway infra/edge"], "after its slices alone have changed");
}

/// A node's address with a Service and a Gateway that have it already and now name more ports.
fn at_a_node(pool: Option<Value>, host: Host) -> (Model, Vec<String>) {
    let at = |name: &str| json!({"name": name, "namespace": "default", "creationTimestamp": OLD});
    let mut snapshot = fixture::snapshot(&json!([
        service(&at("web"), &[80, 22, 6443, 9640, 10250, 10256, 10257, 10259]),
        {
            "kind": "Gateway", "metadata": at("edge"),
            "spec": {"gatewayClassName": "sluice", "listeners": [
                {"name": "a", "port": 8081, "protocol": "HTTP"}, {"name": "b", "port": 10249, "protocol": "HTTP"},
            ]},
        },
        {
            "kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        },
    ]));
    if let Some(spec) = pool {
        add(&mut snapshot, &json!({"kind": "AddressPool", "metadata": {"name": "edge"}, "spec": spec})).unwrap();
    }
    let given = |kind, name| {
        (ObjectRef::new(kind, crate::api::ObjectName::new("default", name)), vec!["192.0.2.1".parse().unwrap()])
    };
    let allocations = Arc::new([given("Service", "web"), given("Gateway", "edge")].into());
    let model = model::compile(&snapshot, &Node { allocations, host: Arc::new(host), ..fixture::node(&[]) });
    let frontends = model.frontends.keys().map(ToString::to_string).collect();
    (model, frontends)
}

#[test]
fn a_reserved_port_is_never_programmed_on_an_address_of_a_host_whatever_the_object_had() {
    for pool in [Some(json!({"nodeAddresses": {}})), None] {
        let (model, frontends) = at_a_node(pool.clone(), Host::default());
        assert_eq!(frontends, ["192.0.2.1:80/TCP", "192.0.2.1:8081/TCP"], "{pool:?}");
        let (web, edge) = (verdict(&model, "Service", "web"), verdict(&model, "Gateway", "edge"));
        assert_eq!((web.outcome, web.reason), (Outcome::Partial, "PortReserved"), "{web:?}");
        assert_eq!((edge.outcome, edge.reason), (Outcome::Partial, "PortReserved"), "{edge:?}");
        for port in [22, 6443, 9640, 10250, 10256, 10257, 10259] {
            let named = format!("192.0.2.1:{port}/TCP: port {port} is reserved");
            assert!(web.messages.iter().any(|message| message.starts_with(&named)), "{port}: {web:?}");
        }
        let listener = &model.gateways.values().next().unwrap().listeners[1];
        assert_eq!(listener.accepted.as_ref().unwrap_err().reason, "PortUnavailable");
    }
}

#[test]
fn a_pool_opens_ports_of_the_nodes_but_none_of_sluice_itself() {
    let port = |n| Port::try_new(n).unwrap();
    let host = Host {
        own_ports: [(port(6443), "Sluice's proxy")].into(),
        snat_ports: Some(10_000..=10_254),
        ..Host::default()
    };
    let (model, frontends) = at_a_node(Some(json!({"nodeAddresses": {"reservedPorts": []}})), host);
    let open = [22, 80, 9640, 10256, 10257, 10259].map(|port| format!("192.0.2.1:{port}/TCP"));
    assert!(open.iter().all(|frontend| frontends.contains(frontend)), "{frontends:?}");
    assert_eq!(frontends.len(), open.len() + 1, "and the Gateway's 8081: {frontends:?}");
    let web = verdict(&model, "Service", "web");
    for (port, why) in [(6443, "hosts for Sluice's proxy"), (10250, "one of --snat-ports 10000-10254")] {
        let named = |message: &&String| message.contains(&format!("port {port} is")) && message.contains(why);
        assert!(web.messages.iter().any(|message| named(&message)), "{port}: {web:?}");
    }
}

#[test]
fn an_address_of_an_uplink_is_a_hosts_though_no_node_object_says_so() {
    let web = service(&json!({"name": "web", "namespace": "default", "creationTimestamp": OLD}), &[80, 22]);
    let addresses = ["192.0.2.1".parse().unwrap()].into();
    let snapshot = fixture::snapshot(&json!([web]));
    let object = ObjectRef::new("Service", crate::api::ObjectName::new("default", "web"));
    let allocations = Arc::new([(object, vec!["192.0.2.1".parse().unwrap()])].into());
    let node = Node { allocations, ..fixture::node(&["192.0.2.0/24"]) };
    let at_host = Node { host: Arc::new(Host { addresses, ..Host::default() }), ..node.clone() };
    let frontends = |node: &Node| model::compile(&snapshot, node).frontends.len();
    assert_eq!((frontends(&node), frontends(&at_host)), (2, 1));
}

#[test]
fn what_a_process_of_the_host_listens_on_is_warned_of() {
    let listening = ["192.0.2.1:80", "192.0.2.1:8081"].map(|at: &str| {
        let at: std::net::SocketAddr = at.parse().unwrap();
        model::Frontend { vip: at.ip(), port: Port::try_new(i64::from(at.port())).unwrap(), proto: model::Proto::Tcp }
    });
    let (model, _) = at_a_node(None, Host { listening: listening.into(), ..Host::default() });
    for (kind, name, port) in [("Service", "web", 80), ("Gateway", "edge", 8081)] {
        let want = format!(
            "a process of this host listens at 192.0.2.1:{port}/TCP too: clients on the network do not reach it"
        );
        let verdict = verdict(&model, kind, name);
        assert!(verdict.messages.contains(&want), "{verdict:?}");
    }
}
