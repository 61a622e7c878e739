//! HTTPRoutes: what their parents answer, and the entries of others.
use super::*;

/// What the route `r` is told by a Gateway with these listeners, and how many routes each of them counts.
fn told(listeners: Value, spec: Value) -> (Vec<String>, Vec<i64>) {
    let mut world = World::new(json!([gateway(listeners), service(), route("r", spec)]));
    let parents = world.write_route("r", T0);
    let counts = world.write_gateway(true, T0).listeners.iter().map(|l| l.attached_routes).collect();
    (parent_says(&parents), counts)
}

#[test]
fn a_route_with_a_backend_that_cannot_be_used_is_attached_and_says_so() {
    for (backend, reason) in [
        (json!({"name": "none", "port": 80}), "BackendNotFound"),
        (json!({"name": "s", "port": 81}), "BackendNotFound"),
        (json!({"name": "s", "port": 80, "namespace": "other"}), "RefNotPermitted"),
        (json!({"name": "none", "port": 80, "namespace": "other"}), "RefNotPermitted"),
        (json!({"name": "s", "port": 80, "kind": "Bucket", "group": "example.com"}), "InvalidKind"),
    ] {
        let rules = json!({"rules": [{"backendRefs": [backend]}]});
        let want = vec!["Accepted=True/Accepted".to_owned(), format!("ResolvedRefs=False/{reason}")];
        assert_eq!(told(json!([http("web", json!({}))]), rules), (want, vec![1]), "{backend}");
    }
    let tls = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "appProtocol": "https"}]}});
    let mut world = World::new(json!([gateway(json!([http("web", json!({}))])), tls, route("r", json!({}))]));
    assert_eq!(parent_says(&world.write_route("r", T0))[1], "ResolvedRefs=False/UnsupportedProtocol");
    world.put(service());
    assert_eq!(parent_says(&world.write_route("r", T0))[1], "ResolvedRefs=True/ResolvedRefs");
}

#[test]
fn a_parent_that_does_not_take_the_route_says_why_and_does_not_count_it() {
    let refused = |reason: &str| vec![format!("Accepted=False/{reason}"), "ResolvedRefs=True/ResolvedRefs".to_owned()];
    let one = || json!([http("web", json!({"hostname": "*.example.com"}))]);
    let at = |more: Value| json!({"parentRefs": [with(json!({"name": "gw"}), more)]});
    assert_eq!(told(one(), at(json!({"sectionName": "none"}))), (refused("NoMatchingParent"), vec![0]));
    assert_eq!(told(one(), at(json!({"port": 81}))), (refused("NoMatchingParent"), vec![0]));
    assert_eq!(told(one(), at(json!({"sectionName": "web", "port": 81}))), (refused("NoMatchingParent"), vec![0]));
    let host = json!({"hostnames": ["example.org"]});
    assert_eq!(told(one(), host), (refused("NoMatchingListenerHostname"), vec![0]));
    let tls = json!([{"name": "tls", "port": 443, "protocol": "TLS"}]);
    assert_eq!(told(tls, json!({})), (refused("NotAllowedByListeners"), vec![0]), "only TLSRoutes belong there");
    let nobody = json!([http("web", json!({"allowedRoutes": {"namespaces": {"from": "None"}}}))]);
    assert_eq!(told(nobody, json!({})), (refused("NotAllowedByListeners"), vec![0]));
    let clash = json!([http("a", json!({})), http("b", json!({}))]);
    let counted = (refused("NotAllowedByListeners"), vec![1, 1]);
    assert_eq!(told(clash, json!({})), counted, "counted at a listener that is not accepted");

    let mut guest = route("r", json!({"parentRefs": [{"name": "gw", "namespace": "default"}]}));
    guest["metadata"]["namespace"] = json!("guest");
    let world = World::new(json!([gateway(one()), guest]));
    let guest = ObjectName::new("guest", "r");
    let status = route_status(world.snapshot.http_routes[&guest].as_ref(), &world.model(), &guest, T0).unwrap();
    assert_eq!(parent_says(&status.parents)[0], "Accepted=False/NotAllowedByListeners");
    assert_eq!(status.parents[0]["parentRef"]["namespace"], "default");
}

#[test]
fn what_of_a_route_is_not_obeyed_is_said() {
    let cors = json!({"filters": [{"type": "CORS"}], "backendRefs": [{"name": "s", "port": 80}]});
    let both = json!({"filters": [{"type": "URLRewrite", "urlRewrite": {}}, {"type": "RequestRedirect", "requestRedirect": {}}]});
    let good = json!({"backendRefs": [{"name": "s", "port": 80}]});
    let listeners = || json!([http("web", json!({}))]);
    let says = |rules: Value| told(listeners(), json!({"rules": rules})).0;
    assert_eq!(says(json!([cors])), ["Accepted=False/UnsupportedValue", "ResolvedRefs=True/ResolvedRefs"]);
    assert_eq!(says(json!([both]))[0], "Accepted=False/IncompatibleFilters");
    let partly = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "PartiallyInvalid=True/UnsupportedValue"];
    assert_eq!(says(json!([good, cors])), partly);

    let mut world = World::new(json!([gateway(listeners()), service(), route("r", json!({"rules": [good, cors]}))]));
    let parents = world.write_route("r", T0);
    let message = parents[0]["conditions"][2]["message"].as_str().unwrap();
    assert!(message.starts_with("Dropped Rule") && message.contains("CORS"), "{message}");
    let mut mended = route("r", json!({"rules": [good]}));
    mended["status"] = json!({"parents": parents});
    world.put(mended);
    assert_eq!(parent_says(&world.write_route("r", T1)).len(), 2, "the third condition is gone");
}

