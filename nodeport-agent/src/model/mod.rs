//! Cluster objects in, desired front ends out. Pure.

pub mod desired;
