//! XBackendTrafficPolicies -> how many retries the endpoints of a Service port have to bear.
//!
//! In: the policies. Out: for each Service port that has one a [`RetryBudget`], and what the status of each policy says. Pure.
//!
//! # Design
//! - As with TLS to backends rules do not know of it: the budget is the port's, whichever route sends the requests.
//! - A policy that cannot be obeyed as a whole is not in force, and what holds without one does. So is one with `sessionPersistence`,
//!   which only rules can ask for here: sessions that are not kept must not look as if they were.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Model, ObjectRef,
    backend_tls::Users,
    http::{RetryBudget, ServicePort, balance::Balance},
    policy::{Attached, PolicyReport, PolicyReports},
    report::{Fault, Subject},
    rule::duration,
};
use crate::{
    api::{
        BackendTrafficPolicy, ObjectName,
        backend_traffic_policy::{RequestRate, RetryConstraint, RetryConstraintBudget},
    },
    source::Snapshot,
};

/// The longest interval. Source: the CRD.
const LONGEST: Duration = Duration::from_secs(3600);
/// Retries in an interval at most, as the least rate. Source: the CRD.
const MOST_RETRIES: i64 = 1_000_000;

/// The policies of a snapshot.
#[derive(Debug, Default)]
pub struct Policies {
    attached: Attached,
    compiled: BTreeMap<ObjectName, Result<Option<RetryBudget>, Fault>>,
}

impl Policies {
    /// Compiles all of them.
    #[must_use]
    pub fn compile(snapshot: &Snapshot) -> Self {
        let policies = &snapshot.backend_traffic_policies;
        let compiled = policies.iter().map(|(name, policy)| (name.clone(), compile(policy)));
        Self { compiled: compiled.collect(), attached: Attached::of(policies, &snapshot.services) }
    }

    /// Whether a port has one.
    #[must_use]
    pub fn has(&self, port: &ServicePort) -> bool {
        self.attached.get(port).is_some()
    }

    /// What its retries are bounded by, where its policy is in force.
    #[must_use]
    pub fn budget(&self, port: &ServicePort) -> Option<RetryBudget> {
        self.compiled.get(self.attached.get(port)?)?.as_ref().ok().copied().flatten()
    }

    /// Says what became of each policy.
    fn judge(self, snapshot: &Snapshot, users: &Users, (model, reports): (&mut Model, &mut PolicyReports)) {
        let mut ancestors: BTreeMap<ObjectName, BTreeSet<ObjectName>> = self.attached.ancestors(users);
        for (name, compiled) in self.compiled {
            let Some(policy) = snapshot.backend_traffic_policies.get(&name) else { continue };
            let report = PolicyReport {
                subject: Subject::of(&policy.metadata),
                accepted: self.attached.check(&name).and_then(|()| compiled.map(drop)),
                resolved: None,
                ancestors: ancestors.remove(&name).unwrap_or_default(),
            };
            let object = ObjectRef::new("XBackendTrafficPolicy", name);
            model.judge(object.clone(), report.verdict());
            reports.insert(object, report);
        }
    }
}

/// Whether some policy is for the Service of a port.
pub(super) fn concerns(snapshot: &Snapshot, port: &ServicePort) -> bool {
    let is_for = |(name, policy): (&ObjectName, &Arc<BackendTrafficPolicy>)| {
        name.ns == port.service.ns && policy.spec.target_refs.iter().any(|target| target.name == port.service.name)
    };
    snapshot.backend_traffic_policies.iter().any(is_for)
}

/// Says how many retries Service ports have to bear of which somebody says it; `users` are the Gateways that send something to ports
/// that it is asked for.
pub(super) fn constrain(
    snapshot: &Snapshot,
    users: impl FnOnce(&dyn Fn(&ServicePort) -> bool) -> Users,
    (model, reports): (&mut Model, &mut PolicyReports),
) {
    let policies = Policies::compile(snapshot);
    let users = users(&|port| policies.has(port));
    for port in users.keys() {
        let (known, retries) = (model.http.balances.get(port), policies.budget(port));
        if known.and_then(|known| known.retries) != retries {
            let balance = Balance { retries, ..known.map(|known| Balance::clone(known)).unwrap_or_default() };
            Arc::make_mut(&mut model.http).balances.insert(port.clone(), Arc::new(balance));
        }
    }
    policies.judge(snapshot, &users, (model, reports));
}

