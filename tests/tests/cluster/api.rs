//! The harness itself: the control plane is a real one, keeps its data, and shows the faults that it is told to.
use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sluice_tests::{
    cluster::{Api, Calls, ControlPlane, Fault, Identity, Part, Patch, Proxy, Verb},
    netns::run::{self, RUNS},
};

fn service() -> Value {
    json!({ "kind": "Service", "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] } })
}

fn config_map(value: &str) -> Value {
    json!({ "kind": "ConfigMap", "data": { "key": value } })
}

#[test]
fn the_api_server_is_ready_and_of_our_version() {
    let plane = ControlPlane::shared();
    assert_eq!(plane.api().get("/readyz").expect("ready"), json!("ok"));
    let version = plane.api().get("/version").expect("a version");
    let version = version["gitVersion"].as_str().expect("a text");
    if plane.is_own() {
        assert!(version.starts_with("v1.36."), "{version}");
    }
    let said = plane.kubectl(&["version"], "").expect("kubectl");
    assert!(said.contains(&format!("Server Version: {version}")), "{said}");
}

#[test]
fn each_test_has_a_namespace_that_goes_with_it() {
    let plane = ControlPlane::shared();
    let (one, two) = (plane.namespace("same"), plane.namespace("same"));
    assert_ne!(one.name(), two.name());
    one.apply("", "configmaps/a", &config_map("1"));
    assert_eq!(plane.api().get(&one.path("", "configmaps/a")).expect("it is there")["data"]["key"], "1");
    let path = format!("/api/v1/namespaces/{}", one.name());
    drop(one);
    plane.until("the namespace goes", |api| {
        let namespace = api.get(&path);
        // Without controllers nobody empties it; that it was told to go is all there is.
        anyhow::ensure!(namespace.map_or(true, |n| n["status"]["phase"] == "Terminating"));
        Ok(())
    });
}

#[test]
fn a_load_balancer_service_stays_pending_without_sluice() {
    let plane = ControlPlane::shared();
    let ns = plane.namespace("pending");
    ns.apply("", "services/web", &service());
    let pods =
        json!({ "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [{ "addresses": ["10.244.1.1"] }] });
    ns.apply("discovery.k8s.io/v1", "endpointslices/web-1", &pods);
    let shown = plane.kubectl(&["get", "service", "web", "-n", ns.name()], "").expect("kubectl");
    assert!(shown.contains("<pending>"), "{shown}");
    let service = plane.api().get(&ns.path("", "services/web")).expect("the Service");
    assert_eq!(service["status"]["loadBalancer"], json!({}));
    assert!(service["spec"]["clusterIP"].as_str().expect("a cluster IP").starts_with("10.96."));
    // The status is a subresource that who may write it can write.
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.7" }] } } });
    plane.api().patch(&ns.path("", "services/web/status"), Patch::Merge, &status).expect("written");
    let shown = plane.kubectl(&["get", "service", "web", "-n", ns.name()], "").expect("kubectl");
    assert!(shown.contains("203.0.113.7") && !shown.contains("<pending>"), "{shown}");
}

#[test]
fn the_controllers_make_slices_of_pods_that_are_objects() {
    let plane = ControlPlane::shared();
    if !plane.has_controllers() {
        eprintln!("no controllers in $KUBEBUILDER_ASSETS: nobody makes slices");
        return;
    }
    let ns = plane.namespace("slices");
    let mut web = service();
    web["spec"]["selector"] = json!({ "app": "web" });
    ns.apply("", "services/web", &web);
    // The controllers want to know the node of a pod; that nobody runs there is not their business here.
    let node = format!("node-{}", ns.name());
    let object = json!({ "metadata": { "name": node } });
    plane.api().create("/api/v1/nodes", &object).expect("a node that is an object");
    let spec = json!({ "nodeName": node, "containers": [{ "name": "a", "image": "a" }] });
    ns.apply("", "pods/a", &json!({ "kind": "Pod", "metadata": { "labels": { "app": "web" } }, "spec": spec }));
    let ready = json!({ "type": "Ready", "status": "True" });
    let address = json!([{ "ip": "10.244.1.9" }]);
    let status = json!({ "phase": "Running", "podIP": "10.244.1.9", "podIPs": address, "conditions": [ready] });
    plane.api().patch(&ns.path("", "pods/a/status"), Patch::Merge, &json!({ "status": status })).expect("written");
    let slices = ns.path("discovery.k8s.io/v1", "endpointslices?labelSelector=kubernetes.io/service-name=web");
    plane.until("the pod is an endpoint", |api| {
        let slices = api.list(&slices)?;
        let endpoint = slices.first().map(|s| &s["endpoints"][0]);
        let is = endpoint.is_some_and(|e| e["addresses"] == json!(["10.244.1.9"]) && e["conditions"]["ready"] == true);
        anyhow::ensure!(is, "{slices:?}");
        Ok(())
    });
}

#[test]
fn gateway_api_is_served() {
    let plane = ControlPlane::shared();
    plane.install_gateway_api().expect("the standard channel");
    plane.install_gateway_api().expect("and once more");
    let ns = plane.namespace("gateway");
    let listener = json!({ "name": "http", "protocol": "HTTP", "port": 80 });
    let gateway = json!({ "kind": "Gateway", "spec": { "gatewayClassName": "sluice", "listeners": [listener] } });
    ns.apply("gateway.networking.k8s.io/v1", "gateways/front", &gateway);
    let routes = plane.api().list(&ns.path("gateway.networking.k8s.io/v1", "httproutes")).expect("a list");
    assert!(routes.is_empty());
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.gateway.networking.k8s.io";
    let crd = plane.api().get(crd).expect("the definition");
    assert_eq!(crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"], "v1.7.0");
}

#[test]
fn rbac_decides_what_a_user_and_a_service_account_may_do() {
    let plane = ControlPlane::shared();
    let ns = plane.namespace("rbac");
    ns.apply("", "serviceaccounts/reader", &json!({ "kind": "ServiceAccount" }));
    let group = "rbac.authorization.k8s.io/v1";
    let rule = json!({ "apiGroups": [""], "resources": ["services"], "verbs": ["list"] });
    ns.apply(group, "roles/reader", &json!({ "kind": "Role", "rules": [rule] }));
    let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" });
    let account = json!({ "kind": "ServiceAccount", "name": "reader", "namespace": ns.name() });
    let team = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "team" });
    let binding = json!({ "kind": "RoleBinding", "roleRef": role, "subjects": [account, team] });
    ns.apply(group, "rolebindings/reader", &binding);
    let member = Identity::User { name: "alice".to_owned(), group: Some("team".to_owned()) };
    let services = ns.path("", "services");
    for identity in [Identity::service_account(ns.name(), "reader"), member] {
        let api = plane.api_as(&identity).expect("an identity");
        // RBAC is cached by the API server for a moment.
        plane.until("the binding counts", |_| api.list(&services));
        let error = api.get(&ns.path("", "secrets")).expect_err("no rule allows it").to_string();
        assert!(error.contains("403") && error.contains("cannot list resource \"secrets\""), "{error}");
        let config = plane.kubeconfig(&identity).expect("a kubeconfig");
        let config = config.to_str().expect("a text");
        plane.kubectl(&["--kubeconfig", config, "get", "services", "-n", ns.name()], "").expect("kubectl");
        plane.kubectl(&["--kubeconfig", config, "get", "pods", "-n", ns.name()], "").expect_err("no rule allows it");
    }
    let stranger = plane.api_as(&Identity::user("mallory")).expect("an identity");
    assert!(stranger.list(&services).is_err());
}

#[test]
fn killed_parts_come_back_with_their_data() {
    let plane = ControlPlane::start().expect("a control plane");
    let ns = plane.namespace("kept");
    ns.apply("", "configmaps/a", &config_map("1"));
    let path = ns.path("", "configmaps/a");
    plane.kill(Part::ApiServer);
    plane.api().get(&path).expect_err("nobody answers");
    plane.start_part(Part::ApiServer).expect("it starts again");
    assert_eq!(plane.api().get(&path).expect("it was kept")["data"]["key"], "1");
    plane.kill(Part::Etcd);
    plane.start_part(Part::Etcd).expect("it starts again");
    plane.until("the API server has found it", |api| api.get(&path));
    ns.apply("", "configmaps/a", &config_map("2"));
    assert_eq!(plane.api().get(&path).expect("it was kept")["data"]["key"], "2");
}

#[test]
fn a_control_plane_leaves_nothing_behind() {
    let plane = ControlPlane::start().expect("a control plane");
    let (id, dir) = (plane.run().id().to_owned(), plane.run().dir());
    let memory = plane.run().memory_dir().expect("a directory in memory");
    assert!(memory.join("etcd").exists() && plane.log(Part::ApiServer).exists());
    let pid = plane.pid(Part::ApiServer).expect("it runs");
    drop(plane);
    assert_eq!(run::namespaces_of(&id), Vec::<String>::new());
    assert!(!dir.exists() && !memory.exists());
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!command.starts_with(b"kube-apiserver"), "it still runs");
}

#[test]
fn what_a_killed_owner_leaves_is_removed() {
    // Another process starts a control plane and is killed.
    let mut owner = std::process::Command::new(env!("CARGO_BIN_EXE_cluster"));
    let mut owner = owner.args(["hold", "0"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut id = String::new();
    BufReader::new(owner.stdout.take().expect("its output")).read_line(&mut id).expect("it says what it has made");
    let id = id.trim();
    assert!(Path::new(RUNS).join(id).exists() && !run::namespaces_of(id).is_empty(), "{id}");
    owner.kill().expect("it runs");
    owner.wait().expect("it ends");
    let began = Instant::now();
    while Path::new(RUNS).join(id).exists() || !run::namespaces_of(id).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "{id} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A proxy in the control plane's own namespace, and `kubectl get --raw` through it.
struct Through<'a> {
    plane: &'a ControlPlane,
    proxy: Proxy,
}

impl<'a> Through<'a> {
    fn new(plane: &'a ControlPlane) -> Self {
        Self { plane, proxy: plane.proxy(&plane.space, &Identity::Admin).expect("a proxy") }
    }

    fn api(&self) -> Api {
        self.proxy.api().expect("a client")
    }

    /// A watch of ConfigMaps that prints an event a line: its kind and the object's value.
    fn watch(&self, namespace: &str, version: &str) -> Watch {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps?watch=true&resourceVersion={version}");
        Watch::start(self, &path)
    }
}

struct Watch {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watch {
    fn start(through: &Through<'_>, path: &str) -> Self {
        let mut command = through.plane.kubectl_command().expect("kubectl");
        command.args(["get", "--raw", path, "--kubeconfig"]).arg(through.proxy.kubeconfig());
        command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut child = through.plane.space.enter(|| command.spawn()).expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, lines }
    }

    /// The next event that is not a bookmark and not about `kube-root-ca.crt`; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("a text");
            if line.is_empty() {
                return None;
            }
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if event["object"]["metadata"]["name"] != "kube-root-ca.crt" {
                return Some(event);
            }
        }
    }

    fn end(mut self) {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("a text");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state of a namespace: its ConfigMap `a`, and the list's resourceVersion.
fn state(api: &Api, namespace: &str) -> (Option<String>, String) {
    let list = api.get(&format!("/api/v1/namespaces/{namespace}/configmaps")).expect("a list");
    let value = list["items"].as_array().expect("items").iter().find(|i| i["metadata"]["name"] == "a");
    let value = value.map(|v| v["data"]["key"].as_str().expect("a value").to_owned());
    (value, list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned())
}

#[test]
fn without_faults_the_proxy_changes_nothing() {
    let plane = ControlPlane::shared();
    let (ns, through) = (plane.namespace("through"), Through::new(plane));
    let api = through.api();
    api.create(&ns.path("", "configmaps"), &json!({ "metadata": { "name": "a" }, "data": { "key": "1" } }))
        .expect("made");
    let (value, version) = state(&api, ns.name());
    assert_eq!(value.as_deref(), Some("1"));
    let mut watch = through.watch(ns.name(), &version);
    api.patch(&ns.path("", "configmaps/a"), Patch::Merge, &config_map("2")).expect("changed");
    let event = watch.next().expect("an event");
    assert_eq!((&event["type"], &event["object"]["data"]["key"]), (&json!("MODIFIED"), &json!("2")));
    api.delete(&ns.path("", "configmaps/a")).expect("deleted");
    assert_eq!(watch.next().expect("an event")["type"], "DELETED");
    let calls = |verb| through.proxy.count(&Calls::of(&[verb]).to("configmaps"));
    assert_eq!([Verb::Create, Verb::List, Verb::Patch, Verb::Delete].map(calls), [1, 1, 1, 1]);
    assert!(calls(Verb::Watch) >= 1);
}

#[test]
fn the_proxy_delays_refuses_and_cuts() {
    let plane = ControlPlane::shared();
    let (ns, through) = (plane.namespace("faults"), Through::new(plane));
    let (api, proxy) = (through.api(), &through.proxy);
    let maps = ns.path("", "configmaps");
    let lists = || Calls::of(&[Verb::List]).to("configmaps");
    let delay = Duration::from_millis(500);
    proxy.fault(lists(), Fault::Delay(delay)).expect("a fault");
    let began = Instant::now();
    api.list(&maps).expect("late, but well");
    assert!(began.elapsed() >= delay);
    proxy.clear();
    for code in [410, 429, 500, 503] {
        proxy.fault_times(1, lists(), Fault::Status(code)).expect("a fault");
        api.get("/version").expect("other calls are well");
        let (status, body) = api.send(http::Method::GET, &maps, "", None).expect("an answer");
        assert_eq!((status.as_u16(), &body["kind"], &body["code"]), (code, &json!("Status"), &json!(code)));
        api.list(&maps).expect("once is over");
    }
    proxy.fault(Calls::all(), Fault::Cut).expect("a fault");
    api.list(&maps).expect_err("no answer");
    api.get("/version").expect_err("no answer");
    proxy.clear();
    api.list(&maps).expect("all is well");
}

#[test]
fn the_proxy_closes_watches_and_lets_them_expire() {
    let plane = ControlPlane::shared();
    let (ns, through) = (plane.namespace("closed"), Through::new(plane));
    let (api, proxy) = (through.api(), &through.proxy);
    let (_, version) = state(&api, ns.name());
    let mut watch = through.watch(ns.name(), &version);
    ns.apply("", "configmaps/a", &config_map("1"));
    assert_eq!(watch.next().expect("an event")["type"], "ADDED");
    proxy.close_watches(Calls::all().to("secrets"));
    ns.apply("", "configmaps/a", &config_map("2"));
    assert_eq!(watch.next().expect("it was not closed")["type"], "MODIFIED");
    proxy.close_watches(Calls::all().to("configmaps"));
    watch.end();
    proxy.fault(Calls::of(&[Verb::Watch]), Fault::Expired).expect("a fault");
    let mut watch = through.watch(ns.name(), &version);
    let event = watch.next().expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(watch.next(), None);
}

#[test]
fn a_stale_proxy_shows_the_past_until_it_is_cleared() {
    let plane = ControlPlane::shared();
    let (ns, through) = (plane.namespace("stale"), Through::new(plane));
    let (api, proxy) = (through.api(), &through.proxy);
    ns.apply("", "configmaps/a", &config_map("1"));
    let (_, then) = state(&api, ns.name());
    let open = through.watch(ns.name(), &then);
    plane.until("the watch is open", |_| {
        anyhow::ensure!(proxy.count(&Calls::of(&[Verb::Watch])) > 0);
        Ok(())
    });
    proxy.fault(Calls::all().to("configmaps"), Fault::Stale).expect("a fault");
    open.end();
    ns.apply("", "configmaps/a", &config_map("2"));
    assert_eq!(state(&api, ns.name()).0.as_deref(), Some("1"), "the past");
    assert_eq!(state(plane.api(), ns.name()).0.as_deref(), Some("2"), "the present");
    let mut held = through.watch(ns.name(), &then);
    let rest = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut streamed = Watch::start(&through, &ns.path("", &format!("configmaps?{rest}")));
    let first = streamed.next().expect("the state of then");
    assert_eq!((&first["type"], &first["object"]["data"]["key"]), (&json!("ADDED"), &json!("1")));
    let end = streamed.next().expect("the end of it");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    plane.until("both watches are open", |_| {
        anyhow::ensure!(proxy.count(&Calls::of(&[Verb::Watch])) >= 3);
        Ok(())
    });
    proxy.clear();
    for watch in [&mut held, &mut streamed] {
        let event = watch.next().expect("the news");
        assert_eq!((&event["type"], &event["object"]["data"]["key"]), (&json!("MODIFIED"), &json!("2")));
    }
    assert_eq!(state(&api, ns.name()).0.as_deref(), Some("2"));
}
