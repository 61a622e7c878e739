//! What filters may change, and what is said where they may not.
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::*;
use crate::model::http::PathChange;

fn compiled(filter: Value) -> Result<Filter, String> {
    let filters = compile(&[serde_json::from_value(filter).unwrap()], Place::Rule, true, nowhere);
    filters.map(|mut filters| filters.list.remove(0)).map_err(|fault| fault.message)
}

fn nowhere(_: &HttpBackendRef) -> Result<Cluster, Fault> {
    Err(Fault::new("BackendNotFound", "there is none"))
}

fn path_of(filter: Filter) -> PathChange {
    let Filter::Rewrite(rewrite) = filter else { panic!("{filter:?}") };
    rewrite.path.unwrap()
}

fn modifier(kind: &str, edits: Value) -> Value {
    let field = format!("{}{}", kind[..1].to_ascii_lowercase(), &kind[1..]);
    json!({"type": kind, field: edits})
}

const MODIFIERS: [&str; 2] = ["RequestHeaderModifier", "ResponseHeaderModifier"];

#[test]
fn no_filter_touches_the_framing_the_connection_or_a_pseudo_header() {
    for kind in MODIFIERS {
        for name in [
            "Content-Length",
            "content_length",
            "Transfer-Encoding",
            "Trailer",
            "Connection",
            "Keep-Alive",
            "Upgrade",
            "TE",
            "HTTP2-Settings",
            "Proxy-Connection",
            "Expect",
            ":path",
            ":authority",
            ":status",
        ] {
            let value = json!([{"name": name, "value": "1"}]);
            for edits in [json!({"set": value}), json!({"add": value}), json!({"remove": [name]})] {
                let why = compiled(modifier(kind, edits.clone())).expect_err(name);
                assert!(why.to_lowercase().contains(&name.to_lowercase()), "{kind} {edits}: {why}");
            }
        }
    }
}

#[test]
fn a_request_has_one_host_whatever_its_filters_are() {
    let host = |value: &str| json!([{"name": "Host", "value": value}]);
    let of = |edits: Value| compiled(modifier("RequestHeaderModifier", edits));
    let one = vec![(header::HOST, HeaderValue::from_static("a.example:81"))];
    for edits in [
        json!({"add": host("a.example:81")}),
        json!({"set": host("a.example:81")}),
        json!({"set": host("b.example"), "add": host("a.example:81")}),
    ] {
        let Filter::RequestHeaders(edits) = of(edits).unwrap() else { panic!() };
        assert_eq!((edits.set, edits.add), (one.clone(), vec![]));
    }
    let why = of(json!({"remove": ["Host"]})).unwrap_err();
    assert!(why.contains("host cannot be removed"), "{why}");
    for bad in ["", "a b@c/d", "user@a", "a, b", "a:port"] {
        let why = of(json!({"set": host(bad)})).expect_err(bad);
        assert!(why.contains("is no host"), "{bad}: {why}");
    }
    // In a response it means nothing.
    assert!(compiled(modifier("ResponseHeaderModifier", json!({"remove": ["Host"]}))).is_ok());
}

#[test]
fn a_rewritten_path_is_in_normal_form_or_refused() {
    let full = |path: &str| {
        let rewrite = json!({"path": {"type": "ReplaceFullPath", "replaceFullPath": path}});
        compiled(json!({"type": "URLRewrite", "urlRewrite": rewrite})).map(path_of)
    };
    assert_eq!(full("/a/../%62"), Ok(PathChange::Full("/b".into())));
    for bad in ["a", "", "/%zz", "/%00", "/..;/a", "/..%2fa", "/a?b", "/a#b", "/a b", "/<"] {
        assert!(full(bad).is_err(), "{bad:?}");
    }
    let prefix = |path: &str| {
        let rewrite = json!({"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": path}});
        compiled(json!({"type": "URLRewrite", "urlRewrite": rewrite})).map(path_of)
    };
    for (given, want) in [("", ""), ("/", ""), ("/a/", "/a"), ("/a/..", ""), ("/%61", "/a")] {
        assert_eq!(prefix(given), Ok(PathChange::Prefix(want.into())), "{given:?}");
    }
    assert!(prefix("/%").is_err() && prefix("a").is_err());
}

fn cors(spec: Value) -> Result<crate::model::http::cors::Cors, String> {
    compiled(json!({"type": "CORS", "cors": spec})).map(|filter| match filter {
        Filter::Cors(cors) => cors,
        other => panic!("{other:?}"),
    })
}

