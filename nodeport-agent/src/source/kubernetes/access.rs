//! Which API servers there are, and who we are to them.
//!
//! Owns the choice between kubeconfig, `--master` and a Pod's service account. It refuses to know requests. Files are read anew each
//! time that a connection is made, so that a changed authority, certificate, key or token is found without a restart.
//! Invariant: there is at least one server.

use std::path::{Path, PathBuf};

use http::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Config, config::InClusterError};

/// Where a Pod finds its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What makes it impossible to tell where the API server is, or who we are.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A kubeconfig that is not there, or makes no sense.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// Neither flags nor a service account.
    #[error(
        "no source of objects: give --kubeconfig, --master or --manifests, or run in a Pod with a service account"
    )]
    Pod(#[source] Box<InClusterError>),
    /// Not the address of a server.
    #[error("--master: {server:?} is no URL of an API server (https://ADDRESS:PORT)")]
    Server {
        /// As given.
        server: String,
    },
    /// Credentials that cannot be used.
    #[error("cannot make a connection to {server}")]
    Connection {
        /// URL of the server.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Which API servers there are, and who we are to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    credentials: Credentials,
    /// `--master`; empty if the credentials name the server.
    servers: Vec<Uri>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Credentials {
    Kubeconfig(PathBuf),
    ServiceAccount,
    Anonymous,
}

impl Access {
    /// From `--kubeconfig` and `--master`. Without a kubeconfig a Pod's service account is used, if there is one.
    ///
    /// # Errors
    /// A server that is no URL.
    pub fn new(kubeconfig: Option<&Path>, servers: &[String]) -> Result<Self, AccessError> {
        let in_pod = Path::new(SERVICE_ACCOUNT).join("token").exists();
        let servers: Vec<Uri> = servers
            .iter()
            .map(|server| url(server))
            .collect::<Result<_, _>>()?;
        let credentials = match kubeconfig {
            Some(path) => Credentials::Kubeconfig(path.to_owned()),
            None if servers.is_empty() || in_pod => Credentials::ServiceAccount,
            None => Credentials::Anonymous,
        };
        Ok(Self {
            credentials,
            servers,
        })
    }

    /// How many servers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len().max(1)
    }

    /// Reads the files, for a connection to server `number` (modulo their count).
    ///
    /// # Errors
    /// Files that are not there or make no sense.
    pub async fn load(&self, number: usize) -> Result<Config, AccessError> {
        let server = self.servers.get(number % self.count());
        let mut config = match &self.credentials {
            Credentials::Kubeconfig(path) => kubeconfig(path, server).await?,
            Credentials::ServiceAccount => service_account(server)?,
            Credentials::Anonymous => Config::new(server.cloned().unwrap_or_default()),
        };
        if let Some(server) = server {
            config.cluster_url = server.clone();
        }
        Ok(config)
    }
}

async fn kubeconfig(path: &Path, server: Option<&Uri>) -> Result<Config, AccessError> {
    let failed = |source| AccessError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let mut file = Kubeconfig::read_from(path).map_err(failed)?;
    if let Some(server) = server {
        // A kubeconfig without a server is refused, even if it is not needed.
        for cluster in file
            .clusters
            .iter_mut()
            .filter_map(|one| one.cluster.as_mut())
        {
            cluster.server = Some(server.to_string());
        }
    }
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

/// The service account's credentials. The server is that of the environment (which a DaemonSet sets, because the usual one is the
/// Service that this agent is to carry) unless one was given.
fn service_account(server: Option<&Uri>) -> Result<Config, AccessError> {
    match server {
        // The environment may have none; any will do, as it is replaced.
        Some(_) => Config::incluster_dns(),
        None => Config::incluster_env(),
    }
    .map_err(|error| AccessError::Pod(Box::new(error)))
}

/// `https` unless another scheme is given, as kubectl does with credentials.
fn url(server: &str) -> Result<Uri, AccessError> {
    let server = server.trim();
    let text = if server.contains("://") {
        server.to_owned()
    } else {
        format!("https://{server}")
    };
    text.parse::<Uri>()
        .ok()
        .filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        })
        .ok_or_else(|| AccessError::Server {
            server: server.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(servers: &[&str]) -> Vec<String> {
        servers.iter().map(|&server| server.to_owned()).collect()
    }

    const KUBECONFIG: &str = "apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'https://192.0.2.1:6443', certificate-authority: ca.crt}}]
users: [{name: u, user: {tokenFile: token}}]
";

    #[test]
    fn servers_are_urls_and_https_unless_they_say_otherwise() {
        let access = Access::new(
            None,
            &owned(&["10.0.0.1:6443", "http://[fd00::1]:8080/", " https://api "]),
        );
        let servers = access.expect("valid").servers;
        let servers: Vec<_> = servers.iter().map(Uri::to_string).collect();
        assert_eq!(
            servers,
            [
                "https://10.0.0.1:6443/",
                "http://[fd00::1]:8080/",
                "https://api/"
            ]
        );
        for bad in ["", "ftp://a", "https://", "a b", "https://:6443"] {
            assert!(Access::new(None, &owned(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn the_given_servers_take_the_place_of_the_kubeconfigs_in_turn() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        std::fs::write(&path, KUBECONFIG).expect("written");
        std::fs::write(dir.path().join("ca.crt"), "").expect("written");
        let access = Access::new(Some(&path), &[]).expect("valid");
        assert_eq!(access.count(), 1);
        let config = access.load(3).await.expect("a configuration");
        assert_eq!(config.cluster_url.to_string(), "https://192.0.2.1:6443/");
        let access = Access::new(Some(&path), &owned(&["a:1", "b:2"])).expect("valid");
        assert_eq!(access.count(), 2);
        for (number, wanted) in [
            (0, "https://a:1/"),
            (1, "https://b:2/"),
            (2, "https://a:1/"),
        ] {
            let config = access.load(number).await.expect("a configuration");
            assert_eq!(config.cluster_url.to_string(), wanted);
            let token = config.auth_info.token_file.expect("a token file");
            assert_eq!(Path::new(&token), dir.path().join("token"));
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let access = Access::new(Some(Path::new("/nowhere/config")), &[]).expect("valid");
        let error = access.load(0).await.expect_err("no file");
        assert_eq!(error.to_string(), "cannot use kubeconfig /nowhere/config");
    }
}
