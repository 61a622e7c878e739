//! What a chain leads to and what is missing, in words: for conditions, Events and `sluice why`.
use std::collections::BTreeSet;

use super::{BindingSource, Chain, ChainPort, GATEWAY_LABEL, Link, STATUS_PORT};
use crate::{
    api::{Service, service::ServicePort},
    model::{Port, Proto, report::Fault},
};

impl Link {
    /// What is odd about a Service that names this Gateway.
    #[must_use]
    pub(in crate::model) fn remarks(&self, service: &Service) -> Vec<String> {
        let gateway = self.named();
        match &self.ports {
            Err(_) if self.has_own => Vec::new(),
            Err(fault) => vec![format!("{gateway}: {}; nothing of it is served here", fault.message)],
            Ok(_) if !self.is_served() => vec![format!(
                "{gateway}, but others have written endpoints for it, which get its flows; want label {GATEWAY_LABEL}"
            )],
            Ok(ports) => {
                let is_left =
                    |port: &i64| *port != STATUS_PORT && !Port::try_new(*port).is_some_and(|p| ports.contains(&p));
                let tcp = service.spec.ports.iter().filter(|p| p.protocol() == "TCP").map(|p| p.port);
                let left: Vec<String> = tcp.filter(is_left).map(|port| port.to_string()).collect();
                let unserved = (!left.is_empty())
                    .then(|| format!("{gateway}, which has no listener that is served at port {}", left.join(", ")));
                unserved.into_iter().chain(self.mixed(service)).collect()
            }
        }
    }

    /// What follows from a Service that has ports which lead to the proxy and ports which do not; `None` of any other.
    ///
    /// # Design
    /// `ipMode` is one for all ports of an address. With `VIP` kube-proxy would take the address to the Service's
    /// EndpointSlices, past hosts, paths, weights and filters, for clients outside as well; so it is `Proxy`, and the other
    /// ports lose the short way that kube-proxy gives to pods and nodes. Those have the cluster IP; clients outside lose
    /// nothing, because Sluice forwards their packets before kube-proxy sees them.
    #[must_use]
    pub fn mixed(&self, service: &Service) -> Option<String> {
        let (proxied, others): (Vec<&ServicePort>, Vec<&ServicePort>) =
            service.spec.ports.iter().filter(|p| p.port != STATUS_PORT).partition(|port| self.leads_to_proxy(port));
        let join = |ports: Vec<&ServicePort>| {
            ports.iter().map(|p| format!("{}/{}", p.port, p.protocol())).collect::<Vec<_>>().join(", ")
        };
        (!proxied.is_empty() && !others.is_empty()).then(|| {
            let (proxied, others) = (join(proxied), join(others));
            format!(
                "ipMode is Proxy because {proxied} leads to the proxy; pods and nodes reach {others} at the cluster IP, not \
                 at the address of the load balancer"
            )
        })
    }

    /// Whether a port of the Service leads to the proxy.
    #[must_use]
    pub fn leads_to_proxy(&self, port: &ServicePort) -> bool {
        port.protocol() == "TCP" && Port::try_new(port.port).is_some_and(|port| self.serves(port, Proto::Tcp).is_some())
    }

    /// The Gateway and how the Service names it.
    fn named(&self) -> String {
        let by = match self.binding {
            BindingSource::Label => "named by its label",
            BindingSource::Owner => "its owner",
            BindingSource::Name => "named by its own name",
        };
        format!("before Gateway {}, {by}", self.gateway)
    }
}

impl Chain {
    /// Whether it leads somewhere, in one sentence each way; `None` where the Service is none of the Gateway's.
    ///
    /// # Errors
    /// What is missing.
    #[must_use]
    pub fn resolved(&self) -> Option<Result<String, Fault>> {
        let gateway = self.link.named();
        let fault = |reason, message: String| Some(Err(Fault::new(reason, format!("{gateway}: {message}"))));
        match &self.link.ports {
            Err(_) if self.link.has_own => return None,
            Err(Fault { reason, message }) => return fault(reason, message.clone()),
            Ok(_) if !self.link.is_served() => return None,
            Ok(_) => {}
        }
        let all = |of: fn(&ChainPort) -> Vec<String>| {
            let all: BTreeSet<String> = self.ports.iter().flat_map(of).collect();
            all.into_iter().collect::<Vec<_>>().join(", ")
        };
        let listeners = all(|p| p.listeners.clone());
        let routes = all(|p| p.routes.iter().map(ToString::to_string).collect());
        let services = all(|p| p.services.iter().map(ToString::to_string).collect());
        if self.ports.is_empty() {
            return fault("NoListener", "no listener is served at a port of the Service".to_owned());
        }
        if routes.is_empty() {
            return fault("NoRoute", format!("no route is attached to listener {listeners}"));
        }
        if services.is_empty() {
            return fault("NoBackend", format!("HTTPRoute {routes} sends nothing to a Service that may get it"));
        }
        if self.ports.iter().all(|p| p.endpoints.is_empty()) {
            return fault("NoEndpoints", format!("HTTPRoute {routes}: Service {services} has no endpoint"));
        }
        Some(Ok(format!("{gateway}: listener {listeners}, HTTPRoute {routes}, Service {services}")))
    }

    /// The way of each port, for people.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |port: &ChainPort| {
            let ready = port.endpoints.values().filter(|e| e.conditions.ready.unwrap_or(true)).count();
            let join = |all: Vec<String>| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            format!(
                "port {}: listener {}, HTTPRoute {}, Service {}, {ready} of {} endpoints ready",
                port.port,
                join(port.listeners.clone()),
                join(port.routes.iter().map(ToString::to_string).collect()),
                join(port.services.iter().map(ToString::to_string).collect()),
                port.endpoints.len(),
            )
        };
        let whole = self.resolved().map(|resolved| match resolved {
            Ok(text) => text,
            Err(Fault { reason, message }) => format!("{reason}: {message}"),
        });
        let slices = if self.link.is_served() && self.link.has_own {
            Some("others have written endpoints for it: no EndpointSlice is added".to_owned())
        } else {
            None
        };
        whole.into_iter().chain(self.ports.iter().map(line)).chain(slices).collect()
    }
}
