//! The agent's HTTP servers: listening, and answering one request after the other.
//!
//! Owns sockets and connections. Refuses to know what is answered. Invariant: a client that is slow, or one of many, costs one of a
//! bounded number of connections for a bounded time, and never the agent.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Most connections of one server at a time. Health checks and monitoring make a handful.
const CONNECTIONS: usize = 128;
/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live: whoever has more to ask makes another.
const LIFE: Duration = Duration::from_mins(2);
/// Time between two attempts to listen (behaviours 16.6).
pub const AGAIN: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(HeaderName, String)>,
    /// What follows.
    pub body: Vec<u8>,
}

/// Answers a path, whatever the method (behaviours 15.2; kube-proxy's servers do not look at it). Called on a thread that may block.
pub type Answers = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

impl Answer {
    /// 200 or 503 with a JSON document.
    #[must_use]
    pub fn json(good: bool, body: Vec<u8>) -> Self {
        let status = if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Self {
            status,
            content_type: "application/json",
            headers: Vec::new(),
            body,
        }
    }

    /// 200 with text.
    #[must_use]
    pub fn text(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// 404, as Go words it.
    #[must_use]
    pub fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::text("404 page not found\n")
        }
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Listens. As with Go, whoever listens on an unspecified address is reached by both families, unless only one is wanted.
///
/// # Errors
/// The system's.
pub fn listen(address: SocketAddr, one_family: bool) -> io::Result<TcpListener> {
    let any = address.ip().is_unspecified() && !one_family;
    let both = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match bind(if any { both } else { address }, any) {
        // A host without IPv6.
        Err(error)
            if any && address.is_ipv4() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            bind(address, false)
        }
        other => other,
    }
}

fn bind(address: SocketAddr, both_families: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !both_families)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 128)?;
    TcpListener::from_std(StdListener::from(socket))
}

/// Answers every client. Ends only when it is dropped, and ends its connections then.
pub async fn serve(listener: TcpListener, answers: Answers) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                connections.spawn(async move {
                    let _in_time = tokio::time::timeout(LIFE, converse(stream, answers)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, answers: Answers) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answers = Arc::clone(&answers);
        async move {
            let path = request.uri().path().to_owned();
            let answering = tokio::task::spawn_blocking(move || answers(&path));
            let answer = answering
                .await
                .unwrap_or_else(|_| Answer::json(false, Vec::new()));
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a client went away");
    }
}

/// Listens, again and again until it can (16.6), and answers. `tell` hears why it cannot, and `None` once it can. While the port is lent to
/// another process, it does not listen.
pub async fn serve_at(
    address: SocketAddr,
    answers: Answers,
    mut lent: watch::Receiver<bool>,
    mut tell: impl FnMut(Option<io::Error>) + Send,
) {
    while lent.wait_for(|lent| !lent).await.is_ok() {
        match listen(address, false) {
            Ok(listener) => {
                tell(None);
                tokio::select! {
                    () = serve(listener, Arc::clone(&answers)) => return,
                    _ = lent.wait_for(|lent| *lent) => {}
                }
            }
            Err(error) => {
                tell(Some(error));
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
