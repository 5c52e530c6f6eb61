//! The stages, one after the other, each with its time.
//!
//! Owns what is called and when the clock runs. It refuses to know how objects and maps are made.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nodeport_agent::maps::Store;
use nodeport_agent::model::decode::{Decoded, decode};
use nodeport_agent::model::{Compiler, Desired, HostAddress, Object, Objects, Snapshot, compile};
use nodeport_agent::plan::diff;
use nodeport_agent::reconcile::{Monotonic, Reconciler};
use nodeport_agent::source::manifests::document::{Syntax, read};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{Args, cluster};

/// One row: what, and how much of it.
pub(crate) type Results = Vec<(String, Value)>;

struct Measured {
    rows: Results,
}

impl Measured {
    fn time<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let start = thread_time();
        let result = work();
        self.millis(name, thread_time().saturating_sub(start));
        result
    }

    fn millis(&mut self, name: &str, took: Duration) {
        let millis = (took.as_secs_f64() * 1e6).round() / 1e3;
        self.rows.push((format!("{name}, ms"), json!(millis)));
    }

    fn memory(&mut self, name: &str) {
        self.rows
            .push((format!("{name}, MiB"), json!(resident_mib())));
    }
}

/// Measures all stages.
pub(crate) fn measure<S: Store>(args: &Args, store: S) -> Result<Results> {
    let mut measured = Measured { rows: Vec::new() };
    let objects = if args.profile_secs.is_none() {
        texts(args, &mut measured)?
    } else {
        decoded(&values(args))?
    };
    measured.memory("resident with the objects");
    let mut snapshot = snapshot(objects);
    drop(measured.time("compile all from nothing", || compile(&snapshot)));
    let mut compiler = Compiler::default();
    let compiled = measured.time("compile all", || compiler.compile(&snapshot).clone());
    let desired = compiled.desired;
    let mut reconciler = Reconciler::adopt(store, Monotonic::default())?;
    measured.time("plan all", || diff(&desired, reconciler.installed()));
    let report = measured.time("plan and write all", || reconciler.apply(&desired));
    if !report.is_complete() {
        bail!("not everything was written: {report:?}");
    }
    measured
        .rows
        .push(("entries written".to_owned(), json!(report.entries)));
    measured.time("plan nothing", || diff(&desired, reconciler.installed()));
    drop(desired);
    measured.memory("resident with all written");
    let parts = (&mut compiler, &mut reconciler);
    changes(args, &mut measured, &mut snapshot, parts)?;
    let desired = compiler.compile(&snapshot).desired.clone();
    measured.time("read all and compare", || reconciler.check(&desired));
    measured.memory("resident in the end");
    Ok(measured.rows)
}

/// Reads the objects as files of both kinds.
fn texts(args: &Args, measured: &mut Measured) -> Result<Objects> {
    let values = values(args);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": &values}).to_string();
    measured
        .rows
        .push(("JSON, MiB".to_owned(), json!(list.len() >> 20)));
    let from_json = measured.time("read JSON", || read("all.json", &list, Syntax::Json));
    drop(list);
    let yaml: String = values.iter().map(yaml).collect();
    measured
        .rows
        .push(("YAML, MiB".to_owned(), json!(yaml.len() >> 20)));
    let from_yaml = measured.time("read YAML", || read("all.yaml", &yaml, Syntax::Yaml));
    if from_json.objects.len() != values.len() || from_yaml.objects.len() != values.len() {
        bail!("not all objects were read: {:?}", from_yaml.refused.first());
    }
    let mut objects = Objects::default();
    measured.time("collect objects", || {
        for object in from_json.objects {
            objects.insert(object);
        }
    });
    Ok(objects)
}

fn values(args: &Args) -> Vec<Value> {
    let services = (0..args.services).map(cluster::service);
    let slices = (0..args.services).flat_map(|index| cluster::slices(index, args.endpoints, 0));
    std::iter::once(cluster::node())
        .chain(services)
        .chain(slices)
        .collect()
}

