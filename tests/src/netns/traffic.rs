//! Load of which every failure is held against the endpoint that it was sent to, while endpoints die and come.
//!
//! Which endpoint that was is read from the nodes' conntrack right after the failure, by the client's port. A failure is
//! excused only when that endpoint has not served from the request's beginning to its end ([`Lives`]). One that no entry
//! explains is never excused: the flow did not get as far as to an endpoint.
//!
//! Over HTTP the proxy chooses, for each request anew. Nothing tells whom, so that a request may fail only while a pod is
//! being killed, which may have taken it already.
use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use sluice::datapath::sweep::monotonic_nanoseconds;
use sluice_ebpf::{CT_REFRESH_NS, TCP, UDP};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Lab, Maps, Namespace,
    lives::Lives,
    outcome::{Answer, Failure},
    serve::http::Seen,
};

/// How long each step of a request may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a datagram is waited for before it is sent again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a datagram is sent.
const SENDS: usize = 10;
/// Between two requests of a client, so that the ports last and the machine is not busy with this alone.
const PAUSE: Duration = Duration::from_millis(10);
/// Bytes that are sent and wanted back.
const BODY: usize = 64;
/// By how much a conntrack entry of the flow at hand may seem older than it is.
const COARSE: u64 = CT_REFRESH_NS + 50_000_000;

/// How a request is made. Each request is a flow of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A connection to the pods' identity server.
    Tcp,
    /// A datagram to it.
    Udp,
    /// A GET through the proxy.
    Http,
}

/// What became of the requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// Answers, by pod.
    pub answered: BTreeMap<String, usize>,
    /// Failures of requests to a pod that did not serve all the time, by pod; over HTTP without one.
    pub excused: BTreeMap<String, usize>,
    /// All other failures, in words.
    pub faults: Vec<String>,
    /// The longest that an answer took.
    pub slowest: Duration,
}

impl Sum {
    /// Requests that have ended.
    #[must_use]
    pub fn done(&self) -> usize {
        self.answered.values().sum::<usize>() + self.excused.values().sum::<usize>() + self.faults.len()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered", self.answered.values().sum::<usize>())?;
        self.answered.iter().try_for_each(|(pod, n)| write!(f, ", {pod} {n}"))?;
        write!(f, "; {} to those that did not live", self.excused.values().sum::<usize>())?;
        self.excused.iter().try_for_each(|(pod, n)| write!(f, ", {pod} {n}"))?;
        write!(f, "; {} failed; slowest {:.1?}", self.faults.len(), self.slowest)?;
        self.faults.iter().take(10).try_for_each(|fault| write!(f, "\n    {fault}"))
    }
}

/// Requests that are being made; ends when dropped.
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    lives: Arc<Lives>,
    nodes: Vec<Maps>,
    pods: BTreeMap<IpAddr, String>,
    sums: Mutex<BTreeMap<Kind, Sum>>,
}

/// A request that did not end well.
struct Failed {
    why: Failure,
    /// The client's end; `None` where it tells nothing.
    client: Option<SocketAddr>,
}

impl Traffic {
    /// Starts `clients` for each target, one request after the other, from the lab's client. `nodes` have the flows.
    #[must_use]
    pub fn start(
        lab: &Lab,
        lives: &Arc<Lives>,
        nodes: Vec<Maps>,
        targets: &[(Kind, SocketAddr)],
        clients: usize,
    ) -> Self {
        let both = |pod: &super::Pod| [false, true].map(|v6| (pod.ip(v6), pod.name.clone()));
        let pods = lab.pods.iter().flat_map(both).collect();
        let shared =
            Shared { stop: AtomicBool::new(false), lives: Arc::clone(lives), nodes, pods, sums: Mutex::default() };
        let shared = Arc::new(shared);
        let each = targets.iter().flat_map(|target| std::iter::repeat_n(*target, clients));
        let threads = each.map(|(kind, to)| run(&lab.client, Arc::clone(&shared), kind, to)).collect();
        Self { shared, threads }
    }

    /// What became of the requests so far.
    #[must_use]
    pub fn sums(&self) -> BTreeMap<Kind, Sum> {
        self.shared.sums().clone()
    }

    /// Ends it, when the requests that are under way have ended.
    ///
    /// # Panics
    /// If a client does.
    #[must_use]
    pub fn stop(mut self) -> BTreeMap<Kind, Sum> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("a client does not panic"));
        self.sums()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn run(space: &Namespace, shared: Arc<Shared>, kind: Kind, to: SocketAddr) -> JoinHandle<()> {
    // A thread keeps the namespace of the thread that has started it.
    space.enter(|| {
        std::thread::spawn(move || {
            while !shared.stop.load(Ordering::Relaxed) {
                let (began, at) = (Instant::now(), monotonic_nanoseconds());
                let outcome = match kind {
                    Kind::Tcp => connect(to),
                    Kind::Udp => ask(to, |client| shared.lives_on(client, to, UDP, began, at)),
                    Kind::Http => get(to),
                };
                shared.count(kind, to, outcome, began, at);
                std::thread::sleep(PAUSE);
            }
        })
    })
}

