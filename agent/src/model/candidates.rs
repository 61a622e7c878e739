//! Which nodes may announce a VIP, which one does, and which one would without it.
//!
//! In: the nodes that live, the Nodes and Services of the snapshot, the addresses that objects have. Out: one node for each
//! VIP, and the next in order; every node of the cluster finds the same ones.
//!
//! # Design
//! - A node is left out that cannot serve the VIP: a Gateway's, or that of a Service before a Gateway, where the proxy
//!   takes no connections, one of another Service with `externalTrafficPolicy: Local` where none of its endpoints runs.
//! - A node is left out that is to be spared: not ready, without network, or labelled [`EXCLUDE`].
//! - Where this leaves nobody, a rule is dropped again: an address that answers badly is better than one that is silent.
//! - What was found is kept with the nodes that it was chosen from ([`Announcers`]). When a node goes, the VIPs alone are weighed
//!   anew that it was first or second for, and when one comes it alone is weighed: of thousands of nodes and VIPs, a death costs
//!   its own share.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Allocations, ObjectRef,
    announce::{Choice, first_two},
    chain::Links,
    endpoints::SliceIndex,
    is_same_node,
};
use crate::{
    api::{Node, ObjectName, endpoint_slice::Endpoint, service::TrafficPolicy},
    source::Snapshot,
};

/// Keeps load balancers off a Node. Source: well-known labels.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A node that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its proxy takes connections.
    pub has_proxy: bool,
}

/// Nodes that may announce a VIP, in the order of their names.
type Able = Arc<Vec<Arc<str>>>;

/// The announcer of every address that is given.
#[derive(Debug, Default)]
pub struct Announcers {
    /// With the nodes that each was chosen from.
    chosen: BTreeMap<IpAddr, (Able, Choice)>,
    /// Those that most VIPs were chosen from: every node that is fit, and of these every one with a proxy.
    common: [Able; 2],
    weighed: u64,
}

impl Announcers {
    /// Chooses anew, as far as what is chosen from has changed. `candidates` are in the order of their names.
    pub fn choose(
        &mut self,
        candidates: &[Candidate],
        allocations: &Allocations,
        snapshot: &Snapshot,
        slices: &SliceIndex,
        links: &Links,
    ) {
        let names = |of: &mut dyn Iterator<Item = &Candidate>| -> Vec<Arc<str>> {
            of.map(|c| Arc::from(c.name.as_str())).collect()
        };
        let spared = |c: &&Candidate| !snapshot.nodes.get(&c.name).is_some_and(is_spared);
        let fit = or(names(&mut candidates.iter().filter(spared)), || names(&mut candidates.iter()));
        let proxies: BTreeSet<&str> = candidates.iter().filter(|c| c.has_proxy).map(|c| c.name.as_str()).collect();
        let with_proxy =
            |of: &[Arc<str>]| or(of.iter().filter(|n| proxies.contains(&***n)).cloned().collect(), || of.to_vec());
        let proxied = with_proxy(&fit);
        let common = [keep(&self.common[0], fit), keep(&self.common[1], proxied)];
        let mut steps = Steps::default();

        let is_proxied = |object: &ObjectRef| {
            object.kind == "Gateway" || links.get(&object.object).is_some_and(super::chain::Link::is_served)
        };
        let mut sharers: BTreeMap<IpAddr, Vec<&ObjectRef>> = BTreeMap::new();
        for (object, addrs) in allocations {
            for addr in addrs {
                sharers.entry(*addr).or_default().push(object);
            }
        }
        let last = std::mem::take(&mut self.chosen);
        for (addr, objects) in sharers {
            let mut able = Arc::clone(&common[0]);
            for object in objects {
                if is_proxied(object) {
                    able = if Arc::ptr_eq(&able, &common[0]) {
                        Arc::clone(&common[1])
                    } else {
                        Arc::new(with_proxy(&able))
                    };
                } else if let Some(nodes) = local_nodes(&object.object, snapshot, slices) {
                    let has_endpoint = |name: &&Arc<str>| nodes.iter().any(|node| is_same_node(name, node));
                    able = Arc::new(or(able.iter().filter(has_endpoint).cloned().collect(), || able.to_vec()));
                }
            }
            let choice = match last.get(&addr) {
                Some((of, choice)) if Arc::ptr_eq(of, &able) => Some(choice.clone()),
                Some((of, choice)) => steps.between(of, &able).follow(addr, choice, &able, &mut self.weighed),
                None => first_two(addr, able.iter(), &mut self.weighed),
            };
            self.chosen.extend(choice.map(|choice| (addr, (able, choice))));
        }
        self.common = common;
    }

    /// By address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Choice)> {
        self.chosen.iter().map(|(addr, (_, choice))| (*addr, choice))
    }

    /// Whose an address is.
    #[must_use]
    pub fn get(&self, addr: IpAddr) -> Option<&Choice> {
        self.chosen.get(&addr).map(|(_, choice)| choice)
    }

    /// How often a node was weighed for a VIP so far.
    #[must_use]
    pub fn weighed(&self) -> u64 {
        self.weighed
    }
}

