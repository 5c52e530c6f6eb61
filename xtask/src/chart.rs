//! `cargo xtask chart`: deploy/nodeport.yaml from the chart in deploy/chart, by the real Helm.
//!
//! Owns that the two agree. Helm is a Go module (tests/kubernetes/helm/go.mod says which version), built once into the cache. Invariant: with
//! `--check` nothing in the work tree is written.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What `cargo xtask chart` is asked to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare, and write nothing
    #[arg(long)]
    check: bool,
}

/// First lines of the manifest.
const HEAD: &str = "# The chart deploy/chart with its default values, in the namespace kube-system. Written by `cargo xtask chart`; do not edit.\n\
                    # How to use it: docs/install.md.\n";

/// The module that names Helm's version.
const MODULE: &str = "tests/kubernetes/helm";

/// Helm's own idea of the cluster's version is older than what the chart asks for.
const KUBERNETES: &str = "1.37.0";

/// Sets of values that the chart must take, beside its defaults.
const ACCEPTED: &[&str] = &[
    "apiServer.servers={https://192.0.2.1:6443,https://192.0.2.2:6443}",
    "nodeport.reservePorts=true,nodeport.conntrackSysctls=true",
    "kubeProxy.healthzBindAddress=0.0.0.0:0",
    "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "maxUnavailable=10%,serviceAccount.create=false,rbac.create=false",
];

/// Sets of values that the chart must refuse: unknown names, senseless values.
const REFUSED: &[&str] = &[
    "nodeport.xpd=native",
    "nodeport.xdp=fast",
    "kubeProxy.nodePortAddress=primary",
    "maxUnavailable=0",
    "image.digest=latest",
    "apiserver.servers=x",
];

/// Lints the chart, tries sets of values, and writes or compares the manifest.
pub(crate) fn main(args: &Args) -> Result<()> {
    let helm = helm()?;
    let mut lint = Command::new(&helm);
    lint.args(["lint", "--strict", "--quiet", "deploy/chart"]);
    shell::run(lint.current_dir(shell::root()))?;
    for values in ACCEPTED {
        render(&helm, values).with_context(|| format!("the chart does not take {values}"))?;
    }
    for values in REFUSED {
        if render(&helm, values).is_ok() {
            bail!("the chart takes {values}: its schema should refuse that");
        }
    }
    let text = HEAD.to_owned() + &render(&helm, "")?;
    let path = shell::root().join("deploy/nodeport.yaml");
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == text {
        return Ok(());
    }
    if args.check {
        bail!("deploy/nodeport.yaml is not what the chart says; run `cargo xtask chart`");
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn render(helm: &Path, values: &str) -> Result<String> {
    let mut command = Command::new(helm);
    command
        .args(["template", "nodeport", "deploy/chart"])
        .args(["--namespace", "kube-system", "--kube-version", KUBERNETES])
        .args(["--set", values])
        .current_dir(shell::root());
    shell::output(&mut command)
}

/// Helm, built from its module unless the cache has it.
fn helm() -> Result<PathBuf> {
    let module = shell::root().join(MODULE);
    let go_mod = fs::read_to_string(module.join("go.mod")).context("cannot read Helm's go.mod")?;
    let version = version(&go_mod).context("Helm's go.mod names no version")?;
    let path = shell::cache()?.join(format!("helm/{version}/helm"));
    if path.is_file() {
        return Ok(path);
    }
    if shell::find("go").is_none() {
        bail!("Helm is built from its Go module, and there is no Go here: install it (https://go.dev)");
    }
    shell::stage(&format!("build Helm {version}"), || {
        let mut build = Command::new("go");
        build
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&path)
            .arg("helm.sh/helm/v3/cmd/helm")
            .env("CGO_ENABLED", "0")
            .current_dir(&module);
        shell::run(&mut build)
    })?;
    Ok(path)
}

/// The version of Helm that a go.mod requires.
fn version(go_mod: &str) -> Option<&str> {
    let mut lines = go_mod.lines().map(str::split_whitespace);
    lines.find_map(|mut words| {
        words
            .any(|word| word == "helm.sh/helm/v3")
            .then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module() {
        let text = "module x\n\ntool helm.sh/helm/v3/cmd/helm\n\nrequire (\n\thelm.sh/helm/v3 v3.22.0 // indirect\n)\n";
        assert_eq!(version(text), Some("v3.22.0"));
        assert_eq!(version("module x\n"), None);
    }
}
