//! Requests to the image `echo`: plain HTTP/1.1 on blocking sockets, one to a connection or many on one that is kept; and
//! datagrams of one flow.
//!
//! Deliberately less than [`http`](super::http): a load makes thousands, and each failure must be named as that of a
//! connection is.
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{namespace::Namespace, outcome::Failure};

/// How long each step may take: a patient client's time, who counts what was answered late apart.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two requests on a kept connection.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a datagram is sent that nobody answers.
const TRIES: usize = 3;

/// An open connection.
#[derive(Debug)]
struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects from the current thread's namespace; each step may take so long.
    fn dial(to: SocketAddr, limit: Duration) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request, reads its answer, and returns the pod that has given it.
    fn ask(&mut self, how: &str) -> Result<String, Failure> {
        let request = format!("GET / HTTP/1.1\r\nHost: echo.example\r\nConnection: {how}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(Failure::Other(status));
        }
        let mut length = None;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; length.ok_or(Failure::Wrong)?];
        self.0.read_exact(&mut body)?;
        pod(&String::from_utf8(body).map_err(|_| Failure::Wrong)?)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(Failure::Cut),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// The pod that says who it is.
fn pod(answer: &str) -> Result<String, Failure> {
    let pod = answer.split(' ').find_map(|word| word.strip_prefix("pod=")).ok_or(Failure::Wrong)?;
    Ok(pod.to_owned())
}

/// Sends a datagram until it is answered, and returns the pod that has answered; answers to older ones are left out.
fn ask_datagram(socket: &UdpSocket, number: usize) -> Result<String, Failure> {
    let sent = format!("datagram-{number}");
    let mut buffer = [0; 2048];
    for _ in 0..TRIES {
        socket.send(sent.as_bytes())?;
        loop {
            match socket.recv(&mut buffer).map_err(Failure::from) {
                Ok(length) => {
                    let answer = String::from_utf8_lossy(&buffer[..length]);
                    if answer.ends_with(&format!(" {sent}")) {
                        return pod(&answer);
                    }
                }
                Err(Failure::Timeout) => break,
                Err(failure) => return Err(failure),
            }
        }
    }
    Err(Failure::Timeout)
}

/// One request on a connection of its own, from the current thread's namespace; returns the pod that has answered.
pub(super) fn whole(to: SocketAddr) -> Result<String, Failure> {
    let mut connection = Connection::dial(to, LIMIT)?;
    let pod = connection.ask("close")?;
    let mut rest = Vec::new();
    connection.0.read_to_end(&mut rest)?;
    if rest.is_empty() { Ok(pod) } else { Err(Failure::Wrong) }
}

/// One request from `space`, for which nobody waits longer than `limit`; returns the pod that has answered.
///
/// # Errors
/// See [`Failure`].
pub fn ask(space: &Namespace, to: SocketAddr, limit: Duration) -> Result<String, Failure> {
    space.enter(|| Connection::dial(to, limit)?.ask("close"))
}

/// A connection or a flow of datagrams that is kept and used, until it is ended or fails.
#[derive(Debug)]
pub struct Kept {
    /// The pod that it leads to.
    pub pod: String,
    /// The frontend that was dialled.
    pub to: SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Result<Used, Failure>>>,
}

/// What became of a kept connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Requests that were answered.
    pub requests: usize,
    /// The longest that one of them took.
    pub slowest: Duration,
}

impl Kept {
    /// Connects from `space` and begins.
    ///
    /// # Errors
    /// The first request fails.
    pub fn open(space: &Namespace, to: SocketAddr) -> Result<Self, Failure> {
        let (mut connection, pod) = space.enter(|| {
            let mut connection = Connection::dial(to, LIMIT)?;
            let pod = connection.ask("keep-alive")?;
            Ok::<_, Failure>((connection, pod))
        })?;
        Ok(Self::hold(to, pod, move |_| connection.ask("keep-alive")))
    }

    /// The same with datagrams from one port. One that is lost is sent again, as resolvers do.
    ///
    /// # Errors
    /// The first one is not answered.
    pub fn open_udp(space: &Namespace, to: SocketAddr) -> Result<Self, Failure> {
        let (socket, pod) = space.enter(|| {
            let any: IpAddr = if to.is_ipv6() { [0u16; 8].into() } else { [0u8; 4].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(LIMIT / 3))?;
            let pod = ask_datagram(&socket, 0)?;
            Ok::<_, Failure>((socket, pod))
        })?;
        Ok(Self::hold(to, pod, move |number| ask_datagram(&socket, number)))
    }

    /// Asks again and again, on a thread of its own.
    fn hold(
        to: SocketAddr,
        pod: String,
        mut ask: impl FnMut(usize) -> Result<String, Failure> + Send + 'static,
    ) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(1)));
        let (stopped, count, first) = (Arc::clone(&stop), Arc::clone(&answered), pod.clone());
        let thread = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
                let began = Instant::now();
                if ask(count.load(Ordering::Relaxed))? != first {
                    return Err(Failure::Wrong);
                }
                slowest = slowest.max(began.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Used { requests: count.load(Ordering::Relaxed), slowest })
        });
        Self { pod, to, stop, answered, thread: Some(thread) }
    }

    /// Requests that were answered until now; `None` once one has failed.
    #[must_use]
    pub fn answered(&self) -> Option<usize> {
        let is_over = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        (!is_over).then(|| self.answered.load(Ordering::Relaxed))
    }

    /// Ends it; what it came to.
    ///
    /// # Errors
    /// A request failed, or another pod answered.
    ///
    /// # Panics
    /// If its thread does.
    pub fn end(mut self) -> Result<Used, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it is ended once").join().expect("a client does not panic")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
