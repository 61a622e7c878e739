//! What a memo knows of TLS to backends: which Service ports are spoken to under it, and who the Gateways are to them.
//!
//! In: the policies, what is read by name, the routes that lead to ports with a policy. Out: `HttpModel.tls` and `.identities`, a report
//! on each policy, a word in the verdicts of routes whose port is not served. Budgets of retries come with it: they are attached likewise.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Memo, keep};
use crate::{
    api::ObjectName,
    model::{
        Model, Node,
        backend_tls::{Policies, PortTls},
        backend_traffic,
        gateway::{self, Certified},
        http::ServicePort,
        policy::PolicyReports,
        report::Fault,
        rule::World,
    },
};

impl Memo {
    /// Says which Service ports are spoken to under TLS, and who the Gateways are to them; whether these have their certificates.
    pub(super) fn secure(&mut self, world: &World<'_>, node: &Node, model: &mut Model) -> Certified {
        let snapshot = world.snapshot;
        let certified = gateway::certified((snapshot, &world.grants), &mut self.certificates);
        self.certified = outcomes(&certified);
        let known = (&mut self.certificates.authorities, &mut self.policies);
        let policies = Policies::compile(snapshot, node, &self.attached, known);
        let mut reports = PolicyReports::new();
        if !snapshot.backend_traffic_policies.is_empty() {
            let users = |has: &dyn Fn(&ServicePort) -> bool| self.routes.secured_users(&self.listeners, has);
            backend_traffic::constrain(snapshot, users, (model, &mut reports));
        }
        if snapshot.backend_tls_policies.is_empty() {
            model.policies = keep(&self.model.policies, Arc::new(reports));
            return certified;
        }
        let users = self.routes.secured_users(&self.listeners, |port| policies.has(port));
        let tls = policies.ports(users.keys());
        // What was said of a port that was not served is said anew, or no longer.
        let why = |of: &PortTls| of.tls.as_ref().err().cloned();
        let ports: BTreeSet<&ServicePort> = model.http.tls.keys().chain(tls.keys()).collect();
        let differs = |port: &ServicePort| model.http.tls.get(port).and_then(why) != tls.get(port).and_then(why);
        let others: Vec<ServicePort> = ports.into_iter().filter(|port| differs(port)).cloned().collect();
        others.iter().for_each(|port| self.routes.judge_users(port, model));
        for (port, why) in tls.iter().filter_map(|(port, tls)| Some((port, tls.tls.as_ref().err()?))) {
            self.routes.warn(port, why, model);
        }
        let identities = gateway::identities(&certified, &users);
        if model.http.tls != tls || model.http.identities != identities {
            let http = Arc::make_mut(&mut model.http);
            (http.tls, http.identities) = (tls, identities);
        }
        policies.judge(snapshot, &users, (model, &mut reports));
        model.policies = keep(&self.model.policies, Arc::new(reports));
        certified
    }
}

/// What the Gateways say of the certificates that they show to backends.
pub(super) fn outcomes(certified: &Certified) -> BTreeMap<ObjectName, Result<(), Fault>> {
    certified.iter().map(|(name, found)| (name.clone(), found.as_ref().map(drop).map_err(Clone::clone))).collect()
}
