//! The API server's own interface, for what kubectl cannot do or is too slow for: JSON over HTTPS with a client's certificate.
//!
//! Blocking, and from inside a namespace. Refuses to know objects. Invariant: an answer that is no success is an error that says what
//! was asked and what the API server said.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::http::{Method, Request};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::pki::Identity;
use crate::netns::Netns;

/// Who asks which API server.
#[derive(Clone, Debug)]
pub struct Api {
    agent: ureq::Agent,
    server: String,
    netns: Netns,
}

/// What a request was answered with.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {status}: {message}")]
pub struct Refusal {
    /// Method of the request.
    pub method: Method,
    /// Path of the request.
    pub path: String,
    /// Status of HTTP.
    pub status: u16,
    /// What the API server says.
    pub message: String,
}

impl Api {
    /// As `identity`, from `netns`, to `server` (`https://ADDRESS:PORT`) whose certificate `authority` signed.
    ///
    /// # Errors
    /// If a file cannot be read or is no PEM.
    pub fn new(netns: &Netns, server: &str, authority: &Path, identity: &Identity) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        let authority = Certificate::from_pem(&read(authority)?)?;
        let certificate = Certificate::from_pem(&read(&identity.certificate)?)?;
        let key = PrivateKey::from_pem(&read(&identity.key)?)?;
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&[authority]))
            .client_cert(Some(ClientCert::new_with_certs(&[certificate], key)))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Ok(Self {
            agent: config.into(),
            server: server.to_owned(),
            netns: netns.clone(),
        })
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// If there is no answer, or another one than success ([`Refusal`]).
    pub fn get(&self, path: &str) -> Result<Value> {
        self.send(&Method::GET, path, "", None)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.send(&Method::POST, path, "application/json", Some(object))
    }

    /// Changes an object: a strategic merge patch.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let kind = "application/strategic-merge-patch+json";
        self.send(&Method::PATCH, path, kind, Some(patch))
    }

    /// Deletes an object, with these `DeleteOptions`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.send(&Method::DELETE, path, "application/json", Some(options))
    }

    /// Whether the API server says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.text(&Method::GET, "/readyz", "", None)
            .is_ok_and(|text| text == "ok")
    }

    fn send(&self, method: &Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        let text = self.text(method, path, kind, body)?;
        serde_json::from_str(&text).with_context(|| format!("{method} {path}: no JSON: {text}"))
    }

    fn text(
        &self,
        method: &Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("Accept", "application/json, text/plain");
        if !kind.is_empty() {
            request = request.header("Content-Type", kind);
        }
        let request = request.body(body.map(Value::to_string).unwrap_or_default())?;
        // Sockets belong to the namespace of the thread that makes them.
        let (status, text) = self.netns.run(|| -> Result<_> {
            let mut response = self.agent.run(request)?;
            let text = response
                .body_mut()
                .with_config()
                .limit(1 << 30)
                .read_to_string()?;
            Ok((response.status(), text))
        })??;
        if status.is_success() {
            return Ok(text);
        }
        let said: Option<Value> = serde_json::from_str(&text).ok();
        let message = said.and_then(|said| Some(said.get("message")?.as_str()?.to_owned()));
        bail!(Refusal {
            method: method.clone(),
            path: path.to_owned(),
            status: status.as_u16(),
            message: message.unwrap_or(text),
        })
    }
}

/// Takes an answer of "not there" or "there already" for none.
///
/// # Errors
/// All others.
pub fn unless_conflicting(answer: Result<Value>) -> Result<Option<Value>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.downcast::<Refusal>() {
            Ok(refusal) if matches!(refusal.status, 404 | 409) => Ok(None),
            Ok(refusal) => Err(anyhow!(refusal)),
            Err(error) => Err(error),
        },
    }
}
