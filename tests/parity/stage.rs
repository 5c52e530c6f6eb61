//! A network namespace in which the kernel's own tables say what the host's model says: devices of the same index, address and MTU, routes,
//! and permanent neighbours.
//!
//! Owns the translation of the model into `ip` lines. Invariant: nothing but packets of `BPF_PROG_TEST_RUN` reaches the programs, because the
//! other ends of the devices never send.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use nodeport_agent::maps::{Fragments4, Fragments6, HashMap, KernelStore, Store as _};
use nodeport_common::{FragmentKey, FragmentPorts, V4, V6, address_flags};
use nodeport_ebpf::sim::Route;
use nodeport_ebpf::tables::RouteStatus;
use nodeport_tests::Netns;
use nodeport_tests::netns::ip_batch;
use nodeport_tests::record::Record;

use crate::world::{FABRIC, POD1, POD2, Places, UPLINK, World};

/// A remote Pod whose next hop has no neighbour entry, and one that is blackholed.
pub const UNRESOLVED: u8 = 99;
pub const BLACKHOLE: u8 = 98;

/// MTU towards other nodes: smaller than towards clients.
const FABRIC_MTU: u16 = 1400;

/// A family's addresses as text.
pub trait Text: Places {
    fn text(self) -> IpAddr;
    /// The address of what is behind a device; not on the device's own network, so routes say `onlink`.
    fn gateway(device: u32, resolved: bool) -> IpAddr;
    /// What the kernel remembers of fragmented datagrams.
    fn fragments(store: &KernelStore) -> Result<Vec<(FragmentKey<Self>, FragmentPorts)>>;
    /// Forgets that.
    fn forget_fragments(store: &mut KernelStore) -> Result<()>;
}

fn forget<M: HashMap>(store: &mut KernelStore) -> Result<()> {
    let keys = store.entries::<M>()?.into_iter().map(|(key, _)| key);
    let keys: Vec<_> = keys.collect();
    Ok(store.delete::<M>(&keys)?)
}

impl Text for V4 {
    fn fragments(store: &KernelStore) -> Result<Vec<(FragmentKey<Self>, FragmentPorts)>> {
        Ok(store.entries::<Fragments4>()?)
    }
    fn forget_fragments(store: &mut KernelStore) -> Result<()> {
        forget::<Fragments4>(store)
    }
    fn text(self) -> IpAddr {
        self.into()
    }
    fn gateway(device: u32, resolved: bool) -> IpAddr {
        [169, 254, u8::from(resolved), device as u8].into()
    }
}

impl Text for V6 {
    fn fragments(store: &KernelStore) -> Result<Vec<(FragmentKey<Self>, FragmentPorts)>> {
        Ok(store.entries::<Fragments6>()?)
    }
    fn forget_fragments(store: &mut KernelStore) -> Result<()> {
        forget::<Fragments6>(store)
    }
    fn text(self) -> IpAddr {
        self.into()
    }
    fn gateway(device: u32, resolved: bool) -> IpAddr {
        [0xfe80, 0, 0, 0, 0, 0, u16::from(resolved), device as u16].into()
    }
}

/// The node of the stories, as far as a kernel is needed for more: a small MTU, a neighbour that is unknown, a route into the void.
pub fn world<A: Places>() -> World<A> {
    let mut world = World::<A>::new();
    world.node.control.rejects_per_second = 1_000_000;
    world.node.control.reject_burst = 1_000_000;
    world.node.devices.get_mut(&FABRIC).expect("the fabric").mtu = FABRIC_MTU;
    let bits = size_of::<A>() * 8;
    let routes = &mut world.tables_mut().routes;
    let mut remote = routes[1];
    remote.hop.mtu = FABRIC_MTU;
    routes[1] = remote;
    for (n, status) in [
        (UNRESOLVED, RouteStatus::NeedsNeighbour),
        (BLACKHOLE, RouteStatus::None),
    ] {
        routes.push(Route {
            network: A::remote(n),
            prefix: bits,
            status,
            ..remote
        });
    }
    world
}

/// The namespace; it goes with this value.
pub struct Stage {
    pub netns: Netns,
    record: Record,
}

