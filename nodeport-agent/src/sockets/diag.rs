//! The kernel's list of UDP sockets, and how one is ended (`sock_diag`, `SOCK_DESTROY`; `CONFIG_INET_DIAG_DESTROY`).
//!
//! Owns the messages. Refuses to know which sockets deserve it. Invariant: a socket is named by its cookie as well, so that another one
//! with the same addresses is never hit.

use std::collections::BTreeSet;
use std::io;

use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::sys::{Socket, SocketAddr};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_UDP: u8 = 17;
/// `TCP_ESTABLISHED`: a connected UDP socket, too.
const ESTABLISHED: u8 = 1;
/// Types of messages (`linux/sock_diag.h`, `linux/netlink.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, and with it `NLM_F_DUMP` or `NLM_F_ACK`.
const DUMP: u16 = 0x301;
const ACK: u16 = 0x5;
/// Bytes of `struct nlmsghdr`, of `struct inet_diag_sockid`, and where the latter is in answers (`struct inet_diag_msg`) behind the header.
const HEADER: usize = 16;
const ID: usize = 48;
const ID_AT: usize = 4;
/// Where the cookie is in `struct inet_diag_sockid`, low half first.
const COOKIE_AT: usize = 40;

type Id = [u8; ID];

/// Ends the connected UDP sockets of this network namespace that have these cookies: whoever waits on one gets `ECONNABORTED`. Returns how
/// many there were.
///
/// # Errors
/// The kernel does not list sockets, or refuses to end one.
pub(super) fn destroy_udp(cookies: &BTreeSet<[u32; 2]>) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut ended = 0;
    for family in [AF_INET, AF_INET6] {
        let found = list(&socket, family)?;
        for id in found.iter().filter(|id| cookies.contains(&cookie(id))) {
            ended += usize::from(destroy(&socket, family, id)?);
        }
    }
    Ok(ended)
}

/// All connected UDP sockets of a family.
fn list(socket: &Socket, family: u8) -> io::Result<Vec<Id>> {
    socket.send(&request(SOCK_DIAG_BY_FAMILY, DUMP, family, &[0; ID]), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            match message {
                Message::Socket(id) => found.push(id),
                Message::End(0) => return Ok(found),
                Message::End(error) => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }
}

/// Whether the socket was still there.
fn destroy(socket: &Socket, family: u8, id: &Id) -> io::Result<bool> {
    socket.send(&request(SOCK_DESTROY, ACK, family, id), 0)?;
    let (datagram, _) = socket.recv_from_full()?;
    match messages(&datagram).next() {
        Some(Message::End(0)) => Ok(true),
        Some(Message::End(libc::ENOENT)) => Ok(false),
        Some(Message::End(error)) => Err(io::Error::from_raw_os_error(error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, id: &Id) -> Vec<u8> {
    let length = (HEADER + 8 + ID) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_UDP, 0, 0]);
    bytes.extend((1_u32 << ESTABLISHED).to_ne_bytes());
    bytes.extend(id);
    bytes
}

fn cookie(id: &Id) -> [u32; 2] {
    let half = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&id[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    [half(COOKIE_AT), half(COOKIE_AT + 4)]
}

/// What the kernel answers.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// A socket.
    Socket(Id),
    /// The end of a list, or the outcome of a request: 0 or an error number.
    End(i32),
}

/// The messages in a datagram; what is cut off is left out.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Message> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk::<4>()?) as usize;
        let message = rest.get(..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        read(message)
    })
}

fn read(message: &[u8]) -> Option<Message> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk::<2>()?);
    let body = message.get(HEADER..)?;
    match kind {
        DONE => Some(Message::End(0)),
        ERROR => {
            let code = i32::from_ne_bytes(*body.first_chunk::<4>()?);
            Some(Message::End(-code))
        }
        _ => Some(Message::Socket(*body.get(ID_AT..)?.first_chunk::<ID>()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_connected_socket_is_ended_and_told_and_others_are_not() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let to = peer.local_addr().expect("an address");
        let connected = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
            socket.connect(to).expect("connected");
            socket
        };
        let (ended, kept) = (connected(), connected());
        let cookie = rustix::net::sockopt::socket_cookie(&ended).expect("a cookie");
        let cookies = BTreeSet::from([[cookie as u32, (cookie >> 32) as u32]]);
        match destroy_udp(&cookies) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs privileges");
                return;
            }
            result => assert_eq!(result.expect("ended"), 1),
        }
        let error = ended.recv(&mut [0; 8]).expect_err("told");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        kept.send(b"still here").expect("sent");
        assert_eq!(destroy_udp(&cookies).expect("listed"), 0);
    }

    #[test]
    fn what_is_cut_off_is_left_out() {
        let mut error = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        error.extend((-libc::ENOENT).to_ne_bytes());
        assert_eq!(
            messages(&error).collect::<Vec<_>>(),
            [Message::End(libc::ENOENT)]
        );
        assert_eq!(messages(&error[..19]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }
}
