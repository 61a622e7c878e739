//! One rule of a HTTPRoute -> its matches and what is done.
//!
//! What cannot be obeyed is never ignored: a match that makes no sense is dropped, a filter that is not served makes
//! the rule answer 500, a backend that cannot be used makes its share answer 500; each with a [`Fault`].
use std::{cell::RefCell, collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};

use super::{
    Port, Proto,
    backend_ref::{self, Referrer},
    filter::{self, Place},
    grants::Grants,
    http::{
        Action, Cluster, HttpMatch, HttpRule, Pattern, ServicePort, Share, ShareTarget, Timeouts, Transport, claim,
        matching::{HeaderMatch, PathMatch, ValueMatch},
        path,
        query::QueryMatch,
    },
    policy::Attached,
    report::Fault,
    retry, session,
};
use crate::{
    api::{
        HttpRoute, ObjectName, RouteKind, Service,
        http_route::{HttpBackendRef, HttpRouteMatch, HttpRouteRule, HttpRouteTimeouts, HttpValueMatch},
        service,
    },
    source::Snapshot,
};

/// What a [`Fault`] of a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A parent.
    Parent,
    /// A host name of the route.
    Hostname,
    /// What a rule, counted from 0, asks for.
    Rule(usize),
    /// A backend that a rule refers to.
    Backend,
}

/// What in a route is not obeyed, in the order in which it is written.
pub type Faults = Vec<(About, Fault)>;

/// A rule with the matches that lead to it.
#[derive(Debug)]
pub struct CompiledRule {
    /// One of these must hold.
    pub matches: Vec<Arc<HttpMatch>>,
    /// What is done.
    pub rule: Arc<HttpRule>,
}

/// What the references of a route are looked up in.
#[derive(Debug)]
pub struct World<'a> {
    /// The objects.
    pub snapshot: &'a Snapshot,
    /// Which of them other namespaces may refer to.
    pub grants: Grants<'a>,
    /// Which Service ports are spoken to under TLS.
    pub policies: Arc<Attached>,
    /// What was looked up since [`World::looked_up`] was asked last.
    asked: RefCell<Asked>,
}

/// What the rules of a route were looked up in: they are compiled the same while it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// The Services, whether or not they exist, and with them whatever is said about a Service by others.
    pub services: Box<[ObjectName]>,
    /// Whether some reference leads to another namespace, so that ReferenceGrants count.
    pub crosses: bool,
}

/// [`References`] while they are taken down.
#[derive(Debug, Default)]
struct Asked {
    services: BTreeSet<ObjectName>,
    crosses: bool,
}

impl<'a> World<'a> {
    /// A snapshot with its grants, and where its policies are attached.
    #[must_use]
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self::with(snapshot, Arc::new(Attached::of(&snapshot.backend_tls_policies, &snapshot.services)))
    }

    /// The same, where its policies are attached like this.
    #[must_use]
    pub fn with(snapshot: &'a Snapshot, policies: Arc<Attached>) -> Self {
        Self { snapshot, grants: Grants::of(snapshot), policies, asked: RefCell::default() }
    }

    /// Takes down that a rule of a route in namespace `ns` depends on a Service.
    pub fn look_up(&self, ns: &str, service: &ObjectName) {
        let mut asked = self.asked.borrow_mut();
        asked.crosses |= service.ns != ns;
        if !asked.services.contains(service) {
            asked.services.insert(service.clone());
        }
    }

    /// What was looked up since the last time.
    pub fn looked_up(&self) -> References {
        let Asked { services, crosses } = self.asked.take();
        References { services: services.into_iter().collect(), crosses }
    }
}

/// Compiles the rules of a route, in order.
#[must_use]
pub fn compile(world: &World<'_>, name: &ObjectName, route: &HttpRoute, faults: &mut Faults) -> Vec<CompiledRule> {
    let default = [HttpRouteRule::default()];
    // As the API server defaults it: one rule that matches everything.
    let rules = if route.spec.rules.is_empty() { &default[..] } else { &route.spec.rules };
    let mut names = BTreeSet::new();
    for (index, name) in rules.iter().enumerate().filter_map(|(index, rule)| Some((index, rule.name.as_deref()?))) {
        if !names.insert(name) {
            let why = format!("rule {index}: another rule of the route is named {name:?}, want names that differ");
            faults.push((About::Rule(index), Fault::new("UnsupportedValue", why)));
        }
    }
    rules.iter().enumerate().map(|(i, rule)| compile_one(world, name, i, rule, faults)).collect()
}

