//! What this kernel has: its version, its ticks, and settings of this network namespace.
//!
//! Owns reading of `/proc` and `uname`. Refuses to change anything. Invariant: what cannot be read is `None`, never a guess.

use std::fmt;
use std::fs;
use std::path::Path;

use super::ports::PortRange;

/// Version of a kernel: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

/// Oldest kernel that the programs are tested on.
pub const OLDEST: Version = Version(6, 1);
/// First kernel with TCX links.
pub const TCX: Version = Version(6, 6);
/// First kernel whose `bpf_fib_lookup` gives the source address.
pub const FIB_SOURCE: Version = Version(6, 7);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Version {
    /// The version in a release string such as `6.1.0-31-cloud-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.split(|c: char| !c.is_ascii_digit());
        Some(Self(
            parts.next()?.parse().ok()?,
            parts.next()?.parse().ok()?,
        ))
    }

    /// The version of the running kernel.
    #[must_use]
    pub fn running() -> Option<Self> {
        Self::parse(rustix::system::uname().release().to_str().ok()?)
    }
}

/// Ticks (jiffies) per second.
///
/// The resolution of the coarse monotonic clock is exactly one tick, hence no measurement is needed.
#[must_use]
pub fn hz() -> u32 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    let nanos = u32::try_from(tick.tv_nsec).unwrap_or(0).max(1);
    (1_000_000_000 + nanos / 2) / nanos
}

/// The ports that the host's own sockets take by themselves.
#[must_use]
pub fn local_port_range() -> Option<PortRange> {
    let text = net_setting("ipv4/ip_local_port_range")?;
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some(PortRange {
        first: first.trim().parse().ok()?,
        last: last.trim().parse().ok()?,
    })
}

/// A setting of this network namespace, such as `ipv4/ip_forward`.
#[must_use]
pub fn net_setting(name: &str) -> Option<String> {
    read(Path::new("/proc/sys/net").join(name))
}

/// A file's text without surrounding blanks.
fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_release_strings() {
        assert_eq!(Version::parse("6.1.0-31-cloud-amd64"), Some(Version(6, 1)));
        assert_eq!(Version::parse("6.18.44-fc-v657"), Some(Version(6, 18)));
        assert_eq!(Version::parse("7.0-rc1"), Some(Version(7, 0)));
        assert_eq!(Version::parse("linux"), None);
        assert!(Version(6, 18) > TCX && Version(6, 1) < TCX && Version(5, 19) < OLDEST);
    }

    #[test]
    fn the_running_kernel_has_one_of_the_rates_that_linux_offers() {
        assert!([100, 250, 300, 1000].contains(&hz()), "{}", hz());
    }
}
