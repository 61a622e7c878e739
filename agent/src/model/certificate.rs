//! Secrets -> certificates with their keys, ready to sign handshakes.
//!
//! In: what a Secret holds, PEM. Out: a [`Certificate`], or why it is none. Pure. The key is looked at once: that it is one that
//! can sign, and that it is the one of the chain's first certificate. The chain is not verified and no date compared: clients do
//! that, and a model has no clock. [`Certificate::not_after`] is for whoever has one.
//!
//! # Design
//! A Secret that is the very same object is not parsed again ([`Store`]): of 500 certificates an edit parses one. No text here
//! repeats anything that a Secret holds.
mod validity;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};

use super::tls::authorities::Store as Authorities;
use crate::api::{
    ObjectName, Secret,
    secret::{Hidden, TLS},
};

/// Certificates of one chain at most. Clients refuse longer ones.
const CHAIN: usize = 16;
/// How large the parts of a Secret may be together. The API server has no more than 1 MiB; a chain has a few KiB, and is sent in every
/// handshake. Units: bytes.
const SIZE: usize = 128 << 10;

/// A chain and its key. Two are equal when both are the same.
#[derive(Clone)]
pub struct Certificate {
    /// Where it is from.
    pub secret: ObjectName,
    /// The chain, the server's own first, and what signs for it.
    pub key: Arc<CertifiedKey>,
    /// The last second at which it is valid. Units: seconds since 1970.
    pub not_after: i64,
    /// Secret, and the same on every node that has the Secret: what session tickets are sealed with is derived from it.
    pub seed: Arc<Hidden>,
    fingerprint: [u8; 32],
}

impl Certificate {
    /// Stands for chain and key.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("secret", &self.secret).field("not_after", &self.not_after).finish()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        (&self.secret, self.fingerprint) == (&other.secret, other.fingerprint)
    }
}

/// Reads the certificate of a Secret.
///
/// # Errors
/// What is wrong with it, without a word of what it holds.
pub fn parse(name: &ObjectName, secret: &Secret) -> Result<Certificate, String> {
    if secret.kind != TLS {
        return Err(format!("its type is {:?}, want {TLS:?}", secret.kind));
    }
    let part = |part: &Option<Hidden>, key: &str| match part {
        Some(bytes) if !bytes.reveal().is_empty() => Ok(bytes.clone()),
        _ => Err(format!("it has no {key}")),
    };
    let (chain_text, key_text) = (part(&secret.data.certificate, "tls.crt")?, part(&secret.data.key, "tls.key")?);
    let size = chain_text.reveal().len() + key_text.reveal().len();
    if size > SIZE {
        return Err(format!("tls.crt and tls.key have {size} bytes, want {SIZE} at most"));
    }
    let chain = chain(chain_text.reveal())?;
    let key = key(key_text.reveal())?;
    let leaf = chain.first().ok_or("tls.crt has no certificate")?;
    let not_after = validity::not_after(leaf).ok_or("the first certificate of tls.crt is malformed")?;
    let signer = any_supported_type(&key).map_err(
        |_| "tls.key is no key that can be used, want RSA of 2,048 bits or more, ECDSA P-256 or P-384, or Ed25519",
    )?;
    let seed = ring::digest::digest(&ring::digest::SHA256, key.secret_der());
    let certified = CertifiedKey::new(chain, signer);
    if let Err(error) = certified.keys_match() {
        return Err(match error {
            rustls::Error::InconsistentKeys(_) => "tls.key is not the key of the first certificate of tls.crt",
            _ => "the first certificate of tls.crt is malformed",
        }
        .to_owned());
    }
    let mut all = ring::digest::Context::new(&ring::digest::SHA256);
    certified.cert.iter().for_each(|der| all.update(der));
    all.update(seed.as_ref());
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(all.finish().as_ref());
    Ok(Certificate {
        secret: name.clone(),
        key: Arc::new(certified),
        not_after,
        seed: Arc::new(Hidden::new(seed.as_ref().to_vec())),
        fingerprint,
    })
}

/// The certificates of a PEM text, in its order. Sections of other kinds are passed over, as openssl does.
///
/// # Errors
/// It is no PEM, has no certificate, or too many.
pub(super) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        chain.push(certificate.map_err(|error| format!("tls.crt is no PEM: {}", reason(&error)))?);
        if chain.len() > CHAIN {
            return Err(format!("tls.crt has more than {CHAIN} certificates"));
        }
    }
    if chain.is_empty() { Err("tls.crt has no certificate in PEM".to_owned()) } else { Ok(chain) }
}

fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(text, b"ENCRYPTED") => {
            "tls.key is encrypted, want it without a password".to_owned()
        }
        pem::Error::NoItemsFound => "tls.key has no private key in PEM".to_owned(),
        error => format!("tls.key is no PEM: {}", reason(&error)),
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The library's own text quotes what it has found.
pub(super) fn reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section does not end",
        pem::Error::IllegalSectionStart { .. } => "a section does not begin as one",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::NoItemsFound => "it has no section of its kind",
        _ => "it cannot be read",
    }
}

/// The certificates that were parsed, by their Secrets.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Those of authorities.
    pub(super) authorities: Authorities,
    known: BTreeMap<ObjectName, Known>,
    parsed: u64,
}

/// What became of a Secret.
#[derive(Debug)]
struct Known {
    secret: Arc<Secret>,
    certificate: Result<Arc<Certificate>, String>,
    is_used: bool,
}

impl Store {
    /// The certificate of a Secret; parsed unless that is the very Secret that it was.
    ///
    /// # Errors
    /// As [`parse`].
    pub(super) fn get(&mut self, name: &ObjectName, secret: &Arc<Secret>) -> Result<Arc<Certificate>, String> {
        if let Some(known) = self.known.get_mut(name).filter(|known| Arc::ptr_eq(&known.secret, secret)) {
            known.is_used = true;
            return known.certificate.clone();
        }
        self.parsed += 1;
        let certificate = parse(name, secret).map(Arc::new);
        let known = Known { secret: Arc::clone(secret), certificate: certificate.clone(), is_used: true };
        self.known.insert(name.clone(), known);
        certificate
    }

    /// Forgets those that were not asked for since the last time.
    pub(super) fn forget_unused(&mut self) {
        self.authorities.forget_unused();
        self.known.retain(|_, known| std::mem::take(&mut known.is_used));
    }

    /// How many were parsed so far.
    pub(super) fn parsed(&self) -> u64 {
        self.parsed
    }
}