fn compile_one(
    world: &World<'_>,
    route: &ObjectName,
    index: usize,
    spec: &HttpRouteRule,
    faults: &mut Faults,
) -> CompiledRule {
    let place = format!("rule {index}");
    let mut matches = Vec::new();
    for spec in &spec.matches {
        match compile_match(spec) {
            Ok(one) => matches.push(Arc::new(one)),
            Err(fault) => faults.push((About::Rule(index), fault.at(&place))),
        }
    }
    if spec.matches.is_empty() {
        matches.push(Arc::new(HttpMatch {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            call: None,
        }));
    }
    let from = Referrer { kind: RouteKind::Http, route };
    finish(world, from, (index, matches), spec, faults)
}

/// A rule that answers every request with 500, for it cannot be obeyed.
pub(super) fn refused(
    from: Referrer<'_>,
    (index, matches): (usize, Vec<Arc<HttpMatch>>),
    fault: Fault,
    faults: &mut Faults,
) -> CompiledRule {
    let rule = HttpRule {
        kind: from.kind,
        route: from.route.clone(),
        index,
        name: None,
        filters: Vec::new(),
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        action: Action::Refuse(fault.message.clone()),
    };
    faults.push((About::Rule(index), fault.at(&format!("rule {index}"))));
    CompiledRule { matches, rule: Arc::new(rule) }
}

/// What is done with the requests that match: the same for rules of HTTPRoutes and of GRPCRoutes.
pub(super) fn finish(
    world: &World<'_>,
    from: Referrer<'_>,
    (index, matches): (usize, Vec<Arc<HttpMatch>>),
    spec: &HttpRouteRule,
    faults: &mut Faults,
) -> CompiledRule {
    let place = format!("rule {index}");
    let session = spec.session_persistence.as_ref().map(|spec| session::compile(world, from, index, spec));
    let session = session.transpose().unwrap_or_else(|fault| {
        faults.push((About::Rule(index), fault.at(&place)));
        None
    });
    let retry = spec.retry.as_ref().map(retry::compile).transpose().unwrap_or_else(|fault| {
        faults.push((About::Rule(index), fault.at(&place)));
        None
    });
    let mut rule = HttpRule {
        kind: from.kind,
        route: from.route.clone(),
        index,
        name: spec.name.clone(),
        filters: Vec::new(),
        timeouts: Timeouts::default(),
        retry,
        session: session.map(Arc::new),
        action: Action::Refuse("the rule has no backendRefs".to_owned()),
    };
    let prefixes = matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_)));
    let filters = filter::compile(&spec.filters, Place::Rule, prefixes, |to| backend(world, from, to));
    let timeouts = timeouts(spec.timeouts.as_ref());
    match filters.and_then(|f| timeouts.map(|t| (f, t))) {
        Err(fault) => {
            rule.action = Action::Refuse(fault.message.clone());
            faults.push((About::Rule(index), fault.at(&place)));
        }
        Ok((filters, timeouts)) => {
            rule.timeouts = timeouts;
            rule.filters = filters.list;
            faults.extend(filters.unresolved.into_iter().map(|fault| (About::Backend, fault.at(&place))));
            if let Some(redirect) = filters.redirect {
                rule.action = Action::Redirect(redirect);
            } else if !spec.backend_refs.is_empty() {
                let share = |spec| share(world, from, (index, prefixes), spec, faults);
                rule.action = Action::Forward(spec.backend_refs.iter().map(share).collect());
            }
        }
    }
    CompiledRule { matches, rule: Arc::new(rule) }
}

/// One backendRef. `prefixes` says whether every match of the rule, which is the `index`th, is a path prefix.
fn share(
    world: &World<'_>,
    from: Referrer<'_>,
    (index, prefixes): (usize, bool),
    spec: &HttpBackendRef,
    faults: &mut Faults,
) -> Share {
    let weight = backend_ref::weight(spec.weight);
    let found = backend(world, from, spec).map_err(|fault| (About::Backend, fault)).and_then(|cluster| {
        let filters = filter::compile(&spec.filters, Place::Backend, prefixes, |to| backend(world, from, to));
        let filters = filters.map_err(|fault| (About::Rule(index), fault))?;
        let at = |fault: Fault| (About::Backend, fault.at(&format!("rule {index}")));
        faults.extend(filters.unresolved.into_iter().map(at));
        Ok(Share { weight, to: ShareTarget::Cluster(cluster), filters: filters.list })
    });
    found.unwrap_or_else(|(about, fault)| {
        let to = ShareTarget::Invalid(fault.message.clone());
        faults.push((about, fault.at(&format!("rule {index}"))));
        Share { weight, to, filters: Vec::new() }
    })
}

