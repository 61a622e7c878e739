//! The forms of a line.
use std::fmt::Write as _;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use super::entry::Entry;
use crate::printable::printable_json;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// One JSON object a line, with all fields.
    Json,
    /// The Combined Log Format of Apache and nginx, which existing tools read.
    Text,
}

impl LineFormat {
    /// Appends an entry, with its line end.
    pub(super) fn write(self, entry: &Entry, out: &mut String) {
        match self {
            Self::Json => json(entry, out),
            Self::Text => text(entry, out),
        }
        out.push('\n');
    }
}

/// The fields in JSON. Those that Envoy's access log has are named as there.
#[derive(Serialize)]
struct Fields<'a> {
    start_time: String,
    client: String,
    downstream_remote_address: String,
    downstream_local_address: String,
    method: &'a str,
    scheme: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
    path: String,
    protocol: &'a str,
    response_code: u16,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_host: Option<String>,
    retries: u32,
    gateway: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_rule: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_server_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

fn json(entry: &Entry, out: &mut String) {
    let lossy = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let fields = Fields {
        start_time: time(entry, "%Y-%m-%dT%H:%M:%S%.3fZ"),
        client: lossy(&entry.client),
        downstream_remote_address: entry.peer.to_string(),
        downstream_local_address: entry.local.to_string(),
        method: &entry.method,
        scheme: entry.scheme,
        authority: entry.authority.as_ref().map(lossy),
        path: lossy(&entry.target),
        protocol: entry.protocol,
        response_code: entry.status,
        bytes_received: entry.received,
        bytes_sent: entry.sent,
        duration_ms: entry.took.as_secs_f64() * 1e3,
        upstream_host: entry.endpoint.map(|endpoint| endpoint.to_string()),
        retries: entry.retries,
        gateway: entry.gateway.to_string(),
        listener: entry.listener.as_deref(),
        route_kind: entry.rule.as_ref().map(|(kind, ..)| kind.name()),
        route: entry.rule.as_ref().map(|(_, route, _)| route.to_string()),
        route_rule: entry.rule.as_ref().map(|(.., index)| *index),
        request_id: entry.request_id.as_ref().map(lossy),
        user_agent: entry.user_agent.as_ref().map(lossy),
        referer: entry.referer.as_ref().map(lossy),
        tls_version: entry.tls.as_ref().map(|(version, _)| *version),
        requested_server_name: entry.tls.as_ref().and_then(|(_, name)| name.as_ref().map(lossy)),
        grpc_status: entry.grpc,
        reason: entry.reason,
    };
    let text = serde_json::to_string(&fields).expect("texts and numbers are JSON");
    out.push_str(&printable_json(&text));
}

fn text(entry: &Entry, out: &mut String) {
    escape(&entry.client, out);
    let _ = write!(out, " - - [{}] \"", time(entry, "%d/%b/%Y:%H:%M:%S +0000"));
    escape(entry.method.as_bytes(), out);
    out.push(' ');
    escape(&entry.target, out);
    let _ = write!(out, " {}\" {} {}", entry.protocol, entry.status, entry.sent);
    for field in [&entry.referer, &entry.user_agent] {
        out.push_str(" \"");
        escape(field.as_deref().unwrap_or(b"-"), out);
        out.push('"');
    }
}

fn time(entry: &Entry, form: &str) -> String {
    let at = Timestamp::try_from(entry.at).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime(form).to_string()
}

/// Printable ASCII as it is, the rest as `\x0a`, as nginx has it: no quote ends a field, nothing ends a line.
fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => _ = write!(out, "\\x{byte:02X}"),
            _ => out.push(char::from(*byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::api::{ObjectName, RouteKind};

    fn entry() -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_838_782_042),
            client: b"192.0.2.7".to_vec(),
            method: "GET".to_owned(),
            authority: Some(b"a.example".to_vec()),
            target: b"/x".to_vec(),
            sent: 5,
            took: Duration::from_micros(1500),
            gateway: ObjectName::new("default", "gw"),
            ..Entry::default()
        }
    }

    fn line(format: LineFormat, entry: &Entry) -> String {
        let mut out = String::new();
        format.write(entry, &mut out);
        out
    }

    #[test]
    fn text_is_the_combined_log_format() {
        let whole = Entry { referer: Some(b"http://b/".to_vec()), user_agent: Some(b"curl/8".to_vec()), ..entry() };
        let want = "192.0.2.7 - - [28/Nov/2026:04:06:22 +0000] \"GET /x HTTP/1.1\" 200 5 \"http://b/\" \"curl/8\"\n";
        assert_eq!(line(LineFormat::Text, &whole), want);
        let bare = "192.0.2.7 - - [28/Nov/2026:04:06:22 +0000] \"GET /x HTTP/1.1\" 200 5 \"-\" \"-\"\n";
        assert_eq!(line(LineFormat::Text, &entry()), bare);
    }

    #[test]
    fn json_has_what_there_is() {
        let rule = Some((RouteKind::Http, ObjectName::new("default", "r"), 1));
        let whole = Entry { rule, tls: Some(("TLSv1.3", Some(b"a.example".to_vec()))), grpc: Some("OK"), ..entry() };
        let read: serde_json::Value = serde_json::from_str(&line(LineFormat::Json, &whole)).unwrap();
        let want = serde_json::json!({
            "start_time": "2026-11-28T04:06:22.042Z", "client": "192.0.2.7",
            "downstream_remote_address": "0.0.0.0:0", "downstream_local_address": "0.0.0.0:0",
            "method": "GET", "scheme": "http", "authority": "a.example", "path": "/x", "protocol": "HTTP/1.1",
            "response_code": 200, "bytes_received": 0, "bytes_sent": 5, "duration_ms": 1.5, "retries": 0,
            "gateway": "default/gw", "route_kind": "HTTPRoute", "route": "default/r", "route_rule": 1,
            "tls_version": "TLSv1.3", "requested_server_name": "a.example", "grpc_status": "OK"
        });
        assert_eq!(read, want);
    }

    #[test]
    fn what_a_client_writes_ends_neither_field_nor_line() {
        let nasty = b"/\"\\\n\r\t\x1b[2J\x7f\xc2\x9b\xe2\x80\xae\xff".to_vec();
        let all = Entry {
            target: nasty.clone(),
            client: nasty.clone(),
            user_agent: Some(nasty.clone()),
            referer: Some(nasty.clone()),
            authority: Some(nasty),
            ..entry()
        };
        for format in [LineFormat::Text, LineFormat::Json] {
            let line = line(format, &all);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            let is_safe = |c: char| !c.is_control() && c != '\u{202e}' && (format == LineFormat::Json || c.is_ascii());
            assert!(line.trim_end_matches('\n').chars().all(is_safe), "{line:?}");
            if format == LineFormat::Text {
                assert_eq!(line.matches('"').count(), 6, "{line:?}");
            } else {
                let read: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(read["path"], "/\"\\\n\r\t\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{fffd}");
            }
        }
    }
}
