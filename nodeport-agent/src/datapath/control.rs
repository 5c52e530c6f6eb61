//! The one value of `CONTROL`: what the agent tells every program.
//!
//! Owns that map: nothing else writes it, because a write replaces the whole value. Refuses to know why a generation is raised.
//! Invariants: generations never are 0 and never go back; the seed of a pin directory never changes.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, Map, MapData};
use nodeport_common::{Control, LINES_LEN, PortSegment, control_flags, maps};

use super::config::{Config, SocketArgs, SocketScope};
use super::error::DatapathError;
use super::kernel::{self, FIB_SOURCE, Version};
use super::netns;
use super::pins::Pins;
use super::ports::PortRange;
use super::ports::snat_segments;
use crate::maps::Bytes as _;

/// Age at which a remembered next hop is looked up anew even in its generation.
const NEXT_HOP_MAX_AGE_SECS: u32 = 30;
/// How long the ports of a fragmented datagram are remembered (edge-cases E4).
const FRAGMENT_MAX_AGE_SECS: u32 = 30;
/// Fewer lines than these are not used.
const FEWEST_LINES: u32 = 64;
/// ICMP errors that we originate, per second and CPU, and in one burst (edge-cases D6).
const REJECTS_PER_SECOND: u32 = 1000;
const REJECT_BURST: u32 = 50;

/// Bytes of the map's value.
const SIZE: usize = size_of::<Control>();

/// The map and what is in it.
pub struct ControlMap {
    state: Mutex<(Array<MapData, [u8; SIZE]>, Control)>,
}

impl fmt::Debug for ControlMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlMap").field(&self.get()).finish()
    }
}

/// Source ports for translated flows: neither NodePorts nor taken by the host's own sockets.
fn segments(node_ports: PortRange) -> [PortSegment; 2] {
    let taken = [Some(node_ports), kernel::local_port_range()];
    let taken: Vec<PortRange> = taken.into_iter().flatten().collect();
    snat_segments(&taken)
}

/// The source ports that translated flows have, beside these NodePorts.
pub fn snat_ranges(node_ports: PortRange) -> impl Iterator<Item = PortRange> {
    let used = segments(node_ports)
        .into_iter()
        .filter(|segment| segment.count > 0);
    used.map(|segment| PortRange {
        first: segment.first,
        last: segment.first + (segment.count - 1),
    })
}

impl ControlMap {
    /// Opens the pinned map and brings it up to date: what an earlier agent chose stays, what this kernel and these flags say is
    /// written anew.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the map cannot be opened, read or written.
    pub fn open(pins: &Pins, config: &Config) -> Result<Self, DatapathError> {
        let name = maps::CONTROL;
        let data = MapData::from_pin(pins.map(name)).map_err(DatapathError::map("open", name))?;
        let array: Array<_, [u8; SIZE]> = Map::Array(data)
            .try_into()
            .map_err(DatapathError::map("open", name))?;
        let found = Control::get(&array.get(&0, 0).map_err(DatapathError::map("read", name))?);
        let fib_source = Version::running().is_some_and(|version| version >= FIB_SOURCE);
        let host_netns = netns::cookie().unwrap_or_else(|error| {
            tracing::warn!(%error, "this network namespace has no cookie: no socket is translated");
            0
        });
        let cpus = aya::util::nr_cpus().map_or(0, |cpus| cpus as u32);
        let this = Self {
            state: Mutex::new((array, found)),
        };
        this.change(|control| {
            *control = adopt(
                *control,
                random(),
                kernel::hz(),
                flags(fib_source, config.redirect_local, &config.sockets),
                segments(config.node_ports),
                host_netns,
                lines_per_cpu(cpus),
            );
        })?;
        Ok(this)
    }

