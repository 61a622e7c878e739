//! Whatever models came before, the rows and the plan are those of the last one alone.
use proptest::prelude::*;
use sluice_ebpf::{BACKEND_LOCAL, BACKEND_REMOTE};

use super::*;
use crate::{
    api::ObjectName,
    datapath::{
        capacity::Capacity,
        plan::{Observed, State},
    },
    model::{Backend, EndpointShare, Locality, ObjectRef, Port, Proto, Ranges, WhenEmpty},
};

fn backend((n, locality): &(u8, u8)) -> Backend {
    let locality = [Locality::Local, Locality::Remote, Locality::Unknown][usize::from(locality % 3)];
    Backend { addr: [10, 244, 0, *n].into(), port: Port::try_new(8080).unwrap(), locality }
}

/// What the host has for itself.
const HOST: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3)), IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)];

fn on_uplinks(addresses: &[IpAddr]) -> HostAddresses {
    let on_uplinks: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    HostAddresses { anywhere: on_uplinks.clone(), on_uplinks }
}

/// A frontend: VIP, whether UDP, its target, and its list; no flags: the proxy.
type Drawn = BTreeMap<(u8, bool), (Vec<(u8, u8)>, Vec<(u8, u8)>, u8, u8)>;

/// The list that a number stands for; 0 is no list.
fn sources(n: u8) -> Option<Ranges> {
    (n > 0).then(|| (1..n).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect())
}

fn share<'a>(service: &str, weight: u32, backends: impl Iterator<Item = &'a (u8, u8)>) -> EndpointShare {
    let (service, port) = (ObjectName::new("default", service), Port::try_new(80).unwrap());
    let backends = backends.map(backend).collect();
    EndpointShare { weight, service, port, port_name: String::new(), backends, draining: Vec::new() }
}

fn model(drawn: &Drawn) -> Arc<Model> {
    let name = ObjectName::new("default", "web");
    let frontends = drawn.iter().map(|((vip, is_udp), (backends, draining, flags, list))| {
        let proto = if *is_udp { Proto::Udp } else { Proto::Tcp };
        let frontend = Frontend { vip: [192, 0, 2, *vip].into(), port: Port::try_new(80).unwrap(), proto };
        let target = match flags {
            0 => Target::Proxy { gateway: name.clone(), service: None, sources: sources(*list), created: None },
            flags => {
                let mut shares = if flags & 4 > 0 {
                    // Every other backend is of another Service.
                    let (even, odd) = (backends.iter().step_by(2), backends.iter().skip(1).step_by(2));
                    vec![share("web", 70, even), share("api", 30, odd)]
                } else {
                    vec![share("web", 1, backends.iter())]
                };
                shares[0].draining = draining.iter().map(backend).collect();
                Target::Endpoints(Arc::new(EndpointTarget {
                    owner: ObjectRef::new("Service", name.clone()),
                    route: None,
                    shares,
                    refused: u32::from(flags & 4) * 5,
                    when_empty: if flags & 2 > 0 { WhenEmpty::Drop } else { WhenEmpty::Reject },
                    affinity: flags & 1 > 0,
                    sources: sources(*list),
                    created: None,
                }))
            }
        };
        (frontend, target)
    });
    Arc::new(Model { frontends: frontends.collect(), ..Model::default() })
}

fn any_model() -> impl Strategy<Value = Drawn> {
    let backends = || prop::collection::vec((0..6_u8, 0..3_u8), 0..5);
    prop::collection::btree_map((0..4_u8, any::<bool>()), (backends(), backends(), 0..8_u8, 0..4_u8), 0..6)
}

/// Endpoints that cannot be reached, of other nodes or of unknown place.
fn any_places() -> impl Strategy<Value = BTreeSet<Place>> {
    let place = (0..6_u8, any::<bool>()).prop_map(|(n, remote)| (IpAddr::from([10, 244, 0, n]), remote));
    prop::collection::btree_set(place, 0..4)
}

