//! What became of Gateways, their listeners and the routes at their parents: what `status` says in conditions.
//!
//! Written by `model::gateway` and `model::route`, read by `status::gateway`. A report names the object that it speaks
//! of by identity and generation: when it is written, the object may be another one.
//!
//! # Design
//! A [`super::Verdict`] says whether an object works, for people. A report keeps apart what conditions keep apart, with
//! the reasons of the API.
use std::{collections::BTreeMap, sync::Arc};

use super::{Outcome, Verdict};
use crate::{
    api::{ObjectMeta, ObjectName, RouteKind, route::ParentRef},
    shared::SharedMap,
};

/// The reports on all Gateways that are ours.
pub type GatewayReports = BTreeMap<ObjectName, Arc<GatewayReport>>;
/// The reports on all routes that name a Gateway of ours.
pub type RouteReports = SharedMap<RouteKey, RouteReport>;
/// A route: of which kind, and which.
pub type RouteKey = (RouteKind, ObjectName);

/// Why something does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// CamelCase, as in the conditions of the API.
    pub reason: &'static str,
    /// What was found and what was wanted.
    pub message: String,
}

impl Fault {
    /// From its two parts.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The same, with the place in front.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self { reason: self.reason, message: format!("{place}: {}", self.message) }
    }

    /// A verdict that nothing works.
    #[must_use]
    pub fn refusal(self) -> Verdict {
        Verdict { outcome: Outcome::Refused, reason: self.reason, messages: vec![self.message] }
    }

    /// Several as one, with the reason of the first; `None` of none.
    pub fn join<'a>(all: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut all = all.into_iter();
        let mut one = all.next()?.clone();
        for Self { message, .. } in all {
            one.message.push_str("; ");
            one.message.push_str(message);
        }
        Some(one)
    }
}

/// Which object a report speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its identity; empty in manifests.
    pub uid: String,
    /// The generation that was looked at.
    pub generation: i64,
}

impl Subject {
    /// The object with this metadata.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self { uid: metadata.uid.clone(), generation: metadata.generation }
    }
}

/// What became of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayReport {
    /// The Gateway.
    pub subject: Subject,
    /// Whether it is understood, its listeners apart.
    pub accepted: Result<(), Fault>,
    /// Whether it has an address: the reasons are those of `Programmed`.
    pub addressed: Result<(), Fault>,
    /// Whether what it refers to is known, its listeners apart: the reasons are those of `ResolvedRefs`. `None` where it refers to
    /// nothing.
    pub resolved: Option<Result<(), Fault>>,
    /// Whether its annotations are understood; where not, it is served by what it had before.
    pub parameters: Result<(), Fault>,
    /// Clients may come without a certificate although one is asked for. Source: `InsecureFrontendValidationMode`.
    pub is_insecure: bool,
    /// What became of each listener, its own first, in the order in which they are written, then those of its sets.
    pub listeners: Vec<ListenerReport>,
    /// What became of the ListenerSets that name it, in the order of precedence.
    pub sets: Vec<SetReport>,
}

impl GatewayReport {
    /// The listeners that are the Gateway's own.
    pub fn own(&self) -> impl Iterator<Item = &ListenerReport> {
        self.listeners.iter().filter(|listener| listener.set.is_none())
    }
}

/// What became of a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReport {
    /// Its name.
    pub name: ObjectName,
    /// The set.
    pub subject: Subject,
    /// Whether the Gateway lets it in and one of its listeners at least is served.
    pub accepted: Result<(), Fault>,
    /// Which of its listeners are not served, when others are.
    pub partial: Option<Fault>,
}

impl SetReport {
    /// What became of a set of which these are the listeners.
    #[must_use]
    pub fn of(name: ObjectName, subject: Subject, allowed: Result<(), Fault>, listeners: &[ListenerReport]) -> Self {
        let own = || listeners.iter().filter(|listener| listener.set.as_ref() == Some(&name));
        let faults = own().filter(|l| !l.is_served()).filter_map(|l| {
            let fault = l.accepted.as_ref().err().or(l.resolved.as_ref().err())?;
            Some(fault.clone().at(&format!("listener {:?}", l.name)))
        });
        let partial = Fault::join(&faults.collect::<Vec<_>>()).map(|f| Fault { reason: "ListenersNotValid", ..f });
        let (accepted, partial) = match (allowed, own().any(ListenerReport::is_served), partial) {
            (Err(fault), _, _) => (Err(fault), None),
            (Ok(()), true, partial) => (Ok(()), partial),
            (Ok(()), false, Some(fault)) => (Err(fault), None),
            (Ok(()), false, None) => (Err(Fault::new("ListenersNotValid", "the set has no listener")), None),
        };
        Self { name, subject, accepted, partial }
    }

    /// The same for people.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (&self.accepted, &self.partial) {
            (Err(fault), _) => fault.clone().refusal(),
            (Ok(()), Some(Fault { reason, message })) => {
                Verdict { outcome: Outcome::Partial, reason, messages: vec![message.clone()] }
            }
            (Ok(()), None) => Verdict { outcome: Outcome::Accepted, reason: "Accepted", messages: Vec::new() },
        }
    }
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerReport {
    /// Its name.
    pub name: String,
    /// The ListenerSet that it is of; else it is the Gateway's own.
    pub set: Option<ObjectName>,
    /// Whether it is understood, can be served, and conflicts with no other.
    pub accepted: Result<(), Fault>,
    /// With which other listener it conflicts.
    pub conflict: Option<Fault>,
    /// Whether all that it refers to is known.
    pub resolved: Result<(), Fault>,
    /// Whether it needs no certificate, or has one at least.
    pub is_secured: bool,
    /// The kinds of routes that it takes.
    pub kinds: Vec<RouteKind>,
    /// How many routes are attached, whether or not they or the listener are accepted. Source: `ListenerStatus`.
    pub attached: usize,
}

impl ListenerReport {
    /// Its name among all listeners of its Gateway: `namespace/set/name` of one that a ListenerSet has.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.set.as_ref().map_or_else(|| self.name.clone(), |set| format!("{set}/{}", self.name))
    }

    /// Whether requests are taken from it, once it is programmed.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.accepted.is_ok() && !self.kinds.is_empty() && self.is_secured
    }
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteReport {
    /// The route.
    pub subject: Subject,
    /// Whether all backends that it refers to are there and may be used.
    pub resolved: Result<(), Fault>,
    /// What of it is not obeyed, when the rest is.
    pub partial: Option<Fault>,
    /// What each Gateway of ours that it names answers, in the order in which the route names them.
    pub parents: Vec<ParentReport>,
}

/// What a Gateway answers to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentReport {
    /// The Gateway and perhaps a listener, as the route names them.
    pub parent: ParentRef,
    /// Whether the route is attached and obeyed.
    pub accepted: Result<(), Fault>,
}
