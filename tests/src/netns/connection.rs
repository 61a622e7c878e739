//! One TCP connection to a pod's identity server ([`serve::tcp`](super::serve::tcp)).
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    namespace::Namespace,
    outcome::{Answer, Failure},
};

/// How long each step of a connection may take. A lost SYN costs one second; this bears two.
const LIMIT: Duration = Duration::from_secs(5);

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    /// Who answers it.
    pub answer: Answer,
}

impl Connection {
    /// Connects from `space`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open(space: &Namespace, to: SocketAddr) -> Result<Self, Failure> {
        space.enter(|| Self::dial(to))
    }

    /// Connects from `space` and from a port of choice, which other connections may use at the same time.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open_from(space: &Namespace, port: u16, to: SocketAddr) -> Result<Self, Failure> {
        let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
        Self::open_bound(space, SocketAddr::new(any, port), to)
    }

    /// Connects from `space` and from an address of choice, and a port of choice unless it is 0.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open_bound(space: &Namespace, from: SocketAddr, to: SocketAddr) -> Result<Self, Failure> {
        space.enter(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), LIMIT)?;
            Self::greet(socket.into())
        })
    }

    /// Connects from the current thread's namespace.
    pub(super) fn dial(to: SocketAddr) -> Result<Self, Failure> {
        Self::greet(TcpStream::connect_timeout(&to, LIMIT)?)
    }

    fn greet(stream: TcpStream) -> Result<Self, Failure> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        Ok(Self { stream, answer: Answer::parse(&line)? })
    }

    /// With so long to wait for an answer, where none is expected.
    ///
    /// # Errors
    /// The socket does not take it.
    pub fn within(self, limit: Duration) -> Result<Self, Failure> {
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        Ok(self)
    }

    /// Whether it is over IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.stream.get_ref().peer_addr().is_ok_and(|peer| peer.is_ipv6())
    }

    /// Sends `len` bytes and wants them back.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn exchange(&mut self, len: usize) -> Result<(), Failure> {
        let sent: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut back = vec![0; len];
        let mut writer = self.stream.get_ref().try_clone()?;
        // Both at once where neither side's buffers hold it all.
        let (wrote, read) = if len > 8192 {
            std::thread::scope(|s| {
                let write = s.spawn(|| writer.write_all(&sent));
                let read = self.stream.read_exact(&mut back);
                (write.join().expect("writing does not panic"), read)
            })
        } else {
            (writer.write_all(&sent), self.stream.read_exact(&mut back))
        };
        wrote?;
        read?;
        if sent == back { Ok(()) } else { Err(Failure::Wrong) }
    }

    /// Ends it in order: our FIN, then the other side's.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn close(mut self) -> Result<(), Failure> {
        self.stream.get_ref().shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        if rest.is_empty() { Ok(()) } else { Err(Failure::Wrong) }
    }
}
