//! Routes that come and change one by one among many, under load: whole answers, each from a route that is there, and work for that
//! route alone.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Datapath, Namespace, Scene, eventually,
    http::{self as client, Connection, Protocol, Reply},
    manifest::{gateway, http_route},
    scene::{APPLIED, FRONT, versions},
};

/// Routes that are there and do not change.
const MANY: usize = 300;
/// Routes that come.
const NEW: usize = 30;
/// Changes of one route, of each sort.
const FLIPS: usize = 40;

fn at() -> SocketAddr {
    (FRONT, 80).into()
}

fn host(n: usize) -> String {
    format!("host-{n}.example")
}

fn rules(to: &str, with: Option<&str>) -> Value {
    let filters = with.map(|value| {
        let set = json!([{"name": "x-flip", "value": value}]);
        json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}}])
    });
    json!([{"backendRefs": [{"name": to, "port": 80}], "filters": filters}])
}

fn write(scene: &Scene, n: usize, rules: &Value) {
    scene.write(&format!("r{n}.yaml"), &[http_route(&format!("r{n}"), "front", &[&host(n)], rules)]);
}

fn many() -> Scene {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write("v2.yaml", &versions(&scene.lab, "v2", &["b1"]));
    let route = |n| http_route(&format!("r{n}"), "front", &[&host(n)], &rules("v1", None));
    let routes: Vec<Value> = (1..MANY).map(route).collect();
    scene.write("many.yaml", &routes);
    write(&scene, 0, &rules("v1", None));
    scene.write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    scene
}

/// A client with one connection.
struct Client {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Client {
    fn open(protocol: Protocol) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connection = runtime.block_on(Connection::open(at(), protocol))?;
        Ok(Self { runtime, connection })
    }

    fn ask(&mut self, n: usize) -> Reply {
        self.runtime.block_on(self.connection.send(client::get(&host(n), "/"))).expect("an answer")
    }
}

/// Asks for the routes `of` in turn, on one connection, until `stop`; each answer is 200. How many there were.
fn load(space: &Namespace, protocol: Protocol, of: Vec<usize>, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let stop = Arc::clone(stop);
    space.enter(|| {
        std::thread::spawn(move || {
            let mut client = Client::open(protocol).expect("a connection");
            let mut count = 0;
            while !stop.load(Relaxed) {
                let reply = client.ask(of[count % of.len()]);
                let said = String::from_utf8_lossy(&reply.body).into_owned();
                assert_eq!(reply.status, 200, "request {count} of {protocol:?}: {said}");
                count += 1;
            }
            count
        })
    })
}

/// A metric that is counted.
fn counted(scene: &Scene, metric: &str) -> u64 {
    let (_, text) = scene.agent.get("/metrics").expect("the metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(metric));
    line.unwrap_or_else(|| panic!("no {metric} in {text}")).trim().parse::<f64>().expect("a number") as u64
}

const COMPILED: &str = "sluice_compiled_total{of=\"route\"}";
const PARTS: &str = "sluice_proxy_table_parts_total";

#[test]
fn routes_that_come_and_change_under_load_fail_no_request_and_cost_themselves_alone() {
    let scene = many();
    scene.lab.client.enter(|| {
        let mut client = eventually("the Gateway is served", APPLIED, || Client::open(Protocol::Http1));
        let is_served = |n: usize, client: &mut Client| match client.ask(n).status.as_u16() {
            200 => Ok(()),
            status => Err(anyhow::anyhow!("route {n}: {status}")),
        };
        for n in [0, MANY - 1] {
            eventually("the routes are served", APPLIED, || is_served(n, &mut client));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let loads = [(Protocol::Http1, vec![0, 1]), (Protocol::H2c, vec![1, 0])];
        let loads = loads.map(|(protocol, of)| load(&scene.lab.client, protocol, of, &stop));
        let before = [COMPILED, PARTS].map(|metric| counted(&scene, metric));

        for n in MANY..MANY + NEW {
            assert_eq!(client.ask(n).status, 404, "it is not there yet");
            write(&scene, n, &rules("v1", None));
            eventually("the new route is served", APPLIED, || {
                let status = client.ask(n).status.as_u16();
                assert!([200, 404].contains(&status), "404, then 200, and never {status}");
                anyhow::ensure!(status == 200, "{status}");
                Ok(())
            });
            assert!((0..3).all(|_| client.ask(n).status == 200), "once it is there it stays");
        }
        let after = [COMPILED, PARTS].map(|metric| counted(&scene, metric));
        assert_eq!(
            [after[0] - before[0], after[1] - before[1]],
            [NEW as u64; 2],
            "work for {NEW} new routes of {MANY}"
        );

        // One of those that are asked for all the time.
        for n in 0..FLIPS {
            let to = if n % 2 == 0 { "v2" } else { "v1" };
            write(&scene, 0, &rules(to, Some(&n.to_string())));
            eventually("the change is in force", APPLIED, || {
                let reply = client.ask(0);
                let flip = reply.headers.get("x-flip").map(|value| value.to_str().expect("text").to_owned());
                let is_new = flip.as_deref() == Some(n.to_string().as_str());
                let want = if is_new == (n % 2 == 0) { "b1" } else { "a1" };
                assert_eq!(reply.seen().pod, want, "header and backend are of one rule");
                anyhow::ensure!(is_new, "x-flip is {flip:?}, want {n}");
                Ok(())
            });
        }
        stop.store(true, Relaxed);
        for load in loads {
            let count = load.join().expect("no request fails");
            assert!(count > FLIPS, "only {count} requests: nothing was proved");
        }
    });
}
