use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::fixture::{add_slice, add_slice_like, node, services};

const WEB: &str = "{type: LoadBalancer, ports: [{name: http, port: 80}, {port: 53, protocol: UDP}]}";

fn web(slices: &[(&str, &[&str])]) -> Snapshot {
    let mut snapshot = services(&[("web", WEB)]);
    for (name, endpoints) in slices {
        add_slice(&mut snapshot, name, endpoints);
    }
    snapshot
}

fn select_at(snapshot: &Snapshot, port: &str, family: Family) -> Selected {
    let service = &snapshot.services[&ObjectName::new("default", "web")];
    select(&SliceIndex::new(snapshot), service, port, family, &node(&[]))
}

fn http(slices: &[(&str, &[&str])]) -> Selected {
    select_at(&web(slices), "http", Family::V4)
}

fn addrs(backends: &[Backend]) -> Vec<String> {
    backends.iter().map(|b| b.addr.to_string()).collect()
}

#[test]
fn s24_slices_of_a_service_are_merged() {
    let many = (0..250).map(|n| format!("{{addresses: [10.0.{}.{}]}}", n / 100, n % 100 + 1)).collect::<Vec<_>>();
    let many = many.iter().map(String::as_str).collect::<Vec<_>>();
    let selected = http(&[("web-a", &many[..100]), ("web-b", &many[100..200]), ("web-c", &many[200..])]);
    assert_eq!(selected.cluster.len(), 250);
    assert!(selected.cluster.is_sorted());
}

#[test]
fn s25_of_two_copies_the_one_that_does_not_terminate_counts_whatever_the_order() {
    let (old, new) = (
        "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}, nodeName: n1}",
        "{addresses: [10.0.0.1], nodeName: n2}",
    );
    let expected =
        [Backend { addr: "10.0.0.1".parse().unwrap(), port: Port::try_new(8080).unwrap(), locality: Locality::Remote }];
    for (first, second) in [(old, new), (new, old)] {
        let apart = http(&[("web-a", &[first]), ("web-b", &[second])]);
        assert_eq!((&apart.cluster[..], &apart.draining[..]), (&expected[..], &[][..]));
        assert_eq!(http(&[("web-a", &[first, second])]), apart, "in one slice");
    }
}

#[test]
fn s26_an_endpoint_stays_while_one_slice_has_it() {
    assert_eq!(addrs(&http(&[("web-b", &["{addresses: [10.0.0.1]}"])]).cluster), ["10.0.0.1"]);
}

#[test]
fn s27_a_slice_without_the_label_belongs_to_nobody() {
    let mut snapshot = web(&[("web-a", &["{addresses: [10.0.0.1]}"])]);
    for slice in snapshot.slices.values_mut() {
        Arc::make_mut(slice).metadata.labels.clear();
    }
    assert_eq!(select_at(&snapshot, "http", Family::V4), Selected::default());
}

#[test]
fn s28_fqdn_slices_are_left_out_with_a_word_and_the_other_family_without_one() {
    let mut snapshot = web(&[("web-a", &["{addresses: [10.0.0.1]}"])]);
    let ports = "ports: [{name: http, port: 8080}]";
    add_slice_like(
        &mut snapshot,
        "web-fqdn",
        &format!("{{addressType: FQDN, {ports}}}"),
        &["{addresses: [example.com]}"],
    );
    add_slice_like(
        &mut snapshot,
        "web-v6",
        &format!("{{addressType: IPv6, {ports}}}"),
        &["{addresses: ['2001:db8::1']}"],
    );
    let of = |family| {
        let selected = select_at(&snapshot, "http", family);
        assert_eq!(selected.skipped, ["EndpointSlice default/web-fqdn: addressType is \"FQDN\", want IPv4 or IPv6"]);
        addrs(&selected.cluster)
    };
    assert_eq!(of(Family::V4), ["10.0.0.1"]);
    assert_eq!(of(Family::V6), ["2001:db8::1"]);
    assert_eq!(of(Family::Any), ["10.0.0.1", "2001:db8::1"]);
}

#[test]
fn s29_only_the_first_address_counts_and_none_is_no_endpoint() {
    let selected = http(&[("web-a", &["{addresses: [10.0.0.1, 10.0.0.2]}", "{addresses: []}", "{}"])]);
    assert_eq!(addrs(&selected.cluster), ["10.0.0.1"]);
}

