//! A steady stream of new connections from inside a namespace, and what was lost of it.
//!
//! Invariant: a lost packet is never hidden: a connection that needed a retransmission is counted as such, although it succeeded.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A running stream.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
    netns: Netns,
    retransmissions: u64,
}

/// What became of the connections of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Connections that were answered.
    pub answered: u64,
    /// Those that were not, by error.
    pub failed: BTreeMap<String, u64>,
    /// TCP segments that were sent again, by anyone in the client's namespace.
    pub retransmissions: u64,
    /// The longest that a connection took.
    pub longest: Duration,
}

impl Stream {
    /// Begins: one connection after the other, `pause` between them, to each address in turn.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn start(from: &Netns, to: &[SocketAddr], pause: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let retransmissions = retransmissions(from)?;
        let (netns, to, stopped) = (from.clone(), to.to_vec(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("stream".to_owned())
            .spawn(move || {
                let mut report = Report::default();
                if let Err(error) = netns.enter() {
                    report.failed.insert(format!("{error:#}"), 1);
                    return report;
                }
                for to in to.iter().cycle() {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    report.connect(*to);
                    std::thread::sleep(pause);
                }
                report
            })?;
        Ok(Self {
            stop,
            thread,
            netns: from.clone(),
            retransmissions,
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn finish(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = self
            .thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        report.retransmissions = retransmissions(&self.netns)? - self.retransmissions;
        Ok(report)
    }
}

impl Report {
    fn connect(&mut self, to: SocketAddr) {
        let start = Instant::now();
        match request(to) {
            Ok(()) => self.answered += 1,
            Err(error) => *self.failed.entry(format!("{to}: {error}")).or_default() += 1,
        }
        self.longest = self.longest.max(start.elapsed());
    }

    /// Whether not one connection and not one packet was lost.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.failed.is_empty() && self.retransmissions == 0
    }
}

fn request(to: SocketAddr) -> std::io::Result<()> {
    let limit = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.contains("name=")
        .then_some(())
        .ok_or_else(|| std::io::Error::other("half an answer"))
}

/// TCP segments sent again in a namespace since it was made (`RetransSegs`, RFC 4022).
///
/// # Errors
/// If the kernel's counters cannot be read.
pub fn retransmissions(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().context("TCP counters")?;
    let values = lines.next().context("TCP counters")?;
    let column = names.split(' ').position(|name| name == "RetransSegs");
    let value = values
        .split(' ')
        .nth(column.context("the counter of retransmissions")?);
    value
        .and_then(|value| value.parse().ok())
        .context("a number of retransmissions")
}
