//! The proxy's metrics by route and by backend: rate, errors, duration.
//!
//! # Design
//! Names and labels are those of the field: `route_*` and `backend_*` as Linkerd has them, the name of the histogram and its buckets as
//! OpenTelemetry's `http.server.request.duration`, `grpc_code` as the libraries of gRPC. A sample that is 0 is left out, but for
//! histograms: of ten methods a route has two or three.
use std::sync::atomic::Ordering::Relaxed;

use crate::{
    proxy::{
        Metrics,
        metrics::{BackendMetrics, CLASSES, CUTS, Distribution, GRPC_CODES, METHODS, OUTCOMES, RouteMetrics, Subject},
    },
    telemetry::{Family, Histogram, HistogramFamily, Kind, Labels},
};

use super::metrics::count;

/// What `route_kind` and `backend_kind` are of what has none, or no series of its own.
const NONE: &str = "none";
const OTHER: &str = "other";

/// Adds the counters; the histograms.
pub fn add(metrics: &Metrics, all: &mut Vec<Family>) -> Vec<HistogramFamily> {
    let (routes, backends) = (metrics.routes(), metrics.backends());
    let samples = |family: &dyn Fn(&RouteMetrics) -> Vec<(Labels, u64)>| {
        let of_one = |(subject, of): &(Subject, RouteMetrics)| {
            let rule = of_rule(subject);
            let with = |(own, n): (Labels, u64)| (rule.iter().cloned().chain(own).collect(), count(n));
            family(of).into_iter().filter(|(_, n)| *n > 0).map(with).collect::<Vec<_>>()
        };
        routes.iter().flat_map(of_one).collect()
    };
    let counter = |name, help, samples| Family { name, kind: Kind::Counter, help, samples };
    all.push(counter(
        "sluice_proxy_requests",
        "Requests that are over, by the rule that they had, observed",
        samples(&requests),
    ));
    all.push(counter(
        "sluice_proxy_request_body_bytes",
        "Bytes of requests' bodies, observed",
        samples(&|of| vec![(Labels::new(), of.request_bytes)]),
    ));
    all.push(counter(
        "sluice_proxy_response_body_bytes",
        "Bytes of responses' bodies, observed",
        samples(&|of| vec![(Labels::new(), of.response_bytes)]),
    ));
    all.push(counter(
        "sluice_proxy_cut_responses",
        "Responses that had begun and did not come to their end, by who ended them, observed",
        samples(&|of| labelled("by", CUTS, of.cuts)),
    ));
    all.push(counter(
        "sluice_proxy_grpc_responses",
        "Calls of gRPC that have a status, observed",
        samples(&|of| labelled("grpc_code", GRPC_CODES, of.grpc)),
    ));
    let of_backends = |family: &dyn Fn(&BackendMetrics) -> Vec<(Labels, u64)>| {
        let of_one = |(port, of): &(Option<_>, BackendMetrics)| {
            let backend = of_backend(port.as_ref());
            let with = |(own, n): (Labels, u64)| (backend.iter().cloned().chain(own).collect(), count(n));
            family(of).into_iter().filter(|(_, n)| *n > 0).map(with).collect::<Vec<_>>()
        };
        backends.iter().flat_map(of_one).collect()
    };
    all.push(counter(
        "sluice_proxy_backend_requests",
        "Tries that endpoints of a Service port had, copies for mirrors among them, observed",
        of_backends(&|of| labelled("class", OUTCOMES, of.tries)),
    ));
    for (name, help, value) in [
        (
            "sluice_proxy_backend_connect_errors",
            "Connections to endpoints of a Service port that could not be opened, observed",
            (|of| of.connect_errors) as fn(&BackendMetrics) -> u64,
        ),
        ("sluice_proxy_backend_retries", "Tries that were followed by another, observed", |of| of.retries),
        (
            "sluice_proxy_backend_ejections",
            "Endpoints of a Service port that were passed over for a while, observed",
            |of| of.ejections,
        ),
    ] {
        all.push(counter(name, help, of_backends(&|of| vec![(Labels::new(), value(of))])));
    }
    if let Some(log) = metrics.log() {
        for (name, help, of) in [
            ("sluice_proxy_access_log_lines", "Lines of the access log that were written, observed", &log.written),
            (
                "sluice_proxy_dropped_access_log_lines",
                "Lines that came faster than they could be written, or could not be, observed",
                &log.dropped,
            ),
        ] {
            all.push(counter(name, help, vec![(Labels::new(), count(of.load(Relaxed)))]));
        }
    }
    let of_ports = backends.iter().map(|(port, of)| (of_backend(port.as_ref()), histogram(&of.first_byte)));
    vec![
        HistogramFamily {
            name: "sluice_proxy_request_duration_seconds",
            help: "From a request's head to the end of its response, over all rules of a route, observed",
            samples: durations(&routes),
        },
        HistogramFamily {
            name: "sluice_proxy_backend_first_byte_seconds",
            help: "From the begin of a try, connecting included, to the head of the endpoint's response, observed",
            samples: of_ports.collect(),
        },
    ]
}

