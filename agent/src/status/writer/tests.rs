//! The writer against an API server of a few lines: how many writes there are, how many at once, how often an object is planned.
use std::{
    collections::BTreeMap,
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::{super::events::MAX_EVENTS, *};
use crate::{
    membership::Report,
    model::{Memo, Node, Role, fixture, fixture::merge_patch},
    source::snapshot::Seen,
};

/// Services that come at once.
const COUNT: usize = 600;

/// The API server.
#[derive(Default)]
struct Server {
    services: Mutex<BTreeMap<String, Value>>,
    revision: AtomicUsize,
    /// Those that were written since they were read last.
    changed: Mutex<Vec<Value>>,
    writes: AtomicUsize,
    events: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    events_now: AtomicUsize,
    most_events: AtomicUsize,
}

impl Server {
    fn put(&self, name: &str, mut service: Value) -> Value {
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        service["metadata"]["resourceVersion"] = revision.to_string().into();
        self.services.lock().unwrap().insert(name.to_owned(), service.clone());
        self.changed.lock().unwrap().push(service.clone());
        service
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect_bytes().await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let (now, most) = match path.contains("/events") {
            true => (&self.events_now, &self.most_events),
            false => (&self.now, &self.most),
        };
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        now.fetch_sub(1, Ordering::SeqCst);
        if path.contains("/events") {
            self.events.fetch_add(1, Ordering::SeqCst);
            return reply(StatusCode::CREATED, &body);
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        let name = path.split('/').nth(6).unwrap().to_owned();
        let known = self.services.lock().unwrap()[&name].clone();
        if known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
            let status =
                json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "message": "", "code": 409});
            return reply(StatusCode::CONFLICT, &status);
        }
        let mut service = known;
        merge_patch(&mut service, &body);
        reply(StatusCode::OK, &self.put(&name, service))
    }
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap()
}

fn is_served(service: &Value) -> bool {
    service["status"]["loadBalancer"]["ingress"].as_array().is_some_and(|ingress| !ingress.is_empty())
}

/// Issue 10: what is written follows what changes, however much there is.
#[tokio::test]
async fn many_new_services_are_written_twice_each_with_bounded_parallelism_and_not_planned_for_one_another() {
    let server = Arc::new(Server::default());
    let client = {
        let server = Arc::clone(&server);
        let service = tower::service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, kube::Error>(server.answer(request).await) }
        });
        Client::new(service, "default")
    };
    for n in 0..COUNT {
        let name = format!("s{n}");
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("u{n}")});
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        server.put(&name, json!({"kind": "Service", "metadata": metadata, "spec": spec}));
    }

    let (snapshot_out, snapshots) = watch::channel(None);
    let (model_out, models) = watch::channel::<Arc<Model>>(Arc::default());
    let (members_out, members) = watch::channel(Arc::default());
    let (_health, health) = watch::channel(Health::default());
    let (_version, version) = watch::channel(Bundle::Unknown);
    let inputs = Inputs { snapshots, models, members, health, route_hosts: Arc::default() };
    let mut writer = Writer::new(client, "leader".to_owned(), inputs, version);
    let node = Node { role: Role::Member, ..fixture::node(&["10.0.0.0/16"]) };
    let reading = async {
        let (mut snapshot, mut memo, mut idle) = (Snapshot::default(), Memo::default(), 0);
        loop {
            let changed = std::mem::take(&mut *server.changed.lock().unwrap());
            idle = if changed.is_empty() { idle + 1 } else { 0 };
            let seen = u64::try_from(server.revision.load(Ordering::SeqCst)).unwrap();
            changed.iter().for_each(|service| fixture::add(&mut snapshot, service).unwrap());
            snapshot.seen = Seen { services: seen, gateways: seen };
            if !changed.is_empty() {
                let known = Arc::new(snapshot.clone());
                let model = memo.compile(&known, &node);
                snapshot_out.send_replace(Some(known));
                model_out.send_replace(model);
            }
            // The nodes have programmed it all; one of them says so later.
            let report = |seen| Report { seen: Seen { services: seen, gateways: seen }, ..Report::default() };
            let alive = [("a".to_owned(), report(seen)), ("b".to_owned(), report(seen.saturating_sub(20)))];
            let late = [("a".to_owned(), report(seen)), ("b".to_owned(), report(seen))];
            let alive = if idle > 2 { late } else { alive };
            members_out.send_replace(Arc::new(Members { alive: alive.into(), is_blind: false }));
            let all = server.services.lock().unwrap().values().all(is_served);
            if all && server.events.load(Ordering::SeqCst) >= 2 * COUNT {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = writer.write() => panic!("the writer has ended"),
        done = tokio::time::timeout(Duration::from_secs(120), reading) => done.unwrap(),
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    assert_eq!(count(&server.writes), 2 * COUNT, "the marks, then the status");
    assert_eq!(count(&server.events), 2 * COUNT);
    assert!((2..=MAX_WRITES).contains(&count(&server.most)), "{} writes at once", count(&server.most));
    assert!((2..=MAX_EVENTS).contains(&count(&server.most_events)), "{} Events at once", count(&server.most_events));
    let planned = usize::try_from(writer.planned).unwrap();
    assert!((2 * COUNT..=6 * COUNT).contains(&planned), "{planned} plans for {COUNT} Services");
}
