//! Echo servers and sockets with chosen source ports, for stories about single connections.
//!
//! A TCP echo server says its name and whom it saw in the first line, then sends back what it gets. A line `bye` makes it close
//! first; a line `slowly` makes it wait for the client's end of stream and then send a megabyte in pieces.
//! Invariant: servers end when they are dropped.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt,
};

use crate::lab::Pod;
use crate::netns::Netns;

/// Port of echo servers.
pub const ECHO_PORT: u16 = 7007;
/// What a server sends after `slowly`: pieces of this size ...
pub const PIECE: usize = 64 << 10;
/// ... and this many of them.
pub const PIECES: usize = 16;

const TICK: Duration = Duration::from_millis(50);

/// Echo servers of one Pod, TCP and UDP at [`ECHO_PORT`].
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts them in a Pod, named like it.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn in_pod(pod: &Pod) -> Result<Self> {
        let mut echo = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for address in pod.addresses() {
            echo.serve(
                &pod.netns,
                &pod.spec.name,
                SocketAddr::new(address, ECHO_PORT),
            )?;
        }
        Ok(echo)
    }

    fn serve(&mut self, netns: &Netns, name: &str, at: SocketAddr) -> Result<()> {
        let (tcp, udp) = netns
            .run(|| std::io::Result::Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?)))?
            .with_context(|| format!("listen on {at} in {}", netns.name()))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(TICK))?;
        let (name, stop) = (name.to_owned(), Arc::clone(&self.stop));
        self.threads
            .push(std::thread::spawn(move || accept(&tcp, &name, &stop)));
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, client)) = udp.recv_from(&mut buffer) {
                    // The client sees that an answer is missing.
                    drop(udp.send_to(&buffer[..length], client));
                }
            }
        }));
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let name = name.to_owned();
                // It ends with its connection.
                std::thread::spawn(move || drop(converse(&stream, &name, client)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn converse(mut stream: &TcpStream, name: &str, client: SocketAddr) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    writeln!(stream, "{name} {client}")?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        match line.as_slice() {
            b"bye\n" => return Ok(()),
            b"slowly\n" => {
                while lines.read_until(b'\n', &mut line)? > 0 {}
                for _ in 0..PIECES {
                    stream.write_all(&vec![b'x'; PIECE])?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                return Ok(());
            }
            other => stream.write_all(other)?,
        }
        line.clear();
    }
    Ok(())
}

/// A conversation with an echo server.
#[derive(Debug)]
pub struct Talk {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// The server's name.
    pub server: String,
    /// Whom it saw.
    pub seen: SocketAddr,
}

impl Talk {
    /// Connects from an address and port (0: any) inside a namespace.
    ///
    /// # Errors
    /// If it is refused or not answered.
    pub fn connect(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let stream =
            connect_from(netns, from, to).with_context(|| format!("connect {from} to {to}"))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        lines
            .read_line(&mut first)
            .context("the server's first line")?;
        let (server, seen) = first
            .trim()
            .split_once(' ')
            .context("a name and an address")?;
        Ok(Self {
            stream,
            lines,
            server: server.to_owned(),
            seen: seen.parse()?,
        })
    }

    /// Says a line and expects it back.
    ///
    /// # Errors
    /// If something else comes back, or nothing within three seconds.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.stream
            .write_all(format!("{text}\n").as_bytes())
            .context("send")?;
        let mut back = String::new();
        self.lines.read_line(&mut back).context("no answer")?;
        anyhow::ensure!(back.trim_end() == text, "said {text}, got back {back:?}");
        Ok(())
    }

    /// Has the server close first, then closes: no `TIME_WAIT` stays on this side.
    ///
    /// # Errors
    /// If the server does not close.
    pub fn bye(mut self) -> Result<()> {
        self.stream.write_all(b"bye\n").context("send")?;
        let mut rest = String::new();
        anyhow::ensure!(
            self.lines
                .read_line(&mut rest)
                .context("the server's end")?
                == 0,
            "got {rest:?}"
        );
        // Not by closing alone: a program that another thread starts just now has a copy until it runs.
        self.stream.shutdown(Shutdown::Write)?;
        Ok(())
    }

    /// Closes the sending half and counts what the server still sends.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn half_close_and_read(mut self) -> Result<usize> {
        self.stream.write_all(b"slowly\n").context("send")?;
        self.stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut self.lines, &mut rest).context("the rest")?;
        Ok(rest.len())
    }
}

/// A TCP connection from a chosen address and port (0: any).
///
/// # Errors
/// If it is refused or not answered within three seconds.
pub fn connect_from(netns: &Netns, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let limit = Some(Duration::from_secs(3));
    netns.run(|| {
        // A program that is started meanwhile must not keep it open.
        let socket = socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // The time limit of sending is that of connecting, too.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, limit)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit)?;
        bind(&socket, &from)?;
        let patience = Instant::now() + Duration::from_secs(3);
        let mut connected = connect(&socket, &to);
        // Interrupted, it goes on by itself, and says at the next call how far it is. An older socket with the same ends may wait for its last
        // acknowledgement.
        while matches!(connected, Err(Errno::INTR | Errno::ALREADY))
            || connected == Err(Errno::ADDRNOTAVAIL) && Instant::now() < patience
        {
            std::thread::sleep(Duration::from_millis(1));
            connected = connect(&socket, &to);
        }
        if connected != Err(Errno::ISCONN) {
            connected?;
        }
        Ok(TcpStream::from(socket))
    })?
}

/// Receives a datagram; a machine that was paused interrupts the call without a reason, which is no answer.
///
/// # Errors
/// If none comes in the socket's time, or an ICMP error came.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A UDP socket with a chosen address and port, which waits at most `limit` for an answer.
///
/// # Errors
/// If the port is taken.
pub fn datagrams_from(netns: &Netns, from: SocketAddr, limit: Duration) -> Result<UdpSocket> {
    let socket = netns
        .run(|| UdpSocket::bind(from))?
        .with_context(|| format!("bind {from}"))?;
    socket.set_read_timeout(Some(limit))?;
    Ok(socket)
}
