//! The certificates that listeners show, and Gateways to backends: when they end. The model has no clock, so it is told here.
use std::{collections::BTreeMap, sync::Arc};

use crate::model::{certificate::Certificate, http::HttpModel};

/// How long before its end a certificate is warned of: what renews certificates does it weeks before. Units: seconds.
const SOON: i64 = 7 * DAY;
const DAY: i64 = 24 * 3600;

/// The certificates by their Secrets, each with who shows it: a listener, `namespace/gateway/listener`, or a Gateway to backends.
pub(super) fn all(http: &HttpModel) -> BTreeMap<String, (Arc<Certificate>, String)> {
    let mut out = BTreeMap::new();
    for listener in http.frontends.values().flat_map(|listeners| listeners.iter()) {
        for certificate in listener.tls.iter().flat_map(|tls| &tls.certificates) {
            let shown_by = || format!("{}/{}", listener.gateway, listener.name);
            out.entry(certificate.secret.to_string()).or_insert_with(|| (Arc::clone(certificate), shown_by()));
        }
    }
    for (gateway, identity) in &http.identities {
        let Ok(certificate) = &identity.certificate else { continue };
        out.entry(certificate.secret.to_string()).or_insert_with(|| (Arc::clone(certificate), gateway.to_string()));
    }
    out
}

/// Sentences about certificates that have expired or soon will.
pub(super) fn warnings(http: &HttpModel, now: i64) -> Vec<String> {
    let warning = |(secret, (certificate, listener)): (String, (Arc<Certificate>, String))| {
        let left = certificate.not_after.saturating_sub(now);
        let when = match left {
            SOON.. => return None,
            0.. => format!("expires in {} days", left / DAY),
            _ => "has expired".to_owned(),
        };
        Some(format!("the certificate of Secret {secret}, which {listener} shows, {when}: renew it"))
    };
    all(http).into_iter().filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{self, fixture};

    #[test]
    fn a_certificate_is_warned_of_in_its_last_week_and_once_however_many_listeners_show_it() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let listener = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "cert"}]}});
        let snapshot = fixture::snapshot(&json!([
            {"kind": "Secret", "metadata": {"name": "cert", "namespace": "default"}, "type": "kubernetes.io/tls",
                "stringData": {"tls.crt": made.pem(), "tls.key": key.serialize_pem()}},
            {"kind": "Gateway", "metadata": {"name": "gw", "namespace": "default"},
                "spec": {"gatewayClassName": "sluice", "listeners": [listener("one", 443), listener("two", 8443)]}},
        ]));
        let http = model::compile(&snapshot, &fixture::node(&["198.18.0.0/24"])).http;
        let end = 1_893_456_000;
        assert_eq!(warnings(&http, end - 8 * DAY), [""; 0]);
        let start = "the certificate of Secret default/cert, which default/gw/one shows, ";
        assert_eq!(warnings(&http, end - 3 * DAY - 5), [format!("{start}expires in 3 days: renew it")]);
        assert_eq!(warnings(&http, end + 1), [format!("{start}has expired: renew it")]);
    }
}
