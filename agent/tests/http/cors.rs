//! Cross-origin requests: who gets which answer, byte for byte.
use serde_json::{Value, json};

use crate::harness::{Bed, Origin, any_listener, header, status};

/// A proxy with one rule that has this CORS filter, beside `more`, to `a`.
async fn bed(cors: Value, more: &[Value], a: &Origin) -> Bed {
    let mut filters = vec![json!({"type": "CORS", "cors": cors})];
    filters.extend_from_slice(more);
    let rules = json!([{"filters": filters, "backendRefs": [{"name": "a", "port": 80}]}]);
    let route = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    Bed::new(any_listener(), route, &[("a", &[a.addr])]).await
}

async fn preflight(bed: &Bed, origin: &str, method: &str, headers: &str) -> String {
    let asked =
        if headers.is_empty() { String::new() } else { format!("Access-Control-Request-Headers: {headers}\r\n") };
    let head = "OPTIONS / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    bed.raw(format!("{head}Origin: {origin}\r\nAccess-Control-Request-Method: {method}\r\n{asked}\r\n")).await
}

/// What a response says in its CORS fields, by the ends of their names.
fn says(response: &str) -> Vec<(String, &str)> {
    let head = response.split("\r\n\r\n").next().unwrap();
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut found: Vec<_> = fields
        .map(|(name, value)| (name.to_lowercase(), value))
        .filter_map(|(name, value)| Some((name.strip_prefix("access-control-")?.to_owned(), value)))
        .collect();
    found.sort();
    found
}

