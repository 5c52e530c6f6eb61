//! `plan`: the steps that would bring the maps in step with the objects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::{Output, PlanArgs, print, print_json};
use crate::datapath::Pins;
use crate::datapath::devices;
use crate::maps::{KernelStore, read_contents};
use crate::model::{HostAddress, NodePortAddresses, Objects, Snapshot, compile, snapshot};
use crate::plan::{Installed, Limits, Plan, State, diff};
use crate::source::{self, Choice, Source, manifests};

/// How long an API server may take. A Node that is not there takes half a minute of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// How much fits into maps that do not exist yet: their defaults.
const LIMITS: Limits = Limits {
    frontends: 65536,
    backends: 262_144,
    addresses: 65536,
    serving: 262_144,
    sources: 65536,
};

/// Prints the steps.
pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    let snapshot = snapshot(args)?;
    let (desired, reports) = compile(&snapshot);
    for report in &reports {
        tracing::warn!("{report}");
    }
    let installed = installed(args)?;
    let plan = diff(&desired, &installed);
    match args.output {
        Output::Json => print_json(&json!({
            "steps": plan.view(&installed),
            "refused": plan.refused,
            "reports": reports,
        })),
        Output::Table => print(&text(&plan)),
    }
}

/// What the steps start from.
fn installed(args: &PlanArgs) -> Result<Installed> {
    if let Some(file) = &args.against {
        let text =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let state: State = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no state (`dump state` makes one)", file.display()))?;
        return state
            .installed()
            .with_context(|| format!("{} is no state of these maps", file.display()));
    }
    let Some(directory) = &args.pin_dir else {
        return Ok(Installed::empty(LIMITS));
    };
    let store = KernelStore::open(&Pins::new(directory).maps())?;
    Ok(Installed::adopt(
        &read_contents(&store)?,
        &read_contents(&store)?,
    ))
}

/// The objects, and this machine's addresses.
fn snapshot(args: &PlanArgs) -> Result<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let inventory = runtime.block_on(devices::inventory())?;
    let host_addresses: BTreeSet<HostAddress> = inventory
        .addresses()
        .map(|(device, address)| HostAddress { address, device })
        .collect();
    let node_port_addresses = NodePortAddresses::parse(&args.objects.nodeport_addresses)?;
    let node_name = (args.objects.node_name()).context("the node has no name: give --node-name")?;
    let objects = match args.objects.source()? {
        Choice::Manifests(paths) => Arc::new(manifests::read_once(paths)?),
        choice @ Choice::Kubernetes(_) => runtime.block_on(complete(choice, &node_name))?,
    };
    Ok(Snapshot {
        objects,
        node_name,
        host_addresses,
        options: snapshot::Options {
            node_port_addresses,
            ..snapshot::Options::default()
        },
    })
}

/// The first complete set of a source.
async fn complete(choice: Choice, node_name: &str) -> Result<Arc<Objects>> {
    let mut source = Source::follow(choice, node_name).await?;
    if let Ok(update) = tokio::time::timeout(PATIENCE, source.next()).await {
        return Ok(update.context("the source ended")?.objects);
    }
    let why = source::warnings(&source.progress().status());
    bail!(
        "no complete set of objects within {PATIENCE:?}: {}",
        why.join("; ")
    )
}

fn text(plan: &Plan) -> String {
    let mut lines: Vec<String> = plan
        .steps
        .iter()
        .map(|planned| planned.step.to_string())
        .collect();
    lines.extend(plan.refused.iter().map(|refused| {
        let whose = refused.service_port.as_ref();
        let whose = whose.map_or_else(String::new, |name| format!("{name}, "));
        format!("refused: {whose}{}: {}", refused.family, refused.reason)
    }));
    if lines.is_empty() {
        lines.push("nothing to do".to_owned());
    }
    lines.join("\n")
}
