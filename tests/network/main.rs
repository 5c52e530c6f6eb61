//! Network tier: the lab with real servers and clients. Needs root; see CONTRIBUTING.
//!
//! Each test reads as a story and writes out what it expects.

mod cluster;
mod lab;
mod node_port;
mod untouched;
mod world;
