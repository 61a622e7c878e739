//! One Service, written to step by step, as an API server and two nodes would answer.
use super::*;
use crate::{
    config::route_hosts::RouteHosts,
    membership::{Members, Report, Revisions},
    model::{self, Role, fixture, fixture::merge_patch},
    source::Snapshot,
    status::version::Bundle,
};

/// The nodes; the first one announces what there is.
const NODES: [&str; 2] = ["announcing-node", "other-node"];

/// The Service as the API server has it, and how far each node is.
struct World {
    service: Value,
    seen: [u64; 2],
    /// Where Gateway `edge` listens, if there is one.
    gateway: Option<u16>,
    /// Addresses that a node has found another host to have.
    conflicts: Vec<IpAddr>,
    /// What the second node says of an endpoint that it cannot reach.
    lacking: Option<&'static str>,
    /// Whether the first node announces; else nobody does, and all nodes serve.
    announces: bool,
}

impl World {
    /// Of our class, at revision 1, seen by both nodes.
    fn new(metadata: Value) -> Self {
        let mut service = json!({
            "kind": "Service",
            "metadata": {"name": "web", "uid": "u", "resourceVersion": "1"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        });
        merge_patch(&mut service, &json!({"metadata": metadata}));
        Self { service, seen: [1, 1], gateway: None, conflicts: Vec::new(), lacking: None, announces: false }
    }

    fn revision(&self) -> u64 {
        self.service["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// Somebody else changes it.
    fn change(&mut self, patch: &Value) {
        merge_patch(&mut self.service, patch);
        let next = self.revision() + 1;
        self.service["metadata"]["resourceVersion"] = next.to_string().into();
    }

    /// The nodes have programmed all there is.
    fn catch_up(&mut self) {
        self.seen = [self.revision(); 2];
    }

    fn plan(&self) -> Option<Write> {
        let mut snapshot = Snapshot::default();
        fixture::add(&mut snapshot, &self.service).unwrap();
        let class = json!({"kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": "sluice.dev/gateway"}});
        fixture::add(&mut snapshot, &class).unwrap();
        if let Some(port) = self.gateway {
            let listener = json!({"name": "l", "port": port, "protocol": "HTTP"});
            let spec = json!({"gatewayClassName": "c", "listeners": [listener]});
            fixture::add(&mut snapshot, &json!({"kind": "Gateway", "metadata": {"name": "edge"}, "spec": spec}))
                .unwrap();
        }
        let announcing = model::Candidate { name: NODES[0].to_owned(), has_proxy: true };
        let candidates = self.announces.then_some(announcing).into_iter().collect();
        let node = model::Node { role: Role::Member, candidates, ..fixture::node(&["192.0.2.0/24", "2001:db8::/64"]) };
        let model = model::compile(&snapshot, &node);
        let conflicts = self.conflicts.iter().map(|addr| (*addr, "another host has it".to_owned()));
        let conflicts: std::collections::BTreeMap<_, _> = conflicts.collect();
        let report = |services| Report {
            seen: crate::source::snapshot::Seen { services, gateways: 0 },
            conflicts: conflicts.clone(),
            ..Report::default()
        };
        let alive = NODES.iter().zip(self.seen).map(|(name, seen)| ((*name).to_owned(), report(seen)));
        let mut members = Members { alive: alive.collect(), is_blind: false };
        let object = self.service["metadata"]["namespace"].as_str().unwrap_or("default");
        let lacking = self.lacking.map(|said| (format!("Service {object}/web"), said.to_owned()));
        members.alive.get_mut(NODES[1]).unwrap().lacking = lacking.into_iter().collect();
        plan(
            snapshot.services.values().next().unwrap(),
            &snapshot,
            &View {
                model: &model,
                members: &members,
                revisions: &Revisions::default(),
                route_hosts: &RouteHosts::default(),
                bundle: &Bundle::Unknown,
            },
        )
    }

    /// Carries out the write that is due: what it was told about.
    fn step(&mut self) -> Option<(&'static str, bool)> {
        let write = self.plan()?;
        assert_eq!(write.body["metadata"]["resourceVersion"], self.service["metadata"]["resourceVersion"]);
        assert_eq!(write.body["metadata"]["uid"], "u");
        let mut body = write.body;
        body["metadata"].as_object_mut().unwrap().retain(|key, _| key == "annotations" || key == "finalizers");
        let is_status = write.path.ends_with("/services/web/status");
        assert_eq!(body.get("status").is_some(), is_status, "{body}");
        self.change(&body);
        Some((write.events.first().map_or("", |note| note.reason), is_status))
    }

    /// Carries out all writes, the nodes keeping up.
    fn settle(&mut self) -> Vec<&'static str> {
        let mut told = Vec::new();
        while let Some((event, _)) = self.step() {
            told.push(event);
            self.catch_up();
            assert!(told.len() < 10, "it has no end: {told:?}");
        }
        told
    }

    fn shown(&self) -> Vec<&str> {
        let ingress = self.service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
        ingress.map(|i| i["ip"].as_str().or(i["hostname"].as_str()).unwrap()).collect()
    }

    fn finalizers(&self) -> Vec<&str> {
        self.service["metadata"]["finalizers"].as_array().into_iter().flatten().map(|f| f.as_str().unwrap()).collect()
    }

    fn allocated(&self) -> Option<&str> {
        self.service["metadata"]["annotations"][ipam::ALLOCATED].as_str()
    }
}

#[test]
fn s81_s83_first_the_marks_then_the_nodes_then_the_status() {
    let mut world = World::new(json!({"finalizers": ["example.com/keep"], "annotations": {"note": "kept"}}));
    assert_eq!(world.step(), Some(("EnsuringLoadBalancer", false)));
    assert_eq!((world.allocated(), world.finalizers()), (Some("192.0.2.1"), vec!["example.com/keep", FINALIZER]));
    assert_eq!(world.service["metadata"]["annotations"]["note"], "kept");
    assert_eq!(world.step(), None, "no node has programmed it");
    world.seen[0] = world.revision();
    assert_eq!(world.step(), None, "one has not");
    world.catch_up();
    assert_eq!(world.step(), Some(("EnsuredLoadBalancer", true)));
    assert_eq!(world.service["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
    world.catch_up();
    assert_eq!(world.step(), None, "it says what it should");
}

#[test]
fn s8_entries_of_others_stay_with_all_their_fields() {
    let mut world = World::new(json!({}));
    world.settle();
    let others = json!([
        {"hostname": "lb.example"},
        {"ip": "198.51.100.7", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]},
        {"ip": "192.0.2.1", "ipMode": "VIP"},
    ]);
    world.change(&json!({"status": {"loadBalancer": {"ingress": others}}}));
    world.change(&json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}}));
    world.catch_up();
    world.settle();
    assert_eq!(world.shown(), ["lb.example", "198.51.100.7", "192.0.2.1", "2001:db8::1"]);
    assert_eq!(world.service["status"]["loadBalancer"]["ingress"][1], others[1]);
    world.change(&json!({"spec": {"type": "ClusterIP"}}));
    world.catch_up();
    assert_eq!(world.settle(), ["DeletingLoadBalancer", "DeletedLoadBalancer"]);
    assert_eq!((world.shown(), world.allocated()), (vec!["lb.example", "198.51.100.7"], None));
}

