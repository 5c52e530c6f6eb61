//! `cargo xtask chart`: deploy/nodeport.yaml from the chart in deploy/chart, by the real Helm.
//!
//! Owns that the two agree. Invariant: with `--check` nothing in the work tree is written.

use crate::{kubernetes, shell};
use anyhow::{Context as _, Result, bail};
use std::{fs, path::Path, process::Command};

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

/// What Helm says when the schema refuses values.
const BY_THE_SCHEMA: &str = "values don't meet the specifications of the schema";

/// Lints the chart, tries sets of values, and writes or compares the manifest.
pub(crate) fn main(args: &Args) -> Result<()> {
    let helm = kubernetes::helm()?;
    let mut lint = Command::new(&helm);
    lint.args(["lint", "--strict", "--quiet", "deploy/chart"]);
    shell::run(lint.current_dir(shell::root()))?;
    for values in ACCEPTED {
        render(&helm, values).with_context(|| format!("the chart does not take {values}"))?;
    }
    for values in REFUSED {
        check_refusal(values, &render(&helm, values))?;
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

/// That values were refused, and by the chart's schema.
fn check_refusal(values: &str, rendered: &Result<String>) -> Result<()> {
    match rendered {
        Ok(_) => bail!("the chart takes {values}: its schema should refuse that"),
        Err(error) if !format!("{error:#}").contains(BY_THE_SCHEMA) => {
            bail!("{values} is refused, but not by the chart's schema: {error:#}")
        }
        Err(_) => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn only_the_schema_can_refuse_values() {
        let by_schema = Err(anyhow!("Error: {BY_THE_SCHEMA}(s)"));
        assert!(check_refusal("a=b", &by_schema).is_ok());
        assert!(check_refusal("a=b", &Ok("kind: DaemonSet".to_owned())).is_err());
        let otherwise = Err(anyhow!("helm: not found"));
        let error = check_refusal("a=b", &otherwise).unwrap_err().to_string();
        assert!(error.contains("not by the chart's schema"), "{error}");
    }
}