#[test]
fn s30_addresses_that_nothing_may_be_sent_to_are_skipped_and_named() {
    let bad = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255", "nonsense", "2001:db8::1"];
    for addr in bad {
        let selected = http(&[("web-a", &[&format!("{{addresses: ['{addr}']}}"), "{addresses: [10.0.0.1]}"])]);
        assert_eq!(addrs(&selected.cluster), ["10.0.0.1"], "{addr}");
        let [message] = &selected.skipped[..] else { panic!("{selected:?}") };
        assert!(
            message.starts_with(&format!("EndpointSlice default/web-a: endpoint \"{addr}\" skipped: ")),
            "{message}"
        );
        assert!(addr == "2001:db8::1" || message.contains("want"), "{message}");
    }
    let v6 = ["::1", "fe80::1", "ff02::1", "::", "::ffff:127.0.0.1"];
    let mut snapshot = web(&[]);
    let endpoints = v6.map(|a| format!("{{addresses: ['{a}']}}"));
    let slice = "{addressType: IPv6, ports: [{name: http, port: 8080}]}";
    add_slice_like(&mut snapshot, "web-a", slice, &endpoints.each_ref().map(String::as_str));
    let selected = select_at(&snapshot, "http", Family::V6);
    assert_eq!((selected.cluster.len(), selected.draining.len()), (0, 0));
    assert_eq!(selected.skipped.len(), 1, "one sentence for a slice: {:?}", selected.skipped);
    assert!(selected.skipped[0].contains("and 4 more"), "{:?}", selected.skipped);
}

#[test]
fn s33_absent_conditions_mean_ready_serving_and_not_terminating() {
    let cases = [
        ("{}", true, true),
        ("{ready: true}", true, true),
        ("{ready: false}", false, false),
        ("{ready: false, serving: true, terminating: true}", true, true),
        ("{ready: false, terminating: true}", false, false),
        ("{ready: false, serving: true}", false, true),
    ];
    for (conditions, is_chosen, serves) in cases {
        let endpoint = format!("{{addresses: [10.0.0.1], conditions: {conditions}}}");
        assert_eq!(!http(&[("web-a", &[&endpoint])]).cluster.is_empty(), is_chosen, "{conditions}");
        let mut snapshot = web(&[]);
        let slice = "{addressType: IPv4, ports: [{name: '', port: 53, protocol: UDP}]}";
        add_slice_like(&mut snapshot, "web-a", slice, &[&endpoint, "{addresses: [10.0.0.2]}"]);
        let udp = select_at(&snapshot, "", Family::V4);
        let held = udp.cluster.iter().chain(&udp.draining).any(|b| b.addr.to_string() == "10.0.0.1");
        assert_eq!(held, serves, "{conditions}: {udp:?}");
    }
}

#[test]
fn s34_s35_the_slice_alone_says_what_is_ready_and_where() {
    let endpoints: &[&str] = &[
        "{addresses: [10.0.0.1], nodeName: n1, conditions: {ready: true, serving: false, terminating: true}}",
        "{addresses: [10.0.0.2], nodeName: n2}",
        "{addresses: [10.0.0.3]}",
    ];
    let selected = http(&[("web-a", endpoints)]);
    let localities = selected.cluster.iter().map(|b| b.locality).collect::<Vec<_>>();
    assert_eq!(localities, [Locality::Local, Locality::Remote, Locality::Unknown]);
    assert_eq!(addrs(&selected.local), ["10.0.0.1"]);
}

#[test]
fn s36_an_owned_vip_is_no_endpoint() {
    let mut selected = http(&[("web-a", &["{addresses: [192.0.2.1], nodeName: n1}", "{addresses: [10.0.0.1]}"])]);
    selected.exclude(|backend| backend.addr.to_string() == "192.0.2.1");
    assert_eq!((addrs(&selected.cluster), addrs(&selected.local)), (vec!["10.0.0.1".to_owned()], vec![]));
    assert_eq!(selected.skipped, ["endpoint 192.0.2.1 is an address that Sluice gave: a loop; want a pod's address"]);
}

