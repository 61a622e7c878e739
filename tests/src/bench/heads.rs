//! What a request head costs the proxy before it goes upstream: the canonical form, the route, what belongs to the hop.
//!
//! The worst shapes that are known, of 64 KiB each, against a frontend with deep prefixes, wildcards, headers and query
//! parameters. The unit test `proxy::probe` counts the same work over heads in any shape; here it is timed.
use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::Context as _;
use http::{HeaderName, HeaderValue, Request, Version, header, request::Parts};
use serde_json::{Value, json};
use sluice::{
    api::ObjectName,
    model::{self, Node, http::query::normal},
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

/// A host whose routes are a hundred regular expressions.
const SEARCHED: &str = "patterns.example.net";

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
    let parameter = |name: &str| json!({"queryParams": [{"name": name, "value": "none has this"}]});
    let mut parameters: Vec<Value> = (0..20).map(version).collect();
    // Names that a query of the shapes below has, and one that none has, so that it is read to its end.
    parameters.extend(["v", "ab", "a b", "a-parameter-with-a-long-name", "absent"].map(parameter));
    let pattern = |i: usize| json!({"path": {"type": "RegularExpression", "value": format!("/.*/item-{i}/?")}});
    let patterns: Vec<Value> = (0..100).map(pattern).collect();
    let rules = json!([{"matches": matches}, {"matches": parameters}]);
    let searched = json!([{"matches": patterns}, {"matches": []}]);
    let hostnames = [0, 1, 40, 80].map(|depth| format!("*.{}example.com", "a.".repeat(depth)));
    let mut snapshot = Snapshot::default();
    let gateway = json!({"metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
    snapshot.gateways.insert(ObjectName::new("default", "gw"), Arc::new(serde_json::from_value(gateway)?));
    let named = ("named", json!(hostnames), &rules);
    for (name, hostnames, rules) in [named, ("any", json!([]), &rules), ("patterns", json!([SEARCHED]), &searched)] {
        let spec = json!({"parentRefs": [{"name": "gw"}], "hostnames": hostnames, "rules": rules});
        let route = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        snapshot.http_routes.insert(ObjectName::new("default", name), Arc::new(route));
    }
    let node = Node { pools: vec!["192.0.2.0/24".parse()?], ..Node::alone("n") };
    Probe::new(&model::compile(&snapshot, &node).http).context("the routes have no frontend")
}

/// What a shape may fill. Units: bytes.
const ROOM: usize = HEAD - 512;

/// `part` again and again, to nearly a whole head.
fn fill(part: &str) -> String {
    part.repeat(ROOM / part.len())
}

/// As many parameters as the proxy takes, in an order without a pattern, and behind them what fills the head.
fn parameters(parts: &[&str], rest: &str) -> String {
    let mut state = 1_u64;
    let mut out: String = (1..normal::MOST_PARAMETERS)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            parts[(state >> 33) as usize % parts.len()]
        })
        .collect();
    out.push_str(&rest.repeat(ROOM.saturating_sub(out.len()) / rest.len()));
    out
}

fn plain(name: &'static str, target: String, fields: Vec<(String, String)>) -> Shape {
    Shape { name, target, host: format!("{}example.com", "a.".repeat(100)), fields }
}

fn shapes() -> Vec<Shape> {
    let mut all = vec![plain("an ordinary request", "/shop/cart?id=1".to_owned(), fields(&["accept"], 1, "*/*"))];
    all.extend(paths());
    all.extend(queries());
    all.extend(heads_of_fields());
    let searched = [("100 patterns over /item-", "/item-"), ("100 patterns over one segment", "a")];
    all.extend(searched.map(|(name, part)| Shape { host: SEARCHED.to_owned(), ..path(name, part) }));
    all.push(everything());
    all
}

fn path(name: &'static str, part: &str) -> Shape {
    plain(name, format!("/{}", fill(part).trim_start_matches('/')), Vec::new())
}

fn paths() -> impl Iterator<Item = Shape> {
    let slashes = plain("slashes alone", "/".repeat(ROOM), Vec::new());
    let parts = [
        ("short segments /a", "/a"),
        ("short segments //a", "//a"),
        ("escaped letters %41", "%41"),
        ("escaped separators %2f", "%2f"),
        ("escaped segments /%2f", "/%2f"),
        ("dot segments /./", "/."),
        ("dot segments /a/..", "/a/.."),
        ("segments that begin with dots /..a", "/..a"),
        ("segments with parameters /a;b", "/a;b"),
        ("one segment", "a"),
    ];
    [slashes].into_iter().chain(parts.into_iter().map(|(name, part)| path(name, part)))
}

