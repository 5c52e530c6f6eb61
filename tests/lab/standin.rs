//! Stand-ins for a user's endpoints: many listeners in one namespace, each saying which of them answered and whom.
//!
//! Threads of the lab's own process, not processes: they live exactly as long as [`StandIns`]. TCP answers as HTTP, so that
//! curl can be tried on them. Invariant: an answer names the address and port that were really connected to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::netns::Netns;
use crate::objects::Protocol;

/// Running stand-ins; they end when this is dropped.
#[derive(Debug)]
pub struct StandIns {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// How long a thread may take to see that it shall end.
const STOP_WITHIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

impl StandIns {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        }
    }

    /// Listens on all these in a namespace. SCTP is skipped.
    ///
    /// # Errors
    /// If an address is missing or a port is taken.
    pub fn serve(&mut self, netns: &Netns, listen: &[(SocketAddr, Protocol)]) -> Result<()> {
        raise_file_limit();
        let sockets = netns
            .run(|| open(listen))?
            .with_context(|| format!("in {}", netns.name()))?;
        let stop = Arc::clone(&self.stop);
        let name = format!("standin {}", netns.name());
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || serve(&sockets, &stop))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Default for StandIns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there was reported on its own thread.
            drop(thread.join());
        }
    }
}

/// A cluster may have more endpoint ports than the usual limit of 1024 files; an error shows when a socket is missing.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without it a few hundred stand-ins still fit.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn open(listen: &[(SocketAddr, Protocol)]) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (address, protocol) in listen {
        let socket = match protocol {
            Protocol::Tcp => TcpListener::bind(address).map(Socket::Tcp),
            Protocol::Udp => UdpSocket::bind(address).map(Socket::Udp),
            Protocol::Sctp => continue,
        };
        let socket = socket.with_context(|| format!("listen on {address} ({protocol:?})"))?;
        match &socket {
            Socket::Tcp(listener) => listener.set_nonblocking(true)?,
            Socket::Udp(socket) => socket.set_nonblocking(true)?,
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

fn serve(sockets: &[Socket], stop: &AtomicBool) {
    let mut fds: Vec<_> = sockets
        .iter()
        .map(|socket| match socket {
            Socket::Tcp(listener) => PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            Socket::Udp(socket) => PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        })
        .collect();
    while !stop.load(Ordering::Relaxed) {
        if poll(&mut fds, Some(&STOP_WITHIN)).unwrap_or(0) == 0 {
            continue;
        }
        for (socket, fd) in sockets.iter().zip(&fds) {
            if fd.revents().is_empty() {
                continue;
            }
            match socket {
                Socket::Tcp(listener) => {
                    while let Ok((stream, _)) = listener.accept() {
                        std::thread::spawn(move || drop(answer_stream(stream)));
                    }
                }
                Socket::Udp(socket) => answer_datagrams(socket),
            }
        }
    }
}

/// What an answer says; [`crate::clients`] reads it like nginx's.
fn words(server: SocketAddr, client: SocketAddr) -> String {
    format!(
        "name=standin server={} server_port={} client={} client_port={}\n",
        server.ip(),
        server.port(),
        client.ip(),
        client.port()
    )
}

fn answer_stream(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let body = words(stream.local_addr()?, stream.peer_addr()?);
    // One read is enough to see that the request arrived; what it asks for does not matter.
    let length = stream.read(&mut [0; 4096])?;
    if length > 0 {
        write!(
            stream,
            "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket) {
    let Ok(server) = socket.local_addr() else {
        return;
    };
    let mut buffer = [0; 2048];
    while let Ok((_, client)) = socket.recv_from(&mut buffer) {
        // A client that is gone needs no answer.
        drop(socket.send_to(words(server, client).as_bytes(), client));
    }
}
