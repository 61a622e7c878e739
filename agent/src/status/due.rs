//! The routes whose status is not known to be as it should be: a queue by object, fed by what differs from look to look.
//!
//! With 5,000 routes a look at the status of each costs more than what has changed; the status of a route depends on the route and on
//! the model's report on it alone.
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    api::{GrpcRoute, HttpRoute, ObjectName, Route, TcpRoute, TlsRoute, UdpRoute},
    model::{
        Model,
        report::{RouteKey, RouteReports},
    },
    shared::SharedMap,
    source::Snapshot,
};

type Routes<T> = SharedMap<ObjectName, Arc<T>>;

/// See the module.
#[derive(Default)]
pub(super) struct Due {
    keys: BTreeSet<RouteKey>,
    /// What was seen at the last look.
    last: Seen,
    /// When all were due.
    all_at: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    http: Routes<HttpRoute>,
    grpc: Routes<GrpcRoute>,
    tls: Routes<TlsRoute>,
    tcp: Routes<TcpRoute>,
    udp: Routes<UdpRoute>,
    reports: RouteReports,
}

impl Due {
    /// Takes over what has changed; all of them are due when none was looked at for `again`. Cost: that of what differs.
    pub(super) fn look(&mut self, snapshot: &Snapshot, model: &Model, again: Duration) -> BTreeSet<RouteKey> {
        if self.all_at.is_none_or(|at| at.elapsed() >= again) {
            (self.last, self.all_at) = (Seen::default(), Some(Instant::now()));
            self.keys.clear();
        }
        let now = Seen {
            http: snapshot.http_routes.clone(),
            grpc: snapshot.grpc_routes.clone(),
            tls: snapshot.tls_routes.clone(),
            tcp: snapshot.tcp_routes.clone(),
            udp: snapshot.udp_routes.clone(),
            reports: model.routes.clone(),
        };
        let last = std::mem::replace(&mut self.last, now);
        for report in last.reports.differences(&self.last.reports, |(_, a), (_, b)| a == b) {
            self.keys.insert(report.key.clone());
        }
        differ(&mut self.keys, &last.http, &self.last.http);
        differ(&mut self.keys, &last.grpc, &self.last.grpc);
        differ(&mut self.keys, &last.tls, &self.last.tls);
        differ(&mut self.keys, &last.tcp, &self.last.tcp);
        differ(&mut self.keys, &last.udp, &self.last.udp);
        self.keys.clone()
    }

    /// Nothing is to be written to this one.
    pub(super) fn is_well(&mut self, key: &RouteKey) {
        self.keys.remove(key);
    }
}

/// Adds the routes of a kind that are others, and forgets those that are gone.
fn differ<T: Route>(keys: &mut BTreeSet<RouteKey>, last: &Routes<T>, now: &Routes<T>) {
    for route in last.differences(now, |(_, a), (_, b)| Arc::ptr_eq(a, b)) {
        let key = (T::ROUTE, route.key.clone());
        if route.new.is_some() {
            keys.insert(key);
        } else {
            keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Memo, fixture};

    const NEVER: Duration = Duration::from_secs(3600);

    fn route(n: usize, port: u16) -> Value {
        json!({"kind": "HTTPRoute", "metadata": {"name": format!("r{n}")}, "spec": {"parentRefs": [{"name": "gw"}],
            "rules": [{"backendRefs": [{"name": "none", "port": port}]}]}})
    }

    #[test]
    fn what_has_changed_is_looked_at_and_nothing_else() {
        let (mut memo, mut due) = (Memo::default(), Due::default());
        let gateway = json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}});
        let mut snapshot = fixture::snapshot(&json!([gateway, route(0, 80), route(1, 80), route(2, 80)]));
        let mut look = |snapshot: &Snapshot, again| {
            let model = memo.compile(&Arc::new(snapshot.clone()), &fixture::node(&["192.0.2.0/24"]));
            let keys = due.look(snapshot, &model, again);
            // The second one waits for the server.
            keys.iter().filter(|(_, name)| name.name != "r1").for_each(|key| due.is_well(key));
            keys.into_iter().map(|(_, name)| name.name).collect::<Vec<_>>()
        };
        assert_eq!(look(&snapshot, NEVER), ["r0", "r1", "r2"], "all, at first");
        assert_eq!(look(&snapshot, NEVER), ["r1"], "what waits");
        fixture::add(&mut snapshot, &route(2, 81)).unwrap();
        assert_eq!(look(&snapshot, NEVER), ["r1", "r2"], "the one that changed");
        snapshot.http_routes.remove(&ObjectName::new("default", "r1"));
        assert_eq!(look(&snapshot, NEVER), [""; 0], "the one that is gone");
        snapshot.gateways.clear();
        assert_eq!(look(&snapshot, NEVER), ["r0", "r2"], "what their parent says is another thing");
        assert_eq!(look(&snapshot, Duration::ZERO), ["r0", "r2"], "all, now and then");
    }
}