#[test]
fn entries_of_other_controllers_stay_byte_for_byte() {
    let foreign = json!({"parentRef": {"name": "theirs", "futureField": [1, null]}, "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
    let nonsense = json!("not even an object");
    let stale = json!({"parentRef": {"group": GROUP, "kind": "Gateway", "name": "gone"}, "controllerName": "sluice.dev/gateway"});
    let mut object =
        route("r", json!({"parentRefs": [{"name": "gw", "sectionName": "b"}, {"name": "gw", "sectionName": "a"}]}));
    let ours = json!({"parentRef": {"name": "gw", "sectionName": "a"}, "controllerName": "sluice.dev/gateway"});
    object["status"] = json!({"parents": [stale, foreign, ours, nonsense]});
    let listeners = json!([http("a", json!({})), http("b", json!({"port": 81}))]);
    let mut world = World::new(json!([gateway(listeners), service(), object]));
    let parents = world.write_route("r", T0);
    assert_eq!(parents.len(), 4, "{parents:?}");
    assert_eq!((&parents[0], &parents[2]), (&foreign, &nonsense));
    let section = |at: usize| parents[at]["parentRef"]["sectionName"].as_str();
    assert_eq!((section(1), section(3)), (Some("a"), Some("b")), "what is there keeps its place");

    // The Gateway goes: nobody answers for it any more.
    world.snapshot.gateways.remove(&name("gw"));
    assert_eq!(world.write_route("r", T1), [foreign, nonsense]);
}

#[test]
fn more_parents_than_there_is_room_for_are_left_out() {
    let refs: Vec<Value> = (0..20).map(|n| json!({"name": "gw", "sectionName": format!("l{n}")})).collect();
    let mut object = route("r", json!({"parentRefs": refs}));
    object["status"] = json!({"parents": vec![json!({"controllerName": "example.com/other"}); 20]});
    let mut world = World::new(json!([gateway(json!([http("web", json!({}))])), service(), object]));
    assert_eq!(world.write_route("r", T0).len(), MAX_PARENTS);
}

/// The status of the route of a kind, over the entries that it has.
fn of_kind<T: Route + serde::de::DeserializeOwned>(parents: &Value) -> Option<Vec<Value>> {
    let spec = json!({"parentRefs": [{"name": "gw"}, {"name": "gw", "sectionName": "web"}],
        "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]});
    let object = json!({"kind": T::KIND, "metadata": {"name": "r", "uid": "u", "generation": 5}, "spec": spec,
        "status": {"parents": parents}});
    let world = World::new(json!([gateway(json!([http("web", json!({}))])), service(), object]));
    let route: T = serde_json::from_value(object).unwrap();
    route_status(&route, &world.model(), &name("r"), T0).map(|status| status.parents)
}

/// Issue 9: one entry for each declared parentRef, those of others untouched, whatever the kind of the route.
#[test]
fn routes_of_every_kind_have_their_status_through_one_path() {
    fn check<T: Route + serde::de::DeserializeOwned>() {
        let theirs = json!({"parentRef": {"name": "gone", "odd": 1}, "controllerName": "example.com/other",
            "conditions": [{"type": "Accepted", "status": "Unknown", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
        let written = of_kind::<T>(&json!([theirs])).unwrap_or_else(|| panic!("{}", T::KIND));
        assert_eq!(written[0], theirs, "{}", T::KIND);
        let ours: Vec<RouteParentStatus> =
            written[1..].iter().map(|parent| serde_json::from_value(parent.clone()).unwrap()).collect();
        let sections: Vec<_> = ours.iter().map(|parent| parent.parent_ref.section_name.as_deref()).collect();
        assert_eq!(sections, [None, Some("web")], "{}", T::KIND);
        for parent in &ours {
            assert_eq!(parent.parent_ref.kind.as_deref(), Some("Gateway"), "{}", T::KIND);
            let accepted = if crate::model::listener::Protocol::Http.kinds().contains(&T::ROUTE) {
                "Accepted=True/Accepted"
            } else {
                "Accepted=False/NotAllowedByListeners"
            };
            assert_eq!(says(&parent.conditions, 5)[0], accepted, "{}", T::KIND);
        }
        assert_eq!(of_kind::<T>(&json!(written)), None, "{}: a second write", T::KIND);
    }
    check::<crate::api::HttpRoute>();
    check::<crate::api::GrpcRoute>();
    check::<crate::api::TlsRoute>();
    check::<crate::api::TcpRoute>();
    check::<crate::api::UdpRoute>();
}
