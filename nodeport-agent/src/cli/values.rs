//! Values of flags that clap does not know: durations as Go writes them, log levels.
//!
//! Owns their spelling. Refuses to know what they are for. Invariant: a value that parses is usable as it is.

use std::str::FromStr;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

/// What is wrong with a flag's value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a duration.
    #[error("`{0}` is not a duration such as 500ms, 1.5s or 1m30s")]
    Duration(String),
    /// Not a log level.
    #[error("`{0}` is not a log level: use error, warn, info, debug, trace or a number")]
    LogLevel(String),
}

/// A duration in Go's notation, as kube-proxy's flags take it: `0`, `500ms`, `1m30s`, `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl FromStr for GoDuration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parsed = text.parse::<crate::config::GoDuration>().ok();
        let unsigned = parsed.and_then(crate::config::GoDuration::get);
        unsigned
            .map(Self)
            .ok_or_else(|| ValueError::Duration(text.to_owned()))
    }
}

/// A log level, by name or as a klog verbosity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub LevelFilter);

impl LogLevel {
    /// The level that a klog verbosity stands for.
    #[must_use]
    pub const fn of_verbosity(verbosity: u32) -> Self {
        Self(match verbosity {
            0..=2 => LevelFilter::INFO,
            3..=4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }
}

impl FromStr for LogLevel {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let filter = match text.to_ascii_lowercase().as_str() {
            "error" => LevelFilter::ERROR,
            "warn" | "warning" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            number => match number.parse::<u8>() {
                Ok(verbosity) => return Ok(Self::of_verbosity(u32::from(verbosity))),
                Err(_) => return Err(ValueError::LogLevel(text.to_owned())),
            },
        };
        Ok(Self(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let millis = |n| Ok(GoDuration(Duration::from_millis(n)));
        assert_eq!("0".parse(), millis(0));
        assert_eq!("0s".parse(), millis(0));
        assert_eq!("500ms".parse(), millis(500));
        assert_eq!("1.5s".parse(), millis(1500));
        assert_eq!("1m30s".parse(), millis(90_000));
        assert_eq!("1h".parse(), millis(3_600_000));
        for wrong in ["", "1", "s", "-1s", "1 s", "1.5", "1x", "1..5s"] {
            assert!(wrong.parse::<GoDuration>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_levels_are_names_or_klog_verbosities() {
        assert_eq!("info".parse(), Ok(LogLevel(LevelFilter::INFO)));
        assert_eq!("2".parse(), Ok(LogLevel(LevelFilter::INFO)));
        assert_eq!("4".parse(), Ok(LogLevel(LevelFilter::DEBUG)));
        assert_eq!("9".parse(), Ok(LogLevel(LevelFilter::TRACE)));
        assert!("loud".parse::<LogLevel>().is_err());
    }
}
