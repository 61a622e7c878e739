//! Whatever the fields hold, nothing panics, and what was written is not written again.
use proptest::prelude::*;

use super::*;

/// Words that mean something somewhere, and some that do not anywhere.
fn word() -> impl Strategy<Value = Value> {
    let known = prop::sample::select(vec![
        "",
        "gw",
        "sluice",
        "other",
        "default",
        "web",
        "HTTP",
        "TLS",
        "UDP",
        "HTTPRoute",
        "Gateway",
        "Service",
        "Selector",
        "All",
        "Same",
        "*.example.com",
        "a.example.com",
        "*",
        "192.0.2.9",
        "2001:db8::9",
        "IPAddress",
        "Hostname",
        "True",
        "Unknown",
        "Accepted",
        "Programmed",
        "ResolvedRefs",
        "PartiallyInvalid",
        "example.com/Odd",
        "sluice.dev/gateway",
        "gateway.networking.k8s.io",
        "RequestRedirect",
        "PathPrefix",
        "RegularExpression",
        "/",
        "(",
        "s",
    ]);
    prop_oneof![8 => known.prop_map(Value::from), 1 => ".{0,12}".prop_map(Value::from), 1 => Just(Value::Null)]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![4 => prop::sample::select(vec![80, 81, 0, -1, 65535, 65536]).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from), 1 => Just(Value::Null)]
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![word(), number(), any::<bool>().prop_map(Value::from)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let object = prop::collection::btree_map("[a-z]{1,6}", inner.clone(), 0..3);
        prop_oneof![prop::collection::vec(inner, 0..3).prop_map(Value::from), object.prop_map(|o| json!(o))]
    })
}

/// An object of fields, some of which are left out.
fn fields(all: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let one = |(key, value): (&'static str, BoxedStrategy<Value>)| {
        prop::option::weighted(0.8, value).prop_map(move |v| (key, v))
    };
    let all: Vec<_> = all.into_iter().map(one).collect();
    all.prop_map(|found| found.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()).boxed()
}

fn some(of: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop::collection::vec(of, 0..4).prop_map(Value::from).boxed()
}

