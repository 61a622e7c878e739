use serde_json::{Value, json};

use super::*;
use crate::{
    api::ObjectName,
    model::{self, Candidate, Node, Role, fixture, ipam},
};

const VIP: &str = "192.0.2.1";

/// A cluster of two nodes, as seen by one of them.
struct World {
    snapshot: Snapshot,
    memo: model::Memo,
    node: Node,
    reporter: Reporter,
    facts: Facts,
    now: Instant,
    writes: usize,
}

impl World {
    /// Seen by the node that announces [`VIP`], or by the other one.
    fn new(announces: bool) -> Self {
        let names = ["node-a", "node-b"];
        let announcer = model::announce::tests::announcer(VIP.parse().unwrap(), &names).unwrap();
        let own = names.into_iter().find(|name| (*name == announcer) == announces).unwrap();
        let candidate = |name: &&str| Candidate { name: (*name).to_owned(), has_proxy: true };
        let node = Node {
            name: own.to_owned(),
            role: Role::Member,
            candidates: names.iter().map(candidate).collect(),
            ..fixture::node(&["192.0.2.0/24"])
        };
        let mut world = Self {
            snapshot: Snapshot::default(),
            memo: model::Memo::default(),
            node,
            reporter: Reporter::new(own.to_owned()),
            facts: Facts::default(),
            now: Instant::now(),
            writes: 0,
        };
        world.program(1);
        world.renew();
        world.early();
        world
    }

