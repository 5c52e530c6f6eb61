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
    /// `--bind-address`, unless it is unspecified: the node's address of its family, whatever the Node says (behaviours 20.2).
    pub node_address: Option<IpAddr>,
}

impl Snapshot {
    /// This node's own Node object, if it is known.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.objects.nodes.get(&*self.node_name).map(|node| &**node)
    }

    /// The node's addresses, at most one of each family.
    #[must_use]
    pub fn primary_addresses(&self) -> Vec<IpAddr> {
        let of_node = self.node().map_or(&[][..], |node| &node.primary_addresses);
        let given = self.options.node_address;
        let others = of_node.iter().copied();
        given
            .into_iter()
            .chain(others.filter(|one| given.is_none_or(|given| given.is_ipv4() != one.is_ipv4())))
            .collect()
    }

    /// Those of the node's addresses that a device of it carries: what its processes are seen by.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let is_carried = |address: &IpAddr| {
            let mut carried = self.host_addresses.iter();
            carried.any(|one| one.address == *address)
        };
        let mut addresses = self.primary_addresses();
        addresses.retain(is_carried);
        addresses
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
    fn a_given_address_comes_before_the_nodes_of_its_family_20_2() {
        let mut snapshot = Snapshot {
            node_name: "n1".to_owned(),
            ..Snapshot::default()
        };
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(snapshot.primary_addresses().is_empty());
        snapshot.options.node_address = Some(address("192.0.2.9"));
        assert_eq!(snapshot.primary_addresses(), [address("192.0.2.9")]);
        let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"},
        ]}});
        let crate::model::decode::Decoded::Object(node) = crate::model::decode::decode(&node, None)
        else {
            panic!("no object");
        };
        let mut objects = Objects::default();
        objects.insert(node);
        snapshot.objects = Arc::new(objects);
        let wanted = [address("192.0.2.9"), address("2001:db8::1")];
        assert_eq!(snapshot.primary_addresses(), wanted);
        for (device, text) in [(2, "192.0.2.1"), (3, "2001:db8::1")] {
            let address = address(text);
            snapshot
                .host_addresses
                .insert(HostAddress { address, device });
        }
        assert_eq!(snapshot.own_addresses(), [address("2001:db8::1")]);
    }

    #[test]
    fn node_names_are_trimmed_and_lowered_20_1() {
        assert_eq!(
            node_name(" Node-1.Example\n").as_deref(),
            Some("node-1.example")
        );
        assert_eq!(node_name(" \t"), None);
    }
}
