//! One rule of a GRPCRoute -> its matches; what is done is compiled as a HTTPRoute's rule is.
//!
//! A call of gRPC is a POST to `/SERVICE/METHOD`, so a match becomes one of paths, which holds for requests of gRPC alone: a
//! HTTPRoute on the same host name keeps everything else. The two are never merged. Source: `GRPCRouteRule.matches`.
//!
//! Order: service before method before headers, the longer first; what is written out comes before a pattern, for whose order
//! the API leaves the choice.
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    backend_ref::Referrer,
    http::{
        HttpMatch, Pattern,
        matching::{CallRank, PartRank, PathMatch},
        path,
    },
    report::Fault,
    rule::{self, About, CompiledRule, Faults, World},
};
use crate::api::{
    GrpcRoute, ObjectName, Route,
    grpc_route::{GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule},
    http_route::{HttpRouteFilter, HttpRouteRule},
};

/// The filters that a GRPCRoute may have. Source: `GRPCRouteFilterType`.
const FILTERS: [&str; 4] = ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"];
/// A service or a method that may be any.
const ANY: &str = "[^/]+";

/// Compiles the rules of a route, in order.
#[must_use]
pub(super) fn compile(
    world: &World<'_>,
    name: &ObjectName,
    route: &GrpcRoute,
    faults: &mut Faults,
) -> Vec<CompiledRule> {
    let default = [GrpcRouteRule::default()];
    // As the API server defaults it: one rule that matches everything.
    let rules = if route.spec.rules.is_empty() { &default[..] } else { &route.spec.rules };
    let from = Referrer { kind: GrpcRoute::ROUTE, route: name };
    rules.iter().enumerate().map(|(index, rule)| compile_one(world, from, index, rule, faults)).collect()
}

fn compile_one(
    world: &World<'_>,
    from: Referrer<'_>,
    index: usize,
    spec: &GrpcRouteRule,
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
        matches.extend(compile_match(&GrpcRouteMatch::default()).ok().map(Arc::new));
    }
    let GrpcRouteRule { name, matches: _, filters, backend_refs, session_persistence } = spec.clone();
    let as_http = HttpRouteRule { name, filters, backend_refs, session_persistence, ..HttpRouteRule::default() };
    let of_backends = as_http.backend_refs.iter().flat_map(|backend| &backend.filters);
    let foreign = as_http.filters.iter().chain(of_backends).find(|filter| !FILTERS.contains(&filter.kind.as_str()));
    if let Some(HttpRouteFilter { kind, .. }) = foreign {
        let fault = Fault::new("UnsupportedValue", format!("filter {kind:?}, want one of {}", FILTERS.join(", ")));
        return rule::refused(from, (index, matches), fault, faults);
    }
    rule::finish(world, from, (index, matches), &as_http, faults)
}

fn compile_match(spec: &GrpcRouteMatch) -> Result<HttpMatch, Fault> {
    let all = GrpcMethodMatch::default();
    let (path, rank) = compile_method(spec.method.as_ref().unwrap_or(&all))?;
    let headers = rule::header_matches(&spec.headers)?;
    Ok(HttpMatch { path, method: None, headers, query: Vec::new(), call: Some(rank) })
}

fn compile_method(spec: &GrpcMethodMatch) -> Result<(PathMatch, CallRank), Fault> {
    let bad = |what: String| Fault::new("UnsupportedValue", what);
    let written = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (written(&spec.service), written(&spec.method));
    let is_pattern = match spec.kind.as_deref().unwrap_or("Exact") {
        "Exact" => false,
        "RegularExpression" => true,
        other => return Err(bad(format!("method type {other:?}, want \"Exact\" or \"RegularExpression\""))),
    };
    let part = |text: &Option<String>| match text {
        None => PartRank::Any,
        Some(text) if is_pattern => PartRank::pattern(text.len()),
        Some(text) => PartRank::exact(text.len()),
    };
    let rank = CallRank { service: part(&service), method: part(&method) };
    for (what, text) in [("service", &service), ("method", &method)] {
        let Some(text) = text else { continue };
        if is_pattern {
            // Each alone first: what is half a pattern must not become whole by the other.
            Pattern::try_new(text).map_err(|e| bad(format!("{what} pattern {text:?}: {e}")))?;
        } else if !path::normalise(&format!("/{text}")).is_ok_and(|normal| normal[1..] == **text)
            || text.contains(['/', '?', '#'])
        {
            return Err(bad(format!("{what} {text:?} matches nothing, want a name as in a path, without slashes")));
        }
    }
    let pattern = |service: &str, method: &str| {
        let text = format!("/(?:{service})/(?:{method})");
        Pattern::try_new(&text).map(PathMatch::Regex).map_err(|e| bad(format!("method pattern {text:?}: {e}")))
    };
    let path = match (service, method) {
        (None, None) => PathMatch::Prefix(String::new()),
        (Some(service), Some(method)) if !is_pattern => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) if !is_pattern => PathMatch::Prefix(format!("/{service}")),
        (None, Some(method)) if !is_pattern => pattern(ANY, &regex::escape(&method))?,
        (service, method) => pattern(service.as_deref().unwrap_or(ANY), method.as_deref().unwrap_or(ANY))?,
    };
    Ok((path, rank))
}
