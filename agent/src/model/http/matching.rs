//! What must hold for a rule to apply, and which match comes first when several hold.
use std::{borrow::Cow, cmp::Reverse, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use regex::Regex;

use super::{
    query::{Query, QueryMatch},
    work::work,
};

/// The part of a request that rules see.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path in normal form.
    pub path: &'a str,
    /// The query, as sent.
    pub query: Option<&'a str>,
    /// The headers; `host` is one of them.
    pub headers: &'a HeaderMap,
}

/// All of these must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// The method; any when `None`, but for CONNECT, which asks for a tunnel and must be meant.
    pub method: Option<Method>,
    /// Headers, each name once.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, each name once.
    pub query: Vec<QueryMatch>,
    /// Of a GRPCRoute: it holds for requests of gRPC alone, and comes in the order of these.
    pub call: Option<CallRank>,
}

/// How specific a match of calls of gRPC is. The more specific one is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallRank {
    /// The service.
    pub service: PartRank,
    /// The method.
    pub method: PartRank,
}

/// How specific a match of a service or a method is. The more specific one is the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartRank {
    /// Written out, with so many characters: the more the more specific.
    Exact(Reverse<usize>),
    /// A pattern of so many characters.
    Pattern(Reverse<usize>),
    /// Any.
    Any,
}

impl PartRank {
    /// Of a name of this length.
    #[must_use]
    pub const fn exact(len: usize) -> Self {
        Self::Exact(Reverse(len))
    }

    /// Of a pattern of this length.
    #[must_use]
    pub const fn pattern(len: usize) -> Self {
        Self::Pattern(Reverse(len))
    }
}

/// Whether these are the headers of a gRPC message. gRPC-Web is none: it is plain HTTP. Source: gRPC over HTTP/2.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// How the path must be.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// Matched as a whole.
    Regex(Pattern),
    /// Equal, or below it by whole segments. No slash at the end: the root is empty.
    Prefix(String),
}

/// How a header must be. Several values of one header are compared joined by commas.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Which.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch<HeaderValue>,
}

/// How a value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch<T> {
    /// Equal.
    Exact(T),
    /// Matched as a whole.
    Regex(Pattern),
}

/// See [`HttpMatch::rank`].
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Call(CallRank, Reverse<usize>),
    Request((u8, Reverse<usize>), bool, Reverse<usize>, Reverse<usize>),
}

/// A regular expression that must match the whole text. Compares by its text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// How large a compiled regular expression may be. Beyond it the match is refused. Units: bytes.
const PATTERN_SIZE_LIMIT: usize = 256 << 10;

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When it does not parse or is too large; the text says which.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let build = |t: &str| regex::RegexBuilder::new(t).size_limit(PATTERN_SIZE_LIMIT).build();
        // Alone first: `a)(b` must not become valid by the group around it.
        build(text)
            .and_then(|_| build(&format!("^(?:{text})$")))
            .map_err(|e| e.to_string())
            .map(|regex| Self { text: text.to_owned(), regex })
    }

    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        work(text.len());
        self.regex.is_match(text)
    }

    /// The regular expression that matches the whole text or nothing.
    #[must_use]
    pub fn anchored(&self) -> &str {
        self.regex.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl HttpMatch {
    /// Whether a request has all of it. `query` is the request's, with the names of this match among its names.
    #[must_use]
    pub fn holds(&self, request: &RequestHead<'_>, query: &Query<'_>) -> bool {
        self.path.holds(request.path) && self.holds_beside_path(request, query)
    }

    /// [`HttpMatch::holds`] for a request whose path is known to match.
    #[must_use]
    pub fn holds_beside_path(&self, request: &RequestHead<'_>, query: &Query<'_>) -> bool {
        self.takes(request.method)
            && (self.call.is_none() || is_grpc(request.headers))
            && self.headers.iter().all(|h| h.holds(request.headers))
            && self.query.iter().all(|q| q.holds(query))
    }

    fn takes(&self, method: &Method) -> bool {
        match &self.method {
            None => method != Method::CONNECT,
            Some(wanted) => wanted == method,
        }
    }

    /// The first thing of it that a request does not have; `None` where it has all.
    #[must_use]
    pub fn failed<'a>(&'a self, request: &'a RequestHead<'_>, query: &Query<'_>) -> Option<Failed<'a>> {
        if self.call.is_some() && !is_grpc(request.headers) {
            return Some(Failed::Call);
        }
        if !self.path.holds(request.path) {
            return Some(Failed::Path(request.path, &self.path));
        }
        if !self.takes(request.method) {
            return Some(self.method.as_ref().map_or(Failed::Connect, |method| Failed::Method(request.method, method)));
        }
        let header = self.headers.iter().find(|header| !header.holds(request.headers));
        if let Some(header) = header {
            return Some(Failed::Header(request.headers, header));
        }
        self.query.iter().find(|parameter| !parameter.holds(query)).map(Failed::Query)
    }

    /// The more specific match has the lesser rank: path, method, number of headers, number of query parameters. Those of
    /// calls come first: of the others none is for gRPC alone.
    #[must_use]
    pub fn rank(&self) -> impl Ord + use<> {
        let (kind, len) = match &self.path {
            PathMatch::Exact(path) => (0, path.len()),
            PathMatch::Regex(pattern) => (1, pattern.text.len()),
            PathMatch::Prefix(prefix) => (2, prefix.len()),
        };
        let headers = Reverse(self.headers.len());
        match self.call {
            Some(call) => Rank::Call(call, headers),
            None => Rank::Request((kind, Reverse(len)), self.method.is_none(), headers, Reverse(self.query.len())),
        }
    }
}

impl PathMatch {
    /// Whether a path in normal form is meant.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(want) => want == path,
            Self::Regex(pattern) => pattern.holds(path),
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'))
            }
        }
    }
}

