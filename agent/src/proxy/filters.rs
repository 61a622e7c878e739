//! Filters at work: what a rule and a backendRef change of a request and of its response.
//!
//! In: heads in their one form, and the lists of [`Filter`]s that `model::filter` has checked. Out: the same heads, changed.
//! Nothing here can fail, and nothing makes a head that the proxy would refuse from a client.
use http::{HeaderMap, Uri, header, request::Parts, uri::PathAndQuery};

use super::{cors::Grant, mirror};
use crate::model::http::{Filter, PathChange, Rewrite, matching::PathMatch};

/// Changes a request: first as the rule wants it, then as the backendRef does. `matched` is the path match that led to the
/// rule. Returns what mirrors get.
#[must_use]
pub(super) fn change_request(
    parts: &mut Parts,
    rule: &[Filter],
    backend: &[Filter],
    matched: &PathMatch,
) -> Vec<mirror::Copy> {
    let mut copies = Vec::new();
    // Prefixes are those of the path that was matched, whatever was changed since.
    let mut asked: Option<Uri> = None;
    for filter in rule.iter().chain(backend) {
        match filter {
            Filter::RequestHeaders(edits) => edits.apply(&mut parts.headers),
            Filter::Rewrite(to) => rewrite(parts, to, &mut asked, matched),
            Filter::Mirror(mirror) => copies.extend(mirror::Copy::of(parts, mirror)),
            Filter::ResponseHeaders(_) | Filter::Cors(_) => {}
        }
    }
    copies
}

/// Changes a response's head by the filters of one place. `grant` is what its CORS filter says of the request.
pub(super) fn change_response(headers: &mut HeaderMap, filters: &[Filter], grant: Option<&Grant<'_>>) {
    for filter in filters {
        match filter {
            Filter::ResponseHeaders(edits) => edits.apply(headers),
            Filter::Cors(_) => grant.into_iter().for_each(|grant| grant.apply(headers)),
            Filter::RequestHeaders(_) | Filter::Rewrite(_) | Filter::Mirror(_) => {}
        }
    }
}

fn rewrite(parts: &mut Parts, to: &Rewrite, asked: &mut Option<Uri>, matched: &PathMatch) {
    if let Some(host) = &to.hostname {
        parts.headers.insert(header::HOST, host.clone());
    }
    if let Some(change) = &to.path {
        let asked = asked.get_or_insert_with(|| parts.uri.clone());
        let path = changed(change, asked.path(), matched);
        let target = asked.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        if let Ok(target) = PathAndQuery::try_from(target) {
            parts.uri = target.into();
        }
    }
}

/// A path after a change.
#[must_use]
pub(super) fn changed(change: &PathChange, path: &str, matched: &PathMatch) -> String {
    let prefix = match (change, matched) {
        (PathChange::Full(new), _) => return new.clone(),
        (PathChange::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_)) => return path.to_owned(),
        (PathChange::Prefix(new), PathMatch::Prefix(old)) => (new, old),
    };
    let rest = path.strip_prefix(prefix.1.as_str()).unwrap_or(path);
    match (prefix.0.as_str(), rest) {
        ("", "") => "/".to_owned(),
        (new, rest) => format!("{new}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h103_a_prefix_is_replaced_with_single_slashes() {
        for (old, new, path, want) in [
            ("/foo", "", "/foo", "/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("", "/xyz", "/", "/xyz/"),
            ("", "/xyz", "/a", "/xyz/a"),
        ] {
            assert_eq!(
                changed(&PathChange::Prefix(new.into()), path, &PathMatch::Prefix(old.into())),
                want,
                "{old} {path}"
            );
        }
    }
}
