//! The rules as people read them: what `sluice routes` shows.
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        ObjectRef,
        stream_route::{StreamEntry, StreamShare, StreamTarget},
    },
    Action, Filter, Hostname, HttpEntry, HttpListener, HttpModel, HttpRule, PathChange, Retry, ServicePort, Share,
    ShareTarget,
    filter::Mirror,
    session::SessionPlace,
};
use crate::{
    api::{ObjectName, RouteKind},
    model::backend_tls::PortTls,
};

/// One entry of one listener. Rows of a listener are in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// Where clients dial it.
    pub frontends: Vec<SocketAddr>,
    /// The Gateway, `namespace/name`.
    pub gateway: String,
    /// The listener's name.
    pub listener: String,
    /// The host name as the route has it; that of the listener where the route has none.
    pub hostname: String,
    /// What must hold: `TLS` of a TLSRoute, whose connections are told apart by the host name alone; else method, path (`=` exact, `~` pattern, `/*` prefix), headers, `?` query parameters.
    pub matches: String,
    /// The route's kind.
    #[serde(default)]
    pub kind: String,
    /// The route, `namespace/name`.
    pub route: String,
    /// Which of its rules, from 0. A TLSRoute has one.
    pub rule: usize,
    /// The rule's name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<String>,
    /// What is changed on the way, or answered, in words.
    pub actions: Vec<String>,
    /// Who gets which share.
    pub backends: Vec<BackendRow>,
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    /// The Service port, `namespace/name:port`, and how it is spoken to where that is not HTTP/1.1 in clear text; empty when the
    /// reference is bad.
    pub service: String,
    /// Its weight.
    pub weight: u32,
    /// The endpoints that get requests.
    pub ready: Vec<SocketAddr>,
    /// Those among them that are passed over for a while, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ejected: BTreeMap<SocketAddr, String>,
    /// Why requests for it are answered with 500, and connections of a TLSRoute end.
    pub fault: Option<String>,
}

impl HttpModel {
    /// All entries of all listeners, each listener once however many addresses it has.
    #[must_use]
    pub fn rows(&self) -> Vec<RouteRow> {
        self.rows_where(|_, _| true)
    }

    /// Those of one route.
    #[must_use]
    pub fn rows_of(&self, route: &ObjectRef) -> Vec<RouteRow> {
        self.rows_where(|kind, name| kind.name() == route.kind && *name == route.object)
    }

    fn rows_where(&self, is_meant: impl Fn(RouteKind, &ObjectName) -> bool) -> Vec<RouteRow> {
        let mut groups: Vec<(Vec<SocketAddr>, &Arc<Vec<HttpListener>>)> = Vec::new();
        for (frontend, listeners) in &self.frontends {
            let frontend = &self.dialled(*frontend);
            match groups.iter_mut().find(|(_, seen)| Arc::ptr_eq(seen, listeners)) {
                Some((frontends, _)) => frontends.push(*frontend),
                None => groups.push((vec![*frontend], listeners)),
            }
        }
        let mut rows = Vec::new();
        for (frontends, listeners) in groups {
            for listener in listeners.iter() {
                let entries = listener.entries.iter().filter(|entry| is_meant(entry.rule.kind, &entry.rule.route));
                rows.extend(entries.map(|entry| self.row(&frontends, listener, entry)));
                let streams = listener.streams.iter().flat_map(|streams| streams.iter());
                let streams = streams.filter(|entry| is_meant(entry.kind, &entry.route));
                let names = streams.flat_map(|entry| entry.hostnames.iter().map(move |hostname| (hostname, entry)));
                let mut names: Vec<(&Hostname, &StreamEntry)> = names.collect();
                // Of two with one name the older one's counts, which is the first.
                names.sort_by_key(|(hostname, _)| *hostname);
                rows.extend(names.into_iter().map(|(name, entry)| self.stream_row(&frontends, listener, name, entry)));
            }
        }
        rows
    }