impl HeaderMatch {
    fn holds(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(&self.name) {
            return false;
        }
        match &self.value {
            ValueMatch::Exact(want) => is_joined(headers, &self.name, want.as_bytes()),
            ValueMatch::Regex(pattern) => {
                std::str::from_utf8(&joined(headers, &self.name)).is_ok_and(|text| pattern.holds(text))
            }
        }
    }
}

/// The values of a header as one, joined by commas; empty when there is none. Cost: no allocation for one value.
#[must_use]
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, [u8]> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Cow::Borrowed(b"") };
    let mut all = Cow::Borrowed(first.as_bytes());
    for value in values {
        work(value.len());
        let all = all.to_mut();
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    all
}

/// Whether [`joined`] is `want`. Cost: that of `want`, whatever there is.
fn is_joined(headers: &HeaderMap, name: &HeaderName, want: &[u8]) -> bool {
    let mut rest = want;
    for (i, value) in headers.get_all(name).iter().enumerate() {
        work(0);
        let after = if i == 0 { Some(rest) } else { rest.strip_prefix(b",") };
        match after.and_then(|after| after.strip_prefix(value.as_bytes())) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// What a request does not have that a match wants; its text says what it has and what is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Failed<'a> {
    /// It is no gRPC.
    Call,
    /// The path is another.
    Path(&'a str, &'a PathMatch),
    /// The method is another.
    Method(&'a Method, &'a Method),
    /// It asks for a tunnel, and the match names no method.
    Connect,
    /// The header is missing, or another.
    Header(&'a HeaderMap, &'a HeaderMatch),
    /// The query parameter is missing, or another.
    Query(&'a QueryMatch),
}

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call => write!(f, "the request is no gRPC, want content-type application/grpc"),
            Self::Path(found, want) => write!(f, "the path is {found}, want {want}"),
            Self::Connect => write!(f, "the method is CONNECT, want a match that names it"),
            Self::Method(found, want) => write!(f, "the method is {found}, want {want}"),
            Self::Header(headers, want) if headers.contains_key(&want.name) => {
                let found = joined(headers, &want.name);
                write!(f, "the header is {}: {}, want {want}", want.name, String::from_utf8_lossy(&found))
            }
            Self::Header(_, want) => write!(f, "there is no header {}, want {want}", want.name),
            Self::Query(want) => write!(f, "the query does not have {want}"),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Regex(pattern) => write!(f, "~{}", pattern.text),
            Self::Prefix(prefix) => write!(f, "{prefix}/*"),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueMatch::Exact(v) => write!(f, "{}: {}", self.name, String::from_utf8_lossy(v.as_bytes())),
            ValueMatch::Regex(p) => write!(f, "{}: ~{}", self.name, p.text),
        }
    }
}

impl fmt::Display for QueryMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueMatch::Exact(v) => write!(f, "?{}={v}", self.name),
            ValueMatch::Regex(p) => write!(f, "?{}=~{}", self.name, p.text),
        }
    }
}

impl fmt::Display for HttpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.call.is_some() {
            write!(f, "gRPC ")?;
        }
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        write!(f, "{}", self.path)?;
        self.headers.iter().try_for_each(|header| write!(f, " {header}"))?;
        self.query.iter().try_for_each(|parameter| write!(f, " {parameter}"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn header(name: &'static str, value: ValueMatch<HeaderValue>) -> HeaderMatch {
        HeaderMatch { name: HeaderName::from_static(name), value }
    }

    fn exact(value: &'static str) -> ValueMatch<HeaderValue> {
        ValueMatch::Exact(HeaderValue::from_static(value))
    }

    #[test]
    fn a_prefix_matches_by_segment() {
        let prefix = PathMatch::Prefix("/foo".into());
        for (path, want) in [("/foo", true), ("/foo/", true), ("/foo/bar", true), ("/foobar", false), ("/", false)] {
            assert_eq!(prefix.holds(path), want, "{path}");
        }
        assert!(PathMatch::Prefix(String::new()).holds("/anything"));
    }

    #[test]
    fn h104_values_of_one_header_are_joined_and_compared_by_case() {
        let map = headers(&[("x-a", "1"), ("x-a", "2"), ("x-b", "Yes")]);
        assert!(header("x-a", exact("1,2")).holds(&map));
        assert!(!header("x-a", exact("1")).holds(&map));
        assert!(header("x-b", exact("Yes")).holds(&map));
        assert!(!header("x-b", exact("yes")).holds(&map));
        assert!(!header("x-c", exact("")).holds(&map));
    }

    #[test]
    fn h104_patterns_are_anchored() {
        let map = headers(&[("x-a", "release-12")]);
        let pattern = |text| ValueMatch::Regex(Pattern::try_new(text).unwrap());
        assert!(header("x-a", pattern("release-[0-9]+")).holds(&map));
        assert!(!header("x-a", pattern("release")).holds(&map));
        assert!(!header("x-a", pattern("release|nothing")).holds(&map));
        assert!(Pattern::try_new("a)(b").is_err());
        assert!(Pattern::try_new("(a{1000}){1000}").is_err());
    }
}