/// What lies between two lists of nodes.
#[derive(Default)]
struct Step {
    gone: BTreeSet<Arc<str>>,
    come: Vec<Arc<str>>,
}

impl Step {
    /// Who announces a VIP after it, `able` being the list then.
    fn follow(&self, vip: IpAddr, last: &Choice, able: &Able, weighed: &mut u64) -> Option<Choice> {
        // Where there was no second, each that comes is one.
        let is_gone = self.gone.contains(&last.by) || last.next.as_ref().is_some_and(|next| self.gone.contains(next));
        if is_gone {
            return first_two(vip, able.iter(), weighed);
        }
        if self.come.is_empty() {
            return Some(last.clone());
        }
        first_two(vip, [&last.by].into_iter().chain(&last.next).chain(&self.come), weighed)
    }
}

/// The steps from one list to another that were looked at last: few lists serve nearly all VIPs.
#[derive(Default)]
struct Steps(Vec<(Able, Able, Arc<Step>)>);

impl Steps {
    /// So many are kept.
    const KEPT: usize = 4;

    fn between(&mut self, old: &Able, new: &Able) -> Arc<Step> {
        let known = self.0.iter().find(|(a, b, _)| Arc::ptr_eq(a, old) && Arc::ptr_eq(b, new));
        if let Some((_, _, step)) = known {
            return Arc::clone(step);
        }
        let (before, after): (BTreeSet<&Arc<str>>, BTreeSet<&Arc<str>>) = (old.iter().collect(), new.iter().collect());
        let gone = before.difference(&after).map(|name| Arc::clone(name)).collect();
        let come = after.difference(&before).map(|name| Arc::clone(name)).collect();
        let step = Arc::new(Step { gone, come });
        self.0.truncate(Self::KEPT - 1);
        self.0.insert(0, (Arc::clone(old), Arc::clone(new), Arc::clone(&step)));
        step
    }
}

/// The list of before, where it is the same.
fn keep(last: &Able, new: Vec<Arc<str>>) -> Able {
    if **last == new { Arc::clone(last) } else { Arc::new(new) }
}

/// The first where it is not empty.
fn or<'a>(narrowed: Vec<Arc<str>>, wide: impl FnOnce() -> Vec<Arc<str>> + 'a) -> Vec<Arc<str>> {
    if narrowed.is_empty() { wide() } else { narrowed }
}

fn is_spared(node: &Arc<Node>) -> bool {
    let is = |type_: &str, status: &str| node.status.conditions.iter().any(|c| c.type_ == type_ && c.status == status);
    node.metadata.labels.contains_key(EXCLUDE)
        || is("NetworkUnavailable", "True")
        || is("Ready", "False")
        || is("Ready", "Unknown")
}

