//! What a listener needs to terminate TLS: its certificates, and how handshakes are made.
//!
//! In: `tls` of a listener, and the Secrets that it names as far as they are known. Out: a [`Termination`], and what
//! `ResolvedRefs` says. Pure.
//!
//! # Design
//! - A listener with several certificates works with those that are good, and its status names the others. With none it is not
//!   programmed: a connection to it is refused as to any port that is not there, and no listener with a wider host name is asked
//!   to stand in with its certificate.
//! - Permission is asked before existence (`RefNotPermitted`), so that nobody learns from a status what other namespaces hold.
pub(crate) mod authorities;
mod clients;
mod identity;
mod options;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

pub use authorities::Authorities;
pub use clients::{Clients, has_insecure_fallback};
pub(super) use identity::client_certificate;
pub(super) use options::read as read_options;
use rustls::{CipherSuite, crypto::ring::ALL_CIPHER_SUITES};

use super::{
    backend_tls, certificate,
    certificate::Certificate,
    gateway,
    grants::{Grants, GroupKind, Referrer},
    listener_set,
    report::Fault,
};
use crate::{
    api::{
        Gateway, ObjectName,
        gateway::Listener,
        gateway_tls::{ListenerTls, TlsRef},
    },
    source::{
        Snapshot,
        snapshot::{NamedKind, Unread},
    },
};

/// The oldest version of TLS that a listener speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oldest {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// How a listener terminates TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct Termination {
    /// One at least, in the order in which the listener names them.
    pub certificates: Vec<Arc<Certificate>>,
    /// The oldest version.
    pub oldest: Oldest,
    /// The cipher suites that may be used; all that there are when empty.
    pub ciphers: Vec<CipherSuite>,
    /// What clients are asked for.
    pub clients: Clients,
}

impl Termination {
    /// The one version that handshakes are made of, where it is one: `TLS 1.2` where the cipher suites have none of TLS 1.3.
    #[must_use]
    pub fn only_version(&self) -> Option<&'static str> {
        let has = |is_modern| {
            self.ciphers.is_empty()
                || ALL_CIPHER_SUITES
                    .iter()
                    .any(|suite| self.ciphers.contains(&suite.suite()) && suite.tls13().is_some() == is_modern)
        };
        match (self.oldest == Oldest::Tls12 && has(false), has(true)) {
            (true, true) => None,
            (true, false) => Some("TLS 1.2"),
            (false, _) => Some("TLS 1.3"),
        }
    }
}

/// What became of a listener's security.
#[derive(Clone, Debug, PartialEq)]
pub enum Security {
    /// It has none: HTTP.
    Plain,
    /// TLS goes by as it is.
    Passthrough,
    /// It terminates TLS.
    Terminate(Arc<Termination>),
    /// It should and cannot; `Served::resolved` says why.
    Unready,
}

/// The Secrets and ConfigMaps that Gateways of ours and their ListenerSets refer to and may: what the source reads by name, and nothing else.
#[must_use]
pub fn references(snapshot: &Snapshot) -> BTreeSet<(NamedKind, ObjectName)> {
    let grants = Grants::of(snapshot);
    let mut out = BTreeSet::new();
    let is_terminating = |listener: &&Listener| match listener.protocol.as_str() {
        "HTTPS" => true,
        "TLS" => !passes_through(listener),
        _ => false,
    };
    let add = |owner: Referrer<'_>, listeners: &[Listener], out: &mut BTreeSet<_>| {
        let terminating = listeners.iter().filter(is_terminating);
        for reference in terminating.filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.certificate_refs)
        {
            if let Ok(name) = secret_name(&grants, owner, reference, OF_LISTENER) {
                out.insert((NamedKind::Secret, name));
            }
        }
    };
    let sets = listener_set::sets(snapshot);
    for (gateway, object) in gateway::ours(snapshot) {
        add((GroupKind::gateway("Gateway"), &gateway.ns), &object.spec.listeners, &mut out);
        let mut listeners: Vec<&Listener> = object.spec.listeners.iter().collect();
        // A set that is not let in may not have anything read for it.
        for set in sets.get(gateway).into_iter().flatten().filter(|set| set.allowed.is_ok()) {
            add((GroupKind::gateway("ListenerSet"), &set.name.ns), &set.spec.spec.listeners, &mut out);
            listeners.extend(&set.spec.spec.listeners);
        }
        let of_clients = clients::references(&grants, gateway, object, &listeners);
        out.extend(of_clients.map(|name| (NamedKind::ConfigMap, name)));
        out.extend(identity::reference(&grants, gateway, object).map(|name| (NamedKind::Secret, name)));
    }
    // Whose policies nobody of ours could obey, nothing is read for.
    if gateway::ours(snapshot).next().is_some() {
        out.extend(backend_tls::references(snapshot));
    }
    out
}

/// Whether a TLS listener passes TLS through.
pub(super) fn passes_through(spec: &Listener) -> bool {
    spec.protocol == "TLS" && spec.tls.as_ref().is_some_and(|tls| tls.mode.as_deref() == Some("Passthrough"))
}

