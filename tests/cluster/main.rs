//! Cluster tier: a real Kubernetes control plane in the lab. Needs root and Go; see CONTRIBUTING.
//!
//! Each test reads as a story and writes out what it expects.

mod churn;
mod credentials;
mod daemonset;
mod faults;
mod load;
mod nodes;
mod oracle;
mod real;
mod services;
mod soak;
mod takeover;
mod world;
