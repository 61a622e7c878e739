//! Whatever was there, the writes lead to slices that hold what is wanted, and then there is nothing to write.
use std::{net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;

use super::{super::write::Verb, *};
use crate::model::{
    ObjectRef,
    chain::{BindingSource, ChainPort, Endpoints, Link},
};

const NS: &str = "default";

fn endpoint(addr: IpAddr, ready: bool) -> Endpoint {
    let mut endpoint = Endpoint { addresses: vec![addr.to_string()], ..Endpoint::default() };
    endpoint.conditions.ready = Some(ready);
    endpoint
}

fn addr(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low).into()
}

/// A model with a chain from the Service `front`, whose endpoints are these: last bytes, port, state.
fn model(snapshot: &Snapshot, wanted: &BTreeMap<(u16, u16), bool>) -> Model {
    let endpoints: Endpoints = wanted
        .iter()
        .map(|((n, port), ready)| ((addr(*n), Port::try_new((*port).into()).unwrap()), endpoint(addr(*n), *ready)))
        .collect();
    let port = ChainPort {
        name: "http".to_owned(),
        port: Port::try_new(80).unwrap(),
        app_protocol: None,
        listeners: vec!["web".to_owned()],
        routes: BTreeSet::new(),
        services: BTreeSet::new(),
        endpoints: Arc::new(endpoints),
    };
    let link = Link {
        gateway: ObjectName::new(NS, "gw"),
        binding: BindingSource::Label,
        ports: Ok(BTreeSet::new()),
        has_own: false,
    };
    let chain = Chain { link, families: vec![Family::V4], ports: vec![port] };
    let own = snapshot.slices.iter().filter(|(_, slice)| slice.is_ours()).map(|(name, _)| name.clone()).collect();
    Model {
        chains: Arc::new([(ObjectName::new(NS, "front"), chain)].into()),
        own_slices: Arc::new(own),
        ..Model::default()
    }
}

fn snapshot() -> Snapshot {
    let mut service = Service::default();
    let ObjectMeta { name, namespace, uid, .. } = &mut service.metadata;
    (*name, *namespace, *uid) = ("front".to_owned(), NS.to_owned(), "u1".to_owned());
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(ObjectName::new(NS, "front"), Arc::new(service));
    snapshot
}

/// What the API server makes of a write.
fn carry_out(snapshot: &mut Snapshot, write: &Write, counter: &mut u64) {
    let key = write.object.object.clone();
    *counter += 1;
    match write.verb {
        Verb::Create => {
            let mut slice: EndpointSlice = serde_json::from_value(write.body.clone()).unwrap();
            slice.metadata.resource_version = counter.to_string();
            assert!(snapshot.slices.insert(key, Arc::new(slice)).is_none(), "the name is taken");
        }
        Verb::Patch => {
            let mut slice = EndpointSlice::clone(&snapshot.slices[&key]);
            assert_eq!(slice.metadata.resource_version, write.revision);
            slice.endpoints = serde_json::from_value(write.body["endpoints"].clone()).unwrap();
            slice.metadata.owner_references =
                serde_json::from_value(write.body["metadata"]["ownerReferences"].clone()).unwrap();
            slice.metadata.resource_version = counter.to_string();
            snapshot.slices.insert(key, Arc::new(slice));
        }
        Verb::Delete => {
            let conditions = &write.body["preconditions"];
            assert_eq!(conditions["resourceVersion"], snapshot.slices[&key].metadata.resource_version);
            snapshot.slices.remove(&key);
        }
    }
}

fn found(snapshot: &Snapshot) -> BTreeMap<(u16, u16), bool> {
    let mut all = BTreeMap::new();
    for slice in snapshot.slices.values().filter(|slice| slice.is_ours()) {
        assert!(!slice.endpoints.is_empty() && slice.endpoints.len() <= MAX_ENDPOINTS);
        for endpoint in &slice.endpoints {
            let Ok(IpAddr::V4(addr)) = endpoint.addresses[0].parse() else { panic!("{endpoint:?}") };
            let [_, _, high, low] = addr.octets();
            let port = u16::try_from(slice.ports[0].port.unwrap()).unwrap();
            let known = all.insert((u16::from_be_bytes([high, low]), port), endpoint.conditions.ready.unwrap());
            assert!(known.is_none(), "{addr} is there twice");
        }
    }
    all
}

