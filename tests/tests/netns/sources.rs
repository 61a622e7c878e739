//! `loadBalancerSourceRanges` with real clients: who is served, who is not, and what an edit does to open connections.
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Connection, Datapath, Failure, Namespace, Scene, addr, eventually,
    lab::UPLINK,
    manifest::{Service, gateway, http_route},
    pod::TCP_PORT,
    scene::{FRONT, TCP, UDP, WEB_V4, WEB_V6, versions, web},
    udp,
};

/// How long a change may take to cut a connection, on a busy machine.
const CUT: Duration = Duration::from_secs(60);
/// How long to wait for an answer that is not to come.
const SHORT: Duration = Duration::from_secs(1);
/// A port that the node itself listens at, as kube-proxy does for a node port.
const NODE_PORT: u16 = 30_080;
/// Everybody in the lab.
const LAN: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Who may still come when the ranges are edited: both addresses of the client that the lab gives it.
const ONE: [&str; 2] = [" 198.51.100.10/32", "2001:db8:51::10/128 "];

/// The client's addresses that stay in the ranges.
fn inside() -> [IpAddr; 2] {
    [addr::CLIENT_V4.into(), addr::CLIENT_V6.into()]
}

/// Addresses that the client has as well.
fn outside() -> [IpAddr; 2] {
    [addr::ip("198.51.100.11"), addr::ip("2001:db8:51::11")]
}

fn add_outside(client: &Namespace) {
    let added = client.net(async |net| {
        let [v4, v6] = outside();
        net.address(UPLINK, v4, 24).await?;
        net.address(UPLINK, v6, 64).await
    });
    added.expect("two more addresses");
}

fn open(scene: &Scene, from: IpAddr) -> Result<Connection, Failure> {
    let vip = if from.is_ipv4() { WEB_V4.into() } else { WEB_V6.into() };
    Connection::open_bound(&scene.lab.client, (from, 0).into(), SocketAddr::new(vip, TCP))
}

fn flow(scene: &Scene, from: IpAddr) -> udp::Flow {
    let vip = if from.is_ipv4() { WEB_V4.into() } else { WEB_V6.into() };
    udp::Flow::open_bound(&scene.lab.client, (from, 0).into(), SocketAddr::new(vip, UDP)).expect("a socket")
}

fn limited(ranges: &[&str]) -> Value {
    web().spec("loadBalancerSourceRanges", json!(ranges)).json()
}

/// Waits until `web` is shown like this, and returns what is shown.
fn until(scene: &Scene, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, CUT, || {
        let all = scene.agent.show_json(&["services"]).map_err(|e| e.to_string())?;
        let web = all.as_array().into_iter().flatten().find(|s| s["name"] == "default/web").cloned().unwrap_or(all);
        if is_so(&web) { Ok(web) } else { Err(web.to_string()) }
    })
}

/// Waits until the model has these ranges.
fn until_shown(scene: &Scene, ranges: &[&str]) -> Value {
    let trimmed: Vec<&str> = ranges.iter().map(|range| range.trim()).collect();
    until(scene, "the ranges are shown", |web| web["sources"] == json!(trimmed))
}

/// The pod that answers a flow; a datagram may be lost.
fn pod(flow: &udp::Flow) -> String {
    eventually("a datagram is answered", CUT, || flow.ask(10)).pod
}

