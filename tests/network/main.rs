//! Network tier: the lab with real servers and clients. Needs root; see CONTRIBUTING.
//!
//! Each test reads as a story and writes out what it expects.

mod busy;
mod capabilities;
mod choice;
mod cluster;
mod collisions;
mod devices;
mod flood;
mod fragments;
mod hairpin;
mod inside;
mod inside_ways;
mod lab;
mod loops;
mod mtu;
mod netfilter;
mod node_port;
mod odd;
mod oracle;
mod paths;
mod redirect;
mod restart;
mod surface;
mod takeover;
mod udp;
mod untouched;
mod whole;
mod world;
