//! The socket that `status` and `dump` ask: `<run-dir>/agent.sock`.
//!
//! Owns the socket and its one exchange: a client writes one line, the name of its question, and gets one JSON document. Invariant:
//! a client that does not write or read costs one task for a moment, never the agent.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as ClientStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest line that a client may write, in bytes.
const LINE: u64 = 64;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A [`Status`](super::Status).
    Status,
    /// [`Names`](super::contents::Names) of service ports.
    Names,
}

impl Question {
    const ALL: [Self; 2] = [Self::Status, Self::Names];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Names => "names",
        }
    }
}

/// Answers a question with a JSON document. Called on a thread that may block.
pub type Answers = Arc<dyn Fn(Question) -> serde_json::Result<Vec<u8>> + Send + Sync>;

/// What goes wrong between `status` and the agent.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The socket cannot be made.
    #[error("cannot serve on {path}")]
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
    /// The answer is not what was asked for.
    #[error("the agent at {path} gave an answer that cannot be read")]
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

/// Answers every client. Ends only when it is dropped.
pub async fn serve(listener: UnixListener, answers: Answers) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(PATIENCE, answer(stream, answers)).await {
                        tracing::debug!(%error, "a client of the socket went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client of the socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, answers: Answers) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LINE))
        .read_line(&mut line)
        .await?;
    let asked = Question::ALL
        .into_iter()
        .find(|question| question.name() == line.trim_end());
    let Some(question) = asked else {
        return Err(io::Error::other("an unknown question"));
    };
    let answer = tokio::task::spawn_blocking(move || answers(question)).await??;
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Asks the agent. `None` if none runs.
///
/// # Errors
/// [`SocketError::Ask`] if it does not answer, [`SocketError::Answer`] if the answer cannot be read.
pub fn ask<T: DeserializeOwned>(
    run_dir: &Path,
    question: Question,
) -> Result<Option<T>, SocketError> {
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
    let line = format!("{}\n", question.name());
    stream.write_all(line.as_bytes()).map_err(failed)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).map_err(failed)?;
    match serde_json::from_slice(&text) {
        Ok(answer) => Ok(Some(answer)),
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
    use crate::observe::Status;

    fn answers(question: Question) -> serde_json::Result<Vec<u8>> {
        match question {
            Question::Status => serde_json::to_vec(&Status {
                node: "node-1".to_owned(),
                ..Status::default()
            }),
            Question::Names => serde_json::to_vec(&[1, 2]),
        }
    }

    /// A socket file with nobody behind it, as a killed agent leaves it.
    fn leave_a_socket(run_dir: &Path) {
        drop(std::os::unix::net::UnixListener::bind(socket(run_dir)).expect("a socket"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_gets_what_it_asks_for_and_a_second_agent_is_refused() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let run_dir = place.path().join("run");
        let listener = listen(&run_dir).expect("a socket");
        let server = tokio::spawn(serve(listener, Arc::new(answers)));
        let asked = run_dir.clone();
        let asking = tokio::task::spawn_blocking(move || {
            let status: Option<Status> = ask(&asked, Question::Status).expect("an answer");
            let names: Option<Vec<u8>> = ask(&asked, Question::Names).expect("an answer");
            let wrong = ask::<Status>(&asked, Question::Names);
            assert!(matches!(wrong, Err(SocketError::Answer { .. })));
            (status.expect("it runs").node, names.expect("it runs"))
        });
        let answer = asking.await.expect("no panic");
        assert_eq!(answer, ("node-1".to_owned(), vec![1, 2]));
        let error = listen(&run_dir).expect_err("it is taken");
        let text = crate::datapath::chain(&error);
        assert!(text.contains("--run-dir"), "{text}");
        server.abort();
    }

    fn nobody(run_dir: &Path) -> bool {
        ask::<Status>(run_dir, Question::Status)
            .expect("no error")
            .is_none()
    }

    #[test]
    fn without_an_agent_there_is_no_status() {
        let place = tempfile::tempdir().expect("a temporary directory");
        assert!(nobody(place.path()));
        leave_a_socket(place.path());
        assert!(nobody(place.path()));
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_agent_is_replaced() {
        let place = tempfile::tempdir().expect("a temporary directory");
        leave_a_socket(place.path());
        assert!(listen(place.path()).is_ok());
    }
}
