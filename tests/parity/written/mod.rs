//! Written packets: each kind of rewriting, and each outcome that a kernel can be brought to.

mod answers;
mod choice;
mod flows;
mod kernel_tables;

use anyhow::{Context as _, Result};
use nodeport_agent::maps::IpBytes;
use nodeport_agent::plan::Ip;
use nodeport_common::{V4, V6};

use crate::kernel::Kernel;
use crate::packets::End;
use crate::pair::{Pair, on_stage};
use crate::stage::{self, Text};
use crate::world::NODE_PORT;

/// A family that everything here can be done in.
trait Both: Text + Ip + IpBytes {}
impl<A: Text + Ip + IpBytes> Both for A {}

/// What happens, and what it is called where it fails.
type Scene = (&'static str, fn(&mut Kernel) -> Result<()>);

fn all<A: Both>() {
    let scenes: [Scene; 16] = [
        ("connections", flows::connections::<A>),
        ("busy connections", flows::busy::<A>),
        ("through the stack", flows::through_the_stack::<A>),
        ("Pods", flows::pods::<A>),
        ("a Pod that reaches itself", flows::hairpin::<A>),
        ("datagrams", flows::datagrams::<A>),
        ("stale flows", flows::stale::<A>),
        ("session affinity", choice::affinity::<A>),
        ("source ranges", choice::source_ranges::<A>),
        ("answers", answers::answers::<A>),
        ("too big and used up", answers::too_big::<A>),
        ("routes", kernel_tables::routes::<A>),
        ("sockets of this host", kernel_tables::sockets::<A>),
        ("source ports", kernel_tables::source_ports::<A>),
        ("a full table", kernel_tables::full::<A>),
        ("what is left alone", answers::left_alone::<A>),
    ];
    on_stage(&stage::world::<A>(), |kernel| {
        for (name, scene) in scenes {
            scene(kernel).context(name)?;
        }
        Ok(())
    });
}

#[test]
fn written_packets_of_ipv4() {
    all::<V4>();
}

#[test]
fn written_packets_of_ipv6() {
    all::<V6>();
}

fn client<A: Both>() -> End<A> {
    (A::client(1), 40000)
}

fn front_end<A: Both>() -> End<A> {
    (A::NODE, NODE_PORT)
}

/// The NodePort has these backends.
fn pair<'k, A: Both>(kernel: &'k mut Kernel, backends: &[End<A>]) -> Result<Pair<'k, A>> {
    Pair::new(stage::world::<A>().node_port(backends), kernel)
}
