//! TCP clients: one connection, many, or as many as fit until told to stop; each counted with its outcome.
//!
//! They speak to [`serve::tcp`](super::serve::tcp): a connection succeeds when the line that says who answers has come,
//! every byte sent has come back, and the end was orderly. Blocking threads in the client's namespace: a socket stays
//! in the namespace in which it was opened, whoever uses it later.
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;

/// How long a connection may take in all. A lost SYN costs one second; this bears two.
pub const LIMIT: Duration = Duration::from_secs(5);
/// A connection that takes longer has lost a packet: the first retransmission of a SYN is due after a second.
const SLOW: Duration = Duration::from_millis(900);
/// Bytes that a connection of a load sends and wants back.
const LOAD_BODY: usize = 64;

/// Why a connection or a datagram failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// RST in answer to the SYN, or ICMP port unreachable.
    Refused,
    /// RST later.
    Reset,
    /// No answer in time.
    Timeout,
    /// ICMP: no route, or prohibited.
    Unreachable,
    /// The end came before all bytes were back.
    Cut,
    /// Other bytes came back than were sent.
    Wrong,
    /// Anything else, in the system's words.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Cut => f.write_str("cut short"),
            Self::Wrong => f.write_str("wrong bytes"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::UnexpectedEof => Self::Cut,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What a pod says about itself in its first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod.
    pub pod: String,
    /// The port on which it was reached.
    pub port: u16,
    /// Who it says has called.
    pub peer: IpAddr,
}

impl Answer {
    /// Parses `<pod> <port> <peer>`.
    ///
    /// # Errors
    /// [`Failure::Wrong`], or [`Failure::Cut`] on an empty line.
    pub fn parse(line: &str) -> Result<Self, Failure> {
        if line.is_empty() {
            return Err(Failure::Cut);
        }
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or(Failure::Wrong);
        let pod = word()?.to_owned();
        let port = word()?.parse().map_err(|_| Failure::Wrong)?;
        let peer = word()?.parse().map_err(|_| Failure::Wrong)?;
        Ok(Self { pod, port, peer })
    }
}

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
        space.enter(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
            socket.bind(&SocketAddr::new(any, port).into())?;
            socket.connect_timeout(&to.into(), LIMIT)?;
            Self::greet(socket.into())
        })
    }

    /// Connects from the current thread's namespace.
    fn dial(to: SocketAddr) -> Result<Self, Failure> {
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

/// Outcomes of many connections.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Successes, by the pod that answered.
    pub by_pod: BTreeMap<String, usize>,
    /// Failures, by their reason.
    pub failures: BTreeMap<Failure, usize>,
    /// Successes that took so long that a packet must have been lost.
    pub slow: usize,
    /// The longest success.
    pub slowest: Duration,
    /// When failures came, since the start of the load.
    pub failed_at: Vec<Duration>,
}

impl Tally {
    /// Successes.
    #[must_use]
    pub fn succeeded(&self) -> usize {
        self.by_pod.values().sum()
    }

    /// Failures.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failures.values().sum()
    }

    fn count(&mut self, outcome: Result<String, Failure>, took: Duration, at: Duration) {
        match outcome {
            Ok(pod) => {
                *self.by_pod.entry(pod).or_default() += 1;
                self.slow += usize::from(took > SLOW);
                self.slowest = self.slowest.max(took);
            }
            Err(failure) => {
                *self.failures.entry(failure).or_default() += 1;
                self.failed_at.push(at);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        let Self { by_pod, failures, slow, slowest, failed_at } = other;
        by_pod.into_iter().for_each(|(pod, n)| *self.by_pod.entry(pod).or_default() += n);
        failures.into_iter().for_each(|(failure, n)| *self.failures.entry(failure).or_default() += n);
        self.slow += slow;
        self.slowest = self.slowest.max(slowest);
        self.failed_at.extend(failed_at);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ok", self.succeeded())?;
        self.by_pod.iter().try_for_each(|(pod, n)| write!(f, ", {pod} {n}"))?;
        write!(f, "; {} failed", self.failed())?;
        self.failures.iter().try_for_each(|(failure, n)| write!(f, ", {failure} {n}"))?;
        if let (Some(first), Some(last)) = (self.failed_at.iter().min(), self.failed_at.iter().max()) {
            write!(f, " (from {first:.1?} to {last:.1?})")?;
        }
        write!(f, "; slowest {:.1?}", self.slowest)
    }
}

/// Makes `n` connections from `space`, `concurrency` at a time.
///
/// # Panics
/// If a client's thread does.
#[must_use]
pub fn burst(space: &Namespace, to: SocketAddr, n: usize, concurrency: usize) -> Tally {
    Load::run(space, to, n, concurrency).finish()
}

/// Connections that are being made, one after the other on each of several threads.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts making connections until [`Load::stop`].
    #[must_use]
    pub fn start(space: &Namespace, to: SocketAddr, concurrency: usize) -> Self {
        Self::run(space, to, usize::MAX, concurrency)
    }

    /// Starts making `n` connections.
    #[must_use]
    pub fn run(space: &Namespace, to: SocketAddr, n: usize, concurrency: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let taken = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let client = || {
            let (stop, done, taken) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&taken));
            // A thread keeps the namespace of the thread that has started it.
            space.enter(|| {
                std::thread::spawn(move || {
                    let mut tally = Tally::default();
                    while !stop.load(Ordering::Relaxed) && taken.fetch_add(1, Ordering::Relaxed) < n {
                        let dialled = Instant::now();
                        let outcome = whole(to);
                        tally.count(outcome, dialled.elapsed(), began.elapsed());
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    tally
                })
            })
        };
        let threads = (0..concurrency).map(|_| client()).collect();
        Self { stop, done, threads }
    }

    /// Connections that have ended, well or not.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until all are made.
    ///
    /// # Panics
    /// If a client's thread does.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        let mut sum = Tally::default();
        self.threads.drain(..).for_each(|t| sum.merge(t.join().expect("a client does not panic")));
        sum
    }

    /// Lets the connections that are open end, and starts no others.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection from beginning to end; returns the pod.
fn whole(to: SocketAddr) -> Result<String, Failure> {
    let mut connection = Connection::dial(to)?;
    connection.exchange(LOAD_BODY)?;
    let pod = connection.answer.pod.clone();
    connection.close()?;
    Ok(pod)
}
