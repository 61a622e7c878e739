//! `Secret` and `ConfigMap` (v1), as far as TLS needs them: a certificate, its key, the certificates of authorities.
//!
//! # Design
//! Whatever else is in a Secret is not kept, and of a Secret that is not of type `kubernetes.io/tls` no key is: what is not in
//! memory cannot leak. What is kept is [`Hidden`], and neither type can be serialised.
use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Deserializer};

use super::{meta::ObjectMeta, wire::or_default};

/// The type of Secrets that hold a certificate and its key. Source: `SecretTypeTLS`.
pub const TLS: &str = "kubernetes.io/tls";

/// Bytes that nothing prints.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(Vec<u8>);

impl Hidden {
    /// Hides bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What is hidden.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A `Secret`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Secret {
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// Its type, `kubernetes.io/tls`.
    pub kind: String,
    /// What it holds that is of use.
    pub data: SecretData,
}

/// What of a Secret's `data` is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SecretData {
    /// `tls.crt`: the chain, PEM.
    pub certificate: Option<Hidden>,
    /// `tls.key`: the private key, PEM. Of Secrets of type [`TLS`] alone.
    pub key: Option<Hidden>,
    /// `ca.crt`: certificates of authorities, PEM.
    pub authorities: Option<Hidden>,
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Data {
            #[serde(rename = "tls.crt")]
            certificate: Option<ByteString>,
            #[serde(rename = "tls.key")]
            key: Option<ByteString>,
            #[serde(rename = "ca.crt")]
            authorities: Option<ByteString>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Text {
            #[serde(rename = "tls.crt")]
            certificate: Option<String>,
            #[serde(rename = "tls.key")]
            key: Option<String>,
            #[serde(rename = "ca.crt")]
            authorities: Option<String>,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Wire {
            #[serde(deserialize_with = "or_default")]
            metadata: ObjectMeta,
            #[serde(rename = "type", deserialize_with = "or_default")]
            kind: String,
            #[serde(deserialize_with = "or_default")]
            data: Data,
            #[serde(deserialize_with = "or_default")]
            string_data: Text,
        }
        let Wire { metadata, kind, data, string_data } = Wire::deserialize(deserializer)?;
        // As the API server merges them: text wins.
        let merge = |text: Option<String>, bytes: Option<ByteString>| {
            text.map(String::into_bytes).or(bytes.map(|bytes| bytes.0)).map(Hidden)
        };
        let certificate = merge(string_data.certificate, data.certificate);
        let key = merge(string_data.key, data.key).filter(|_| kind == TLS);
        let authorities = merge(string_data.authorities, data.authorities);
        Ok(Self { metadata, kind, data: SecretData { certificate, key, authorities } })
    }
}

/// A `ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    /// Name and namespace.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What it holds that is of use.
    #[serde(deserialize_with = "or_default")]
    pub data: ConfigMapData,
}

/// What of a ConfigMap's `data` is kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMapData {
    /// `ca.crt`: certificates of authorities, PEM.
    #[serde(rename = "ca.crt")]
    pub authorities: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(kind: &str) -> Secret {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "type": kind,
            "data": {"tls.crt": "Y2VydA==", "tls.key": "a2V5", "ca.crt": "Y2E=", "password": "not even base64"},
            "stringData": {"ca.crt": "text"}}))
        .unwrap()
    }

    #[test]
    fn nothing_is_kept_but_what_tls_needs_and_nothing_of_it_is_printed() {
        let tls = secret(TLS);
        assert_eq!(tls.data.certificate.as_ref().unwrap().reveal(), b"cert");
        assert_eq!(tls.data.key.as_ref().unwrap().reveal(), b"key");
        assert_eq!(tls.data.authorities.as_ref().unwrap().reveal(), b"text", "stringData wins");
        let printed = format!("{tls:?} {tls:#?}");
        for word in ["key\"", "a2V5", "107, 101", "password", "not even"] {
            assert!(!printed.contains(word), "{word} in {printed}");
        }
        let opaque = secret("Opaque");
        assert_eq!(opaque.data.key, None, "a key of another type of Secret");
        assert!(opaque.data.authorities.is_some());
    }

    #[test]
    fn a_key_that_is_no_base64_is_refused_without_being_repeated() {
        let read = serde_json::from_value::<Secret>(json!({"type": TLS, "data": {"tls.key": "MIIE private?"}}));
        let reason = read.unwrap_err().to_string();
        assert!(!reason.contains("private") && !reason.contains("MIIE"), "{reason}");
    }
}
