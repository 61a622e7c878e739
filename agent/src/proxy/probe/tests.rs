//! What is done for a head is bounded by a constant per byte of it, whatever the head is.
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, header};
use proptest::{prelude::*, sample::select, strategy::ValueTree};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::ObjectName,
    model::{self, Node, http::work},
    source::Snapshot,
};

/// The largest head. Units: bytes.
const HEAD: usize = 64 << 10;
/// How much may be done for each byte of a head: the passes over a path, a query or a field, each byte counted in each.
const PER_BYTE: u64 = 10;
/// How much may be done beside: it grows with the deepest key that is configured, here 250 segments, twice.
const BESIDE: u64 = 20_000;

/// Routes that make the router look as far as it can: deep prefixes, wildcards above each other, many values of a header,
/// and names and values that the shapes below come near to.
fn routes() -> Vec<Value> {
    let deep = |segment: &str, depth: usize| json!({"path": {"type": "PathPrefix", "value": segment.repeat(depth)}});
    let matches = |all: Vec<Value>| json!({"matches": all});
    let mut rules = vec![
        matches(vec![deep("/a", 250), deep("/a", 3), deep("//a", 250), deep("/%2F", 80)]),
        matches(vec![json!({"path": {"type": "Exact", "value": "/a/b"}})]),
        matches(vec![json!({"queryParams": [{"name": "version", "value": "2"}, {"name": "v", "value": "none"}]})]),
        matches(vec![json!({"queryParams": [{"name": "a", "value": "x y"}]})]),
        matches(vec![json!({"queryParams": [{"name": "a-name-of-many-letters", "value": "1"}]})]),
        matches(vec![json!({"headers": [{"name": "x-a", "value": "1,2"}, {"name": "cookie", "value": "a=1; b=2"}]})]),
    ];
    let sandbox = |i: usize| json!({"headers": [{"name": "x-sandbox", "value": format!("pr-{i}")}]});
    rules.push(matches((0..60).map(sandbox).collect()));
    rules.push(matches((0..60).map(|i| json!({"queryParams": [{"name": format!("p{i}"), "value": "1"}]})).collect()));
    let pattern = |i: usize| json!({"path": {"type": "RegularExpression", "value": format!("/.*/item-{i}")}});
    let hostnames = [0, 1, 2, 40, 80].map(|depth| format!("*.{}example.com", "a.".repeat(depth)));
    let named = json!({"hostnames": hostnames, "rules": rules.clone()});
    // Once: each host name with patterns looks for its own.
    rules.push(matches((0..60).map(pattern).collect()));
    vec![named, json!({"rules": rules})]
}

fn probe() -> Probe {
    let mut snapshot = Snapshot::default();
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
    snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(serde_json::from_value(gateway).unwrap()));
    for (i, mut spec) in routes().into_iter().enumerate() {
        spec["parentRefs"] = json!([{"name": "gw"}]);
        let route = json!({"metadata": {"name": format!("r{i}")}, "spec": spec});
        let name = ObjectName::new("default", format!("r{i}"));
        snapshot.http_routes.insert(name, Arc::new(serde_json::from_value(route).unwrap()));
    }
    let pools = vec!["192.0.2.0/24".parse().unwrap()];
    Probe::new(&model::compile(&snapshot, &Node { pools, ..Node::alone("n") }).http).unwrap()
}

/// A head, in parts that are repeated until they fill it.
#[derive(Clone, Debug)]
struct Shape {
    path: Vec<&'static str>,
    query: Vec<&'static str>,
    host: Vec<&'static str>,
    fields: Vec<(&'static str, &'static str)>,
    /// How the head is divided: path, query, fields. Units: bytes.
    sizes: (usize, usize, usize),
}

/// `parts` again and again, up to a size.
fn fill(parts: &[&str], size: usize) -> String {
    let mut out = String::new();
    for part in parts.iter().cycle().take_while(|_| !parts.is_empty()) {
        if part.is_empty() || out.len() + part.len() > size {
            break;
        }
        out.push_str(part);
    }
    out
}

