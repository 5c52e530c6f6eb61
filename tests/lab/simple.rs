//! Clients without programs: sockets of this process inside a namespace, for hundreds of requests.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use crate::clients::{Verdict, parse_http};
use crate::echo::receive;
use crate::netns::Netns;
use crate::objects::Protocol;

/// One request to a stand-in (or nginx, for TCP).
///
/// # Errors
/// If the namespace cannot be entered.
pub fn ask(from: &Netns, protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Verdict> {
    let answer = from.run(|| match protocol {
        Protocol::Udp => datagram(to, limit),
        Protocol::Tcp | Protocol::Sctp => stream(to, limit),
    })?;
    Ok(match answer {
        Ok(text) => {
            let answer = parse_http(text.rsplit("\r\n").next().unwrap_or_default());
            answer.map_or(Verdict::Failed(text), Verdict::Answered)
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Verdict::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Verdict::Silent,
            _ => Verdict::Failed(error.to_string()),
        },
    })
}

fn stream(to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn datagram(to: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(limit))?;
    // Connected, so that port unreachable becomes an error of this socket.
    socket.connect(to)?;
    socket.send(b"who are you?")?;
    let mut buffer = [0; 2048];
    let (length, _) = receive(&socket, &mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
