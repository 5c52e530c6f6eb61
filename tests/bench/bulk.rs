//! Bulk TCP: one stream of iperf3 through the node.
//!
//! Invariant: what counts is what the server received.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nodeport_tests::process::Process;
use serde_json::Value;

use crate::candidate::Candidate;
use crate::helper::Helper;
use crate::objects::Shape;
use crate::stage::{BACKEND_PORT, Stage, backend, front_end};

/// One run: Gbit/s of payload.
pub(crate) fn run(candidate: Candidate, shape: &Shape, window: Duration) -> Result<f64> {
    let stage = Stage::make()?;
    let mut helper = Helper::load(1, [0, 0])?;
    let _agent = candidate.set_up(&stage, &mut helper, shape, "")?;
    Stage::pin()?;
    let space = stage.spaces.get(if shape.local { "pod" } else { "sink" });
    let port = BACKEND_PORT.to_string();
    let mut server = Command::new("nice");
    server.args([
        "-n",
        "-20",
        "taskset",
        "-c",
        "0",
        "iperf3",
        "--server",
        "--forceflush",
        "--port",
        &port,
    ]);
    let log = stage.spaces.record().dir().join("iperf3.log");
    let mut server = Process::start(stage.spaces.record(), space, &mut server, &log)?;
    server.wait_until(Duration::from_secs(5), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("Server listening"))
    })?;
    let to = if candidate.translates() {
        front_end(shape.v6)
    } else {
        backend(shape.v6, shape.local, 0)
    };
    // Control connection and stream may meet different endpoints: they are addresses of one server.
    let mut client = Command::new("nice");
    client.args([
        "-n", "-20", "taskset", "-c", "0", "iperf3", "--json", "--omit", "1", "--client",
    ]);
    client.arg(to.ip().to_string());
    client.args(["--port", &to.port().to_string()]);
    client.args(["--time", &window.as_secs().max(1).to_string()]);
    let output = stage.spaces.get("client").output(&mut client)?;
    let answer: Value = serde_json::from_slice(&output.stdout).context("iperf3's answer")?;
    if let Some(error) = answer.get("error") {
        bail!("iperf3: {error}");
    }
    let bits = answer.pointer("/end/sum_received/bits_per_second");
    let bits = bits
        .and_then(Value::as_f64)
        .context("iperf3 says no rate")?;
    Ok(bits / 1e9)
}
