//! How the proxies are configured: the same routes in three languages.
use std::path::Path;

use serde_json::{Value, json};

/// The address of the endpoint and of the peers.
pub(super) const HOST: &str = "10.9.0.1";
/// The port of the endpoint: `/k` is a file of 1 KiB, `/m` one of 1 MiB.
pub(super) const ENDPOINT: u16 = 9001;
/// The port at which it speaks HTTP/2 in clear text, and answers any method with 1 KiB.
pub(super) const RPC_ENDPOINT: u16 = 9002;
/// The host name of the certificate.
pub(super) const NAME: &str = "bench.example";
/// The address of our Gateway.
pub(super) const VIP: &str = "203.0.113.10";
/// And of one beside it, with one rule for everything.
pub(super) const PLAIN_VIP: &str = "203.0.113.11";

/// Which routes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// One, for everything.
    One,
    /// A thousand that differ in the value of one header.
    Headers,
    /// The same, with another header before it that all share.
    SharedHeader,
    /// Two hundred regular expressions for paths of one host name.
    Regexes,
    /// Five thousand, each for a host name of its own.
    Hosts,
    /// One, for everything, to an endpoint that is spoken to in HTTP/2.
    Rpc,
}

impl Variant {
    /// How many routes there are; none: one for everything.
    const fn routes(self) -> usize {
        match self {
            Self::One | Self::Rpc => 0,
            Self::Headers | Self::SharedHeader => 1000,
            Self::Regexes => 200,
            Self::Hosts => 5000,
        }
    }

    /// The port of the endpoint.
    const fn endpoint(self) -> u16 {
        if matches!(self, Self::Rpc) { RPC_ENDPOINT } else { ENDPOINT }
    }

    /// The fields that a request has to meet a route in the middle: name and value. wrk knows `Host` in this spelling alone.
    pub(super) const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::One => &[],
            Self::Rpc => &["content-type: application/grpc"],
            Self::Headers => &["x-route: value-900"],
            Self::SharedHeader => &["x-all: same", "x-route: value-900"],
            Self::Regexes => &["Host: regexes.example"],
            Self::Hosts => &["Host: host-4321.example"],
        }
    }

    /// What is asked for, of 1 KiB.
    pub(super) const fn path(self) -> &'static str {
        if matches!(self, Self::Regexes) { ONE_OF_REGEXES } else { "/k" }
    }
}

/// What one regular expression in the middle is for.
pub(super) const ONE_OF_REGEXES: &str = "/v150/k";

/// The endpoint's.
pub(super) fn endpoint(dir: &Path) -> String {
    let files = format!("server {{ listen {HOST}:{ENDPOINT} backlog=8192; root {}/www; }}", dir.display());
    let answer = "x".repeat(1 << 10);
    let calls = format!(
        "server {{ listen {HOST}:{RPC_ENDPOINT} http2 backlog=8192; keepalive_requests 100000000; \
         location / {{ default_type application/grpc; return 200 {answer}; }} }}"
    );
    nginx_with(dir, "endpoint", &format!("sendfile on; tcp_nopush on; {files} {calls}"))
}

/// nginx as a proxy. `port` speaks HTTP/1.1, the next one HTTP/2 in clear text, the third both under TLS.
pub(super) fn nginx(dir: &Path, variant: Variant, port: u16) -> String {
    let location = if variant == Variant::Rpc {
        "location / { grpc_pass grpc://up; grpc_set_header X-Forwarded-For $remote_addr; }"
    } else {
        "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }"
    };
    let server = |listen: &str, more: &str| format!("server {{ listen {HOST}:{listen}; {more} {location} }}\n");
    let certificate = format!("ssl_certificate {0}/tls.pem; ssl_certificate_key {0}/tls.pem;", dir.display());
    let servers = [
        server(&format!("{port} backlog=8192"), ""),
        server(&format!("{} http2", port + 1), ""),
        server(&format!("{} ssl http2", port + 2), &certificate),
    ];
    let endpoint = variant.endpoint();
    let upstream = format!("upstream up {{ server {HOST}:{endpoint}; keepalive 256; keepalive_requests 100000000; }}");
    nginx_with(dir, "nginx", &format!("{upstream} {}", servers.concat()))
}

