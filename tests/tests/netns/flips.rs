//! Thousands of routes and certificates that come and change one by one under load: whole answers, each from a route that is there, and
//! work for that one alone.
//!
//! The source is a directory of manifests. All changes are made as soon as the one before is in force, which is more often than any
//! pace that is asked for; how long each took is printed and not judged (`cargo xtask bench control --source routes` does that).
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Datapath, Lab, LabSpec, Scene, eventually,
    http::{self as client, Connection, Protocol, Reply},
    manifest::{Slice, gateway, http_route},
    pod::HTTP_PORT,
    scene::FRONT,
    secure::{Certificate, Visitor},
};

/// Routes that are there and do not change.
const MANY: usize = 2_000;
/// Routes that come, one by one.
const NEW: usize = 3_000;
/// Changes of one route, each of its backend's port and of a filter.
const FLIPS: usize = 1_000;
/// Listeners with a certificate of their own.
const CERTIFICATES: usize = 500;
/// How many of them a Gateway has: 64 at most.
const OF_GATEWAY: usize = 60;
/// How often one certificate is exchanged, at least, and the pause between two.
const SWAPS: (usize, Duration) = (10, Duration::from_secs(1));
/// What all that may take of memory; a binary that is not optimised is larger itself. Units: KiB.
const MEMORY: u64 = if cfg!(debug_assertions) { 168 << 10 } else { 120 << 10 };
/// How long a change may take: generous, for a machine that does much else.
const LIMIT: Duration = Duration::from_secs(30);
/// The address of the Gateway whose certificate is exchanged.
const SECURE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 81);

fn at() -> SocketAddr {
    (FRONT, 80).into()
}

fn host(n: usize) -> String {
    format!("host-{n}.example")
}

/// To the port of the Service that one pod or the other has, with a header that says which change it is.
fn rules(flip: Option<usize>) -> Value {
    let filters = flip.map(|n| {
        let set = json!([{"name": "x-flip", "value": n.to_string()}]);
        json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}}])
    });
    json!([{"backendRefs": [{"name": "v", "port": port(flip)}], "filters": filters}])
}

fn port(flip: Option<usize>) -> u16 {
    if flip.is_some_and(|n| n % 2 == 0) { 81 } else { 80 }
}

fn route(n: usize, flip: Option<usize>) -> Value {
    http_route(&format!("r{n}"), "front", &[&host(n)], &rules(flip))
}

fn write(scene: &Scene, n: usize, flip: Option<usize>) {
    scene.write(&format!("r{n}.yaml"), &[route(n, flip)]);
}

/// The Service whose port 80 leads to pod a1 and 81 to b1.
fn service(lab: &Lab) -> [Value; 3] {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "v", "namespace": "default"},
        "spec": {"ports": [{"name": "one", "port": 80}, {"name": "two", "port": 81}]}});
    let slice = |port: &str, pod| Slice::new("v", port).port(port, "TCP", HTTP_PORT).pods(lab.select(&[pod])).json();
    [service, slice("one", "a1"), slice("two", "b1")]
}

/// A Gateway with these listeners, each with the certificate of its number.
fn secured(name: &str, address: Option<&str>, of: std::ops::Range<usize>) -> Vec<Value> {
    let mut gateway = gateway(name, 443, address);
    let listener = |n| {
        json!({"name": format!("t{n}"), "port": 443, "protocol": "HTTPS", "hostname": tls_host(n),
            "tls": {"certificateRefs": [{"name": format!("t{n}")}]}})
    };
    gateway["spec"]["listeners"] = of.clone().map(listener).collect();
    let secrets = of.map(|n| Certificate::new(&tls_host(n)).secret(&format!("t{n}")));
    std::iter::once(gateway).chain(secrets).collect()
}

fn tls_host(n: usize) -> String {
    format!("t{n}.example.com")
}

