//! What a request asks of the API server, read from its method and path as the server itself does.
use http::{Method, Request};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// A collection.
    List,
    /// The changes of a collection.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What is done.
    pub verb: Verb,
    /// To what: `services`, `services/status`. `None` for what is no resource: `/version`, discovery.
    pub resource: Option<String>,
}

impl Call {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let (resource, named) = resource(request.uri().path());
        let watch = parameter(request.uri().query(), "watch").is_some_and(|v| v == "true" || v == "1");
        let verb = match *request.method() {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if watch => Verb::Watch,
            _ if named || resource.is_none() => Verb::Get,
            _ => Verb::List,
        };
        Self { verb, resource }
    }
}

/// A choice of calls.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    verbs: Vec<Verb>,
    resource: Option<String>,
}

impl Calls {
    /// Every call.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The calls that do one of these.
    #[must_use]
    pub fn of(verbs: &[Verb]) -> Self {
        Self { verbs: verbs.to_vec(), resource: None }
    }

    /// Of these, the ones to `services`, or to `services/status`.
    #[must_use]
    pub fn to(self, resource: &str) -> Self {
        Self { resource: Some(resource.to_owned()), ..self }
    }

    pub(super) fn has(&self, call: &Call) -> bool {
        (self.verbs.is_empty() || self.verbs.contains(&call.verb))
            && self.resource.as_ref().is_none_or(|wanted| call.resource.as_ref() == Some(wanted))
    }
}

/// The resource of a path, with its subresource, and whether one object is named.
fn resource(path: &str) -> (Option<String>, bool) {
    let words: Vec<&str> = path.split('/').filter(|w| !w.is_empty()).collect();
    let rest = match words[..] {
        ["api", _, ref rest @ ..] | ["apis", _, _, ref rest @ ..] => rest,
        _ => return (None, false),
    };
    // A namespace is itself an object: `namespaces/web` and `namespaces/web/status` are about it.
    let rest = match rest {
        ["namespaces", _, "status" | "finalize"] => rest,
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    match rest {
        [] => (None, false),
        [resource] => (Some((*resource).to_owned()), false),
        [resource, _] => (Some((*resource).to_owned()), true),
        [resource, _, sub, ..] => (Some(format!("{resource}/{sub}")), true),
    }
}

/// A parameter of a query.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').filter_map(|p| p.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, uri: &str) -> (Verb, Option<String>) {
        let request = Request::builder().method(method).uri(uri).body(()).expect("a request");
        let Call { verb, resource } = Call::of(&request);
        (verb, resource)
    }

    #[test]
    fn calls_are_read_as_the_server_reads_them() {
        let cases = [
            ("GET", "/version", Verb::Get, None),
            ("GET", "/apis/apps/v1", Verb::Get, None),
            ("GET", "/api/v1/services?limit=500", Verb::List, Some("services")),
            ("GET", "/api/v1/services?watch=true", Verb::Watch, Some("services")),
            ("GET", "/api/v1/namespaces", Verb::List, Some("namespaces")),
            ("GET", "/api/v1/namespaces/web", Verb::Get, Some("namespaces")),
            ("PUT", "/api/v1/namespaces/web/finalize", Verb::Update, Some("namespaces/finalize")),
            ("GET", "/api/v1/namespaces/web/services", Verb::List, Some("services")),
            ("POST", "/api/v1/namespaces/web/services", Verb::Create, Some("services")),
            ("PATCH", "/api/v1/namespaces/web/services/a/status", Verb::Patch, Some("services/status")),
            (
                "DELETE",
                "/apis/discovery.k8s.io/v1/namespaces/web/endpointslices/a",
                Verb::Delete,
                Some("endpointslices"),
            ),
        ];
        for (method, uri, verb, resource) in cases {
            assert_eq!(call(method, uri), (verb, resource.map(str::to_owned)), "{method} {uri}");
        }
    }

    #[test]
    fn a_choice_keeps_subresources_apart() {
        let status = Call { verb: Verb::Patch, resource: Some("services/status".to_owned()) };
        assert!(Calls::all().has(&status) && Calls::of(&[Verb::Patch]).has(&status));
        assert!(!Calls::all().to("services").has(&status) && !Calls::of(&[Verb::List]).has(&status));
    }
}
