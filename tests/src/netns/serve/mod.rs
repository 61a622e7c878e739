//! The servers in a pod: TCP, UDP and HTTP, each of which says which pod answers and what it has seen.
//!
//! One thread per pod runs them all; dropping its [`Task`] closes every socket, as the death of a process does.
pub mod http;
pub mod tcp;
pub mod udp;

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::mpsc,
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    namespace::{Namespace, Task},
    pod::{HTTP_PORT, OTHER_TCP_PORT, TCP_PORT, UDP_PORT},
};

/// Connections that may wait for a server; the load generators open many at once.
const BACKLOG: i32 = 4096;

/// Who answers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The pod's name.
    pub pod: String,
    /// Its version.
    pub version: String,
}

/// Starts all servers of a pod; they listen when this returns.
///
/// # Errors
/// A port is taken.
pub fn start(space: &Namespace, identity: Identity) -> anyhow::Result<Task> {
    let (ready, is_ready) = mpsc::channel();
    let task = space.spawn(&format!("pod {}", identity.pod), move || async move {
        let serve = async {
            let first = tcp::serve(listen(TCP_PORT)?, identity.clone());
            let other = tcp::serve(listen(OTHER_TCP_PORT)?, identity.clone());
            let datagrams = udp::serve(bind_udp(UDP_PORT)?, identity.clone());
            let web = http::serve(listen(HTTP_PORT)?, identity);
            let _ = ready.send(Ok(()));
            tokio::join!(first, other, datagrams, web);
            anyhow::Ok(())
        };
        if let Err(error) = serve.await {
            let _ = ready.send(Err(error));
        }
    });
    is_ready.recv().context("the pod's thread ended")??;
    Ok(task)
}

/// A listener on all addresses of both families.
fn listen(port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).context("open a TCP socket")?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&any(port).into()).with_context(|| format!("bind TCP port {port}"))?;
    socket.listen(BACKLOG).with_context(|| format!("listen on TCP port {port}"))?;
    Ok(tokio::net::TcpListener::from_std(socket.into())?)
}

/// A UDP socket on all addresses of both families.
fn bind_udp(port: u16) -> anyhow::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).context("open a UDP socket")?;
    socket.set_only_v6(false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&any(port).into()).with_context(|| format!("bind UDP port {port}"))?;
    Ok(tokio::net::UdpSocket::from_std(socket.into())?)
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
