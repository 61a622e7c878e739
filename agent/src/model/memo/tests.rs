//! A memo that saw any history makes the model that a fresh compile makes.
mod routes;

use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;
use crate::{
    api::{ObjectMeta, service::LoadBalancerIngress},
    model::{self, Candidate, Frontend, Port, Proto, Target, fixture::node},
};

const POOLS: &[&str] = &["192.0.2.0/29", "2001:db8::/64"];

/// Services: ours, dual stack, one with the address of another, a foreign one, one that only routes name.
const SERVICES: [&str; 6] = [
    "{type: LoadBalancer, ports: [{name: http, port: 80}]}",
    "{type: LoadBalancer, ipFamilyPolicy: PreferDualStack, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}",
    "{type: LoadBalancer, loadBalancerIP: 192.0.2.3, externalTrafficPolicy: Local, ports: [{name: http, port: 80}]}",
    "{type: LoadBalancer, loadBalancerIP: 192.0.2.3, ports: [{name: http, port: 80}, {name: dns, port: 8053}]}",
    "{type: LoadBalancer, loadBalancerClass: other, ports: [{name: http, port: 80}]}",
    "{type: ClusterIP, ports: [{name: http, port: 80}]}",
];

/// Endpoints: here, elsewhere, none, hinted, one that is perhaps a VIP, a bad one.
const ENDPOINTS: [&str; 6] = [
    "[{addresses: [10.0.0.1], nodeName: n1}]",
    "[{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], nodeName: n2, conditions: {ready: false, serving: true}}]",
    "[]",
    "[{addresses: [10.0.0.3], hints: {forZones: [{name: z1}]}}, {addresses: [10.0.0.4], hints: {forZones: [{name: z2}]}}]",
    "[{addresses: [192.0.2.1]}, {addresses: [192.0.2.3]}, {addresses: [10.0.0.5]}]",
    "[{addresses: [127.0.0.1]}]",
];

/// Pools: of ranges, for some namespaces, of the nodes' addresses, over the pods of nodes.
const POOL_SPECS: [&str; 4] = [
    "{addresses: [192.0.2.4-192.0.2.5], priority: 1}",
    "{addresses: ['2001:db8:1::/64', 203.0.113.0/30], namespaceSelector: {matchLabels: {team: t0}}}",
    "{nodeAddresses: {}, priority: 2}",
    "{addresses: [198.51.100.0/28, 203.0.113.0/24]}",
];

fn object<T: DeserializeOwned>(name: &str, rest: &str, metadata: impl FnOnce(&mut T) -> &mut ObjectMeta) -> Arc<T> {
    let mut object = serde_saphyr::from_str::<T>(rest).unwrap();
    let meta = metadata(&mut object);
    (meta.name, meta.namespace) = (name.to_owned(), "default".to_owned());
    Arc::new(object)
}

/// One event: which kind, which object, what it becomes; `None` is its deletion.
#[derive(Clone, Debug)]
enum Event {
    Service(u8, Option<usize>),
    /// Who writes it is part of the variant.
    Slice(u8, u8, Option<usize>, bool),
    /// The Gateway that a Service names in its label, if it is there.
    Label(u8, Option<u8>),
    Gateway(u8, Option<u8>),
    /// Whose the class of all Gateways is.
    Class(Option<u8>),
    /// The labels of the namespace of all objects.
    Namespace(Option<u8>),
    Route(u8, Option<u8>),
    /// A TCPRoute or a UDPRoute.
    Stream(bool, u8, Option<u8>),
    /// A grant to `default` of what is in `default`, or of another namespace to it: whether routes may go to `other/s0`.
    Grant(u8, Option<bool>),
    /// A pool, cluster-wide.
    Pool(u8, Option<usize>),
    /// A node: its last number, and in bits whether it is cordoned, not ready, excluded from load balancers, at which no pool looks.
    Node(u8, Option<u8>),
    /// The nodes that live, in bits, and those of them whose proxy takes connections.
    Members(u8, u8),
    /// The annotation of the leader on a Service, if it is there.
    Allocated(u8, Option<u8>),
    /// What the status of a Service shows: nothing, what it has, somebody's address, a host name.
    Status(u8, u8),
    /// Whether this node gives addresses itself.
    Role(bool),
    /// The node's zone.
    Zone(Option<u8>),
    /// The addresses given are read back from disk.
    Restart,
    /// Somebody writes every object of some kinds, and changes nothing that counts.
    Touch(u16),
}

