//! Durations as Go writes them: in KubeProxyConfiguration, in flags, and in what the agent shows of its configuration.
//!
//! Owns their spelling. Refuses to know what they are for. Invariant: what is written reads back as the same duration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

const NANOS: i64 = 1_000_000_000;

/// A duration that may be negative, in nanoseconds: `0s`, `500ms`, `1m30s`, `-1.5h`. Negative ones are read so that whoever
/// wrote one is told which field it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

/// Text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 500ms, 1.5s or 1m30s")]
pub struct NotADuration(String);

impl GoDuration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds as i64 * NANOS)
    }

    /// As an unsigned duration; `None` if it is negative.
    #[must_use]
    pub fn get(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is zero: Go's configuration cannot tell it from a field that is not there.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl FromStr for GoDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let wrong = || NotADuration(text.to_owned());
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if unsigned == "0" {
            return Ok(Self::ZERO);
        }
        let mut rest = unsigned;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .filter(|&end| end > 0)
                .ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit_len = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let seconds = number.parse::<f64>().map_err(|_| wrong())?
                * unit_seconds(unit).ok_or_else(wrong)?;
            let part = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
            total = total.checked_add(part).ok_or_else(wrong)?;
            rest = tail;
        }
        if unsigned.is_empty() {
            return Err(wrong());
        }
        let nanos = i64::try_from(total.as_nanos()).map_err(|_| wrong())?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

/// Seconds in one of a Go unit.
fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let (unit, name) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (NANOS.unsigned_abs(), "s"),
        };
        if name == "s" {
            let (hours, minutes) = (nanos / unit / 3600, nanos / unit / 60 % 60);
            if hours > 0 {
                write!(f, "{hours}h")?;
            }
            if hours > 0 || minutes > 0 {
                write!(f, "{minutes}m")?;
            }
            return decimal(f, nanos % (60 * unit), unit, name);
        }
        decimal(f, nanos, unit, name)
    }
}

/// A number of a unit, with as many decimals as it has.
fn decimal(f: &mut fmt::Formatter<'_>, nanos: u64, unit: u64, name: &str) -> fmt::Result {
    write!(f, "{}", nanos / unit)?;
    let rest = nanos % unit;
    if rest > 0 {
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for text in [
            "0s",
            "1ns",
            "1.5µs",
            "2ms",
            "500ms",
            "1s",
            "1.5s",
            "30s",
            "1m0s",
            "15m0s",
            "1h0m0s",
            "24h0m0s",
            "2h22m0.25s",
            "-1s",
        ] {
            let read: GoDuration = text.parse().expect(text);
            assert_eq!(read.to_string(), text);
        }
        let read: GoDuration = "90m".parse().expect("a duration");
        assert_eq!(read.to_string(), "1h30m0s");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_text() {
        for wrong in ["", "-", "1", "s", "1 s", "1.5", "1x", "1..5s", "9999999h"] {
            let error = wrong.parse::<GoDuration>().expect_err(wrong);
            assert!(error.to_string().contains(&format!("{wrong:?}")));
        }
        assert_eq!("0".parse(), Ok(GoDuration::ZERO));
        assert_eq!("-1s".parse::<GoDuration>().map(GoDuration::get), Ok(None));
    }
}
