//! The certificates of one cluster: an authority of its own, made at the start and kept in the run's directory.
//!
//! # Design
//! rcgen, not `openssl`: nothing to install, errors have names, and 20 keys take milliseconds, not a process each. Its
//! backend is `ring`, which the agent's TLS has built already.
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// The authority that all parts of a cluster trust.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

/// A certificate with its key, as files and ready for TLS.
pub struct Credential {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
    /// What a client presents it with; trusts the authority alone.
    pub tls: Arc<ClientConfig>,
}

impl Authority {
    /// Makes an authority in `dir` (`ca.crt`, `ca.key`), and the key that signs tokens of ServiceAccounts
    /// (`sa.key`, `sa.pub`).
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut params = named("sluice-test-authority", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("make the authority's key")?;
        let certificate = params.self_signed(&key).context("sign the authority")?;
        write(&dir.join("ca.crt"), &certificate.pem())?;
        write(&dir.join("ca.key"), &key.serialize_pem())?;
        let tokens = KeyPair::generate().context("make the key of tokens")?;
        write(&dir.join("sa.key"), &tokens.serialize_pem())?;
        write(&dir.join("sa.pub"), &tokens.public_key_pem())?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key), root: certificate.der().clone() })
    }

    /// A file of the authority: `ca.crt`, `ca.key`, `sa.key`, `sa.pub`, or `<name>.crt` and `<name>.key` of a credential.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Issues a certificate for servers and clients: a user `name` of the group `group`, or a server of these names.
    ///
    /// # Errors
    /// A name cannot be in a certificate, or a file cannot be written.
    pub fn issue(&self, file: &str, name: &str, group: Option<&str>, hosts: &[&str]) -> anyhow::Result<Credential> {
        let mut params = named(name, group)?;
        for host in hosts {
            let parsed = CertificateParams::new(vec![(*host).to_owned()]).with_context(|| format!("host {host}"))?;
            params.subject_alt_names.extend(parsed.subject_alt_names);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().with_context(|| format!("make a key for {name}"))?;
        let certificate = params.signed_by(&key, &self.issuer).with_context(|| format!("sign {name}"))?;
        let paths = [self.dir.join(format!("{file}.crt")), self.dir.join(format!("{file}.key"))];
        write(&paths[0], &certificate.pem())?;
        write(&paths[1], &key.serialize_pem())?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = self.trusting()?.with_client_auth_cert(vec![certificate.der().clone()], private);
        let tls = Arc::new(tls.with_context(|| format!("TLS of {name}"))?);
        let [certificate, key] = paths;
        Ok(Credential { certificate, key, tls })
    }

    /// What a kubeconfig says of the user whose credential `file` was issued before.
    #[must_use]
    pub(super) fn existing(&self, file: &str) -> Value {
        user(&self.file(&format!("{file}.crt")), &self.file(&format!("{file}.key")))
    }

    /// TLS of a client without a certificate.
    ///
    /// # Errors
    /// None is known.
    pub fn anonymous(&self) -> anyhow::Result<Arc<ClientConfig>> {
        Ok(Arc::new(self.trusting()?.with_no_client_auth()))
    }

    fn trusting(
        &self,
    ) -> anyhow::Result<tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert>>
    {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).context("trust the authority")?;
        // Named, not the process's default: another crate may have installed one, or none.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().context("versions of TLS")?;
        Ok(builder.with_root_certificates(roots))
    }
}

impl Credential {
    /// What a kubeconfig says of its user.
    #[must_use]
    pub(super) fn user(&self) -> Value {
        user(&self.certificate, &self.key)
    }
}

fn user(certificate: &Path, key: &Path) -> Value {
    json!({ "client-certificate": certificate, "client-key": key })
}

fn named(name: &str, group: Option<&str>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("an empty certificate")?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
