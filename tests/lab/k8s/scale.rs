//! Thousands of Services in a real API server, whose endpoints change again and again, and what an agent takes that follows them.
//!
//! Refuses to judge. Invariant: the endpoints of a Service are others after each change than before it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::api::Api;
use crate::agent::Agent;
use crate::netns::Netns;

/// Namespace of the Services.
pub const NAMESPACE: &str = "load";
/// How many requests are on their way at the same time.
const WORKERS: u32 = 8;

/// So many Services.
#[derive(Clone, Debug)]
pub struct Scale {
    api: Api,
    services: u32,
    /// Endpoints of each Service.
    endpoints: u32,
}

/// What was asked of the API server.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// Slices that were changed.
    pub slices: u32,
    /// Endpoints that were replaced: all of those slices.
    pub endpoints: u32,
    /// Within this time.
    pub took: Duration,
}

impl Scale {
    /// Creates that many Services with so many endpoints each, at most 100, in one slice.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub fn create(api: &Api, services: u32, endpoints: u32) -> Result<Self> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        api.post("/api/v1/namespaces", &namespace)?;
        let scale = Self {
            api: api.clone(),
            services,
            endpoints,
        };
        let next = AtomicU32::new(0);
        in_parallel(|| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number < services {
                scale.create_one(number)?;
            }
            Ok(number < services)
        })?;
        Ok(scale)
    }

    /// Replaces the endpoints of one Service after the other, all of a Service with one request, for this long and at most so many a second.
    ///
    /// # Errors
    /// If the API server refuses a change.
    pub fn change(&self, time: Duration, rate: u32) -> Result<Changes> {
        let pause = Duration::from_secs(1) * self.endpoints / rate;
        let turns = AtomicU32::new(0);
        let start = Instant::now();
        in_parallel(|| {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            let due = pause * turn;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            if start.elapsed() >= time {
                turns.fetch_sub(1, Ordering::Relaxed);
                return Ok(false);
            }
            let (number, round) = (turn % self.services, turn / self.services + 1);
            let path = format!(
                "/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/s{number}"
            );
            let changed = json!({"endpoints": endpoints(number, round, self.endpoints)});
            self.api.patch(&path, &changed)?;
            Ok(true)
        })?;
        let slices = turns.into_inner();
        Ok(Changes {
            slices,
            endpoints: slices * self.endpoints,
            took: start.elapsed(),
        })
    }

    fn create_one(&self, number: u32) -> Result<()> {
        let name = format!("s{number}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"ports": [{"name": "p", "port": 80}]},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
        self.api.post(&path, &service)?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "p", "port": 8080}],
            "endpoints": endpoints(number, 0, self.endpoints),
        });
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        self.api.post(&path, &slice).map(drop)
    }
}

/// Works with [`WORKERS`] threads until it is told that nothing is left; ends with the first error.
fn in_parallel(work: impl Fn() -> Result<bool> + Sync) -> Result<()> {
    let worker = || -> Result<()> {
        while work()? {}
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// The endpoints of a Service in a round: others than in the one before.
fn endpoints(number: u32, round: u32, count: u32) -> Vec<Value> {
    let first = Ipv4Addr::new(10, 128, 0, 0).to_bits() + (round % 2) * 0x40_0000;
    let of = |index: u32| {
        let address = Ipv4Addr::from_bits(first + number * count + index);
        json!({"addresses": [address], "nodeName": "n2"})
    };
    (0..count).map(of).collect()
}

/// What an agent says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Resident memory.
    pub memory_mib: f64,
    /// Time that it has run on a CPU.
    pub cpu_seconds: f64,
    /// Changes of slices so far.
    pub slices: f64,
}

impl Figures {
    /// Asks it.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn of(agent: &Agent, netns: &Netns) -> Result<Self> {
        let text = netns.sh("curl --fail --silent --show-error http://127.0.0.1:10249/metrics")?;
        let value = |name: &str| -> Result<f64> {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            let line = line.with_context(|| format!("{name} of {}", agent.node))?;
            Ok(line.parse()?)
        };
        Ok(Self {
            memory_mib: value("process_resident_memory_bytes")? / 1024.0 / 1024.0,
            cpu_seconds: value("process_cpu_seconds_total")?,
            slices: value("kubeproxy_sync_proxy_rules_endpoint_changes_total")?,
        })
    }
}

/// Milliseconds from a change received to the maps written, of each update that an agent told of (`--log-level debug`), in order.
#[must_use]
pub fn latencies(log: &str) -> Vec<f64> {
    let updates = log.lines().filter(|line| line.contains("maps updated"));
    updates
        .filter_map(|line| {
            let (_, rest) = line.split_once("latency=Some(")?;
            milliseconds(rest.split_once(')')?.0)
        })
        .collect()
}

/// Reads a duration as Rust writes it.
fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "ns" => 1e-6,
        "µs" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_from_the_log() {
        let log = "2026-11-29T11:00:00Z DEBUG maps updated steps=3 entries=6 took=1.2ms latency=Some(1.5ms)\n\
                   2026-11-29T11:00:00Z DEBUG watch failed\n\
                   2026-11-29T11:00:01Z DEBUG maps updated steps=3 entries=6 took=900µs latency=None\n\
                   2026-11-29T11:00:01Z DEBUG maps updated steps=3 entries=6 took=900µs latency=Some(950µs)\n\
                   2026-11-29T11:00:01Z DEBUG maps updated steps=3 entries=6 took=2s latency=Some(2.25s)\n";
        let micros = latencies(log).into_iter().map(|ms| (ms * 1e3).round());
        assert_eq!(micros.collect::<Vec<_>>(), [1500.0, 950.0, 2_250_000.0]);
    }

    #[test]
    fn endpoints_change_with_each_round() {
        assert_ne!(endpoints(7, 1, 3), endpoints(7, 2, 3));
        assert_ne!(endpoints(7, 1, 3), endpoints(8, 1, 3));
        assert_eq!(endpoints(7, 1, 3).len(), 3);
    }
}
