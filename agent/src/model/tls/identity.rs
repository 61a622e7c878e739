//! Who a Gateway is to backends that it speaks TLS to: `spec.tls.backend`. Source: `GatewayBackendTLS`.
use std::sync::Arc;

use super::{Field, of_secret, secret_name};
use crate::{
    api::{Gateway, ObjectName, gateway_tls::TlsRef},
    model::{
        certificate::{self, Certificate},
        grants::{Grants, GroupKind},
        report::Fault,
    },
    source::Snapshot,
};

const FIELD: Field = Field { name: "tls.backend.clientCertificateRef", reason: "InvalidClientCertificateRef" };

fn written(gateway: &Gateway) -> Option<&TlsRef> {
    gateway.spec.tls.backend.as_ref()?.client_certificate_ref.as_ref()
}

/// The Secret that a Gateway refers to and may.
pub(super) fn reference(grants: &Grants<'_>, name: &ObjectName, gateway: &Gateway) -> Option<ObjectName> {
    secret_name(grants, (GroupKind::gateway("Gateway"), &name.ns), written(gateway)?, FIELD).ok()
}

/// The certificate that a Gateway shows to backends; `None` where it names none.
///
/// # Errors
/// The reference is bad: the reasons are those of the Gateway's condition `ResolvedRefs`.
pub(in crate::model) fn client_certificate(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    (name, gateway): (&ObjectName, &Gateway),
    store: &mut certificate::Store,
) -> Result<Option<Arc<Certificate>>, Fault> {
    let Some(reference) = written(gateway) else { return Ok(None) };
    let secret = secret_name(grants, (GroupKind::gateway("Gateway"), &name.ns), reference, FIELD)?;
    of_secret(snapshot, &secret, store).map(Some).map_err(|why| FIELD.fault(&why))
}
