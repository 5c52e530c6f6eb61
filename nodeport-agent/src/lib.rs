//! nodeport's node agent as a library: `source -> snapshot -> desired -> diff -> apply`.
//!
//! Imports go one way: `model <- plan <- maps <- reconcile`. `model` and `plan` are pure: no clock, file, socket, tokio, kube or aya.

pub mod cli;
pub mod config;
pub mod datapath;
pub mod flows;
pub mod host;
pub mod maps;
pub mod model;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod run;
pub mod sockets;
pub mod source;
pub mod takeover;

/// The BPF programs.
pub mod object {
    include!(concat!(env!("OUT_DIR"), "/object.rs"));
}