impl Shape {
    /// The head, and its size; `None` where `http` takes it for no target.
    fn head(&self) -> Option<(Parts, usize)> {
        let (path, query, fields) = self.sizes;
        let target = format!("/{}?{}", fill(&self.path, path), fill(&self.query, query));
        let mut headers = HeaderMap::new();
        let mut size = target.len();
        headers.insert(header::HOST, HeaderValue::from_str(&format!("{}example.com", fill(&self.host, 200))).unwrap());
        // Few fields with long values, and where values are short as many as there is room for.
        for (i, (name, value)) in self.fields.iter().cycle().enumerate().take(2000) {
            let numbered = name.ends_with('-').then(|| format!("{name}{i}"));
            let name = HeaderName::from_bytes(numbered.as_deref().unwrap_or(name).as_bytes()).unwrap();
            let value = if i < 8 { fill(&[value], fields / 8) } else { (*value).to_owned() };
            size += name.as_str().len() + value.len() + 4;
            if size > HEAD {
                break;
            }
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        let request = Request::builder().method(Method::GET).version(Version::HTTP_11).uri(target);
        let (mut parts, ()) = request.body(()).ok()?.into_parts();
        parts.headers = headers;
        Some((parts, size))
    }
}

/// What was done for a head, beside what may be done for any.
fn excess(probe: &Probe, shape: &Shape) -> Option<(usize, u64)> {
    let (mut parts, size) = shape.head()?;
    work::done();
    let _ = probe.route(&mut parts);
    let done = work::done();
    Some((size, done.saturating_sub(BESIDE)))
}

fn parts(of: &[&'static str]) -> impl Strategy<Value = Vec<&'static str>> + use<> {
    proptest::collection::vec(select(of.to_vec()), 1..4)
}

const PATHS: [&str; 22] = [
    "/a;b", "%5c", "/", "/a", "a", "//a", "/b", "/..", "/.", ".", "..", "/../a", "%2F", "/%2F", "%2e", "/%2e%2e",
    "%41", "%c3%A9", ";", "/;a", "/..a", "%5C.a",
];
const QUERIES: [&str; 18] = [
    "&",
    "=",
    "a",
    "a&",
    "v&",
    "p1&",
    "p9=",
    "version=3&",
    "versioN&",
    "%76&",
    "+",
    "%",
    "\u{e9}",
    "p&",
    "%70%31&",
    "a-name-of-many-letters&",
    "a-name-of-many-letterS&",
    "a=%41&",
];
const HOSTS: [&str; 6] = ["a.", "b.", ".", "aa.", "a", ""];
const FIELDS: [(&str, &str); 17] = [
    ("cdn-loop", "a,"),
    ("cdn-loop", "sluice"),
    ("trailer", "a,"),
    ("x-a", "1"),
    ("x-a", "1,2"),
    ("x-sandbox", "pr-1"),
    ("x-sandbox", "pr-"),
    ("cookie", "a=1; "),
    ("cookie", "c"),
    ("connection", "a,"),
    ("connection", "x-a"),
    ("upgrade", ","),
    ("te", "a,"),
    ("x-forwarded-", "x"),
    ("x_forwarded_", "x"),
    ("b-", "1"),
    ("forwarded", "for=x;"),
];

fn shape() -> impl Strategy<Value = Shape> {
    let fields = proptest::collection::vec(select(FIELDS.to_vec()), 1..4);
    let sizes = (0_usize..100, 0_usize..100, 0_usize..100, prop_oneof![Just(HEAD - 400), 0..HEAD - 400]);
    let sizes = sizes.prop_map(|(path, query, fields, size)| {
        let share = |part: usize| part * size / (path + query + fields).max(1);
        (share(path), share(query), share(fields))
    });
    (parts(&PATHS), parts(&QUERIES), parts(&HOSTS), fields, sizes)
        .prop_map(|(path, query, host, fields, sizes)| Shape { path, query, host, fields, sizes })
}

#[test]
fn what_is_done_for_a_head_is_linear_in_it() {
    let probe = probe();
    let mut worst = (0.0, None);
    let mut check = |shape: Shape| -> usize {
        let Some((size, done)) = excess(&probe, &shape) else { return 0 };
        assert!(done <= PER_BYTE * size as u64, "{done} done for {size} bytes: {shape:?}");
        let rate = done as f64 / size as f64;
        if rate > worst.0 {
            worst = (rate, Some(shape));
        }
        size
    };
    // One thing alone, over the whole of a head.
    let most = HEAD - 400;
    let none = Shape { path: vec![], query: vec![], host: vec!["a."], fields: vec![], sizes: (0, 0, 0) };
    for path in PATHS {
        check(Shape { path: vec![path], sizes: (most, 0, 0), ..none.clone() });
    }
    for query in QUERIES {
        check(Shape { query: vec![query], sizes: (0, most, 0), ..none.clone() });
    }
    for field in FIELDS {
        check(Shape { fields: vec![field], sizes: (0, 0, most), ..none.clone() });
    }
    // Anything beside anything.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = 0;
    while seen < 8 << 20 {
        seen += check(shape().new_tree(&mut runner).unwrap().current());
    }
    let (rate, shape) = worst;
    assert!(rate > 1.0, "nothing is counted: {rate:.2} at {shape:?}");
}
