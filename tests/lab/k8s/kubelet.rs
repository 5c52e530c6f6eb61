//! A stand-in for scheduler and kubelets: Pods of the API server become nginx in Pods of the lab.
//!
//! It binds Pods, starts a server for each, reports their status, and ends those that are deleted, by asking for all Pods again and
//! again. Images and commands are not looked at: every Pod answers HTTP with its own name on its container ports (80 and 8080 if it
//! names none). Invariant: a Pod is reported ready only while its server answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::api::{Api, unless_conflicting};
use super::pod::{ApiPod, ready_status};
use crate::lab::{Lab, Node};
use crate::process::Process;
use crate::servers;

/// How often it asks.
const EVERY: Duration = Duration::from_millis(100);
/// How long a Pod that is deleted goes on to serve: until everyone knows, as with a `preStop` hook that sleeps.
const DRAIN: Duration = Duration::from_secs(5);

/// The running stand-in; it ends, with its servers, when this is dropped.
#[derive(Debug)]
pub struct Kubelet {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts it, for all nodes of the lab.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(lab: Arc<Lab>, api: Api) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut state = State {
            lab,
            api,
            running: BTreeMap::new(),
            bound: Vec::new(),
            used: BTreeMap::new(),
            starts: 0,
        };
        let thread = std::thread::Builder::new()
            .name("kubelet".to_owned())
            .spawn(move || {
                let mut said = String::new();
                while !stopped.load(Ordering::Relaxed) {
                    // An API server that is away is usual here; anything else shows in the test that waits for a Pod.
                    if let Err(error) = state.pass() {
                        let error = format!("{error:#}");
                        if said != error {
                            eprintln!("the stand-in kubelet: {error}");
                            said = error;
                        }
                    }
                    std::thread::sleep(EVERY);
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic there was reported on its own thread.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

struct State {
    lab: Arc<Lab>,
    api: Api,
    /// By uid.
    running: BTreeMap<String, Running>,
    /// How many Pods are bound to each node, those without a server yet too.
    bound: Vec<usize>,
    /// When each place was last taken, as the number of a start: the one that is free for the longest is taken next.
    used: BTreeMap<Place, u64>,
    starts: u64,
}

/// A Pod of the lab: node and number, from 0.
type Place = (usize, usize);

struct Running {
    /// `None` in the host network.
    place: Option<Place>,
    addresses: Vec<IpAddr>,
    server: Process,
    /// Since when it is known to be deleted.
    leaving: Option<Instant>,
}

impl State {
    /// Brings everything to what the API server says now.
    fn pass(&mut self) -> Result<()> {
        // Version 0: whatever the API server has in memory.
        let list = self.api.get("/api/v1/pods?resourceVersion=0")?;
        let items = list["items"].as_array().context("a list of Pods")?;
        let pods: Vec<_> = items.iter().filter_map(ApiPod::read).collect();
        // Who is gone without us (deleted by force) has no server either.
        self.running
            .retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        let of_node = |node: &Node| {
            let on = |pod: &&ApiPod| pod.node.as_ref() == Some(&node.name);
            pods.iter().filter(on).count()
        };
        self.bound = self.lab.nodes.iter().map(of_node).collect();
        for pod in &pods {
            self.bring(pod)
                .with_context(|| format!("Pod {}/{}", pod.namespace, pod.name))?;
        }
        Ok(())
    }

    fn bring(&mut self, pod: &ApiPod) -> Result<()> {
        let Some(node) = &pod.node else {
            if pod.grace.is_some() {
                return self.remove(pod);
            }
            let Some(node) = self.choose(pod) else {
                return Ok(());
            };
            let target = json!({"apiVersion": "v1", "kind": "Node", "name": node});
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name}, "target": target});
            return unless_conflicting(self.api.post(&format!("{}/binding", pod.path()), &binding))
                .map(drop);
        };
        let Some(node) = self.lab.nodes.iter().position(|one| one.name == *node) else {
            return Ok(());
        };
        if let Some(grace) = pod.grace {
            return self.end(pod, grace);
        }
        if pod.is_over {
            return Ok(());
        }
        if !self.running.contains_key(&pod.uid) && !self.run(pod, node)? {
            return Ok(());
        }
        let running = &self.running[&pod.uid];
        if pod.reported_ready != Some(pod.wanted_ready) {
            let hosts: Vec<_> = self.lab.nodes[node]
                .addresses
                .iter()
                .flatten()
                .copied()
                .collect();
            let status = ready_status(pod, &running.addresses, &hosts);
            let path = format!("{}/status", pod.path());
            unless_conflicting(self.api.patch(&path, &status))?;
        }
        Ok(())
    }

    /// The node with the fewest Pods among those that a Pod may be on and that have room; it counts as bound there.
    fn choose(&mut self, pod: &ApiPod) -> Option<String> {
        let nodes = &self.lab.nodes;
        let fits = |index: &usize| {
            let node = &nodes[*index];
            pod.only_node.as_ref().is_none_or(|only| *only == node.name)
                && (pod.host_network || self.bound[*index] < node.pods.len())
        };
        let node = (0..nodes.len())
            .filter(fits)
            .min_by_key(|index| self.bound[*index])?;
        let name = nodes[node].name.clone();
        self.bound[node] += 1;
        Some(name)
    }

    fn free(&self, node: usize) -> Option<Place> {
        let places = (0..self.lab.nodes[node].pods.len()).map(|pod| (node, pod));
        let taken = |place: &Place| {
            self.running
                .values()
                .any(|running| running.place == Some(*place))
        };
        places
            .filter(|place| !taken(place))
            .min_by_key(|place| self.used.get(place).copied())
    }

    /// Starts the server of a Pod. Returns whether there was room.
    fn run(&mut self, pod: &ApiPod, node: usize) -> Result<bool> {
        let host = &self.lab.nodes[node];
        let (place, netns, addresses) = if pod.host_network {
            let addresses = host.addresses.iter().flatten().copied().collect();
            (None, &host.netns, addresses)
        } else {
            let Some(place) = self.free(node) else {
                return Ok(false);
            };
            let of_lab = &host.pods[place.1];
            (Some(place), &of_lab.netns, of_lab.spec.addresses.clone())
        };
        let sockets = |address: &IpAddr| {
            let address = *address;
            pod.ports
                .iter()
                .map(move |port| SocketAddr::new(address, *port))
        };
        let listen: Vec<_> = addresses.iter().flat_map(sockets).collect();
        let server = servers::nginx(&self.lab, netns, &pod.name, &listen)?;
        if let Some(place) = place {
            self.starts += 1;
            self.used.insert(place, self.starts);
        }
        let running = Running {
            place,
            addresses,
            server,
            leaving: None,
        };
        self.running.insert(pod.uid.clone(), running);
        Ok(true)
    }

    /// Lets a deleted Pod serve for a while, then ends and removes it.
    fn end(&mut self, pod: &ApiPod, grace: Duration) -> Result<()> {
        if let Some(running) = self.running.get_mut(&pod.uid) {
            let since = *running.leaving.get_or_insert_with(Instant::now);
            let drain = pod.drain.unwrap_or(DRAIN).min(grace);
            if since.elapsed() < drain {
                return Ok(());
            }
            running.server.signal(Signal::QUIT)?;
            running.server.wait(Duration::from_secs(5))?;
            self.running.remove(&pod.uid);
        }
        self.remove(pod)
    }

    fn remove(&self, pod: &ApiPod) -> Result<()> {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}});
        unless_conflicting(self.api.delete(&pod.path(), &options)).map(|_: Option<Value>| ())
    }
}
