//! The access log: what a line says, which requests have one, what never gets into it.
use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};
use sluice::proxy::{
    Settings,
    access_log::{AccessLog, LineFormat, LogSettings},
};

use crate::{
    harness::{Bed, Client, Origin, SOON, any_listener, catch_all, limited, refusing, status, until},
    websocket::{accept, echo},
};

static FILES: AtomicUsize = AtomicUsize::new(0);

/// A log of its own.
struct Log {
    path: PathBuf,
    settings: Settings,
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Log {
    fn new(change: impl FnOnce(&mut LogSettings)) -> Self {
        let name = format!("sluice-access-{}-{}.log", std::process::id(), FILES.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = Some(path.clone());
        let mut log = LogSettings { format: LineFormat::Json, sample: 1.0, errors: false, query: false, file };
        change(&mut log);
        let (log, _) = AccessLog::start(log).unwrap();
        Self { path, settings: Settings { access_log: Some(log), ..Settings::default() } }
    }

    async fn bed(&self, routes: Value, backends: &[(&str, &[SocketAddr])]) -> Bed {
        Bed::with(self.settings.clone(), any_listener(), routes, backends).await
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// So many lines, once there are.
    async fn lines(&self, n: usize) -> Vec<String> {
        let wait = async {
            loop {
                let lines: Vec<_> = self.text().lines().map(str::to_owned).collect();
                if lines.len() >= n {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let lines = tokio::time::timeout(SOON, wait).await;
        let lines = lines.unwrap_or_else(|_| panic!("want {n} lines of {:?}", self.text()));
        assert_eq!(lines.len(), n, "{lines:#?}");
        lines
    }

    async fn line(&self) -> Value {
        serde_json::from_str(&self.lines(1).await[0]).unwrap()
    }
}

fn without(line: &mut Value, names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| line.as_object_mut().unwrap().remove(*name).unwrap_or(Value::Null)).collect()
}

#[tokio::test]
async fn a_line_says_who_asked_for_what_and_what_became_of_it_and_no_secret() {
    let origin = Origin::named("hello").await;
    let log = Log::new(|_| {});
    let bed = log.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let sent = "POST /x/y?token=s3cret HTTP/1.1\r\nHost: a.example:80\r\nConnection: close\r\nContent-Length: 3\r\n\
        Authorization: Bearer s3cret\r\nCookie: id=s3cret\r\nUser-Agent: test/1\r\nReferer: http://b/c?key=s3cret#s3cret\r\n\
        X-Request-Id: abc-1\r\nX-Forwarded-For: 192.0.2.66\r\n\r\nabc";
    assert_eq!(status(&bed.raw(sent).await), 200);
    let mut line = log.line().await;
    assert!(!log.text().contains("s3cret"), "{}", log.text());
    let [time, peer, took] =
        without(&mut line, &["start_time", "downstream_remote_address", "duration_ms"]).try_into().unwrap();
    assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert!(peer.as_str().unwrap().starts_with("127.0.0.1:") && took.as_f64().unwrap() > 0.0, "{peer} {took}");
    let want = json!({
        "client": "127.0.0.1", "downstream_local_address": bed.addr.to_string(), "method": "POST", "scheme": "http",
        "authority": "a.example:80", "path": "/x/y", "protocol": "HTTP/1.1", "response_code": 200, "bytes_received": 3,
        "bytes_sent": 5, "upstream_host": origin.addr.to_string(), "retries": 0, "gateway": "default/gw", "listener": "web",
        "route_kind": "HTTPRoute", "route": "default/all", "route_rule": 0, "request_id": "abc-1", "user_agent": "test/1",
        "referer": "http://b/c"
    });
    assert_eq!(line, want);
}

#[tokio::test]
async fn text_is_read_by_what_reads_the_logs_of_others_and_queries_are_there_where_they_are_asked_for() {
    let origin = Origin::named("hello").await;
    let log = Log::new(|log| (log.format, log.query) = (LineFormat::Text, true));
    let bed = log.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
    bed.get("/x?q=1", "a", "User-Agent: a\"b\\c\r\nReferer: http://b/?q=2\r\n").await;
    let line = &log.lines(1).await[0];
    let (client, rest) = line.split_once(" - - [").unwrap();
    let (time, rest) = rest.split_once("] ").unwrap();
    assert_eq!(client, "127.0.0.1");
    assert_eq!((time.len(), &time[20..]), ("28/Nov/2026:04:06:22 +0000".len(), " +0000"));
    assert_eq!(rest, "\"GET /x?q=1 HTTP/1.1\" 200 5 \"http://b/?q=2\" \"a\\x22b\\x5Cc\"");
}

#[tokio::test]
async fn the_client_is_whom_trusted_hops_name() {
    let origin = Origin::named("a").await;
    let log = Log::new(|_| {});
    let listeners = limited(any_listener(), &[("trusted-hops", "1")]);
    let bed = Bed::with(log.settings.clone(), listeners, json!([catch_all()]), &[("a", &[origin.addr])]).await;
    bed.get("/", "a", "X-Forwarded-For: 203.0.113.9, 192.0.2.66\r\n").await;
    assert_eq!(log.line().await["client"], "192.0.2.66");
}

#[tokio::test]
async fn of_a_sample_failures_are_logged_where_that_is_asked_for() {
    let mut silent = Origin::start(|client: Client, seen| async move {
        let _ = seen.send(String::new());
        std::future::pending::<()>().await;
        drop(client);
    })
    .await;
    let (good, dead) = (Origin::named("a").await, refusing());
    let rule = |path: &str, to: &str| json!({"matches": [{"path": {"value": path}}], "backendRefs": [{"name": to, "port": 80}]});
    let rules = json!([rule("/good", "good"), rule("/dead", "dead"), rule("/silent", "silent")]);
    let routes = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    let backends: &[(&str, &[SocketAddr])] = &[("good", &[good.addr]), ("dead", &[dead]), ("silent", &[silent.addr])];
    let (failures, none) = (Log::new(|log| (log.sample, log.errors) = (0.0, true)), Log::new(|log| log.sample = 0.0));
    for log in [&failures, &none] {
        let bed = log.bed(routes.clone(), backends).await;
        assert_eq!(status(&bed.get("/good", "a", "").await), 200);
        assert_eq!(status(&bed.get("/nothing", "a", "").await), 404);
        assert_eq!(status(&bed.get("/dead", "a", "").await), 503);
        let mut client = bed.connect().await;
        client.send("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n").await;
        silent.next().await;
        client.stream.set_zero_linger().unwrap();
        drop(client);
        until("the client is gone", || bed.stats.sum(|stats| &stats.active_requests) == 0).await;
    }
    let mut lines = failures.lines(2).await.into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let of = |line: Value| ["path", "response_code", "reason"].map(|name| line[name].clone());
    let dead = of(lines.next().unwrap());
    assert_eq!(dead, [json!("/dead"), json!(503), json!("no endpoint of the backend could be connected")]);
    let left = of(lines.next().unwrap());
    assert_eq!(left, [json!("/silent"), json!(499), json!("the client left before the response")]);
    assert_eq!(none.text(), "");
}

#[tokio::test]
async fn what_the_proxy_answers_itself_has_its_reason_and_a_cut_response_too() {
    let broken = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true).await;
    let rules = json!([
        {"matches": [{"path": {"value": "/cut"}}], "backendRefs": [{"name": "a", "port": 80}]},
        {"matches": [{"path": {"value": "/r"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}]}
    ]);
    let routes = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    let log = Log::new(|_| {});
    let bed = log.bed(routes, &[("a", &[broken.addr])]).await;
    for (i, (path, code, reason)) in [
        ("/none", 404, "no route matches the request"),
        ("/r", 302, "redirected by the route"),
        ("/cut", 200, "the backend broke off its response"),
    ]
    .into_iter()
    .enumerate()
    {
        bed.get(path, "a", "").await;
        let line: Value = serde_json::from_str(&log.lines(i + 1).await[i]).unwrap();
        assert_eq!((&line["response_code"], &line["reason"]), (&json!(code), &json!(reason)), "{line}");
        assert_eq!(line["route"].is_null(), path == "/none");
    }
}

#[tokio::test]
async fn a_line_is_bounded_and_one_line() {
    let origin = Origin::named("a").await;
    for format in [LineFormat::Json, LineFormat::Text] {
        let log = Log::new(|log| log.format = format);
        let bed = log.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
        let (path, agent) = (format!("/{}", "x".repeat(60_000)), "\u{e9}\u{9b}\t".repeat(600));
        assert_eq!(status(&bed.get(&path, "a", &format!("User-Agent: {agent}\r\n")).await), 200);
        let line = &log.lines(1).await[0];
        assert!(line.len() < 10_000 && line.contains("xxx..."), "{}", line.len());
        assert!(!line.contains(|c: char| c.is_control()));
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_logged_when_it_ends() {
    let origin = echo("101 Switching Protocols", accept).await;
    let log = Log::new(|_| {});
    let bed = log.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    let asked = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(asked).await;
    client.until("\r\n\r\n").await;
    client.send("x").await;
    client.until("x").await;
    assert_eq!(log.text(), "", "it goes on");
    drop(client);
    let line = log.line().await;
    assert_eq!((&line["response_code"], &line["path"]), (&json!(101), &json!("/chat")));
    assert_eq!((&line["upstream_host"], &line["reason"]), (&json!(origin.addr.to_string()), &Value::Null));
}

#[tokio::test]
async fn a_file_that_was_renamed_is_opened_anew_and_lines_that_cannot_be_written_are_counted() {
    let origin = Origin::named("a").await;
    let log = Log::new(|_| {});
    let bed = log.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
    bed.get("/first", "a", "").await;
    log.lines(1).await;
    let old = log.path.with_extension("1");
    fs::rename(&log.path, &old).unwrap();
    until("the file is there anew", || log.path.exists()).await;
    bed.get("/second", "a", "").await;
    assert_eq!(log.line().await["path"], "/second");
    assert_eq!(fs::read_to_string(&old).unwrap().lines().count(), 1);
    fs::remove_file(old).unwrap();

    let full = Log::new(|log| log.file = Some("/dev/full".into()));
    let bed = full.bed(json!([catch_all()]), &[("a", &[origin.addr])]).await;
    for _ in 0..3 {
        assert_eq!(status(&bed.get("/", "a", "").await), 200, "requests go on");
    }
    let counts = bed.metrics.log().unwrap();
    until("the lines are counted", || counts.dropped.load(Relaxed) == 3).await;
    assert_eq!(counts.written.load(Relaxed), 0);
    let nowhere = LogSettings {
        format: LineFormat::Json,
        sample: 1.0,
        errors: false,
        query: false,
        file: Some("/nonexistent/access.log".into()),
    };
    let error = AccessLog::start(nowhere).unwrap_err().to_string();
    assert!(error.starts_with("access log /nonexistent/access.log: "), "{error}");
}
