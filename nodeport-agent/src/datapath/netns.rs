//! The identity of a network namespace as programs see it.

use std::io;
use std::os::fd::AsRawFd as _;

/// The cookie of the network namespace that this process is in (`SO_NETNS_COOKIE`, Linux 5.14): what `bpf_get_netns_cookie` says of its
/// sockets.
///
/// # Errors
/// The kernel knows none.
pub(super) fn cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::from(size_of::<u64>() as u8);
    // SAFETY: the descriptor is open, and `length` is that of the integer that the kernel writes to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        let first = cookie().expect("a cookie");
        assert_ne!(first, 0);
        assert_eq!(cookie().expect("a cookie"), first);
    }
}
