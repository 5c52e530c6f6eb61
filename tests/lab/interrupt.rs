//! What SIGINT, SIGTERM and SIGHUP do to a process that has labs: remove them, then end.
//!
//! Invariant: a lab in the list is removed exactly once, by its drop or here.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::record::{Cleaned, undo};

/// Run directories of this process's labs, and whether someone waits for a signal or one came.
#[derive(Default)]
struct State {
    labs: Vec<PathBuf>,
    waiting: bool,
    signalled: bool,
}

static STATE: Mutex<State> = Mutex::new(State {
    labs: Vec::new(),
    waiting: false,
    signalled: false,
});
static CAME: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has this lab removed on a signal.
pub(crate) fn watch(dir: &Path) -> Result<()> {
    static HANDLER: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let installed = HANDLER.get_or_init(|| handle().map_err(|e| e.to_string()));
    installed
        .clone()
        .map_err(anyhow::Error::msg)
        .context("handle signals")?;
    state().labs.push(dir.to_owned());
    Ok(())
}

/// The lab is removed in the usual way.
pub(crate) fn forget(dir: &Path) {
    state().labs.retain(|lab| lab != dir);
}

/// Waits for a signal; the process goes on after it, and drops its labs itself. A second signal ends it.
pub fn wait() {
    let mut guard = state();
    guard.waiting = true;
    while !guard.signalled {
        guard = CAME.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    guard.waiting = false;
}

fn handle() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let mut guard = state();
                if guard.waiting && !guard.signalled {
                    guard.signalled = true;
                    CAME.notify_all();
                    continue;
                }
                let labs = std::mem::take(&mut guard.labs);
                // The lock stays taken, so that no lab is made or dropped while the process ends.
                for lab in &labs {
                    if let Err(error) = undo(lab, &mut Cleaned::default()) {
                        crate::lab::not_removed(&error);
                    }
                }
                std::process::exit(128 + signal);
            }
        })?;
    Ok(())
}
