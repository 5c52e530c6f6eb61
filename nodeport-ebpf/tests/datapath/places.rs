//! Where the stories happen: devices, link-layer addresses, and the addresses of everybody in both families.

use nodeport_common::{Control, Device, V4, V6};

use crate::packets::Wire;

/// Devices of the node, by index.
pub const UPLINK: u32 = 2;
pub const FABRIC: u32 = 3;
pub const POD1: u32 = 5;
pub const POD2: u32 = 6;

/// Link-layer addresses: of the node's devices, and of what is at their other ends.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const FABRIC_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
pub const POD1_MAC: [u8; 6] = [2, 0, 0, 0, 1, 5];
pub const POD2_MAC: [u8; 6] = [2, 0, 0, 0, 1, 6];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 3];

/// Jiffies per second.
pub const HZ: u32 = 250;

/// The NodePort and the ClusterIP port of most stories, and their backends' port.
pub const NODE_PORT: u16 = 30080;
pub const PORT: u16 = 80;
pub const TARGET: u16 = 8080;

/// Addresses of the stories, in each family.
pub trait Places: Wire {
    /// The node's address on the uplink.
    const NODE: Self;
    /// The node's second address on the uplink.
    const NODE_ALIAS: Self;
    /// The node's address towards other nodes.
    const FABRIC_ADDRESS: Self;
    /// The node's address towards its Pods.
    const GATEWAY: Self;
    /// A ClusterIP.
    const CLUSTER_IP: Self;
    /// A host behind us that is none of ours.
    const ELSEWHERE: Self;
    /// Whoever asks, asks itself.
    const LOOPBACK: Self;
    /// An outside client.
    fn client(n: u8) -> Self;
    /// A Pod of another node.
    fn remote(n: u8) -> Self;
    /// A Pod of this node; 1 is behind [`POD1`], 2 behind [`POD2`].
    fn local(n: u8) -> Self;
    /// A network of a client, remote Pod or local Pod, in bits.
    const PREFIX: usize;
    /// The node's address on a device, if it has one of the family.
    fn set(device: &mut Device, address: Self);
    /// The node's own address of the family.
    fn set_own(control: &mut Control, address: Self);
}

impl Places for V4 {
    const NODE: V4 = [192, 0, 2, 11];
    const NODE_ALIAS: V4 = [192, 0, 2, 12];
    const FABRIC_ADDRESS: V4 = [172, 16, 0, 1];
    const GATEWAY: V4 = [10, 244, 1, 254];
    const CLUSTER_IP: V4 = [10, 96, 0, 10];
    const ELSEWHERE: V4 = [203, 0, 113, 9];
    const LOOPBACK: V4 = [127, 0, 0, 1];
    const PREFIX: usize = 24;
    fn client(n: u8) -> V4 {
        [198, 51, 100, n]
    }
    fn remote(n: u8) -> V4 {
        [10, 244, 2, n]
    }
    fn local(n: u8) -> V4 {
        [10, 244, 1, n]
    }
    fn set(device: &mut Device, address: V4) {
        device.address4 = address;
    }
    fn set_own(control: &mut Control, address: V4) {
        control.node4 = address;
    }
}

impl Places for V6 {
    const NODE: V6 = v6(0x2001_0db8_0001_0000, 0x11);
    const NODE_ALIAS: V6 = v6(0x2001_0db8_0001_0000, 0x12);
    const FABRIC_ADDRESS: V6 = v6(0xfd00_0016_0000_0000, 1);
    const GATEWAY: V6 = v6(0xfd00_0244_0001_0000, 0xfe);
    const CLUSTER_IP: V6 = v6(0xfd00_0096_0000_0000, 0x10);
    const ELSEWHERE: V6 = v6(0x2001_0db8_ffff_0000, 9);
    const LOOPBACK: V6 = v6(0, 1);
    const PREFIX: usize = 64;
    fn client(n: u8) -> V6 {
        v6(0x2001_0db8_000c_0000, u64::from(n))
    }
    fn remote(n: u8) -> V6 {
        v6(0xfd00_0244_0002_0000, u64::from(n))
    }
    fn local(n: u8) -> V6 {
        v6(0xfd00_0244_0001_0000, u64::from(n))
    }
    fn set(device: &mut Device, address: V6) {
        device.address6 = address;
    }
    fn set_own(control: &mut Control, address: V6) {
        control.node6 = address;
    }
}

const fn v6(network: u64, host: u64) -> V6 {
    (((network as u128) << 64) | host as u128).to_be_bytes()
}
