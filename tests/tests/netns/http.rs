//! Layer 7 end to end: packets to a Gateway's address reach the proxy's socket through the real `sk_lookup` program.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Scene, addr, eventually,
    http::{self as client, Protocol, Reply},
    load,
    manifest::{gateway, http_route},
    ping::ping,
    scene::{APPLIED, FRONT, versions, web},
};

/// What the client asks for in most tests.
const HOST: &str = "shop.example";

/// A Gateway with one route of these rules, and the versions `v1` (a1), `v2` (b1) to send requests to.
fn front(datapath: Datapath, rules: &Value) -> Scene {
    let scene = Scene::empty(datapath, 1, 1);
    scene.write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write("v2.yaml", &versions(&scene.lab, "v2", &["b1"]));
    route(&scene, rules);
    scene
}

/// Replaces the rules and waits until they are in force: each table has a redirect that tells which it is.
fn route(scene: &Scene, rules: &Value) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("/mark-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut rules = rules.clone();
    rules.as_array_mut().expect("rules").push(json!({
        "matches": [{"path": {"type": "Exact", "value": mark}}],
        "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "mark.example", "statusCode": 302}}]
    }));
    scene.write("route.yaml", &[http_route("shop", "front", &[HOST], &rules)]);
    eventually("the routes are in force", APPLIED, || {
        let reply = client::send(&scene.lab.client, at(), Protocol::Http1, client::get(HOST, &mark))?;
        anyhow::ensure!(reply.status == 302, "{}", reply.status);
        Ok(())
    });
}

fn at() -> SocketAddr {
    (FRONT, 80).into()
}

fn send(scene: &Scene, request: Request<Bytes>) -> Reply {
    client::send(&scene.lab.client, at(), Protocol::Http1, request).expect("an answer")
}

/// The pod that answers, or the status where none does.
fn who(scene: &Scene, request: Request<Bytes>) -> String {
    let reply = send(scene, request);
    if reply.status == 200 { reply.seen().pod } else { reply.status.as_u16().to_string() }
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

#[test]
fn host_path_header_and_method_lead_where_the_route_says() {
    let rules = json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/two"}}], "backendRefs": to("v2")},
        {"matches": [{"headers": [{"name": "X-Sandbox", "value": "alice"}]}], "backendRefs": to("v2")},
        {"matches": [{"method": "PUT"}], "backendRefs": to("v2")},
        {"matches": [{"queryParams": [{"name": "beta", "value": "1"}]}], "backendRefs": to("v2")},
        {"matches": [{"path": {"type": "Exact", "value": "/one"}}], "backendRefs": to("v1")}
    ]);
    let scene = front(Datapath::Tc, &rules);
    let get = |path| client::get(HOST, path);
    assert_eq!(who(&scene, get("/one")), "a1");
    assert_eq!(who(&scene, get("/one/more")), "404", "exact is exact");
    assert_eq!(who(&scene, get("/two/more")), "b1");
    assert_eq!(who(&scene, get("/twofold")), "404", "a prefix ends at a slash");
    assert_eq!(who(&scene, client::with(get("/any"), "x-sandbox", "alice")), "b1");
    assert_eq!(who(&scene, client::with(get("/any"), "x-sandbox", "bob")), "404");
    assert_eq!(who(&scene, get("/any?beta=1")), "b1");
    assert_eq!(who(&scene, get("/any?beta=2")), "404");
    let mut put = get("/any");
    *put.method_mut() = http::Method::PUT;
    assert_eq!(who(&scene, put), "b1");
    assert_eq!(who(&scene, client::get("other.example", "/one")), "404", "a host that no route names");
    explained(&scene);
}

