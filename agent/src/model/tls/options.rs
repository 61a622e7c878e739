//! `tls.options` of a listener: settings of ours, under our domain.
use std::{collections::BTreeMap, sync::Arc};

use rustls::{CipherSuite, SupportedCipherSuite, crypto::ring::ALL_CIPHER_SUITES};

use super::Oldest;
use crate::{
    model::{certificate::Certificate, report::Fault},
    spelling::nearest,
};

/// The oldest version of TLS, `1.2` (the default) or `1.3`.
const MIN_VERSION: &str = "sluice.dev/min-version";
/// The cipher suites that may be used, by their IANA names, separated by commas.
const CIPHER_SUITES: &str = "sluice.dev/cipher-suites";
/// Where our options are.
const DOMAIN: &str = "sluice.dev/";

/// Reads the options. Those of other domains are other implementations'.
///
/// # Errors
/// One of ours is unknown, or its value is, or no handshake could be made with them, whatever the certificates are: see [`fit`].
pub(in crate::model) fn read(options: &BTreeMap<String, String>) -> Result<(Oldest, Vec<CipherSuite>), Fault> {
    let bad = |why: String| Fault::new("UnsupportedValue", format!("tls.options: {why}"));
    let known = [MIN_VERSION, CIPHER_SUITES];
    if let Some(unknown) = options.keys().find(|key| key.starts_with(DOMAIN) && !known.contains(&key.as_str())) {
        let meant = nearest(unknown, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
        return Err(bad(format!("unknown option {unknown:?}{meant}")));
    }
    let oldest = match options.get(MIN_VERSION).map(|version| version.trim()) {
        None | Some("1.2") => Oldest::Tls12,
        Some("1.3") => Oldest::Tls13,
        Some(other) => return Err(bad(format!("{MIN_VERSION} is {other:?}, want \"1.2\" or \"1.3\""))),
    };
    let Some(list) = options.get(CIPHER_SUITES) else { return Ok((oldest, Vec::new())) };
    let mut ciphers = Vec::new();
    for name in list.split(',').map(str::trim) {
        let Some(suite) = ALL_CIPHER_SUITES.iter().find(|suite| iana(suite) == name) else {
            let names: Vec<String> = ALL_CIPHER_SUITES.iter().map(iana).collect();
            return Err(bad(format!("{CIPHER_SUITES} has {name:?}, want of {}", names.join(", "))));
        };
        if !ciphers.contains(&suite.suite()) {
            ciphers.push(suite.suite());
        }
    }
    let of_oldest = |suite: &SupportedCipherSuite| oldest == Oldest::Tls12 || suite.tls13().is_some();
    if !ALL_CIPHER_SUITES.iter().any(|suite| ciphers.contains(&suite.suite()) && of_oldest(suite)) {
        return Err(bad(format!("{CIPHER_SUITES} has none of TLS 1.3, which {MIN_VERSION} asks for")));
    }
    Ok((oldest, ciphers))
}

/// Looks whether a handshake can be made with these cipher suites: whether one of them fits the key of a certificate, which those of TLS 1.3
/// always do.
///
/// # Errors
/// None does: which certificates there are, and which suites they want.
pub(super) fn fit((oldest, ciphers): (Oldest, &[CipherSuite]), certificates: &[Arc<Certificate>]) -> Result<(), Fault> {
    let signs = |certificate: &Arc<Certificate>| certificate.key.key.algorithm();
    let fits = |suite: &SupportedCipherSuite| match oldest {
        Oldest::Tls13 if suite.tls13().is_none() => false,
        Oldest::Tls12 | Oldest::Tls13 => {
            certificates.iter().any(|certificate| suite.usable_for_signature_algorithm(signs(certificate)))
        }
    };
    let is_admitted = |suite: &&SupportedCipherSuite| ciphers.contains(&suite.suite());
    if ciphers.is_empty() || certificates.is_empty() || ALL_CIPHER_SUITES.iter().filter(is_admitted).any(fits) {
        return Ok(());
    }
    let found: Vec<String> = certificates
        .iter()
        .map(|certificate| format!("that of Secret {} is {:?}", certificate.secret, signs(certificate)))
        .collect();
    let wanted: Vec<String> = ALL_CIPHER_SUITES.iter().filter(|suite| fits(suite)).map(iana).collect();
    let why = format!(
        "tls.options: {CIPHER_SUITES} has no suite for the key of a certificate: {}, want one of {}",
        found.join(", "),
        wanted.join(", ")
    );
    Err(Fault::new("UnsupportedValue", why))
}

/// The name in the registry of IANA: the library has that of its own for TLS 1.3.
fn iana(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<(Oldest, Vec<CipherSuite>), String> {
        let options = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        read(&options).map_err(|fault| fault.message)
    }

    #[test]
    fn options_are_read_and_what_is_none_is_refused() {
        assert_eq!(of(&[]), Ok((Oldest::Tls12, Vec::new())));
        assert_eq!(of(&[("example.com/min-version", "9")]), Ok((Oldest::Tls12, Vec::new())));
        assert_eq!(of(&[(MIN_VERSION, " 1.3 ")]), Ok((Oldest::Tls13, Vec::new())));
        let two = "TLS_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384";
        let suites = vec![CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        assert_eq!(of(&[(CIPHER_SUITES, two)]), Ok((Oldest::Tls12, suites)));
        for (pairs, want) in [
            (&[("sluice.dev/min-versoin", "1.3")][..], "did you mean \"sluice.dev/min-version\"?"),
            (&[(MIN_VERSION, "1.1")], "is \"1.1\", want \"1.2\" or \"1.3\""),
            (&[(CIPHER_SUITES, "TLS_RSA_WITH_RC4_128_MD5")], "has \"TLS_RSA_WITH_RC4_128_MD5\", want of TLS_AES_256"),
            (&[(CIPHER_SUITES, "")], "has \"\""),
            (
                &[(MIN_VERSION, "1.3"), (CIPHER_SUITES, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")],
                "none of TLS 1.3, which",
            ),
        ] {
            let why = of(pairs).unwrap_err();
            assert!(why.contains(want), "{why}");
        }
    }
}