/// Waits until a flow gets no answer.
fn until_silent(flow: &udp::Flow) {
    eventually("a UDP flow is cut", CUT, || match flow.ask(10) {
        Err(Failure::Timeout) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Waits until a connection gets no answer.
fn until_cut(connection: &mut Connection) {
    eventually("a connection is cut", CUT, || match connection.exchange(100) {
        Err(_) => Ok(()),
        Ok(()) => Err("it still answers"),
    });
}

/// Where a connection goes.
fn kind(connection: &Connection) -> (bool, String) {
    (connection.is_ipv6(), connection.answer.pod.clone())
}

#[test]
fn s96_an_edit_cuts_who_may_come_no_longer_and_keeps_the_others_by_tc() {
    live_edit(Datapath::Tc);
}

#[test]
fn s96_an_edit_cuts_who_may_come_no_longer_and_keeps_the_others_by_xdp() {
    live_edit(Datapath::Xdp);
}

fn live_edit(datapath: Datapath) {
    let mut scene = Scene::web(datapath, 1, 1);
    add_outside(&scene.lab.client);
    scene.write("web.yaml", &[limited(&LAN)]);
    until_shown(&scene, &LAN);
    // Enough of them that each goes to either pod: the one on this node and the one on the other.
    let many = |from: IpAddr| (0..24).map(move |_| from);
    let connect = |from: IpAddr| many(from).map(|from| open(&scene, from).expect("a connection")).collect::<Vec<_>>();
    let mut kept: Vec<Connection> = inside().into_iter().flat_map(connect).collect();
    let mut doomed: Vec<Connection> = outside().into_iter().flat_map(connect).collect();
    let kept_flows = inside().map(|from| flow(&scene, from));
    let doomed_flows = outside().map(|from| flow(&scene, from));
    let pods = kept_flows.each_ref().map(pod);
    doomed_flows.iter().for_each(|flow| drop(pod(flow)));

    scene.write("web.yaml", &[limited(&ONE)]);
    let shown = until_shown(&scene, &ONE);
    assert_eq!(shown["reason"], "Accepted");
    // One walk cuts them all: one of each family and pod stands for the others.
    for connections in [&mut kept, &mut doomed] {
        connections.sort_by_key(kind);
        connections.dedup_by_key(|connection| kind(connection));
        assert_eq!(connections.len(), 4, "both families, both pods");
    }
    let impatient = |connection: Connection| connection.within(SHORT).expect("a socket");
    let mut doomed: Vec<Connection> = doomed.into_iter().map(impatient).collect();
    std::thread::scope(|threads| {
        doomed_flows.iter().for_each(|flow| drop(threads.spawn(|| until_silent(flow))));
        doomed.iter_mut().for_each(|connection| drop(threads.spawn(|| until_cut(connection))));
    });
    let whole = |scene: &Scene, kept: &mut Vec<Connection>| {
        kept.iter_mut().for_each(|c| c.exchange(1000).expect("who may still come keeps his connection"));
        kept_flows.iter().zip(&pods).for_each(|(flow, known)| assert_eq!(&pod(flow), known, "and his backend"));
        inside().into_iter().for_each(|from| drop(open(scene, from).expect("and may open another")));
        std::thread::scope(|threads| {
            for from in outside() {
                threads.spawn(move || {
                    let asked = flow(scene, from).within(SHORT).and_then(|flow| flow.ask(10));
                    assert_eq!(asked.map(drop), Err(Failure::Timeout), "{from} gets no answer");
                });
            }
        });
    };
    whole(&scene, &mut kept);
    let status = scene.agent.show_json(&["status"]).expect("status");
    assert!(status["reasons"]["source_refused"].as_u64() >= Some(4), "{}", status["reasons"]);
    assert!(until_shown(&scene, &ONE)["dropped"].as_u64() >= Some(4));
    let why = scene.agent.show(&["why", "service/default/web"]).expect("why");
    assert!(why.contains("clients must come from 198.51.100.10/32, 2001:db8:51::10/128"), "{why}");

    if datapath == Datapath::Xdp {
        return;
    }
    assert_eq!(open(&scene, outside()[0]).map(drop), Err(Failure::Timeout), "nor does a new connection");

    // The programs need no agent to know who may come, and the next agent takes the lists over.
    scene.agent.kill9().expect("it runs");
    whole(&scene, &mut kept);
    scene.agent.launch().expect("it starts again");
    until_shown(&scene, &ONE);
    whole(&scene, &mut kept);
    kept.into_iter().for_each(|c| c.close().expect("an orderly end"));

    // Ranges of one family alone: nobody of the other.
    scene.write("web.yaml", &[limited(&ONE[..1])]);
    until_shown(&scene, &ONE[..1]);
    let [v4, v6] = kept_flows;
    until_silent(&v6);
    pod(&v4);
    scene.write("web.yaml", &[limited(&["198.51.100.10"])]);
    let said = until(&scene, "it is refused", |web| web["reason"] == "InvalidSourceRanges");
    assert!(said["messages"][0].as_str().is_some_and(|m| m.contains("holds \"198.51.100.10\", want")), "{said}");
    eventually("it is closed", CUT, || match scene.maps.reach((WEB_V4, TCP).into()) {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    scene.write("web.yaml", &[web().json()]);
    for from in outside() {
        eventually("everybody may come", CUT, || open(&scene, from).map(drop));
    }
}

/// A connection to the proxy that is kept: one request after the other.
struct Kept(TcpStream);

impl Kept {
    fn open(space: &Namespace, from: Option<IpAddr>) -> Result<Self, Failure> {
        let stream = space.enter(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            if let Some(from) = from {
                socket.bind(&SocketAddr::new(from, 0).into())?;
            }
            socket.connect_timeout(&SocketAddr::from((FRONT, 80)).into(), Duration::from_secs(5))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            io::Result::Ok(TcpStream::from(socket))
        })?;
        Ok(Self(stream))
    }

    /// The head of the answer to one request; it has no body.
    fn head(&mut self) -> io::Result<String> {
        self.0.write_all(b"HEAD / HTTP/1.1\r\nhost: front.example\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.extend(byte);
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    fn is_served(&mut self) -> Result<(), String> {
        match self.head() {
            Ok(head) if head.starts_with("HTTP/1.1 200") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

#[test]
fn s96_s97_before_a_gateway_clients_are_judged_and_other_ways_are_not() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    add_outside(&scene.lab.client);
    let [inside, outside] = [inside()[0], outside()[0]];
    let service = |ranges: &[&str]| {
        let service = Service::new("front").port("http", "TCP", 80, 80).address(&FRONT.to_string());
        let mut service = service.spec("loadBalancerSourceRanges", json!(ranges)).json();
        service["metadata"]["labels"] = json!({ "gateway.networking.k8s.io/gateway-name": "front" });
        service
    };
    let rules = json!([{ "backendRefs": [{ "name": "v1", "port": 80 }] }]);
    scene.write("front.yaml", &[gateway("front", 80, Some("203.0.113.81"))]);
    scene.write("route.yaml", &[http_route("front", "front", &["front.example"], &rules)]);
    scene.write("v1.yaml", &versions(&scene.lab, "v1", &["a1"]));
    scene.write("service.yaml", &[service(&LAN[..1])]);
    let client = &scene.lab.client;
    let serve = |from: IpAddr| {
        eventually("the proxy answers", CUT, || {
            let mut kept = Kept::open(client, Some(from)).map_err(|e| e.to_string())?;
            kept.is_served().map(|()| kept)
        })
    };
    let (mut kept, mut doomed) = (serve(inside), serve(outside));

    scene.write("service.yaml", &[service(&ONE[..1])]);
    let refused = |space: &Namespace, from| Kept::open(space, from).map(drop);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            eventually("the open connection is cut", CUT, || match doomed.is_served() {
                Err(_) => Ok(()),
                Ok(()) => Err("it still answers"),
            });
        });
        eventually("who comes by the uplink gets no answer", CUT, || match refused(client, Some(outside)) {
            Err(Failure::Timeout) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
    kept.is_served().expect("who may still come keeps his connection");

    // S97: on the node itself.
    let pod = scene.lab.pod("a1");
    assert_eq!(refused(pod.space(), None), Err(Failure::Refused), "a pod of this node is in no range");
    Kept::open(&scene.lab.node1, None).and_then(|mut k| k.is_served().map_err(Failure::Other)).expect("the host may");
    scene.write("service.yaml", &[service(&[ONE[0], "10.244.1.0/24"])]);
    eventually("a pod that is in a range may come", CUT, || {
        Kept::open(pod.space(), None).map_err(|e| e.to_string())?.is_served()
    });
    // S97: what is not the VIP's is nobody's to judge here.
    Connection::open_bound(client, (outside, 0).into(), (pod.ip(false), TCP_PORT).into())
        .expect("a pod that is dialled");
    let listener = scene.lab.node1.enter(|| TcpListener::bind(("0.0.0.0", NODE_PORT))).expect("a listener");
    let node = SocketAddr::from((addr::node_v4(1), NODE_PORT));
    let dialled = client.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(outside, 0).into())?;
        socket.connect_timeout(&node.into(), Duration::from_secs(5))
    });
    dialled.expect("a port of the node");
    drop(listener);
    kept.is_served().expect("who may still come keeps his connection");
}
