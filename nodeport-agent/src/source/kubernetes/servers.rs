//! One client for all API servers: each request goes to the server that last answered, and to the next if it does not.
//!
//! Owns connections and when they are given up: after no answer in time, a refusal to talk, an answer of 401 (credentials may have
//! changed) or of 5xx. It refuses to know resources. A new connection reads all files anew ([`Access::load`]).
//! Invariant: what is above (`kube::runtime::watcher`) keeps its place in the stream of changes whatever server it comes from.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt as _};
use tower_http::timeout::TimeoutBody;

use super::access::{Access, AccessError};
use super::progress::Progress;

/// Times. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a connection.
    pub(super) connect: Duration,
    /// For the head of an answer; the API server's own limit is a minute.
    pub(super) answer: Duration,
    /// For the next piece of an answer. A watch has a bookmark every minute if nothing else; one that has none for two is given up
    /// and goes on where it was.
    pub(super) silence: Duration,
    /// The shortest time between two watches of one resource: a server that ends each at once must not be asked in a loop.
    pub(super) between_watches: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(130),
            between_watches: Duration::from_millis(500),
        }
    }
}

/// A silent connection is probed after this time: a server that lost power says no goodbye, and a watch may be silent for minutes.
const PROBE_AFTER: Duration = Duration::from_secs(15);
/// Time between probes.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// A connection without answers for so long is dead, whether probes or requests are unanswered.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// The API servers, as a service for [`Client::new`].
#[derive(Clone)]
pub(super) struct Servers(Arc<Inner>);

struct Inner {
    access: Access,
    patience: Patience,
    progress: Progress,
    current: Mutex<Current>,
    /// When each resource was last watched.
    watched: Mutex<HashMap<String, Instant>>,
}

/// The server in use.
#[derive(Default)]
struct Current {
    number: usize,
    /// `None` if a connection is to be made.
    connection: Option<Connection>,
    /// Raised with each connection, so that one failure does not skip a server twice.
    generation: u64,
}

#[derive(Clone)]
struct Connection {
    client: Client,
    server: Arc<str>,
    generation: u64,
}

/// An answer that is given up when it falls silent.
type Answer = TimeoutBody<Body>;

/// What went wrong, in words.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Client(#[from] kube::Error),
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Servers {
    pub(super) fn new(access: Access, patience: Patience, progress: Progress) -> Self {
        Self(Arc::new(Inner {
            access,
            patience,
            progress,
            current: Mutex::default(),
            watched: Mutex::default(),
        }))
    }

    /// A client that knows nothing of there being several servers.
    pub(super) fn client(self) -> Client {
        Client::new(self, "default")
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let (mut parts, body) = request.into_parts();
        parts.uri = from_now(&parts.uri).unwrap_or(parts.uri);
        let resource = resource(parts.uri.path()).to_owned();
        if is_watch(&parts.uri) {
            self.pace(parts.uri.path()).await;
        }
        // Only what has no body and changes nothing is sent a second time.
        let tries = if parts.method == Method::GET {
            self.0.access.count()
        } else {
            1
        };
        let mut body = Some(body);
        let mut failed = None;
        for _ in 0..tries {
            let body = body.take().unwrap_or_else(Body::empty);
            match self
                .send_once(Request::from_parts(parts.clone(), body), &resource)
                .await
            {
                Ok(response) => {
                    let silence = self.0.patience.silence;
                    return Ok(response.map(|body| TimeoutBody::new(silence, body)));
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.map_or_else(|| BoxError::from("there is no API server"), BoxError::from))
    }

    /// To the current server.
    async fn send_once(
        &self,
        request: Request<Body>,
        resource: &str,
    ) -> Result<Response<Body>, SendError> {
        let Inner {
            patience, progress, ..
        } = &*self.0;
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                progress.failed(resource, "", &words(&error));
                return Err(error.into());
            }
        };
        let server = &connection.server;
        let get = request.method() == Method::GET;
        let answer = timeout(patience.answer, connection.client.send(request)).await;
        let error = match answer {
            Ok(Ok(response)) => {
                let status = response.status();
                if is_answer(status, get) {
                    progress.answered(resource, server);
                } else {
                    progress.failed(resource, server, &format!("it answers {status}"));
                }
                if status == StatusCode::UNAUTHORIZED || status.is_server_error() {
                    self.give_up(&connection).await;
                }
                return Ok(response);
            }
            Ok(Err(error)) => SendError::from(error),
            Err(_) => SendError::Silent(patience.answer),
        };
        self.give_up(&connection).await;
        progress.failed(resource, server, &words(&error));
        Err(error)
    }

    async fn connection(&self) -> Result<Connection, AccessError> {
        let mut current = self.0.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok(connection.clone());
        }
        let number = current.number;
        let made = match self.0.access.load(number).await {
            Ok(config) => client(config, self.0.patience),
            Err(error) => Err(error),
        };
        let (client, server) = made.inspect_err(|_| current.number = number.wrapping_add(1))?;
        current.generation += 1;
        let connection = Connection {
            client,
            server: server.into(),
            generation: current.generation,
        };
        current.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The next request goes to the next server, with credentials read anew. Streams that still flow go on.
    async fn give_up(&self, connection: &Connection) {
        let mut current = self.0.current.lock().await;
        if current.generation == connection.generation && current.connection.take().is_some() {
            current.number = current.number.wrapping_add(1);
        }
    }

    /// Waits until `path` may be watched again.
    async fn pace(&self, path: &str) {
        let now = Instant::now();
        let start = {
            let mut watched = self.0.watched.lock().await;
            let earliest = watched
                .get(path)
                .map(|last| *last + self.0.patience.between_watches);
            let start = earliest.map_or(now, |earliest| earliest.max(now));
            watched.insert(path.to_owned(), start);
            start
        };
        sleep_until(start).await;
    }
}

impl Service<Request<Body>> for Servers {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let servers = self.clone();
        Box::pin(async move { servers.send(request).await })
    }
}

/// A client of one server, and the server's URL.
fn client(mut config: Config, patience: Patience) -> Result<(Client, String), AccessError> {
    let server = config.cluster_url.to_string();
    config.connect_timeout = Some(patience.connect);
    let failed = |source| AccessError::Connection {
        server: server.clone(),
        source: Box::new(source),
    };
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(config.connect_timeout);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .map_err(failed)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(tls);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .map_err(BoxError::from)
        .service(http);
    let client = ClientBuilder::new(service.boxed(), config.default_namespace.clone()).build();
    Ok((client, server))
}

/// Whether it is of any use. That a list cannot be streamed (400, 422), is too old (410) or that an Event is there already (409) is.
fn is_answer(status: StatusCode, get: bool) -> bool {
    let refused = matches!(
        status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
    );
    !(refused || status.is_server_error() || (get && status == StatusCode::NOT_FOUND))
}

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|one| matches!(one, "watch=true" | "watch=1"))
    })
}

/// A streamed list "not older than 0" may be any old state that a lagging API server has. Without a version it is the latest one, so
/// that a new list never goes back in time.
fn from_now(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    if !query.split('&').any(|one| one == "sendInitialEvents=true") {
        return None;
    }
    let kept: Vec<&str> = query
        .split('&')
        .filter(|one| *one != "resourceVersion=0")
        .collect();
    format!("{}?{}", uri.path(), kept.join("&")).parse().ok()
}

/// The last part of a path: `endpointslices`.
fn resource(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