fn queries() -> impl Iterator<Item = Shape> {
    let query = |(name, query): (_, String)| plain(name, format!("/?{query}"), Vec::new());
    let known = ["v&", "ab&", "version1&", "v=1&"];
    let short = ["v&", "ab&", "&", "a&"];
    let escaped = ["v&", "%76&", "ab&", "+&", "a%62&", "a+b&"];
    let value = "x".repeat(ROOM - 3 * normal::MOST_PARAMETERS);
    [
        ("parameters that are too many a&", fill("a&")),
        ("parameters near the wanted vv&", parameters(&["vv&"], "x")),
        ("parameters that are wanted v&", parameters(&["v&"], "x")),
        ("parameters that are wanted %76&", parameters(&["%76&"], "%76")),
        ("parameters near the wanted version99=2&", parameters(&["version99=2&"], "x")),
        ("parameters that are wanted version1=2&", parameters(&["version1=2&"], "x")),
        ("parameters that are wanted, with a long name", fill("a-parameter-with-a-long-name&")),
        ("parameters without a name", parameters(&["&"], "=")),
        ("parameters of escapes", parameters(&["%&", "+&"], "%")),
        ("known parameters in disorder", parameters(&known, "x")),
        ("short parameters in disorder", parameters(&short, "x")),
        ("escaped parameters in disorder", parameters(&escaped, "%76")),
        ("one long value", format!("ab={value}")),
        ("one long escaped value", format!("ab={}", fill("%41").trim_start_matches("%41"))),
        ("UTF-8 in the query", "\u{e9}".repeat(ROOM / 6)),
        ("UTF-8 among parameters", parameters(&["v&\u{e9}"], "x")[..ROOM / 6 * 2].to_owned()),
        ("UTF-8 that has no room", fill("\u{e9}")),
    ]
    .into_iter()
    .map(query)
}

/// So many fields with such names, one after the other, and this value.
fn fields(names: &[&str], count: usize, value: &str) -> Vec<(String, String)> {
    let numbered = |i: usize| names[i % names.len()].replace('#', &i.to_string());
    (0..count).map(|i| (numbered(i), value.to_owned())).collect()
}

fn heads_of_fields() -> impl Iterator<Item = Shape> {
    let long = "v".repeat(600);
    let members = "a,".repeat(31);
    let lists = ["connection", "te", "trailer", "upgrade"];
    [
        ("one long value of a header that rules want", fields(&["x-sandbox"], 1, &"v".repeat(ROOM))),
        ("99 values of a header that rules want", fields(&["x-sandbox"], 99, &long)),
        ("99 headers", fields(&["x-header-#"], 99, &long)),
        ("99 headers with long names", fields(&[&format!("x-{}-#", "n".repeat(500))], 99, "v")),
        ("99 claims of the client", fields(&["x-forwarded-#", "X_Forwarded_For", "x-real-ip"], 99, &long)),
        ("one long cookie", fields(&["cookie"], 1, &"v".repeat(ROOM))),
        ("1,500 cookies", fields(&["cookie"], 1500, &"v".repeat(10))),
        ("lists of the connection", fields(&lists, lists.len(), &members)),
        ("a list of the connection that is too long", fields(&["connection"], 1, &fill("a,"))),
        ("passes of others", fields(&["cdn-loop"], 1, &"a,".repeat(500))),
        ("passes that are too many", fields(&["cdn-loop"], 1, &fill("a,"))),
        ("a trace", fields(&["traceparent", "tracestate", "baggage", "x-request-id"], 8, &"v".repeat(8000))),
    ]
    .into_iter()
    .map(|(name, fields)| plain(name, "/".to_owned(), fields))
}

/// The dearest of each kind in one head.
fn everything() -> Shape {
    let escaped = parameters(&["v&", "%76&", "ab&", "+&", "a%62&", "a+b&"], "%76");
    let query = &escaped[..4 * normal::MOST_PARAMETERS];
    let lists = ["connection", "te", "trailer", "upgrade"];
    let mut all = fields(&lists, lists.len(), &"a,".repeat(31));
    all.extend(fields(&["cdn-loop"], 1, &"a,".repeat(500)));
    all.extend(fields(&["x-forwarded-#", "x-sandbox", "cookie"], 90, &"v".repeat(30)));
    let size: usize = all.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let path = "/..a".repeat((ROOM - query.len() - size) / 4);
    plain("the dearest of each kind", format!("{path}?{query}"), all)
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
