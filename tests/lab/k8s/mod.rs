//! A real Kubernetes control plane in a lab, and stand-ins for what runs on nodes.
//!
//! etcd, kube-apiserver and kube-controller-manager run on a host of the lab's fabric; [`kubelet`] plays scheduler and kubelets with
//! the lab's Pods. Knows nothing of nodeport. Invariant: everything runs in the lab's namespaces and is recorded there, so the lab
//! removes it.

mod access;
pub mod api;
mod ask;
pub mod control;
pub mod image;
pub mod kube_proxy;
pub mod kubectl;
pub mod kubelet;
pub mod load;
pub mod node;
pub mod nodes;
pub mod pki;
mod pod;
pub mod programs;
pub mod real;
pub mod relay;
pub mod repeater;
pub mod scale;

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::agent::AgentSpec;
use crate::lab::Lab;
use crate::process::Process;
use crate::spec::LabSpec;
use api::Api;
use control::{ADDRESSES, ControlPlane, Kubelets};
use kubectl::Kubectl;
use kubelet::Kubelet;
use node::RealNode;
use programs::Programs;

/// A lab with a control plane and Nodes.
#[derive(Debug)]
pub struct Kubernetes {
    /// The real nodes, if they are.
    pub nodes: Vec<RealNode>,
    /// Plays scheduler and kubelets; without either Pods stay pending.
    pub kubelet: Option<Kubelet>,
    /// Runs on the lab's outsider.
    pub control: ControlPlane,
    /// As the cluster's administrator.
    pub kubectl: Kubectl,
    /// As the cluster's administrator.
    pub api: Api,
    /// The network.
    pub lab: Arc<Lab>,
}

impl Kubernetes {
    /// Makes the lab and brings everything up, the lab's nodes as Nodes.
    ///
    /// # Errors
    /// If the programs are not there, or one of them does not start.
    pub fn start(spec: LabSpec, programs: &Programs) -> Result<Self> {
        let lab = Arc::new(spec.outsider(&ADDRESSES).start()?);
        let control = ControlPlane::start(&lab, programs, Kubelets::StandIns)?;
        let api = control.api()?;
        nodes::create(&lab, &api, Kubelets::StandIns)?;
        let kubelet = Kubelet::start(Arc::clone(&lab), api.clone())?;
        Ok(Self {
            nodes: Vec::new(),
            kubelet: Some(kubelet),
            kubectl: control.kubectl()?,
            control,
            api,
            lab,
        })
    }

    /// An agent with the rights of kube-proxy, whose objects come from this API server.
    ///
    /// # Errors
    /// If its kubeconfig cannot be written.
    pub fn agent(&self) -> Result<AgentSpec> {
        let kubeconfig = self.control.kubeconfig("system:kube-proxy", None)?;
        Ok(AgentSpec::new(&[]).arguments(&format!("--kubeconfig {}", kubeconfig.display())))
    }

    /// The API server without TLS on another port, for whoever comes (`kubectl proxy`).
    ///
    /// # Errors
    /// If it does not start.
    pub fn plain_api_server(&self, port: u16) -> Result<Process> {
        let words = format!(
            "proxy --address={} --port={port} --accept-hosts=.*",
            ADDRESSES[0]
        );
        let (mut command, netns) = self.kubectl.command(&words);
        let log = self.lab.dir().join(format!("kubectl-proxy-{port}.log"));
        let mut process = Process::start(self.lab.record(), &netns, &mut command, &log)?;
        let to = SocketAddr::new(ADDRESSES[0], port);
        let connects = || {
            netns
                .run(|| TcpStream::connect(to))
                .is_ok_and(|it| it.is_ok())
        };
        process.wait_until(Duration::from_secs(20), connects)?;
        Ok(process)
    }
}

/// Waits until something holds.
///
/// # Errors
/// If it does not within a minute; the error says what was waited for and what was there instead.
pub fn eventually(what: &str, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        match holds() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => bail!("{what}: not within a minute: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
