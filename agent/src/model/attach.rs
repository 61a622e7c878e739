//! Which listeners a route is attached to, and what its parents answer: the same for routes of every kind.
//!
//! In: a route, whose rules are not looked at, and the listeners of all Gateways that are ours. Out: an [`Attachment`], which becomes the
//! route's verdict and report once its rules are compiled.
//!
//! A parent is answered by the first of these that leaves no listener: `NoMatchingParent` (name and port),
//! `NotAllowedByListeners` (kind and namespace), `NoMatchingListenerHostname`. The route is attached to those that are
//! left, and counted there whether or not they are served. Source: `RouteParentStatus` and `ListenerStatus`.
use std::collections::BTreeSet;

use super::{
    Outcome, Verdict,
    gateway::Listeners,
    http::Hostname,
    listener::{GROUP, Served},
    listener_set, mesh,
    report::{Fault, ParentReport, RouteReport, Subject},
    rule::{About, Faults},
};
use crate::{
    api::{ObjectName, Route, RouteKind, route::ParentRef},
    source::Snapshot,
};

/// Where a route is attached.
#[derive(Debug)]
pub struct Attachment {
    /// The route's host names; [`Hostname::Any`] when it has none, nothing when none of those it has is a host name.
    pub hostnames: Vec<Hostname>,
    /// The listeners: the Gateway, and which of its listeners.
    pub listeners: BTreeSet<(ObjectName, usize)>,
    /// The Gateways that were asked, whether or not they exist: the answer holds while their listeners are as they are.
    pub gateways: BTreeSet<ObjectName>,
    /// The Services that were asked, likewise.
    pub services: BTreeSet<ObjectName>,
    /// No parent is ours to answer for.
    pub is_foreign: bool,
    /// One parent at least serves it.
    is_served: bool,
    parents: Vec<ParentReport>,
    faults: Faults,
}

/// Asks the parents of a route.
pub(super) fn attach<T: Route>(snapshot: &Snapshot, name: &ObjectName, route: &T, listeners: &Listeners) -> Attachment {
    let mut faults = Faults::new();
    let hostnames = hostnames(route.hostnames(), &mut faults);
    let mut targets: BTreeSet<(ObjectName, usize)> = BTreeSet::new();
    let (mut gateways, mut services) = (BTreeSet::new(), BTreeSet::new());
    let (mut parents, mut foreign, mut is_served) = (Vec::with_capacity(route.parent_refs().len()), 0, false);
    for parent in route.parent_refs() {
        let named = ObjectName::new(parent.namespace.as_deref().unwrap_or(&name.ns), &parent.name);
        let mut gateway = ObjectName::default();
        let answer = if mesh::is_service(parent) && matches!(T::ROUTE, RouteKind::Http | RouteKind::Grpc) {
            gateway = mesh::owner(&named);
            services.insert(named.clone());
            let answer = mesh::attach((snapshot, listeners), name, (&named, parent));
            answer.map_or_else(|fault| Answer::No(fault, Vec::new()), Answer::Attached)
        } else {
            place(snapshot, parent, &named).map_or_else(std::convert::identity, |(of, is_set)| {
                gateway = of;
                let (kind, ns, set) = (T::ROUTE, name.ns.as_str(), is_set.then_some(&named));
                Asked { kind, ns, parent, gateway: &gateway, set, hostnames: &hostnames }.answer(snapshot, listeners)
            })
        };
        gateways.insert(gateway.clone());
        let (attached, accepted) = match answer {
            Answer::Attached(indices) => (indices, Ok(())),
            Answer::No(fault, indices) => (indices, Err(fault)),
            Answer::Missing(fault) => {
                faults.push((About::Parent, fault));
                continue;
            }
            Answer::Foreign => {
                foreign += 1;
                continue;
            }
        };
        is_served |= accepted.is_ok();
        faults.extend(accepted.clone().err().map(|fault| (About::Parent, fault)));
        targets.extend(attached.into_iter().map(|i| (gateway.clone(), i)));
        parents.push(ParentReport { parent: parent.clone(), accepted });
    }
    let is_foreign = foreign == route.parent_refs().len();
    Attachment { hostnames, listeners: targets, gateways, services, is_foreign, is_served, parents, faults }
}

