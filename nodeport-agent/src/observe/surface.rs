//! What kube-proxy serves on :10256 and :10249, path by path (behaviours 16, 23).
//!
//! Owns which path answers what. Refuses to listen. Invariant: a path that is not named here is 404, as with kube-proxy.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::health::{Body, ProxyHealth, moment};
use super::http::{Answer, Answers};
use super::metrics::Metrics;

/// What the two pages for people begin with.
const FOR_PEOPLE: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";

/// The paths of the server of `--healthz-bind-address`.
#[must_use]
pub fn health(health: Arc<ProxyHealth>, metrics: Arc<Metrics>) -> Answers {
    Arc::new(move |path| {
        let (good, body) = match path {
            "/healthz" => health.healthz(Instant::now()),
            "/livez" => health.livez(Instant::now()),
            _ => return Answer::not_found(),
        };
        metrics.asked(path, good);
        document(good, &body)
    })
}

fn document(good: bool, body: &Body) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => Answer::json(good, body),
        Err(_) => Answer::json(false, Vec::new()),
    }
}

/// What the server of `--metrics-bind-address` shows.
pub struct Shown {
    /// `/configz`: the configuration in effect, as JSON.
    pub configz: String,
    /// `/flagz`: flags and values.
    pub flags: Vec<(String, String)>,
    /// `/proxyMode`: what others choose their own rules by.
    pub proxy_mode: String,
    /// When the agent started.
    pub started: SystemTime,
    /// `/metrics` and `/metrics/slis`, by path.
    pub metrics: Answers,
}

/// The paths of the server of `--metrics-bind-address`.
#[must_use]
pub fn metrics(shown: Shown) -> Answers {
    Arc::new(move |path| match path {
        "/metrics" | "/metrics/slis" => (shown.metrics)(path),
        "/healthz" => Answer::text("ok"),
        "/proxyMode" => Answer::text(shown.proxy_mode.clone()),
        "/configz" => Answer::json(
            true,
            format!("{{\"kubeproxy.config.k8s.io\":{}}}", shown.configz).into_bytes(),
        ),
        "/flagz" => Answer::text(flagz(&shown.flags)),
        "/statusz" => Answer::text(statusz(shown.started)),
        _ => Answer::not_found(),
    })
}

fn flagz(flags: &[(String, String)]) -> String {
    let lines: Vec<String> = flags
        .iter()
        .map(|(flag, value)| format!("{flag}: {value}\n"))
        .collect();
    let lines = lines.concat();
    format!("\nnodeport-agent flagz\n{FOR_PEOPLE}\n{lines}")
}

fn statusz(started: SystemTime) -> String {
    let up = started.elapsed().unwrap_or_default().as_secs();
    let started = moment(started);
    format!(
        "\nnodeport-agent statusz\n{FOR_PEOPLE}\n\nStarted:  {}\nUp:  {} hr {:02} min {:02} sec\nBinary version:  {}\nPaths:  /configz /flagz /healthz /metrics /proxyMode\n",
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        env!("CARGO_PKG_VERSION"),
    )
}