#[test]
fn s78_an_address_that_is_given_up_leaves_the_status_before_its_mark() {
    let mut world = World::new(json!({"annotations": {ipam::ADDRESSES: "192.0.2.5"}}));
    world.settle();
    world.change(&json!({"metadata": {"annotations": {ipam::ADDRESSES: "192.0.2.6"}}}));
    world.catch_up();
    assert_eq!(world.step(), Some(("UpdatedLoadBalancer", true)));
    assert_eq!((world.shown(), world.allocated()), (vec![], Some("192.0.2.5")));
    world.catch_up();
    assert_eq!(world.settle(), ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]);
    assert_eq!((world.shown(), world.allocated()), (vec!["192.0.2.6"], Some("192.0.2.6")));
}

#[test]
fn what_is_refused_shows_no_address() {
    let sctp = json!({"spec": {"ports": [{"port": 80, "protocol": "SCTP"}]}});
    let ranges = json!({"spec": {"loadBalancerSourceRanges": ["nonsense"]}});
    let mut world = World::new(json!({}));
    world.change(&sctp);
    world.catch_up();
    assert_eq!(world.settle(), [""], "it was never given one, and nobody says that it was");
    assert_eq!((world.shown(), world.allocated(), world.finalizers()), (vec![], None, vec![]));
    assert_eq!(world.service["status"]["conditions"][0]["reason"], "UnsupportedProtocol");
    for (refused, reason) in [(sctp, "UnsupportedProtocol"), (ranges, "InvalidSourceRanges")] {
        let mut world = World::new(json!({}));
        world.settle();
        let before = world.service["spec"].clone();
        world.change(&refused);
        world.catch_up();
        assert_eq!(world.settle(), [""], "{reason}");
        assert_eq!(world.shown(), Vec::<&str>::new(), "{reason}");
        assert_eq!(world.service["status"]["conditions"][0]["reason"], reason);
        assert_eq!(world.allocated(), Some("192.0.2.1"), "it stays reserved");
        world.service["spec"] = before;
        world.change(&json!({}));
        world.catch_up();
        assert_eq!(world.settle(), ["EnsuredLoadBalancer"]);
        assert_eq!(world.shown(), ["192.0.2.1"]);
    }
}