    /// A TLSRoute at one of its host names.
    #[must_use]
    pub fn stream_row(
        &self,
        frontends: &[SocketAddr],
        listener: &HttpListener,
        hostname: &Hostname,
        entry: &StreamEntry,
    ) -> RouteRow {
        let hostname = if *hostname == Hostname::Any { &listener.hostname } else { hostname };
        let (how, is_ended) = match listener.tls {
            Some(_) => ("terminate TLS", true),
            None => ("pass TLS through", false),
        };
        let backend = |StreamShare { weight, to }: &StreamShare| {
            let (service, ready, fault) = match to {
                StreamTarget::Service(port) => {
                    let transport = if is_ended { self.transport(&listener.gateway, port) } else { Ok(String::new()) };
                    let (how, fault) = transport.map_or_else(|why| (String::new(), Some(why)), |how| (how, None));
                    (format!("{port}{how}"), self.addresses(port), fault)
                }
                StreamTarget::Invalid(why) => (String::new(), Vec::new(), Some(why.clone())),
            };
            BackendRow { service, weight: *weight, ready, ejected: BTreeMap::new(), fault }
        };
        RouteRow {
            frontends: frontends.to_vec(),
            gateway: listener.gateway.to_string(),
            listener: listener.name.clone(),
            hostname: hostname.to_string(),
            matches: "TLS".to_owned(),
            kind: entry.kind.name().to_owned(),
            route: entry.route.to_string(),
            rule: 0,
            rule_name: None,
            actions: vec![how.to_owned()],
            backends: entry.shares.iter().map(backend).collect(),
        }
    }

    /// One entry of a listener.
    #[must_use]
    pub fn row(&self, frontends: &[SocketAddr], listener: &HttpListener, entry: &HttpEntry) -> RouteRow {
        let hostname = if entry.hostname == Hostname::Any { &listener.hostname } else { &entry.hostname };
        RouteRow {
            frontends: frontends.to_vec(),
            gateway: listener.gateway.to_string(),
            listener: listener.name.clone(),
            hostname: hostname.to_string(),
            matches: entry.matches.to_string(),
            kind: entry.rule.kind.name().to_owned(),
            route: entry.rule.route.to_string(),
            rule: entry.rule.index,
            rule_name: entry.rule.name.clone(),
            actions: actions(&entry.rule),
            backends: self.backend_rows(&listener.gateway, &entry.rule),
        }
    }

    fn backend_rows(&self, gateway: &ObjectName, rule: &HttpRule) -> Vec<BackendRow> {
        let Action::Forward(shares) = &rule.action else { return Vec::new() };
        let row = |Share { weight, to, filters: _ }: &Share| match to {
            ShareTarget::Cluster(cluster) => {
                let (how, fault) = match self.transport(gateway, &cluster.port) {
                    Ok(how) => (how, None),
                    Err(why) => (String::new(), Some(why)),
                };
                let (service, ready) = (format!("{cluster}{how}"), self.addresses(&cluster.port));
                BackendRow { service, weight: *weight, ready, ejected: BTreeMap::new(), fault }
            }
            ShareTarget::Invalid(fault) => BackendRow {
                service: String::new(),
                weight: *weight,
                ready: Vec::new(),
                ejected: BTreeMap::new(),
                fault: Some(fault.clone()),
            },
        };
        shares.iter().map(row).collect()
    }

    /// The rules of a route; some may be there twice.
    pub fn rules_of<'a>(&'a self, route: &'a ObjectRef) -> impl Iterator<Item = &'a Arc<HttpRule>> {
        let rules = self.frontends.values().flat_map(|all| all.iter()).flat_map(|listener| listener.entries.iter());
        let rules = rules.map(|entry| &entry.rule);
        rules.filter(|rule| rule.kind.name() == route.kind && rule.route == route.object)
    }

    /// How a Gateway speaks to the endpoints of a port beside what the cluster says: nothing in clear text.
    ///
    /// # Errors
    /// It does not; the text says why.
    fn transport(&self, gateway: &ObjectName, port: &ServicePort) -> Result<String, String> {
        let told = self.balances.get(port).and_then(|balance| balance.proxy_protocol);
        let told = told.map_or_else(String::new, |version| format!(" (PROXY protocol {version})"));
        let Some(PortTls { policy, tls }) = self.tls.get(port) else { return Ok(told) };
        let tls = tls.as_ref().map_err(Clone::clone)?;
        let certificate = match self.identities.get(gateway) {
            None => String::new(),
            Some(identity) => format!(", as {}", identity.certificate.as_ref().map_err(Clone::clone)?.secret),
        };
        Ok(format!("{told} (TLS {}{certificate} by BackendTLSPolicy {policy})", tls.server_name))
    }