/// Writes every object of the kinds in the bits of `kinds`: another revision, and another status.
fn touch(snapshot: &mut Snapshot, kinds: u16) {
    fn all<T: crate::api::Kind + Clone>(
        objects: &mut SharedMap<T::Key, Arc<T>>,
        metadata: impl Fn(&mut T) -> &mut ObjectMeta,
        status: impl Fn(&mut T),
    ) {
        let keys: Vec<T::Key> = objects.keys().cloned().collect();
        for key in keys {
            let object = Arc::make_mut(objects.get_mut(&key).unwrap());
            let meta = metadata(object);
            meta.resource_version = format!("{}1", meta.resource_version);
            meta.finalizers.push("example.com/another".to_owned());
            status(object);
        }
    }
    if kinds & 1 << 8 != 0 {
        all(&mut snapshot.grants, |g| &mut g.metadata, |_| {});
    }
    let is_on = |bit: u8| kinds & 1 << bit != 0;
    let told = || crate::api::condition::Condition { reason: "Told".into(), ..Default::default() };
    if is_on(0) {
        all(&mut snapshot.services, |s| &mut s.metadata, |s| s.status.conditions.push(told()));
    }
    if is_on(1) {
        all(&mut snapshot.slices, |s| &mut s.metadata, |_| {});
    }
    if is_on(2) {
        all(&mut snapshot.gateways, |g| &mut g.metadata, |g| g.status.conditions.push(told()));
    }
    if is_on(3) {
        all(&mut snapshot.gateway_classes, |c| &mut c.metadata, |c| c.status.conditions.push(told()));
    }
    if is_on(4) {
        all(&mut snapshot.http_routes, |r| &mut r.metadata, |r| r.status.parents.push(Default::default()));
        all(&mut snapshot.tcp_routes, |r| &mut r.metadata, |r| r.status.parents.push(Default::default()));
        all(&mut snapshot.udp_routes, |r| &mut r.metadata, |r| r.status.parents.push(Default::default()));
    }
    if is_on(5) {
        all(&mut snapshot.pools, |p| &mut p.metadata, |p| p.status.conditions.push(told()));
    }
    if is_on(6) {
        all(&mut snapshot.namespaces, |n| &mut n.metadata, |_| {});
    }
    if is_on(7) {
        all(&mut snapshot.nodes, |n| &mut n.metadata, |_| {});
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let variant = || prop::option::weighted(0.8, 0..6_usize);
    prop_oneof![
        3 => (0..4_u8, variant()).prop_map(|(n, v)| Event::Service(n, v)),
        6 => (0..6_u8, 0..4_u8, variant(), prop::bool::weighted(0.2))
            .prop_map(|(n, s, v, ours)| Event::Slice(n, s, v, ours)),
        2 => (0..4_u8, prop::option::weighted(0.8, 0..2_u8)).prop_map(|(n, g)| Event::Label(n, g)),
        1 => (0..2_u8, prop::option::of(0..3_u8)).prop_map(|(n, v)| Event::Gateway(n, v)),
        1 => prop::option::of(0..2_u8).prop_map(Event::Class),
        1 => prop::option::of(0..2_u8).prop_map(Event::Namespace),
        1 => (0..2_u8, prop::option::of(0..4_u8)).prop_map(|(n, v)| Event::Route(n, v)),
        2 => (any::<bool>(), 0..2_u8, prop::option::weighted(0.8, 0..4_u8)).prop_map(|(u, n, v)| Event::Stream(u, n, v)),
        2 => (0..2_u8, prop::option::of(any::<bool>())).prop_map(|(n, v)| Event::Grant(n, v)),
        1 => (0..2_u8, prop::option::weighted(0.8, 0..POOL_SPECS.len())).prop_map(|(n, v)| Event::Pool(n, v)),
        3 => (1..4_u8, prop::option::weighted(0.9, 0..8_u8)).prop_map(|(n, v)| Event::Node(n, v)),
        3 => (0..8_u8, 0..8_u8).prop_map(|(n, proxies)| Event::Members(n, proxies)),
        2 => (0..4_u8, prop::option::of(1..5_u8)).prop_map(|(n, v)| Event::Allocated(n, v)),
        3 => (0..4_u8, 0..4_u8).prop_map(|(n, v)| Event::Status(n, v)),
        1 => any::<bool>().prop_map(Event::Role),
        1 => prop::option::of(1..3_u8).prop_map(Event::Zone),
        1 => Just(Event::Restart),
        3 => (1..512_u16).prop_map(Event::Touch),
    ]
}

/// Inserts or deletes.
fn set<K: Ord + Clone, T>(map: &mut SharedMap<K, Arc<T>>, name: K, object: Option<Arc<T>>) {
    match object {
        Some(object) => drop(map.insert(name, object)),
        None => drop(map.remove(&name)),
    }
}

impl Event {
    fn happen(&self, snapshot: &mut Snapshot, node: &mut Node, last: &Model) {
        match self {
            Self::Service(n, variant) => {
                let name = format!("s{n}");
                let text = variant.map(|v| format!("{{spec: {}}}", SERVICES[v]));
                let new = text.map(|text| object::<crate::api::Service>(&name, &text, |s| &mut s.metadata));
                set(&mut snapshot.services, ObjectName::new("default", name), new);
            }
            Self::Label(n, gateway) => {
                if let Some(service) = snapshot.services.get_mut(&ObjectName::new("default", format!("s{n}"))) {
                    let labels = &mut Arc::make_mut(service).metadata.labels;
                    match gateway {
                        Some(gateway) => labels.insert(chain::GATEWAY_LABEL.to_owned(), format!("g{gateway}")),
                        None => labels.remove(chain::GATEWAY_LABEL),
                    };
                }
            }
            Self::Slice(n, service, variant, is_ours) => {
                let by = if *is_ours { "sluice.dev" } else { "other" };
                let name = format!("e{n}");
                let new = variant.map(|v| {
                    let text = format!(
                        "{{metadata: {{labels: {{kubernetes.io/service-name: s{service}, \
                         endpointslice.kubernetes.io/managed-by: {by}}}}}, addressType: IPv4, \
                         ports: [{{name: http, port: 8080}}, {{name: dns, port: 53, protocol: UDP}}], endpoints: {}}}",
                        ENDPOINTS[v]
                    );
                    object::<crate::api::EndpointSlice>(&name, &text, |s| &mut s.metadata)
                });
                set(&mut snapshot.slices, ObjectName::new("default", name), new);
            }
            Self::Gateway(n, variant) => {
                let name = format!("g{n}");
                let new = variant.map(|v| {
                    let guests = if v == 2 { "Selector, selector: {matchLabels: {team: t1}}" } else { "Same" };
                    let text = format!(
                        "{{spec: {{gatewayClassName: sluice, listeners: [{{name: web, port: {}, protocol: HTTP, \
                         allowedRoutes: {{namespaces: {{from: {guests}}}}}}}, {{name: tcp, port: 9300, protocol: TCP}}, \
                         {{name: udp, port: 53, protocol: UDP}}]}}}}",
                        80 + v % 2
                    );
                    object::<crate::api::Gateway>(&name, &text, |g| &mut g.metadata)
                });
                set(&mut snapshot.gateways, ObjectName::new("default", name), new);
            }
            Self::Route(n, variant) => {
                let name = format!("r{n}");
                let new = variant.map(|v| {
                    let text = format!(
                        "{{spec: {{parentRefs: [{{name: g0}}], rules: [{{backendRefs: [{{name: s{v}, port: 80}}, \
                         {{name: s{v}, namespace: other, port: 80}}]}}]}}}}"
                    );
                    object::<crate::api::HttpRoute>(&name, &text, |r| &mut r.metadata)
                });
                set(&mut snapshot.http_routes, ObjectName::new("default", name), new);
            }
            Self::Stream(is_udp, n, variant) => {
                let (name, section, port) =
                    (format!("r{n}"), if *is_udp { "udp" } else { "tcp" }, if *is_udp { 53 } else { 80 });
                let text = variant.map(|v| {
                    format!(
                        "{{spec: {{parentRefs: [{{name: g0, sectionName: {section}}}], rules: [{{backendRefs: [\
                         {{name: s{v}, port: {port}, weight: 2}}, {{name: s{}, port: {port}}}, \
                         {{name: s{v}, namespace: other, port: {port}, weight: {v}}}]}}]}}}}",
                        (v + 1) % 4
                    )
                });
                let key = ObjectName::new("default", name.as_str());
                if *is_udp {
                    let new = text.map(|text| object::<crate::api::UdpRoute>(&name, &text, |r| &mut r.metadata));
                    set(&mut snapshot.udp_routes, key, new);
                } else {
                    let new = text.map(|text| object::<crate::api::TcpRoute>(&name, &text, |r| &mut r.metadata));
                    set(&mut snapshot.tcp_routes, key, new);
                }
            }
            Self::Grant(n, variant) => {
                let name = format!("t{n}");
                let new = variant.map(|is_good| {
                    let from = if is_good { "default" } else { "other" };
                    let text = format!(
                        "{{spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], \
                         to: [{{kind: Service}}]}}}}"
                    );
                    let mut grant = object::<crate::api::ReferenceGrant>(&name, &text, |g| &mut g.metadata);
                    Arc::make_mut(&mut grant).metadata.namespace = "other".to_owned();
                    grant
                });
                set(&mut snapshot.grants, ObjectName::new("other", name), new);
            }
            Self::Pool(n, variant) => {
                let name = format!("p{n}");
                let text = variant.map(|v| format!("{{spec: {}}}", POOL_SPECS[v]));
                let new = text.map(|text| object::<crate::api::AddressPool>(&name, &text, |p| &mut p.metadata));
                set(&mut snapshot.pools, name, new);
            }
            Self::Node(n, variant) => {
                let name = format!("n{n}");
                let text = |bits: u8| {
                    let labels =
                        if bits & 4 == 0 { "" } else { "node.kubernetes.io/exclude-from-external-load-balancers: x" };
                    format!(
                        "{{metadata: {{labels: {{{labels}}}}}, spec: {{unschedulable: {}, podCIDRs: [198.51.100.0/30]}}, \
                         status: {{addresses: [{{type: InternalIP, address: 10.0.0.{n}}}], \
                         conditions: [{{type: Ready, status: '{}'}}]}}}}",
                        bits & 1 != 0,
                        if bits & 2 == 0 { "True" } else { "False" },
                    )
                };
                let new = variant.map(|v| object::<crate::api::Node>(&name, &text(v), |n| &mut n.metadata));
                set(&mut snapshot.nodes, name, new);
            }
            Self::Members(bits, proxies) => {
                let lives = (0..3_u8).filter(|n| bits & (1_u8 << n) != 0);
                let candidate = |n| Candidate { name: format!("n{}", n + 1), has_proxy: proxies & (1_u8 << n) != 0 };
                node.candidates = lives.map(candidate).collect();
            }
            Self::Allocated(n, last) => {
                if let Some(service) = snapshot.services.get_mut(&ObjectName::new("default", format!("s{n}"))) {
                    let annotations = &mut Arc::make_mut(service).metadata.annotations;
                    match last {
                        Some(last) => annotations.insert(ipam::ALLOCATED.to_owned(), format!("192.0.2.{last}, x")),
                        None => annotations.remove(ipam::ALLOCATED),
                    };
                }
            }
            Self::Status(n, variant) => {
                let name = ObjectName::new("default", format!("s{n}"));
                let had = last.allocations.get(&ObjectRef::new("Service", name.clone())).into_iter().flatten();
                let shown = match variant {
                    0 => Vec::new(),
                    1 => had.map(|addr| (addr.to_string(), String::new())).collect(),
                    2 => vec![("192.0.2.3".to_owned(), String::new())],
                    _ => vec![(String::new(), "lb.example".to_owned())],
                };
                if let Some(service) = snapshot.services.get_mut(&name) {
                    let service = Arc::make_mut(service);
                    service.metadata.resource_version = last.rev.to_string();
                    let entry = |(ip, hostname)| LoadBalancerIngress { ip, hostname, ..LoadBalancerIngress::default() };
                    service.status.load_balancer.ingress = shown.into_iter().map(entry).collect();
                }
            }
            Self::Class(variant) => {
                let controllers = ["sluice.dev/gateway", "example.com/other"];
                snapshot.gateway_classes.clear();
                snapshot.gateway_classes.extend(variant.map(|v| {
                    let text = format!("{{spec: {{controllerName: {}}}}}", controllers[usize::from(v)]);
                    ("sluice".to_owned(), object::<crate::api::GatewayClass>("sluice", &text, |c| &mut c.metadata))
                }));
            }
            Self::Namespace(variant) => {
                snapshot.namespaces.clear();
                snapshot.namespaces.extend(variant.map(|v| {
                    let text = format!("{{metadata: {{labels: {{team: t{v}}}}}}}");
                    ("default".to_owned(), object::<crate::api::Namespace>("default", &text, |n| &mut n.metadata))
                }));
            }
            Self::Role(alone) => node.role = if *alone { Role::Alone } else { Role::Member },
            Self::Zone(zone) => node.zone = zone.map(|z| format!("z{z}")),
            Self::Touch(kinds) => touch(snapshot, *kinds),
            Self::Restart => node.allocations = Arc::clone(&last.allocations),
        }
    }
}

/// All of a model that must be the same whatever came before: not `published`, which a quiet write does not change.
fn text(model: &Model) -> String {
    format!("{:#?}", Model { rev: 0, published: Arc::default(), work: Work::default(), ..model.clone() })
}

/// Whether what is equal in both is one.
fn shares(before: &Model, after: &Model) -> bool {
    fn is_one<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
        Arc::ptr_eq(a, b) || **a != **b
    }
    let targets = after.frontends.iter().all(|(frontend, target)| match (before.frontends.get(frontend), target) {
        (Some(Target::Endpoints(old)), Target::Endpoints(new)) => is_one(old, new),
        _ => true,
    });
    targets
        && is_one(&before.http, &after.http)
        && is_one(&before.gateways, &after.gateways)
        && (before.routes.is_one(&after.routes) || before.routes != after.routes)
        && is_one(&before.chains, &after.chains)
        && is_one(&before.own_slices, &after.own_slices)
        && (before.verdicts.is_one(&after.verdicts) || before.verdicts != after.verdicts)
        && is_one(&before.allocations, &after.allocations)
        && is_one(&before.wanted, &after.wanted)
        && is_one(&before.pools, &after.pools)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn any_history_leads_to_the_model_of_a_fresh_compile(
        history in prop::collection::vec(prop::collection::vec(any_event(), 1..4), 1..24),
    ) {
        let (mut memo, mut node) = (Memo::default(), node(POOLS));
        let (mut snapshot, mut last) = (Snapshot::default(), Arc::<Model>::default());
        for events in history {
            for event in &events {
                event.happen(&mut snapshot, &mut node, &last);
            }
            let model = memo.compile(&Arc::new(snapshot.clone()), &node);
            prop_assert_eq!(text(&model), text(&model::compile(&snapshot, &node)), "after {:?}", events);
            prop_assert_eq!(model.rev, last.rev + 1);
            let before = std::mem::replace(&mut last, Arc::clone(&model));
            if before.rev > 0 {
                prop_assert!(shares(&before, &model), "a copy of what is equal");
            }
        }
    }
}