    fn service(revision: u64, extra: &Value) -> Value {
        let mut service = json!({"kind": "Service",
            "metadata": {"name": "web", "uid": "u", "resourceVersion": revision.to_string(),
                "annotations": {ipam::ALLOCATED: VIP}, "finalizers": [ipam::FINALIZER]},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
        for (field, value) in extra.as_object().unwrap() {
            for (name, value) in value.as_object().unwrap() {
                service[field][name] = value.clone();
            }
        }
        service
    }

    /// The API server has an object at this revision; maps and proxy have not.
    fn watch(&mut self, revision: u64, object: &Value) {
        fixture::add(&mut self.snapshot, object).unwrap();
        self.snapshot.seen = Seen { services: revision, gateways: revision };
        self.facts.snapshot = Some(Arc::new(self.snapshot.clone()));
        self.facts.model = self.memo.compile(&Arc::new(self.snapshot.clone()), &self.node);
        self.look();
    }

    /// Maps and proxy have it all, up to this revision.
    fn program(&mut self, revision: u64) {
        self.snapshot.seen = Seen { services: revision, gateways: revision };
        self.facts.snapshot = Some(Arc::new(self.snapshot.clone()));
        self.facts.model = self.memo.compile(&Arc::new(self.snapshot.clone()), &self.node);
        (self.facts.applied.rev, self.facts.routed) = (self.facts.model.rev, self.facts.model.rev);
        self.look();
    }

    /// Writes, if that is due early, once it may.
    fn look(&mut self) {
        self.reporter.update(&self.facts);
        if let Some(at) = self.reporter.early(&self.facts.model, self.now) {
            self.now = at;
            self.writes += 1;
            self.reporter.note(self.now, true, true);
        }
    }

    fn renew(&mut self) {
        self.now += Duration::from_secs(1);
        self.reporter.update(&self.facts);
        self.reporter.note(self.now, false, true);
    }

    /// How often it was written early since this was asked last.
    fn early(&mut self) -> usize {
        std::mem::take(&mut self.writes)
    }
}

fn shown() -> Value {
    json!({"status": {"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "VIP"}]}}})
}

#[test]
fn a_new_address_is_reported_early_by_the_node_that_announces_it_and_by_no_other() {
    for (announces, want) in [(true, 1), (false, 0)] {
        let mut world = World::new(announces);
        world.early();
        world.watch(7, &World::service(7, &json!({})));
        assert_eq!(world.early(), 0, "it is not programmed yet");
        let before = world.now;
        world.program(7);
        assert_eq!(world.early(), want);
        assert!(world.now - before <= SPACING, "{:?}", world.now - before);
        world.program(8);
        assert_eq!(world.early(), 0, "it was told");
        world.watch(9, &World::service(9, &shown()));
        world.program(9);
        assert_eq!(world.early(), 0, "the leader has what it waited for");
    }
}

/// Issue 10: one write anywhere had all nodes write once more.
#[test]
fn what_anybody_changes_of_an_address_that_is_shown_has_no_node_write() {
    for announces in [true, false] {
        let mut world = World::new(announces);
        world.watch(7, &World::service(7, &json!({})));
        world.program(7);
        world.early();
        for n in 0..100_u64 {
            let mut service = World::service(8 + n, &shown());
            service["metadata"]["labels"] = json!({"turn": n.to_string()});
            service["spec"]["ports"] = json!([{"port": 80 + n}]);
            world.watch(8 + n, &service);
            world.program(8 + n);
        }
        assert_eq!(world.early(), 0);
        assert_eq!(world.reporter.report().seen.services, 107, "it goes along with the next renewal");
        // Nor has what nobody serves, whatever marks it bears.
        let mut foreign = World::service(150, &json!({"spec": {"loadBalancerClass": "example.com/other"}}));
        foreign["metadata"]["name"] = json!("foreign");
        foreign["metadata"]["annotations"][ipam::ALLOCATED] = json!("203.0.113.9");
        world.watch(150, &foreign);
        world.program(150);
        assert_eq!(world.early(), 0);
        let mut other = World::service(200, &json!({}));
        other["metadata"]["name"] = json!("cluster-ip");
        other["metadata"]["annotations"] = json!({});
        world.watch(200, &other);
        world.program(200);
        assert_eq!(world.early(), 0);
    }
}

#[test]
fn an_address_that_is_let_go_of_is_reported_early_by_the_node_that_announced_it() {
    for deleted in
        [json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), json!({"spec": {"type": "ClusterIP"}})]
    {
        for (announces, want) in [(true, 1), (false, 0)] {
            for renewals in 0..3 {
                let mut world = World::new(announces);
                world.watch(7, &World::service(7, &shown()));
                world.program(7);
                (0..renewals).for_each(|_| world.renew());
                world.early();
                world.watch(8, &World::service(8, &deleted));
                assert_eq!(world.early(), 0, "it is still in the maps");
                world.program(8);
                assert_eq!(world.early(), want, "{deleted} after {renewals} renewals");
            }
        }
    }
}

#[test]
fn an_address_that_nobody_announces_is_served_and_reported_by_every_node() {
    let mut world = World::new(false);
    world.node.announce = false;
    world.program(2);
    world.renew();
    world.early();
    world.watch(7, &World::service(7, &json!({})));
    world.program(7);
    assert_eq!(world.early(), 1);
}

#[test]
fn what_was_an_exception_is_reported_early_when_it_is_none_any_more() {
    let mut world = World::new(true);
    world.watch(7, &World::service(7, &json!({})));
    world.facts.applied.unannounced = vec!["Service default/web".to_owned()];
    world.program(7);
    world.renew();
    assert_eq!(world.early(), 0, "it asks whether another host has it");
    world.facts.applied.unannounced.clear();
    world.look();
    assert_eq!(world.early(), 1);
}

#[test]
fn a_gateway_is_reported_early_while_its_newest_generation_is_not_told() {
    let gateway = |revision: u64, generation: u64, told: Option<u64>| {
        let condition = |told| json!({"type": "Programmed", "status": "True", "observedGeneration": told});
        json!({"kind": "Gateway",
            "metadata": {"name": "edge", "uid": "u", "resourceVersion": revision.to_string(),
                "generation": generation, "annotations": {ipam::ALLOCATED: VIP}},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80 + generation, "protocol": "HTTP"}]},
            "status": {"conditions": told.map(condition).into_iter().collect::<Vec<_>>(),
                "addresses": [{"type": "IPAddress", "value": VIP}]}})
    };
    let class =
        json!({"kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": "sluice.dev/gateway"}});
    for (announces, want) in [(true, 1), (false, 0)] {
        let mut world = World::new(announces);
        world.watch(2, &class);
        world.program(2);
        world.early();
        for (revision, generation, told, want) in [
            (7, 1, None, want),
            (8, 1, Some(1), 0),
            (9, 2, Some(1), want),
            // Of the status alone: nodes have nothing to do with it, and the leader does not ask for it.
            (10, 2, Some(1), 0),
            (11, 2, Some(2), 0),
        ] {
            world.watch(revision, &gateway(revision, generation, told));
            world.program(revision);
            assert_eq!(world.early(), want, "revision {revision}, announces: {announces}");
        }
    }
}

