//! The datapath as a whole, on the host: edge cases by number, as stories with their expected packets written out, and properties that hold
//! for all packets.
//!
//! Most stories happen in both address families ([`both!`]).
#![allow(
    unreachable_pub,
    reason = "the stage and its packets are shared with the parity tests"
)]

mod packets;
mod passing;
mod places;
mod sums;
mod trip;
mod world;

mod affinity;
mod answers;
mod fragments;
mod front_ends;
mod headers;
mod icmp;
mod lines;
mod lines_at_tc;
mod live_flows;
mod local;
mod properties;
mod reply_tuples;
mod sockets;
mod state;
mod straight;
mod tables;
mod udp;
mod ways;
mod yielding;