#[test]
fn s71_a_service_that_is_refused_keeps_no_mark_that_would_keep_it_from_being_deleted() {
    let mut world = World::new(json!({"finalizers": ["example.com/keep"]}));
    world.settle();
    world.change(&json!({"metadata": {"annotations": {ipam::ADDRESSES: "nonsense"}}}));
    assert_eq!(world.step(), Some(("", true)));
    assert!(world.shown().is_empty());
    assert_eq!(world.service["status"]["conditions"][0]["reason"], "InvalidAddress");
    assert_eq!(world.step(), None, "the nodes still have it");
    world.catch_up();
    assert_eq!(world.step(), Some(("DeletedLoadBalancer", false)));
    assert_eq!((world.allocated(), world.finalizers()), (None, vec!["example.com/keep"]));
}

#[test]
fn s84_s86_a_service_that_is_deleted_is_let_go_when_every_node_has_let_go() {
    let mut world = World::new(json!({"finalizers": ["example.com/keep"]}));
    world.settle();
    world.change(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.seen[0] = world.revision();
    assert_eq!(world.step(), None, "a node still serves it");
    world.catch_up();
    assert_eq!(world.step(), Some(("DeletedLoadBalancer", false)));
    assert_eq!((world.allocated(), world.finalizers()), (None, vec!["example.com/keep"]));
    world.catch_up();
    assert_eq!(world.step(), None);
}

#[test]
fn s85_s86_a_finalizer_without_our_annotation_is_ours_where_the_class_is() {
    for (class, is_ours) in [(Some(CLASS), true), (None, false), (Some("other.example/lb"), false)] {
        let metadata = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let mut world = World::new(metadata);
        world.service["spec"]["loadBalancerClass"] = json!(class);
        world.step();
        assert_eq!(world.finalizers().is_empty(), is_ours, "{class:?}");
    }
}

#[test]
fn s1_s4_what_is_not_ours_is_not_written_to_and_what_was_is_cleared() {
    for spec in
        [json!({"type": "ClusterIP"}), json!({"type": "NodePort"}), json!({"loadBalancerClass": "other.example/lb"})]
    {
        let mut world = World::new(json!({}));
        world.change(&json!({"spec": spec}));
        assert_eq!(world.plan(), None, "{spec}");
        // It waited for an address when it was ours.
        world.change(&json!({"status": {"conditions": [{"type": PROGRAMMED, "status": "False"}, {"type": "other"}]}}));
        assert_eq!(world.step(), Some(("", true)));
        assert_eq!(world.service["status"]["conditions"].as_array().map(Vec::len), Some(1), "{}", world.service);
        assert_eq!(world.plan(), None);
    }
}

/// E1 of issue 8: kube-proxy would take a `VIP` past the proxy.
#[test]
fn an_address_with_a_port_that_leads_to_the_proxy_has_ip_mode_proxy_while_it_does() {
    let ports = |list: Value| json!({"spec": {"ports": list}});
    let (web, dns) = (json!({"name": "web", "port": 80}), json!({"name": "dns", "port": 53, "protocol": "UDP"}));
    let mut world = World::new(json!({"labels": {"gateway.networking.k8s.io/gateway-name": "edge"}}));
    world.settle();
    let shown = |world: &World| {
        let ingress = &world.service["status"]["loadBalancer"]["ingress"];
        assert_eq!(ingress.as_array().map(Vec::len), Some(1), "{ingress}");
        assert_eq!(ingress[0]["ip"], "192.0.2.1");
        let condition =
            world.service["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == PROGRAMMED);
        (ingress[0]["ipMode"].clone(), condition.unwrap()["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(shown(&world), (json!("VIP"), "192.0.2.1".to_owned()), "the Gateway is missing");

    world.gateway = Some(80);
    assert_eq!(world.settle(), ["BackendsNotResolved"], "no route yet");
    assert_eq!(shown(&world), (json!("Proxy"), "192.0.2.1".to_owned()), "every port leads to the proxy");

    world.change(&ports(json!([web, dns, {"name": "status-port", "port": 15021}])));
    world.catch_up();
    world.settle();
    let (mode, message) = shown(&world);
    assert_eq!(mode, "Proxy", "of both kinds");
    let wanted = "192.0.2.1; ipMode is Proxy because 80/TCP leads to the proxy; pods and nodes reach 53/UDP at the cluster IP, \
                  not at the address of the load balancer";
    assert_eq!(message, wanted);

    world.change(&ports(json!([dns])));
    world.catch_up();
    world.settle();
    assert_eq!(shown(&world).0, "VIP", "no port leads there any more");
    world.change(&ports(json!([web])));
    world.catch_up();
    world.settle();
    assert_eq!(shown(&world).0, "Proxy");
    world.gateway = Some(8080);
    world.settle();
    assert_eq!(shown(&world).0, "VIP", "the listener is elsewhere");
}

/// F11 of issue 8: the annotation alone is anybody's.
#[test]
fn an_annotation_without_our_finalizer_takes_no_address_of_another_controller() {
    let others = json!([{"ip": "198.51.100.7", "ipMode": "VIP"}]);
    let mut world = World::new(json!({"annotations": {ipam::ALLOCATED: "198.51.100.7"}}));
    world.change(&json!({"status": {"loadBalancer": {"ingress": others}}}));
    world.catch_up();
    world.settle();
    assert_eq!(world.service["status"]["loadBalancer"]["ingress"], others, "it is another's Service");
    assert!(world.finalizers().is_empty());
    world.change(&json!({"spec": {"type": "ClusterIP"}}));
    world.catch_up();
    world.settle();
    assert_eq!(world.service["status"]["loadBalancer"]["ingress"], others, "nor does it go with the type");
}

#[test]
fn b8_an_address_that_another_host_has_is_not_shown_and_an_event_says_so_once() {
    let mut world = World::new(json!({}));
    world.step().unwrap();
    world.catch_up();
    let address: IpAddr = world.allocated().unwrap().parse().unwrap();
    world.conflicts.push(address);
    let told = world.settle();
    assert_eq!(told, [CONFLICT]);
    assert!(world.shown().is_empty(), "{:?}", world.shown());
    let condition = &world.service["status"]["conditions"][0];
    let said = format!("{address}: another host has it");
    assert_eq!((&condition["type"], &condition["status"]), (&json!(PROGRAMMED), &json!("False")));
    assert_eq!((&condition["reason"], &condition["message"]), (&json!(CONFLICT), &json!(said)));
    // The other host is gone.
    world.conflicts.clear();
    assert_eq!(world.settle(), ["EnsuredLoadBalancer"]);
    assert_eq!(world.shown(), [address.to_string()]);
}

#[test]
fn b7_an_endpoint_that_a_node_cannot_reach_is_a_condition_and_takes_nothing_away() {
    let mut world = World::new(json!({}));
    world.catch_up();
    world.settle();
    let shown = world.shown().into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(shown.len(), 1);
    world.lacking = Some("10.9.9.9: no route leads there");
    world.settle();
    let of = |world: &World| {
        let all = world.service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == REACHABLE)
    };
    let condition = of(&world).expect("a condition");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("EndpointsLeftOut")));
    let said = "one node cannot reach 10.9.9.9: no route leads there; `sluice why service/default/web` on a node says whether it can";
    assert_eq!(condition["message"], said);
    assert_eq!(world.shown(), shown, "the others serve");
    world.lacking = None;
    world.settle();
    assert_eq!(of(&world), None, "it can be reached again");
}

/// Issue 10: a node's death must not rewrite every Service that it announced, or could not reach an endpoint of.
#[test]
fn no_condition_and_no_event_names_a_node() {
    let mut world = World::new(json!({}));
    (world.lacking, world.announces) = (Some("10.9.9.9: no route leads there"), true);
    world.catch_up();
    let mut said = Vec::new();
    while let Some(write) = world.plan() {
        said.extend(write.events.iter().map(|note| note.text.clone()));
        said.push(write.body["status"]["conditions"].to_string());
        world.step();
        world.catch_up();
    }
    let said = said.join("\n");
    assert!(said.contains("192.0.2.1 is programmed") && said.contains("EndpointsLeftOut"), "{said}");
    for node in ["announcing-node", "other-node"] {
        assert!(!said.contains(node), "{said}");
    }
}