/// What `sluice explain` says of the same requests.
fn explained(scene: &Scene) {
    let url = |path: &str| format!("http://{HOST}{path}");
    let alice = scene.agent.cli(&["explain", "GET", &url("/any"), "-H", "X-Sandbox: alice"]).expect("an answer");
    let said = String::from_utf8_lossy(&alice.stdout).into_owned();
    assert!(alice.status.success(), "{said}");
    for line in [
        "passed over HTTPRoute default/shop#4 =/one: the path is /any, want =/one",
        "matched HTTPRoute default/shop#1 /* x-sandbox: alice",
    ] {
        assert!(said.lines().any(|l| l.trim() == line), "want {line:?}: {said}");
    }
    assert!(said.contains("default/v2:80 at "), "{said}");
    let nobody = scene.agent.cli(&["explain", "GET", &url("/one/more")]).expect("an answer");
    let said = String::from_utf8_lossy(&nobody.stdout).into_owned();
    assert!(nobody.status.code() == Some(1) && said.ends_with("404: no route matches the request\n"), "{said}");
    let nowhere = scene.agent.cli(&["explain", "GET", "http://a.example:81/"]).expect("an answer");
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(!nowhere.status.success() && said.contains("no listener is at port 81: there are some at "), "{said}");
}

#[test]
fn weights_share_requests_out() {
    let rules = json!([{"backendRefs": [
        {"name": "v1", "port": 80, "weight": 90}, {"name": "v2", "port": 80, "weight": 10}
    ]}]);
    let scene = front(Datapath::Tc, &rules);
    let requests = vec![client::get(HOST, "/"); 1000];
    let replies = client::send_all(&scene.lab.client, at(), Protocol::Http1, requests).expect("answers");
    let second = replies.iter().filter(|r| r.seen().pod == "b1").count();
    // Four standard deviations around 100.
    assert!((62..=138).contains(&second), "v2 got {second} of 1000");
}

