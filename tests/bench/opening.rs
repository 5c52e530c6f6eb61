//! New TCP connections: how many a second, one at a time, and how long each takes.
//!
//! A connection is opened, one byte goes there and one comes back, and it is closed. Invariant: a connection that fails, or is answered by
//! nobody, fails the run.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::candidate::Candidate;
use crate::helper::Helper;
use crate::napi::{self, END_CORE};
use crate::objects::Shape;
use crate::stage::{BACKEND_PORT, ENDPOINTS, Stage, backend, front_end};
use crate::statistics::percentile;

/// Longest wait for a connection or a byte.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// Connections a second.
    pub(crate) rate: f64,
    /// Microseconds from the first packet to the answer, for half of the connections.
    pub(crate) p50: f64,
    /// The same for 99 in 100.
    pub(crate) p99: f64,
}

/// Opens connections for this long.
pub(crate) fn run(candidate: Candidate, shape: &Shape, window: Duration) -> Result<Opened> {
    let stage = Stage::make()?;
    let mut helper = Helper::load(1, [0, 0])?;
    let _agent = candidate.set_up(&stage, &mut helper, shape, "")?;
    Stage::pin()?;
    let space = stage.spaces.get(if shape.local { "pod" } else { "sink" });
    let client = stage.spaces.get("client");
    // All ports but those of a few servers: each connection takes a new one.
    client.sysctl(&[(
        "net/ipv4/ip_local_port_range".to_owned(),
        "1024 65000".to_owned(),
    )])?;
    let any: SocketAddr = if shape.v6 {
        (std::net::Ipv6Addr::UNSPECIFIED, BACKEND_PORT).into()
    } else {
        (std::net::Ipv4Addr::UNSPECIFIED, BACKEND_PORT).into()
    };
    let listener = space.run(|| TcpListener::bind(any))?.context("listen")?;
    let stop = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &stop));
        let times = client.run(|| open(candidate, shape, window));
        stop.store(true, Ordering::Relaxed);
        // The server waits for a connection: give it one.
        let local = SocketAddr::new(backend(shape.v6, shape.local, 0).ip(), BACKEND_PORT);
        drop(space.run(|| TcpStream::connect_timeout(&local, PATIENCE)));
        let served = server
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        times?.and_then(|times| served.map(|()| times))
    })?;
    Ok(sum_up(&times, window))
}

/// Answers each connection with its byte.
fn serve(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    napi::pin_thread(None, END_CORE)?;
    while !stop.load(Ordering::Relaxed) {
        let (mut stream, _) = listener.accept().context("accept")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        // A client that gave up is the client's error.
        if stream.read_exact(&mut byte).is_ok() {
            drop(stream.write_all(&byte));
        }
    }
    Ok(())
}

/// Microseconds of each connection.
fn open(candidate: Candidate, shape: &Shape, window: Duration) -> Result<Vec<f64>> {
    napi::pin_thread(None, END_CORE)?;
    let mut times = Vec::new();
    let end = Instant::now() + window;
    while Instant::now() < end {
        let number = times.len();
        let to = if candidate.translates() {
            front_end(shape.v6)
        } else {
            backend(
                shape.v6,
                shape.local,
                (number % usize::from(ENDPOINTS)) as u8,
            )
        };
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&to, PATIENCE);
        let mut stream = stream.with_context(|| format!("connection {number} to {to}"))?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"n")?;
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .with_context(|| format!("no answer on connection {number} to {to}"))?;
        if byte != *b"n" {
            bail!("a wrong answer on connection {number} to {to}");
        }
    }
    Ok(times)
}

fn sum_up(times: &[f64], window: Duration) -> Opened {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let count = times.len() as f64;
    Opened {
        rate: count / window.as_secs_f64(),
        p50: percentile(times, 0.5),
        p99: percentile(times, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_by_the_second_whatever_the_window() {
        let opened = sum_up(&[10.0, 20.0, 30.0, 40.0], Duration::from_millis(500));
        assert!((opened.rate - 8.0).abs() < 1e-9);
        assert!((opened.p50 - 20.0).abs() < 1e-9 && (opened.p99 - 40.0).abs() < 1e-9);
    }
}
