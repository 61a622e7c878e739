//! Routes whose parent is a Service: pods of the node that dial its ClusterIP are routed, and nobody else is.
//!
//! There is no kube-proxy in the lab. In its place the node has the ClusterIPs itself, as with IPVS, and a server there that answers as
//! `kube-proxy`: whoever reaches it was not led to the proxy.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Datapath, Namespace, Scene, addr,
    addr::ip,
    eventually,
    http::{self, Connection, Protocol},
    lab::UPLINK,
    namespace::Task,
    pod::HTTP_PORT,
    scene::versions,
    serve::{self, Identity},
};

/// How long a change may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// The ClusterIPs of Service `echo`.
const DIALLED: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// Where the proxy serves them.
const SERVED: [&str; 2] = ["250.96.0.10", "fd73:6c75:6963:6500::a"];
/// Who answers where no route does.
const BESIDE: &str = "kube-proxy";

/// A node with a client `a1`, two versions of a server (`a2` here, `b1` elsewhere), and what stands for kube-proxy.
struct Mesh {
    scene: Scene,
    _beside: Task,
}

impl Mesh {
    fn new() -> Self {
        let scene = Scene::empty(Datapath::Tc, 2, 1);
        let node = &scene.lab.node1;
        let given = node.net(async |net| {
            net.up("lo").await?;
            net.address("lo", ip(DIALLED[0]), 32).await?;
            net.address("lo", ip(DIALLED[1]), 128).await
        });
        given.expect("addresses");
        let beside = serve::start(node, Identity { pod: BESIDE.to_owned(), version: "none".to_owned() });
        let mesh = Self { scene, _beside: beside.expect("servers") };
        let [v1, v2] = [("v1", "a2"), ("v2", "b1")].map(|(name, pod)| versions(&mesh.scene.lab, name, &[pod]));
        mesh.scene.write("versions.yaml", &[v1, v2].concat());
        mesh.service(&json!({}));
        mesh
    }

