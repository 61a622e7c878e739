//! What is counted by route and by backend: exact values after requests with known outcomes.
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sluice::{
    admin::red,
    proxy::Settings,
    telemetry::{Families, exposition},
};

use crate::{
    harness::{Bed, Client, Origin, SOON, any_listener, refusing, status},
    http2::connect,
    http2_origin::{Call, Http2Origin},
    websocket::{accept, echo},
};

/// The lines of a scrape.
fn scrape(bed: &Bed) -> BTreeMap<String, f64> {
    let mut plain = Vec::new();
    let histograms = red::add(&bed.metrics, &mut plain);
    let text = exposition(Families { plain, histograms }).unwrap();
    let sample = |line: &str| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

/// The samples of one family, without the labels that all of the bed's have.
fn family(bed: &Bed, name: &str) -> Vec<String> {
    let common = |line: &str| {
        line.replace("gateway_namespace=\"default\",gateway_name=\"gw\",", "")
            .replace("gateway_namespace=\"default\",gateway_name=\"gw\"", "")
            .replace("backend_kind=\"Service\",backend_namespace=\"default\",", "")
    };
    let of = scrape(bed).into_iter().filter(|(line, _)| line.starts_with(&format!("{name}_total")));
    of.map(|(line, n)| format!("{} {n}", common(&line[name.len() + "_total".len()..]))).collect()
}

/// Waits until a family has these samples.
async fn expect(bed: &Bed, name: &str, want: &[&str]) {
    let wait = async {
        while family(bed, name) != want {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let result = tokio::time::timeout(SOON, wait).await;
    assert!(result.is_ok(), "{name} has {:#?}, want {want:#?}", family(bed, name));
}

/// The value of a line that begins like this.
fn value(bed: &Bed, begins: &str) -> f64 {
    let all = scrape(bed);
    let found: Vec<_> = all.iter().filter(|(line, _)| line.starts_with(begins)).collect();
    let [(_, value)] = found[..] else { panic!("{begins}: {found:?} of {all:#?}") };
    *value
}

fn rules(rules: Value) -> Value {
    json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["a.example"],
        "rules": rules}}])
}

fn to(service: &str) -> Value {
    json!([{"name": service, "port": 80}])
}

/// One rule that asks for this, to `a`.
async fn bed(rule: Value, backends: &[SocketAddr]) -> Bed {
    let mut whole = json!({"backendRefs": to("a")});
    whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    Bed::new(any_listener(), rules(json!([whole])), &[("a", backends)]).await
}

const RULE: &str = "route_kind=\"HTTPRoute\",route_namespace=\"default\",route_name=\"r\",route_rule=\"0\"";

fn line(method: &str, class: &str, n: u64) -> String {
    format!("{{{RULE},method=\"{method}\",class=\"{class}\"}} {n}")
}

fn tries(class: &str, n: u64) -> String {
    format!("{{backend_name=\"a\",backend_port=\"80\",class=\"{class}\"}} {n}")
}

