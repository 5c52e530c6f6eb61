//! Certificates and keys of a lab's cluster: an authority, the API server, and whoever talks to it.
//!
//! Owns files below one directory. Invariant: a file is written whole or not at all, so that whoever reads it anew finds no half.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// An authority and what it signed.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// File of the certificate.
    pub certificate: PathBuf,
    /// File of the key (PKCS #8).
    pub key: PathBuf,
}

impl Pki {
    /// A new authority.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "the lab's authority");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let pki = Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
        };
        write(&pki.authority(), &certificate.pem())?;
        Ok(pki)
    }

    /// Makes a new key that signs service accounts' tokens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn new_token_key(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        write(&self.token_key(), &key.serialize_pem())?;
        // What checks tokens takes no private key of this form.
        write(
            &self.token_key().with_extension("pub"),
            &key.public_key_pem(),
        )
    }

    /// File of the authority's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// File of the key that signs service accounts' tokens.
    #[must_use]
    pub fn token_key(&self) -> PathBuf {
        self.dir.join("sa.key")
    }

    /// A client: its name is the user, its organization the group.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        self.sign(&user.replace(':', "-"), &of_client(user, group))
    }

    /// A client whose certificate is valid until so long after 1970.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn client_until(&self, user: &str, end: Duration) -> Result<Identity> {
        let mut params = of_client(user, None);
        params.not_after = date_time_ymd(1970, 1, 1) + end;
        self.sign(&user.replace(':', "-"), &params)
    }

    /// A server with these addresses and names.
    ///
    /// # Errors
    /// If a name is none, or a file cannot be written.
    pub fn server(&self, file: &str, addresses: &[IpAddr], names: &[&str]) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, file);
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        for name in names {
            let name = (*name).try_into().context("a name of a server")?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, &params)
    }

    fn sign(&self, file: &str, params: &CertificateParams) -> Result<Identity> {
        let identity = Identity {
            certificate: self.dir.join(format!("{file}.crt")),
            key: self.dir.join(format!("{file}.key")),
        };
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&identity.key, &key.serialize_pem())?;
        write(&identity.certificate, &certificate.pem())?;
        Ok(identity)
    }
}

fn of_client(user: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Writes a file by renaming a finished one.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("part");
    fs::write(&unfinished, text)
        .and_then(|()| fs::rename(&unfinished, path))
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_pem_of_the_right_kind() {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = Pki::new(dir.path()).expect("an authority");
        pki.new_token_key().expect("a key");
        let client = pki
            .client("system:node:n1", Some("system:nodes"))
            .expect("a client");
        let read = |path: &Path| fs::read_to_string(path).expect("it is there");
        assert!(read(&pki.authority()).starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(read(&client.certificate).starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(read(&client.key).starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(read(&pki.token_key()).starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(
            client.key.ends_with("system-node-n1.key"),
            "{}",
            client.key.display()
        );
    }
}