/// Objects of every kind, of which each counts.
fn one_of_each(node: &mut Node) -> Snapshot {
    let (mut snapshot, nothing) = (Snapshot::default(), Model::default());
    let events = [
        Event::Service(0, Some(0)),
        Event::Service(1, Some(2)),
        Event::Slice(0, 0, Some(0), false),
        Event::Slice(1, 1, Some(0), true),
        Event::Class(Some(0)),
        Event::Gateway(0, Some(2)),
        Event::Route(0, Some(0)),
        Event::Stream(false, 0, Some(1)),
        Event::Stream(true, 0, Some(1)),
        Event::Grant(0, Some(true)),
        Event::Pool(0, Some(1)),
        Event::Namespace(Some(1)),
        Event::Node(1, Some(0)),
    ];
    events.iter().for_each(|event| event.happen(&mut snapshot, node, &nothing));
    snapshot
}

/// What was looked at: everything, and Services for their slices.
fn work(memo: &Memo) -> (u64, u64) {
    (memo.work().whole, memo.work().services)
}

#[test]
fn a_change_that_counts_for_nothing_compiles_nothing_whatever_the_kind() {
    let (mut memo, mut node) = (Memo::default(), node(POOLS));
    let mut snapshot = one_of_each(&mut node);
    let first = memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(work(&memo), (1, 0));
    for bit in 0..9 {
        touch(&mut snapshot, 1 << bit);
        let model = memo.compile(&Arc::new(snapshot.clone()), &node);
        assert_eq!(work(&memo), (1, 0), "kind {bit}");
        assert_eq!(text(&model), text(&model::compile(&snapshot, &node)), "kind {bit}");
        assert!(first.verdicts.is_one(&model.verdicts) && Arc::ptr_eq(&first.http, &model.http));
    }
    // What confirms the addresses that are there takes nothing from anybody.
    let (gateway, held) = first.allocations.iter().find(|(object, _)| object.kind == "Gateway").unwrap();
    let gateway = Arc::make_mut(snapshot.gateways.get_mut(&gateway.object).unwrap());
    gateway.status.addresses = held
        .iter()
        .map(|addr| crate::api::gateway::GatewayAddress { kind: None, value: Some(addr.to_string()) })
        .collect();
    Event::Status(0, 1).happen(&mut snapshot, &mut node, &first);
    memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(work(&memo), (1, 0), "its own status");
    Event::Slice(0, 0, Some(1), false).happen(&mut snapshot, &mut node, &first);
    memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(work(&memo), (1, 1), "a slice costs its Service");
    Event::Route(0, Some(1)).happen(&mut snapshot, &mut node, &first);
    memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!((work(&memo), memo.work().routes), ((1, 1), 4), "a route costs itself");
    Event::Grant(0, None).happen(&mut snapshot, &mut node, &first);
    let model = memo.compile(&Arc::new(snapshot), &node);
    assert_eq!((memo.work().whole, memo.work().routes), (2, 7), "a grant costs those that refer to another namespace");
    let route = ObjectName::new("default", "r0");
    assert_eq!(
        model.routes[&(crate::api::RouteKind::Http, route)].resolved.as_ref().unwrap_err().reason,
        "RefNotPermitted"
    );
}

