//! Who signs: the certificates of authorities, from the `ca.crt` of ConfigMaps and Secrets.
//!
//! # Design
//! An object that is the very same is not read again ([`Store`]). No text here repeats anything that an object holds.
use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::absence;
use crate::{
    api::{ConfigMap, ObjectName, Secret, secret::Hidden},
    model::certificate,
    source::{Snapshot, snapshot::NamedKind},
};

/// Certificates at most, over all references of whoever refers. Beyond it the reference is bad.
pub(super) const MOST: usize = 256;

/// Who signs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

impl Authorities {
    /// These.
    #[must_use]
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self(certificates)
    }

    /// Their certificates.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

/// The certificates of a PEM text.
///
/// # Errors
/// It has none, or one that is malformed.
pub(in crate::model) fn parse(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut out = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text).take(MOST + 1) {
        let certificate = certificate.map_err(|error| format!("ca.crt is no PEM: {}", certificate::reason(&error)))?;
        if RootCertStore::empty().add(certificate.clone()).is_err() {
            return Err("ca.crt has a certificate that is malformed".to_owned());
        }
        out.push(certificate);
    }
    match out.len() {
        0 => Err("ca.crt has no certificate in PEM".to_owned()),
        n if n > MOST => Err(format!("ca.crt has more than {MOST} certificates")),
        _ => Ok(out),
    }
}

/// An object that holds certificates.
#[derive(Clone, Debug)]
pub(in crate::model) enum Holder {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

impl Holder {
    /// The object of a name.
    ///
    /// # Errors
    /// It is not there, and why.
    pub(in crate::model) fn find(snapshot: &Snapshot, kind: NamedKind, name: &ObjectName) -> Result<Self, String> {
        let found = match kind {
            NamedKind::ConfigMap => snapshot.config_maps.get(name).cloned().map(Holder::ConfigMap),
            NamedKind::Secret => snapshot.secrets.get(name).cloned().map(Holder::Secret),
        };
        found.ok_or_else(|| absence(snapshot, kind, name))
    }

    /// Whether it is the very same object.
    pub(in crate::model) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ConfigMap(a), Self::ConfigMap(b)) => Arc::ptr_eq(a, b),
            (Self::Secret(a), Self::Secret(b)) => Arc::ptr_eq(a, b),
            (Self::ConfigMap(_), Self::Secret(_)) | (Self::Secret(_), Self::ConfigMap(_)) => false,
        }
    }

    fn text(&self) -> Option<&[u8]> {
        match self {
            Self::ConfigMap(map) => map.data.authorities.as_deref().map(str::as_bytes),
            Self::Secret(secret) => secret.data.authorities.as_ref().map(Hidden::reveal),
        }
    }
}

/// What became of an object.
#[derive(Debug)]
struct Known {
    holder: Holder,
    read: Result<Vec<CertificateDer<'static>>, String>,
    is_used: bool,
}

/// The objects that were read.
#[derive(Debug, Default)]
pub(in crate::model) struct Store(BTreeMap<(NamedKind, ObjectName), Known>);

impl Store {
    /// The certificates that an object holds; read unless it is the very object that it was.
    ///
    /// # Errors
    /// It is not there, or holds none.
    pub(in crate::model) fn get(
        &mut self,
        snapshot: &Snapshot,
        kind: NamedKind,
        name: &ObjectName,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let holder = Holder::find(snapshot, kind, name)?;
        let key = (kind, name.clone());
        if let Some(known) = self.0.get_mut(&key).filter(|known| known.holder.is(&holder)) {
            known.is_used = true;
            return known.read.clone();
        }
        let read = match holder.text() {
            None => Err(format!("{kind} {name} has no ca.crt")),
            Some(text) => parse(text).map_err(|why| format!("{kind} {name}: {why}")),
        };
        self.0.insert(key, Known { holder, read: read.clone(), is_used: true });
        read
    }

    /// Forgets those that were not asked for since the last time.
    pub(in crate::model) fn forget_unused(&mut self) {
        self.0.retain(|_, known| std::mem::take(&mut known.is_used));
    }
}