#[test]
fn s14_s15_s16_a_slice_port_must_agree_in_name_and_protocol_and_have_a_number() {
    let ports = |text: &str, name: &str| {
        let mut snapshot = web(&[]);
        add_slice_like(
            &mut snapshot,
            "web-a",
            &format!("{{addressType: IPv4, ports: [{text}]}}"),
            &["{addresses: [10.0.0.1]}"],
        );
        let selected = select_at(&snapshot, name, Family::V4);
        selected.cluster.iter().map(|b| b.port.get()).collect::<Vec<_>>()
    };
    assert_eq!(ports("{name: http, port: 8080}", "http"), [8080]);
    assert_eq!(ports("{name: http, port: 8080}, {name: http, port: 8081, protocol: TCP}", "http"), [8080, 8081]);
    assert_eq!(ports("{name: http, port: 8080, protocol: UDP}", "http"), [0; 0]);
    assert_eq!(ports("{name: http}, {name: http, port: 0}", "http"), [0; 0]);
    assert_eq!(ports("{port: 53, protocol: UDP}", ""), [0; 0]);
    assert_eq!(ports("{name: '', port: 53, protocol: UDP}", ""), [53]);
    assert_eq!(ports("{name: http, port: 8080}", "no-such-port"), [0; 0]);

    let mut snapshot = web(&[("web-a", &["{addresses: [10.0.0.1]}"])]);
    add_slice_like(
        &mut snapshot,
        "web-b",
        "{addressType: IPv4, ports: [{name: http, port: 9090}]}",
        &["{addresses: [10.0.0.2]}"],
    );
    add_slice_like(
        &mut snapshot,
        "web-c",
        "{addressType: IPv4, ports: [{name: http, port: 70000}]}",
        &["{addresses: [10.0.0.3]}"],
    );
    let selected = select_at(&snapshot, "http", Family::V4);
    let found = selected.cluster.iter().map(|b| (b.addr.to_string(), b.port.get())).collect::<Vec<_>>();
    assert_eq!(found, [("10.0.0.1".into(), 8080), ("10.0.0.2".into(), 9090)]);
    assert_eq!(selected.skipped, ["EndpointSlice default/web-c: port 70000 is out of range, want 1 to 65535"]);
}

const READY: &str = "";
const TERMINATING: &str = ", conditions: {ready: false, serving: true, terminating: true}";
const GONE: &str = ", conditions: {ready: false, serving: false, terminating: true}";

fn endpoint(n: u8, node: &str, rest: &str) -> String {
    format!("{{addresses: [10.0.0.{n}], nodeName: {node}{rest}}}")
}

#[test]
fn s42_s43_without_a_ready_endpoint_those_that_terminate_and_serve_are_used_for_each_policy_apart() {
    let select = |endpoints: &[String]| {
        let endpoints = endpoints.iter().map(String::as_str).collect::<Vec<_>>();
        let selected = http(&[("web-a", &endpoints)]);
        (addrs(&selected.cluster), addrs(&selected.local), addrs(&selected.draining))
    };
    let list = |all: &[&str]| all.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let all = select(&[endpoint(1, "n1", TERMINATING), endpoint(2, "n2", READY), endpoint(3, "n1", GONE)]);
    assert_eq!(all, (list(&["10.0.0.2"]), list(&["10.0.0.1"]), list(&["10.0.0.1", "10.0.0.3"])));
    let all = select(&[endpoint(1, "n1", TERMINATING), endpoint(2, "n2", TERMINATING)]);
    assert_eq!(all, (list(&["10.0.0.1", "10.0.0.2"]), list(&["10.0.0.1"]), vec![]));
    let all = select(&[endpoint(1, "n1", GONE)]);
    assert_eq!(all, (vec![], vec![], list(&["10.0.0.1"])));
}

/// F12 of issue 8: the metadata service of a cloud believes whoever comes from the node.
#[test]
fn endpoints_in_a_refused_range_are_left_out_for_layer_4_and_7_alike() {
    let snapshot = web(&[("web-a", &["{addresses: [100.100.100.200]}", "{addresses: [10.0.0.1]}"])]);
    let service = &snapshot.services[&ObjectName::new("default", "web")];
    let refusing = Node { refused: vec!["100.100.100.200/32".parse().unwrap()], ..node(&[]) };
    for family in [Family::V4, Family::Any] {
        let selected = select(&SliceIndex::new(&snapshot), service, "http", family, &refusing);
        assert_eq!(addrs(&selected.cluster), ["10.0.0.1"], "{family:?}");
        let wanted = r#"EndpointSlice default/web-a: endpoint "100.100.100.200" skipped: in a range of --refuse-endpoints, want a pod's address"#;
        assert_eq!(selected.skipped, [wanted]);
    }
    let slices = SliceIndex::new(&snapshot);
    let all = all(slices.of(&ObjectName::new("default", "web")).iter(), &service.spec.ports[0], &refusing);
    assert_eq!(all.keys().map(|(addr, _)| addr.to_string()).collect::<Vec<_>>(), ["10.0.0.1"], "for slices of ours");
}

