//! What clients must show at HTTPS listeners: `spec.tls.frontend`.
use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use sluice::proxy::Settings;

use crate::{
    harness::{Bed, Origin, catch_all},
    tls::{Made, handshake, listener, made, said, secret},
};

fn authority(name: &str, made: &Made) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": made.certificate}})
}

fn validation(name: &str, mode: Option<&str>) -> Value {
    json!({"validation": {"caCertificateRefs": [{"kind": "ConfigMap", "group": "", "name": name}], "mode": mode}})
}

/// A client that trusts the server and shows a certificate, or none.
fn showing(server: &Made, shown: Option<&Made>, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(made) => {
            let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

/// Whether a request is answered.
async fn is_served(bed: &Bed, config: &Arc<ClientConfig>) -> bool {
    // With TLS 1.3 the client is told only after its own handshake is done.
    let Ok(mut client) = handshake(bed, config, "a.example").await else { return false };
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    said(&mut client, request).await.starts_with("HTTP/1.1 200 ")
}

async fn bed(objects: Value, frontend: Value, backend: &Origin) -> Bed {
    let spec = json!({"tls": {"frontend": frontend}, "listeners": [listener("web", None, &["cert"])]});
    Bed::secured(1, Settings::default(), objects, spec, json!([catch_all()]), &[("a", &[backend.addr])]).await
}

#[tokio::test]
async fn who_shows_no_certificate_of_an_authority_is_refused() {
    let [server, good, bad] = [made(&["a.example"]), made(&["good"]), made(&["bad"])];
    let mut backend = Origin::named("a").await;
    let objects = json!([secret("cert", &server), authority("ca", &good)]);
    let bed = bed(objects, json!({"default": validation("ca", None)}), &backend).await;
    for version in [&TLS12, &TLS13] {
        assert!(!is_served(&bed, &showing(&server, None, version)).await, "{version:?}");
        assert!(!is_served(&bed, &showing(&server, Some(&bad), version)).await, "{version:?}");
        assert!(backend.untouched());
        assert!(is_served(&bed, &showing(&server, Some(&good), version)).await, "{version:?}");
        backend.next().await;
    }
}

#[tokio::test]
async fn the_validation_of_the_port_stands_for_the_default_one() {
    let [server, of_all, of_port] = [made(&["a.example"]), made(&["all"]), made(&["port"])];
    let backend = Origin::named("a").await;
    let objects = json!([secret("cert", &server), authority("all", &of_all), authority("port", &of_port)]);
    let mut bed = bed(objects.clone(), json!({"default": validation("all", None)}), &backend).await;
    assert!(is_served(&bed, &showing(&server, Some(&of_all), &TLS13)).await);
    let frontend = json!({"default": validation("all", None),
        "perPort": [{"port": bed.addr.port(), "tls": validation("port", None)}]});
    let spec = json!({"tls": {"frontend": frontend}, "listeners": [listener("web", None, &["cert"])]});
    bed.exchange(objects, spec, json!([catch_all()]), &[("a", &[backend.addr])]).await;
    assert!(is_served(&bed, &showing(&server, Some(&of_port), &TLS13)).await);
    assert!(!is_served(&bed, &showing(&server, Some(&of_all), &TLS13)).await);
}

#[tokio::test]
async fn with_the_insecure_fallback_any_certificate_or_none_will_do() {
    let [server, good, bad] = [made(&["a.example"]), made(&["good"]), made(&["bad"])];
    let backend = Origin::named("a").await;
    let objects = json!([secret("cert", &server), authority("ca", &good)]);
    let bed = bed(objects, json!({"default": validation("ca", Some("AllowInsecureFallback"))}), &backend).await;
    for version in [&TLS12, &TLS13] {
        for shown in [None, Some(&bad), Some(&good)] {
            assert!(is_served(&bed, &showing(&server, shown, version)).await, "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_ticket_does_not_outlive_the_authority_that_it_was_given_under() {
    let [server, old, new] = [made(&["a.example"]), made(&["old"]), made(&["new"])];
    let backend = Origin::named("a").await;
    let frontend = json!({"default": validation("ca", None)});
    let objects = |made: &Made| json!([secret("cert", &server), authority("ca", made)]);
    let mut bed = bed(objects(&old), frontend.clone(), &backend).await;
    for version in [&TLS12, &TLS13] {
        let spec = || json!({"tls": {"frontend": frontend}, "listeners": [listener("web", None, &["cert"])]});
        if version.version == rustls::ProtocolVersion::TLSv1_3 {
            bed.exchange(objects(&old), spec(), json!([catch_all()]), &[("a", &[backend.addr])]).await;
        }
        let client = showing(&server, Some(&old), version);
        let before = bed.stats.sum(|s| &s.tls_resumed);
        assert!(is_served(&bed, &client).await && is_served(&bed, &client).await);
        assert_eq!(bed.stats.sum(|s| &s.tls_resumed), before + 1, "the client has a ticket");
        bed.exchange(objects(&new), spec(), json!([catch_all()]), &[("a", &[backend.addr])]).await;
        assert!(!is_served(&bed, &client).await, "{version:?}");
    }
}
