//! A proxy in front of the real API server, for what a real one cannot be made to show.
//!
//! Without faults it changes nothing: every request goes to the API server, on a connection of its own, as the identity
//! that the proxy was started with. [`Proxy::fault`] adds a fault for some calls, [`Proxy::clear`] ends them all. The
//! newest fault that has a call decides it.
//!
//! It speaks plain HTTP/1.1 towards the client: the agent's own TLS is tested against the API server itself.
mod answer;
mod call;
mod forward;
mod watch;

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic},
    time::Duration,
};

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::{broadcast, watch as signal};

pub use call::{Call, Calls, Verb};

use super::{api::Api, identity::kubeconfig};
use crate::netns::{Namespace, namespace::Task};

/// Closings of watches that one of them may be behind with; one that is behind further ends.
const CLOSINGS: usize = 64;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is forwarded after this long.
    Delay(Duration),
    /// It is answered with this status, and a `Status` object as the API server words it; 429 and 503 say when to retry.
    Status(u16),
    /// A watch begins, and the first it says is that its resourceVersion is gone (410). Other calls get the status 410.
    Expired,
    /// The connection is closed without an answer.
    Cut,
    /// Lists show what there was when the fault was made, and watches show nothing new until it is cleared, as from an
    /// API server that lags behind. Reads of single objects are not affected.
    Stale,
}

/// The proxy; ends when dropped.
pub struct Proxy {
    state: Arc<State>,
    kubeconfig: PathBuf,
    address: SocketAddr,
    space: Namespace,
    _task: Task,
}

/// What its connections share.
struct State {
    upstream: Api,
    rules: Mutex<Rules>,
    /// Tells which watches are to end.
    closing: broadcast::Sender<Calls>,
    /// Counts the calls to [`Proxy::clear`].
    cleared: signal::Sender<u64>,
}

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    seen: BTreeMap<Call, u64>,
}

struct Rule {
    calls: Calls,
    fault: Fault,
    /// How many more calls; `None` for all until cleared.
    times: Option<u64>,
    /// For [`Fault::Stale`]: the resourceVersion at which time stands still.
    version: String,
}

impl Proxy {
    /// Starts it in `space`, in front of `upstream`; its kubeconfig goes into `dir`.
    pub(super) fn start(space: &Namespace, upstream: Api, dir: &Path) -> anyhow::Result<Self> {
        static COUNT: atomic::AtomicU32 = atomic::AtomicU32::new(1);
        let listener = space.enter(|| TcpListener::bind("127.0.0.1:0")).context("listen for the proxy's clients")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let n = COUNT.fetch_add(1, atomic::Ordering::Relaxed);
        let path = dir.join(format!("proxy-{n}.kubeconfig"));
        let text = kubeconfig(&format!("http://{address}"), None, &json!({}));
        fs::write(&path, format!("{text:#}\n")).with_context(|| format!("write {}", path.display()))?;
        let (closing, _) = broadcast::channel(CLOSINGS);
        let (cleared, _) = signal::channel(0);
        let state = Arc::new(State { upstream, rules: Mutex::default(), closing, cleared });
        let serving = Arc::clone(&state);
        let task = space.spawn("proxy", move || serve(listener, serving));
        Ok(Self { state, kubeconfig: path, address, space: Namespace::open(space.name())?, _task: task })
    }

    /// A kubeconfig that leads through it, from the namespace that it was started in.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where it listens, in that namespace.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client that goes through it.
    ///
    /// # Errors
    /// None is known.
    pub fn api(&self) -> anyhow::Result<Api> {
        Ok(Api::plain(Namespace::open(self.space.name())?, self.address))
    }

    /// From now on, these calls fail so.
    ///
    /// # Errors
    /// [`Fault::Stale`] asks the API server what time it is; it did not answer.
    pub fn fault(&self, calls: Calls, fault: Fault) -> anyhow::Result<()> {
        self.add(calls, fault, None)
    }

    /// The next `times` of these calls fail so.
    ///
    /// # Errors
    /// As [`Proxy::fault`].
    pub fn fault_times(&self, times: u64, calls: Calls, fault: Fault) -> anyhow::Result<()> {
        self.add(calls, fault, Some(times))
    }

    fn add(&self, calls: Calls, fault: Fault, times: Option<u64>) -> anyhow::Result<()> {
        let stale = fault == Fault::Stale;
        let version = if stale { self.state.version()? } else { String::new() };
        self.state.rules().rules.push(Rule { calls: calls.clone(), fault, times, version });
        if stale {
            // What is open would go on telling the news.
            self.close_watches(calls);
        }
        Ok(())
    }

    /// Ends every fault.
    pub fn clear(&self) {
        self.state.rules().rules.clear();
        self.state.cleared.send_modify(|n| *n += 1);
    }

    /// Ends the watches of these calls that are open, in order, as the API server does now and then.
    pub fn close_watches(&self, calls: Calls) {
        // Nobody may be watching.
        let _ = self.state.closing.send(calls);
    }

    /// How many of these calls have come.
    #[must_use]
    pub fn count(&self, calls: &Calls) -> u64 {
        self.state.rules().seen.iter().filter(|(call, _)| calls.has(call)).map(|(_, n)| n).sum()
    }
}

impl State {
    /// Counts a call, and says what happens to it; with the resourceVersion for a stale one.
    fn decide(&self, call: &Call) -> Option<(Fault, String)> {
        let mut rules = self.rules();
        *rules.seen.entry(call.clone()).or_default() += 1;
        let rule = rules.rules.iter_mut().rev().find(|r| r.times != Some(0) && r.calls.has(call))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some((rule.fault.clone(), rule.version.clone()))
    }

    /// The resourceVersion of now.
    fn version(&self) -> anyhow::Result<String> {
        let list = self.upstream.get("/api/v1/namespaces?limit=1")?;
        Ok(list["metadata"]["resourceVersion"].as_str().context("the list has no resourceVersion")?.to_owned())
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        let service = service_fn(move |request| forward::forward(Arc::clone(&state), request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A connection that ends early is the client's business, or a fault that was asked for.
        tokio::spawn(async move { drop(connection.await) });
    }
}