impl Attachment {
    /// What became of the route, whose rules, so many of them, had these faults.
    pub(super) fn conclude(self, subject: Subject, rules: usize, of_rules: Faults) -> (Verdict, RouteReport) {
        let Self { hostnames, listeners: _, gateways: _, services: _, is_foreign, is_served, parents, mut faults } =
            self;
        if is_foreign {
            let messages = vec!["no parentRef names a Gateway of ours, or a Service".to_owned()];
            let verdict = Verdict { outcome: Outcome::Ignored, reason: "NoMatchingParent", messages };
            return (verdict, RouteReport { subject, resolved: Ok(()), partial: None, parents });
        }
        faults.extend(of_rules);
        let report = report(subject, parents, hostnames.len(), rules, &faults);
        let outcome = match (is_served, faults.is_empty()) {
            (true, true) => Outcome::Accepted,
            (true, false) => Outcome::Partial,
            (false, _) => Outcome::Refused,
        };
        let reason = faults.first().map_or("Accepted", |(_, f)| f.reason);
        (Verdict { outcome, reason, messages: faults.into_iter().map(|(_, f)| f.message).collect() }, report)
    }
}

/// Sorts what is not obeyed into conditions: references apart; a route of which nothing is obeyed is not accepted, one of
/// which a part is not is partially invalid.
fn report(
    subject: Subject,
    mut parents: Vec<ParentReport>,
    hostnames: usize,
    rules: usize,
    faults: &Faults,
) -> RouteReport {
    let (mut of_backends, mut own, mut bad_rules) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (about, fault) in faults {
        match about {
            About::Parent => {}
            About::Backend => of_backends.push(fault),
            About::Hostname => own.push(fault),
            About::Rule(index) => {
                own.push(fault);
                bad_rules.insert(*index);
            }
        }
    }
    let resolved = Fault::join(of_backends).map_or(Ok(()), Err);
    let mut partial = Fault::join(own);
    if (hostnames == 0 || bad_rules.len() == rules)
        && let Some(fault) = partial.take()
    {
        for parent in parents.iter_mut().filter(|parent| parent.accepted.is_ok()) {
            parent.accepted = Err(fault.clone());
        }
    }
    RouteReport { subject, resolved, partial, parents }
}

fn hostnames(written: &[String], faults: &mut Faults) -> Vec<Hostname> {
    if written.is_empty() {
        return vec![Hostname::Any];
    }
    let mut out = Vec::with_capacity(written.len());
    for text in written {
        match Hostname::try_new(text) {
            Some(name) if out.contains(&name) => {}
            Some(name) => out.push(name),
            None => {
                let why = format!("hostname {text:?} is neither a DNS name nor \"*.\" before one");
                faults.push((About::Hostname, Fault::new("UnsupportedValue", why)));
            }
        }
    }
    out
}

/// What a parent answers.
enum Answer {
    /// One of its listeners at least is served; the route is attached to these.
    Attached(Vec<usize>),
    /// Not ours to answer for.
    Foreign,
    /// Nobody's, so that nobody answers.
    Missing(Fault),
    /// Nothing of it is served; to these listeners the route is attached nevertheless.
    No(Fault, Vec<usize>),
}

