//! What a request head costs the proxy before it goes upstream: the canonical form, the route, what belongs to the hop.
//!
//! The worst shapes that are known, of 64 KiB each, against a frontend with deep prefixes, wildcards, headers and query
//! parameters. The unit test `proxy::probe` counts the same work over heads in any shape; here it is timed.
use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::Context as _;
use http::{HeaderName, HeaderValue, Request, Version, header, request::Parts};
use serde_json::json;
use sluice::{
    api::ObjectName,
    model::{self, Node},
    proxy::probe::Probe,
    source::Snapshot,
};

use super::figures::Figures;

/// The largest head that the proxy takes. Units: bytes.
const HEAD: usize = 64 << 10;
/// How often each head is measured; the median counts.
const ROUNDS: usize = 201;
/// What no head should exceed. Units: microseconds.
const GOAL: f64 = 200.0;

/// A head by its name: target, host, fields.
struct Shape {
    name: &'static str,
    target: String,
    host: String,
    fields: Vec<(String, String)>,
}

/// Measures every shape and prints microseconds for each.
///
/// # Errors
/// The routes do not compile, or a shape is no head.
pub fn heads() -> anyhow::Result<()> {
    let probe = probe()?;
    let mut figures = Figures::default();
    println!("one request head: canonical form, route, fields of the hop");
    for shape in shapes() {
        let head = shape.head()?;
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let mut parts = head.clone();
                let began = Instant::now();
                let _ = black_box(probe.route(black_box(&mut parts)));
                began.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        times.sort_by(f64::total_cmp);
        figures.at_most(shape.name, times[ROUNDS / 2], Some(GOAL), "us");
    }
    Ok(())
}

fn probe() -> anyhow::Result<Probe> {
    let path = |value: &str| json!({"path": {"type": "PathPrefix", "value": value}});
    let sandbox = |i: usize| json!({"headers": [{"name": "x-sandbox", "value": format!("pr-{i}")}]});
    let version = |i: usize| json!({"queryParams": [{"name": format!("version{i}"), "value": "2"}]});
    let mut matches = vec![path(&"/a".repeat(500)), path(&"//a".repeat(300)), path("/")];
    matches.extend((0..60).map(sandbox));
    let rules = json!([{"matches": matches}, {"matches": (0..20).map(version).collect::<Vec<_>>()}]);
    let hostnames = [0, 1, 40, 80].map(|depth| format!("*.{}example.com", "a.".repeat(depth)));
    let mut snapshot = Snapshot::default();
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
    snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(serde_json::from_value(gateway)?));
    for (name, hostnames) in [("named", json!(hostnames)), ("any", json!([]))] {
        let spec = json!({"parentRefs": [{"name": "gw"}], "hostnames": hostnames, "rules": rules});
        let route = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        snapshot.http_routes.insert(ObjectName::new("default", name), Arc::new(route));
    }
    let node = Node { pools: vec!["192.0.2.0/24".parse()?], ..Node::alone("n") };
    Probe::new(&model::compile(&snapshot, &node).http).context("the routes have no frontend")
}

/// `part` again and again, to nearly a whole head.
fn fill(part: &str) -> String {
    part.repeat((HEAD - 512) / part.len())
}

fn shapes() -> Vec<Shape> {
    let plain = |name, target: String, fields: Vec<(String, String)>| Shape {
        name,
        target,
        host: format!("{}example.com", "a.".repeat(100)),
        fields,
    };
    let path = |name, part: &str| plain(name, format!("/{}", fill(part).trim_start_matches('/')), Vec::new());
    let query = |name, part: &str| plain(name, format!("/?{}", fill(part)), Vec::new());
    let many = |name, field: &dyn Fn(usize) -> String, count: usize, length: usize| {
        plain(name, "/".to_owned(), (0..count).map(|i| (field(i), "v".repeat(length))).collect())
    };
    vec![
        plain("an ordinary request", "/shop/cart?id=1".to_owned(), vec![("accept".to_owned(), "*/*".to_owned())]),
        plain("slashes alone", "/".repeat(HEAD - 512), Vec::new()),
        path("short segments /a", "/a"),
        path("short segments //a", "//a"),
        path("escaped letters %41", "%41"),
        path("escaped separators %2f", "%2f"),
        path("escaped segments /%2f", "/%2f"),
        path("dot segments /./", "/."),
        path("dot segments /a/..", "/a/.."),
        path("one segment", "a"),
        query("parameters a&", "a&"),
        query("parameters near the wanted v&", "v&"),
        query("parameters near the wanted version99=2&", "version99=2&"),
        query("escaped parameters %76&", "%76&"),
        query("UTF-8 in the query", "\u{e9}"),
        many("one long value of a header that rules want", &|_| "x-sandbox".to_owned(), 1, HEAD - 512),
        many("99 values of a header that rules want", &|_| "x-sandbox".to_owned(), 99, 600),
        many("99 headers", &|i| format!("x-header-{i}"), 99, 600),
        many("99 claims of the client", &|i| format!("x-forwarded-{i}"), 99, 600),
        many("1,500 cookies", &|_| "cookie".to_owned(), 1500, 10),
        plain("a list of the connection", "/".to_owned(), vec![("connection".to_owned(), "a,".repeat(500))]),
    ]
}

impl Shape {
    fn head(&self) -> anyhow::Result<Parts> {
        let request = Request::get(&self.target).version(Version::HTTP_11).body(());
        let (mut parts, ()) = request.with_context(|| format!("{} is no target", self.name))?.into_parts();
        parts.headers.insert(header::HOST, HeaderValue::from_str(&self.host)?);
        for (name, value) in &self.fields {
            parts.headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        Ok(parts)
    }
}