fn decoded(values: &[Value]) -> Result<Objects> {
    let mut objects = Objects::default();
    for value in values {
        objects.insert(object(value)?);
    }
    Ok(objects)
}

fn object(value: &Value) -> Result<Object> {
    match decode(value, None) {
        Decoded::Object(object) => Ok(object),
        other => bail!("no object: {other:?}"),
    }
}

/// Block style, as people and `kubectl` write it.
fn yaml(value: &Value) -> String {
    let mut text = String::from("---\n");
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let _written = write!(text, "{pad}{key}:");
                nested(value, indent + 2, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _written = write!(text, "{pad}-");
                nested(item, indent + 2, text);
            }
        }
        scalar => drop(writeln!(text, "{pad}{scalar}")),
    }
}

fn nested(value: &Value, indent: usize, text: &mut String) {
    let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty);
    if empty || !(value.is_object() || value.is_array()) {
        let _written = writeln!(text, " {value}");
    } else {
        text.push('\n');
        block(value, indent, text);
    }
}

fn snapshot(objects: Objects) -> Snapshot {
    let address = "192.0.2.1".parse().ok();
    Snapshot {
        objects: Arc::new(objects),
        node_name: cluster::NODE.to_owned(),
        host_addresses: address
            .map(|address| HostAddress { address, device: 2 })
            .into_iter()
            .collect(),
        ..Snapshot::default()
    }
}

/// Changes one endpoint after the other, each in another Service.
fn changes<S: Store>(
    args: &Args,
    measured: &mut Measured,
    snapshot: &mut Snapshot,
    (compiler, reconciler): (&mut Compiler, &mut Reconciler<S, Monotonic>),
) -> Result<()> {
    let (mut objects_took, mut compile_took, mut write_took, mut all_took) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut steps, mut entries) = (0, 0);
    let end = args
        .profile_secs
        .map(|secs| Instant::now() + Duration::from_secs(secs));
    let more = |done: usize| end.map_or(done < args.changes, |end| Instant::now() < end);
    let mut number = 0;
    while more(number) {
        number += 1;
        let service = (number * 7919) % args.services;
        let changed = cluster::slices(service, args.endpoints, number);
        let slice = object(changed.last().context("a Service without endpoints")?)?;
        let start = thread_time();
        Arc::make_mut(&mut snapshot.objects).insert(slice);
        let compiling = thread_time();
        objects_took.push(compiling.saturating_sub(start));
        let desired: Desired = compiler.compile(snapshot).desired.clone();
        let writing = thread_time();
        compile_took.push(writing.saturating_sub(compiling));
        let report = reconciler.apply(&desired);
        write_took.push(thread_time().saturating_sub(writing));
        all_took.push(thread_time().saturating_sub(start));
        if !report.is_complete() || report.entries == 0 {
            bail!("a change was not written: {report:?}");
        }
        steps += report.steps;
        entries += report.entries;
    }
    for (name, took) in [
        ("one change: objects", &mut objects_took),
        ("one change: compile", &mut compile_took),
        ("one change: plan and write", &mut write_took),
        ("one change: all", &mut all_took),
    ] {
        took.sort_unstable();
        measured.millis(&format!("{name}, p50"), took[took.len() / 2]);
        measured.millis(&format!("{name}, p99"), took[took.len() * 99 / 100]);
    }
    for (name, sum) in [
        ("one change: steps", steps),
        ("one change: entries", entries),
    ] {
        let each = f64::from(u32::try_from(sum)?) / f64::from(u32::try_from(number)?);
        measured.rows.push((name.to_owned(), json!(each)));
    }
    Ok(())
}

/// What this thread took of a core so far, in the kernel too: a busy machine changes little of it.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Memory of this process that is in RAM.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() >> 10
}

/// All rows as text.
pub(crate) fn table(args: &Args, results: &Results) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    let what = format!("{} Services x {} endpoints", args.services, args.endpoints);
    table.set_header([what.as_str(), if args.kernel { "kernel" } else { "memory" }]);
    for (name, value) in results {
        table.add_row([name.clone(), value.to_string()]);
    }
    table
}