    /// Writes the Service that pods dial.
    fn service(&self, more: &Value) {
        let mut spec = json!({"type": "ClusterIP", "clusterIP": DIALLED[0], "clusterIPs": DIALLED,
            "ports": [{"name": "http", "protocol": "TCP", "port": HTTP_PORT, "targetPort": HTTP_PORT}]});
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo", "namespace": "default"},
            "spec": spec});
        self.scene.write("echo.yaml", &[service]);
    }

    /// Writes a route of that Service.
    fn route(&self, rules: &Value) {
        let parent = json!({"group": "", "kind": "Service", "name": "echo", "port": HTTP_PORT});
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "echo", "namespace": "default"}, "spec": {"parentRefs": [parent], "rules": rules}});
        self.scene.write("route.yaml", &[route]);
    }

    fn pod(&self) -> &Namespace {
        self.scene.lab.pod("a1").space()
    }

    /// Waits until a new connection of a pod to the ClusterIP of each family is answered by this one.
    fn until(&self, from: &Namespace, who: &str) {
        for dialled in DIALLED {
            eventually(&format!("{who} answers at {dialled}"), LIMIT, || match ask(from, dialled, &[]) {
                Ok((_, pod)) if pod == who => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(addr::ip(ip), HTTP_PORT)
}

/// The status, and who answers a request with these headers.
fn ask(from: &Namespace, dialled: &str, headers: &[(&'static str, &str)]) -> anyhow::Result<(u16, String)> {
    let request = http::get("any.example", "/");
    let request = headers.iter().fold(request, |request, (name, value)| http::with(request, name, value));
    let reply = http::send(from, at(dialled), Protocol::Http1, request)?;
    let pod = if reply.status == 200 { reply.seen().pod } else { String::new() };
    Ok((reply.status.as_u16(), pod))
}

/// Requests with the header go to `v2`, others to `v1`, and what has another path nowhere.
fn by_header() -> Value {
    json!([
        {"matches": [{"path": {"type": "Exact", "value": "/"}, "headers": [{"name": "x-version", "value": "v2"}]}],
         "backendRefs": [{"name": "v2", "port": 80}]},
        {"matches": [{"path": {"type": "Exact", "value": "/"}}], "backendRefs": [{"name": "v1", "port": 80}]},
    ])
}

#[test]
fn a_pod_that_dials_a_service_is_routed_and_nobody_else_is() {
    let mesh = Mesh::new();
    let (lab, pod) = (&mesh.scene.lab, mesh.pod());
    mesh.until(pod, BESIDE);
    mesh.route(&by_header());
    mesh.until(pod, "a2");
    for (family, dialled) in DIALLED.into_iter().enumerate() {
        assert_eq!(ask(pod, dialled, &[("x-version", "v2")]).expect("an answer"), (200, "b1".to_owned()));
        let other = http::send(pod, at(dialled), Protocol::H2c, http::get("any.example", "/")).expect("HTTP/2");
        let seen = other.seen();
        let client: IpAddr = lab.pod("a1").ip(family == 1);
        assert_eq!((seen.pod.as_str(), &seen.headers["x-forwarded-for"]), ("a2", &vec![client.to_string()]));
        let none =
            http::send(pod, at(dialled), Protocol::Http1, http::get("any.example", "/other")).expect("an answer");
        assert_eq!(none.status, 404, "no rule matches");
        // The other pod's own address, and the other client, who is not of the node.
        let direct = SocketAddr::new(lab.pod("a2").ip(family == 1), HTTP_PORT);
        let direct = http::send(pod, direct, Protocol::Http1, http::get("any.example", "/other")).expect("an answer");
        assert!(!direct.seen().headers.contains_key("x-forwarded-for"), "the pod's address is not the Service's");
        let node = if family == 1 { addr::node_v6(1).into() } else { IpAddr::from(addr::node_v4(1)) };
        let prefix = if family == 1 { 128 } else { 32 };
        let routed = lab.client.net(async |net| {
            net.route(ip(dialled), prefix, UPLINK, Some(node)).await?;
            net.route(ip(SERVED[family]), prefix, UPLINK, Some(node)).await
        });
        routed.expect("two routes");
        assert_eq!(ask(&lab.client, dialled, &[]).expect("an answer").1, BESIDE, "who comes by the uplink is no pod");
        let refused = ask(&lab.client, SERVED[family], &[]);
        assert!(refused.is_err() || refused.as_ref().is_ok_and(|(_, who)| who == BESIDE), "{refused:?}");
    }
    let rows = mesh.scene.agent.show_json(&["routes"]).expect("the routes");
    let frontends = &rows.as_array().expect("a list")[0]["frontends"];
    assert_eq!(frontends, &json!(DIALLED.map(|ip| at(ip).to_string())), "{rows}");
    let url = format!("http://{}/", at(DIALLED[0]));
    let explained = mesh.scene.agent.show(&["explain", "GET", &url]).expect("an explanation");
    assert!(explained.contains("default/service/echo/http") && explained.contains("default/v1:80"), "{explained}");
    for object in ["service/echo", "httproute/echo"] {
        let said = mesh.scene.agent.show(&["why", object]).expect("an answer");
        assert!(
            said.contains("10.96.0.10:8080 of Service default/echo: to the proxy, from pods of this node"),
            "{said}"
        );
    }
    mesh.scene.write("route.yaml", &[]);
    mesh.until(pod, BESIDE);
}

#[test]
fn what_a_connection_began_with_it_goes_on_with_and_weights_are_exact() {
    let mesh = Mesh::new();
    let pod = mesh.pod();
    mesh.until(pod, BESIDE);
    pod.block_on(|| async {
        let mut held = Connection::open(at(DIALLED[0]), Protocol::Http1).await.expect("a connection");
        let who = held.send(http::get("any.example", "/")).await.expect("an answer").seen().pod;
        assert_eq!(who, BESIDE);
        mesh.route(&json!([{"backendRefs": [{"name": "v1", "port": 80, "weight": 1}, {"name": "v2", "port": 80, "weight": 3}]}]));
        let began = std::time::Instant::now();
        // On a connection of its own: another runtime on this thread is not to be had.
        loop {
            let mut new = Connection::open(at(DIALLED[0]), Protocol::Http1).await.expect("a connection");
            let who = new.send(http::get("any.example", "/")).await.expect("an answer").seen().pod;
            if who != BESIDE {
                break;
            }
            assert!(began.elapsed() < LIMIT, "the route is not in force");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let who = held.send(http::get("any.example", "/")).await.expect("an answer").seen().pod;
        assert_eq!(who, BESIDE, "it was open before the route was");
    });
    let mut by_pod: BTreeMap<String, usize> = BTreeMap::new();
    let asked = (0..400).map(|_| http::get("any.example", "/")).collect();
    for reply in http::send_all(pod, at(DIALLED[0]), Protocol::Http1, asked).expect("answers") {
        *by_pod.entry(reply.seen().pod).or_default() += 1;
    }
    // One connection has one worker, of whose each four in a row one is a2's; what came before may have ended within four.
    let (few, many) = (by_pod["a2"], by_pod["b1"]);
    assert!(few + many == 400 && few.abs_diff(100) <= 1, "{by_pod:?}");
}

#[test]
fn without_the_agent_a_service_is_kube_proxys_and_with_it_routed_again_for_a_new_pod_too() {
    let mut mesh = Mesh::new();
    mesh.route(&by_header());
    mesh.until(mesh.pod(), "a2");
    mesh.scene.agent.stop().expect("an end in order");
    mesh.until(mesh.pod(), BESIDE);
    mesh.scene.agent.launch().expect("another start");
    mesh.until(mesh.pod(), "a2");
    // Pods that come after all that, the second of them behind a bridge.
    let bridged = mesh.scene.lab.node1.net(async |net| {
        net.bridge("cni0").await?;
        net.up("cni0").await?;
        net.address("cni0", ip("10.50.0.1"), 24).await?;
        net.address("cni0", ip("2001:db8:50::1"), 64).await
    });
    bridged.expect("a bridge");
    let routed = pod_behind(&mesh, "late", None, ["10.244.1.99", "2001:db8:244:1::99"]);
    mesh.until(&routed, "a2");
    let bridged = pod_behind(&mesh, "bridged", Some("cni0"), ["10.50.0.9", "2001:db8:50::9"]);
    mesh.until(&bridged, "a2");
}

/// A pod that comes now, behind a veth of its own or a bridge, with these addresses.
fn pod_behind(mesh: &Mesh, name: &str, bridge: Option<&str>, addresses: [&str; 2]) -> Namespace {
    let lab = &mesh.scene.lab;
    let space = lab.run().namespace(name).expect("a namespace");
    for key in ["all", "default"] {
        space.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0").expect("a setting");
    }
    let [v4, v6] = addresses.map(ip);
    let gateways: [IpAddr; 2] = match bridge {
        None => [addr::gateway_v4(1).into(), addr::GATEWAY_V6.into()],
        Some(_) => [ip("10.50.0.1"), ip("2001:db8:50::1")],
    };
    let veth = format!("veth-{name}");
    let built = lab.node1.net(async |net| {
        net.veth(&veth, bridge, UPLINK, &space).await?;
        if bridge.is_none() {
            net.address(&veth, gateways[0], 32).await?;
            net.address(&veth, gateways[1], 64).await?;
            net.route(v4, 32, &veth, None).await?;
            net.route(v6, 128, &veth, None).await?;
        }
        Ok(())
    });
    built.expect("a veth");
    let prefixes = if bridge.is_some() { [24, 64] } else { [32, 128] };
    let built = space.net(async |net| {
        net.up(UPLINK).await?;
        net.address(UPLINK, v4, prefixes[0]).await?;
        net.address(UPLINK, v6, prefixes[1]).await?;
        if bridge.is_none() {
            net.route(gateways[0], 32, UPLINK, None).await?;
        }
        net.route(ip("0.0.0.0"), 0, UPLINK, Some(gateways[0])).await?;
        net.route(ip("::"), 0, UPLINK, Some(gateways[1])).await
    });
    built.expect("a pod");
    space
}

#[test]
fn a_service_without_an_address_is_left_alone_and_its_route_says_why() {
    let mesh = Mesh::new();
    mesh.route(&by_header());
    mesh.until(mesh.pod(), "a2");
    for (spec, why) in [
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), "is headless"),
        (
            json!({"type": "ExternalName", "externalName": "a.example", "clusterIP": null, "clusterIPs": null}),
            "is an ExternalName",
        ),
        (json!({"ports": [{"name": "http", "port": 81}]}), "has no port"),
    ] {
        mesh.service(&spec);
        eventually(why, LIMIT, || {
            let said = mesh.scene.agent.show(&["why", "httproute/echo"]).map_err(|e| e.to_string())?;
            if said.contains(why) { Ok(()) } else { Err(said) }
        });
        mesh.until(mesh.pod(), BESIDE);
    }
    mesh.service(&json!({}));
    mesh.until(mesh.pod(), "a2");
}