/// What a policy asks for.
///
/// # Errors
/// It cannot be obeyed.
fn compile(policy: &BackendTrafficPolicy) -> Result<Option<RetryBudget>, Fault> {
    if policy.spec.session_persistence.is_some() {
        let why = "sessionPersistence is not served for a backend, want it in the rules of its routes; the policy is not in force";
        return Err(Fault::new("Invalid", why.to_owned()));
    }
    policy.spec.retry_constraint.as_ref().map(budget).transpose()
}

fn budget(spec: &RetryConstraint) -> Result<RetryBudget, Fault> {
    let bad = |what: String| Err(Fault::new("Invalid", format!("retryConstraint.{what}; the policy is not in force")));
    let RetryConstraint {
        budget: RetryConstraintBudget { percent, interval },
        min_retry_rate: RequestRate { count, interval: of },
    } = spec;
    let time = |text: &Option<String>, otherwise: Duration, least: Duration| {
        let time = text.as_deref().map_or(Some(otherwise), duration);
        time.filter(|time| (least..=LONGEST).contains(time))
    };
    let default = RetryBudget::default();
    let Some(percent) = percent.map_or(Some(default.percent), |n| u8::try_from(n).ok().filter(|n| *n <= 100)) else {
        return bad(format!("budget.percent {}, want 0 to 100", percent.unwrap_or_default()));
    };
    let second = Duration::from_secs(1);
    let Some(window) = time(interval, default.interval, second) else {
        return bad(format!("budget.interval {:?}, want 1s to 1h", interval.as_deref().unwrap_or_default()));
    };
    let least = count.unwrap_or(i64::from(default.least));
    let Some(least) = u32::try_from(least).ok().filter(|_| (1..=MOST_RETRIES).contains(&least)) else {
        return bad(format!("minRetryRate.count {least}, want 1 to {MOST_RETRIES}"));
    };
    let Some(of) = time(of, default.of, Duration::from_millis(1)) else {
        return bad(format!("minRetryRate.interval {:?}, want 1ms to 1h", of.as_deref().unwrap_or_default()));
    };
    Ok(RetryBudget { percent, interval: window, least, of })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Memo, Outcome, Verdict, fixture};

    fn objects(policies: Value) -> Value {
        let mut all = json!([
            {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
                "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}},
            {"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
                "rules": [{"backendRefs": [{"name": "a", "port": 80}, {"name": "a", "port": 81}, {"name": "b", "port": 80}]}]}},
            {"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]}},
            {"kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": [{"port": 80}]}},
        ]);
        all.as_array_mut().unwrap().extend(policies.as_array().unwrap().clone());
        all
    }

    fn policy(name: &str, service: &str, created: &str, spec: Value) -> Value {
        let mut whole = json!({"targetRefs": [{"group": "", "kind": "Service", "name": service}]});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"kind": "XBackendTrafficPolicy", "metadata": {"name": name, "uid": name, "creationTimestamp": created}, "spec": whole})
    }

    fn budgets(model: &Model) -> Vec<(String, RetryBudget)> {
        let of = |(port, b): (&ServicePort, &std::sync::Arc<super::super::http::balance::Balance>)| {
            Some((port.to_string(), b.retries?))
        };
        model.http.balances.iter().filter_map(of).collect()
    }

    fn verdict(model: &Model, name: &str) -> Verdict {
        model.verdicts[&ObjectRef::new("XBackendTrafficPolicy", ObjectName::new("default", name))].clone()
    }

    #[test]
    fn every_port_of_the_service_has_its_budget_and_changes_are_followed() {
        let mut memo = Memo::default();
        let node = fixture::node(&["192.0.2.0/24"]);
        let mut compile = |policies| memo.compile(&std::sync::Arc::new(fixture::snapshot(&objects(policies))), &node);
        let model = compile(json!([policy("p", "a", "2026-01-01T00:00:00Z", json!({"retryConstraint": {}}))]));
        let default = RetryBudget::default();
        assert_eq!(budgets(&model), [("default/a:80".to_owned(), default), ("default/a:81".to_owned(), default)]);
        let found = verdict(&model, "p");
        assert_eq!(
            (found.outcome, &found.messages[..]),
            (Outcome::Accepted, &["in force at Gateway default/gw".to_owned()][..])
        );
        let own = json!({"retryConstraint": {"budget": {"percent": 50, "interval": "1m"}, "minRetryRate": {"count": 3, "interval": "500ms"}}});
        let model = compile(json!([policy("p", "a", "2026-01-01T00:00:00Z", own)]));
        let (minute, half) = (Duration::from_secs(60), Duration::from_millis(500));
        let want = RetryBudget { percent: 50, interval: minute, least: 3, of: half };
        assert_eq!(budgets(&model).into_iter().map(|(_, budget)| budget).collect::<Vec<_>>(), [want, want]);
        let model = compile(json!([]));
        assert_eq!(budgets(&model), []);
        assert!(model.policies.is_empty());
    }

    #[test]
    fn a_route_that_comes_after_the_policy_finds_it() {
        let mut memo = Memo::default();
        let node = fixture::node(&["192.0.2.0/24"]);
        let with = objects(json!([policy("p", "a", "2026-01-01T00:00:00Z", json!({"retryConstraint": {}}))]));
        let mut without = with.clone();
        without.as_array_mut().unwrap().retain(|object| object["kind"] != "HTTPRoute");
        let mut compile = |all: &Value| memo.compile(&Arc::new(fixture::snapshot(all)), &node);
        let model = compile(&without);
        assert_eq!((budgets(&model).len(), verdict(&model, "p").reason), (0, "TargetNotUsed"));
        let (before, model) = (model.work.whole, compile(&with));
        assert_eq!((budgets(&model).len(), verdict(&model, "p").reason), (2, "Accepted"));
        assert_eq!(model.work.whole, before, "one route was looked at");
        let model = compile(&without);
        assert_eq!((budgets(&model).len(), verdict(&model, "p").reason), (0, "TargetNotUsed"));
    }

    #[test]
    fn the_oldest_policy_of_a_service_counts_and_nonsense_has_a_sentence() {
        let compile =
            |policies| crate::model::compile(&fixture::snapshot(&objects(policies)), &fixture::node(&["192.0.2.0/24"]));
        let of = |percent: i64| json!({"retryConstraint": {"budget": {"percent": percent}}});
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let model = compile(json!([policy("a", "b", new, of(1)), policy("z", "b", old, of(2))]));
        assert_eq!(budgets(&model).iter().map(|(_, budget)| budget.percent).collect::<Vec<_>>(), [2]);
        let lost = verdict(&model, "a");
        assert_eq!((lost.outcome, lost.reason), (Outcome::Refused, "Conflicted"));
        for (spec, want) in [
            (of(101), "retryConstraint.budget.percent 101, want 0 to 100"),
            (of(-1), "retryConstraint.budget.percent -1, want 0 to 100"),
            (json!({"retryConstraint": {"budget": {"interval": "10ms"}}}), "budget.interval \"10ms\", want 1s to 1h"),
            (json!({"retryConstraint": {"budget": {"interval": "2h"}}}), "budget.interval \"2h\", want 1s to 1h"),
            (json!({"retryConstraint": {"minRetryRate": {"count": 0}}}), "minRetryRate.count 0, want 1 to 1000000"),
            (json!({"retryConstraint": {"minRetryRate": {"interval": "0s"}}}), "minRetryRate.interval \"0s\", want"),
            (json!({"sessionPersistence": {}}), "sessionPersistence is not served for a backend, want it in the rules"),
        ] {
            let model = compile(json!([policy("p", "a", old, spec.clone())]));
            let found = verdict(&model, "p");
            assert_eq!((found.outcome, found.reason), (Outcome::Refused, "Invalid"), "{spec}");
            assert!(found.messages[0].contains(want), "{spec} {found:?}");
            assert_eq!(budgets(&model), [], "{spec}");
        }
        let elsewhere = compile(json!([policy("p", "unused", old, of(1))]));
        assert_eq!(verdict(&elsewhere, "p").reason, "TargetNotUsed");
    }
}