/// The nodes where a Service with `externalTrafficPolicy: Local` has endpoints; `None` for every other Service.
fn local_nodes(service: &ObjectName, snapshot: &Snapshot, slices: &SliceIndex) -> Option<BTreeSet<String>> {
    let is_local =
        snapshot.services.get(service).is_some_and(|s| s.spec.external_traffic_policy.is(TrafficPolicy::Local));
    let endpoints = || slices.of(service).iter().flat_map(|slice| &slice.endpoints);
    // Ready ones, and those that end but still serve: the fall-back when none is ready.
    let serves = |e: &&Endpoint| e.conditions.ready.unwrap_or(true) || e.conditions.serving == Some(true);
    is_local.then(|| endpoints().filter(serves).filter_map(|e| e.node_name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn choose(candidates: &[Candidate], given: &Allocations, snapshot: &Snapshot) -> Announcers {
        let mut announcers = Announcers::default();
        announcers.choose(candidates, given, snapshot, &SliceIndex::new(snapshot), &Links::new());
        announcers
    }

    /// Who would announce the same VIP if the announcer were not there.
    fn heir(candidates: &[Candidate]) -> Option<String> {
        let vip: IpAddr = "203.0.113.1".parse().unwrap();
        let given = Allocations::from([(ObjectRef::new("Service", ObjectName::new("default", "web")), vec![vip])]);
        let snapshot = Snapshot::default();
        choose(candidates, &given, &snapshot).get(vip)?.next.as_ref().map(ToString::to_string)
    }

    fn candidates(names: &[&str]) -> Vec<Candidate> {
        names.iter().map(|n| Candidate { name: (*n).to_owned(), has_proxy: true }).collect()
    }

    fn chosen(candidates: &[Candidate], kind: &str, snapshot: &Snapshot) -> Option<String> {
        let vip: IpAddr = "203.0.113.1".parse().unwrap();
        let object = ObjectRef::new(kind, ObjectName::new("default", "web"));
        let given = Allocations::from([(object, vec![vip])]);
        choose(candidates, &given, snapshot).get(vip).map(|choice| choice.by.to_string())
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, metadata: Value, conditions: Value) -> (String, Arc<Node>) {
        let mut object = json!({"metadata": metadata, "status": {"conditions": conditions}});
        object["metadata"]["name"] = name.into();
        (name.to_owned(), read(object))
    }

    #[test]
    fn s99_exactly_one_of_those_that_live_and_the_same_for_everybody() {
        let snapshot = Snapshot::default();
        let all = candidates(&["a", "b", "c"]);
        let first = chosen(&all, "Service", &snapshot).unwrap();
        let turned: Vec<Candidate> = all.iter().rev().cloned().collect();
        assert_eq!(chosen(&turned, "Service", &snapshot), Some(first.clone()));
        let left: Vec<Candidate> = all.iter().filter(|c| c.name != first).cloned().collect();
        let next = chosen(&left, "Service", &snapshot).unwrap();
        assert_ne!(next, first, "the next one takes over");
        assert_eq!(heir(&all), Some(next), "and is known before");
        assert_eq!(heir(&candidates(&["a"])), None);
        assert_eq!(chosen(&[], "Service", &snapshot), None);
    }

    /// Of 300 nodes and 2,000 VIPs, one that dies is weighed nowhere, and the others for its own VIPs and those that it stood by for.
    #[test]
    fn a_node_that_comes_or_goes_costs_its_share() {
        let names: Vec<String> = (100..400).map(|n| format!("node-{n}")).collect();
        let all = candidates(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let vip = |n: u16| IpAddr::from([198, 18, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let object = |n: u16| ObjectRef::new("Service", ObjectName::new("default", format!("s{n}")));
        let given: Allocations = (0..2_000).map(|n| (object(n), vec![vip(n)])).collect();
        let snapshot = Snapshot::default();
        let (slices, links) = (SliceIndex::new(&snapshot), Links::new());
        let mut known = choose(&all, &given, &snapshot);
        assert_eq!(known.weighed(), 300 * 2_000);
        let mut step = |candidates: &[Candidate], gone: &str| {
            let is_of = |(_, c): &(IpAddr, &Choice)| &*c.by == gone || c.next.as_deref() == Some(gone);
            let (share, before) = (known.iter().filter(is_of).count() as u64, known.weighed());
            known.choose(candidates, &given, &snapshot, &slices, &links);
            assert!(known.iter().eq(choose(candidates, &given, &snapshot).iter()), "as who chooses anew");
            (known.weighed() - before, share)
        };
        let left: Vec<Candidate> = all.iter().filter(|c| c.name != "node-123").cloned().collect();
        let (weighed, share) = step(&left, "node-123");
        assert!((1..60).contains(&share), "2,000 VIPs, two of 300 nodes each: {share}");
        assert_eq!(weighed, share * 299);
        assert_eq!(step(&left, "nobody"), (0, 0));
        assert_eq!(step(&all, "nobody"), (2_000 * 3, 0), "the one that comes, beside the two that are known");
    }

    #[test]
    fn s100_a_node_that_is_to_be_spared_does_not_announce_unless_there_is_no_other() {
        let all = candidates(&["a", "b"]);
        let spared = [
            (json!({"labels": {EXCLUDE: ""}}), json!([])),
            (json!({}), json!([{"type": "Ready", "status": "Unknown"}])),
            (json!({}), json!([{"type": "NetworkUnavailable", "status": "True"}])),
        ];
        for (metadata, conditions) in spared {
            for name in ["a", "b"] {
                let mut snapshot = Snapshot::default();
                snapshot.nodes.extend([node(name, metadata.clone(), conditions.clone())]);
                assert_ne!(chosen(&all, "Service", &snapshot).as_deref(), Some(name));
                assert_eq!(chosen(&candidates(&[name]), "Service", &snapshot).as_deref(), Some(name));
            }
        }
    }

    #[test]
    fn s52_under_policy_local_a_node_with_an_endpoint_announces() {
        let all = candidates(&["a", "b", "c"]);
        let mut snapshot = Snapshot::default();
        let service = json!({"metadata": {"name": "web"}, "spec": {"externalTrafficPolicy": "Local"}});
        snapshot.services.insert(ObjectName::new("default", "web"), read(service));
        for (holder, conditions) in [("a", json!({})), ("c", json!({"ready": false, "serving": true}))] {
            let slice = json!({
                "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "nodeName": holder, "conditions": conditions},
                    {"addresses": ["10.0.0.2"], "nodeName": "b", "conditions": {"ready": false}},
                ],
            });
            snapshot.slices.insert(ObjectName::new("default", "web-1"), read(slice));
            assert_eq!(chosen(&all, "Service", &snapshot).as_deref(), Some(holder));
        }
        snapshot.slices.clear();
        assert!(chosen(&all, "Service", &snapshot).is_some(), "without an endpoint somebody still answers");
    }

    #[test]
    fn s151_a_gateway_is_announced_where_the_proxy_takes_connections() {
        let mut all = candidates(&["a", "b"]);
        all[0].has_proxy = false;
        assert_eq!(chosen(&all, "Gateway", &Snapshot::default()).as_deref(), Some("b"));
        all[1].has_proxy = false;
        assert!(chosen(&all, "Gateway", &Snapshot::default()).is_some());
    }
}