/// All that is there when the agent starts.
fn many(certificate: &Certificate) -> Scene {
    let lab = Lab::build(&LabSpec::test(1, 1)).expect("a lab");
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc)).expect("an agent");
    let write = |file: &str, objects: &[Value]| agent.write(file, objects).expect("a manifest");
    write("v.yaml", &service(&lab));
    write("many.yaml", &(1..MANY).map(|n| route(n, None)).collect::<Vec<_>>());
    write("r0.yaml", &[route(0, None)]);
    write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    for (number, first) in (1..CERTIFICATES).step_by(OF_GATEWAY).enumerate() {
        let of = first..CERTIFICATES.min(first + OF_GATEWAY);
        write(&format!("many{number}.yaml"), &secured(&format!("many{number}"), None, of));
    }
    let [gateway, _] = secured("secure", Some(&SECURE.to_string()), 0..1).try_into().expect("two objects");
    let route = http_route("secure", "secure", &[&tls_host(0)], &rules(None));
    write("secure.yaml", &[gateway, route]);
    write("t0.yaml", &[certificate.secret("t0")]);
    agent.launch().expect("it starts");
    Scene::around(lab, agent)
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

    /// Asks until `is_new` says so of the answer; how long after `began` that was.
    fn until(&mut self, n: usize, began: Instant, mut is_new: impl FnMut(&Reply) -> bool) -> Duration {
        loop {
            let reply = self.ask(n);
            let took = began.elapsed();
            if is_new(&reply) {
                return took;
            }
            assert!(took < LIMIT, "route {n} is not as it was written: {} {:?}", reply.status, reply.headers);
        }
    }
}

/// Which change an answer of the route that changes is of: filter and backend are of one.
fn flip(reply: &Reply) -> Option<usize> {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    let flip = reply.headers.get("x-flip").map(|n| n.to_str().expect("text").parse().expect("a number"));
    let want = if port(flip) == 80 { "a1" } else { "b1" };
    assert_eq!(reply.seen().pod, want, "change {flip:?}: header and backend are of one rule");
    flip
}

/// Asks for the route that changes and for another, in turn, on one connection, until `stop`. How often.
fn load(protocol: Protocol, stop: &AtomicBool) -> usize {
    let mut client = Client::open(protocol).expect("a connection");
    let mut count = 0;
    while !stop.load(Relaxed) {
        flip(&client.ask(0));
        assert_eq!(flip(&client.ask(1)), None);
        count += 1;
    }
    count
}

/// Adds routes: 404, then 200, and nothing else. How long each took.
fn adds(scene: &Scene) -> Vec<Duration> {
    let mut client = Client::open(Protocol::Http1).expect("a connection");
    let add = |n| {
        assert_eq!(client.ask(n).status, 404, "it is not there yet");
        let began = Instant::now();
        write(scene, n, None);
        let took = client.until(n, began, |reply| {
            assert!(reply.status == 404 || reply.status == 200, "404, then 200, and never {}", reply.status);
            reply.status == 200
        });
        assert_eq!(flip(&client.ask(n)), None, "once it is there it stays");
        took
    };
    (MANY..MANY + NEW).map(add).collect()
}

/// Changes the route that is asked for all the time. How long each took.
fn flips(scene: &Scene) -> Vec<Duration> {
    let mut client = Client::open(Protocol::Http1).expect("a connection");
    let change = |n| {
        let began = Instant::now();
        write(scene, 0, Some(n));
        client.until(0, began, |reply| flip(reply) == Some(n))
    };
    (0..FLIPS).map(change).collect()
}

/// Makes handshakes and asks once with each, until `stop`. How often, and how often with a session that went on.
fn visits(visitor: &Visitor, stop: &AtomicBool) -> (usize, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut all, mut resumed) = (0, 0);
    while !stop.load(Relaxed) {
        let visit = runtime.block_on(visitor.visit((SECURE, 443).into())).expect("a handshake, and an answer");
        assert_eq!(visit.status, 200);
        all += 1;
        resumed += usize::from(visit.resumed);
        std::thread::sleep(Duration::from_millis(5));
    }
    (all, resumed)
}

