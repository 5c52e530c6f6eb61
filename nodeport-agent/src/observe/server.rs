//! The socket that `status` asks: `<run-dir>/agent.sock`.
//!
//! Owns the socket and its one exchange: who connects gets the status as one JSON document. Invariant: a client that does not
//! read costs one task for a moment, never the agent.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as ClientStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::status::Status;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the status of the moment. Called on a thread that may block.
pub type StatusSource = Arc<dyn Fn() -> Status + Send + Sync>;

/// What goes wrong between `status` and the agent.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket cannot be made.
    #[error("cannot serve status on {path}")]
    Serve {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent does not answer.
    #[error("cannot ask the agent at {path}")]
    Ask {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is no status.
    #[error("the agent at {path} gave an answer that is no status")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The socket's path.
#[must_use]
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Opens the socket. The caller holds the lock of the pin directory, so a socket that is there is a dead agent's, unless two
/// agents with different pin directories were given one run directory: then the one that lives keeps it.
///
/// # Errors
/// [`SocketError::Serve`].
pub fn listen(run_dir: &Path) -> Result<UnixListener, SocketError> {
    let path = socket(run_dir);
    let failed = |source| SocketError::Serve {
        path: path.clone(),
        source,
    };
    fs::create_dir_all(run_dir).map_err(failed)?;
    if ClientStream::connect(&path).is_ok() {
        let other = "another agent serves it: give this one a directory of its own with --run-dir";
        return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, other)));
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers every client with the status of that moment. Ends only when it is dropped.
pub async fn serve(listener: UnixListener, status: StatusSource) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let status = Arc::clone(&status);
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(PATIENCE, answer(stream, status)).await {
                        tracing::debug!(%error, "a status client went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a status client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, status: StatusSource) -> io::Result<()> {
    let status = tokio::task::spawn_blocking(move || status()).await?;
    stream.write_all(&serde_json::to_vec(&status)?).await?;
    stream.shutdown().await
}

/// Asks the agent. `None` if none runs.
///
/// # Errors
/// [`SocketError::Ask`] if it does not answer, [`SocketError::Answer`] if the answer cannot be read.
pub fn ask(run_dir: &Path) -> Result<Option<Status>, SocketError> {
    let path = socket(run_dir);
    let failed = |source| SocketError::Ask {
        path: path.clone(),
        source,
    };
    let mut stream = match ClientStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map_err(failed)?;
    match serde_json::from_slice(&text) {
        Ok(status) => Ok(Some(status)),
        Err(source) => Err(SocketError::Answer { path, source }),
    }
}

/// Whether an error says that nobody listens.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            running: true,
            ready: true,
            node: "node-1".to_owned(),
            ..Status::default()
        }
    }

    /// A socket file with nobody behind it, as a killed agent leaves it.
    fn leave_a_socket(run_dir: &Path) {
        drop(std::os::unix::net::UnixListener::bind(socket(run_dir)).expect("a socket"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_gets_the_status_and_a_second_agent_is_refused() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let run_dir = place.path().join("run");
        let listener = listen(&run_dir).expect("a socket");
        let server = tokio::spawn(serve(listener, Arc::new(status)));
        let asked = run_dir.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&asked)).await;
        let answer = answer.expect("no panic").expect("an answer");
        assert_eq!(answer, Some(status()));
        let error = listen(&run_dir).expect_err("it is taken");
        let text = crate::datapath::chain(&error);
        assert!(text.contains("--run-dir"), "{text}");
        server.abort();
    }

    #[test]
    fn without_an_agent_there_is_no_status() {
        let place = tempfile::tempdir().expect("a temporary directory");
        assert!(ask(place.path()).expect("no error").is_none());
        leave_a_socket(place.path());
        assert!(ask(place.path()).expect("no error").is_none());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let place = tempfile::tempdir().expect("a temporary directory");
        leave_a_socket(place.path());
        assert!(listen(place.path()).is_ok());
    }
}
