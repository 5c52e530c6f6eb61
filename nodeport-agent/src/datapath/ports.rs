//! Which source ports translated flows may use (edge-cases A4-A6, J2; behaviours 18.3).
//!
//! Owns the arithmetic of port ranges. Refuses to know sysctls and maps. Invariant: no segment touches the NodePort range
//! or the ports that the host's own sockets take by themselves.

use std::fmt;
use std::str::FromStr;

use nodeport_common::PortSegment;

/// A range of port numbers, both ends included. Written `30000-32767`, or `30000+2767` as the API server also allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortRange {
    /// First port, host order, not 0.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

/// Text that is no range of ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of ports such as 30000-32767")]
pub struct NotAPortRange(String);

impl FromStr for PortRange {
    type Err = NotAPortRange;

    fn from_str(text: &str) -> Result<Self, NotAPortRange> {
        let wrong = || NotAPortRange(text.to_owned());
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| wrong());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (number(first)?, number(last)?)
        } else if let Some((first, more)) = text.split_once('+') {
            let first = number(first)?;
            (first, first.checked_add(number(more)?).ok_or_else(wrong)?)
        } else {
            (number(text)?, number(text)?)
        };
        if first == 0 || last < first {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The two largest runs of ports of 1024..=65535 that are in none of `taken`, the larger first; unused ones have count 0.
#[must_use]
pub fn snat_segments(taken: &[PortRange]) -> [PortSegment; 2] {
    let mut free = free_runs(taken);
    // Of equal length the higher one first: low numbers are more often some daemon's.
    free.sort_by_key(|&(first, last)| std::cmp::Reverse((last - first, first)));
    let mut segments = [PortSegment::default(); 2];
    for (segment, (first, last)) in segments.iter_mut().zip(free) {
        *segment = PortSegment {
            first: first as u16,
            count: (last - first + 1) as u16,
        };
    }
    segments
}

/// Runs of ports of 1024..=65535 that are in none of `taken`, both ends included, in order.
fn free_runs(taken: &[PortRange]) -> Vec<(u32, u32)> {
    let mut taken: Vec<(u32, u32)> = taken
        .iter()
        .map(|range| (u32::from(range.first), u32::from(range.last)))
        .collect();
    taken.sort_unstable();
    let mut free = Vec::new();
    let mut next = 1024_u32;
    for (first, last) in taken {
        if first > next {
            free.push((next, first - 1));
        }
        next = next.max(last + 1);
    }
    if next <= 65535 {
        free.push((next, 65535));
    }
    free
}

/// Whether two ranges share a port.
#[must_use]
pub(super) fn overlap(a: PortRange, b: PortRange) -> bool {
    a.first <= b.last && b.first <= a.last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    fn segment(first: u16, count: u16) -> PortSegment {
        PortSegment { first, count }
    }

    #[test]
    fn port_ranges_are_read_as_the_api_server_writes_them() {
        let range = |first, last| Ok(PortRange { first, last });
        assert_eq!("30000-32767".parse(), range(30000, 32767));
        assert_eq!("30000+2767".parse(), range(30000, 32767));
        assert_eq!("30080".parse(), range(30080, 30080));
        for wrong in ["", "-", "0-10", "9-8", "1-65536", "65535+1", "a-b"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_usual_ranges_leave_the_ports_below_and_above() {
        let taken = [range(30000, 32767), range(32768, 60999)];
        assert_eq!(
            snat_segments(&taken),
            [segment(1024, 28976), segment(61000, 4536)]
        );
    }

    #[test]
    fn with_three_gaps_the_smallest_is_left_out() {
        let taken = [range(10000, 19999), range(40000, 65000)];
        // Free: 1024-9999 (8976), 20000-39999 (20000), 65001-65535 (535).
        assert_eq!(
            snat_segments(&taken),
            [segment(20000, 20000), segment(1024, 8976)]
        );
    }

    #[test]
    fn overlapping_ranges_and_ports_below_1024_are_never_given_out() {
        let taken = [range(1, 30000), range(20000, 60000), range(30000, 32767)];
        assert_eq!(snat_segments(&taken), [segment(60001, 5535), segment(0, 0)]);
    }

    #[test]
    fn with_every_port_taken_there_is_no_segment() {
        assert_eq!(
            snat_segments(&[range(1024, 65535)]),
            [PortSegment::default(); 2]
        );
    }

    #[test]
    fn with_nothing_taken_all_of_them_are_one_segment() {
        assert_eq!(
            snat_segments(&[]),
            [segment(1024, 64512), PortSegment::default()]
        );
    }

    #[test]
    fn ranges_overlap_when_they_share_one_port() {
        assert!(overlap(range(30000, 32767), range(32767, 60999)));
        assert!(!overlap(range(30000, 32767), range(32768, 60999)));
        assert!(overlap(range(1, 65535), range(5, 5)));
    }
}
