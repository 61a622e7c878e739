//! BackendTLSPolicies -> how the endpoints of a Service port are spoken to under TLS.
//!
//! In: the policies, and the ConfigMaps and Secrets that they name as far as they are known. Out: for each Service port that has a
//! policy a [`PortTls`], and what the status of each policy says. Pure.
//!
//! # Design
//! - Rules do not know of it: a policy belongs to a Service port, and a request asks for it when it asks for the endpoints. A
//!   policy that changes changes no rule.
//! - A policy that cannot be obeyed is in force all the same: the port answers 500, and nothing is sent in clear text to a server
//!   that somebody wanted to know first. So does an older policy that is bad keep a younger one out.
//! - A policy is compiled anew when it, or what it refers to, is another object ([`Known`]): what identifies its parameters is a digest
//!   over all certificates of its authorities, which costs a millisecond where these are the system's.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use rustls::{CipherSuite, pki_types::DnsName};

use super::{
    Model, Node, ObjectRef, Outcome, Verdict,
    http::{Hostname, ServicePort},
    policy::{Attached, PolicyReport, PolicyReports},
    report::{Fault, Subject},
    tls::{
        Authorities, Oldest,
        authorities::{Holder, Store},
        read_options,
    },
};
use crate::{
    api::{
        BackendTlsPolicy, ObjectName,
        backend_tls_policy::{BackendTlsValidation, SubjectAltName},
        gateway_tls::TlsRef,
    },
    source::{Snapshot, snapshot::NamedKind},
};

/// Certificates of authorities at most, over all references of a policy.
const AUTHORITIES: usize = 256;

/// How endpoints are spoken to under TLS. Two are equal when all of it is.
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// The name that is asked for.
    pub server_name: String,
    /// The names of which the certificate must have one; `server_name` where there are none.
    pub names: Vec<SubjectName>,
    /// Who must have signed.
    pub authorities: Arc<Authorities>,
    /// The oldest version.
    pub oldest: Oldest,
    /// The cipher suites that may be used; all that there are when empty.
    pub ciphers: Vec<CipherSuite>,
    digest: [u8; 32],
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl BackendTls {
    /// From its parts.
    #[must_use]
    pub fn new(
        server_name: String,
        names: Vec<SubjectName>,
        authorities: Arc<Authorities>,
        (oldest, ciphers): (Oldest, Vec<CipherSuite>),
    ) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        add(server_name.as_bytes());
        add(format!("{names:?} {oldest:?} {ciphers:?}").as_bytes());
        authorities.certificates().iter().for_each(|certificate| add(certificate));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { server_name, names, authorities, oldest, ciphers, digest }
    }

    /// Stands for all of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// A name that a certificate may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// A host, or all below one.
    Host(Hostname),
    /// A URI, such as an identity of SPIFFE.
    Uri(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "{name}"),
            Self::Uri(uri) => f.write_str(uri),
        }
    }
}

/// What a Service port's policy says.
#[derive(Clone, Debug, PartialEq)]
pub struct PortTls {
    /// The policy.
    pub policy: ObjectName,
    /// How it is spoken to; else why it is not.
    pub tls: Result<Arc<BackendTls>, String>,
}

/// What is compiled of a policy.
#[derive(Debug)]
struct Compiled {
    tls: Result<Arc<BackendTls>, Fault>,
    resolved: Result<(), Fault>,
}

/// The Gateways that send something to each port that has a policy.
pub type Users = BTreeMap<ServicePort, BTreeSet<ObjectName>>;

/// What was compiled of the policies so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    by_policy: BTreeMap<ObjectName, (Origin, Arc<Compiled>)>,
    compiled: u64,
}

impl Known {
    /// How many policies were compiled so far.
    pub(super) fn compiled(&self) -> u64 {
        self.compiled
    }
}

/// What a policy was compiled from.
#[derive(Debug)]
struct Origin {
    policy: Arc<BackendTlsPolicy>,
    /// What it refers to, or why that is not there.
    referents: Vec<Result<Holder, String>>,
    system: Arc<Authorities>,
}

impl Origin {
    fn of(snapshot: &Snapshot, node: &Node, (name, policy): (&ObjectName, &Arc<BackendTlsPolicy>)) -> Self {
        let referents = policy.spec.validation.authorities.iter().filter_map(|of| referent(name, of).ok());
        Self {
            policy: Arc::clone(policy),
            referents: referents.map(|(kind, name)| Holder::find(snapshot, kind, &name)).collect(),
            system: Arc::clone(&node.system_authorities),
        }
    }