fn wanted() -> impl Strategy<Value = BTreeMap<(u16, u16), bool>> {
    prop::collection::btree_map((0..300_u16, 8080..8082_u16), prop::bool::weighted(0.8), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn any_history_ends_in_what_is_wanted_with_nothing_left_to_write(history in prop::collection::vec(wanted(), 1..6)) {
        let (mut snapshot, mut counter) = (snapshot(), 0);
        for wanted in history {
            for write in plan(&snapshot, &model(&snapshot, &wanted)) {
                carry_out(&mut snapshot, &write, &mut counter);
            }
            prop_assert_eq!(found(&snapshot), wanted.clone());
            prop_assert_eq!(plan(&snapshot, &model(&snapshot, &wanted)), vec![]);
        }
    }

    #[test]
    fn one_endpoint_costs_one_write(wanted in wanted(), n in 0..300_u16) {
        let (mut snapshot, mut counter) = (snapshot(), 0);
        for write in plan(&snapshot, &model(&snapshot, &wanted)) {
            carry_out(&mut snapshot, &write, &mut counter);
        }
        let mut now = wanted;
        if now.remove(&(n, 8080)).is_none() {
            now.insert((n, 8080), true);
        }
        prop_assert_eq!(plan(&snapshot, &model(&snapshot, &now)).len(), 1);
    }
}

fn put(snapshot: &mut Snapshot, name: &str, managed_by: &str, more: &Value) {
    let mut slice = json!({"metadata": {"name": name, "resourceVersion": "7", "labels":
        {SERVICE_NAME_LABEL: "front", MANAGED_BY_LABEL: managed_by}}, "addressType": "IPv4", "endpoints": [],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
    slice.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    snapshot.slices.insert(ObjectName::new(NS, name), Arc::new(serde_json::from_value(slice).unwrap()));
}

#[test]
fn slices_of_others_keep_their_names_and_are_never_written() {
    let mut snapshot = snapshot();
    put(&mut snapshot, "front-sluice-http-8080-ipv4-0", "someone-else", &json!({}));
    let writes = plan(&snapshot, &model(&snapshot, &[((1, 8080), true)].into()));
    let [write] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!((write.verb, write.object.object.name.as_str()), (Verb::Create, "front-sluice-http-8080-ipv4-1"));
    assert_eq!(write.body["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert_eq!(write.path, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices");
    let nothing = Model { chains: Arc::default(), ..model(&snapshot, &BTreeMap::new()) };
    assert_eq!(plan(&snapshot, &nothing), vec![]);
}

#[test]
fn ours_go_with_their_cause_and_so_do_those_that_were_changed_into_something_else() {
    let mut snapshot = snapshot();
    put(&mut snapshot, "a", MANAGER, &json!({}));
    put(&mut snapshot, "b", MANAGER, &json!({"ports": []}));
    put(
        &mut snapshot,
        "c",
        MANAGER,
        &json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}),
    );
    let with_chain = model(&snapshot, &[((1, 8080), true)].into());
    let done = |model: &Model| -> Vec<(Verb, String)> {
        plan(&snapshot, model).into_iter().map(|w| (w.verb, w.object.object.name)).collect()
    };
    // The last one holds what it should, but its owner is missing.
    let wanted = [(Verb::Delete, "b"), (Verb::Delete, "a"), (Verb::Patch, "c")];
    assert_eq!(done(&with_chain), wanted.map(|(verb, name)| (verb, name.to_owned())));
    let without = Model { chains: Arc::default(), ..with_chain };
    assert_eq!(done(&without), ["a", "b", "c"].map(|name| (Verb::Delete, name.to_owned())));
    assert!(plan(&snapshot, &without).iter().all(|w| w.object.kind == "EndpointSlice"));
    assert_eq!(plan(&snapshot, &without)[0].object, ObjectRef::new("EndpointSlice", ObjectName::new(NS, "a")));
}
