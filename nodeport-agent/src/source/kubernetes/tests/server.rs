//! A server of HTTP/1.1 that answers from a function.
//!
//! Owns sockets and framing. Invariant: every request is noted before it is answered.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::source::kubernetes::Kubernetes;
use crate::source::kubernetes::access::Access;
use crate::source::kubernetes::progress::Progress;
use crate::source::kubernetes::servers::{Patience, Servers};

/// What a server does with a request.
pub(super) enum Answer {
    /// A whole answer.
    Whole(u16, String),
    /// Lines of a watch, which then stays open.
    Open(String),
    /// Lines of a watch, which then ends.
    Ended(String),
    /// Nothing, for ever.
    Silence,
}

/// A server. It ends when it is dropped, and its connections with it.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Server {
    /// Answers each request (`GET /path?query`) with what `answer` says of it and of how many of its kind came before.
    pub(super) async fn start(
        answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (noted, answer) = (Arc::clone(&requests), Arc::new(answer));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                connections.spawn(async move { serve(stream, &noted, &*answer).await });
            }
        });
        Self {
            address,
            requests,
            _task: task,
        }
    }

    /// The requests so far that contain `part`.
    pub(super) fn requests(&self, part: &str) -> Vec<String> {
        let requests = self.requests.lock().expect("not poisoned");
        requests
            .iter()
            .filter(|line| line.contains(part))
            .cloned()
            .collect()
    }
}

async fn serve(
    stream: TcpStream,
    noted: &Mutex<Vec<String>>,
    answer: &(dyn Fn(&str, usize) -> Answer + Send + Sync),
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix("content-length:")?
                .trim()
                .parse()
                .ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        let line = head
            .lines()
            .next()?
            .trim_end_matches(" HTTP/1.1")
            .to_owned();
        let resource = |line: &str| line.split('?').next().unwrap_or_default().to_owned();
        let before = {
            let mut noted = noted.lock().expect("not poisoned");
            let before = noted
                .iter()
                .filter(|one| resource(one) == resource(&line))
                .count();
            noted.push(
                format!("{line} {}", String::from_utf8_lossy(&body))
                    .trim_end()
                    .to_owned(),
            );
            before
        };
        let stream = stream.get_mut();
        respond(stream, answer(&line, before)).await?;
    }
}

async fn respond(stream: &mut TcpStream, answer: Answer) -> Option<()> {
    match answer {
        Answer::Whole(status, text) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            stream.write_all((head + &text).as_bytes()).await.ok()?;
        }
        Answer::Open(lines) => {
            chunk(stream, &lines).await?;
            std::future::pending::<()>().await;
        }
        Answer::Ended(lines) => {
            chunk(stream, &lines).await?;
            stream.write_all(b"0\r\n\r\n").await.ok()?;
        }
        Answer::Silence => std::future::pending::<()>().await,
    }
    Some(())
}

async fn chunk(stream: &mut TcpStream, lines: &str) -> Option<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
    if lines.is_empty() {
        return Some(());
    }
    let text = format!("{:x}\r\n{lines}\r\n", lines.len());
    stream.write_all(text.as_bytes()).await.ok()
}

/// Short times.
pub(super) const IMPATIENT: Patience = Patience {
    connect: Duration::from_secs(2),
    answer: Duration::from_millis(300),
    silence: Duration::from_secs(2),
    between_watches: Duration::from_millis(100),
};

/// A source that uses these servers in turn.
pub(super) fn follow(servers: &[SocketAddr]) -> Kubernetes {
    let urls: Vec<String> = servers
        .iter()
        .map(|address| format!("http://{address}"))
        .collect();
    let access = Access::new(None, &urls).expect("servers");
    let progress = Progress::default();
    let client = Servers::new(access, IMPATIENT, progress.clone()).client();
    Kubernetes::with_client(&client, "n1", progress)
}
