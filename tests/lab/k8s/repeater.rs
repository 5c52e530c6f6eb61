//! A server of watches that loses count: what a watch says comes again, and in another order.
//!
//! Stands before an HTTP server without TLS (`kubectl proxy`). Events of a watch that come close together are sent in the opposite order, and
//! each is followed by the one that was sent before it. Knows nothing of what events mean, but that bookmarks are no objects: they keep their
//! place. Invariant: every event is sent at least once; answers that are no watches are not changed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::relay::listener;
use crate::netns::Netns;

/// Events that come within this time of each other change places.
const TOGETHER: Duration = Duration::from_millis(100);
/// At most so many of them.
const MOST: usize = 16;
/// What events have that are no objects.
const BOOKMARK: &str = r#""type":"BOOKMARK""#;
/// Between two looks for a new connection.
const LOOK: Duration = Duration::from_millis(20);

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Repeater {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ends: AtomicBool,
    repeated: AtomicU64,
    moved: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Repeater {
    /// Listens in `netns` and asks `to` from there.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(netns: &Netns, listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = listener(netns, listen)?;
        let shared = Arc::new(Shared {
            ends: AtomicBool::new(false),
            repeated: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let (of_thread, netns) = (Arc::clone(&shared), netns.clone());
        let thread = std::thread::spawn(move || {
            // Without the namespace nobody is answered, which the test sees.
            if netns.enter().is_ok() {
                of_thread.accept(&listener, to);
            }
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// How many events were sent again, and how many in another place.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.shared.repeated), of(&self.shared.moved))
    }
}

impl Drop for Repeater {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        let open = self.shared.open.lock();
        for stream in open.unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
        // A panic there was reported on its own thread.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, to: SocketAddr) {
        while !self.ends.load(Ordering::Relaxed) {
            let Ok((client, _)) = listener.accept() else {
                std::thread::sleep(LOOK);
                continue;
            };
            let Ok(server) = TcpStream::connect(to) else {
                continue;
            };
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                // The client sees its connection closed, and asks again.
                drop(shared.carry(client, server));
            });
        }
    }

    /// One question and its answer.
    fn carry(&self, client: TcpStream, server: TcpStream) -> io::Result<()> {
        client.set_nonblocking(false)?;
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.extend([client.try_clone()?, server.try_clone()?]);
        }
        let mut asks = BufReader::new(client.try_clone()?);
        let head = head(&mut asks)?;
        let question = head.lines().next().unwrap_or_default();
        let is_watch = question.contains("watch=true") || question.contains("watch=1");
        let once = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        (&server).write_all(once.as_bytes())?;
        let mut into = server.try_clone()?;
        std::thread::spawn(move || drop(io::copy(&mut asks, &mut into)));
        let ended = server.try_clone()?;
        let result = self.answer(BufReader::new(server), &client, is_watch);
        for stream in [client, ended] {
            drop(stream.shutdown(Shutdown::Both));
        }
        result
    }

    fn answer(
        &self,
        mut from: BufReader<TcpStream>,
        mut into: &TcpStream,
        is_watch: bool,
    ) -> io::Result<()> {
        let head = head(&mut from)?;
        into.write_all(head.as_bytes())?;
        let is_chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        if !is_watch || !is_chunked || !head.starts_with("HTTP/1.1 200") {
            return io::copy(&mut from, &mut into).map(drop);
        }
        let (said, lines) = channel();
        std::thread::spawn(move || drop(read_lines(&mut from, &said)));
        self.tell(&lines, into)
    }

    /// Sends what comes, until it ends.
    fn tell(&self, lines: &Receiver<String>, mut into: &TcpStream) -> io::Result<()> {
        let mut together: Vec<String> = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let next = lines.recv_timeout(TOGETHER);
            if let Ok(line) = &next
                && !line.contains(BOOKMARK)
            {
                together.push(line.clone());
                if together.len() < MOST {
                    continue;
                }
            }
            if together.len() > 1 {
                let moved = together.len() as u64;
                self.moved.fetch_add(moved, Ordering::Relaxed);
            }
            for line in together.drain(..).rev() {
                write_chunk(&mut into, &line)?;
                if let Some(before) = last.replace(line) {
                    write_chunk(&mut into, &before)?;
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                }
            }
            match next {
                Ok(line) if line.contains(BOOKMARK) => write_chunk(&mut into, &line)?,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return into.write_all(b"0\r\n\r\n"),
            }
        }
    }
}

/// The head of a message of HTTP/1.1, with the empty line at its end.
fn head(from: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The lines of a body in chunks (RFC 9112 7.1), as they come.
fn read_lines(from: &mut impl BufRead, said: &Sender<String>) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        let mut size = String::new();
        from.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(());
        }
        from.take(size).read_to_end(&mut rest)?;
        from.read_line(&mut String::new())?;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(io::Error::other)?;
            said.send(line).map_err(io::Error::other)?;
        }
    }
}

fn write_chunk(into: &mut impl Write, line: &str) -> io::Result<()> {
    into.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_from_chunks() {
        let body = b"5\r\none\nt\r\n6\r\nwo\nthr\r\n3\r\nee\n\r\n0\r\n\r\n";
        let (said, lines) = channel();
        read_lines(&mut &body[..], &said).expect("a body");
        drop(said);
        assert_eq!(lines.iter().collect::<String>(), "one\ntwo\nthree\n");
        let mut written = Vec::new();
        write_chunk(&mut written, "two\n").expect("room");
        assert_eq!(written, b"4\r\ntwo\n\r\n");
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let mut from = text.as_bytes();
        assert_eq!(head(&mut from).ok().as_deref(), text.strip_suffix("body"));
        assert!(head(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
    }
}
