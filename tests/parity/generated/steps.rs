//! What happens in a generated sequence, and the packets that come of it.

use nodeport_common::{FlowKey, Hook, protocol};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{ELSEWHERE_ONLY, EMPTY, STEPS};
use crate::packets::Build;
use crate::stage::Text;
use crate::world::{FABRIC, NODE_PORT, POD1, POD2, PORT, UPLINK};

/// Where a packet goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) hook: Hook,
    pub(super) device: u32,
}

/// What a packet is like, whoever sends it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) tcp: Option<u8>,
    pub(super) payload: usize,
    pub(super) ttl: u8,
    pub(super) traffic_class: u8,
    pub(super) padding: usize,
    pub(super) without_checksum: bool,
    pub(super) options: usize,
    pub(super) extensions: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A client (of the outside, or a Pod) asks a front end.
    Request(Place, Shape, Index, Index),
    /// A packet that some entry matches: a reply, or more of a request.
    Known(Place, Shape, Index),
    /// An ICMP error, of this type and code, about a packet that some entry translated; so much of it is quoted.
    Error(Place, Shape, Index, [u8; 2], Index),
    /// A request in two fragments, perhaps in the wrong order.
    Fragments(Place, Shape, Index, Index, bool),
    /// The last frame again, with some bytes changed and its end cut off.
    Damaged(Place, Vec<(Index, u8)>, Option<Index>),
    /// Anything, behind an Ethernet header of the family.
    Noise(Place, Vec<u8>),
    /// The agent raises generations.
    Change(bool, bool),
}

fn places() -> impl Strategy<Value = Place> {
    let hook = prop_oneof![Just(Hook::Xdp), Just(Hook::TcIngress), Just(Hook::TcEgress)];
    let device = prop_oneof![
        3 => Just(UPLINK), 3 => Just(FABRIC), 2 => Just(POD1), 1 => Just(POD2)
    ];
    (hook, device).prop_map(|(hook, device)| {
        let is_pod = device == POD1 || device == POD2;
        let device = if hook == Hook::Xdp && is_pod {
            UPLINK
        } else {
            device
        };
        Place { hook, device }
    })
}

fn shapes() -> impl Strategy<Value = Shape> {
    let flags =
        prop_oneof![4 => Just(2), 4 => Just(16), 2 => Just(17), 1 => Just(4), 1 => any::<u8>()];
    let tcp = prop_oneof![3 => flags.prop_map(Some), 2 => Just(None)];
    let size = prop_oneof![4 => 0..64_usize, 2 => 64..1300_usize, 1 => 1300..1500_usize];
    let ttl = prop_oneof![8 => Just(64), 1 => 0..3_u8];
    let extras = prop_oneof![6 => Just((0, 0)), 1 => (0..=10_usize, 0..9_usize)];
    let rest = (any::<u8>(), 0..9_usize, prop::bool::weighted(0.1), extras);
    (tcp, size, ttl, rest).prop_map(|(tcp, payload, ttl, rest)| Shape {
        tcp,
        payload,
        ttl,
        traffic_class: rest.0,
        padding: rest.1,
        without_checksum: rest.2,
        options: rest.3.0,
        extensions: rest.3.1,
    })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let kinds = prop_oneof![
        Just([3, 3]),
        Just([3, 4]),
        Just([11, 0]),
        Just([1, 4]),
        Just([2, 0]),
        any::<[u8; 2]>()
    ];
    let damage = prop::collection::vec((index(), any::<u8>()), 0..4);
    let step = prop_oneof![
        6 => (places(), shapes(), index(), index()).prop_map(|(p, s, c, f)| Step::Request(p, s, c, f)),
        8 => (places(), shapes(), index()).prop_map(|(p, s, e)| Step::Known(p, s, e)),
        2 => (places(), shapes(), index(), kinds, index()).prop_map(|(p, s, e, k, l)| Step::Error(p, s, e, k, l)),
        1 => (places(), shapes(), index(), index(), any::<bool>()).prop_map(|(p, s, c, f, o)| Step::Fragments(p, s, c, f, o)),
        3 => (places(), damage, any::<Option<Index>>()).prop_map(|(p, d, c)| Step::Damaged(p, d, c)),
        1 => (places(), prop::collection::vec(any::<u8>(), 40..120)).prop_map(|(p, b)| Step::Noise(p, b)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(r, e)| Step::Change(r, e)),
    ];
    prop::collection::vec(step, 1..STEPS)
}

/// A request of one of a few clients to one of the front ends, or to none.
pub(super) fn request<A: Text>(shape: &Shape, who: Index, what: Index) -> Build<A> {
    let clients = [
        A::client(1),
        A::client(2),
        A::local(1),
        A::local(3),
        A::NODE,
        A::remote(9),
    ];
    let client = (
        clients[who.index(clients.len())],
        40000 + who.index(2) as u16,
    );
    let front_ends = [
        (A::NODE, NODE_PORT),
        (A::NODE_ALIAS, NODE_PORT),
        (A::FABRIC_ADDRESS, NODE_PORT),
        (A::CLUSTER_IP, PORT),
        (A::NODE, EMPTY),
        (A::NODE, ELSEWHERE_ONLY),
        (A::ELSEWHERE, NODE_PORT),
    ];
    shaped(shape, client, front_ends[what.index(front_ends.len())])
}

/// A packet of a tuple; the shape's transport gives way to the tuple's.
pub(super) fn matching<A: Text>(shape: &Shape, key: &FlowKey<A>) -> Build<A> {
    let is_tcp = key.protocol == protocol::TCP;
    let tcp = is_tcp.then(|| shape.tcp.unwrap_or(16));
    let from = (key.source, u16::from_be_bytes(key.source_port));
    let to = (key.destination, u16::from_be_bytes(key.destination_port));
    shaped(
        &Shape {
            tcp,
            ..shape.clone()
        },
        from,
        to,
    )
}

fn shaped<A: Text>(shape: &Shape, from: (A, u16), to: (A, u16)) -> Build<A> {
    let is_v4 = A::HEADER_LEN == 20;
    let extension = (60, vec![0, 1, 4, 0, 0, 0, 0]);
    let extensions = if is_v4 { 0 } else { shape.extensions };
    Build {
        tcp: shape.tcp,
        ttl: shape.ttl,
        traffic_class: shape.traffic_class,
        padding: shape.padding,
        without_checksum: shape.without_checksum,
        options: if is_v4 {
            vec![1; shape.options * 4]
        } else {
            Vec::new()
        },
        extensions: vec![extension; extensions],
        ..Build::tcp(from, to, 0)
    }
    .with_payload(shape.payload)
}
