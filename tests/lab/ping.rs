//! Echo requests from inside a namespace, without a `ping` program and without raw sockets.
//!
//! Invariant: an answer counts only if it comes from the address that was asked.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send,
    socket_with, sockopt,
};

use crate::netns::Netns;

/// Sends one echo request with `payload` bytes of data and waits a second for the answer.
///
/// # Errors
/// If no answer comes.
pub fn ping(from: &Netns, to: IpAddr, payload: usize) -> Result<()> {
    from.run(|| echo(to, payload))?
        .with_context(|| format!("{} asks {to}", from.name()))
}

fn echo(to: IpAddr, payload: usize) -> Result<()> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    // A datagram socket of this protocol: the kernel fills in identifier and checksum.
    let socket = socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )
    .context("make a socket for echo requests")?;
    sockopt::set_socket_timeout(
        &socket,
        sockopt::Timeout::Recv,
        Some(Duration::from_secs(1)),
    )?;
    connect(&socket, &SocketAddr::new(to, 0)).context("no way there")?;
    let mut message = vec![0u8; 8 + payload];
    message[0] = request;
    send(&socket, &message, SendFlags::empty()).context("send")?;
    let mut answer = vec![0u8; message.len() + 1];
    let received = retry_on_intr(|| recv(&socket, &mut answer[..], RecvFlags::empty()));
    let (length, _) = received.context("no answer")?;
    if answer[0] != reply || length != message.len() {
        bail!("answer of type {} with {length} bytes", answer[0]);
    }
    Ok(())
}
