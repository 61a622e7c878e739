//! What was made of one route, and of what.
use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::{GrpcRoute, HttpRoute, ObjectName, Route, RouteKind, TcpRoute, TlsRoute, UdpRoute},
    model::{
        Verdict, attach,
        gateway::Listeners,
        grpc_rule,
        http::{Hostname, ServicePort},
        report::{RouteKey, RouteReport, Subject},
        rule::{self, CompiledRule, Faults, References, World},
        stream_route::{self, StreamShare, StreamTarget},
    },
};

/// What a route's rules are compiled to.
#[derive(Clone, Debug)]
pub(super) enum Compiled {
    /// It is not ours: nobody has looked.
    Nothing,
    /// Of requests.
    Rules(Arc<Vec<CompiledRule>>, Arc<Faults>),
    /// Of streams: where connections, or datagrams' flows, go, and how many rules are written.
    Shares(Arc<Vec<StreamShare>>, usize, Arc<Faults>),
}

/// What was made of a route. Its sets are sorted slices: there is one such for each route, and a node of a tree has room for eleven.
#[derive(Debug)]
pub(super) struct Known {
    /// When it was created.
    pub(super) age: Option<Box<str>>,
    /// Its host names, as far as they are some.
    pub(super) hostnames: Box<[Hostname]>,
    /// The Gateways that its parents lead to.
    pub(super) gateways: Box<[ObjectName]>,
    /// Where it is attached: Gateway and listener.
    pub(super) listeners: Box<[(ObjectName, usize)]>,
    /// Its rules.
    pub(super) compiled: Compiled,
    /// What they were looked up in.
    pub(super) references: References,
    /// The Service ports that it sends something to, where a listener of it is served; of streams those of TLSRoutes alone.
    pub(super) ports: Box<[ServicePort]>,
    /// What became of it, endpoints aside.
    pub(super) verdict: Verdict,
}

/// A route whose rules are compiled one by one.
trait Compile: Route {
    fn compile(&self, world: &World<'_>, name: &ObjectName) -> Compiled;
}

fn rules(compile: impl FnOnce(&mut Faults) -> Vec<CompiledRule>) -> Compiled {
    let mut faults = Faults::new();
    let rules = compile(&mut faults);
    Compiled::Rules(Arc::new(rules), Arc::new(faults))
}

impl Compile for HttpRoute {
    fn compile(&self, world: &World<'_>, name: &ObjectName) -> Compiled {
        rules(|faults| rule::compile(world, name, self, faults))
    }
}

impl Compile for GrpcRoute {
    fn compile(&self, world: &World<'_>, name: &ObjectName) -> Compiled {
        rules(|faults| grpc_rule::compile(world, name, self, faults))
    }
}

macro_rules! compiled_as_streams {
    ($($kind:ty),*) => {$(
        impl Compile for $kind {
            fn compile(&self, world: &World<'_>, name: &ObjectName) -> Compiled {
                let mut faults = Faults::new();
                let (shares, rules) = stream_route::compile(world, name, self, &mut faults);
                Compiled::Shares(Arc::new(shares), rules, Arc::new(faults))
            }
        }
    )*};
}

compiled_as_streams!(TlsRoute, TcpRoute, UdpRoute);

impl Compiled {
    /// How many rules there are, and what of them is not obeyed.
    fn faults(&self) -> (usize, Faults) {
        match self {
            Self::Nothing => (0, Faults::new()),
            Self::Rules(rules, faults) => (rules.len(), Faults::clone(faults)),
            Self::Shares(_, rules, faults) => (*rules, Faults::clone(faults)),
        }
    }

    /// The Service ports that something is sent to through the proxy, in order.
    fn ports(&self, kind: RouteKind) -> BTreeSet<ServicePort> {
        match self {
            Self::Nothing => BTreeSet::new(),
            Self::Rules(rules, _) => {
                let reached = rules.iter().filter(|rule| !rule.matches.is_empty());
                reached.flat_map(|rule| rule.rule.services()).cloned().collect()
            }
            Self::Shares(shares, ..) if kind == RouteKind::Tls => {
                let port = |share: &StreamShare| match &share.to {
                    StreamTarget::Service(port) => Some(port.clone()),
                    StreamTarget::Invalid(_) => None,
                };
                shares.iter().filter_map(port).collect()
            }
            Self::Shares(..) => BTreeSet::new(),
        }
    }
}

/// Makes a route anew; its rules are those that are `kept`, where there are some. `None` where there is no such route.
pub(super) fn make(
    world: &World<'_>,
    key: &RouteKey,
    listeners: &Listeners,
    kept: Option<(Compiled, References)>,
    count: &mut u64,
) -> Option<(Known, RouteReport)> {
    let (kind, name) = key;
    let snapshot = world.snapshot;
    macro_rules! make {
        ($routes:ident) => {
            make_one(world, name, snapshot.$routes.get(name)?.as_ref(), listeners, kept, count)
        };
    }
    Some(match kind {
        RouteKind::Http => make!(http_routes),
        RouteKind::Grpc => make!(grpc_routes),
        RouteKind::Tls => make!(tls_routes),
        RouteKind::Tcp => make!(tcp_routes),
        RouteKind::Udp => make!(udp_routes),
    })
}

fn make_one<T: Compile>(
    world: &World<'_>,
    name: &ObjectName,
    route: &T,
    listeners: &Listeners,
    kept: Option<(Compiled, References)>,
    count: &mut u64,
) -> (Known, RouteReport) {
    let attachment = attach::attach(world.snapshot, name, route, listeners);
    let kept = kept.filter(|(compiled, _)| !matches!(compiled, Compiled::Nothing));
    let (compiled, references) = if attachment.is_foreign {
        (Compiled::Nothing, References::default())
    } else {
        kept.unwrap_or_else(|| {
            *count += 1;
            let compiled = route.compile(world, name);
            (compiled, world.looked_up())
        })
    };
    let mut references = references;
    if attachment.services.iter().any(|service| !references.services.contains(service)) {
        let all: BTreeSet<ObjectName> = references.services.into_iter().chain(attachment.services.clone()).collect();
        references.services = all.into_iter().collect();
    }
    let is_open = |(gateway, index): &(ObjectName, usize)| {
        listeners.get(gateway).and_then(|all| all.get(*index)).is_some_and(|served| served.open().is_ok())
    };
    let is_served = attachment.listeners.iter().any(is_open);
    let ports = if is_served { compiled.ports(T::ROUTE) } else { BTreeSet::new() };
    let (rules, faults) = compiled.faults();
    let (hostnames, gateways) = (attachment.hostnames.as_slice().into(), attachment.gateways.iter().cloned().collect());
    let attached = attachment.listeners.iter().cloned().collect();
    let ports = ports.into_iter().collect();
    let (verdict, report) = attachment.conclude(Subject::of(route.metadata()), rules, faults);
    let age = route.metadata().creation_timestamp.as_deref().map(Box::from);
    (Known { age, hostnames, gateways, listeners: attached, compiled, references, ports, verdict }, report)
}
