//! A request as people write it: `GET http://shop.example/cart -H 'x-canary: 1'`, or the query of `/api/v1/explain`.
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use form_urlencoded::{Serializer, parse};
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts};

/// Header fields at most: as many as a client may send.
const MOST_HEADERS: usize = 100;

/// How long URL and fields may be together: encoded, the question is a URL itself. Units: bytes.
const MOST_BYTES: usize = 20_000;

/// A request, and where it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    method: Method,
    url: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The frontend, where it is named.
    pub(super) at: Option<SocketAddr>,
    /// Who dials, where that is said.
    pub(super) client: Option<IpAddr>,
    /// The port of the URL.
    pub(super) port: u16,
    /// The address in the URL, where it has no name.
    pub(super) ip: Option<IpAddr>,
}

impl Asked {
    /// From words: the method, an absolute URL, fields as `name: value`, and the frontend.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub fn try_new(method: &str, url: &str, headers: &[String], at: Option<SocketAddr>) -> Result<Self, String> {
        let wrong = |what: &str, found: &str, want: &str| format!("{what} {found:?}: want {want}");
        let parsed_method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong("method", method, "one as GET"))?;
        let want = "one as http://shop.example/cart?item=1";
        let parsed: Uri = url.parse().map_err(|e| format!("URL {url:?}: {e}; want {want}"))?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
            return Err(wrong("URL", url, want));
        };
        if headers.len() > MOST_HEADERS {
            return Err(format!("{} headers: want {MOST_HEADERS} at most", headers.len()));
        }
        let field = |text: &String| {
            let want = || wrong("header", text, "NAME: VALUE");
            let (name, value) = text.split_once(':').ok_or_else(want)?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| want())?;
            Ok((name, HeaderValue::from_str(value.trim()).map_err(|_| want())?))
        };
        let headers = headers.iter().map(field).collect::<Result<Vec<_>, String>>()?;
        let size = url.len() + headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if size > MOST_BYTES {
            return Err(format!("URL and headers have {size} bytes, want {MOST_BYTES} at most"));
        }
        let ip = authority.host().trim_start_matches('[').trim_end_matches(']').parse().ok();
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Ok(Self { method: parsed_method, url: parsed, headers, at, client: None, port, ip })
    }

    /// The same of this client.
    #[must_use]
    pub fn from(self, client: Option<IpAddr>) -> Self {
        Self { client, ..self }
    }

    /// From the query of a request: `method`, `url`, `header` as often as there are any, `at`, `client`.
    ///
    /// # Errors
    /// A parameter is not known or missing, or its value is wrong.
    pub fn parse(query: &str) -> Result<Self, String> {
        let (mut method, mut url, mut headers) = ("GET".to_owned(), None, Vec::new());
        let (mut at, mut client) = (None, None);
        for (name, value) in parse(query.as_bytes()) {
            match &*name {
                "method" => method = value.into_owned(),
                "url" => url = Some(value.into_owned()),
                "header" => headers.push(value.into_owned()),
                "at" => {
                    let want = || format!("at {value:?}: want ADDR:PORT, as 192.0.2.1:80 or [2001:db8::1]:80");
                    at = Some(value.parse().map_err(|_| want())?);
                }
                "client" => {
                    let want = || format!("client {value:?}: want an address, as 192.0.2.1 or 2001:db8::1");
                    client = Some(value.parse().map_err(|_| want())?);
                }
                _ => return Err(format!("parameter {name:?} is not known here")),
            }
        }
        let url = url.ok_or("no url: want one as http://shop.example/cart")?;
        Self::try_new(&method, &url, &headers, at).map(|asked| asked.from(client))
    }

    /// The request as it would come in over HTTP/1.1.
    pub(super) fn parts(&self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        (parts.method, parts.version) = (self.method.clone(), Version::HTTP_11);
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        parts.uri = target.parse().unwrap_or_default();
        if self.method == Method::CONNECT
            && let Some(host) = self.url.host()
        {
            parts.uri = format!("{host}:{}", self.port).parse().unwrap_or_default();
        }
        // A Host among the fields is what the client sends; the URL then only says where.
        if !self.headers.iter().any(|(name, _)| name == header::HOST)
            && let Ok(host) = HeaderValue::from_str(authority)
        {
            parts.headers.insert(header::HOST, host);
        }
        // A field that is written several times comes in several times.
        for (name, value) in &self.headers {
            parts.headers.append(name.clone(), value.clone());
        }
        parts
    }

    /// Whether the URL is of https.
    pub(super) fn is_https(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }

    /// The server name that a TLS client sends for the URL: none where that has an address.
    pub(super) fn server_name(&self) -> Option<String> {
        let host = self.url.host()?.trim_end_matches('.').to_ascii_lowercase();
        self.ip.is_none().then_some(host)
    }

    /// Where it comes in, for people.
    pub(super) fn place(&self) -> String {
        match (self.at, self.ip) {
            (Some(at), _) => at.to_string(),
            (None, Some(ip)) => SocketAddr::new(ip, self.port).to_string(),
            (None, None) => format!("port {}", self.port),
        }
    }
}

/// As [`Asked::parse`] reads it.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Serializer::new(String::new());
        query.append_pair("method", self.method.as_str()).append_pair("url", &self.url.to_string());
        for (name, value) in &self.headers {
            query.append_pair("header", &format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
        }
        if let Some(at) = self.at {
            query.append_pair("at", &at.to_string());
        }
        if let Some(client) = self.client {
            query.append_pair("client", &client.to_string());
        }
        f.write_str(&query.finish())
    }
}
