//! The kernel's routing tables, without a kernel.

use nodeport_common::NextHop;

use crate::tables::RouteStatus;

/// An entry of the kernel's routing tables, with its neighbour.
#[derive(Clone, Copy, Debug)]
pub struct Route<A> {
    /// Destinations: this address...
    pub network: A,
    /// ...as far as this many bits.
    pub prefix: usize,
    /// Whether packets can be sent by it, and whether the neighbour is known.
    pub status: RouteStatus,
    /// Device, MTU in bytes, and link-layer addresses; its other fields are not read.
    pub hop: NextHop,
    /// The source address that the kernel prefers on it.
    pub source: A,
}

/// The route with the longest prefix that has a destination.
pub(super) fn longest<'r, A: AsRef<[u8]>>(
    routes: &'r [Route<A>],
    destination: &A,
) -> Option<&'r Route<A>> {
    routes
        .iter()
        .filter(|route| common_bits(&route.network, destination) >= route.prefix)
        .max_by_key(|route| route.prefix)
}

/// Leading bits that two addresses have in common.
pub(super) fn common_bits<A: AsRef<[u8]>>(one: &A, other: &A) -> usize {
    let mut bits = 0;
    for (a, b) in one.as_ref().iter().zip(other.as_ref()) {
        bits += (a ^ b).leading_zeros() as usize;
        if a != b {
            break;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use nodeport_common::V4;

    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let route = |network: V4, prefix: usize, device: u32| Route {
            network,
            prefix,
            status: RouteStatus::Known,
            hop: NextHop {
                device,
                ..NextHop::default()
            },
            source: [0; 4],
        };
        let routes = [
            route([0, 0, 0, 0], 0, 1),
            route([10, 244, 0, 0], 16, 2),
            route([10, 244, 2, 7], 32, 3),
        ];
        let device = |to: V4| longest(&routes, &to).map(|route| route.hop.device);
        assert_eq!(device([10, 244, 2, 7]), Some(3));
        assert_eq!(device([10, 244, 2, 6]), Some(2));
        assert_eq!(device([10, 245, 2, 6]), Some(1));
        assert!(longest::<V4>(&[], &[0; 4]).is_none());
    }
}