/// The rows of one model, by the definition of each, where these endpoints cannot be reached.
fn rows(model: &Model, left_out: &BTreeSet<Place>) -> Rows {
    let mut rows = Rows::default();
    for (frontend, target) in &model.frontends {
        let key = frontend_key(frontend);
        let mut row = FrontendRow::new(target);
        row.retain(|b| {
            b.flags & BACKEND_LOCAL != 0 || !left_out.contains(&(ip(b.place.0), b.flags & BACKEND_REMOTE != 0))
        });
        rows.frontends.insert(key, row);
        let vip = rows.vips.entry(key.vip).or_default();
        let at = frontend.vip;
        vip.flags |= if HOST.contains(&at) { VIP_HOST } else { VIP_ECHO | VIP_REJECT };
        // Nobody has asked yet whether another host has it; for the host's own the host does.
        let announce = if HOST.contains(&at) { VIP_ANNOUNCE } else { VIP_PROBE };
        vip.flags |= if model.announced.contains(&at) { announce } else { 0 };
        vip.relay = model.relays.get(&at).map_or(Addr::NONE, |relay| addr(*relay));
        vip.flags |= if matches!(target, Target::Proxy { .. }) { VIP_PROXY } else { 0 };
        vip.frontends += 1;
        let Target::Endpoints(endpoints) = target else { continue };
        rows.backends.extend(endpoints.backends().chain(endpoints.draining()).map(BackendRow::new));
    }
    rows
}

proptest! {
    #[test]
    fn rows_and_plans_of_a_history_are_those_from_scratch(
        history in prop::collection::vec(
            (any_model(), prop::collection::btree_set(0..5_u8, 0..4), 0..3_u8, any_places()),
            1..10,
        ),
    ) {
        let mut desired = Desired::default();
        desired.follow_host(on_uplinks(&HOST));
        let mut following = State::new(&Observed::default(), Capacity::default());
        let mut planning = State::new(&Observed::default(), Capacity::default());
        let mut left_out = BTreeSet::new();
        let mut elsewhere = BTreeSet::new();
        for (drawn, announced, ticks, unreachable) in history {
            let announced: BTreeSet<IpAddr> = announced.into_iter().map(|n| IpAddr::from([192, 0, 2, n])).collect();
            let relays = announced.iter().map(|vip| (*vip, IpAddr::from([198, 51, 100, ticks]))).collect();
            let (announced, relays) = (Arc::new(announced), Arc::new(relays));
            let model = Arc::new(Model { announced, relays, ..Model::clone(&model(&drawn)) });
            let touched = desired.follow(&model);
            prop_assert_eq!(desired.rows(), &rows(&model, &left_out));
            for (place, is_there) in desired.moved() {
                if is_there { elsewhere.insert(place) } else { elsewhere.remove(&place) };
            }
            let places = desired.rows().backends.iter().filter(|row| row.flags & BACKEND_LOCAL == 0).map(place_of);
            prop_assert_eq!(&elsewhere, &places.collect());
            // A whole plan does not know who has left.
            let touched = Touched { left: Vec::new(), ..touched };
            prop_assert_eq!(following.follow(desired.rows(), &touched), planning.plan(&rows(&model, &left_out)));
            left_out = unreachable;
            let touched = Touched { left: Vec::new(), ..desired.leave_out(left_out.clone()) };
            prop_assert_eq!(desired.rows(), &rows(&model, &left_out));
            prop_assert_eq!(following.follow(desired.rows(), &touched), planning.plan(&rows(&model, &left_out)));
            for _ in 0..ticks {
                prop_assert_eq!(following.tick(), planning.tick());
            }
            prop_assert_eq!(following.occupancy(), planning.occupancy());
        }
    }
}

fn one(is_udp: bool, backends: &[u8]) -> Arc<Model> {
    let backends = backends.iter().map(|n| (*n, 0)).collect();
    model(&BTreeMap::from([((1, is_udp), (backends, Vec::new(), 1, 0))]))
}

#[test]
fn the_same_targets_touch_nothing() {
    let mut desired = Desired::default();
    desired.follow(&one(false, &[1, 2]));
    assert_eq!(desired.follow(&one(false, &[1, 2])), Touched::default());
}

