//! A cluster whose nodes are real: containerd, kubelet and a scheduler run the Pods.
//!
//! Owns the images that Pods are made of. Invariant: when a cluster is returned, all its nodes are ready.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::control::{ADDRESSES, ControlPlane, Kubelets};
use super::node::RealNode;
use super::programs::Programs;
use super::{Kubernetes, eventually, image, nodes};
use crate::lab::Lab;
use crate::spec::LabSpec;

/// Image of a Pod that serves HTTP on port 8080 and says its name: `pod` of `tests/kubernetes`.
pub const POD_IMAGE: &str = "lab.nodeport/pod:1";
/// Image of `CoreDNS`.
pub const DNS_IMAGE: &str = "lab.nodeport/coredns:1";

/// Where a lab keeps images for its nodes.
fn images_of(lab: &Lab) -> PathBuf {
    lab.dir().join("images")
}

impl Kubernetes {
    /// Makes the lab and brings everything up, with real nodes that have these images beside [`POD_IMAGE`] and [`DNS_IMAGE`].
    ///
    /// # Errors
    /// If the programs are not there, or one of them does not start.
    pub fn start_real(spec: LabSpec, programs: &Programs, images: &[PathBuf]) -> Result<Self> {
        let lab = Arc::new(spec.pods(0).outsider(&ADDRESSES).start()?);
        let dir = images_of(&lab);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let pod = programs.find("pod")?;
        image::pack(
            &pod,
            &["pause"],
            "lab.nodeport/pause:1",
            &dir.join("pause.tar"),
        )?;
        image::pack(&pod, &["serve"], POD_IMAGE, &dir.join("pod.tar"))?;
        let dns = programs.find("coredns")?;
        image::pack(&dns, &[], DNS_IMAGE, &dir.join("coredns.tar"))?;
        for image in images {
            let name = image.file_name().context("a file of an image")?;
            fs::copy(image, dir.join(name)).with_context(|| format!("copy {}", image.display()))?;
        }
        let control = ControlPlane::start(&lab, programs, Kubelets::Real)?;
        let api = control.api()?;
        nodes::create(&lab, &api, Kubelets::Real)?;
        let nodes = (0..lab.nodes.len())
            .map(|index| RealNode::start(&lab, &control, programs, &dir, index))
            .collect::<Result<Vec<_>>>()?;
        let cluster = Self {
            nodes,
            kubelet: None,
            kubectl: control.kubectl()?,
            control,
            api,
            lab,
        };
        cluster.await_nodes()?;
        Ok(cluster)
    }

    /// Starts a node that was killed, with what its disks still have.
    ///
    /// # Errors
    /// See [`RealNode::start`].
    pub fn restart_node(&mut self, programs: &Programs, index: usize) -> Result<()> {
        let images = images_of(&self.lab);
        self.nodes[index] = RealNode::start(&self.lab, &self.control, programs, &images, index)?;
        Ok(())
    }

    /// Waits until all nodes are ready.
    ///
    /// # Errors
    /// If one is not within a minute; the error has what its first process said.
    pub fn await_nodes(&self) -> Result<()> {
        let logs = || self.nodes.iter().map(RealNode::log).collect::<String>();
        eventually("all nodes are ready", || {
            let list = self.api.get("/api/v1/nodes")?;
            let items = list["items"].as_array().context("a list of Nodes")?;
            let conditions = items
                .iter()
                .filter_map(|node| node.pointer("/status/conditions")?.as_array())
                .flatten();
            let ready = conditions
                .filter(|one| one["type"] == "Ready" && one["status"] == "True")
                .count();
            ensure!(ready == self.lab.nodes.len(), "{ready} are ready");
            Ok(())
        })
        .with_context(logs)
    }
}
