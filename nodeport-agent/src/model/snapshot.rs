//! Everything the desired state is computed from.
//!
//! Owns the own node's identity, its addresses and the options. It refuses to know where they come from.
//! Invariant: two equal snapshots have equal desired states; nothing else goes in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::node_port_addresses::NodePortAddresses;
use super::objects::{Node, Objects};

/// The input of [`super::compile()`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// A complete set of cluster objects.
    pub objects: Arc<Objects>,
    /// This node's name: what `nodeName` of its endpoints says, exactly (behaviours 20.1).
    pub node_name: String,
    /// Addresses assigned to this node's devices.
    pub host_addresses: BTreeSet<HostAddress>,
    /// What the user chose.
    pub options: Options,
}

/// An address assigned to a device of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// Index of the device.
    pub device: u32,
}

/// What the user chose, as far as the desired state depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `--nodeport-addresses`.
    pub node_port_addresses: NodePortAddresses,
}

impl Snapshot {
    /// This node's own Node object, if it is known.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.objects.nodes.get(&*self.node_name).map(|node| &**node)
    }
}

/// The node's name as kube-proxy takes it from `--hostname-override` or the host's name: without surrounding white space,
/// in lower case (behaviours 20.1). `None` if nothing is left.
#[must_use]
pub fn node_name(given: &str) -> Option<String> {
    let name = given.trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_trimmed_and_lowered_20_1() {
        assert_eq!(
            node_name(" Node-1.Example\n").as_deref(),
            Some("node-1.example")
        );
        assert_eq!(node_name(" \t"), None);
    }
}