    /// The endpoints of a Service port that get requests.
    #[must_use]
    pub fn addresses(&self, service: &super::ServicePort) -> Vec<SocketAddr> {
        let backends = self.services.get(service).map_or(&[][..], |backends| backends.as_slice());
        backends.iter().map(|b| SocketAddr::new(b.addr, b.port.get())).collect()
    }
}

impl RouteRow {
    /// The rule for people: `namespace/name#index`, and its name.
    #[must_use]
    pub fn place(&self) -> String {
        let name = self.rule_name.iter().map(|name| format!(" ({name})")).collect::<String>();
        format!("{}#{}{name}", self.route, self.rule)
    }

    /// Notes which of its endpoints are passed over, of all that are.
    pub fn note(&mut self, ejected: &BTreeMap<SocketAddr, String>) {
        for backend in &mut self.backends {
            let of_this = backend.ready.iter().filter_map(|at| Some((*at, ejected.get(at)?.clone())));
            backend.ejected = of_this.collect();
        }
    }
}

fn changed(path: &PathChange) -> String {
    match path {
        PathChange::Full(path) => format!("path {path}"),
        PathChange::Prefix(prefix) => format!("prefix {prefix:?}"),
    }
}

/// What a filter does, in words: one entry for each thing that it changes.
fn words(filter: &Filter) -> Vec<String> {
    let (edits, of) = match filter {
        Filter::RequestHeaders(edits) => (edits, "request"),
        Filter::ResponseHeaders(edits) => (edits, "response"),
        Filter::Mirror(Mirror { to, numerator, denominator }) => {
            let part = if numerator == denominator { String::new() } else { format!("{numerator} of {denominator} ") };
            return vec![format!("mirror {part}to {to}")];
        }
        Filter::Cors(_) => return vec!["answer CORS".to_owned()],
        Filter::Rewrite(to) => {
            let host = to.hostname.iter().map(|h| format!("rewrite host {}", String::from_utf8_lossy(h.as_bytes())));
            return host.chain(to.path.iter().map(|p| format!("rewrite {}", changed(p)))).collect();
        }
    };
    let set = edits.set.iter().map(|(name, _)| format!("set {of} header {name}"));
    let add = edits.add.iter().map(|(name, _)| format!("add {of} header {name}"));
    let remove = edits.remove.iter().map(|name| format!("remove {of} header {name}"));
    set.chain(add).chain(remove).collect()
}

/// How often and after what a request is sent again.
fn retries(retry: &Retry) -> String {
    let often = match retry.attempts {
        0 => return "never retried".to_owned(),
        1 => "retried once".to_owned(),
        most => format!("retried up to {most} times"),
    };
    let codes: Vec<String> = retry.codes.iter().map(ToString::to_string).collect();
    if codes.is_empty() { often } else { format!("{often} for {}", codes.join(", ")) }
}

fn actions(rule: &HttpRule) -> Vec<String> {
    let mut out: Vec<String> = rule.filters.iter().flat_map(words).collect();
    out.extend(rule.timeouts.request.iter().map(|t| format!("request timeout {t:?}")));
    out.extend(rule.timeouts.backend.iter().map(|t| format!("backend timeout {t:?}")));
    out.extend(rule.retry.iter().map(retries));
    out.extend(rule.session.iter().map(|session| match &session.place {
        SessionPlace::Cookie { name, path: _, is_permanent: false } => format!("session by cookie {name}"),
        SessionPlace::Cookie { name, path: _, is_permanent: true } => format!("session by permanent cookie {name}"),
        SessionPlace::Header(name) => format!("session by header {name}"),
    }));
    match &rule.action {
        Action::Forward(_) => {}
        Action::Redirect(to) => {
            let mut words = vec![format!("redirect {}", to.status.as_u16())];
            words.extend(to.scheme.map(|s| format!("scheme {s}")));
            words.extend(to.hostname.iter().map(|h| format!("host {h}")));
            words.extend(to.port.map(|p| format!("port {p}")));
            words.extend(to.path.iter().map(changed));
            out.push(words.join(", "));
        }
        Action::Refuse(why) => out.push(format!("answer 500: {why}")),
    }
    out
}
