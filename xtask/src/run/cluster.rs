//! `cargo xtask run --cluster`: a real API server for the lab, kubectl for whoever is curious, an agent on each node.
//!
//! Owns what is printed and what `--check` does. Invariant: as of `run`, the lab is gone when the verb ends.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nodeport_tests::agent::{self, Agent};
use nodeport_tests::k8s::programs::Programs;
use nodeport_tests::k8s::{Kubernetes, eventually};
use nodeport_tests::{Family, LabSpec, interrupt};

use super::Args;
use crate::kubernetes;
use crate::shell::stage;

/// Pods that a node has room for.
const ROOM: u8 = 6;

/// Makes the cluster, and drives it or waits.
pub(super) fn main(args: &Args, agent: PathBuf) -> Result<()> {
    let programs = Programs::new(&kubernetes::control_plane()?);
    let nodes = u8::try_from(args.nodes).context("--nodes")?;
    ensure!((1..=50).contains(&nodes), "--nodes is 1 to 50");
    let cluster = stage("make the lab and start a control plane", || {
        Kubernetes::start(LabSpec::nodes(nodes).pods(ROOM), &programs)
    })?;
    let mut spec = cluster.agent()?.xdp(&args.xdp);
    spec.binary = agent;
    let agents = stage("start an agent on every node", || {
        agent::start_all(&cluster.lab, &spec)
    })?;
    if args.check {
        let outcome = check(&cluster);
        if outcome.is_err() {
            for agent in &agents {
                println!("--- the agent of {} said:\n{}", agent.node, agent.log());
            }
        }
        return outcome;
    }
    println!("{}", commands(&cluster, &agents)?);
    interrupt::wait();
    println!("removing the cluster");
    Ok(())
}

/// What a newcomer does first, as a program.
fn check(cluster: &Kubernetes) -> Result<()> {
    let kubectl = |words: &str| {
        println!("$ kubectl {words}");
        let said = cluster.kubectl.run(words)?;
        print!("{said}");
        Ok::<_, anyhow::Error>(said)
    };
    kubectl("get nodes --output=wide")?;
    kubectl("create deployment web --image=lab/web --replicas=3")?;
    kubectl("expose deployment web --type=NodePort --port=80")?;
    kubectl("rollout status deployment/web --timeout=120s")?;
    kubectl("get pods,services --output=wide")?;
    let to = cluster.on_nodes(Family::V4, cluster.node_port("web")?);
    let answered = |count: usize| {
        let pods = cluster.pods("web")?;
        if pods.len() != count {
            bail!("{count} Pods are wanted, there are {pods:?}");
        }
        cluster.await_answers(&to, &pods)?;
        println!("every node answers at {to:?}, from {pods:?}");
        Ok(())
    };
    answered(3)?;
    kubectl("scale deployment web --replicas=5")?;
    kubectl("rollout status deployment/web --timeout=120s")?;
    answered(5)?;
    let former = cluster.pods("web")?;
    kubectl("rollout restart deployment/web")?;
    kubectl("rollout status deployment/web --timeout=120s")?;
    eventually("the former Pods are gone", || {
        ensure!(cluster.pods("web")?.is_disjoint(&former), "they are not");
        Ok(())
    })?;
    answered(5)?;
    kubectl("delete service,deployment web")?;
    cluster.await_refusals(&to)
}

/// What to try by hand.
fn commands(cluster: &Kubernetes, agents: &[Agent]) -> Result<String> {
    let bin = cluster.lab.dir().join("bin");
    std::fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    script(&bin, "kubectl", &cluster.kubectl.command_line())?;
    let client = cluster.lab.client.path();
    script(
        &bin,
        "client",
        &format!("nsenter --net={}", client.display()),
    )?;
    let mut lines = vec![
        format!(
            "A cluster of {} nodes is up, without kube-proxy. In another terminal:",
            agents.len()
        ),
        format!("  export PATH={}:$PATH", bin.display()),
        "  kubectl get nodes -o wide".to_owned(),
        "  kubectl create deployment web --image=any --replicas=3".to_owned(),
        "  kubectl expose deployment web --type=NodePort --port=80".to_owned(),
        "  kubectl get service,endpointslices,pods -o wide".to_owned(),
    ];
    if let Some(node) = cluster.lab.nodes.first() {
        let address = node.address(Family::V4);
        let port = "'{.spec.ports[0].nodePort}'";
        lines.push(format!(
            "  client curl http://{address}:$(kubectl get service web -o jsonpath={port})/"
        ));
    }
    lines.push("  kubectl scale deployment web --replicas=5".to_owned());
    lines.push("  kubectl rollout restart deployment/web".to_owned());
    if let Some(agent) = agents.first() {
        lines.push(format!("  {}", agent.command_line(&["status"])));
    }
    lines.push(
        "Pods are stand-ins: each is an nginx that says its Pod's name, whatever the image."
            .to_owned(),
    );
    lines.push("Ctrl-C removes all of it.".to_owned());
    Ok(lines.join("\n"))
}

/// A program that runs its arguments after `before`.
fn script(bin: &Path, name: impl AsRef<OsStr>, before: &str) -> Result<()> {
    let path = bin.join(name.as_ref());
    std::fs::write(&path, format!("#!/bin/sh\nexec {before} \"$@\"\n"))
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", path.display()))
}