#[test]
fn the_right_status_for_each_thing_that_is_wrong() {
    let rule = |path: &str, refs: Value| json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": refs});
    let mut slow = rule("/slow", to("v1"));
    slow["timeouts"] = json!({"request": "300ms"});
    let rules = json!([
        rule("/missing", to("nobody")),
        rule("/empty", to("empty")),
        rule("/nothing", json!([])),
        slow,
        rule("/ok", to("v1"))
    ]);
    let scene = front(Datapath::Tc, &rules);
    scene.write("empty.yaml", &versions(&scene.lab, "empty", &[]));
    eventually("the empty Service is known", APPLIED, || match who(&scene, client::get(HOST, "/empty")).as_str() {
        "503" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert_eq!(who(&scene, client::get(HOST, "/missing")), "500", "a backend that does not exist");
    assert_eq!(who(&scene, client::get(HOST, "/nothing")), "500", "a rule without backends");
    assert_eq!(who(&scene, client::get(HOST, "/elsewhere")), "404", "no rule");
    let began = Instant::now();
    let slow = client::with(client::get(HOST, "/slow"), "x-test-delay-ms", "5000");
    assert_eq!(who(&scene, slow), "504", "a backend that is too slow");
    assert!(began.elapsed() < Duration::from_secs(2), "the timeout came after {:?}", began.elapsed());
    let aborted = client::with(client::get(HOST, "/ok"), "x-test-abort", "1");
    assert_eq!(who(&scene, aborted), "502", "a backend that breaks off");
    let status = client::with(client::get(HOST, "/ok"), "x-test-status", "418");
    assert_eq!(send(&scene, status).status, 418, "the backend's own status");
    assert_eq!(who(&scene, client::get(HOST, "/ok")), "a1");
}

#[test]
fn endpoints_that_refuse_are_503_and_serve_again_when_back() {
    let mut scene = front(Datapath::Tc, &json!([{"backendRefs": to("v1")}]));
    assert_eq!(who(&scene, client::get(HOST, "/")), "a1");
    scene.lab.pod_mut("a1").kill();
    assert_eq!(who(&scene, client::get(HOST, "/")), "503");
    scene.lab.pod_mut("a1").revive().expect("the port is free");
    assert_eq!(who(&scene, client::get(HOST, "/")), "a1");
}

#[test]
fn backends_see_who_called_and_nothing_that_the_client_made_up() {
    let scene = front(Datapath::Xdp, &json!([{"backendRefs": to("v2")}]));
    let mut request = client::get(HOST, "/a%20b?c=d");
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.66"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=192.0.2.66"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("te", "trailers"),
        ("x-kept", "1"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        request = client::with(request, name, value);
    }
    let seen = send(&scene, request).seen();
    let header = |name: &str| seen.headers.get(name).map(|v| v.join("|"));
    assert_eq!(header("x-forwarded-for").as_deref(), Some(addr::CLIENT_V4.to_string().as_str()));
    assert_eq!(header("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(header("x-forwarded-host").as_deref(), Some(HOST));
    assert_eq!(header("x-forwarded-port").as_deref(), Some("80"));
    assert_eq!(header("host").as_deref(), Some(HOST));
    assert_eq!(header("x-kept").as_deref(), Some("1"));
    assert!(header("traceparent").is_some_and(|t| t.contains("4bf92f3577b34da6a3ce929d0e0e4736")), "the trace goes on");
    for gone in ["forwarded", "x-secret"] {
        assert_eq!(header(gone), None, "{gone} must not reach a backend");
    }
    // The proxy asks for trailers in its own name where the client has.
    assert_eq!((header("te").as_deref(), header("connection").as_deref()), (Some("trailers"), Some("te")));
    assert_eq!((seen.path.as_str(), seen.protocol.as_str()), ("/a%20b?c=d", "HTTP/1.1"));
    assert_eq!(seen.peer, addr::node_v4(1).to_string(), "the proxy calls from the node");
}

#[test]
fn http2_by_prior_knowledge_many_requests_on_one_connection() {
    let scene = front(Datapath::Tc, &json!([{"backendRefs": to("v1")}]));
    let requests = (0..50).map(|n| client::get(HOST, &format!("/{n}"))).collect();
    let replies = client::send_all(&scene.lab.client, at(), Protocol::H2c, requests).expect("answers");
    for (n, reply) in replies.iter().enumerate() {
        let seen = reply.seen();
        assert_eq!((seen.path, seen.protocol.as_str()), (format!("/{n}"), "HTTP/1.1"));
        assert_eq!(seen.headers["host"], [HOST]);
    }
}

#[test]
fn bodies_pass_both_ways_whole() {
    let scene = front(Datapath::Xdp, &json!([{"backendRefs": to("v2")}]));
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let mut request = client::get(HOST, "/");
        *request.method_mut() = http::Method::POST;
        *request.body_mut() = Bytes::from(vec![b'y'; 3_000_000]);
        let reply = client::send(&scene.lab.client, at(), protocol, request).expect("an answer");
        assert_eq!(reply.seen().body, 3_000_000, "{protocol:?}");
        let request = client::with(client::get(HOST, "/"), "x-test-body", "3000000");
        let reply = client::send(&scene.lab.client, at(), protocol, request).expect("an answer");
        assert!(reply.body.len() == 3_000_000 && reply.body.iter().all(|b| *b == b'x'), "{protocol:?}");
    }
}

#[test]
fn a_request_in_flight_survives_a_change_of_routes_and_of_endpoints() {
    let scene = front(Datapath::Tc, &json!([{"backendRefs": to("v1")}]));
    std::thread::scope(|s| {
        let slow = || send(&scene, client::with(client::get(HOST, "/"), "x-test-delay-ms", "1500"));
        let slow = s.spawn(slow);
        std::thread::sleep(Duration::from_millis(300));
        route(&scene, &json!([{"backendRefs": to("v2")}]));
        assert_eq!(who(&scene, client::get(HOST, "/")), "b1", "the new route");
        scene.write("v1.yaml", &versions(&scene.lab, "v1", &[]));
        let reply = slow.join().expect("the client does not panic");
        assert_eq!((reply.status.as_u16(), reply.seen().pod.as_str()), (200, "a1"), "the old one's request");
    });
}

#[test]
fn no_request_fails_while_routes_change() {
    let scene = front(Datapath::Tc, &json!([{"backendRefs": to("v1")}]));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [Protocol::Http1, Protocol::H2c]
        .map(|protocol| {
            let stop = Arc::clone(&stop);
            scene.lab.client.enter(|| {
                std::thread::spawn(move || -> anyhow::Result<usize> {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(async {
                        let mut connection = client::Connection::open(at(), protocol).await?;
                        let mut count = 0;
                        while !stop.load(Ordering::Relaxed) {
                            let reply = connection.send(client::get(HOST, "/")).await?;
                            anyhow::ensure!(
                                reply.status == 200,
                                "status {} after {count} requests: {}",
                                reply.status,
                                String::from_utf8_lossy(&reply.body)
                            );
                            count += 1;
                        }
                        Ok(count)
                    })
                })
            })
        })
        .into();
    for n in 0..100 {
        route(&scene, &json!([{"backendRefs": to(if n % 2 == 0 { "v2" } else { "v1" })}]));
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let count = client.join().expect("it does not panic").expect("not one request fails, on one connection");
        assert!(count > 50, "only {count} requests: nothing was proved");
    }
}

#[test]
fn s153_layer_4_and_layer_7_share_an_address() {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    let key = |mut object: Value| {
        object["metadata"]["annotations"]["sluice.dev/sharing-key"] = json!("one");
        object
    };
    scene.write("front.yaml", &[key(gateway("front", 8080, Some("203.0.113.7")))]);
    scene.write("web.yaml", &[key(web().json())]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write("route.yaml", &[http_route("shop", "front", &[HOST], &json!([{"backendRefs": to("v1")}]))]);
    scene.endpoints(&["a1", "b1"]);
    let l7 = SocketAddr::from(([203, 0, 113, 7], 8080));
    eventually("layer 7 answers", APPLIED, || {
        let reply = client::send(&scene.lab.client, l7, Protocol::Http1, client::get(HOST, "/"))?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    });
    let tally = load::burst(&scene.lab.client, ([203, 0, 113, 7], 80).into(), 200, 4);
    assert_eq!((tally.failed(), tally.by_pod.len()), (0, 2), "{tally}");
    ping(&scene.lab.client, [203, 0, 113, 7].into(), 56).expect("an echo");
}

#[test]
fn a_gateway_on_ipv6_and_one_that_goes_away() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    let vip = "2001:db8:113::80";
    scene.write("front.yaml", &[gateway("front", 80, Some(vip))]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write("route.yaml", &[http_route("shop", "front", &[], &json!([{"backendRefs": to("v1")}]))]);
    let at = SocketAddr::new(addr::ip(vip), 80);
    let seen = eventually("it answers", APPLIED, || {
        let reply = client::send(&scene.lab.client, at, Protocol::Http1, client::get(HOST, "/"))?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        anyhow::Ok(reply.seen())
    });
    assert_eq!(seen.headers["x-forwarded-for"], [addr::CLIENT_V6.to_string()]);
    ping(&scene.lab.client, at.ip(), 56).expect("an echo");
    scene.agent.remove("front.yaml").expect("it is there");
    eventually("nobody answers any more", APPLIED, || {
        match client::send(&scene.lab.client, at, Protocol::Http1, client::get(HOST, "/")) {
            Err(_) => Ok(()),
            Ok(reply) => Err(format!("{}", reply.status)),
        }
    });
}

#[test]
fn after_kill_9_the_proxy_serves_again_and_a_second_agent_does_not_take_its_place() {
    let mut scene = front(Datapath::Tc, &json!([{"backendRefs": to("v1")}]));
    scene.agent.kill9().expect("it runs");
    let began = Instant::now();
    let outcome = Connection::open(&scene.lab.client, at()).map(|c| c.answer);
    assert!(outcome.is_err() && began.elapsed() < Duration::from_secs(1), "refused at once: {outcome:?}");
    scene.agent.launch().expect("it starts again");
    assert_eq!(who(&scene, client::get(HOST, "/")), "a1");
    let mut second = Agent::prepare(&scene.lab, AgentSpec::new(Datapath::Tc)).expect("the same directories");
    second.spawn().expect("a process");
    assert!(!second.wait_end().expect("it gives up").0.success());
    assert_eq!(who(&scene, client::get(HOST, "/")), "a1", "the first agent's socket is still the proxy");
}
