//! The lab: a small cluster network in network namespaces, with real servers and clients.
//!
//! An outside client behind a router, nodes on a fabric, Pods behind the nodes. [`LabSpec`] says what is wanted,
//! [`LabSpec::start`] makes it in a second or two, and dropping the [`Lab`] removes it. Nothing here knows what a Service
//! is, except [`objects`] and [`expect`], which read a user's objects and say who may answer for them.
//! Invariant: whatever the lab makes is recorded under `/run/nodeport-lab/` before it is made, so that [`clean_all`]
//! can undo it after a crash.

pub mod addresses;
pub mod agent;
pub mod clients;
pub mod cluster;
pub mod echo;
pub mod expect;
pub mod interrupt;
pub mod k8s;
pub mod lab;
mod machine;
pub mod manifest;
pub mod netns;
pub mod objects;
pub mod outcomes;
pub mod ping;
pub mod plan;
pub mod process;
pub mod raw;
pub mod record;
pub mod servers;
mod setup;
pub mod simple;
mod spaces;
pub mod spec;
pub mod standin;
pub mod stream;
mod topology;
pub mod trial;

pub use lab::{Family, Lab, Node, Pod};
pub use machine::mount_bpffs;
pub use netns::Netns;
pub use record::{Cleaned, clean_all};
pub use spaces::Spaces;
pub use spec::{LabSpec, NodeSpec, PodNetwork, PodSpec, ReversePath};
