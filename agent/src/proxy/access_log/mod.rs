//! The access log: a line for each request that is over, or for some of them.
//!
//! In: what is noted of a request while it is served ([`Line`]), and what became of it. Out: [`Entry`]s, over a bounded channel, to a
//! thread of its own ([`writer`]) that gives them their form and writes them.
//!
//! # Design
//! - A worker never waits and formats nothing: an entry for which the channel has no room is thrown away and counted.
//! - Whether a request is logged is drawn when it begins, so that one which is not costs nothing; where errors are logged in any case,
//!   what is noted is shared with the head and not copied until it is known.
//! - What clients wrote is cut at bounds ([`entry`]), so that the channel has one; and written so that it can neither end a line nor
//!   pretend to be another field.
//! - Never logged: credentials, cookies, bodies, any header but those named in [`Line`]. The query of a target is left out unless it is
//!   asked for: tokens are often in it.
mod entry;
mod format;
mod writer;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header};

use self::entry::Entry;
pub(super) use self::entry::Outcome;
pub use self::{format::LineFormat, writer::Writer};
use super::{exchange::Connection, router::Site};
use crate::model::http::HttpRule;

/// Entries that may wait to be written. Beyond it they are dropped and counted. An entry has some 8 KiB at most.
const WAITING: usize = 4096;

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// The form of a line.
    pub format: LineFormat,
    /// Which part of the requests, 0 to 1.
    pub sample: f64,
    /// Those that failed in any case.
    pub errors: bool,
    /// Targets with their queries.
    pub query: bool,
    /// The file; `None` for standard output.
    pub file: Option<PathBuf>,
}

/// An access log that is open.
#[derive(Clone, Debug)]
pub struct AccessLog {
    entries: SyncSender<Box<Entry>>,
    sample: f64,
    errors: bool,
    query: bool,
    counts: Arc<LogCounts>,
}

/// What became of its lines.
#[derive(Debug, Default)]
pub struct LogCounts {
    /// Those that were written.
    pub written: AtomicU64,
    /// Those for which there was no room, or that could not be written.
    pub dropped: AtomicU64,
}

impl AccessLog {
    /// Opens it, and starts the thread that writes it.
    ///
    /// # Errors
    /// The file cannot be opened, or the system refuses a thread.
    pub fn start(settings: LogSettings) -> io::Result<(Self, Writer)> {
        Self::start_with(settings, WAITING)
    }

    /// The same with room for so many entries.
    fn start_with(settings: LogSettings, waiting: usize) -> io::Result<(Self, Writer)> {
        let LogSettings { format, sample, errors, query, file } = settings;
        let (entries, receiver) = sync_channel(waiting);
        let counts = Arc::<LogCounts>::default();
        let writer = Writer::start(receiver, format, file, Arc::clone(&counts))?;
        Ok((Self { entries, sample, errors, query, counts }, writer))
    }

    /// What became of its lines.
    #[must_use]
    pub(super) fn counts(&self) -> &Arc<LogCounts> {
        &self.counts
    }

    /// What is noted of a request that begins; `None` where it is not logged, whatever becomes of it.
    pub(super) fn begin<B>(&self, connection: &Arc<Connection>, request: &Request<B>) -> Option<Box<Line>> {
        let is_sampled = self.sample >= 1.0 || fastrand::f64() < self.sample;
        if !is_sampled && !self.errors {
            return None;
        }
        let field = |name| request.headers().get(name).cloned();
        Some(Box::new(Line {
            is_sampled,
            connection: Arc::clone(connection),
            at: SystemTime::now(),
            method: request.method().clone(),
            target: request.uri().clone(),
            version: request.version(),
            authority: field(header::HOST),
            client: None,
            user_agent: field(header::USER_AGENT),
            referer: field(header::REFERER),
            request_id: None,
            rule: None,
            listener: None,
        }))
    }
}

/// What is noted of a request while it is served. All of it is shared with others, or short.
#[derive(Debug)]
pub(super) struct Line {
    /// It is logged, whatever becomes of it.
    is_sampled: bool,
    connection: Arc<Connection>,
    at: SystemTime,
    method: Method,
    target: Uri,
    version: Version,
    authority: Option<HeaderValue>,
    /// Whom proxies that the Gateway trusts name.
    client: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    rule: Option<Arc<HttpRule>>,
    listener: Option<Box<str>>,
}

impl Line {
    /// Notes who the client is, as its head says in the one form.
    pub(super) fn client(&mut self, headers: &HeaderMap) {
        self.client = headers.get("x-real-ip").cloned();
    }

    /// Notes the rule, and the listener that has the host.
    pub(super) fn routed(&mut self, rule: &Arc<HttpRule>, site: Option<&Arc<Site>>, host: &str) {
        self.rule = Some(Arc::clone(rule));
        let listener = site.and_then(|site| site.listeners().get(site.listener_of(Some(host))?));
        self.listener = listener.map(|listener| listener.name.as_str().into());
    }

    /// Notes the request's name.
    pub(super) fn request_id(&mut self, headers: &HeaderMap) {
        self.request_id = headers.get("x-request-id").cloned();
    }

    /// Logs it, where it is logged.
    pub(super) fn end(self, outcome: Outcome) {
        if !self.is_sampled && !outcome.is_error() {
            return;
        }
        let shared = Arc::clone(&self.connection.shared);
        let Some(log) = &shared.settings.access_log else { return };
        if log.entries.try_send(Box::new(Entry::of(self, outcome, log.query))).is_err() {
            log.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_room_is_dropped_and_counted() {
        let (entries, receiver) = sync_channel::<Box<Entry>>(1);
        let counts = Arc::<LogCounts>::default();
        let log = AccessLog { entries, sample: 1.0, errors: false, query: false, counts };
        let send = || log.entries.try_send(Box::new(Entry::default())).is_ok();
        assert!(send() && !send(), "the second finds no room");
        assert!(receiver.try_recv().is_ok() && send());
    }
}