    /// Whether the same is compiled from both.
    fn is(&self, other: &Self) -> bool {
        let Self { policy, referents, system } = self;
        let is_one = |(a, b): (&Result<Holder, String>, &Result<Holder, String>)| match (a, b) {
            (Ok(a), Ok(b)) => a.is(b),
            (Err(a), Err(b)) => a == b,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        (Arc::ptr_eq(policy, &other.policy) || policy.spec == other.policy.spec)
            && (Arc::ptr_eq(system, &other.system) || system == &other.system)
            && referents.len() == other.referents.len()
            && referents.iter().zip(&other.referents).all(is_one)
    }
}

/// The policies of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Policies {
    attached: Arc<Attached>,
    compiled: BTreeMap<ObjectName, Arc<Compiled>>,
}

impl Policies {
    /// Those of a snapshot, attached like this. What was compiled before is taken over.
    pub(super) fn compile(
        snapshot: &Snapshot,
        node: &Node,
        attached: &Arc<Attached>,
        (store, known): (&mut Store, &mut Known),
    ) -> Self {
        let mut before = std::mem::take(&mut known.by_policy);
        let mut compiled = BTreeMap::new();
        for (name, policy) in &snapshot.backend_tls_policies {
            let origin = Origin::of(snapshot, node, (name, policy));
            let one = match before.remove(name) {
                Some((old, one)) if old.is(&origin) => one,
                _ => {
                    known.compiled += 1;
                    Arc::new(compile(snapshot, node, (name, policy), store))
                }
            };
            compiled.insert(name.clone(), Arc::clone(&one));
            known.by_policy.insert(name.clone(), (origin, one));
        }
        Self { compiled, attached: Arc::clone(attached) }
    }

    /// Whether the endpoints of a port are spoken to under TLS, or not at all.
    pub(super) fn has(&self, port: &ServicePort) -> bool {
        self.attached.get(port).is_some()
    }

    /// What holds at these ports.
    pub(super) fn ports<'p>(&self, ports: impl Iterator<Item = &'p ServicePort>) -> BTreeMap<ServicePort, PortTls> {
        let of = |port: &ServicePort| {
            let policy = self.attached.get(port)?;
            let fault = |why: &str| format!("BackendTLSPolicy {policy}: {why}");
            let tls = match self.attached.check(policy) {
                // In conflict it is for another target alone.
                Err(found) if found.reason != "Conflicted" => Err(fault(&found.message)),
                Err(_) | Ok(()) => match &self.compiled.get(policy)?.tls {
                    Ok(tls) => Ok(Arc::clone(tls)),
                    Err(found) => Err(fault(&found.message)),
                },
            };
            Some((port.clone(), PortTls { policy: policy.clone(), tls }))
        };
        ports.filter_map(of).collect()
    }

    /// Says what became of each policy.
    pub(super) fn judge(self, snapshot: &Snapshot, users: &Users, (model, reports): (&mut Model, &mut PolicyReports)) {
        let mut ancestors = self.attached.ancestors(users);
        for (name, compiled) in self.compiled {
            let Compiled { tls, resolved } = &*compiled;
            let Some(policy) = snapshot.backend_tls_policies.get(&name) else { continue };
            let of_tls = tls.as_ref().map(drop).map_err(Clone::clone);
            let accepted = self.attached.check(&name).and(of_tls);
            let report = PolicyReport {
                subject: Subject::of(&policy.metadata),
                accepted,
                resolved: Some(resolved.clone()),
                ancestors: ancestors.remove(&name).unwrap_or_default(),
            };
            let object = ObjectRef::new("BackendTLSPolicy", name.clone());
            let missing = policy
                .spec
                .target_refs
                .iter()
                .find(|target| !snapshot.services.contains_key(&ObjectName::new(&name.ns, &target.name)));
            let verdict = match missing.filter(|_| report.ancestors.is_empty()) {
                None => report.verdict(),
                Some(target) => {
                    let messages = vec![format!("Service {}/{} does not exist", name.ns, target.name)];
                    Verdict { outcome: Outcome::Ignored, reason: "TargetNotFound", messages }
                }
            };
            model.judge(object.clone(), verdict);
            reports.insert(object, report);
        }
    }
}

fn invalid(why: String) -> Fault {
    Fault::new("Invalid", why)
}