#[test]
fn flows_need_a_look_when_a_frontend_goes_or_a_udp_frontend_loses_a_backend() {
    let orphans = |before: &Arc<Model>, after: &Arc<Model>| {
        let mut desired = Desired::default();
        desired.follow(before);
        desired.follow(after).orphans
    };
    assert!(orphans(&one(true, &[1, 2]), &one(true, &[1])));
    assert!(orphans(&one(false, &[1]), &model(&Drawn::new())));
    assert!(!orphans(&one(true, &[1]), &one(true, &[1, 2])), "one more");
    let limited = |flags, list| model(&BTreeMap::from([((1, false), (vec![(1, 0)], Vec::new(), flags, list))]));
    for (before, after) in [(0, 2), (2, 3), (3, 1)] {
        assert!(orphans(&limited(1, before), &limited(1, after)), "S96: other sources, {before} to {after}");
    }
    assert!(!orphans(&limited(1, 2), &limited(3, 2)), "the same sources");
    assert!(!orphans(&one(false, &[1, 2]), &one(false, &[1])), "TCP flows stay for as long as they are answered");
}

/// Frontends by their last number, all of backends without a place.
fn several(all: &[(u8, bool, &[u8])]) -> Arc<Model> {
    let backends = |numbers: &[u8]| numbers.iter().map(|n| (*n, 2)).collect();
    model(&all.iter().map(|(n, is_udp, numbers)| ((*n, *is_udp), (backends(numbers), Vec::new(), 1, 0))).collect())
}

/// A name, the model before and after, who has left as frontend and backend, and whether flows need a look.
type Change = (&'static str, Arc<Model>, Arc<Model>, &'static [(u8, u8)], bool);

#[test]
fn a_backend_that_leaves_a_frontend_has_left_it_whoever_else_has_it() {
    // Issue 8, B1: (a) another Service has it, (b) the same address and port of another protocol, (d) two Services exchange
    // their addresses.
    let cases: [Change; 4] = [
        (
            "a",
            several(&[(1, true, &[1, 2]), (2, true, &[1, 2])]),
            several(&[(1, true, &[1]), (2, true, &[1, 2])]),
            &[(1, 2)],
            true,
        ),
        (
            "b",
            several(&[(1, true, &[1, 2]), (1, false, &[1, 2])]),
            several(&[(1, true, &[1]), (1, false, &[1, 2])]),
            &[(1, 2)],
            true,
        ),
        (
            "d",
            several(&[(1, true, &[1]), (2, true, &[2])]),
            several(&[(1, true, &[2]), (2, true, &[1])]),
            &[(1, 1), (2, 2)],
            true,
        ),
        (
            "TCP",
            several(&[(1, false, &[1, 2]), (2, true, &[1, 2])]),
            several(&[(1, false, &[1]), (2, true, &[1, 2])]),
            &[(1, 2)],
            false,
        ),
    ];
    for (name, before, after, want, orphans) in cases {
        let mut desired = Desired::default();
        desired.follow(&before);
        let touched = desired.follow(&after);
        let got = touched.left.iter().map(|(key, row)| (key.vip.last4()[3], row.place.0.last4()[3]));
        assert_eq!(got.collect::<Vec<_>>(), want, "{name}");
        assert_eq!(touched.orphans, orphans, "{name}");
    }
}

#[test]
fn what_one_frontends_slices_say_of_where_a_backend_runs_counts_for_that_frontend_alone() {
    let at = |locality| (vec![(1, locality)], Vec::new(), 1, 0);
    let mut desired = Desired::default();
    desired.follow(&model(&BTreeMap::from([((1, false), at(0)), ((2, false), at(1)), ((3, false), at(2))])));
    let flags = |n: u8| desired.rows().frontends.values().nth(usize::from(n)).unwrap().backends[0].flags;
    assert_eq!([flags(0), flags(1), flags(2)], [BACKEND_LOCAL, BACKEND_REMOTE, 0]);
    assert_eq!(desired.rows().backends.len(), 3, "three rows of one place");
}