/// Exchanges the certificate every second until `stop`, and a few times in any case. How often.
fn swaps(scene: &Scene, certificates: &[Certificate], stop: &AtomicBool) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut count = 0;
    while count < SWAPS.0 || !stop.load(Relaxed) {
        count += 1;
        let next = &certificates[count % certificates.len()];
        scene.write("t0.yaml", &[next.secret("t0")]);
        eventually("the next certificate is shown", LIMIT, || {
            let visit = runtime.block_on(Visitor::new(certificates, false).visit((SECURE, 443).into()))?;
            anyhow::ensure!(next.is(&visit.shown), "it shows another");
            Ok(())
        });
        std::thread::sleep(SWAPS.1);
    }
    count
}

/// What is counted in the metrics of this name.
fn counted(scene: &Scene, metrics: [&str; 4]) -> [usize; 4] {
    let (_, text) = scene.agent.get("/metrics").expect("the metrics");
    metrics.map(|metric| {
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.unwrap_or_else(|| panic!("no {metric} in {text}")).trim().parse::<f64>().expect("a number") as usize
    })
}

/// Compiles of everything, of routes and certificates; host names indexed by the proxy.
const COUNTED: [&str; 4] = [
    "sluice_compiled_total{of=\"everything\"}",
    "sluice_compiled_total{of=\"route\"}",
    "sluice_compiled_total{of=\"certificate\"}",
    "sluice_proxy_table_parts_total",
];

/// Resident memory. Units: KiB.
fn resident(scene: &Scene) -> u64 {
    let pid = scene.agent.pid().expect("it runs");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

fn told(what: &str, mut times: Vec<Duration>) -> String {
    times.sort();
    let of = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    format!("{what}: {} times, p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", times.len(), of(50), of(99), of(100))
}

/// Ends the others, also where this one fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn thousands_of_routes_and_certificates_change_one_by_one_under_load() {
    let certificates: Vec<Certificate> = (0..4).map(|_| Certificate::new(&tls_host(0))).collect();
    let scene = many(&certificates[0]);
    let stop = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    scene.lab.client.enter(|| {
        let mut client = eventually("the Gateway is served", LIMIT, || Client::open(Protocol::Http1));
        for n in [0, MANY - 1] {
            client.until(n, Instant::now(), |reply| reply.status == 200);
        }
        let (new, known) = (Visitor::new(&certificates, false), Visitor::new(&certificates, true));
        let before = counted(&scene, COUNTED);
        let swapped = std::thread::scope(|scope| {
            let over = Over(&stop);
            let loads = [Protocol::Http1, Protocol::H2c].map(|of| {
                scope.spawn({
                    let (stop, asked) = (&stop, &asked);
                    move || asked.fetch_add(load(of, stop), Relaxed)
                })
            });
            let visits = [&new, &known].map(|visitor| scope.spawn(|| visits(visitor, &stop)));
            let swaps = scope.spawn(|| swaps(&scene, &certificates, &stop));
            let flips = scope.spawn(|| flips(&scene));
            println!("{}", told("a new route", adds(&scene)));
            println!("{}", told("a changed route", flips.join().expect("each is in force, and no request fails")));
            drop(over);
            for load in loads {
                load.join().expect("no request fails");
            }
            let [(new, fresh), (known, resumed)] = visits.map(|visit| visit.join().expect("no handshake fails"));
            assert!(new > SWAPS.0 && fresh == 0 && resumed > SWAPS.0, "{new} {fresh} {known} {resumed}");
            swaps.join().expect("each is shown")
        });
        let asked = asked.load(Relaxed);
        assert!(asked > FLIPS, "only {asked} requests: nothing was proved");
        // Before the metrics are asked for, whose text of thousands of routes is an allocation of its own.
        let resident = resident(&scene);
        let after = counted(&scene, COUNTED);
        let work: Vec<usize> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let changes = NEW + FLIPS;
        let what = format!("work for {NEW} new routes, {FLIPS} changes and {swapped} certificates: {COUNTED:?}");
        assert_eq!(work[1..], [changes, swapped, changes], "{what}");
        // Of its own accord only the host has something to say, and seldom.
        assert!(work[0] <= 2, "{what}: {work:?}");
        println!("{asked} rounds of requests, {swapped} certificates; {} MiB are resident", resident >> 10);
        assert!(resident <= MEMORY, "{} routes, {CERTIFICATES} certificates: {resident} KiB", MANY + NEW);
    });
}
