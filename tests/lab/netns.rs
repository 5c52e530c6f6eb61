//! Network namespaces by name, and running things inside them.
//!
//! Knows nothing of labs. Invariant: only a thread made for the purpose changes its namespace, never the caller's.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with a name under `/run/netns`.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
    cgroup: Option<PathBuf>,
}

impl Netns {
    /// Opens a namespace that exists.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new("/run/netns").join(name);
        let file =
            File::open(&path).with_context(|| format!("open namespace {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
            cgroup: None,
        })
    }

    /// The same, with commands also inside a cgroup (their sockets belong to it then). What [`Netns::run`] does stays outside.
    #[must_use]
    pub fn in_cgroup(&self, cgroup: &Path) -> Self {
        Self {
            cgroup: Some(cgroup.to_owned()),
            ..self.clone()
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path, for `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets that it makes and processes that it starts stay there.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good: for threads that were made to stay there.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter namespace {}", self.name))
    }

    /// Runs a command inside and returns its output, whatever its exit status.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let name = command.get_program().to_os_string();
        let mut inside = self.wrapped(command);
        let command = inside.as_mut().unwrap_or(command);
        self.run(|| command.stdin(Stdio::null()).output())?
            .with_context(|| format!("run {} in {}", name.display(), self.name))
    }

    /// What is started in the place of a command, if there is a cgroup to be entered first.
    pub(crate) fn wrapped(&self, command: &Command) -> Option<Command> {
        Some(wrapped(command, self.cgroup.as_deref()?))
    }

    /// Runs a command line (words separated by blanks, no quoting) and returns what it printed.
    ///
    /// # Errors
    /// If it cannot be started or fails; the error has what it wrote to standard error.
    pub fn sh(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("empty command")?;
        let output = self.output(Command::new(program).args(words))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("in {}: {line}: {}", self.name, error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Feeds lines to one `ip -batch` inside the namespace.
    ///
    /// # Errors
    /// If a line fails.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        self.run(|| ip_batch(lines))?
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Writes settings below `/proc/sys`, named with slashes. A setting that does not exist is skipped if it begins with `?`.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn sysctl(&self, settings: &[(String, String)]) -> Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let (name, optional) = match name.strip_prefix('?') {
                    Some(name) => (name, true),
                    None => (name.as_str(), false),
                };
                let path = Path::new("/proc/sys").join(name);
                if optional && !path.exists() {
                    continue;
                }
                std::fs::write(&path, value).with_context(|| {
                    format!("in {}: write {value} to {}", self.name, path.display())
                })?;
            }
            Ok(())
        })?
    }
}

/// A command that enters a cgroup and then becomes the given one. (A child cannot be started in a cgroup without `unsafe`.)
fn wrapped(command: &Command, cgroup: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(cgroup.join("cgroup.procs"))
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Feeds lines to one `ip -batch` in the caller's namespace.
///
/// # Errors
/// If a line fails; the error has `ip`'s message and that line.
pub fn ip_batch(lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip")?;
    let mut text = lines.join("\n");
    text.push('\n');
    // A failing `ip` closes its end early: its own message says more than the broken pipe.
    let written = child
        .stdin
        .take()
        .context("ip's standard input")?
        .write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        let line = error
            .rsplit("-:")
            .next()
            .and_then(|n| n.trim().parse::<usize>().ok())
            .and_then(|n| lines.get(n.checked_sub(1)?));
        bail!(
            "ip {}: {}",
            line.map_or("-batch", String::as_str),
            error.trim()
        );
    }
    written.context("write to ip")
}