/// Looks at `tls` of a HTTPS or TLS listener, whatever its certificates are.
///
/// # Errors
/// It is not understood: the listener is not accepted.
pub(super) fn check(spec: &Listener) -> Result<(), Fault> {
    let Some(tls) = &spec.tls else { return Ok(()) };
    match tls.mode.as_deref() {
        None | Some("Terminate") => {}
        Some("Passthrough") if spec.protocol == "TLS" => return Ok(()),
        Some(other) => {
            let why = format!("tls.mode {other:?}, want \"Terminate\" with protocol {}", spec.protocol);
            return Err(Fault::new("UnsupportedValue", why));
        }
    }
    options::read(&tls.options).map(drop)
}

/// The certificates of a listener that was [checked](check), and which references are bad.
pub(super) fn terminate(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    owner: Referrer<'_>,
    (gateway, object): (&ObjectName, &Gateway),
    spec: &Listener,
    store: &mut certificate::Store,
) -> (Result<Security, Fault>, Result<(), Fault>) {
    let none = ListenerTls::default();
    let ListenerTls { mode: _, certificate_refs, options } = spec.tls.as_ref().unwrap_or(&none);
    let (mut certificates, mut faults) = (Vec::new(), Vec::new());
    if certificate_refs.is_empty() {
        let why = format!("tls.certificateRefs is empty, want a Secret with protocol {}", spec.protocol);
        faults.push(Fault::new("InvalidCertificateRef", why));
    }
    for reference in certificate_refs {
        match certificate((snapshot, grants), owner, reference, store) {
            Ok(certificate) if certificates.contains(&certificate) => {}
            Ok(certificate) => certificates.push(certificate),
            Err(fault) => faults.push(fault),
        }
    }
    let clients = if spec.protocol == "HTTPS" {
        let (clients, resolved) =
            clients::clients((snapshot, grants), (gateway, object), spec.port, &mut store.authorities);
        faults.extend(resolved.err());
        clients
    } else {
        Ok(Clients::Unasked)
    };
    let resolved = Fault::join(&faults).map_or(Ok(()), Err);
    let clients = match clients {
        Ok(clients) => clients,
        Err(fault) => return (Err(fault), resolved),
    };
    let security = match options::read(options) {
        Ok((oldest, ciphers)) if !certificates.is_empty() => {
            if let Err(fault) = options::fit((oldest, &ciphers), &certificates) {
                return (Err(fault), resolved);
            }
            Security::Terminate(Arc::new(Termination { certificates, oldest, ciphers, clients }))
        }
        Ok(_) | Err(_) => Security::Unready,
    };
    (Ok(security), resolved)
}

fn certificate(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    owner: Referrer<'_>,
    reference: &TlsRef,
    store: &mut certificate::Store,
) -> Result<Arc<Certificate>, Fault> {
    let name = secret_name(grants, owner, reference, OF_LISTENER)?;
    of_secret(snapshot, &name, store).map_err(|why| OF_LISTENER.fault(&why))
}

/// The certificate of a Secret.
fn of_secret(
    snapshot: &Snapshot,
    name: &ObjectName,
    store: &mut certificate::Store,
) -> Result<Arc<Certificate>, String> {
    match snapshot.secrets.get(name) {
        Some(secret) => store.get(name, secret).map_err(|why| format!("Secret {name}: {why}")),
        None => Err(absence(snapshot, NamedKind::Secret, name)),
    }
}

/// The field that refers to a Secret, and the reason of the condition where the reference is bad.
#[derive(Clone, Copy)]
struct Field {
    name: &'static str,
    reason: &'static str,
}

const OF_LISTENER: Field = Field { name: "tls.certificateRefs", reason: "InvalidCertificateRef" };

impl Field {
    fn fault(self, why: &str) -> Fault {
        Fault::new(self.reason, format!("{}: {why}", self.name))
    }
}

/// The Secret that a Gateway, or a ListenerSet, refers to, if it is one and may be.
fn secret_name(
    grants: &Grants<'_>,
    owner: Referrer<'_>,
    reference: &TlsRef,
    field: Field,
) -> Result<ObjectName, Fault> {
    let TlsRef { group, kind, namespace, name } = reference;
    let (group, kind) = (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or("Secret"));
    if (group, kind) != ("", "Secret") {
        return Err(field.fault(&format!("kind {kind:?} of group {group:?}, want a Secret of group \"\"")));
    }
    let name = ObjectName::new(namespace.as_deref().unwrap_or(owner.1), name);
    if !grants.permits(owner, (GroupKind::core("Secret"), &name.ns, &name.name)) {
        let why = format!("{}: no ReferenceGrant in namespace {:?} permits Secret {name}", field.name, name.ns);
        return Err(Fault::new("RefNotPermitted", why));
    }
    Ok(name)
}

/// Why nothing is known of an object that is read by its name.
pub(super) fn absence(snapshot: &Snapshot, kind: NamedKind, name: &ObjectName) -> String {
    match snapshot.unread.get(&(kind, name.clone())) {
        None => format!("{kind} {name} does not exist"),
        Some(Unread::Pending) => format!("{kind} {name} is not read yet"),
        Some(Unread::Forbidden(reason)) => format!("{kind} {name} may not be read: {reason}"),
        Some(Unread::Failing(reason)) => format!("{kind} {name} cannot be read for now: {reason}"),
    }
}