/// The cluster that a reference names. A reference across namespaces is refused whether or not it exists.
fn backend(world: &World<'_>, from: Referrer<'_>, spec: &HttpBackendRef) -> Result<Cluster, Fault> {
    let (port, found) = backend_ref::resolve(world, from, spec.into(), Proto::Tcp)?;
    // gRPC is HTTP/2: where a port says nothing it is meant.
    let unsaid = if from.kind == RouteKind::Grpc { Transport::Http2 } else { Transport::Http1 };
    let has_tls = world.policies.get(&port).is_some();
    cluster(port, found.app_protocol.as_deref(), unsaid, has_tls)
}

/// The endpoints of a Service port, spoken to as `appProtocol` says, and as `unsaid` where it says nothing; under TLS where
/// the port has a policy.
///
/// # Errors
/// It names what is not spoken.
pub(super) fn cluster(
    port: ServicePort,
    app_protocol: Option<&str>,
    unsaid: Transport,
    has_tls: bool,
) -> Result<Cluster, Fault> {
    let Some(transport) = Transport::of(app_protocol, unsaid, has_tls) else {
        if Transport::is_secured(app_protocol) {
            let why = format!(
                "Service {} port {}: appProtocol {:?} needs TLS, want a BackendTLSPolicy for the port: nobody says whose \
                 certificate it has",
                port.service,
                port.port,
                app_protocol.unwrap_or_default()
            );
            return Err(Fault::new("UnsupportedProtocol", why));
        }
        let (named, spoken) = (app_protocol.unwrap_or_default(), Transport::SPOKEN);
        let why = format!(
            "Service {} port {}: appProtocol {named:?} is not spoken, want one of {spoken:?} or none",
            port.service, port.port
        );
        return Err(Fault::new("UnsupportedProtocol", why));
    };
    Ok(Cluster { port, transport })
}

/// The TCP port of a Service with this number.
#[must_use]
pub fn service_port(service: &Service, port: Port) -> Option<&service::ServicePort> {
    backend_ref::port_of(service, port, Proto::Tcp)
}

/// The methods that a match may name. Source: `HTTPMethod` of the Gateway API.
pub(super) const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

pub(super) fn join(methods: &[Method]) -> String {
    methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ")
}

fn compile_match(spec: &HttpRouteMatch) -> Result<HttpMatch, Fault> {
    let bad = |what: String| Fault::new("UnsupportedValue", what);
    let method = match spec.method.as_deref() {
        None | Some("") => None,
        Some("TRACE") => return Err(bad("method TRACE matches nothing: it is never served".to_owned())),
        Some(text) => {
            let found = METHODS.iter().find(|method| method.as_str() == text);
            Some(found.cloned().ok_or_else(|| bad(format!("method {text:?}, want one of {}", join(&METHODS))))?)
        }
    };
    let headers = header_matches(&spec.headers)?;
    let mut seen = BTreeSet::new();
    let mut query = Vec::new();
    for one in spec.query_params.iter().filter(|one| seen.insert(one.name.as_str())) {
        query.push(QueryMatch { name: one.name.clone(), value: value(one, |text| Ok(text.to_owned()))? });
    }
    let path = path_match(spec)?;
    if method == Some(Method::CONNECT) && (path != PathMatch::Prefix(String::new()) || !query.is_empty()) {
        let why = "method CONNECT has neither path nor query: want no path, or the prefix \"/\", and no queryParams";
        return Err(bad(why.to_owned()));
    }
    Ok(HttpMatch { path, method, headers, query, call: None })
}

