//! Which changes of neighbours matter to remembered next hops (edge-cases F7).
//!
//! Owns what was last known of each neighbour. Refuses to know netlink. Invariant: the change of a state that leaves the hardware
//! address as it is (reachable, stale, probing) never matters, because a busy node sees thousands of them.

use std::collections::HashMap;
use std::net::IpAddr;

/// Which neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighbourKey {
    /// Index of the device.
    pub device: u32,
    /// Its IP address.
    pub address: IpAddr,
}

/// What is known of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its hardware address, empty if unknown.
    pub mac: Vec<u8>,
    /// Whether the kernel would send to it.
    pub usable: bool,
    /// Whether the kernel has not heard of it for some time, and would ask if it sent to it.
    pub stale: bool,
}

/// What was last known of each usable neighbour.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    usable: HashMap<NeighbourKey, Vec<u8>>,
}

impl Neighbours {
    /// Takes note of a new or changed neighbour. Returns whether a remembered next hop may now be wrong.
    pub fn changed(&mut self, key: NeighbourKey, neighbour: &Neighbour) -> bool {
        if !neighbour.usable {
            return self.gone(key);
        }
        match self.usable.insert(key, neighbour.mac.clone()) {
            // Nobody can remember a next hop that did not exist.
            None => false,
            Some(before) => before != neighbour.mac,
        }
    }

    /// Takes note of a removed neighbour. Returns whether a remembered next hop may now be wrong.
    pub fn gone(&mut self, key: NeighbourKey) -> bool {
        self.usable.remove(&key).is_some()
    }

    /// Replaces everything by a complete list. Returns whether a remembered next hop may now be wrong.
    pub fn replace(&mut self, all: &[(NeighbourKey, Neighbour)]) -> bool {
        let fresh: HashMap<_, _> = all
            .iter()
            .filter(|(_, neighbour)| neighbour.usable)
            .map(|(key, neighbour)| (*key, neighbour.mac.clone()))
            .collect();
        let wrong = self
            .usable
            .iter()
            .any(|(key, mac)| fresh.get(key) != Some(mac));
        self.usable = fresh;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NeighbourKey = NeighbourKey {
        device: 2,
        address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    };

    fn at(mac: u8, usable: bool) -> Neighbour {
        Neighbour {
            mac: vec![2, 0, 0, 0, 0, mac],
            usable,
            stale: false,
        }
    }

    #[test]
    fn a_neighbour_that_stays_what_it_is_does_not_matter() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.changed(KEY, &at(1, true)), "it is new");
        assert!(!neighbours.changed(KEY, &at(1, true)), "reachable to stale");
    }

    #[test]
    fn another_hardware_address_matters() {
        let mut neighbours = Neighbours::default();
        neighbours.changed(KEY, &at(1, true));
        assert!(neighbours.changed(KEY, &at(2, true)));
        assert!(!neighbours.changed(KEY, &at(2, true)));
    }

    #[test]
    fn a_neighbour_that_fails_or_goes_matters_once() {
        let mut neighbours = Neighbours::default();
        neighbours.changed(KEY, &at(1, true));
        assert!(neighbours.changed(KEY, &at(1, false)));
        assert!(!neighbours.gone(KEY));
        neighbours.changed(KEY, &at(1, true));
        assert!(neighbours.gone(KEY));
        assert!(
            !neighbours.changed(KEY, &at(1, false)),
            "it never was usable"
        );
    }

    #[test]
    fn a_complete_list_matters_if_what_was_known_differs() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.replace(&[(KEY, at(1, true))]), "all new");
        assert!(!neighbours.replace(&[(KEY, at(1, true))]), "all the same");
        assert!(neighbours.replace(&[(KEY, at(2, true))]), "another address");
        assert!(neighbours.replace(&[(KEY, at(2, false))]), "failed");
        assert!(!neighbours.replace(&[]), "nothing usable was known");
    }
}
