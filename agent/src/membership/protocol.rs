//! The report protocol as a whole: nodes that program, report and restart in any order, and a leader that reads them late.
//!
//! What is checked at each step: no object is called programmed while a node that serves it has never programmed it as it is. At
//! the end, once nothing fails and every node has looked once more: every object is, without a renewal where it is not shown yet.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::json;

use super::{
    Members, REPORT, Report, Revisions,
    report::MAX_EXCEPT,
    reporter::{Facts, Reporter},
};
use crate::{
    api::{Lease, ObjectName},
    config::route_hosts::RouteHosts,
    model::{Model, ObjectRef, fixture, ipam},
    source::{Snapshot, snapshot::Seen},
    status::{version::Bundle, view::View},
};

const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const OBJECTS: usize = 4;

/// What happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody changes what is to be programmed of an object.
    Change(usize),
    /// Its status alone is written: the address is shown, or not.
    Status(usize, bool),
    /// Another node announces it; `None`: nobody, so that all serve it.
    Announce(usize, Option<usize>),
    /// A node compiles what it has read.
    Compile(usize),
    /// Its maps follow.
    Apply(usize),
    /// Its proxy does.
    Route(usize),
    /// An object finds no room on a node, or does again.
    Fail(usize, usize, bool),
    /// So do more objects than fit into a report, before and after all others in the order of names.
    Flood(usize, bool),
    /// A node renews its Lease.
    Renew(usize),
    /// It writes early, if anybody waits for it.
    Early(usize),
    /// The agent restarts; its maps stay.
    Restart(usize),
    /// An agent of another version writes the Lease, one of [`odd`].
    Other(usize, usize),
    /// The leader reads objects and its own model follows.
    Lead,
    /// It reads a Lease.
    Read(usize),
    /// It takes a node for dead.
    Bury(usize),
}