fn nginx_with(dir: &Path, name: &str, http: &str) -> String {
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {dir}/{name}-{kind}; "))
        .collect();
    format!(
        "worker_processes 1; daemon off; user root; pid {dir}/{name}.pid; error_log {dir}/{name}.log crit; \
         worker_rlimit_nofile 20000;\nevents {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000; {temporary} {http} }}\n"
    )
}

/// HAProxy's. Ports as for nginx.
pub(super) fn haproxy(dir: &Path, variant: Variant, port: u16) -> String {
    format!(
        "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  \
         timeout client 60s\n  timeout server 60s\nfrontend f\n  bind {HOST}:{port} backlog 8192\n  bind {HOST}:{h2} proto h2\n  \
         bind {HOST}:{tls} backlog 8192 ssl crt {pem} alpn h2,http/1.1\n  \
         option forwardfor\n  default_backend up\nbackend up\n  server s1 {HOST}:{endpoint}{protocol}\n",
        h2 = port + 1,
        tls = port + 2,
        pem = dir.join("tls.pem").display(),
        endpoint = variant.endpoint(),
        protocol = if variant == Variant::Rpc { " proto h2" } else { "" },
    )
}

/// Ours.
pub(super) fn manifests(variant: Variant, certificate: &str, key: &str) -> Vec<Value> {
    let gateway = |name: &str, address: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "gatewayClassName": "sluice",
                "addresses": [{ "type": "IPAddress", "value": address }],
                "listeners": [
                    { "name": "http", "protocol": "HTTP", "port": 80 },
                    {
                        "name": "https", "protocol": "HTTPS", "port": 443,
                        "tls": { "certificateRefs": [{ "name": "tls" }] },
                    },
                ],
            },
        })
    };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tls", "namespace": "default" },
        "type": "kubernetes.io/tls", "stringData": { "tls.crt": certificate, "tls.key": key },
    });
    let protocol = (variant == Variant::Rpc).then_some("kubernetes.io/h2c");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "up", "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80, "appProtocol": protocol }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "up-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "up" },
        },
        "ports": [{ "name": "http", "port": variant.endpoint(), "protocol": "TCP" }],
        "endpoints": [{ "addresses": [HOST], "conditions": { "ready": true }, "nodeName": "node1" }],
    });
    let mut all = vec![gateway("front", VIP), gateway("plain", PLAIN_VIP), secret, service, slice];
    all.push(route("plain", "plain", None, None));
    if variant.routes() == 0 {
        all.push(route("default", "front", None, None));
    }
    all.extend((0..variant.routes()).map(|i| special(variant, i)));
    all
}

/// One of many routes.
fn special(variant: Variant, i: usize) -> Value {
    let name = format!("h{i}");
    let header = |name: &str, value: &str| json!({ "name": name, "value": value });
    let value = format!("value-{i}");
    let (host, matches) = match variant {
        Variant::Hosts => (Some(format!("host-{i}.example")), None),
        Variant::Regexes => {
            let path = json!({ "type": "RegularExpression", "value": format!("/v{i}/[a-z]+(/[0-9]{{1,5}})?") });
            (Some("regexes.example".to_owned()), Some(json!({ "path": path })))
        }
        Variant::SharedHeader => {
            (None, Some(json!({ "headers": [header("x-all", "same"), header("x-route", &value)] })))
        }
        Variant::Headers | Variant::One | Variant::Rpc => {
            (None, Some(json!({ "headers": [header("x-route", &value)] })))
        }
    };
    route(&name, "front", host, matches)
}

fn route(name: &str, gateway: &str, host: Option<String>, matches: Option<Value>) -> Value {
    let mut rule = json!({ "backendRefs": [{ "name": "up", "port": 80 }] });
    if let Some(matches) = matches {
        rule["matches"] = json!([matches]);
    }
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "parentRefs": [{ "name": gateway }], "rules": [rule] },
    });
    if let Some(host) = host {
        route["spec"]["hostnames"] = json!([host]);
    }
    route
}
