//! Which next hops packets are sent to past the kernel's stack, so that their neighbours can be kept fresh (edge-cases F7).
//!
//! The kernel checks a neighbour that its stack sends to; it does not see what programs redirect. Owns the list, which walks over
//! flows fill and the device loop reads. Invariant: it names next hops of flows that had a packet lately, and no others for long.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// Device and hardware address of a next hop.
pub type Hop = (u32, [u8; 6]);

/// Next hops in use, by the map whose walk found them.
#[derive(Debug, Default)]
pub struct UsedHops {
    by_map: Mutex<HashMap<&'static str, HashSet<Hop>>>,
}

impl UsedHops {
    /// Replaces what an earlier walk over the same map found.
    pub fn replace(&self, map: &'static str, hops: HashSet<Hop>) {
        let mut by_map = self.by_map.lock().unwrap_or_else(PoisonError::into_inner);
        by_map.insert(map, hops);
    }

    /// Whether packets are sent there.
    #[must_use]
    pub fn contains(&self, device: u32, mac: &[u8]) -> bool {
        let Ok(mac) = mac.try_into() else {
            return false;
        };
        let by_map = self.by_map.lock().unwrap_or_else(PoisonError::into_inner);
        by_map.values().any(|hops| hops.contains(&(device, mac)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_replaces_what_the_one_before_found_and_no_other_s() {
        let used = UsedHops::default();
        let (one, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        used.replace("FLOWS4", HashSet::from([(3, one)]));
        used.replace("FLOWS6", HashSet::from([(3, other)]));
        assert!(used.contains(3, &one) && used.contains(3, &other));
        assert!(!used.contains(4, &one), "another device");
        used.replace("FLOWS4", HashSet::new());
        assert!(!used.contains(3, &one) && used.contains(3, &other));
        assert!(!used.contains(3, &[]), "no Ethernet address");
    }
}
