//! Cluster tier: a real Kubernetes control plane in the lab. Needs root and Go; see CONTRIBUTING.
//!
//! Each test reads as a story and writes out what it expects.

mod daemonset;
mod faults;
mod real;
mod services;
mod world;