async fn expect_requests(bed: &Bed, want: &[(&str, &str, u64)]) {
    let want: Vec<_> = want.iter().map(|(method, class, n)| line(method, class, *n)).collect();
    expect(bed, "sluice_proxy_requests", &want.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

async fn expect_tries(bed: &Bed, want: &[(&str, u64)]) {
    let want: Vec<_> = want.iter().map(|(class, n)| tries(class, *n)).collect();
    expect(bed, "sluice_proxy_backend_requests", &want.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn requests_are_counted_by_rule_method_and_class_and_what_has_no_rule_by_gateway() {
    let (a, b) =
        (Origin::named("a").await, Origin::answering("HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno", false).await);
    let other = json!({"matches": [{"path": {"value": "/b"}}], "backendRefs": to("b")});
    let redirect = json!({"matches": [{"path": {"value": "/r"}}],
        "filters": [{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/"}}}]});
    let routes = rules(json!([{"backendRefs": to("a")}, other, redirect]));
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    for _ in 0..3 {
        assert_eq!(status(&bed.get("/", "a.example", "").await), 200);
    }
    bed.get("/b", "a.example", "").await;
    bed.get("/r", "a.example", "").await;
    bed.get("/", "b.example", "").await;
    bed.raw("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n").await;
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    bed.raw(post).await;
    for invented in ["BREW", "PROPFIND", "X1"] {
        bed.raw(format!("{invented} / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")).await;
    }
    let rule = |n: u64| RULE.replace("\"0\"", &format!("\"{n}\""));
    let mut want = vec![
        format!("{{{},method=\"GET\",class=\"2xx\"}} 3", rule(0)),
        format!("{{{},method=\"POST\",class=\"2xx\"}} 1", rule(0)),
        format!("{{{},method=\"GET\",class=\"4xx\"}} 1", rule(1)),
        format!("{{{},method=\"GET\",class=\"3xx\"}} 1", rule(2)),
        "{route_kind=\"none\",method=\"GET\",class=\"4xx\"} 2".to_owned(),
    ];
    let methods = family(&bed, "sluice_proxy_requests").into_iter().filter(|line| line.contains("\"other\"")).count();
    assert_eq!(methods, 1, "methods that clients invent are one");
    let invented: Vec<_> =
        family(&bed, "sluice_proxy_requests").into_iter().filter(|line| line.contains("\"other\"")).collect();
    assert!(invented[0].ends_with(" 3"), "{invented:?}");
    want.extend(invented);
    want.sort();
    expect(&bed, "sluice_proxy_requests", &want.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let of_rule = format!("{{{RULE}}}");
    let response_bytes = family(&bed, "sluice_proxy_response_body_bytes");
    assert!(response_bytes.contains(&format!("{of_rule} 7")), "{response_bytes:?}");
    expect(&bed, "sluice_proxy_request_body_bytes", &[&format!("{of_rule} 5")]).await;
    let count = "sluice_proxy_request_duration_seconds_count{gateway_namespace=\"default\",gateway_name=\"gw\",route_kind=\"HTTPRoute\"";
    assert!(value(&bed, count) >= 6.0, "one histogram for all rules of a route");
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_once_as_aborted() {
    let silent = Origin::start(|client: Client, seen| async move {
        let _ = seen.send(String::new());
        std::future::pending::<()>().await;
        drop(client);
    });
    let mut silent = silent.await;
    let bed = bed(json!({}), &[silent.addr]).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    silent.next().await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    expect_requests(&bed, &[("GET", "aborted", 1)]).await;
    expect_tries(&bed, &[("aborted", 1)]).await;
    assert!(family(&bed, "sluice_proxy_cut_responses").is_empty(), "none had begun");
}

#[tokio::test]
async fn a_streamed_response_takes_until_its_end_and_one_that_is_cut_says_by_whom() {
    const PART: Duration = Duration::from_millis(300);
    let origin = Origin::start(|mut client: Client, _| async move {
        let Some(head) = client.message().await else { return };
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        if head.starts_with("GET /slow") {
            tokio::time::sleep(PART).await;
            client.send("0\r\n\r\n").await;
        } else if head.starts_with("GET /open") {
            std::future::pending::<()>().await;
        }
    })
    .await;
    let bed = bed(json!({}), &[origin.addr]).await;
    assert!(bed.get("/slow", "a.example", "").await.contains("hello"));
    expect_requests(&bed, &[("GET", "2xx", 1)]).await;
    let sum = value(&bed, "sluice_proxy_request_duration_seconds_sum");
    assert!(sum >= PART.as_secs_f64(), "{sum}");
    let below = scrape(&bed).into_iter().find(|(line, _)| {
        line.starts_with("sluice_proxy_request_duration_seconds_bucket") && line.contains("le=\"0.25\"")
    });
    assert!(below.is_some_and(|(_, n)| n == 0.0));
    assert!(family(&bed, "sluice_proxy_cut_responses").is_empty());
    bed.get("/broken", "a.example", "").await;
    let cut = |by: &str| format!("{{{RULE},by=\"{by}\"}} 1");
    expect(&bed, "sluice_proxy_cut_responses", &[&cut("backend")]).await;
    let mut client = bed.connect().await;
    client.send("GET /open HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    client.until("hello").await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    expect(&bed, "sluice_proxy_cut_responses", &[&cut("backend"), &cut("client")]).await;
    expect_requests(&bed, &[("GET", "2xx", 3)]).await;
    expect_tries(&bed, &[("2xx", 3)]).await;
    expect(&bed, "sluice_proxy_response_body_bytes", &[&format!("{{{RULE}}} 15")]).await;
}

#[tokio::test]
async fn whole_responses_are_never_cut_ones() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let origin = Origin::start(move |mut client: Client, _| async move {
        while let Some(request) = client.message().await {
            let answer = match &request[..request.find(' ').unwrap()] {
                "HEAD" => head.to_owned(),
                "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
                "PUT" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(),
                _ => format!("{head}hello"),
            };
            client.send(answer).await;
        }
    })
    .await;
    let bed = bed(json!({}), &[origin.addr]).await;
    for method in ["GET", "HEAD", "DELETE", "PUT"] {
        bed.raw(format!("{method} / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
            .await;
    }
    // And once more, as one client.
    let mut client = bed.connect().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        client.response().await;
    }
    drop(client);
    expect_requests(&bed, &[("DELETE", "2xx", 1), ("GET", "2xx", 3), ("HEAD", "2xx", 1), ("PUT", "3xx", 1)]).await;
    assert_eq!(family(&bed, "sluice_proxy_cut_responses"), Vec::<String>::new());
}

#[tokio::test]
async fn no_endpoint_no_connection_and_no_time_are_told_apart() {
    let none = bed(json!({}), &[]).await;
    assert_eq!(status(&none.get("/", "a.example", "").await), 503);
    expect_requests(&none, &[("GET", "5xx", 1)]).await;
    assert!(family(&none, "sluice_proxy_backend_requests").is_empty(), "nobody had it");

    let dead = bed(json!({}), &[refusing()]).await;
    assert_eq!(status(&dead.get("/", "a.example", "").await), 503);
    expect_requests(&dead, &[("GET", "5xx", 1)]).await;
    assert!(family(&dead, "sluice_proxy_backend_requests").is_empty());
    let of_a = |n: u64| format!("{{backend_name=\"a\",backend_port=\"80\"}} {n}");
    let tried = value(&dead, "sluice_proxy_backend_connect_errors_total");
    assert_eq!(tried, dead.stats.sum(|s| &s.connect_errors) as f64);
    expect(&dead, "sluice_proxy_backend_ejections", &[&of_a(1)]).await;

    let silent = Origin::start(|client: Client, _| async move {
        std::future::pending::<()>().await;
        drop(client);
    });
    let late = bed(json!({"timeouts": {"request": "100ms"}}), &[silent.await.addr]).await;
    assert_eq!(status(&late.get("/", "a.example", "").await), 504);
    expect_requests(&late, &[("GET", "5xx", 1)]).await;
    expect_tries(&late, &[("timeout", 1)]).await;

    let broken = Origin::answering("nonsense\r\n\r\n", true).await;
    let broken = bed(json!({}), &[broken.addr]).await;
    assert_eq!(status(&broken.get("/", "a.example", "").await), 502);
    expect_tries(&broken, &[("broken", 1)]).await;
}

#[tokio::test]
async fn a_retried_request_is_one_request_and_several_tries() {
    let (origin, _) = crate::retries::sequence(&["503 No", "503 No", "200 OK"]).await;
    let bed = bed(json!({"retry": {"attempts": 3, "codes": [503], "backoff": "1ms"}}), &[origin.addr]).await;
    assert_eq!(status(&bed.get("/", "a.example", "").await), 200);
    expect_requests(&bed, &[("GET", "2xx", 1)]).await;
    expect_tries(&bed, &[("2xx", 1), ("5xx", 2)]).await;
    expect(&bed, "sluice_proxy_backend_retries", &["{backend_name=\"a\",backend_port=\"80\"} 2"]).await;
    assert_eq!(value(&bed, "sluice_proxy_backend_first_byte_seconds_count"), 3.0);
}

#[tokio::test]
async fn copies_are_tries_of_their_backend_and_no_requests() {
    let (a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "b", "port": 80}}});
    let routes = rules(json!([{"filters": [mirror], "backendRefs": to("a")}]));
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    bed.get("/", "a.example", "").await;
    b.next().await;
    expect_requests(&bed, &[("GET", "2xx", 1)]).await;
    let of_b = tries("2xx", 1).replace("\"a\"", "\"b\"");
    expect(&bed, "sluice_proxy_backend_requests", &[&tries("2xx", 1), &of_b]).await;
}

#[tokio::test]
async fn an_upgraded_connection_is_a_request_that_ended_when_it_switched() {
    let origin = echo("101 Switching Protocols", accept).await;
    let bed = bed(json!({}), &[origin.addr]).await;
    let mut client = bed.connect().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    client.until("\r\n\r\n").await;
    client.send("x").await;
    client.until("x").await;
    expect_requests(&bed, &[("GET", "1xx", 1)]).await;
    expect_tries(&bed, &[("1xx", 1)]).await;
    drop(client);
    crate::harness::until("the tunnel ends", || bed.stats.sum(|s| &s.tunnels) == 0).await;
    expect_requests(&bed, &[("GET", "1xx", 1)]).await;
    assert!(family(&bed, "sluice_proxy_cut_responses").is_empty());
}

#[tokio::test]
async fn a_call_has_the_status_of_its_trailers() {
    let origin = Http2Origin::start(None, |mut call: Call| async move {
        let path = call.request.uri().path().to_owned();
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut out = call.respond.send_response(head, false).unwrap();
        out.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
        let code = match path.as_str() {
            "/s/ok" => "0",
            "/s/missing" => "5",
            _ => "nonsense",
        };
        out.send_trailers(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]))
            .unwrap();
    })
    .await;
    let routes = rules(json!([{"backendRefs": to("h2c")}]));
    let bed = Bed::new(any_listener(), routes, &[("h2c", &[origin.addr])]).await;
    let mut client = connect(&bed).await;
    for path in ["/s/ok", "/s/ok", "/s/missing", "/s/odd"] {
        let call = Request::post(format!("http://a.example{path}"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")).boxed())
            .unwrap();
        client.send_request(call).await.unwrap().into_body().collect().await.unwrap();
    }
    let codes = ["NOT_FOUND", "OK", "UNKNOWN"].map(|code| format!("{{{RULE},grpc_code=\"{code}\"}} "));
    let want = [format!("{}1", codes[0]), format!("{}2", codes[1]), format!("{}1", codes[2])];
    expect(&bed, "sluice_proxy_grpc_responses", &want.each_ref().map(String::as_str)).await;
    expect_requests(&bed, &[("POST", "2xx", 4)]).await;
    assert!(family(&bed, "sluice_proxy_cut_responses").is_empty());
}

#[tokio::test]
async fn series_are_bounded_and_end_with_what_they_are_about() {
    let origin = Origin::named("a").await;
    let settings = Settings { max_series: 3, ..Settings::default() };
    let rule = |path: &str| json!({"matches": [{"path": {"value": path}}], "backendRefs": to("a")});
    let all = rules(json!([rule("/0"), rule("/1"), rule("/2"), rule("/3"), rule("/4")]));
    let bed = Bed::with(settings, any_listener(), all.clone(), &[("a", &[origin.addr])]).await;
    for path in ["/0", "/1", "/2", "/3", "/4", "/4"] {
        bed.get(path, "a.example", "").await;
    }
    let own = |rule: u64, n: u64| line("GET", "2xx", n).replace("rule=\"0\"", &format!("rule=\"{rule}\""));
    let other = "{route_kind=\"other\",method=\"GET\",class=\"2xx\"} 3";
    expect(&bed, "sluice_proxy_requests", &[&own(0, 1), &own(1, 1), &own(2, 1), other]).await;
    // A change of a rule goes on counting.
    let mut changed = all.clone();
    changed[0]["spec"]["rules"][0]["timeouts"] = json!({"request": "9s"});
    bed.serve(any_listener(), changed, &[("a", &[origin.addr])]).await;
    bed.get("/0", "a.example", "").await;
    expect(&bed, "sluice_proxy_requests", &[&own(0, 2), &own(1, 1), &own(2, 1), other]).await;
    // Two rules go, and leave room for others.
    bed.serve(any_listener(), rules(json!([rule("/0")])), &[("a", &[origin.addr])]).await;
    expect(&bed, "sluice_proxy_requests", &[&own(0, 2), other]).await;
    bed.serve(any_listener(), all, &[("a", &[origin.addr])]).await;
    bed.get("/1", "a.example", "").await;
    expect(&bed, "sluice_proxy_requests", &[&own(0, 2), &own(1, 1), other]).await;
    let backends = family(&bed, "sluice_proxy_backend_requests");
    assert_eq!(backends, [tries("2xx", 8)]);
    bed.serve(any_listener(), json!([]), &[("a", &[origin.addr])]).await;
    expect(&bed, "sluice_proxy_requests", &[other]).await;
    assert!(family(&bed, "sluice_proxy_backend_requests").is_empty());

    let settings = Settings { max_series: 0, ..Settings::default() };
    let off = Bed::with(settings, any_listener(), rules(json!([rule("/")])), &[("a", &[origin.addr])]).await;
    assert_eq!(status(&off.get("/", "a.example", "").await), 200);
    assert_eq!(scrape(&off), BTreeMap::new());
}

#[tokio::test]
async fn what_the_workers_count_adds_up() {
    let origin = Origin::named("a").await;
    let backends: &[(&str, &[SocketAddr])] = &[("a", &[origin.addr])];
    let routes = rules(json!([{"backendRefs": to("a")}]));
    let bed = Bed::on(3, Settings::default(), any_listener(), routes, backends).await;
    for _ in 0..30 {
        bed.get("/", "a.example", "").await;
    }
    expect_requests(&bed, &[("GET", "2xx", 30)]).await;
    expect_tries(&bed, &[("2xx", 30)]).await;
    assert_eq!(value(&bed, "sluice_proxy_request_duration_seconds_count"), 30.0);
    assert!(bed.stats.each(|stats| &stats.accepted).iter().all(|n| *n > 0), "each has served some");
}