#[test]
fn a_flood_of_new_addresses_is_few_writes_and_a_pause_ends_it() {
    let mut world = World::new(true);
    world.node.candidates.retain(|candidate| candidate.name == world.node.name);
    world.program(2);
    world.renew();
    let (start, first) = (world.now, 100_u64);
    world.early();
    let mut due: Option<Instant> = None;
    // One new Service each 10 ms, for 10 s.
    for n in 0..1_000_u64 {
        let mut service = World::service(first + n, &json!({}));
        service["metadata"]["name"] = json!(format!("s{n}"));
        service["metadata"]["annotations"][ipam::ALLOCATED] = json!(format!("192.0.2.{}", n % 250 + 1));
        fixture::add(&mut world.snapshot, &service).unwrap();
        world.now = start + Duration::from_millis(10 * n);
        world.snapshot.seen = Seen { services: first + n, gateways: first + n };
        world.facts.snapshot = Some(Arc::new(world.snapshot.clone()));
        // What the model has is known: none of it is announced by another node.
        let (rev, seen) = (world.facts.model.rev + 1, world.snapshot.seen);
        let mut allocations = model::Allocations::clone(&world.facts.model.allocations);
        let name = ObjectName::new("default", format!("s{n}"));
        allocations.insert(
            ObjectRef::new("Service", name),
            vec![IpAddr::from([192, 0, 2, u8::try_from(n % 250).unwrap() + 1])],
        );
        let allocations = Arc::new(allocations);
        world.facts.model = Arc::new(model::Model { rev, seen, allocations, ..model::Model::default() });
        (world.facts.applied.rev, world.facts.routed) = (rev, rev);
        world.reporter.update(&world.facts);
        due = world.reporter.early(&world.facts.model, world.now);
        if due.is_some_and(|at| at <= world.now) {
            world.reporter.note(world.now, true, true);
            world.writes += 1;
        }
    }
    let writes = world.early();
    assert!((24..=30).contains(&writes), "{writes}");
    assert!(due.is_none_or(|at| at <= world.now + SLOWEST), "the last one waits no longer than that");
    world.renew();
    let mut service = World::service(5_000, &json!({}));
    service["metadata"]["name"] = json!("late");
    let before = world.now;
    fixture::add(&mut world.snapshot, &service).unwrap();
    world.program(5_000);
    assert_eq!((world.early(), world.now - before), (1, SPACING));
}

#[test]
fn what_is_reported_as_programmed_is_in_the_maps_and_in_the_proxy() {
    for (applied, routed, want) in [(0, 0, 0), (3, 0, 0), (3, 1, 10), (1, 3, 10), (3, 2, 20), (9, 9, 40)] {
        let mut reporter = Reporter::new("node-a".to_owned());
        for rev in 1..=4_u64 {
            let seen = Seen { services: rev * 10, gateways: rev * 10 };
            let model = Arc::new(Model { rev, seen, ..Model::default() });
            reporter.update(&Facts { model, ..Facts::default() });
        }
        let mut facts = Facts { model: Arc::new(Model { rev: 4, ..Model::default() }), ..Facts::default() };
        (facts.applied.rev, facts.routed) = (applied, routed);
        reporter.update(&facts);
        assert_eq!(reporter.report().seen.gateways, want, "maps at {applied}, proxy at {routed}");
    }
}
