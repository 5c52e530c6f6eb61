//! What a story asks of a cluster: which Pods there are, where a Service is, and who answers there.
//!
//! Invariant: a request that is not answered is an error, never passed over.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Kubernetes, eventually};
use crate::clients::{Options, Verdict, http};
use crate::lab::Family;

impl Kubernetes {
    /// Names of the Pods with the label `app` that are there to stay: not deleted.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn pods(&self, app: &str) -> Result<BTreeSet<String>> {
        let path = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{app}");
        let list = self.api.get(&path)?;
        let items = list["items"].as_array().context("a list of Pods")?;
        let stays = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        let names = items
            .iter()
            .filter(stays)
            .filter_map(|pod| pod.pointer("/metadata/name")?.as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The first node port of a Service in the namespace `default`.
    ///
    /// # Errors
    /// If there is none.
    pub fn node_port(&self, service: &str) -> Result<u16> {
        let path = format!("/api/v1/namespaces/default/services/{service}");
        let service = self.api.get(&path)?;
        let port = service.pointer("/spec/ports/0/nodePort");
        let port = port.and_then(Value::as_u64).context("no node port")?;
        Ok(u16::try_from(port)?)
    }

    /// A port on every node.
    #[must_use]
    pub fn on_nodes(&self, family: Family, port: u16) -> Vec<SocketAddr> {
        let nodes = self.lab.nodes.iter();
        nodes
            .map(|node| SocketAddr::new(node.address(family), port))
            .collect()
    }

    /// The names of those who answer this many requests of the outside client.
    ///
    /// # Errors
    /// If one is not answered.
    pub fn ask(&self, to: SocketAddr, times: usize) -> Result<BTreeSet<String>> {
        (0..times.max(1))
            .map(|_| match self.ask_once(to)? {
                Verdict::Answered(answer) => Ok(answer.name),
                other => bail!("{to}: {other:?}"),
            })
            .collect()
    }

    /// What becomes of one request of the outside client.
    ///
    /// # Errors
    /// If curl cannot be run.
    pub fn ask_once(&self, to: SocketAddr) -> Result<Verdict> {
        http(&self.lab.client, to, Options::default())
    }

    /// Waits until requests to each of these are answered by all of these Pods and by nobody else.
    ///
    /// # Errors
    /// If that does not come to be.
    pub fn await_answers(&self, to: &[SocketAddr], names: &BTreeSet<String>) -> Result<()> {
        to.iter().try_for_each(|to| {
            eventually(&format!("{to} is answered by {names:?}"), || {
                let seen = self.ask(*to, 10 * names.len())?;
                ensure!(seen == *names, "answered by {seen:?}");
                Ok(())
            })
        })
    }

    /// Waits until each of these refuses.
    ///
    /// # Errors
    /// If that does not come to be.
    pub fn await_refusals(&self, to: &[SocketAddr]) -> Result<()> {
        to.iter().try_for_each(|to| {
            eventually(&format!("{to} refuses"), || match self.ask_once(*to)? {
                Verdict::Refused => Ok(()),
                other => bail!("{other:?}"),
            })
        })
    }
}