/// As after each start: the compiler remembers what the first model gave, and a route is the first thing that changes.
#[test]
fn the_addresses_that_were_given_compile_nothing_again() {
    let (mut memo, mut node) = (Memo::default(), node(POOLS));
    let mut snapshot = one_of_each(&mut node);
    let first = memo.compile(&Arc::new(snapshot.clone()), &node);
    assert!(!first.wanted.is_empty() && node.allocations.is_empty());
    node.allocations = Arc::clone(&first.wanted);
    Event::Route(0, Some(1)).happen(&mut snapshot, &mut node, &first);
    let model = memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(work(&memo), (1, 0));
    assert_eq!(text(&model), text(&model::compile(&snapshot, &node)));
    // What is remembered beside that is of an object that cannot be read, and takes something from others.
    let kept = ObjectRef::new("Service", ObjectName::new("default", "kept"));
    Arc::make_mut(&mut node.allocations).insert(kept, vec!["192.0.2.1".parse().unwrap()]);
    let model = memo.compile(&Arc::new(snapshot.clone()), &node);
    assert_eq!(work(&memo), (2, 0));
    assert_eq!(text(&model), text(&model::compile(&snapshot, &node)));
}

#[test]
fn a_slice_changes_the_endpoints_of_its_service_alone() {
    let (mut memo, mut node) = (Memo::default(), node(POOLS));
    let (mut snapshot, nothing) = (Snapshot::default(), Model::default());
    for event in [Event::Service(0, Some(0)), Event::Service(1, Some(0)), Event::Slice(0, 0, Some(0), false)] {
        event.happen(&mut snapshot, &mut node, &nothing);
    }
    let before = memo.compile(&Arc::new(snapshot.clone()), &node);
    Event::Slice(0, 0, Some(1), false).happen(&mut snapshot, &mut node, &nothing);
    let after = memo.compile(&Arc::new(snapshot), &node);
    let target = |model: &Model, last| {
        let vip = format!("192.0.2.{last}").parse().unwrap();
        match &model.frontends[&Frontend { vip, port: Port::try_new(80).unwrap(), proto: Proto::Tcp }] {
            Target::Endpoints(target) => Arc::clone(target),
            proxy @ Target::Proxy { .. } => panic!("{proxy:?}"),
        }
    };
    assert_eq!((target(&before, 1).draining().count(), target(&after, 1).draining().count()), (0, 1));
    assert!(Arc::ptr_eq(&target(&before, 2), &target(&after, 2)));
    assert!(before.verdicts.is_one(&after.verdicts));
}