fn requests(of: &RouteMetrics) -> Vec<(Labels, u64)> {
    let by_method = METHODS.into_iter().zip(of.requests);
    let by_class = |(method, classes): (&'static str, [u64; CLASSES.len()])| {
        let labels = move |class: &str| vec![("method", method.to_owned()), ("class", class.to_owned())];
        CLASSES.into_iter().zip(classes).map(move |(class, n)| (labels(class), n))
    };
    by_method.flat_map(by_class).collect()
}

fn labelled<const N: usize>(label: &'static str, values: [&str; N], counts: [u64; N]) -> Vec<(Labels, u64)> {
    values.into_iter().zip(counts).map(|(value, n)| (vec![(label, value.to_owned())], n)).collect()
}

/// One histogram for each route: of its rules together.
fn durations(routes: &[(Subject, RouteMetrics)]) -> Vec<(Labels, Histogram)> {
    let mut out: Vec<(Labels, Distribution)> = Vec::new();
    // The rules of a route follow each other.
    for (subject, of) in routes {
        let labels = of_route(subject);
        match out.last_mut().filter(|(last, _)| *last == labels) {
            Some((_, sum)) => sum.merge(&of.durations),
            None => out.push((labels, of.durations.clone())),
        }
    }
    out.into_iter().map(|(labels, of)| (labels, histogram(&of))).collect()
}

fn histogram(of: &Distribution) -> Histogram {
    Histogram { buckets: of.bounded(), sum: of.sum.as_secs_f64() }
}

fn of_rule(subject: &Subject) -> Labels {
    let mut labels = of_route(subject);
    if let Subject::Rule { rule, .. } = subject {
        labels.push(("route_rule", rule.to_string()));
    }
    labels
}

fn of_route(subject: &Subject) -> Labels {
    match subject {
        Subject::Rule { gateway, kind, route, rule: _ } => vec![
            ("gateway_namespace", gateway.ns.clone()),
            ("gateway_name", gateway.name.clone()),
            ("route_kind", kind.name().to_owned()),
            ("route_namespace", route.ns.clone()),
            ("route_name", route.name.clone()),
        ],
        Subject::Unrouted(gateway) => vec![
            ("gateway_namespace", gateway.ns.clone()),
            ("gateway_name", gateway.name.clone()),
            ("route_kind", NONE.to_owned()),
        ],
        Subject::Other => vec![("route_kind", OTHER.to_owned())],
    }
}

fn of_backend(port: Option<&crate::model::http::ServicePort>) -> Labels {
    match port {
        Some(port) => vec![
            ("backend_kind", "Service".to_owned()),
            ("backend_namespace", port.service.ns.clone()),
            ("backend_name", port.service.name.clone()),
            ("backend_port", port.port.to_string()),
        ],
        None => vec![("backend_kind", OTHER.to_owned())],
    }
}
