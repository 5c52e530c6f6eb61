//! docs/metrics.md, and the table of docs/differences.md of what is not given.

use std::fmt::Write as _;

use nodeport_agent::observe::metrics::catalog::{KUBE_PROXY, Metric, NOT_GIVEN, OWN, Type};

const HEAD: &str = "\
# Metrics and health

<!-- Written by `cargo xtask docs` from nodeport-agent/src/observe/metrics/catalog.rs; do not edit. -->

| server | flag, field | default | paths |
|---|---|---|---|
| health | `--healthz-bind-address`, `healthzBindAddress` | `0.0.0.0:10256` | `/healthz`, `/livez` |
| metrics | `--metrics-bind-address`, `metricsBindAddress` | `127.0.0.1:10249` | `/metrics`, `/metrics/slis`, `/healthz`, `/proxyMode`, `/configz`, `/flagz`, `/statusz` |
| a load balancer's check | `spec.healthCheckNodePort` of a Service | none | any |

`/livez` is 200 unless an update of the maps has been waiting for twice the sync period (a minute by default); `/healthz` is 200 if, besides, the own Node is
known, is not being deleted, and has no taint `ToBeDeletedByClusterAutoscaler`. Use `/livez` for a liveness probe, `/healthz` for load balancers.

An address that is taken is tried again every 5 seconds and named by `status`; with `bindAddressHardFail` it ends the agent.
";

/// The page.
pub(crate) fn page() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## With kube-proxy's names\n\nThese mean what they mean there, with the same labels and buckets.\n\n");
    table(&mut text, KUBE_PROXY);
    text.push_str("\nAnd `process_*` of the client library.\n\n## Our own\n\n");
    table(&mut text, OWN);
    text.push_str("\n## Metrics of kube-proxy that are not given\n\n");
    text.push_str(&not_given());
    text
}

fn table(text: &mut String, metrics: &[Metric]) {
    text.push_str("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let kind = match metric.of {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            metric.help
        );
    }
}

/// The table that docs/differences.md has too.
pub(crate) fn not_given() -> String {
    let mut text = String::from("| metric | why not |\n|---|---|\n");
    for (name, reason) in NOT_GIVEN {
        let star = if name.ends_with('_') { "*" } else { "" };
        let _ = writeln!(text, "| `{name}{star}` | {reason} |");
    }
    text
}
