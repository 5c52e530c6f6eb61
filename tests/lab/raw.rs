//! Packets of our own making: sent as they are, from inside a namespace.
//!
//! Invariant: the kernel fills in nothing but what the IP layer must (an IPv4 checksum or identification of zero).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto,
    socket_with, sockopt,
};

use crate::netns::Netns;

/// Sends whole IP packets of one family.
#[derive(Debug)]
pub struct RawSender(OwnedFd);

/// Receives packets of one protocol: with their IP header for IPv4, without it for IPv6.
#[derive(Debug)]
pub struct RawReceiver(OwnedFd);

impl RawSender {
    /// Opens a sender inside a namespace.
    ///
    /// # Errors
    /// If that is not allowed.
    pub fn open(netns: &Netns, v6: bool) -> Result<Self> {
        let socket = netns.run(|| open(v6, ipproto::RAW))??;
        sockopt::set_socket_send_buffer_size(&socket, 1 << 22)?;
        Ok(Self(socket))
    }

    /// Sends one packet towards the destination that its header names.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let to = destination(packet).context("not an IP packet")?;
        sendto(&self.0, packet, SendFlags::empty(), &SocketAddr::new(to, 0))
            .context("send a raw packet")?;
        Ok(())
    }
}

impl RawReceiver {
    /// Opens a receiver inside a namespace; `receive` waits at most `limit`.
    ///
    /// # Errors
    /// If that is not allowed.
    pub fn open(netns: &Netns, v6: bool, protocol: Protocol, limit: Duration) -> Result<Self> {
        let socket = netns.run(|| open(v6, protocol))??;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(limit))?;
        Ok(Self(socket))
    }

    /// The next packet, or `None` if none comes in time.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let received =
            rustix::io::retry_on_intr(|| recv(&self.0, &mut buffer[..], RecvFlags::empty()));
        let (length, _) = received.ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

fn open(v6: bool, protocol: Protocol) -> Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    socket_with(
        family,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )
    .context("make a raw socket (it needs root)")
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?)),
        6 => Some(IpAddr::from(
            <[u8; 16]>::try_from(packet.get(24..40)?).ok()?,
        )),
        _ => None,
    }
}
