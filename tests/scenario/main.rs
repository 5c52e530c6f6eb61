//! Scenarios: the story of a Service from its objects to the packets, on a node without a kernel.
//!
//! The files are in `tests/scenarios/packets`. A file has a title, settings, and sections in the order of what happens:
//!
//! ```text
//! # What is shown (statements of the behaviours and rows of the edge cases)
//! node: n1.node                  the file that describes the node; this one if none is named
//! families: as written           not told again in IPv6
//! === objects                    YAML; `=== change` is the same and reads better later on
//! === delete                     lines such as: Service d/web
//! === maps                       front ends and serving endpoints as they must now be in the maps (see `dump.rs`)
//! === addresses                  what addresses must now be to the node
//! === packets                    steps, each with the indented lines that must come of it
//! in eth0 tcp 203.0.113.10:40000 > 192.168.88.11:30080 S
//!   xdp to_remote_backend
//!   out eth0 tcp 192.168.88.11:1024 > 10.244.2.11:8080 S ttl=63
//! === flows                      all flows as they must be now
//! ```
//!
//! Steps are `in DEVICE PACKET`, `host PACKET` (the node's own stack sends), `spread N in DEVICE PACKET` (N packets, each from the next source
//! port), `socket PACKET` (a process of the node has a connection that gets such packets) and `tick N secs` (also `mins`, `hours`).
//! Calls of processes are `connect`, `send` and `peer`, as `calls.rs` says.
//! Packets are written as `packet.rs` says, what becomes of them as `journey.rs` says. The rest of a section's heading is for the reader.
//!
//! The way of a scenario is that of a Service: the agent's source and model read the objects, its plan and reconciler write the maps of a
//! memory store, the bytes of those are given to the datapath's simulated node, and the packets go through XDP, TC ingress, the stack and TC
//! egress. Every scenario is told in both families, with and without XDP, and with stores of which one write in ten fails.

mod agent;
mod calls;
mod dump;
mod expiry;
mod family;
mod file;
mod journey;
mod packet;
mod place;
mod run;
mod wire;

use std::collections::BTreeSet;

macro_rules! scenarios {
    ($($name:ident)+) => {
        $(
            #[test]
            fn $name() {
                run::tell(stringify!($name));
            }
        )+

        /// The tests of this file, by name.
        const NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

scenarios! {
    address_wins_over_node_port
    affinity
    connection_ends_and_begins_again
    endpoint_removed_with_live_connections
    families_stand_apart
    fragments
    fragments_too_large_for_an_overlay
    hairpin
    host_network_backends
    icmp_errors_redirected
    icmp_errors_through_the_stack
    internal_policy_local
    lifetimes
    load_balancer
    martians
    named_port_with_different_numbers
    no_endpoints
    node_port_moves
    node_port_to_a_local_backend
    node_port_to_a_remote_backend
    node_ports_swapped
    one_client_port_two_front_ends
    options_and_unusual_syns
    overlay
    picked_up_in_the_middle
    pod_to_cluster_ip
    pod_to_node_port
    policy_local_without_a_local_endpoint
    reset
    service_appears_while_a_client_sends
    service_deleted_in_use
    sockets
    source_ranges
    topology_hints
    ttl_used_up
    two_uplinks
    udp_flow_follows_its_endpoints
    udp_without_a_checksum
    unready_and_terminating
    untouched
}

#[test]
fn every_file_is_told() {
    let entries = std::fs::read_dir(run::directory()).expect("the scenarios");
    let names = entries.filter_map(|entry| {
        let name = entry.expect("an entry").file_name();
        Some(name.to_str()?.strip_suffix(".txt")?.to_owned())
    });
    let found: BTreeSet<String> = names.collect();
    let told: BTreeSet<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, told, "name them in tests/scenario/main.rs");
}
