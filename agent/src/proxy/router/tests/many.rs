//! Many rules on one path: the index against all entries tried one by one.
use proptest::{prelude::*, sample::select};

use super::*;
use crate::model::http::{query::Names, work};

/// A site with one listener and one route of these matches, one rule each.
fn site(matches: &[Value]) -> Site {
    let rules: Vec<Value> = matches.iter().map(|one| json!({"matches": [one]})).collect();
    let objects = json!([
        {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}},
        {"kind": "HTTPRoute", "metadata": {"name": "r0"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}},
    ]);
    let model = model::compile(&model::fixture::snapshot(&objects), &model::fixture::node(&["192.0.2.0/24"]));
    Site::new(model.http.frontends.values().next().unwrap().clone())
}

/// A request's headers and query.
type Fields = (Vec<(&'static str, &'static str)>, &'static str);

fn ask<T>(fields: &Fields, ask: impl FnOnce(&RequestHead<'_>) -> T) -> T {
    let mut headers = HeaderMap::new();
    for (name, value) in &fields.0 {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    ask(&RequestHead { method: &Method::GET, path: "/", query: Some(fields.1), headers: &headers })
}

fn found(site: &Site, fields: &Fields) -> Option<usize> {
    ask(fields, |head| match site.route("any", head) {
        Routed::Entry(entry) => Some(entry.rule.index),
        Routed::NoListener | Routed::NoEntry => None,
    })
}

const VALUES: [&str; 5] = ["1", "2", "12", "[12]", "1+"];

fn wanted() -> impl Strategy<Value = Value> {
    let one = || {
        (select(vec!["x", "y"]), select(VALUES.to_vec()), any::<bool>()).prop_map(|(name, value, is_pattern)| {
            let kind = if is_pattern { "RegularExpression" } else { "Exact" };
            json!({"name": name, "value": value, "type": kind})
        })
    };
    (prop::collection::vec(one(), 0..3), prop::collection::vec(one(), 0..3))
        .prop_map(|(headers, parameters)| json!({"headers": headers, "queryParams": parameters}))
}

fn fields() -> impl Strategy<Value = Fields> {
    let header = (select(vec!["x", "y"]), select(VALUES[..3].to_vec()));
    let queries = vec!["", "x=1", "y=12&x=2", "x=1&x=2&y=2", "y=%31"];
    (prop::collection::vec(header, 0..4), select(queries))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn of_many_rules_the_first_that_holds_is_found(
        matches in prop::collection::vec(wanted(), 1..40),
        requests in prop::collection::vec(fields(), 24),
    ) {
        let site = site(&matches);
        let names: Names = ["x", "y"].into_iter().collect();
        for fields in &requests {
            let first = ask(fields, |head| {
                let query = Query::new(head.query, &names);
                let mut entries = site.listeners()[0].entries.iter();
                entries.find(|entry| entry.matches.holds(head, &query)).map(|entry| entry.rule.index)
            });
            prop_assert_eq!(found(&site, fields), first, "{:?}", fields);
        }
    }
}

/// What the router does for a request that meets the last of so many rules, however these are told apart.
#[test]
fn the_work_for_a_request_does_not_grow_with_the_rules() {
    let shared = |n: usize| json!({"headers": [{"name": "x", "value": "1"}, {"name": "y", "value": format!("v{n}")}]});
    let parameter = |n: usize| {
        json!({"headers": [{"name": "x", "value": "1"}],
        "queryParams": [{"name": "y", "value": format!("v{n}")}]})
    };
    let pattern = |n: usize| json!({"headers": [{"name": "y", "value": format!("v{n}"), "type": "RegularExpression"}]});
    let of_parameter =
        |n: usize| json!({"queryParams": [{"name": "y", "value": format!("v{n}"), "type": "RegularExpression"}]});
    let makers: [&dyn Fn(usize) -> Value; 4] = [&shared, &parameter, &pattern, &of_parameter];
    for make in makers {
        let measure = |count: usize| {
            let site = site(&(0..count).map(make).collect::<Vec<_>>());
            let fields = (vec![("x", "1"), ("y", "v10")], "y=v10");
            work::done();
            assert_eq!(found(&site, &fields), Some(10));
            work::done()
        };
        let (few, many) = (measure(12), measure(200));
        assert!(many <= few + few / 4, "{} with 12 rules, {} with 200: {}", few, many, make(0));
    }
}
