//! Policies that are attached to Services: which one each port has, and what is said of each.
//!
//! In: the policies of one kind, and the Services. Out: an [`Attached`]. What a policy asks for is for its kind to compile.
//!
//! Order: a policy of a port comes before one of the whole Service, and is not in conflict with it. Of several of one target the
//! oldest counts, then the one with the lesser namespace/name; the others are `Conflicted`, whatever the oldest one is worth.
//! Source: GEP-713, `BackendTLSPolicySpec.targetRefs`.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ObjectRef, Outcome, Port, Verdict,
    http::ServicePort,
    report::{Fault, Subject},
};
use crate::{
    api::{ObjectName, Policy, Service, policy::PolicyTarget},
    shared::SharedMap,
};

/// Targets of one policy at most, those beyond are not looked at. Source: the CRD.
const TARGETS: usize = 16;

/// Begins what is said of a policy that is in force: at which Gateways it is.
pub const IN_FORCE: &str = "in force at ";

/// The reports on all policies that some Gateway of ours obeys, or would.
pub type PolicyReports = BTreeMap<ObjectRef, PolicyReport>;

/// What became of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyReport {
    /// The policy.
    pub subject: Subject,
    /// Whether it is understood and in force.
    pub accepted: Result<(), Fault>,
    /// Whether all that it refers to is known; `None` for a kind that refers to nothing.
    pub resolved: Option<Result<(), Fault>>,
    /// The Gateways whose routes name what it is for.
    pub ancestors: BTreeSet<ObjectName>,
}

impl PolicyReport {
    /// The same for people.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.ancestors.is_empty() {
            let messages = vec!["no route of a Gateway of ours names what it is for".to_owned()];
            return Verdict { outcome: Outcome::Ignored, reason: "TargetNotUsed", messages };
        }
        match (&self.accepted, &self.resolved) {
            (Err(fault), Some(Err(unresolved))) if fault.message != unresolved.message => {
                let messages = vec![fault.message.clone(), unresolved.message.clone()];
                Verdict { outcome: Outcome::Refused, reason: fault.reason, messages }
            }
            (Err(fault), _) => fault.clone().refusal(),
            (Ok(()), Some(Err(Fault { reason, message }))) => {
                Verdict { outcome: Outcome::Partial, reason, messages: vec![message.clone()] }
            }
            (Ok(()), Some(Ok(())) | None) => {
                let of = self.ancestors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let messages = vec![format!("{IN_FORCE}Gateway {of}")];
                Verdict { outcome: Outcome::Accepted, reason: "Accepted", messages }
            }
        }
    }
}

/// Where the policies of one kind are attached.
#[derive(Debug, Default)]
pub struct Attached {
    /// The policy that each port has.
    in_force: BTreeMap<ServicePort, ObjectName>,
    /// The policies that each port would have beside it.
    lost: BTreeMap<ServicePort, BTreeSet<ObjectName>>,
    /// What is wrong with the targets of a policy.
    faults: BTreeMap<ObjectName, Fault>,
}

impl Attached {
    /// Looks at each target of each policy.
    #[must_use]
    pub fn of<T: Policy>(
        policies: &SharedMap<ObjectName, Arc<T>>,
        services: &SharedMap<ObjectName, Arc<Service>>,
    ) -> Self {
        let mut out = Self::default();
        // Service -> section -> policies, the one in force first.
        let mut claims: BTreeMap<ObjectName, BTreeMap<Option<&str>, Vec<&ObjectName>>> = BTreeMap::new();
        let mut by_age: Vec<_> = policies.iter().collect();
        by_age.sort_by_key(|(name, policy)| (policy.metadata().creation_timestamp.as_deref(), *name));
        for (name, policy) in by_age {
            for target in policy.target_refs().iter().take(TARGETS) {
                let PolicyTarget { group, kind, name: service, section_name } = target;
                if (group.as_str(), kind.as_str()) != ("", "Service") {
                    let why = format!("targetRefs: kind {kind:?} of group {group:?}, want a Service of group \"\"");
                    out.faults.entry(name.clone()).or_insert(Fault::new("Invalid", why));
                    continue;
                }
                let section = section_name.as_deref().filter(|section| !section.is_empty());
                let service = ObjectName::new(&name.ns, service);
                let claimants = claims.entry(service).or_default().entry(section).or_default();
                if !claimants.contains(&name) {
                    claimants.push(name);
                }
            }
        }
        for (name, sections) in &claims {
            for (section, claimants) in sections {
                let [first, rest @ ..] = claimants.as_slice() else { continue };
                let of = section.map_or_else(String::new, |port| format!(" port {port:?}"));
                for other in rest {
                    let why = format!("Service {name}{of} has the policy {first} already, which comes first");
                    out.faults.entry((*other).clone()).or_insert(Fault::new("Conflicted", why));
                }
            }
            let ports = services.get(name).map_or(&[][..], |service| &service.spec.ports);
            for spec in ports.iter().filter(|port| port.protocol() == "TCP") {
                let Some(port) = Port::try_new(spec.port) else { continue };
                let claimants = sections.get(&Some(spec.name.as_str())).or_else(|| sections.get(&None));
                let Some([first, rest @ ..]) = claimants.map(Vec::as_slice) else { continue };
                let port = ServicePort { service: name.clone(), port };
                let lost: BTreeSet<ObjectName> = rest.iter().map(|other| (*other).clone()).collect();
                if !lost.is_empty() {
                    out.lost.insert(port.clone(), lost);
                }
                out.in_force.insert(port, (*first).clone());
            }
        }
        out
    }

    /// Whether no port has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }

    /// The policy of a port.
    #[must_use]
    pub fn get(&self, port: &ServicePort) -> Option<&ObjectName> {
        self.in_force.get(port)
    }

    /// What is wrong with the targets of a policy.
    ///
    /// # Errors
    /// One is of a kind that has no such policies, or has an older one.
    pub fn check(&self, policy: &ObjectName) -> Result<(), Fault> {
        self.faults.get(policy).map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// The Gateways at which each policy counts, or would: those whose routes name its ports.
    #[must_use]
    pub fn ancestors(
        &self,
        users: &BTreeMap<ServicePort, BTreeSet<ObjectName>>,
    ) -> BTreeMap<ObjectName, BTreeSet<ObjectName>> {
        let mut out: BTreeMap<ObjectName, BTreeSet<ObjectName>> = BTreeMap::new();
        for (port, gateways) in users {
            let policies = self.in_force.get(port).into_iter().chain(self.lost.get(port).into_iter().flatten());
            for policy in policies {
                out.entry(policy.clone()).or_default().extend(gateways.iter().cloned());
            }
        }
        out
    }
}
