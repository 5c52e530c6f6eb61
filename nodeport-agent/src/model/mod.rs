//! Cluster objects in, desired front ends out. Pure.
//!
//! The way of an object: [`decode`](decode::decode) makes a lean [`objects::Object`] of its JSON, a source collects
//! [`objects::Objects`], [`snapshot::Snapshot`] adds what is known of the node, and [`Compiler`] makes a
//! [`desired::Desired`] of it, with a [`report::Report`] for each field that could not be followed. [`compile()`] does the same from
//! nothing: that is what it means.

pub mod address;
pub mod compile;
mod compiler;
mod conflict;
pub mod decode;
pub mod desired;
mod field;
pub mod health_check;
pub mod node_port_addresses;
pub mod objects;
pub mod report;
pub mod reports;
pub mod select;
pub mod snapshot;
pub mod text;

pub use compile::{CompiledService, compile, compile_service};
pub use compiler::{Compiled, Compiler};
pub use desired::Desired;
pub use node_port_addresses::NodePortAddresses;
pub use objects::{Object, Objects};
pub use report::{Report, Severity};
pub use reports::Reports;
pub use snapshot::{HostAddress, Options, Snapshot};
