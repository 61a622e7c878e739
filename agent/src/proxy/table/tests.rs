//! What of a table is made anew when something changes, and what is kept.
use serde_json::{Value, json};

use super::*;
use crate::{
    model::{
        Memo,
        fixture::{add, node},
    },
    source::Snapshot,
};

/// So many routes, each with a host name and a Service of its own.
const MANY: usize = 20;

fn route(n: usize, path: &str) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"name": format!("r{n}")}, "spec": {
        "parentRefs": [{"name": "gw"}], "hostnames": [format!("r{n}.example.com"), "*.example.com"],
        "rules": [{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": format!("s{n}"), "port": 80}]}]}})
}

fn slice(n: usize, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|addr| json!({"addresses": [addr]})).collect();
    json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        "metadata": {"name": format!("s{n}"), "labels": {"kubernetes.io/service-name": format!("s{n}")}}})
}

/// A memo, what it has seen, and the table in use.
struct Stage {
    memo: Memo,
    snapshot: Snapshot,
    table: Table,
    bounds: Arc<Bounds>,
    counters: Counters,
}

impl Stage {
    fn new() -> Self {
        let settings = Settings::default();
        let (bounds, counters) = (Arc::new(Bounds::new(&settings)), Counters::new(settings.workers));
        let (memo, snapshot, table) = (Memo::default(), Snapshot::default(), Table::default());
        Self { memo, snapshot, table, bounds, counters }
    }

    /// Compiles what has changed, and puts it in place; how many host names were indexed.
    fn change(&mut self, objects: &[Value]) -> u64 {
        objects.iter().for_each(|object| add(&mut self.snapshot, object).unwrap());
        let model = self.memo.compile(&Arc::new(self.snapshot.clone()), &node(&["192.0.2.0/29"]));
        let mut parts = 0;
        self.table = self.table.next(&model.http, &Settings::default(), &self.bounds, &self.counters, &mut parts);
        parts
    }

    fn upstream(&self, addr: &str) -> Option<Arc<Upstream>> {
        self.table.upstreams.get(&(addr.parse().unwrap(), None, None)).map(|used| Arc::clone(&used.upstream))
    }
}

#[test]
fn what_has_not_changed_is_neither_indexed_nor_connected_again() {
    let mut stage = Stage::new();
    let mut objects =
        vec![json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}})];
    for n in 0..MANY {
        objects.extend([route(n, "/"), slice(n, &["10.0.0.1"])]);
        objects.push(json!({"kind": "Service", "metadata": {"name": format!("s{n}")},
            "spec": {"ports": [{"name": "http", "port": 80}]}}));
    }
    assert_eq!(stage.change(&objects), MANY as u64 + 1, "each host name, and the one that all have");
    let kept = stage.upstream("10.0.0.1:8080").unwrap();
    assert_eq!(stage.change(&[route(3, "/other")]), 2, "the two host names of a route");
    assert_eq!(stage.change(&[route(3, "/other")]), 0, "an equal one");
    assert_eq!(stage.change(&[slice(4, &["10.0.0.1", "10.0.0.2"])]), 0, "endpoints");
    let other = stage.upstream("10.0.0.2:8080").unwrap();
    // The one that all others have as well is kept; the other one is not lost on the way to another Service.
    stage.change(&[slice(4, &[]), slice(5, &["10.0.0.2"])]);
    assert!(Arc::ptr_eq(&kept, &stage.upstream("10.0.0.1:8080").unwrap()));
    assert!(Arc::ptr_eq(&other, &stage.upstream("10.0.0.2:8080").unwrap()));
    let before = stage.table.clone();
    stage.change(&[slice(5, &[])]);
    assert!(stage.upstream("10.0.0.2:8080").is_none() && before.upstreams.len() == stage.table.upstreams.len() + 1);
    stage.snapshot.http_routes.clear();
    assert_eq!(stage.change(&[]), 0);
    assert_eq!((stage.table.upstreams.len(), stage.table.services.len()), (0, 0), "what nobody uses is let go");
    assert_eq!(stage.change(&[route(1, "/")]), 2);
}
