//! ICMP echo, by the kernel's ping sockets: it fills in identifier and checksum, and drops answers that do not fit.
use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{namespace::Namespace, outcome::Failure};

/// How long to wait for an answer.
const LIMIT: Duration = Duration::from_secs(1);
/// Bytes of an echo header.
const HEADER: usize = 8;
/// Types: echo request and reply, ICMP and ICMPv6.
const TYPES: [(u8, u8); 2] = [(8, 0), (128, 129)];

/// Sends one echo request with `len` bytes of payload from `space`; returns the time until its answer.
///
/// # Errors
/// See [`Failure`]; an answer with another payload is [`Failure::Wrong`].
pub fn ping(space: &Namespace, to: IpAddr, len: usize) -> Result<Duration, Failure> {
    let (domain, protocol, (request, reply)) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, TYPES[0]),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, TYPES[1]),
    };
    space.enter(|| {
        let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        let mut echo = vec![request, 0, 0, 0, 0, 0, 0, 1];
        echo.extend((0..len).map(|n| (n % 251) as u8));
        let began = Instant::now();
        socket.send(&echo)?;
        let mut answer = vec![0; HEADER + len + 64];
        let got = (&socket).read(&mut answer)?;
        let took = began.elapsed();
        answer.truncate(got);
        let right = answer.first() == Some(&reply) && answer.get(HEADER..) == echo.get(HEADER..);
        if right { Ok(took) } else { Err(Failure::Wrong) }
    })
}
