//! The whole source against servers that answer what a real one seldom does.
//!
//! Owns small servers of HTTP on loopback. Invariant: nothing here takes longer than the state that it waits for.

mod events;
mod faults;
mod server;