/// The Gateway that a parent is or belongs to, and whether it is a ListenerSet.
fn place(snapshot: &Snapshot, parent: &ParentRef, named: &ObjectName) -> Result<(ObjectName, bool), Answer> {
    if parent.group.as_deref().unwrap_or(GROUP) != GROUP {
        return Err(Answer::Foreign);
    }
    match parent.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => Ok((named.clone(), false)),
        "ListenerSet" => match snapshot.listener_sets.get(named) {
            None => {
                let why = format!("ListenerSet {named} does not exist");
                Err(Answer::Missing(Fault::new("NoMatchingParent", why)))
            }
            Some(set) => listener_set::parent(named, set).map(|gateway| (gateway, true)).ok_or(Answer::Foreign),
        },
        _ => Err(Answer::Foreign),
    }
}

/// A route at one of its parents.
struct Asked<'a> {
    kind: RouteKind,
    /// The route's namespace.
    ns: &'a str,
    parent: &'a ParentRef,
    gateway: &'a ObjectName,
    /// The ListenerSet that it names; else it names the Gateway.
    set: Option<&'a ObjectName>,
    hostnames: &'a [Hostname],
}

impl Asked<'_> {
    fn answer(&self, snapshot: &Snapshot, listeners: &Listeners) -> Answer {
        let Self { kind, ns, parent, gateway, set, hostnames } = *self;
        let whose = set.map_or_else(|| format!("Gateway {gateway}"), |set| format!("ListenerSet {set}"));
        if !snapshot.gateways.contains_key(gateway) {
            return Answer::Missing(Fault::new("NoMatchingParent", format!("Gateway {gateway} does not exist")));
        }
        let Some(all) = listeners.get(gateway) else { return Answer::Foreign };
        let no = |reason, why: String| Answer::No(Fault::new(reason, why), Vec::new());
        if set.is_some() && all.iter().all(|served| served.set.as_ref() != set) {
            return no("NoMatchingParent", format!("{whose} is not attached to Gateway {gateway}"));
        }
        let named = |s: &Served| {
            s.set.as_ref() == set
                && parent.section_name.as_deref().is_none_or(|n| n == s.spec.name)
                && parent.port.is_none_or(|p| p == s.spec.port)
        };
        let mut left: Vec<usize> = (0..all.len()).filter(|&i| named(&all[i])).collect();
        if left.is_empty() {
            let section = parent.section_name.iter().map(|n| format!(" named {n:?}"));
            let port = parent.port.iter().map(|p| format!(" on port {p}"));
            let which: String = section.chain(port).collect();
            return no("NoMatchingParent", format!("{whose} has no listener{which}"));
        }
        if left.iter().all(|&i| !all[i].kinds.contains(&kind)) {
            return no("NotAllowedByListeners", format!("{whose} {}", refused(kind, &left, all)));
        }
        left.retain(|&i| all[i].kinds.contains(&kind) && all[i].allowed.admit(snapshot, all[i].owner(gateway).1, ns));
        if left.is_empty() {
            let why = format!("{whose} does not allow routes from namespace {ns:?}");
            return no("NotAllowedByListeners", why);
        }
        left.retain(|&i| all[i].hostname.as_ref().is_some_and(|name| hostnames.iter().any(|h| h.intersects(name))));
        if left.is_empty() {
            let why = format!("no hostname of the route fits a listener of {whose}");
            return no("NoMatchingListenerHostname", why);
        }
        if left.iter().all(|&i| all[i].open().is_err()) {
            let why = format!("{whose} {}", refused(kind, &left, all));
            return Answer::No(Fault::new("NotAllowedByListeners", why), left);
        }
        Answer::Attached(left)
    }
}

/// Why listeners serve no route of a kind.
fn refused(kind: RouteKind, indices: &[usize], all: &[Served]) -> String {
    let why = indices.iter().map(|&i| {
        let served = &all[i];
        served.open().map_or_else(
            |fault| fault.message.clone(),
            |_| {
                let kinds = served.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
                format!("listener {:?} takes no {kind}, want one of {kinds}", served.spec.name)
            },
        )
    });
    format!("serves no such listener: {}", why.collect::<Vec<_>>().join("; "))
}
