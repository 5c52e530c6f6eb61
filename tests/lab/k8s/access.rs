//! Who may talk to the API server, and how: its own certificate, and kubeconfigs for its clients.
//!
//! Invariant: certificates and keys are named, not contained, so that they can change under whoever uses them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::control::{ADDRESSES, API_PORT, url};
use super::pki::{Identity, Pki, write};

/// The first address of the cluster addresses is that of the Service `kubernetes`.
const KUBERNETES: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// The API server's certificate.
pub(super) fn serving(pki: &Pki) -> Result<()> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    let mut own = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), KUBERNETES];
    own.extend(ADDRESSES);
    pki.server("kube-apiserver", &own, &names)?;
    pki.client("kube-apiserver-kubelet-client", Some("system:masters"))
        .map(drop)
}

/// Certificates and keys are named, not contained: they can change under whoever uses them. The authority is a copy, so that it
/// changes when the user's own certificate does.
pub(super) fn write_kubeconfig(pki: &Pki, identity: &Identity) -> Result<PathBuf> {
    let authority = identity.key.with_extension("ca.crt");
    let text = fs::read_to_string(pki.authority()).context("read the authority")?;
    write(&authority, &text)?;
    let user = format!(
        "client-certificate: {}, client-key: {}",
        identity.certificate.display(),
        identity.key.display()
    );
    let path = identity.key.with_extension("kubeconfig");
    write(&path, &kubeconfig(&authority, &user))?;
    Ok(path)
}

/// A kubeconfig of the first API server and one user.
pub(super) fn kubeconfig(authority: &Path, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n\
         clusters: [{{name: lab, cluster: {{server: \"{}\", certificate-authority: {}}}}}]\n\
         users: [{{name: lab, user: {{{user}}}}}]\n",
        url(API_PORT),
        authority.display(),
    )
}
