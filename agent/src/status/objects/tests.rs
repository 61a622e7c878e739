use serde_json::{Value, json};

use super::*;
use crate::{
    config::route_hosts::RouteHosts,
    membership::{Report, Revisions},
    model::{Memo, Node, Role, fixture, ipam},
    source::snapshot::Seen,
    status::version::Bundle,
};

const NEVER: Duration = Duration::from_secs(3600);
const COUNT: usize = 1_000;

/// A leader's view of many Services with addresses, and of a Gateway.
struct World {
    snapshot: Snapshot,
    memo: Memo,
    node: Node,
    members: Arc<Members>,
    revisions: Revisions,
    objects: Objects,
}

fn service(n: usize, revision: usize) -> Value {
    let address = format!("10.0.{}.{}", n / 250, n % 250 + 1);
    json!({"kind": "Service",
        "metadata": {"name": format!("s{n:04}"), "uid": format!("u{n}"), "resourceVersion": revision.to_string(),
            "annotations": {ipam::ALLOCATED: address}, "finalizers": [ipam::FINALIZER]},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
}

fn name(n: usize) -> String {
    format!("Service default/s{n:04}")
}

impl World {
    /// Service n has revision n + 1, the Gateway 5000.
    fn new() -> Self {
        let mut snapshot = fixture::snapshot(&json!([
            {"kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": "sluice.dev/gateway"}},
            {"kind": "Gateway", "metadata": {"name": "edge", "resourceVersion": "5000",
                "annotations": {ipam::ALLOCATED: "10.0.200.1"}}, "spec": {"gatewayClassName": "c",
                "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}},
        ]));
        (0..COUNT).for_each(|n| fixture::add(&mut snapshot, &service(n, n + 1)).unwrap());
        Self {
            snapshot,
            memo: Memo::default(),
            node: Node { role: Role::Member, ..fixture::node(&["10.0.0.0/16"]) },
            members: Arc::default(),
            revisions: Revisions::default(),
            objects: Objects::default(),
        }
    }

    /// Looks; what is due needs nothing, but for what stands in `keep`.
    fn look(&mut self, again: Duration, keep: &[&str]) -> Vec<String> {
        let model = self.memo.compile(&Arc::new(self.snapshot.clone()), &self.node);
        self.revisions.follow(&self.snapshot);
        let (hosts, bundle) = (RouteHosts::default(), Bundle::Unknown);
        let Self { snapshot, members, revisions, objects, .. } = self;
        let view = View { model: &model, members, revisions, route_hosts: &hosts, bundle: &bundle };
        objects.look(snapshot, &view, members, again);
        let due: Vec<ObjectRef> = objects.due().iter().cloned().collect();
        for object in due.iter().filter(|object| !keep.contains(&object.to_string().as_str())) {
            objects.is_well(object, snapshot, &view);
        }
        due.iter().map(ToString::to_string).collect()
    }

    /// Every node has programmed all up to a revision.
    fn report(&mut self, seen: u64, also: impl Fn(&mut Report)) {
        let mut report = Report { seen: Seen { services: seen, gateways: seen }, ..Report::default() };
        also(&mut report);
        let alive = ["a", "b"].map(|node| (node.to_owned(), report.clone()));
        self.members = Arc::new(Members { alive: alive.into(), is_blind: false });
    }
}

#[test]
fn what_has_changed_is_planned_and_nothing_else() {
    let mut world = World::new();
    assert_eq!(world.look(NEVER, &[]).len(), COUNT + 1, "all, at first");
    assert_eq!(world.look(NEVER, &[]), [""; 0]);
    let mut changed = service(7, 6_000);
    changed["metadata"]["labels"] = json!({"a": "b"});
    fixture::add(&mut world.snapshot, &changed).unwrap();
    assert_eq!(world.look(NEVER, &[&name(7)]), [name(7)], "the one that changed");
    assert_eq!(world.look(NEVER, &[]), [name(7)], "what is not done yet");
    fixture::add(&mut world.snapshot, &service(COUNT, 6_001)).unwrap();
    assert_eq!(world.look(NEVER, &[]), [name(COUNT)], "one that is new");
    world.snapshot.services.remove(&ObjectName::new("default", "s0007"));
    assert_eq!(world.look(NEVER, &[]), [""; 0], "one that is gone");
    assert_eq!(world.look(Duration::ZERO, &[]).len(), COUNT + 1, "all, now and then");
    world.snapshot.off.insert("routes.route.openshift.io".to_owned(), Off::Absent);
    assert_eq!(world.look(NEVER, &[]).len(), COUNT + 1, "all, when a kind is there or not");
    assert_eq!(world.look(NEVER, &[]), [""; 0]);
}

#[test]
fn what_waits_for_nodes_is_planned_when_they_have_programmed_it() {
    let mut world = World::new();
    world.look(NEVER, &[]);
    for seen in [0, 100, 101, 101, 0] {
        world.report(seen, |_| ());
        let want: Vec<String> = match seen {
            100 => (0..100).map(name).collect(),
            101 => world
                .objects
                .waiting
                .iter()
                .any(|o| o.to_string() == name(100))
                .then(|| name(100))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        };
        assert_eq!(world.look(NEVER, &[]), want, "seen up to {seen}");
    }
    // One that is not programmed after all goes on waiting, and nothing of what was planned does.
    world.report(200, |report| report.except = [name(150)].into());
    assert_eq!(world.look(NEVER, &[]).len(), 98);
    world.report(200, |_| ());
    assert_eq!(world.look(NEVER, &[]), [name(150)]);
}

#[test]
fn what_a_node_says_of_an_object_has_that_object_planned() {
    let mut world = World::new();
    world.report(9_000, |_| ());
    world.look(NEVER, &[]);
    assert_eq!(world.look(NEVER, &[]), [""; 0]);
    world.report(9_000, |report| drop(report.lacking.insert(name(3), "10.9.9.9: no route leads there".to_owned())));
    assert_eq!(world.look(NEVER, &[]), [name(3)]);
    world.report(9_001, |report| drop(report.lacking.insert(name(3), "10.9.9.9: no route leads there".to_owned())));
    assert_eq!(world.look(NEVER, &[]), [""; 0]);
    world.report(9_001, |report| drop(report.conflicts.insert("10.0.0.5".parse().unwrap(), "taken".to_owned())));
    assert_eq!(world.look(NEVER, &[]), [name(3), name(4)], "one is well again, the other is not");
    world.report(9_001, |_| ());
    assert_eq!(world.look(NEVER, &[]), [name(4)]);
}
