//! A bad network between a client and the API server: a relay of TCP connections that delays, stalls, cuts and refuses.
//!
//! Knows nothing of what it carries. Invariant: bytes are never changed, dropped or reordered; a connection ends whole.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// What becomes of connections and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Every piece that is read waits for this long.
    Delay(Duration),
    /// Connections are accepted and stay open, and no byte passes.
    Stall,
    /// New connections are closed at once.
    Refuse,
    /// The relay ends.
    End,
}

/// A running relay; its connections end when it is dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicU64,
    /// So many connections, the oldest ones, carry nothing any more.
    frozen: AtomicU64,
    /// Where new connections go.
    to: Mutex<SocketAddr>,
}

/// How long a thread may take to see that the mode has changed.
const LOOK: Duration = Duration::from_millis(50);

impl Relay {
    /// Listens in `netns` and connects to `to` from there.
    ///
    /// # Errors
    /// If the address is taken.
    pub fn start(netns: &Netns, listen: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = listener(netns, listen)?;
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            changed: Condvar::new(),
            open: Mutex::default(),
            accepted: AtomicU64::new(0),
            frozen: AtomicU64::new(0),
            to: Mutex::new(to),
        });
        let (of_thread, netns) = (Arc::clone(&shared), netns.clone());
        let thread = std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || {
                // Without the namespace nothing is relayed, which the test sees.
                if netns.enter().is_ok() {
                    of_thread.accept(&listener);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What shall become of everything from now on.
    pub fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        self.shared.changed.notify_all();
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        for stream in lock(&self.shared.open).drain(..) {
            // It may have ended by itself.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// The connections that there are stay open and carry nothing any more; new ones are as the mode says.
    pub fn freeze(&self) {
        let accepted = self.accepted();
        self.shared.frozen.store(accepted, Ordering::Relaxed);
    }

    /// New connections go there from now on.
    pub fn aim(&self, to: SocketAddr) {
        *lock(&self.shared.to) = to;
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Mode::End);
        self.cut();
        // A panic there was reported on its own thread.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        *lock(&self.mode)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while self.mode() != Mode::End {
            let Ok((client, _)) = listener.accept() else {
                std::thread::sleep(LOOK);
                continue;
            };
            let number = self.accepted.fetch_add(1, Ordering::Relaxed);
            if self.mode() == Mode::Refuse {
                continue;
            }
            // Nobody there: the client sees its connection closed.
            let to = *lock(&self.to);
            drop(self.relay(number, client, to));
        }
    }

    fn relay(
        self: &Arc<Self>,
        number: u64,
        client: TcpStream,
        to: SocketAddr,
    ) -> std::io::Result<()> {
        let server = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        client.set_nonblocking(false)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
            lock(&self.open).push(stream.try_clone()?);
        }
        let ways = [(client.try_clone()?, server.try_clone()?), (server, client)];
        for (from, into) in ways {
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.copy(number, from, into));
        }
        Ok(())
    }

    fn copy(&self, number: u64, mut from: TcpStream, mut into: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while self.mode() != Mode::End {
            let length = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(_) => break,
            };
            if let Mode::Delay(time) = self.mode() {
                std::thread::sleep(time);
            }
            self.wait_while_stalled(number);
            if into.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        for stream in [from, into] {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn wait_while_stalled(&self, number: u64) {
        let frozen = || number < self.frozen.load(Ordering::Relaxed);
        let mut mode = lock(&self.mode);
        while *mode == Mode::Stall || (frozen() && *mode != Mode::End) {
            mode = self
                .changed
                .wait(mode)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A socket that listens in a namespace, and does not wait.
pub(super) fn listener(netns: &Netns, at: SocketAddr) -> Result<TcpListener> {
    let listener = netns
        .run(|| TcpListener::bind(at))?
        .with_context(|| format!("listen on {at}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