/// The headers that a match wants, each name once.
pub(super) fn header_matches(specs: &[HttpValueMatch]) -> Result<Vec<HeaderMatch>, Fault> {
    let bad = |what: String| Fault::new("UnsupportedValue", what);
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for one in specs {
        let name = HeaderName::from_bytes(one.name.as_bytes())
            .map_err(|_| bad(format!("{:?} is no header name", one.name)))?;
        // What clients say about themselves is gone before rules see it, or replaced.
        if claim::is_claim(name.as_str()) && !claim::WRITTEN.contains(&name.as_str()) {
            let want = claim::WRITTEN.join(", ");
            return Err(bad(format!("header {name} matches nothing: the proxy removes it first; want one of {want}")));
        }
        // The first entry of a name wins.
        if headers.iter().all(|h| h.name != name) {
            let value = value(one, |text| {
                let why =
                    || bad(format!("header {name}: {text:?} is no header value, which begins and ends with no space"));
                let trimmed = text.trim_matches([' ', '\t']).len() == text.len();
                HeaderValue::from_str(text).ok().filter(|_| trimmed).ok_or_else(why)
            })?;
            headers.push(HeaderMatch { name, value });
        }
    }
    Ok(headers)
}

fn path_match(spec: &HttpRouteMatch) -> Result<PathMatch, Fault> {
    let bad = |what: String| Fault::new("UnsupportedValue", what);
    let (kind, text) = spec.path.as_ref().map_or((None, None), |p| (p.kind.as_deref(), p.value.as_deref()));
    let (kind, text) = (kind.unwrap_or("PathPrefix"), text.unwrap_or("/"));
    let normal = || {
        let normal = path::normalise(text).map_err(|e| bad(format!("path {text:?}: {e}")))?;
        // A request's path has none of these: it ends at a query or a fragment, and hyper refuses the others.
        match normal.find(['?', '#', '<', '>', '`']) {
            None => Ok(normal),
            Some(at) => Err(bad(format!("path {text:?} matches nothing: no path has {:?}", &normal[at..=at]))),
        }
    };
    match kind {
        "Exact" => Ok(PathMatch::Exact(normal()?.into_owned())),
        "PathPrefix" => Ok(PathMatch::Prefix(normal()?.trim_end_matches('/').to_owned())),
        "RegularExpression" => {
            Pattern::try_new(text).map(PathMatch::Regex).map_err(|e| bad(format!("path pattern {text:?}: {e}")))
        }
        other => Err(bad(format!("path type {other:?}, want \"Exact\", \"PathPrefix\" or \"RegularExpression\""))),
    }
}

fn value<T>(spec: &HttpValueMatch, exact: impl FnOnce(&str) -> Result<T, Fault>) -> Result<ValueMatch<T>, Fault> {
    match spec.kind.as_deref().unwrap_or("Exact") {
        "Exact" => exact(&spec.value).map(ValueMatch::Exact),
        "RegularExpression" => Pattern::try_new(&spec.value)
            .map(ValueMatch::Regex)
            .map_err(|e| Fault::new("UnsupportedValue", format!("{}: pattern {:?}: {e}", spec.name, spec.value))),
        other => Err(Fault::new(
            "UnsupportedValue",
            format!("{}: match type {other:?}, want \"Exact\" or \"RegularExpression\"", spec.name),
        )),
    }
}

fn timeouts(spec: Option<&HttpRouteTimeouts>) -> Result<Timeouts, Fault> {
    let read = |what: &str, text: Option<&String>| match text {
        None => Ok(None),
        Some(text) => match duration(text) {
            Some(d) => Ok(Some(d).filter(|d| !d.is_zero())),
            None => {
                Err(Fault::new("UnsupportedValue", format!("timeouts.{what} {text:?}, want for example \"1m30s\"")))
            }
        },
    };
    let Some(spec) = spec else { return Ok(Timeouts::default()) };
    Ok(Timeouts {
        request: read("request", spec.request.as_ref())?,
        backend: read("backendRequest", spec.backend_request.as_ref())?,
    })
}

/// Reads a Gateway API duration: one to four of `<1 to 5 digits><h|m|s|ms>`. Source: GEP-2257.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|_| (1..=5).contains(&digits))?.parse().ok()?;
        rest = &rest[digits..];
        let (unit, millis) = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        total += Duration::from_millis(number * millis);
        rest = &rest[unit.len()..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_as_the_api_has_them() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("500ms", Some(ms(500))),
            ("0s", Some(ms(0))),
            ("1m30s", Some(ms(90_000))),
            ("1h2m3s4ms", Some(ms(3_723_004))),
            ("1h1h1h1h1h", None),
            ("", None),
            ("10", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("123456s", None),
        ] {
            assert_eq!(duration(text), want, "{text:?}");
        }
    }
}