    /// What is in the map.
    #[must_use]
    pub fn get(&self) -> Control {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Makes every remembered next hop be looked up anew: routes, neighbours, addresses or links changed.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the map cannot be written.
    pub fn raise_routes(&self) -> Result<u32, DatapathError> {
        self.change(|control| {
            control.route_generation = next(control.route_generation);
            control.route_generation
        })
    }

    /// Makes every UDP flow be checked against the serving endpoints at its next packet (behaviours 17.8).
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the map cannot be written.
    pub fn raise_endpoints(&self) -> Result<u32, DatapathError> {
        self.change(|control| {
            control.endpoint_generation = next(control.endpoint_generation);
            control.endpoint_generation
        })
    }

    /// Tells the programs the node's own addresses, the first of each family.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the map cannot be written.
    pub fn set_node(&self, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        let node4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        });
        let node6 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.octets()),
        });
        let (node4, node6) = (node4.unwrap_or_default(), node6.unwrap_or_default());
        let known = self.get();
        if (known.node4, known.node6) == (node4, node6) {
            return Ok(());
        }
        self.change(|control| {
            control.node4 = node4;
            control.node6 = node6;
        })
    }

    /// Tells the programs which packets may open a flow: [`control_flags::YIELD`], [`control_flags::YIELD_BUT_SYN`], or 0 for all.
    ///
    /// # Errors
    /// [`DatapathError::Map`] if the map cannot be written.
    pub fn set_yielding(&self, flags: u32) -> Result<(), DatapathError> {
        self.change(|control| {
            control.flags =
                control.flags & !control_flags::YIELDING | flags & control_flags::YIELDING;
        })
    }

    /// Changes the value. A change that cannot be written did not happen.
    fn change<T>(&self, change: impl FnOnce(&mut Control) -> T) -> Result<T, DatapathError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (array, control) = &mut *state;
        let mut changed = *control;
        let answer = change(&mut changed);
        array
            .set(0, encode(&changed), 0)
            .map_err(DatapathError::map("write", maps::CONTROL))?;
        *control = changed;
        Ok(answer)
    }
}

/// A number that differs on every node: the keys of the standard library's hash maps come from the system's random numbers.
fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