impl Shared {
    fn sums(&self) -> MutexGuard<'_, BTreeMap<Kind, Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod that a flow of this moment was sent to.
    fn sent_to(&self, client: SocketAddr, to: SocketAddr, proto: u8, at: u64) -> Option<&String> {
        let found = self.nodes.iter().filter_map(|maps| maps.chosen(client, to, proto).ok().flatten());
        let newest =
            found.filter(|chosen| chosen.seen.saturating_add(COARSE) >= at).max_by_key(|chosen| chosen.seen)?;
        self.pods.get(&newest.backend.ip())
    }

    /// Whether there may be an answer still: not from a pod that does not live.
    fn lives_on(&self, client: SocketAddr, to: SocketAddr, proto: u8, began: Instant, at: u64) -> bool {
        self.sent_to(client, to, proto, at).is_none_or(|pod| self.lives.has_served_since(pod, began))
    }

    fn count(&self, kind: Kind, to: SocketAddr, outcome: Result<String, Failed>, began: Instant, at: u64) {
        let took = began.elapsed();
        let verdict = outcome.map_err(|Failed { why, client }| {
            let pod = match (kind, client) {
                (Kind::Tcp, Some(client)) => self.sent_to(client, to, TCP, at),
                (Kind::Udp, Some(client)) => self.sent_to(client, to, UDP, at),
                _ => None,
            };
            match (kind, pod) {
                (Kind::Http, _) if self.lives.has_any_died_since(began) => Ok("in flight".to_owned()),
                (Kind::Tcp | Kind::Udp, Some(pod)) if !self.lives.has_served_since(pod, began) => Ok(pod.clone()),
                _ => Err(format!("{kind:?} {to}: {why} after {took:.1?}, from {client:?}, sent to {pod:?}")),
            }
        });
        let mut sums = self.sums();
        let sum = sums.entry(kind).or_default();
        match verdict {
            Ok(pod) => {
                *sum.answered.entry(pod).or_default() += 1;
                sum.slowest = sum.slowest.max(took);
            }
            Err(Ok(pod)) => *sum.excused.entry(pod).or_default() += 1,
            Err(Err(fault)) => sum.faults.push(fault),
        }
    }
}

/// The client's end of a socket that is bound: its address is what the lab gives to the client.
fn end(to: SocketAddr, port: u16) -> SocketAddr {
    let ip: IpAddr = if to.is_ipv4() { super::addr::CLIENT_V4.into() } else { super::addr::CLIENT_V6.into() };
    (ip, port).into()
}

fn any(to: SocketAddr) -> SocketAddr {
    (if to.is_ipv4() { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u16; 8]) }, 0).into()
}

/// A connection, from a port that is known also when it fails.
fn dial(to: SocketAddr) -> Result<(TcpStream, SocketAddr), Failed> {
    let nowhere = |why: std::io::Error| Failed { why: why.into(), client: None };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map_err(nowhere)?;
    socket.bind(&any(to).into()).map_err(nowhere)?;
    let bound = socket.local_addr().map_err(nowhere)?.as_socket();
    let client = end(to, bound.map_or(0, |a| a.port()));
    let failed = |why: std::io::Error| Failed { why: why.into(), client: Some(client) };
    socket.connect_timeout(&to.into(), LIMIT).map_err(failed)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).and_then(|()| stream.set_nodelay(true)).map_err(failed)?;
    Ok((stream, client))
}

/// A connection from beginning to end; the pod.
fn connect(to: SocketAddr) -> Result<String, Failed> {
    let (stream, client) = dial(to)?;
    let exchange = || {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let answer = Answer::parse(&line)?;
        let sent = [0x5a; BODY];
        stream.get_mut().write_all(&sent)?;
        stream.get_ref().shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        match back.len() {
            BODY if back == sent => Ok(answer.pod),
            n if n < BODY => Err(Failure::Cut),
            _ => Err(Failure::Wrong),
        }
    };
    exchange().map_err(|why| Failed { why, client: Some(client) })
}

/// A datagram and its answer, sent again while there `may` be one; the pod.
fn ask(to: SocketAddr, may: impl Fn(SocketAddr) -> bool) -> Result<String, Failed> {
    let nowhere = |why: std::io::Error| Failed { why: why.into(), client: None };
    let socket = UdpSocket::bind(any(to)).map_err(nowhere)?;
    let client = end(to, socket.local_addr().map_err(nowhere)?.port());
    let exchange = || {
        socket.connect(to)?;
        socket.set_read_timeout(Some(AGAIN))?;
        let mut buffer = [0; 2048];
        let mut failure = Failure::Timeout;
        for _ in 0..SENDS {
            socket.send(&[0x5a; BODY])?;
            failure = match socket.recv(&mut buffer) {
                Ok(got) => {
                    let line = buffer[..got].split(|b| *b == b'\n').next().unwrap_or_default();
                    return Ok(Answer::parse(&String::from_utf8_lossy(line))?.pod);
                }
                Err(error) => error.into(),
            };
            if failure != Failure::Timeout || !may(client) {
                break;
            }
        }
        Err(failure)
    };
    exchange().map_err(|why| Failed { why, client: Some(client) })
}

/// A GET on a connection of its own; the pod.
fn get(to: SocketAddr) -> Result<String, Failed> {
    let (mut stream, client) = dial(to)?;
    let mut exchange = || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: echo.example\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(Failure::Cut)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(Failure::Other(head.lines().next().unwrap_or_default().to_owned()));
        }
        let seen: Seen = serde_json::from_str(body).map_err(|_| Failure::Wrong)?;
        Ok(seen.pod)
    };
    exchange().map_err(|why| Failed { why, client: Some(client) })
}
