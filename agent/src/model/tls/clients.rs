//! What clients must show at a Gateway's HTTPS listeners: `spec.tls.frontend`.
//!
//! In: the validation of the listener's port, else the default one, and the ConfigMaps that it names as far as they are known. Out:
//! [`Clients`], and what the listener's conditions say. One reference that is bad is told and the others hold; with none that is
//! good nobody could be let in, and the listener is not accepted. Source: `FrontendTLSValidation`.
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::authorities::{Authorities, MOST, Store};
use crate::{
    api::{
        Gateway, ObjectName,
        gateway::Listener,
        gateway_tls::{ClientValidation, TlsRef},
    },
    model::{
        grants::{Grants, GroupKind},
        report::Fault,
    },
    source::{Snapshot, snapshot::NamedKind},
};

/// What clients are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Clients {
    /// Nothing.
    #[default]
    Unasked,
    /// A certificate that one of these has signed for.
    Required(Arc<Authorities>),
    /// A certificate, and whatever they show, or nothing, will do.
    Optional(Arc<Authorities>),
}

/// What holds at a port of a Gateway.
fn validation(gateway: &Gateway, port: i64) -> Option<&ClientValidation> {
    let frontend = gateway.spec.tls.frontend.as_ref()?;
    let of_port = frontend.per_port.iter().find(|entry| entry.port == port).map(|entry| &entry.tls);
    of_port.unwrap_or(&frontend.all).validation.as_ref()
}

/// Whether clients may come without a certificate although one is asked for, somewhere.
#[must_use]
pub fn has_insecure_fallback(gateway: &Gateway) -> bool {
    let frontend = gateway.spec.tls.frontend.iter();
    let all = frontend.flat_map(|frontend| frontend.per_port.iter().map(|entry| &entry.tls).chain([&frontend.all]));
    all.filter_map(|tls| tls.validation.as_ref())
        .any(|validation| validation.mode.as_deref() == Some("AllowInsecureFallback"))
}

/// The ConfigMaps that a Gateway refers to and may, for these listeners: its own and those of its sets.
pub(super) fn references<'a>(
    grants: &'a Grants<'_>,
    name: &'a ObjectName,
    gateway: &'a Gateway,
    listeners: &'a [&Listener],
) -> impl Iterator<Item = ObjectName> + 'a {
    let ports = listeners.iter().filter(|listener| listener.protocol == "HTTPS").map(|listener| listener.port);
    let refs = ports.filter_map(|port| validation(gateway, port)).flat_map(|validation| &validation.authorities);
    refs.filter_map(|reference| config_map(grants, name, reference).ok())
}

/// What clients are asked for at a listener's port, and which references are bad.
///
/// # Errors
/// All are, or the mode is not known: the listener is not accepted. With it comes what is wrong with the references.
pub(super) fn clients(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    (name, gateway): (&ObjectName, &Gateway),
    port: i64,
    store: &mut Store,
) -> (Result<Clients, Fault>, Result<(), Fault>) {
    let Some(ClientValidation { authorities: refs, mode }) = validation(gateway, port) else {
        return (Ok(Clients::Unasked), Ok(()));
    };
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for reference in refs {
        match authorities((snapshot, store), grants, name, reference) {
            Ok(more) if found.len() + more.len() <= MOST => found.extend(more),
            Ok(_) => faults.push(bad(&format!("more than {MOST} certificates"))),
            Err(fault) => faults.push(fault),
        }
    }
    let resolved = Fault::join(&faults).map_or(Ok(()), Err);
    if found.is_empty() {
        let why = faults.first().map_or_else(|| "caCertificateRefs is empty".to_owned(), |fault| fault.message.clone());
        return (Err(Fault::new("NoValidCACertificate", why)), resolved);
    }
    let found = Arc::new(Authorities::new(found));
    let clients = match mode.as_deref() {
        None | Some("AllowValidOnly") => Ok(Clients::Required(found)),
        Some("AllowInsecureFallback") => Ok(Clients::Optional(found)),
        Some(other) => {
            let why = format!("tls.frontend: mode {other:?}, want \"AllowValidOnly\" or \"AllowInsecureFallback\"");
            Err(Fault::new("UnsupportedValue", why))
        }
    };
    (clients, resolved)
}

fn bad(why: &str) -> Fault {
    Fault::new("InvalidCACertificateRef", format!("tls.frontend, caCertificateRefs: {why}"))
}

/// The ConfigMap that a Gateway refers to, if it is one and may be.
fn config_map(grants: &Grants<'_>, gateway: &ObjectName, reference: &TlsRef) -> Result<ObjectName, Fault> {
    let TlsRef { group, kind, namespace, name } = reference;
    let (group, kind) = (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or_default());
    if (group, kind) != ("", "ConfigMap") {
        let why = format!(
            "tls.frontend, caCertificateRefs: kind {kind:?} of group {group:?}, want a ConfigMap of group \"\""
        );
        return Err(Fault::new("InvalidCACertificateKind", why));
    }
    let name = ObjectName::new(namespace.as_deref().unwrap_or(&gateway.ns), name);
    let to = (GroupKind::core("ConfigMap"), name.ns.as_str(), name.name.as_str());
    if !grants.permits((GroupKind::gateway("Gateway"), &gateway.ns), to) {
        let why = format!(
            "tls.frontend, caCertificateRefs: no ReferenceGrant in namespace {:?} permits ConfigMap {name}",
            name.ns
        );
        return Err(Fault::new("RefNotPermitted", why));
    }
    Ok(name)
}

fn authorities(
    (snapshot, store): (&Snapshot, &mut Store),
    grants: &Grants<'_>,
    gateway: &ObjectName,
    reference: &TlsRef,
) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let name = config_map(grants, gateway, reference)?;
    store.get(snapshot, NamedKind::ConfigMap, &name).map_err(|why| bad(&why))
}
