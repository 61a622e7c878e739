//! The connections to the API server: which versions of HTTP they speak, and how a dead one is noticed.
//!
//! # Design
//! A connection dies without a word where a NAT or a firewall has forgotten it, or where the server's machine has lost its
//! power: nothing comes, which on a watch means that nothing happens. Kept alive by nobody, a watch would be believed until
//! the server should have ended it, minutes later, and its agent would act on what it knew.
//!
//! - Over TLS, HTTP/2 is asked for, as client-go does: all watches share one connection, and the server must answer a
//!   [`PING`] within [`PONG`]. That covers a server that is frozen, and a proxy in between that is not.
//! - Where the server, or a proxy before it, speaks HTTP/1.1 alone, TCP itself asks: [`KEEPALIVE`], and data that is not
//!   acknowledged within [`UNACKNOWLEDGED`] ends the connection.
//!
//! Either way it is noticed within 20 seconds. Watches then go on from the revision that they had reached.
//!
//! Nothing is tried again here: who asks has pauses of his own, and must know how the server answers. (The stack that kube
//! builds hides a 503 for minutes.)
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config, Error,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tower::ServiceBuilder;

/// How long a connection may take to be opened, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// When nothing has come for so long over HTTP/2, the server is asked whether it is there.
const PING: Duration = Duration::from_secs(8);
/// How long it may take to answer: long enough for a server that is busy, because a new connection would burden it more.
const PONG: Duration = Duration::from_secs(8);
/// When nothing has come for so long, TCP asks the peer, again after each further [`PROBE`].
const KEEPALIVE: Duration = Duration::from_secs(5);
/// See [`KEEPALIVE`].
const PROBE: Duration = Duration::from_secs(5);
/// Questions without an answer that end the connection.
const PROBES: u32 = 2;
/// Data that was sent and is not acknowledged for so long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// A client for the API server of a configuration; connects when it is first used.
///
/// # Errors
/// The configuration's certificates or credentials cannot be used, or it names a proxy.
pub(super) fn client(config: Config) -> Result<Client, Error> {
    if config.proxy_url.is_some() {
        // It says which proxies this build does not speak to.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(kube::client::RustlsTlsError::InvalidServerName);
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name.map_err(Error::RustlsTls)?));
    }
    let mut connector = TimeoutConnector::new(tls.enable_all_versions().wrap_connector(tcp));
    connector.set_connect_timeout(Some(CONNECT));
    let client: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PONG)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