#[test]
fn s44_s45_s46_s47_hints_hold_for_all_ready_endpoints_or_for_none() {
    let hinted = |zone: &str| format!(", hints: {{forZones: [{{name: {zone}}}]}}");
    let on =
        |node: &str, zone: &str| format!(", hints: {{forZones: [{{name: {zone}}}], forNodes: [{{name: {node}}}]}}");
    let cluster = |endpoints: &[String]| {
        let endpoints = endpoints.iter().map(String::as_str).collect::<Vec<_>>();
        addrs(&http(&[("web-a", &endpoints)]).cluster)
    };
    let (ours, theirs) = (endpoint(1, "n1", &hinted("z1")), endpoint(2, "n2", &hinted("z2")));
    assert_eq!(cluster(&[ours.clone(), theirs.clone()]), ["10.0.0.1"]);
    assert_eq!(cluster(std::slice::from_ref(&theirs)), ["10.0.0.2"], "no endpoint for this zone");
    assert_eq!(cluster(&[ours.clone(), theirs.clone(), endpoint(3, "n3", READY)]).len(), 3, "one without a hint");
    assert_eq!(
        cluster(&[ours.clone(), theirs.clone(), endpoint(3, "n3", GONE)]),
        ["10.0.0.1"],
        "that one is not ready"
    );
    let dying = endpoint(1, "n1", &format!("{}{TERMINATING}", hinted("z1")));
    assert_eq!(cluster(&[dying, theirs.clone()]), ["10.0.0.2"], "the last of the zone");
    let both = [
        endpoint(1, "n1", &format!("{}{TERMINATING}", hinted("z1"))),
        endpoint(2, "n2", &format!("{}{TERMINATING}", hinted("z2"))),
    ];
    assert_eq!(cluster(&both).len(), 2, "hints do not hold for those that terminate");
    assert_eq!(
        cluster(&[endpoint(1, "n2", &on("n2", "z1")), endpoint(2, "n1", &on("n1", "z2"))]),
        ["10.0.0.2"],
        "the node first"
    );
    assert_eq!(
        cluster(&[endpoint(1, "n2", &on("n2", "z1")), endpoint(2, "n3", &on("n3", "z2"))]),
        ["10.0.0.1"],
        "then the zone"
    );

    let snapshot = web(&[("web-a", &[&ours, &theirs])]);
    let service = &snapshot.services[&ObjectName::new("default", "web")];
    let nowhere = Node { zone: None, ..node(&[]) };
    let selected = select(&SliceIndex::new(&snapshot), service, "http", Family::V4, &nowhere);
    assert_eq!(selected.cluster.len(), 2, "a node without a zone");
}

/// An endpoint of the oracle, and of the slices that it is written to.
#[derive(Clone, Debug)]
struct Drawn {
    addr: u8,
    conditions: (Option<bool>, Option<bool>, Option<bool>),
    node: Option<u8>,
    zones: Vec<u8>,
    nodes: Vec<u8>,
    slice: usize,
    /// Where a copy that terminates is, if there is one.
    stale_copy: Option<usize>,
}

impl Drawn {
    fn text(&self) -> String {
        let field = |name: &str, value: Option<bool>| value.map(|v| format!("{name}: {v}, ")).unwrap_or_default();
        let (ready, serving, terminating) = self.conditions;
        let names =
            |prefix: &str, all: &[u8]| all.iter().map(|n| format!("{{name: {prefix}{n}}}, ")).collect::<String>();
        format!(
            "{{addresses: [10.0.0.{}], conditions: {{{}{}{}}}, {} hints: {{forZones: [{}], forNodes: [{}]}}}}",
            self.addr,
            field("ready", ready),
            field("serving", serving),
            field("terminating", terminating),
            self.node.map(|n| format!("nodeName: n{n},")).unwrap_or_default(),
            names("z", &self.zones),
            names("n", &self.nodes),
        )
    }
}

