//! What tests look at in a scene: a Service as the API server has it, what is told about it, who answers at its address.
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{TestNamespace, scene::Scene};
use crate::netns::{load, maps::Maps, pod::TCP_PORT};

/// The finalizer of upstream's service controller, which is ours too.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The annotation that the leader writes.
pub const ALLOCATED: &str = "sluice.dev/allocated";
/// The condition of Services.
pub const PROGRAMMED: &str = "sluice.dev/Programmed";

impl Scene {
    /// Makes these pods the endpoints of a Service, at the port where they answer over TCP.
    ///
    /// # Panics
    /// It is refused.
    pub fn serve(&self, ns: &TestNamespace<'_>, service: &str, pods: &[&str]) {
        self.endpoints(ns.name(), service, TCP_PORT, pods);
    }

    /// A Service as it is now.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn service(&self, ns: &TestNamespace<'_>, name: &str) -> Value {
        self.plane.api().get(&ns.path("", &format!("services/{name}"))).expect("the Service is there")
    }

    /// Waits until a Service shows addresses, and returns them.
    ///
    /// # Panics
    /// It shows none in time.
    pub fn until_addresses(&self, ns: &TestNamespace<'_>, name: &str) -> Vec<IpAddr> {
        self.plane.until(&format!("{name} shows an address"), |_| self.addresses(ns.name(), name))
    }

    /// Waits until a Service shows these addresses and no others.
    ///
    /// # Panics
    /// It does not in time.
    pub fn until_shows(&self, ns: &TestNamespace<'_>, name: &str, wanted: &[&str]) {
        self.plane.until(&format!("{name} shows {wanted:?}"), |_| {
            let found = ingress(&self.service(ns, name));
            anyhow::ensure!(found == wanted, "it shows {found:?}");
            Ok(())
        });
    }

    /// Waits until a Service's condition has this reason, and returns its message.
    ///
    /// # Panics
    /// It does not in time.
    pub fn until_reason(&self, ns: &TestNamespace<'_>, name: &str, reason: &str) -> String {
        self.plane.until(&format!("{name} says {reason}"), |_| {
            let service = self.service(ns, name);
            let condition = condition(&service).context("no condition")?;
            anyhow::ensure!(condition["reason"] == reason, "{condition}");
            Ok(condition["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until an Event about a Service has this reason and holds these words, and returns its type.
    ///
    /// # Panics
    /// It is not told in time.
    pub fn until_told(&self, ns: &TestNamespace<'_>, name: &str, reason: &str, words: &str) -> String {
        self.until_told_of("Service", ns, name, reason, words)
    }

    /// The same about an object of another kind.
    ///
    /// # Panics
    /// It is not told in time.
    pub fn until_told_of(&self, kind: &str, ns: &TestNamespace<'_>, name: &str, reason: &str, words: &str) -> String {
        let path = ns.path("events.k8s.io/v1", "events");
        self.plane.until(&format!("{reason} about {name}: {words}"), |api| {
            let events = api.list(&path)?;
            let of_it = |e: &&Value| e["regarding"]["name"] == name && e["regarding"]["kind"] == kind;
            let is = |e: &&Value| e["reason"] == reason && e["note"].as_str().is_some_and(|n| n.contains(words));
            let told = events.iter().filter(of_it).find(is);
            let all: Vec<_> = events.iter().filter(of_it).map(|e| format!("{} {}", e["reason"], e["note"])).collect();
            Ok(told.with_context(|| all.join("\n"))?["type"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until a Service bears nothing of ours: no address, condition, annotation, finalizer.
    ///
    /// # Panics
    /// It does in the end.
    pub fn until_released(&self, ns: &TestNamespace<'_>, name: &str) {
        self.plane.until(&format!("{name} is released"), |_| {
            let service = self.service(ns, name);
            let is_free = ingress(&service).is_empty() && condition(&service).is_none() && !is_marked(&service);
            anyhow::ensure!(is_free, "{:#}\n{:#}", service["metadata"], service["status"]);
            Ok(())
        });
    }

    /// Deletes a Service and waits until it is gone.
    ///
    /// # Panics
    /// It stays.
    pub fn delete(&self, ns: &TestNamespace<'_>, name: &str) {
        let path = ns.path("", &format!("services/{name}"));
        self.plane.api().delete(&path).expect("it can be deleted");
        self.plane.until(&format!("{name} goes"), |api| {
            let (status, found) = api.send(http::Method::GET, &path, "", None)?;
            anyhow::ensure!(status == http::StatusCode::NOT_FOUND, "{:#}", found["metadata"]);
            Ok(())
        });
    }

    /// Waits until the pods that answer at an address are these.
    ///
    /// # Panics
    /// They are others in the end.
    pub fn until_answers(&self, addr: impl Into<SocketAddr>, pods: &[&str]) {
        let addr = addr.into();
        self.plane.until(&format!("{pods:?} answer at {addr}"), |_| {
            let tally = load::burst(&self.lab.client, addr, 12 * pods.len(), 2);
            let found: Vec<_> = tally.by_pod.keys().cloned().collect();
            anyhow::ensure!(tally.failed() == 0 && found == pods, "{tally}");
            Ok(())
        });
    }

    /// Waits until no agent that runs has this in its kernel's maps.
    ///
    /// # Panics
    /// One has in the end.
    pub fn until_unprogrammed(&self, addr: impl Into<SocketAddr>) {
        let addr = addr.into();
        self.plane.until(&format!("{addr} is unprogrammed"), |_| {
            for agent in self.agents.iter().filter(|agent| agent.pid().is_some()) {
                let backends = Maps::open(agent.bpf_dir())?.reach(addr)?;
                anyhow::ensure!(backends.is_none(), "{backends:?}");
            }
            Ok(())
        });
    }

    /// The backends of a frontend in the maps of an agent; `None` where it does not know the frontend.
    ///
    /// # Panics
    /// The maps cannot be read.
    #[must_use]
    pub fn reach(&self, agent: usize, addr: impl Into<SocketAddr>) -> Option<BTreeSet<SocketAddr>> {
        let maps = Maps::open(self.agents[agent].bpf_dir()).expect("its maps");
        maps.reach(addr.into()).expect("its maps")
    }

    /// Waits until these pods, and no other address, are the backends of a frontend in the maps of every agent that runs.
    ///
    /// # Panics
    /// They are others in the end.
    pub fn until_reaches(&self, addr: impl Into<SocketAddr>, pods: &[&str]) {
        let addr = addr.into();
        let pods = self.lab.select(pods);
        let wanted: BTreeSet<SocketAddr> = pods.iter().map(|pod| (pod.ip(addr.is_ipv6()), TCP_PORT).into()).collect();
        self.plane.until(&format!("{addr} leads to {wanted:?}"), |_| {
            for agent in self.agents.iter().filter(|agent| agent.pid().is_some()) {
                let found = Maps::open(agent.bpf_dir())?.reach(addr)?;
                anyhow::ensure!(found.as_ref() == Some(&wanted), "{found:?}");
            }
            Ok(())
        });
    }

    /// The agent that leads, and the other one.
    ///
    /// # Panics
    /// Nobody leads in time.
    #[must_use]
    pub fn leader(&self) -> (usize, usize) {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/sluice-leader", super::scene::SYSTEM);
        self.plane.until("somebody leads", |api| {
            let lease = api.get(&path)?;
            match lease["spec"]["holderIdentity"].as_str() {
                Some("node1") => Ok((0, 1)),
                Some("node2") => Ok((1, 0)),
                other => anyhow::bail!("{other:?} leads"),
            }
        })
    }

    /// Waits until the agents have seen, and dealt with, everything that was written so far: a Service of the test's own
    /// comes and gets its address.
    ///
    /// # Panics
    /// It does not get one.
    pub fn settle(&self, ns: &TestNamespace<'_>) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let name = format!("settle-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        ns.apply("", &format!("services/{name}"), &super::scene::load_balancer(&json!({})));
        self.until_addresses(ns, &name);
        self.delete(ns, &name);
    }
}

/// What a Service's status shows: addresses and host names.
#[must_use]
pub fn ingress(service: &Value) -> Vec<String> {
    let all = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    all.filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()).map(str::to_owned)).collect()
}

/// Our condition of a Service.
#[must_use]
pub fn condition(service: &Value) -> Option<&Value> {
    service["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == PROGRAMMED)
}

/// Whether what has conditions (a status, a listener's or a parent's part of it) has this one, and it is true.
#[must_use]
pub fn holds(object: &Value, type_: &str) -> bool {
    let mut conditions = object["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == type_ && c["status"] == "True")
}

/// Whether a Service bears our finalizer or annotation.
#[must_use]
pub fn is_marked(service: &Value) -> bool {
    let metadata = &service["metadata"];
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    finalizers.into_iter().any(|f| f == FINALIZER) || metadata["annotations"].get(ALLOCATED).is_some()
}