#[test]
fn an_address_that_the_host_gets_keeps_its_frontends_and_loses_the_rest() {
    let vip = addr([192, 0, 2, 1].into());
    let mut desired = Desired::default();
    desired.follow(&one(false, &[1]));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT);
    assert!(desired.follow_host(on_uplinks(&[[192, 0, 2, 1].into()])).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip], Vip { flags: VIP_HOST, frontends: 1, ..Vip::default() });
    assert_eq!(desired.follow_host(on_uplinks(&[[192, 0, 2, 1].into()])), Touched::default(), "nothing new");
    assert!(desired.follow_host(HostAddresses::default()).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT);
}

#[test]
fn a_vip_that_is_bound_on_another_interface_stays_ours_unless_it_is_a_nodes_own_address() {
    let (vip, ip) = (addr([192, 0, 2, 1].into()), IpAddr::from([192, 0, 2, 1]));
    let bound = HostAddresses { on_uplinks: BTreeSet::new(), anywhere: [ip].into() };
    let mut desired = Desired::default();
    desired.follow_host(bound.clone());
    desired.follow(&one(false, &[1]));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT, "kube-ipvs0, lo");
    // The cluster says that it is this node's: in a routed network a node's address is on lo.
    let node = serde_json::json!({
        "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
    });
    let snapshot = crate::model::fixture::snapshot(&serde_json::json!([node]));
    let pools = crate::model::pool::Pools::new(&snapshot, &crate::model::Node::alone("n1"));
    let of_nodes = Arc::new(Model { pools: Arc::new(pools), ..Model::clone(&one(false, &[1])) });
    assert!(desired.follow(&of_nodes).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_HOST | VIP_NODE);
    assert!(desired.follow(&one(false, &[1])).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT);
}

#[test]
fn f10_a_vip_that_is_a_nodes_address_is_known_as_one() {
    let vip = addr([192, 0, 2, 1].into());
    let mut desired = Desired::default();
    let web = one(false, &[1]);
    desired.follow(&web);
    let of_nodes = |nodes: &[IpAddr]| {
        let pools = Arc::new(Pools::of_nodes(nodes.iter().copied().collect()));
        Arc::new(Model { pools, ..Model::clone(&web) })
    };
    // The frontends are the same: a node came, and went.
    assert!(desired.follow(&of_nodes(&[[192, 0, 2, 1].into()])).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT | VIP_NODE);
    assert!(desired.follow(&of_nodes(&[[192, 0, 2, 2].into()])).vips.contains(&vip));
    assert_eq!(desired.rows().vips[&vip].flags, VIP_ECHO | VIP_REJECT);
}

#[test]
fn b7_who_waits_for_an_endpoint_that_is_left_out_chooses_anew_and_its_object_is_named() {
    let mut desired = Desired::default();
    let (here, there) = ((1, 0), (2, 1));
    let drawn = Drawn::from([((9, false), (vec![here, there], Vec::new(), 2, 0))]);
    desired.follow(&model(&drawn));
    let place = (IpAddr::from([10, 244, 0, 2]), true);
    assert_eq!(desired.moved(), [(place, true)]);
    assert_eq!(desired.moved(), [], "it is told once");
    let touched = desired.leave_out(BTreeSet::from([place, (IpAddr::from([10, 244, 0, 1]), true)]));
    let row = BackendRow::new(&backend(&there));
    assert_eq!(touched.left.iter().map(|(_, row)| *row).collect::<Vec<_>>(), [row]);
    assert!(desired.rows().frontends.values().all(|f| f.backends == [BackendRow::new(&backend(&here))]));
    // Open flows go on: the backend stays.
    assert!(desired.rows().backends.contains(&row));
    let lacking = desired.lacking(&BTreeMap::from([(place.0, "no route leads there".to_owned())]));
    let said = "10.244.0.2: no route leads there".to_owned();
    assert_eq!(lacking, BTreeMap::from([("Service default/web".to_owned(), said)]));
    let touched = desired.leave_out(BTreeSet::new());
    assert!(touched.left.is_empty() && touched.frontends.len() == 1);
    assert_eq!(desired.leave_out(BTreeSet::new()), Touched::default(), "nothing has changed");
}