fn words(keys: &[&'static str]) -> Vec<(&'static str, BoxedStrategy<Value>)> {
    keys.iter().map(|key| (*key, word().boxed())).collect()
}

fn conditions() -> BoxedStrategy<Value> {
    let mut all = words(&["type", "status", "reason", "message", "lastTransitionTime"]);
    all.push(("observedGeneration", number().boxed()));
    some(fields(all))
}

fn parent_ref() -> BoxedStrategy<Value> {
    let mut all = words(&["sectionName", "namespace", "kind", "group"]);
    all.truncate(1);
    all.extend([
        ("port", number().boxed()),
        ("name", prop::sample::select(vec!["gw", "gw", "gw", "no"]).prop_map(Value::from).boxed()),
    ]);
    prop_oneof![3 => Just(json!({"name": "gw"})), 3 => fields(all), 1 => fields(words(&["name", "sectionName", "namespace", "kind", "group"]))].boxed()
}

fn any_gateway() -> BoxedStrategy<Value> {
    let namespaces = fields(vec![
        ("from", word().boxed()),
        ("selector", fields(vec![("matchExpressions", some(fields(words(&["key", "operator"]))))])),
    ]);
    let allowed = fields(vec![("namespaces", namespaces), ("kinds", some(fields(words(&["group", "kind"]))))]);
    let listener = fields(vec![
        ("name", word().boxed()),
        ("hostname", word().boxed()),
        ("port", number().boxed()),
        ("protocol", prop_oneof![2 => Just(json!("HTTP")), 1 => word()].boxed()),
        ("allowedRoutes", prop::option::of(allowed).prop_map(|a| a.unwrap_or(Value::Null)).boxed()),
    ]);
    let spec = fields(vec![
        ("gatewayClassName", prop_oneof![4 => Just(json!("sluice")), 1 => word()].boxed()),
        ("listeners", some(listener)),
        ("addresses", prop_oneof![2 => Just(json!([])), 1 => some(fields(words(&["type", "value"])))].boxed()),
        ("infrastructure", prop_oneof![4 => Just(Value::Null), 1 => anything()].boxed()),
    ]);
    let listener_status =
        fields(vec![("name", word().boxed()), ("attachedRoutes", number().boxed()), ("conditions", conditions())]);
    let status = fields(vec![
        ("addresses", some(fields(words(&["type", "value"])))),
        ("conditions", conditions()),
        ("listeners", some(listener_status)),
    ]);
    (spec, status, any::<i64>())
        .prop_map(|(spec, status, generation)| {
            json!({"kind": "Gateway", "metadata": {"name": "gw", "generation": generation}, "spec": spec, "status": status})
        })
        .boxed()
}

fn any_route() -> BoxedStrategy<Value> {
    let matches = fields(vec![
        ("path", fields(words(&["type", "value"]))),
        ("method", word().boxed()),
        ("headers", some(fields(words(&["type", "name", "value"])))),
    ]);
    let mut backend = words(&["name", "namespace", "kind", "group"]);
    backend.extend([
        ("port", number().boxed()),
        ("weight", number().boxed()),
        ("filters", some(fields(words(&["type"])))),
    ]);
    let name = prop::sample::select(vec!["s", "none"]).prop_map(Value::from).boxed();
    let plain = fields(vec![("name", name), ("port", Just(json!(80)).boxed())]);
    let rule = fields(vec![
        ("matches", some(matches)),
        ("filters", some(fields(words(&["type"])))),
        ("backendRefs", some(prop_oneof![fields(backend), plain].boxed())),
        ("timeouts", fields(words(&["request", "backendRequest"]))),
        ("retry", anything().boxed()),
    ]);
    let spec = fields(vec![
        ("parentRefs", some(parent_ref())),
        ("hostnames", some(word().prop_filter("lists hold no null", |w| !w.is_null()).boxed())),
        ("rules", some(rule)),
    ]);
    let parent = fields(vec![
        ("parentRef", prop_oneof![6 => parent_ref(), 1 => anything().boxed()].boxed()),
        ("controllerName", prop_oneof![1 => Just(json!("sluice.dev/gateway")), 1 => word()].boxed()),
        ("conditions", prop_oneof![6 => conditions(), 1 => anything().boxed()].boxed()),
    ]);
    let status = fields(vec![("parents", some(prop_oneof![6 => parent, 1 => anything().boxed()].boxed()))]);
    (spec, status)
        .prop_map(
            |(spec, status)| json!({"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": spec, "status": status}),
        )
        .boxed()
}

/// Replaces one field below an object, which one `at` says, by something else.
fn spoil(value: &mut Value, at: usize, by: &Value) {
    let Some(count) = value.as_object().map(serde_json::Map::len).filter(|count| *count > 0) else { return };
    let (this, next) = (at % count, at / count);
    if let Some((_, field)) = value.as_object_mut().into_iter().flatten().nth(this) {
        if field.as_object().is_some_and(|o| !o.is_empty()) && next % 4 != 0 {
            spoil(field, next / 4, by);
        } else {
            *field = by.clone();
        }
    }
}

fn foreign(conditions: &[crate::api::condition::Condition], ours: &[&str]) -> Vec<crate::api::condition::Condition> {
    conditions.iter().filter(|c| !ours.contains(&c.type_.as_str())).cloned().collect()
}

/// The object with another status, as the API server would give it back.
fn written<T: serde::Serialize>(object: &Value, status: &T) -> Value {
    let mut object = object.clone();
    object["status"] = serde_json::to_value(status).unwrap();
    object
}

#[test]
fn most_of_what_is_made_can_be_read_and_says_something() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut gateways, mut routes, mut read) = (BTreeSet::new(), BTreeSet::new(), 0);
    for _ in 0..500 {
        let objects = [any_gateway(), any_route()].map(|of| of.new_tree(&mut runner).unwrap().current());
        let mut world = World::new(json!([service()]));
        read += objects.iter().filter(|object| fixture::add(&mut world.snapshot, object).is_ok()).count();
        let status = world.gateway(true, T0).unwrap_or_default();
        let all = status.listeners.iter().flat_map(|l| &l.conditions).chain(&status.conditions);
        gateways.extend(all.map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)));
        let parents = world.route("r", T0).unwrap_or_default().parents;
        let parents = parents.into_iter().filter(|p| p["controllerName"] == CONTROLLER);
        let parents = parents.map(|p| serde_json::from_value::<RouteParentStatus>(p).unwrap());
        routes.extend(parents.flat_map(|p| p.conditions).map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)));
    }
    assert!(read > 800, "{read} of 1000 objects can be read");
    for wanted in [
        "Accepted=True/Accepted",
        "Accepted=False/ListenersNotValid",
        "Programmed=True/Programmed",
        "Conflicted=True/HostnameConflict",
        "ResolvedRefs=False/InvalidRouteKinds",
    ] {
        assert!(gateways.contains(wanted), "{wanted}: {gateways:?}");
    }
    for wanted in ["Accepted=True/Accepted", "Accepted=False/NoMatchingParent", "ResolvedRefs=False/BackendNotFound"] {
        assert!(routes.contains(wanted), "{wanted}: {routes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn whatever_fields_hold_status_is_written_once(
        gateway in any_gateway(), route in any_route(), is_programmed: bool,
        spoiled in prop::option::weighted(0.2, (any::<bool>(), any::<usize>(), anything())),
    ) {
        let (mut gateway, mut route) = (gateway, route);
        if let Some((which, at, by)) = spoiled {
            let object = if which { &mut gateway } else { &mut route };
            for part in ["spec", "status"] {
                spoil(&mut object[part], at, &by);
            }
        }
        let mut world = World::new(json!([service()]));
        // One that cannot be read at all is a fault of its source.
        let read = [fixture::add(&mut world.snapshot, &gateway).is_ok(), fixture::add(&mut world.snapshot, &route).is_ok()];
        let before = world.snapshot.clone();
        if let Some(status) = world.gateway(is_programmed, T0) {
            let old = &before.gateways[&name("gw")].status;
            let ours = ["Accepted", "Programmed", "ResolvedRefs"];
            prop_assert_eq!(foreign(&status.conditions, &ours), foreign(&old.conditions, &ours));
            world.put(written(&gateway, &status));
            prop_assert_eq!(world.gateway(is_programmed, T1), None, "after {}", json!(status));
        }
        if let Some(status) = world.route("r", T0) {
            let theirs = |all: &[Value]| -> Vec<Value> {
                all.iter().filter(|p| p.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER)).cloned().collect()
            };
            prop_assert_eq!(theirs(&status.parents), theirs(&before.http_routes[&name("r")].status.parents));
            world.put(written(&route, &status));
            prop_assert_eq!(world.route("r", T1), None, "after {}", json!(status));
        }
        prop_assert!(read[0] || world.gateway(true, T0).is_none());
    }
}