/// The generation after `generation`; 0 stands for "none" in flows and is left out.
#[must_use]
pub(super) fn next(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

fn flags(fib_source: bool, redirect_local: bool, sockets: &SocketArgs) -> u32 {
    let host_only = sockets.socket_lb == SocketScope::Host;
    [
        (fib_source, control_flags::FIB_SOURCE),
        (redirect_local, control_flags::REDIRECT_LOCAL),
        (host_only, control_flags::HOST_SOCKETS_ONLY),
        (
            sockets.localhost_nodeports,
            control_flags::LOOPBACK_NODE_PORTS,
        ),
        (sockets.hold_node_ports, control_flags::HOLD_NODE_PORTS),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// What the map should say, given what an earlier agent left in it (all zero in a new map).
fn adopt(
    found: Control,
    seed: u32,
    hz: u32,
    flags: u32,
    snat: [PortSegment; 2],
    host_netns: u64,
    lines_per_cpu: u32,
) -> Control {
    Control {
        // Routes may have changed while no agent was watching.
        route_generation: next(found.route_generation),
        endpoint_generation: found.endpoint_generation.max(1),
        seed: if found.seed == 0 {
            seed.max(1)
        } else {
            found.seed
        },
        // Whom new connections belong to does not change because an agent starts.
        flags: (found.flags & control_flags::YIELDING) | flags,
        hz,
        next_hop_max_age: NEXT_HOP_MAX_AGE_SECS * hz / 1024,
        fragment_max_age_secs: FRAGMENT_MAX_AGE_SECS,
        rejects_per_second: REJECTS_PER_SECOND,
        reject_burst: REJECT_BURST,
        snat,
        host_netns: [host_netns as u32, (host_netns >> 32) as u32],
        lines_per_cpu,
        // As it was: the agent learns it with the Node.
        node4: found.node4,
        node6: found.node6,
        pad: 0,
    }
}

/// How many lines of busy flows each of so many CPUs has: a power of two, and together no more than there are. With very many CPUs they are
/// too few to be worth a look.
fn lines_per_cpu(cpus: u32) -> u32 {
    match LINES_LEN.checked_div(cpus).and_then(u32::checked_ilog2) {
        Some(bits) if bits >= FEWEST_LINES.ilog2() => 1 << bits,
        _ => 0,
    }
}

/// The value as the map holds it.
fn encode(control: &Control) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    control.put(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAT: [PortSegment; 2] = [
        PortSegment {
            first: 1024,
            count: 28976,
        },
        PortSegment {
            first: 61000,
            count: 4536,
        },
    ];

    #[test]
    fn a_new_map_gets_a_seed_and_generations_that_are_not_zero() {
        let fib = control_flags::FIB_SOURCE;
        let control = adopt(Control::default(), 77, 250, fib, SNAT, 0x1_0000_0002, 64);
        assert_eq!(control.lines_per_cpu, 64);
        assert_eq!(control.seed, 77);
        assert_eq!(control.route_generation, 1);
        assert_eq!(control.endpoint_generation, 1);
        assert_eq!(control.flags, fib);
        assert_eq!(control.host_netns, [2, 1]);
        assert_eq!(control.hz, 250);
        assert_eq!(control.snat, SNAT);
        assert_eq!(adopt(Control::default(), 0, 250, fib, SNAT, 1, 64).seed, 1);
    }

    #[test]
    fn a_map_of_an_earlier_agent_keeps_seed_and_generations() {
        let earlier = Control {
            route_generation: 41,
            endpoint_generation: 9,
            seed: 77,
            node4: [192, 0, 2, 1],
            ..Control::default()
        };
        let control = adopt(earlier, 78, 1000, 0, SNAT, 1, 64);
        assert_eq!(control.seed, 77);
        assert_eq!(control.node4, [192, 0, 2, 1]);
        assert_eq!(control.route_generation, 42);
        assert_eq!(control.endpoint_generation, 9);
        assert_eq!(control.flags, 0);
        let yielding = Control {
            flags: control_flags::YIELD,
            ..earlier
        };
        let control = adopt(yielding, 78, 1000, 0, SNAT, 1, 64);
        assert_eq!(control.flags, control_flags::YIELD);
    }

    #[test]
    fn lines_are_shared_out_evenly() {
        let lines = [1, 2, 3, 64, 1024, 1025, 0].map(lines_per_cpu);
        assert_eq!(lines, [65536, 32768, 16384, 1024, 64, 0, 0]);
    }

    #[test]
    fn programs_are_told_whose_sockets_are_meant() {
        let mut sockets = SocketArgs {
            socket_lb: SocketScope::All,
            ..SocketArgs::default()
        };
        assert_eq!(flags(false, false, &sockets), 0);
        sockets.socket_lb = SocketScope::Host;
        sockets.localhost_nodeports = true;
        let wanted = control_flags::HOST_SOCKETS_ONLY | control_flags::LOOPBACK_NODE_PORTS;
        assert_eq!(flags(false, false, &sockets), wanted);
        sockets.hold_node_ports = true;
        assert_eq!(
            flags(true, false, &sockets),
            wanted | control_flags::HOLD_NODE_PORTS | control_flags::FIB_SOURCE
        );
    }

    #[test]
    fn programs_are_told_to_pass_the_stack_by() {
        let flags = flags(false, true, &SocketArgs::default());
        assert_eq!(
            flags & control_flags::REDIRECT_LOCAL,
            control_flags::REDIRECT_LOCAL
        );
    }

    #[test]
    fn generations_leave_zero_out_when_they_wrap() {
        assert_eq!(next(0), 1);
        assert_eq!(next(1), 2);
        assert_eq!(next(u32::MAX), 1);
    }
}
