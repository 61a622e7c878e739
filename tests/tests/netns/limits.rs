//! What the agent does at the bound of open files: it serves whom it can, the others wait, and it can still be asked.
use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;
use sluice_tests::netns::{
    AgentSpec, Datapath, Scene, eventually,
    http::{self as client, Protocol},
    manifest::{gateway, http_route},
    scene::{APPLIED, FRONT, versions, web},
};

const HOST: &str = "shop.example";
/// More than the soft limit that systemd and containerd 2 give.
const CLIENTS: usize = 1_100;

fn front(files: (u64, u64), flags: &[&str]) -> Scene {
    let mut spec = AgentSpec::new(Datapath::Tc);
    spec.files = Some(files);
    spec.extra = flags.iter().map(ToString::to_string).collect();
    let scene = Scene::with(spec, 1, 0);
    scene.write("front.yaml", &[gateway("front", 80, Some(&FRONT.to_string()))]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write(
        "route.yaml",
        &[http_route("shop", "front", &[HOST], &json!([{"backendRefs": [{"name": "v1", "port": 80}]}]))],
    );
    scene.until_state("default/front", "Accepted");
    eventually("the route is in force", APPLIED, || {
        let reply = client::send(&scene.lab.client, (FRONT, 80).into(), Protocol::Http1, client::get(HOST, "/"))?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    });
    scene
}

/// Opens a connection, and asks on it without reading the answer.
fn ask(scene: &Scene) -> TcpStream {
    let mut stream = scene.lab.client.enter(|| TcpStream::connect((FRONT, 80))).expect("the kernel connects");
    write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").expect("the kernel takes it");
    stream
}

/// Whether the answer came within this time.
fn answered(stream: &mut TcpStream, within: Duration) -> bool {
    use std::io::Read as _;
    stream.set_read_timeout(Some(within)).expect("a timeout");
    let mut head = [0; 12];
    stream.read_exact(&mut head).is_ok() && &head == b"HTTP/1.1 200"
}

/// Those that have an answer to read, and those that have none.
fn split(clients: Vec<TcpStream>) -> (Vec<TcpStream>, Vec<TcpStream>) {
    clients.into_iter().partition(|stream| {
        stream.set_nonblocking(true).expect("a descriptor");
        stream.peek(&mut [0; 12]).is_ok_and(|n| n == 12)
    })
}

/// The same, once there are so many of the former.
fn until_answered(clients: Vec<TcpStream>, want: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let (mut answered, mut waiting) = split(clients);
    let deadline = Instant::now() + Duration::from_secs(20);
    while answered.len() < want && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let (more, left) = split(waiting);
        answered.extend(more);
        waiting = left;
    }
    assert_eq!(answered.len(), want, "{} wait", waiting.len());
    (answered, waiting)
}

#[test]
fn a_small_soft_limit_is_no_bound_for_clients() {
    let scene = front((1024, 8192), &[]);
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| ask(&scene)).collect();
    let served = clients.iter_mut().map(|stream| usize::from(answered(stream, Duration::from_secs(10)))).sum::<usize>();
    assert_eq!(served, CLIENTS);
    assert_eq!(scene.agent.show_json(&["status"]).expect("an answer")["limits"], json!([]));
}

/// The kernel spreads connections that `sk_lookup` steers to the proxy over the sockets of its workers.
#[test]
fn clients_of_a_gateway_are_spread_over_the_workers() {
    let scene = front((1024, 8192), &["--proxy-workers=4"]);
    let mut clients: Vec<TcpStream> = (0..64).map(|_| ask(&scene)).collect();
    assert!(clients.iter_mut().all(|stream| answered(stream, Duration::from_secs(10))));
    let (_, metrics) = scene.agent.get("/metrics").expect("metrics");
    let of = |worker: usize| {
        let name = format!("sluice_proxy_connections_total{{worker=\"{worker}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|n| n.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    let accepted = [of(0), of(1), of(2), of(3)];
    assert!(accepted.iter().all(|n| *n >= 1.0) && accepted.iter().sum::<f64>() >= 64.0, "{accepted:?}");
}

#[test]
fn at_the_hard_limit_clients_wait_and_the_agent_goes_on() {
    let scene = front((1024, 1024), &[]);
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| ask(&scene)).collect();
    // What is left of 1024 without the reserve, in halves. Who is served depends on whose worker has fewer of them.
    let places = 320;
    let (served, waiting) = until_answered(clients, places);
    let status = scene.agent.show_json(&["status"]).expect("the maps can be read");
    let limits = status["limits"].to_string();
    assert!(status["ready"] == true && limits.contains("320 of 320 client connections"), "{limits}");
    assert!(scene.agent.show(&["status"]).expect("a table").contains("limits that are reached"));
    let (code, metrics) = scene.agent.get("/metrics").expect("an answer");
    assert!(code == 200 && !metrics.contains("\nsluice_proxy_accept_waiting 0.0\n"), "{metrics}");
    // Manifests are read and programmed.
    scene.write("web.yaml", &[web().json()]);
    scene.until_state("default/web", "Accepted");
    let (early, waiting) = split(waiting);
    assert_eq!(early.len(), 0, "the others wait");
    // Who waits is served when others go, and no endpoint was marked down by want of descriptors.
    drop(served);
    let (_served, waiting) = until_answered(waiting, places);
    assert_eq!(waiting.len(), CLIENTS - 2 * places);
    assert!(scene.agent.get("/metrics").expect("an answer").1.contains("\nsluice_proxy_connect_errors_total 0.0\n"));
}
