//! What the agent tells every program: settings and generations, devices, addresses.

/// The one value of `CONTROL`. 80 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Control {
    /// Raised after each change of routes, neighbours, addresses or links; never 0. A next hop of another generation is looked up anew.
    pub route_generation: u32,
    /// Raised after endpoints were removed, or came where there were none, once the new sets are in place; never 0. UDP flows of
    /// an older generation look whether their endpoint still serves (behaviours 17.8), TCP clients that still wait for an answer
    /// choose anew (edge-cases B11).
    pub endpoint_generation: u32,
    /// Seed of the hash that picks backends, and what marks a note that XDP leaves for TC as ours; chosen once per pin directory.
    pub seed: u32,
    /// See [`control_flags`].
    pub flags: u32,
    /// Jiffies per second.
    pub hz: u32,
    /// Age, in units of 1024 jiffies, at which a remembered next hop is looked up anew even in its generation.
    pub next_hop_max_age: u32,
    /// Seconds for which the ports of a fragmented datagram are remembered (edge-cases E4: at most 30).
    pub fragment_max_age_secs: u32,
    /// ICMP errors that we originate, per second and CPU.
    pub rejects_per_second: u32,
    /// ICMP errors that we originate in one burst, per CPU.
    pub reject_burst: u32,
    /// Source ports for translated flows: up to two segments, outside the NodePort range and `ip_local_port_range`.
    pub snat: [PortSegment; 2],
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`), low half first; zero if it is not known, and then no socket is
    /// translated.
    pub host_netns: [u32; 2],
    /// Lines that each CPU has of those of busy flows, a power of two; 0 for none.
    pub lines_per_cpu: u32,
    /// The node's own IPv4 address: its processes count as a client with it, whose sockets have no address yet. Zero if it has none.
    pub node4: [u8; 4],
    /// The node's own IPv6 address, likewise.
    pub node6: [u8; 16],
    /// Zero.
    pub pad: u32,
}

/// Lines of busy flows of each family, of all CPUs together; a power of two.
pub const LINES_LEN: u32 = 65536;

/// A run of source ports, host order. 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PortSegment {
    /// First port.
    pub first: u16,
    /// Number of ports; 0 for an unused segment.
    pub count: u16,
}

/// Bits of [`Control::flags`].
pub mod control_flags {
    /// The kernel's `bpf_fib_lookup` can give the source address (`BPF_FIB_LOOKUP_SRC`, Linux 6.7).
    pub const FIB_SOURCE: u32 = 1;
    /// Only sockets of the node's own network namespace are translated.
    pub const HOST_SOCKETS_ONLY: u32 = 1 << 1;
    /// Processes of the node reach NodePorts on loopback addresses, too.
    pub const LOOPBACK_NODE_PORTS: u32 = 1 << 2;
    /// Processes of the node are refused ports that are live NodePorts.
    pub const HOLD_NODE_PORTS: u32 = 1 << 3;
    /// Packets for backends of this node go straight to the backend's device, past the host's stack, and so do the replies.
    pub const REDIRECT_LOCAL: u32 = 1 << 4;
    /// No flow is opened: kube-proxy carries new connections. What has a flow is carried on.
    pub const YIELD: u32 = 1 << 16;
    /// Only a SYN opens a flow: kube-proxy's connections are being noted.
    pub const YIELD_BUT_SYN: u32 = 1 << 17;
    /// The two before.
    pub const YIELDING: u32 = YIELD | YIELD_BUT_SYN;
}

/// A device that a program is attached to, or that packets are redirected to. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Device {
    /// See [`device_flags`].
    pub flags: u32,
    /// Primary IPv4 address: source of translated packets that leave by this device, unless the route names one. Zero if none.
    pub address4: [u8; 4],
    /// Primary IPv6 address, likewise: global scope preferred. Zero if none.
    pub address6: [u8; 16],
    /// Hardware address; zero if the device has none.
    pub mac: [u8; 6],
    /// MTU in bytes, 65535 at most.
    pub mtu: u16,
    /// Zero.
    pub pad: [u32; 2],
}

/// Bits of [`Device::flags`].
pub mod device_flags {
    /// Carries node addresses or a default route: clients behind it are not Pods of this node.
    pub const UPLINK: u32 = 1;
    /// An overlay or tunnel: Pods of other nodes are behind it.
    pub const OVERLAY: u32 = 1 << 1;
    /// Leads to Pods of this node.
    pub const POD: u32 = 1 << 2;
    /// Frames on it have no Ethernet header: packets start at the network header.
    pub const NO_ETHERNET: u32 = 1 << 3;
    /// Frames may be sent to it by `XDP_REDIRECT` (`NETDEV_XDP_ACT_NDO_XMIT`).
    pub const XDP_TARGET: u32 = 1 << 4;
    /// Our XDP program on it runs in generic mode: what it redirects is sent like any other packet, to whatever device.
    pub const XDP_GENERIC: u32 = 1 << 5;
    /// Its other end is a device of another network namespace, to which packets can be handed (`bpf_redirect_peer`).
    pub const PEER: u32 = 1 << 6;
}

/// What an address is to this node: value of `ADDRESSES4` and `ADDRESSES6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
#[repr(C)]
pub struct Address {
    /// See [`address_flags`].
    pub flags: u32,
}

/// Bits of [`Address::flags`].
pub mod address_flags {
    /// NodePorts answer on it (`--nodeport-addresses`).
    pub const NODE_PORT: u32 = 1;
    /// At least one front end has this very address.
    pub const VIRTUAL: u32 = 1 << 1;
    /// It is assigned to a device of this node.
    pub const HOST: u32 = 1 << 2;
    /// It is a ClusterIP of a Service.
    pub const CLUSTER_IP: u32 = 1 << 3;
}

/// A token bucket that limits how many ICMP errors a CPU originates. 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TokenBucket {
    /// Tokens left, in jiffies' worth of budget (`hz` tokens pay for one error).
    pub tokens: u32,
    /// Low 32 bits of jiffies at the last refill.
    pub refilled: u32,
}

const _: () = {
    assert!(size_of::<Control>() == 80);
    assert!(size_of::<Device>() == 40);
    assert!(size_of::<TokenBucket>() == 8);
};