#[test]
fn origins_are_those_that_the_api_means() {
    let admits = |patterns: Value, origin: &str| {
        let cors = cors(json!({"allowOrigins": patterns})).unwrap();
        cors.admits(&HeaderValue::from_bytes(origin.as_bytes()).unwrap())
    };
    for (pattern, yes, no) in [
        (
            "https://www.foo.com",
            &["https://www.foo.com", "https://www.foo.com:443", "https://WWW.foo.com"][..],
            &[
                "http://www.foo.com",
                "https://www.foo.com:444",
                "https://www.foo.com.evil",
                "https://foo.com",
                "null",
                "",
            ][..],
        ),
        (
            "http://foo.com:8080",
            &["http://foo.com:8080"],
            &["http://foo.com", "http://foo.com:80", "https://foo.com:8080"],
        ),
        (
            "https://*.bar.com",
            &["https://www.bar.com", "https://a.b.bar.com"],
            &[
                "https://bar.com",
                "https://foobar.com",
                "https://x.bar.com:1",
                "https://evil/.bar.com",
                "https://a@x.bar.com",
            ],
        ),
        (
            "http://*",
            &["http://a", "http://192.0.2.1", "http://[2001:db8::1]"],
            &["https://a", "http://a:81", "http://"],
        ),
        ("https://*:444", &["https://a:444"], &["https://a"]),
        ("https://192.0.2.1", &["https://192.0.2.1"], &["https://192.0.2.2"]),
        (
            "*",
            &["https://a", "http://a:1", "chrome-extension://abc", "null"],
            &["a", "://a", "https://a b", "https://a, https://b"],
        ),
    ] {
        for origin in yes {
            assert!(admits(json!([pattern]), origin), "{pattern} {origin}");
        }
        for origin in no {
            assert!(!admits(json!([pattern]), origin), "{pattern} {origin}");
        }
    }
    assert!(!admits(json!([]), "https://a"), "nobody is let where nobody is named");
    assert!(admits(json!(["http://a", "https://b"]), "https://b"));
    assert!(!admits(json!(["http://a"]), "http://\u{e4}"));
}

#[test]
fn a_cors_filter_that_makes_no_sense_says_what_it_wants() {
    for (spec, want) in [
        (json!({"allowOrigins": ["foo.com"]}), "foo.com"),
        (json!({"allowOrigins": ["ftp://foo.com"]}), "ftp://foo.com"),
        (json!({"allowOrigins": ["http://"]}), "http://"),
        (json!({"allowOrigins": ["http://foo.com/a"]}), "http://foo.com/a"),
        (json!({"allowOrigins": ["http://foo.com:0"]}), "foo.com:0"),
        (json!({"allowOrigins": ["http://foo.com:65536"]}), "65536"),
        (json!({"allowOrigins": ["http://foo.com:x"]}), "foo.com:x"),
        (json!({"allowOrigins": ["http://foo.*.com"]}), "foo.*.com"),
        (json!({"allowOrigins": ["http://*foo.com"]}), "*foo.com"),
        (json!({"allowOrigins": ["null"]}), "null"),
        (json!({"allowOrigins": ["*", "http://foo.com"]}), "\"*\" and others"),
        (json!({"allowOrigins": vec!["http://a"; 65]}), "65 entries"),
        (json!({"allowMethods": ["get"]}), "\"get\""),
        (json!({"allowMethods": ["*", "GET"]}), "\"*\" and others"),
        (json!({"allowHeaders": ["a b"]}), "a b"),
        (json!({"allowHeaders": ["a\r\nset-cookie: b"]}), "allowHeaders"),
        (json!({"exposeHeaders": [""]}), "exposeHeaders"),
        (json!({"maxAge": -1}), "maxAge -1"),
        (json!({"maxAge": 1_i64 << 40}), "maxAge"),
    ] {
        let why = cors(spec.clone()).expect_err(&spec.to_string());
        assert!(why.contains(want), "{spec}: {why}");
    }
    assert!(compiled(json!({"type": "CORS"})).unwrap_err().contains("empty"));
    let filter = serde_json::from_value(json!({"type": "CORS", "cors": {}})).unwrap();
    let why = compile(&[filter], Place::Backend, true, nowhere).unwrap_err().message;
    assert!(why.contains("want it in the rule"), "{why}");
}
