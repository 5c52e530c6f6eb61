//! Running other programs, and saying how long each stage took.
//!
//! Owns the words in which a failed command is reported. Refuses to know what any command is for. Invariant: a command
//! that failed is named with its arguments, so that it can be repeated by hand.

use anyhow::{Context as _, Result, bail};
use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The top directory of the work tree.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// The cargo that started this program, or the one on the path, at the top of the work tree.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where a program is: on the path, or in the system directories that an ordinary user's path lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Directory for tools that we build ourselves, outside the work tree so that a fresh clone finds them again.
///
/// `$NODEPORT_CACHE`, else `$XDG_CACHE_HOME/nodeport`, else `~/.cache/nodeport`.
pub(crate) fn cache() -> Result<PathBuf> {
    let given = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    given("NODEPORT_CACHE")
        .or_else(|| given("XDG_CACHE_HOME").map(|base| base.join("nodeport")))
        .or_else(|| given("HOME").map(|home| home.join(".cache/nodeport")))
        .context("none of NODEPORT_CACHE, XDG_CACHE_HOME and HOME is set: there is no place for built tools")
}

/// Whether this process may do what needs root.
pub(crate) fn is_root() -> bool {
    effective_uid() == Some(0)
}

/// The effective user id, from the kernel's own account of this process.
fn effective_uid() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output; its standard error is part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}", output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    line.push_str(&quoted(command.get_program()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Does one stage of a verb, with a line before it and its duration after it.
pub(crate) fn stage<T>(title: &str, task: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let result = task();
    let ending = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("==> {title}: {ending} in {}", seconds(start.elapsed()));
    result
}

/// A duration for people: `0.4 s`, `12.3 s`, `3 min 5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration.as_secs() < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!(
            "{} min {} s",
            duration.as_secs() / 60,
            duration.as_secs() % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_described_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command
            .args(["build", "-Z", "build-std=core", "a b", "it's", ""])
            .env("RUSTC_BOOTSTRAP", "1");
        assert_eq!(
            describe(&command),
            r"RUSTC_BOOTSTRAP=1 cargo build -Z build-std=core 'a b' 'it'\''s' ''"
        );
    }

    #[test]
    fn a_failed_command_is_named_with_what_it_said() {
        let error =
            output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("exit 3") && text.contains("no such thing"),
            "{text}"
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(440)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 5 s");
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("nodeport-ebpf/Cargo.toml").is_file());
    }
}
