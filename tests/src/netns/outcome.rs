//! What became of connections and datagrams: who answered, or why nobody did; and many of these, counted.
use std::{collections::BTreeMap, fmt, io, net::IpAddr, time::Duration};

/// A connection that takes longer has lost a packet: the first retransmission of a SYN is due after a second.
const SLOW: Duration = Duration::from_millis(900);

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

    pub(super) fn count(&mut self, outcome: Result<String, Failure>, took: Duration, at: Duration) {
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

    pub(super) fn merge(&mut self, other: Self) {
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