/// kube-proxy's rules, one after the other.
fn oracle(endpoints: &[Drawn]) -> (Vec<u8>, Vec<u8>) {
    let ready = |e: &Drawn| e.conditions.0 != Some(false);
    let fallback = |e: &Drawn| e.conditions.1.unwrap_or(ready(e)) && e.conditions.2 == Some(true);
    let is_local = |e: &Drawn| e.node == Some(1);
    let all_ready = endpoints.iter().filter(|e| ready(e)).collect::<Vec<_>>();
    let node_hints = all_ready.iter().all(|e| !e.nodes.is_empty()) && all_ready.iter().any(|e| e.nodes.contains(&1));
    let zone_hints = all_ready.iter().all(|e| !e.zones.is_empty()) && all_ready.iter().any(|e| e.zones.contains(&1));
    let mut cluster = Vec::new();
    for e in &all_ready {
        if if node_hints { e.nodes.contains(&1) } else { !zone_hints || e.zones.contains(&1) } {
            cluster.push(e.addr);
        }
    }
    if cluster.is_empty() {
        cluster = endpoints.iter().filter(|e| fallback(e)).map(|e| e.addr).collect();
    }
    let mut local = all_ready.iter().filter(|e| is_local(e)).map(|e| e.addr).collect::<Vec<_>>();
    if local.is_empty() {
        local = endpoints.iter().filter(|e| fallback(e) && is_local(e)).map(|e| e.addr).collect();
    }
    (cluster, local)
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let condition = || prop::option::weighted(0.7, any::<bool>());
    let hints = || prop::collection::vec(1..4_u8, 0..3);
    let one = (
        (condition(), condition(), condition()),
        prop::option::of(1..4_u8),
        (hints(), hints()),
        0..3_usize,
        prop::option::weighted(0.3, 0..3_usize),
    );
    prop::collection::vec(one, 0..8).prop_map(|all| {
        let endpoint = |(addr, (conditions, node, (zones, nodes), slice, stale_copy))| Drawn {
            addr,
            conditions,
            node,
            zones,
            nodes,
            slice,
            stale_copy,
        };
        (1..).zip(all).map(endpoint).collect()
    })
}

proptest! {
    #[test]
    fn selection_is_kube_proxys(endpoints in drawn()) {
        let mut slices = [vec![], vec![], vec![]];
        for endpoint in &endpoints {
            slices[endpoint.slice].push(endpoint.text());
            if let Some(at) = endpoint.stale_copy.filter(|_| endpoint.conditions.2 != Some(true)) {
                let conditions = (Some(false), Some(true), Some(true));
                slices[at].push(Drawn { conditions, node: None, ..endpoint.clone() }.text());
            }
        }
        let mut snapshot = web(&[]);
        for (index, endpoints) in slices.iter().enumerate() {
            add_slice(&mut snapshot, &format!("web-{index}"), &endpoints.iter().map(String::as_str).collect::<Vec<_>>());
        }
        let selected = select_at(&snapshot, "http", Family::V4);
        let last = |all: &[Backend]| all.iter().map(|b| match b.addr {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(a) => a.octets()[15],
        }).collect::<Vec<_>>();
        prop_assert_eq!((last(&selected.cluster), last(&selected.local)), oracle(&endpoints));
        let held = selected.cluster.iter().chain(&selected.draining).collect::<BTreeSet<_>>();
        prop_assert_eq!(held.len(), endpoints.len(), "each endpoint is chosen or drains");
        prop_assert_eq!(held.len(), selected.cluster.len() + selected.draining.len(), "none is both");
    }
}

#[test]
fn b7_a_node_is_known_by_its_short_and_by_its_full_name() {
    let snapshot = |written: &str| web(&[("web-a", &[&*format!("{{addresses: [10.0.0.1], nodeName: {written}}}")])]);
    for (own, written, wanted) in [
        ("n1", "n1", Locality::Local),
        ("n1.example.com", "n1", Locality::Local),
        ("n1", "n1.example.com", Locality::Local),
        ("n1.example.com", "n1.example.com", Locality::Local),
        ("n1.example.com", "n1.example.org", Locality::Remote),
        ("n1.example.com", "n1.example", Locality::Remote),
        ("n1", "n10", Locality::Remote),
        ("n1.example.com", "n", Locality::Remote),
        ("10.0.0.1", "10.0.0.2", Locality::Remote),
    ] {
        let snapshot = snapshot(written);
        let service = &snapshot.services[&ObjectName::new("default", "web")];
        let own_node = Node::alone(own);
        let selected = select(&SliceIndex::new(&snapshot), service, "http", Family::V4, &own_node);
        assert_eq!(selected.cluster[0].locality, wanted, "{own} and {written}");
        assert_eq!(!selected.local.is_empty(), wanted == Locality::Local, "policy Local: {own} and {written}");
    }
}
