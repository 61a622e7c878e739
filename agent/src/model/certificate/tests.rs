use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;
use crate::api::secret::SecretData;

fn secret(certificate: &str, key: &str) -> Secret {
    let data = SecretData {
        certificate: Some(Hidden::new(certificate.into())),
        key: Some(Hidden::new(key.into())),
        authorities: None,
    };
    Secret { kind: TLS.to_owned(), data, ..Secret::default() }
}

fn name() -> ObjectName {
    ObjectName::new("shop", "cert")
}

fn made() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn keys_of_each_kind_that_fit_are_taken() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2031, 5, 17);
        let certificate = params.self_signed(&key).unwrap();
        let read = parse(&name(), &secret(&certificate.pem(), &key.serialize_pem())).unwrap();
        assert_eq!(read.not_after, 1_936_742_400, "2031-05-17");
        assert_eq!(read.key.cert.len(), 1);
    }
}

/// A chain, with a text around its sections as `openssl s_client` prints it.
#[test]
fn a_chain_keeps_its_order_and_other_text_is_passed_over() {
    let ((leaf, key), (other, _)) = (made(), made());
    let text = format!("subject=CN = a\n{leaf}\nissuer=CN = b\r\n{other}");
    let read = parse(&name(), &secret(&text, &key)).unwrap();
    assert_eq!(read.key.cert.len(), 2);
    assert_eq!(read.key.cert[0], CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap());
}

#[test]
fn what_is_wrong_is_said_and_nothing_is_repeated() {
    let (certificate, key) = made();
    let (_, foreign) = made();
    let cut = certificate.replace("-----END CERTIFICATE-----", "");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_base64 = "-----BEGIN PRIVATE KEY-----\n!?secret\n-----END PRIVATE KEY-----\n";
    let long = certificate.repeat(CHAIN + 1);
    let large = " ".repeat(SIZE);
    for (certificate, key, want) in [
        ("Hello world\n", &*key, "tls.crt has no certificate in PEM"),
        ("", &key, "it has no tls.crt"),
        (&certificate, "", "it has no tls.key"),
        (&certificate, "Hello world\n", "tls.key has no private key in PEM"),
        (&certificate, &certificate, "tls.key has no private key in PEM"),
        (&key, &key, "tls.crt has no certificate in PEM"),
        (&certificate, &foreign, "tls.key is not the key of the first certificate of tls.crt"),
        (&certificate, encrypted, "tls.key is encrypted, want it without a password"),
        (&certificate, no_base64, "tls.key is no PEM: a section is not base64"),
        (&cut, &key, "tls.crt is no PEM: a section does not end"),
        (junk, &key, "the first certificate of tls.crt is malformed"),
        (&long, &key, "tls.crt has more than 16 certificates"),
    ] {
        assert_eq!(parse(&name(), &secret(certificate, key)).unwrap_err(), want);
    }
    let reason = parse(&name(), &secret(&large, &key)).unwrap_err();
    assert!(reason.starts_with("tls.crt and tls.key have 131"), "{reason}");
    let opaque = Secret { kind: "Opaque".to_owned(), ..secret(&certificate, &key) };
    assert_eq!(parse(&name(), &opaque).unwrap_err(), "its type is \"Opaque\", want \"kubernetes.io/tls\"");
}

#[test]
fn what_is_equal_and_what_is_printed() {
    let (certificate, key) = made();
    let one = parse(&name(), &secret(&certificate, &key)).unwrap();
    assert_eq!(one, parse(&name(), &secret(&format!("\n{certificate}"), &key)).unwrap());
    let (certificate, key) = made();
    assert_ne!(one, parse(&name(), &secret(&certificate, &key)).unwrap());
    let printed = format!("{one:?}");
    assert!(printed.contains("cert") && !printed.contains("key") && !printed.contains("seed"), "{printed}");
}

#[test]
fn a_secret_that_did_not_change_is_not_parsed_again() {
    let (certificate, key) = made();
    let (name, mut store) = (name(), Store::default());
    let first = Arc::new(secret(&certificate, &key));
    let parsed = store.get(&name, &first).unwrap();
    store.forget_unused();
    assert!(Arc::ptr_eq(&parsed, &store.get(&name, &first).unwrap()));
    assert_eq!(store.parsed(), 1);
    store.get(&name, &Arc::new(secret(&certificate, "no key"))).unwrap_err();
    assert_eq!(store.parsed(), 2);
    store.forget_unused();
    store.forget_unused();
    store.get(&name, &first).unwrap();
    assert_eq!(store.parsed(), 3, "what nobody asks for is forgotten");
}
