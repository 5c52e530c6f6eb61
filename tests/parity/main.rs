//! The same packets through the library on the host and through the real programs in the kernel, by `BPF_PROG_TEST_RUN`: the same verdict,
//! the same bytes, the same flows afterwards.
//!
//! What makes the two differ would be a fault of the rim (maps, contexts, helpers), of the compiler's output, or of the host's model of the
//! kernel. Needs root and the object that `cargo xtask build` makes. The node, its packets and their reading are those of the datapath's own
//! tests.
#![allow(
    unreachable_pub,
    dead_code,
    reason = "the stage and its packets are shared with the datapath's stories, which need all of them"
)]

#[path = "../../nodeport-ebpf/tests/datapath/packets.rs"]
mod packets;
#[path = "../../nodeport-ebpf/tests/datapath/places.rs"]
mod places;
#[path = "../../nodeport-ebpf/tests/datapath/sums.rs"]
mod sums;
#[path = "../../nodeport-ebpf/tests/datapath/trip.rs"]
mod trip;
#[path = "../../nodeport-ebpf/tests/datapath/world.rs"]
mod world;

mod generated;
mod kernel;
mod pair;
mod stage;
mod written;