/// A report of another version, that claims to have programmed all there will ever be, or what it has not.
fn odd(which: usize) -> String {
    let all = r#""seen": {"services": 1000000, "gateways": 1000000}"#;
    let cut: Vec<String> = (0..MAX_EXCEPT).map(|n| format!("\"Service a/f{n:03}\"")).collect();
    match which {
        0 => format!(r#"{{"format": 9, {all}, "except": []}}"#),
        1 => format!(r#"{{"format": 2, {all}}}"#),
        2 => format!(r#"{{{all}}}"#),
        3 => format!(r#"{{{all}, "except": [{}]}}"#, cut.join(",")),
        4 => format!(r#"{{{all}, "except": {{"Service default/o0": "no room"}}}}"#),
        _ => "nonsense".to_owned(),
    }
}

struct Node {
    reporter: Reporter,
    facts: Facts,
    /// The models that were compiled, by revision, with what they hold.
    compiled: BTreeMap<u64, (Arc<Model>, BTreeMap<usize, u64>)>,
    failing: BTreeSet<usize>,
    is_flooded: bool,
    /// Up to which revision each object was programmed, ever, in the maps; and in the proxy.
    maps: BTreeMap<usize, u64>,
    proxy: BTreeMap<usize, u64>,
    /// The Lease as the API server has it.
    lease: String,
}

struct World {
    now: Instant,
    revision: u64,
    /// The objects: the revision of what is to be programmed, and whether the address is shown.
    contents: BTreeMap<usize, u64>,
    snapshot: Snapshot,
    announcers: BTreeMap<IpAddr, String>,
    nodes: Vec<Node>,
    /// The leader's.
    read: (Snapshot, BTreeMap<usize, u64>, Model),
    revisions: Revisions,
    members: Members,
}

fn object(n: usize) -> ObjectRef {
    ObjectRef::new("Service", ObjectName::new("default", format!("o{n}")))
}

fn vip(n: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(n).unwrap() + 1])
}

impl Node {
    fn new(n: usize) -> Self {
        Self {
            reporter: Reporter::new(NODES[n].to_owned()),
            facts: Facts::default(),
            compiled: BTreeMap::new(),
            failing: BTreeSet::new(),
            is_flooded: false,
            maps: BTreeMap::new(),
            proxy: BTreeMap::new(),
            lease: String::new(),
        }
    }

    fn apply(&mut self) {
        let Some((rev, (_, held))) = self.compiled.last_key_value() else { return };
        self.facts.applied.rev = *rev;
        for (n, revision) in held.iter().filter(|(n, _)| !self.failing.contains(n)) {
            let known = self.maps.entry(*n).or_default();
            *known = (*known).max(*revision);
        }
        let failing = self.failing.iter().map(|n| object(*n).to_string());
        let flood = |ns: &'static str| (0..MAX_EXCEPT).map(move |n| format!("Service {ns}/f{n:03}"));
        let flood = flood("a").chain(flood("z")).filter(|_| self.is_flooded);
        self.facts.applied.unprogrammed = flood.chain(failing).map(|object| (object, "no room".to_owned())).collect();
    }

    fn route(&mut self) {
        let Some((rev, (_, held))) = self.compiled.last_key_value() else { return };
        self.facts.routed = *rev;
        self.proxy.clone_from(held);
    }

    /// Whether it has programmed an object as it is at this revision, or was later.
    fn has(&self, n: usize, revision: u64) -> bool {
        [&self.maps, &self.proxy].iter().all(|known| known.get(&n).is_some_and(|known| *known >= revision))
    }

    fn write(&mut self, now: Instant, is_early: bool) {
        self.reporter.update(&self.facts);
        self.lease = self.reporter.report().text();
        self.reporter.note(now, is_early, true);
    }

    fn early(&mut self, now: Instant) {
        self.reporter.update(&self.facts);
        if self.reporter.early(&self.facts.model, now).is_some() {
            self.write(now, true);
        }
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Instant::now(),
            revision: 10,
            contents: BTreeMap::new(),
            snapshot: Snapshot::default(),
            announcers: BTreeMap::new(),
            nodes: (0..NODES.len()).map(Node::new).collect(),
            read: (Snapshot::default(), BTreeMap::new(), Model::default()),
            revisions: Revisions::default(),
            members: Members::default(),
        };
        (0..OBJECTS).for_each(|n| world.change(n, false, true));
        world
    }

    /// Writes an object: its address is shown or not, and what is to be programmed is another or not.
    fn change(&mut self, n: usize, is_shown: bool, is_content: bool) {
        self.revision += 1;
        let known = self.contents.entry(n).or_insert(self.revision);
        if is_content {
            *known = self.revision;
        }
        let ingress = if is_shown { json!([{"ip": vip(n)}]) } else { json!([]) };
        let service = json!({"kind": "Service",
            "metadata": {"name": object(n).object.name, "uid": "u", "resourceVersion": self.revision.to_string(),
                "annotations": {ipam::ALLOCATED: vip(n).to_string(), "content": known.to_string()},
                "finalizers": [ipam::FINALIZER]},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": ingress}}});
        fixture::add(&mut self.snapshot, &service).unwrap();
        self.snapshot.seen = Seen { services: self.revision, gateways: self.revision };
    }

    fn compile(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let own = self.announcers.iter().filter(|(_, by)| *by == NODES[n]).map(|(vip, _)| *vip);
        let model = Arc::new(Model {
            rev: node.facts.model.rev + 1,
            seen: self.snapshot.seen,
            announced: Arc::new(own.collect()),
            announcers: Arc::new(self.announcers.clone()),
            allocations: Arc::new((0..OBJECTS).map(|n| (object(n), vec![vip(n)])).collect()),
            ..Model::default()
        });
        node.compiled.insert(model.rev, (Arc::clone(&model), self.contents.clone()));
        (node.facts.model, node.facts.snapshot) = (model, Some(Arc::new(self.snapshot.clone())));
        node.reporter.update(&node.facts);
    }

    fn lead(&mut self) {
        let announcers = Arc::new(self.announcers.clone());
        let model = Model { announcers, seen: self.snapshot.seen, ..Model::default() };
        self.read = (self.snapshot.clone(), self.contents.clone(), model);
        self.revisions.follow(&self.read.0);
    }

    fn hear(&mut self, n: usize) {
        let mut lease = Lease::default();
        lease.metadata.annotations.insert(REPORT.to_owned(), self.nodes[n].lease.clone());
        self.members.alive.insert(NODES[n].to_owned(), Report::of(&lease).unwrap_or_default());
    }

    fn step(&mut self, step: Step) {
        self.now += Duration::from_millis(20);
        let now = self.now;
        match step {
            Step::Change(n) => {
                let entry = &self.snapshot.services[&object(n).object].status.load_balancer.ingress;
                let is_shown = !entry.is_empty();
                self.change(n, is_shown, true);
            }
            Step::Status(n, is_shown) => self.change(n, is_shown, false),
            Step::Announce(n, Some(by)) => drop(self.announcers.insert(vip(n), NODES[by].to_owned())),
            Step::Announce(n, None) => drop(self.announcers.remove(&vip(n))),
            Step::Compile(n) => self.compile(n),
            Step::Apply(n) => self.nodes[n].apply(),
            Step::Route(n) => self.nodes[n].route(),
            Step::Fail(n, object, true) => drop(self.nodes[n].failing.insert(object)),
            Step::Fail(n, object, false) => drop(self.nodes[n].failing.remove(&object)),
            Step::Flood(n, is_flooded) => self.nodes[n].is_flooded = is_flooded,
            Step::Renew(n) => self.nodes[n].write(now, false),
            Step::Early(n) => self.nodes[n].early(now),
            Step::Restart(n) => {
                let node = &mut self.nodes[n];
                let lease = std::mem::take(&mut node.lease);
                let (maps, proxy) = (std::mem::take(&mut node.maps), std::mem::take(&mut node.proxy));
                let failing = std::mem::take(&mut node.failing);
                *node = Node { maps, proxy, lease, failing, ..Node::new(n) };
            }
            Step::Other(n, which) => self.nodes[n].lease = odd(which),
            Step::Lead => self.lead(),
            Step::Read(n) => self.hear(n),
            Step::Bury(n) => drop(self.members.alive.remove(NODES[n])),
        }
    }

    fn is_called_programmed(&self, n: usize) -> bool {
        let (hosts, bundle) = (RouteHosts::default(), Bundle::Unknown);
        let Self { read: (snapshot, _, model), members, revisions, .. } = self;
        let view = View { model, members, revisions, route_hosts: &hosts, bundle: &bundle };
        let object = object(n);
        let Some(service) = snapshot.services.get(&object.object) else { return false };
        view.is_programmed(&object, &service.metadata, &[vip(n)])
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let (_, contents, model) = &self.read;
        for (n, revision) in contents.iter().filter(|(n, _)| self.is_called_programmed(**n)) {
            let by = model.announcers.get(&vip(*n));
            let all = self.nodes.iter().enumerate();
            let serving = all.filter(|(at, _)| match by {
                Some(by) => by == NODES[*at],
                None => self.members.alive.contains_key(NODES[*at]),
            });
            let serving: Vec<_> = serving.collect();
            prop_assert!(!serving.is_empty(), "o{n} at {revision}: nobody serves it");
            for (at, node) in serving {
                prop_assert!(node.has(*n, *revision), "o{n} at {revision}: {} has not programmed it", NODES[at]);
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (node, object) = (0..NODES.len(), 0..OBJECTS);
    let step = prop_oneof![
        3 => object.clone().prop_map(Step::Change),
        2 => (object.clone(), any::<bool>()).prop_map(|(n, is)| Step::Status(n, is)),
        1 => (object.clone(), prop::option::of(node.clone())).prop_map(|(n, by)| Step::Announce(n, by)),
        4 => node.clone().prop_map(Step::Compile),
        4 => node.clone().prop_map(Step::Apply),
        4 => node.clone().prop_map(Step::Route),
        2 => (node.clone(), object, any::<bool>()).prop_map(|(n, o, is)| Step::Fail(n, o, is)),
        1 => (node.clone(), any::<bool>()).prop_map(|(n, is)| Step::Flood(n, is)),
        3 => node.clone().prop_map(Step::Renew),
        3 => node.clone().prop_map(Step::Early),
        1 => node.clone().prop_map(Step::Restart),
        1 => (node.clone(), 0..6_usize).prop_map(|(n, which)| Step::Other(n, which)),
        3 => Just(Step::Lead),
        6 => node.clone().prop_map(Step::Read),
        1 => node.prop_map(Step::Bury),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Issue 10.
    #[test]
    fn nothing_is_called_programmed_that_a_node_which_serves_it_has_not(steps in steps()) {
        let mut world = World::new();
        world.check()?;
        for step in steps {
            world.step(step);
            world.check()?;
        }
        // Nothing fails any more.
        for n in 0..NODES.len() {
            (world.nodes[n].failing, world.nodes[n].is_flooded) = (BTreeSet::new(), false);
            world.compile(n);
            world.nodes[n].apply();
            world.nodes[n].route();
            world.step(Step::Renew(n));
        }
        for n in 0..OBJECTS {
            world.change(n, n == 0, true);
        }
        world.lead();
        for n in 0..NODES.len() {
            world.compile(n);
            world.nodes[n].apply();
            world.nodes[n].route();
            world.step(Step::Early(n));
            world.step(Step::Read(n));
            world.check()?;
        }
        for n in 1..OBJECTS {
            prop_assert!(world.is_called_programmed(n), "o{n} waits although nothing is in its way");
        }
        for n in 0..NODES.len() {
            world.step(Step::Renew(n));
            world.step(Step::Read(n));
        }
        prop_assert!(world.is_called_programmed(0));
        world.check()?;
    }
}
