//! A proxy on loopback, backends that record what they get, clients that speak bytes.
//!
//! Gateways and routes go through the real compiler; then the frontend becomes the proxy's own socket and the backends
//! of each Service become those of the test.
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sluice::{
    api::{ObjectName, meta::ObjectMeta},
    model::{
        self, Backend, Memo, Model, Node, Port,
        http::{HttpModel, ServicePort},
    },
    proxy::{Counters, Ejections, Gateways, Metrics, Proxy, Settings},
    source::{self, Snapshot},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// A running proxy.
pub(crate) struct Bed {
    pub addr: SocketAddr,
    pub stats: Counters,
    pub ejections: Ejections,
    pub gateways: Gateways,
    pub metrics: Metrics,
    pub cancel: CancellationToken,
    pub task: JoinHandle<()>,
    models: watch::Sender<Arc<Model>>,
    secrets: Value,
    /// What was compiled so far: changes take the path that they take in the agent.
    memo: Mutex<Memo>,
}

impl Bed {
    /// A proxy with short limits.
    pub(crate) async fn new(listeners: Value, routes: Value, backends: &[(&str, &[SocketAddr])]) -> Self {
        Self::with(Settings::default(), listeners, routes, backends).await
    }

    /// One listener for every host, one route for every request, to one backend.
    pub(crate) async fn to(backend: SocketAddr) -> Self {
        Self::new(any_listener(), json!([catch_all()]), &[("a", &[backend])]).await
    }

    pub(crate) async fn with(
        settings: Settings,
        listeners: Value,
        routes: Value,
        backends: &[(&str, &[SocketAddr])],
    ) -> Self {
        // What one client leaves in a pool the next one finds.
        Self::on(1, settings, listeners, routes, backends).await
    }

    pub(crate) async fn on(
        workers: usize,
        settings: Settings,
        listeners: Value,
        routes: Value,
        backends: &[(&str, &[SocketAddr])],
    ) -> Self {
        Self::secured(workers, settings, json!([]), listeners, routes, backends).await
    }

    /// With these Secrets beside the Gateway.
    pub(crate) async fn secured(
        workers: usize,
        settings: Settings,
        secrets: Value,
        listeners: Value,
        routes: Value,
        backends: &[(&str, &[SocketAddr])],
    ) -> Self {
        let mut memo = Memo::default();
        let model = |addr| compile(&mut memo, addr, &secrets, listeners, routes, backends);
        let bed = Self::of(Settings { workers, ..settings }, model).await;
        Self { secrets, memo: Mutex::new(memo), ..bed }
    }

    /// A proxy for what a directory of manifests has, beside these Services.
    pub(crate) async fn of_manifests(dir: &Path, backends: &[(&str, &[SocketAddr])]) -> Self {
        let (tx, mut rx) = watch::channel(None);
        let cancel = CancellationToken::new();
        let source = tokio::spawn(source::manifests::watch(dir.to_owned(), tx, cancel.clone()));
        let snapshot = rx.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        cancel.cancel();
        source.await.unwrap().unwrap();
        let snapshot = Snapshot::clone(&snapshot);
        assert!(snapshot.faults.is_empty(), "{:?}", snapshot.faults);
        Self::of(Settings { workers: 1, ..Settings::default() }, |addr| {
            let model = compile_snapshot(&mut Memo::default(), addr, snapshot, backends);
            let bad = |outcome| !matches!(outcome, model::Outcome::Accepted | model::Outcome::Ignored);
            assert!(!model.verdicts.values().any(|verdict| bad(verdict.outcome)), "{:?}", model.verdicts);
            model
        })
        .await
    }

    async fn of(settings: Settings, model: impl FnOnce(SocketAddr) -> Model) -> Self {
        let proxy = Proxy::bind_with(settings).unwrap();
        let port = proxy.socket().local_addr().unwrap().port();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (models, receiver) = watch::channel(Arc::new(model(addr)));
        let (cancel, stats, mut applied) = (CancellationToken::new(), proxy.counters(), proxy.applied());
        let (ejections, metrics, gateways) = (proxy.ejections(), proxy.metrics(), proxy.gateways());
        let task = tokio::spawn(proxy.run(receiver, cancel.clone()));
        applied.wait_for(|rev| *rev > 0).await.unwrap();
        let (secrets, memo) = (json!([]), Mutex::default());
        Self { addr, stats, ejections, metrics, gateways, cancel, task, models, secrets, memo }
    }

    /// Changes what is served and waits until it is.
    pub(crate) async fn serve(&self, listeners: Value, routes: Value, backends: &[(&str, &[SocketAddr])]) {
        let before = self.stats.sum(|s| &s.tables);
        let model = {
            let mut memo = self.memo.lock().unwrap();
            compile(&mut memo, self.addr, &self.secrets, listeners, routes, backends)
        };
        self.models.send_replace(Arc::new(model));
        while self.stats.sum(|s| &s.tables) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The same with other Secrets.
    pub(crate) async fn exchange(
        &mut self,
        secrets: Value,
        listeners: Value,
        routes: Value,
        backends: &[(&str, &[SocketAddr])],
    ) {
        self.secrets = secrets;
        self.serve(listeners, routes, backends).await;
    }

    /// Has nothing at any address, as when the Gateway is deleted.
    pub(crate) async fn withdraw(&self) {
        let mut model = Model::clone(&self.models.borrow());
        Arc::make_mut(&mut model.http).frontends.clear();
        let before = self.stats.sum(|s| &s.tables);
        self.models.send_replace(Arc::new(model));
        while self.stats.sum(|s| &s.tables) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Serves a Gateway `other` in the same way, at another address of the proxy's socket.
    pub(crate) async fn serve_other(&self, at: SocketAddr) {
        let mut model = Model::clone(&self.models.borrow());
        let http = Arc::make_mut(&mut model.http);
        let mut listeners = Vec::clone(&http.frontends[&self.addr]);
        listeners.iter_mut().for_each(|listener| listener.gateway = ObjectName::new("default", "other"));
        http.frontends.insert(at, Arc::new(listeners));
        let before = self.stats.sum(|s| &s.tables);
        self.models.send_replace(Arc::new(model));
        while self.stats.sum(|s| &s.tables) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// Sends bytes on a new connection and reads until the proxy closes it.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }

    /// A GET with more header lines, closing; the whole response.
    pub(crate) async fn get(&self, path: &str, host: &str, headers: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")).await
    }
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn any_listener() -> Value {
    json!([{"name": "web", "protocol": "HTTP"}])
}

/// A route without hostnames and matches, to Service `a`.
pub(crate) fn catch_all() -> Value {
    json!({"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}})
}

/// Listeners of a Gateway with these annotations, without their prefix.
pub(crate) fn limited(listeners: Value, annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<String, Value> =
        annotations.iter().map(|(name, value)| (format!("proxy.sluice.dev/{name}"), json!(value))).collect();
    json!({"annotations": annotations, "listeners": listeners})
}

/// The model for these objects, served at `addr`. Services listed without address exist and have no endpoint; those whose name begins
/// with `h2c` are spoken to like that, those whose name ends with `-v1` or the like are told who clients are, those of `turns` are asked by turns, those of `keyed` by the
/// hash of `X-User`.
fn compile(
    memo: &mut Memo,
    addr: SocketAddr,
    secrets: &Value,
    mut listeners: Value,
    routes: Value,
    backends: &[(&str, &[SocketAddr])],
) -> Model {
    // Listeners alone, or a Gateway's spec with them.
    let annotations = listeners.get_mut("annotations").map(Value::take);
    if let Some(object) = listeners.as_object_mut() {
        object.remove("annotations");
    }
    let mut spec = if listeners.is_array() { json!({"listeners": listeners.take()}) } else { listeners };
    for listener in spec["listeners"].as_array_mut().unwrap() {
        listener["port"] = json!(addr.port());
    }
    spec["gatewayClassName"] = json!("sluice");
    let gateway = json!({"metadata": {"name": "gw", "annotations": annotations}, "spec": spec});
    let mut snapshot = Snapshot::default();
    let name = |meta: &ObjectMeta| ObjectName::new(&meta.namespace, &meta.name);
    let gateway: sluice::api::Gateway = serde_json::from_value(gateway).unwrap();
    snapshot.gateways.insert(name(&gateway.metadata), Arc::new(gateway));
    for route in routes.as_array().unwrap() {
        if route["kind"] == "TLSRoute" {
            let route: sluice::api::TlsRoute = serde_json::from_value(route.clone()).unwrap();
            snapshot.tls_routes.insert(name(&route.metadata), Arc::new(route));
            continue;
        }
        if route["kind"] == "GRPCRoute" {
            let route: sluice::api::GrpcRoute = serde_json::from_value(route.clone()).unwrap();
            snapshot.grpc_routes.insert(name(&route.metadata), Arc::new(route));
            continue;
        }
        let route: sluice::api::HttpRoute = serde_json::from_value(route.clone()).unwrap();
        snapshot.http_routes.insert(name(&route.metadata), Arc::new(route));
    }
    for secret in secrets.as_array().unwrap() {
        if secret["kind"] == "ConfigMap" {
            let map: sluice::api::ConfigMap = serde_json::from_value(secret.clone()).unwrap();
            snapshot.config_maps.insert(name(&map.metadata), Arc::new(map));
            continue;
        }
        if secret["kind"] == "XBackendTrafficPolicy" {
            let policy: sluice::api::BackendTrafficPolicy = serde_json::from_value(secret.clone()).unwrap();
            snapshot.backend_traffic_policies.insert(name(&policy.metadata), Arc::new(policy));
            continue;
        }
        if secret["kind"] == "BackendTLSPolicy" {
            let policy: sluice::api::BackendTlsPolicy = serde_json::from_value(secret.clone()).unwrap();
            snapshot.backend_tls_policies.insert(name(&policy.metadata), Arc::new(policy));
            continue;
        }
        let secret: sluice::api::Secret = serde_json::from_value(secret.clone()).unwrap();
        snapshot.secrets.insert(name(&secret.metadata), Arc::new(secret));
    }
    compile_snapshot(memo, addr, snapshot, backends)
}

/// A Service and its port, `name:port`; 80 where none is written.
fn at_port(written: &str) -> (&str, i64) {
    written.split_once(':').map_or((written, 80), |(service, port)| (service, port.parse().unwrap()))
}

fn compile_snapshot(
    memo: &mut Memo,
    addr: SocketAddr,
    mut snapshot: Snapshot,
    backends: &[(&str, &[SocketAddr])],
) -> Model {
    let name = |meta: &ObjectMeta| ObjectName::new(&meta.namespace, &meta.name);
    for (service, _) in backends {
        let (service, port) = at_port(service);
        let protocol = service.starts_with("h2c").then_some("kubernetes.io/h2c");
        let ports = json!([{"port": port, "appProtocol": protocol}]);
        let annotations = match service {
            name if let Some((_, version)) = name.rsplit_once("-v") => {
                json!({"proxy.sluice.dev/proxy-protocol": format!("v{version}")})
            }
            name if name.starts_with("turns") => json!({"proxy.sluice.dev/balancer": "round-robin"}),
            name if name.starts_with("keyed") => {
                json!({"proxy.sluice.dev/balancer": "consistent-hash", "proxy.sluice.dev/hash-on": "header:x-user"})
            }
            _ => json!({}),
        };
        let service = json!({"metadata": {"name": service, "annotations": annotations}, "spec": {"ports": ports}});
        let service: sluice::api::Service = serde_json::from_value(service).unwrap();
        snapshot.services.insert(name(&service.metadata), Arc::new(service));
    }
    let pool = "192.0.2.0/24".parse().unwrap();
    let node = Node { pools: vec![pool], ..Node::alone("n1") };
    let mut model = Model::clone(&memo.compile(&Arc::new(snapshot), &node));
    let mut http = HttpModel::clone(&model.http);
    http.frontends = http.frontends.into_values().map(|listeners| (addr, listeners)).collect();
    for (service, addrs) in backends {
        let (service, port) = at_port(service);
        let key = ServicePort { service: ObjectName::new("default", service), port: Port::try_new(port).unwrap() };
        let backend = |a: &SocketAddr| Backend {
            addr: a.ip(),
            port: Port::try_new(a.port().into()).unwrap(),
            locality: model::Locality::Local,
        };
        if let Some(slot) = http.services.get_mut(&key) {
            *slot = Arc::new(addrs.iter().map(backend).collect());
        }
    }
    model.http = Arc::new(http);
    model.rev = 1;
    model
}

/// A client's connection.
pub(crate) struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).await.unwrap())
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until the other side closes; what was read before a reset counts.
    pub(crate) async fn rest(&mut self) -> String {
        let all = async { while self.more().await {} };
        tokio::time::timeout(SOON, all).await.expect("the connection stays open");
        text(&std::mem::take(&mut self.buffer))
    }

    /// Reads one response with Content-Length, or without body.
    pub(crate) async fn response(&mut self) -> String {
        let one = async {
            loop {
                if let Some(end) = message_end(&self.buffer) {
                    return text(&self.buffer.drain(..end).collect::<Vec<_>>());
                }
                assert!(self.more().await, "closed after {:?}", text(&self.buffer));
            }
        };
        tokio::time::timeout(SOON, one).await.expect("no response")
    }

    /// Reads until `needle` is there.
    pub(crate) async fn until(&mut self, needle: &str) -> String {
        let found = async {
            while !text(&self.buffer).contains(needle) {
                assert!(self.more().await, "closed after {:?}", text(&self.buffer));
            }
        };
        tokio::time::timeout(SOON, found).await.expect("never came");
        text(&std::mem::take(&mut self.buffer))
    }

    /// Reads one message; `None` when the other side closes before its end.
    pub(crate) async fn message(&mut self) -> Option<String> {
        loop {
            if let Some(end) = message_end(&self.buffer) {
                return Some(text(&self.buffer.drain(..end).collect::<Vec<_>>()));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(n) if n > 0)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the first message ends, by its own framing.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let lower = text(&bytes[..head]).to_lowercase();
    if lower.contains("transfer-encoding: chunked") {
        return bytes[head..].windows(5).position(|w| w == b"0\r\n\r\n").map(|at| head + at + 5);
    }
    let length =
        lower.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.trim().parse().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}

/// The status of a response.
pub(crate) fn status(response: &str) -> u16 {
    let code = response.strip_prefix("HTTP/1.").and_then(|r| r.get(2..5));
    code.and_then(|c| c.parse().ok()).unwrap_or_else(|| panic!("no response: {response:?}"))
}

/// A header of a raw message.
pub(crate) fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let head = message.split("\r\n\r\n").next()?;
    head.lines()
        .skip(1)
        .filter_map(|l| l.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

/// A backend that does what it is told.
pub(crate) struct Origin {
    pub addr: SocketAddr,
    /// What came in, one message each.
    pub seen: mpsc::UnboundedReceiver<String>,
    /// How many connections it had.
    pub connections: Arc<AtomicUsize>,
}

impl Origin {
    /// Answers every request with its name, and keeps connections open.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()), false).await
    }

    /// Answers every request with these bytes, then closes if `close`.
    pub(crate) async fn answering(response: impl Into<Vec<u8>>, close: bool) -> Self {
        let response = Arc::new(response.into());
        Self::start(move |mut client: Client, seen| {
            let response = Arc::clone(&response);
            async move {
                loop {
                    let message = loop {
                        if let Some(end) = message_end(&client.buffer) {
                            break text(&client.buffer.drain(..end).collect::<Vec<_>>());
                        }
                        if !client.more().await {
                            let left = text(&client.buffer);
                            if !left.is_empty() {
                                let _ = seen.send(format!("CUT {left}"));
                            }
                            return;
                        }
                    };
                    let _ = seen.send(message);
                    if client.stream.write_all(&response).await.is_err() || close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Runs a script for every connection.
    pub(crate) async fn start<F, W>(script: F) -> Self
    where
        F: Fn(Client, mpsc::UnboundedSender<String>) -> W + Send + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(script(Client { stream, buffer: Vec::new() }, sender.clone()));
            }
        });
        Self { addr, seen, connections }
    }

    /// The next message that came in.
    pub(crate) async fn next(&mut self) -> String {
        tokio::time::timeout(SOON, self.seen.recv()).await.expect("nothing came").unwrap()
    }

    /// Whether nothing came in so far.
    pub(crate) fn untouched(&mut self) -> bool {
        self.seen.try_recv().is_err()
    }
}

/// An address where nobody listens, and nobody ever will: the port is taken until the process ends, else another test would get it.
pub(crate) fn refusing() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let addr = socket.local_addr().unwrap();
    std::mem::forget(socket);
    addr
}