fn pairs<'a>(all: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn vary(response: &str) -> Vec<String> {
    let head = response.split("\r\n\r\n").next().unwrap().to_lowercase();
    head.lines().filter_map(|line| line.strip_prefix("vary: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_proxy() {
    let mut a = Origin::named("a").await;
    let cors = json!({"allowOrigins": ["https://www.foo.com", "https://*.bar.com"], "allowMethods": ["GET", "OPTIONS"],
        "allowHeaders": ["x-header-1", "X-Header-2"], "exposeHeaders": ["x-header-3"], "allowCredentials": true,
        "maxAge": 3600});
    let bed = bed(cors, &[], &a).await;
    for origin in ["https://www.foo.com", "https://a.b.bar.com"] {
        let response = preflight(&bed, origin, "GET", "x-header-1").await;
        assert_eq!(status(&response), 204);
        let want = [
            ("allow-credentials", "true"),
            ("allow-headers", "x-header-1, X-Header-2"),
            ("allow-methods", "GET, OPTIONS"),
            ("allow-origin", origin),
            ("expose-headers", "x-header-3"),
            ("max-age", "3600"),
        ];
        assert_eq!(says(&response), pairs(&want));
        assert_eq!(vary(&response), ["origin", "access-control-request-method", "access-control-request-headers"]);
        assert!(header(&response, "content-length").is_none(), "{response}");
    }
    for origin in ["https://bar.com", "http://www.foo.com", "null", "https://www.foo.com, https://www.foo.com"] {
        let response = preflight(&bed, origin, "GET", "").await;
        assert_eq!((status(&response), says(&response)), (403, vec![]), "{origin}");
        assert_eq!(vary(&response)[0], "origin");
    }
    assert!(a.untouched());
}

#[tokio::test]
async fn only_a_preflight_is_one() {
    let mut a = Origin::named("a").await;
    let bed = bed(json!({"allowOrigins": ["https://foo.com"]}), &[], &a).await;
    for (method, fields) in [
        ("OPTIONS", "Origin: https://foo.com\r\n"),
        ("OPTIONS", "Access-Control-Request-Method: GET\r\n"),
        ("GET", "Origin: https://foo.com\r\nAccess-Control-Request-Method: GET\r\n"),
    ] {
        let response = bed.raw(format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n")).await;
        assert_eq!(status(&response), 200, "{method} {fields}");
        assert!(a.next().await.starts_with(method));
    }
}

#[tokio::test]
async fn a_response_says_whose_pages_may_use_it_and_the_backend_has_no_say() {
    let loose = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nVary: Accept\r\nContent-Length: 0\r\n\r\n";
    let a = Origin::answering(loose, false).await;
    let cors = json!({"allowOrigins": ["https://foo.com"], "exposeHeaders": ["x-a", "x-b", "X-A"]});
    let bed = bed(cors, &[], &a).await;
    let of = async |fields: &str| bed.get("/", "x", fields).await;
    let response = of("Origin: https://foo.com\r\n").await;
    assert_eq!(says(&response), pairs(&[("allow-origin", "https://foo.com"), ("expose-headers", "x-a, x-b")]));
    assert_eq!(vary(&response), ["accept", "origin"]);
    for fields in ["", "Origin: https://evil.com\r\n", "Origin: https://foo.com\r\nOrigin: https://foo.com\r\n"] {
        let response = of(fields).await;
        assert_eq!((status(&response), says(&response)), (200, vec![]), "{fields}");
        assert_eq!(vary(&response), ["accept", "origin"], "a cache must not give it to pages that may use it");
    }
}

#[tokio::test]
async fn with_credentials_a_wildcard_says_back_what_was_asked() {
    let answer = "HTTP/1.1 200 OK\r\nX-A: 1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n";
    let a = Origin::answering(answer, false).await;
    let all = |credentials: bool| {
        json!({"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"], "exposeHeaders": ["*"],
            "allowCredentials": credentials})
    };
    let with = bed(all(true), &[], &a).await;
    let response = preflight(&with, "https://foo.com:1", "PUT", "X-One,authorization").await;
    let mut want = vec![
        ("allow-credentials", "true"),
        ("allow-headers", "x-one, authorization"),
        ("allow-methods", "PUT"),
        ("allow-origin", "https://foo.com:1"),
        ("expose-headers", "vary"),
        ("max-age", "5"),
    ];
    assert_eq!(says(&response), pairs(&want));
    let response = preflight(&with, "https://foo.com:1", "PUT", "").await;
    want.remove(1);
    assert_eq!(says(&response), pairs(&want), "nothing was asked");
    let response = with.get("/", "x", "Origin: https://foo.com\r\n").await;
    let exposed = says(&response).into_iter().find(|(name, _)| name == "expose-headers").unwrap().1;
    assert_eq!(exposed, "x-a, content-length, vary");

    let without = bed(all(false), &[], &a).await;
    let response = preflight(&without, "https://foo.com", "PUT", "authorization").await;
    let want = [
        ("allow-headers", "authorization"),
        ("allow-methods", "*"),
        ("allow-origin", "*"),
        ("expose-headers", "*"),
        ("max-age", "5"),
    ];
    assert_eq!(says(&response), pairs(&want));
    let response = without.get("/", "x", "").await;
    assert_eq!(says(&response), pairs(&[("allow-origin", "*"), ("expose-headers", "*")]));
    assert_eq!(vary(&response), Vec::<String>::new(), "it is the same for everybody");
}

#[tokio::test]
async fn h113_nothing_that_is_no_name_is_said_back_and_null_gets_no_credentials() {
    let a = Origin::named("a").await;
    let all = json!({"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"], "allowCredentials": true});
    let bed = bed(all, &[], &a).await;
    for origin in
        ["null", "https://a b", "https://a\tb", "https://user@a", "javascript:alert(1)", "https://a;b", "*", "\u{e4}"]
    {
        let response = preflight(&bed, origin, "GET", "").await;
        assert_eq!((status(&response), says(&response)), (403, vec![]), "{origin}");
        assert_eq!(says(&bed.get("/", "x", &format!("Origin: {origin}\r\n")).await), vec![], "{origin}");
    }
    for (method, headers) in [("GE T", "a b"), ("GET\t,", "x;y"), ("(", "x, \u{e4}")] {
        let response = preflight(&bed, "https://a", method, headers).await;
        let names: Vec<String> = says(&response).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["allow-credentials", "allow-origin", "max-age"], "{method} {headers}");
    }
    let many = vec!["x"; 65].join(",");
    assert!(!preflight(&bed, "https://a", "GET", &many).await.contains("allow-headers"));
}

#[tokio::test]
async fn local_replies_and_redirects_say_it_too() {
    let a = Origin::named("a").await;
    let cors = json!({"allowOrigins": ["https://foo.com"]});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}});
    let bed = bed(cors.clone(), &[redirect], &a).await;
    let response = bed.get("/", "x", "Origin: https://foo.com\r\n").await;
    assert_eq!((status(&response), says(&response)), (302, pairs(&[("allow-origin", "https://foo.com")])));

    let rules = json!([{"filters": [{"type": "CORS", "cors": cors}], "backendRefs": [{"name": "none", "port": 80}]}]);
    let route = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    bed.serve(any_listener(), route, &[]).await;
    let response = bed.get("/", "x", "Origin: https://foo.com\r\n").await;
    assert_eq!((status(&response), says(&response)), (500, pairs(&[("allow-origin", "https://foo.com")])));
}
