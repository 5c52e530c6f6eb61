//! Log lines of the programs in the kernel: forwarded to our log, if they were switched on at load time.
//!
//! Owns the ring buffer that they come through. Refuses to know what they say. Invariant: without them there is no buffer and no
//! task, and the programs do not even test for them.

use std::time::Duration;

use aya_log::EbpfLogger;

use super::config::DatapathLog;
use super::error::DatapathError;
use super::load::{Loaded, Programs};

/// How often the buffer is emptied. Lines are for people, who do not mind.
const PERIOD: Duration = Duration::from_millis(100);

/// A stream of log lines.
pub struct LogLines {
    logger: EbpfLogger<Forward>,
}

/// Hands records of the `log` crate to `tracing`. Their target is `nodeport`, whichever module of the programs they come from.
#[derive(Clone, Copy, Debug)]
struct Forward;

impl Loaded {
    /// The programs' log lines. `None` if they are off.
    ///
    /// # Errors
    /// [`DatapathError::ObjectLacks`] if the object was built without log lines.
    pub fn log_lines(&mut self, log: DatapathLog) -> Result<Option<LogLines>, DatapathError> {
        if log == DatapathLog::Off {
            return Ok(None);
        }
        let lacks = DatapathError::ObjectLacks {
            what: "log buffer",
            name: "AYA_LOGS",
        };
        // With log lines no program is an earlier agent's.
        let Programs::New(ebpf) = &mut self.programs else {
            return Err(lacks);
        };
        match EbpfLogger::init_with_logger(ebpf, Forward) {
            Ok(logger) => Ok(Some(LogLines { logger })),
            Err(_) => Err(lacks),
        }
    }
}

impl LogLines {
    /// Forwards lines until it is dropped.
    pub async fn forward(mut self) {
        loop {
            self.logger.flush();
            tokio::time::sleep(PERIOD).await;
        }
    }
}

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args();
        let from = record.target();
        match record.level() {
            log::Level::Error => tracing::error!(target: "nodeport", from, "{line}"),
            log::Level::Warn => tracing::warn!(target: "nodeport", from, "{line}"),
            log::Level::Info => tracing::info!(target: "nodeport", from, "{line}"),
            log::Level::Debug => tracing::debug!(target: "nodeport", from, "{line}"),
            log::Level::Trace => tracing::trace!(target: "nodeport", from, "{line}"),
        }
    }

    fn flush(&self) {}
}
