//! A UDP client: a socket that keeps its port, so that all its datagrams are one flow.
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{
    namespace::Namespace,
    outcome::{Answer, Failure},
};

/// How long to wait for an answer.
const LIMIT: Duration = Duration::from_millis(1000);
/// Larger than any datagram.
const BUFFER: usize = 65_536;

/// A connected UDP socket in a namespace: it hears ICMP errors and takes answers from its peer alone, as resolvers do.
#[derive(Debug)]
pub struct Flow {
    socket: UdpSocket,
}

impl Flow {
    /// Opens a socket in `space` and connects it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open(space: &Namespace, to: SocketAddr) -> Result<Self, Failure> {
        Self::open_from(space, 0, to)
    }

    /// The same, from a port of choice.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open_from(space: &Namespace, port: u16, to: SocketAddr) -> Result<Self, Failure> {
        let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        Self::open_bound(space, SocketAddr::new(any, port), to)
    }

    /// With so long to wait for an answer, where none is expected.
    ///
    /// # Errors
    /// The socket does not take it.
    pub fn within(self, limit: Duration) -> Result<Self, Failure> {
        self.socket.set_read_timeout(Some(limit))?;
        Ok(self)
    }

    /// The same, from an address of choice, and a port of choice unless it is 0.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open_bound(space: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<Self, Failure> {
        space.enter(|| {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(Self { socket })
        })
    }

    /// Sends a datagram of `len` bytes, and wants it back behind the line that says who answers, cut to its own length.
    ///
    /// # Errors
    /// See [`Failure`]. ICMP port unreachable is [`Failure::Refused`].
    pub fn ask(&self, len: usize) -> Result<Answer, Failure> {
        let sent: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        self.socket.send(&sent)?;
        let mut buffer = vec![0; BUFFER];
        let got = self.socket.recv(&mut buffer)?;
        let end = buffer[..got].iter().position(|b| *b == b'\n').ok_or(Failure::Wrong)?;
        let back = &buffer[end + 1..got];
        if !sent.starts_with(back) || got < len {
            return Err(Failure::Wrong);
        }
        Answer::parse(&String::from_utf8_lossy(&buffer[..end]))
    }
}

/// One datagram from a new port, and its answer.
///
/// # Errors
/// See [`Failure`].
pub fn ask(space: &Namespace, to: SocketAddr, len: usize) -> Result<Answer, Failure> {
    Flow::open(space, to)?.ask(len)
}