/// Who lives, and which nodes are to be spared, moves VIPs and compiles nothing.
#[test]
fn nodes_that_come_and_go_move_vips_alone() {
    let (mut memo, mut node) = (Memo::default(), Node { role: Role::Member, ..node(POOLS) });
    let (mut snapshot, nothing) = (Snapshot::default(), Model::default());
    let nodes = [Event::Node(1, Some(0)), Event::Node(2, Some(0)), Event::Members(3, 3)];
    let events = [Event::Service(0, Some(0)), Event::Allocated(0, Some(1))].into_iter().chain(nodes);
    events.for_each(|event| event.happen(&mut snapshot, &mut node, &nothing));
    let mut announcer = |snapshot: &Snapshot, node: &Node| {
        let model = memo.compile(&Arc::new(snapshot.clone()), node);
        assert_eq!(text(&model), text(&model::compile(snapshot, node)));
        assert_eq!(memo.work().whole, 1, "nothing else depends on it");
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        model.announcers.get(&vip).cloned()
    };
    let first = announcer(&snapshot, &node).expect("an announcer");
    let [own, other] = if first == "n1" { [1, 2] } else { [2, 1] };
    let second = Some(format!("n{other}"));
    Event::Node(own, Some(4)).happen(&mut snapshot, &mut node, &nothing);
    assert_eq!(announcer(&snapshot, &node), second, "it is excluded");
    Event::Node(own, Some(1)).happen(&mut snapshot, &mut node, &nothing);
    assert_eq!(announcer(&snapshot, &node).as_ref(), Some(&first), "cordoned nodes announce");
    Event::Node(own, Some(2)).happen(&mut snapshot, &mut node, &nothing);
    assert_eq!(announcer(&snapshot, &node), second, "it is not ready");
    Event::Node(own, Some(0)).happen(&mut snapshot, &mut node, &nothing);
    Event::Members(1 << (other - 1), 3).happen(&mut snapshot, &mut node, &nothing);
    assert_eq!(announcer(&snapshot, &node), second, "it has died");
    Event::Members(3, 3).happen(&mut snapshot, &mut node, &nothing);
    assert_eq!(announcer(&snapshot, &node), Some(first), "it is back");
}