impl Stage {
    /// Makes a namespace for a world.
    pub fn new<A: Text>(world: &World<A>) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nodeport-parity-{}-{number}", std::process::id());
        let record = Record::create(&name)?;
        record.netns(std::slice::from_ref(&name))?;
        ip_batch(&[format!("netns add {name}")])?;
        let stage = Self {
            netns: Netns::open(&name)?,
            record,
        };
        stage.netns.sysctl(&[
            setting("net/ipv4/ip_forward", "1"),
            setting("net/ipv6/conf/all/forwarding", "1"),
            setting("net/ipv6/conf/default/forwarding", "1"),
        ])?;
        stage.netns.ip(&devices(world))?;
        let silent = |name: &str| setting(&format!("net/ipv6/conf/{name}-peer/disable_ipv6"), "1");
        stage.netns.sysctl(&DEVICES.map(|(_, name)| silent(name)))?;
        stage.netns.ip(&up())?;
        stage.netns.ip(&addresses(world))?;
        stage.netns.ip(&routes(world))?;
        Ok(stage)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let gone = ip_batch(&[format!("netns del {}", self.netns.name())]);
        let forgotten = std::fs::remove_dir_all(self.record.dir());
        if let (Err(error), _) | (_, Err(error)) = (gone, forgotten.map_err(Into::into)) {
            eprintln!("{error:#}");
        }
    }
}

const DEVICES: [(u32, &str); 4] = [
    (UPLINK, "uplink"),
    (FABRIC, "fabric"),
    (POD1, "pod1"),
    (POD2, "pod2"),
];

fn setting(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn name_of(device: u32) -> &'static str {
    let known = DEVICES.iter().find(|(index, _)| *index == device);
    known.expect("a device of the stage").1
}

fn mac(octets: [u8; 6]) -> String {
    let mut text = String::new();
    for (n, octet) in octets.iter().enumerate() {
        let colon = if n == 0 { "" } else { ":" };
        write!(text, "{colon}{octet:02x}").expect("a string takes all");
    }
    text
}

fn devices<A: Text>(world: &World<A>) -> Vec<String> {
    let line = |(index, name): &(u32, &str)| {
        let device = world.node.devices[index];
        let (mac, mtu, peer) = (mac(device.mac), device.mtu, index + 100);
        format!(
            "link add {name} index {index} address {mac} mtu {mtu} \
             type veth peer name {name}-peer index {peer} mtu {mtu}"
        )
    };
    DEVICES.iter().map(line).collect()
}

fn up() -> Vec<String> {
    let lines = |(_, name): &(u32, &str)| {
        [
            format!("link set {name} up"),
            format!("link set {name}-peer up"),
        ]
    };
    let devices = DEVICES.iter().flat_map(lines);
    std::iter::once("link set lo up".to_owned())
        .chain(devices)
        .collect()
}

/// All addresses of this host, each on some device: routes name their source address, and it must be here.
fn addresses<A: Text>(world: &World<A>) -> Vec<String> {
    let bits = size_of::<A>() * 8;
    let nodad = if bits == 128 { " nodad" } else { "" };
    let known = world.tables().addresses.iter();
    known
        .filter(|(_, known)| known.flags & address_flags::HOST != 0)
        .map(|(address, _)| {
            let device = if *address == A::GATEWAY {
                POD1
            } else if *address == A::FABRIC_ADDRESS {
                FABRIC
            } else {
                UPLINK
            };
            let (address, name) = (address.text(), name_of(device));
            format!("addr add {address}/{bits} dev {name}{nodad}")
        })
        .collect()
}

fn routes<A: Text>(world: &World<A>) -> Vec<String> {
    let bits = size_of::<A>() * 8;
    let mut lines = Vec::new();
    for route in &world.tables().routes {
        let (network, prefix, source) = (route.network.text(), route.prefix, route.source.text());
        let dev = name_of(route.hop.device);
        let lladdr = mac(route.hop.destination_mac);
        let is_known = route.status == RouteStatus::Known;
        if route.status == RouteStatus::None {
            lines.push(format!("route add blackhole {network}/{prefix}"));
        } else if prefix == bits && is_known {
            lines.push(format!(
                "route add {network}/{prefix} dev {dev} src {source}"
            ));
            lines.push(format!(
                "neigh add {network} lladdr {lladdr} dev {dev} nud permanent"
            ));
        } else {
            let via = A::gateway(route.hop.device, is_known);
            lines.push(format!(
                "route add {network}/{prefix} via {via} dev {dev} onlink src {source}"
            ));
            if is_known {
                lines.push(format!(
                    "neigh add {via} lladdr {lladdr} dev {dev} nud permanent"
                ));
            }
        }
    }
    lines
}