fn compile(
    snapshot: &Snapshot,
    node: &Node,
    (name, policy): (&ObjectName, &BackendTlsPolicy),
    store: &mut Store,
) -> Compiled {
    let BackendTlsValidation { authorities: refs, well_known, hostname, subject_alt_names } = &policy.spec.validation;
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for reference in refs {
        match authorities(snapshot, name, reference, store) {
            Ok(more) if found.len() + more.len() <= AUTHORITIES => found.extend(more),
            Ok(_) => faults.push(bad(&format!("more than {AUTHORITIES} certificates"))),
            Err(fault) => faults.push(fault),
        }
    }
    let resolved = Fault::join(&faults).map_or(Ok(()), Err);
    let well_known = well_known.as_deref().filter(|text| !text.is_empty());
    let authorities = match (refs.is_empty(), well_known) {
        (false, Some(_)) => {
            Err(invalid("validation has caCertificateRefs and wellKnownCACertificates, want one".into()))
        }
        (true, None) => Err(invalid("validation has neither caCertificateRefs nor wellKnownCACertificates".into())),
        (false, None) => match resolved.as_ref().err().filter(|_| found.is_empty()) {
            Some(fault) => Err(Fault::new("NoValidCACertificate", fault.message.clone())),
            None => Ok(Arc::new(Authorities::new(found))),
        },
        (true, Some("System")) if node.system_authorities.certificates().is_empty() => {
            let why = "wellKnownCACertificates \"System\": the agent's system has no certificates of authorities; \
                       mount some where SSL_CERT_FILE names them";
            Err(invalid(why.to_owned()))
        }
        (true, Some("System")) => Ok(Arc::clone(&node.system_authorities)),
        (true, Some(other)) => Err(invalid(format!("wellKnownCACertificates {other:?}, want \"System\""))),
    };
    let tls = authorities.and_then(|authorities| {
        let Some(Hostname::Exact(server_name)) =
            Hostname::try_new(hostname).filter(|_| DnsName::try_from(hostname.as_str()).is_ok())
        else {
            return Err(invalid(format!("validation.hostname {hostname:?} is no DNS name")));
        };
        let names = subject_alt_names.iter().map(subject_name).collect::<Result<_, _>>()?;
        let options = read_options(&policy.spec.options).map_err(|fault| invalid(fault.message))?;
        Ok(Arc::new(BackendTls::new(server_name.to_string(), names, authorities, options)))
    });
    Compiled { tls, resolved }
}

fn subject_name(spec: &SubjectAltName) -> Result<SubjectName, Fault> {
    let SubjectAltName { kind, hostname, uri } = spec;
    match kind.as_str() {
        "Hostname" => Hostname::try_new(hostname).map(SubjectName::Host).ok_or_else(|| {
            invalid(format!("subjectAltNames: hostname {hostname:?} is neither a DNS name nor \"*.\" before one"))
        }),
        "URI" if uri.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty()) => {
            Ok(SubjectName::Uri(uri.clone()))
        }
        "URI" => Err(invalid(format!("subjectAltNames: uri {uri:?}, want a scheme, a colon and more"))),
        other => Err(invalid(format!("subjectAltNames: type {other:?}, want \"Hostname\" or \"URI\""))),
    }
}

fn bad(why: &str) -> Fault {
    Fault::new("InvalidCACertificateRef", format!("caCertificateRefs: {why}"))
}

/// The object that a policy refers to, in its own namespace.
fn referent(policy: &ObjectName, reference: &TlsRef) -> Result<(NamedKind, ObjectName), Fault> {
    let TlsRef { group, kind, namespace: _, name } = reference;
    let (group, kind) = (group.as_deref().unwrap_or_default(), kind.as_deref().unwrap_or_default());
    let kind = match (group, kind) {
        ("", "ConfigMap") => NamedKind::ConfigMap,
        ("", "Secret") => NamedKind::Secret,
        _ => {
            let why = format!(
                "caCertificateRefs: {name:?} is of kind {kind:?} of group {group:?}, want a ConfigMap or a Secret of group \"\""
            );
            return Err(Fault::new("InvalidKind", why));
        }
    };
    Ok((kind, ObjectName::new(&policy.ns, name)))
}

fn authorities(
    snapshot: &Snapshot,
    policy: &ObjectName,
    reference: &TlsRef,
    store: &mut Store,
) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, Fault> {
    let (kind, name) = referent(policy, reference)?;
    store.get(snapshot, kind, &name).map_err(|why| bad(&why))
}

/// The ConfigMaps and Secrets that policies refer to.
pub(super) fn references(snapshot: &Snapshot) -> impl Iterator<Item = (NamedKind, ObjectName)> + '_ {
    snapshot.backend_tls_policies.iter().flat_map(|(name, policy)| {
        policy.spec.validation.authorities.iter().filter_map(|reference| referent(name, reference).ok())
    })
}
