//! What filters may change, and what is said where they may not.
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::*;
use crate::model::http::PathChange;

fn compiled(filter: Value) -> Result<Filter, String> {
    let filters = compile(&[serde_json::from_value(filter).unwrap()], Place::Rule, true);
    filters.map(|mut filters| filters.list.remove(0)).map_err(|fault| fault.message)
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
