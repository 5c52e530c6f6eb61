//! The bounds that the tree is held to: `xtask/budget.toml`.
//!
//! Read as lines of `name = number`, which is a subset of TOML, with `#` comments. Invariant: what cannot be read is an
//! error, never a missing bound.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::{collections::BTreeMap, fs, str::FromStr};

/// Bounds by name.
#[derive(Debug, Default)]
pub(crate) struct Budget(BTreeMap<String, u64>);

impl Budget {
    /// The committed bounds.
    pub(crate) fn read() -> Result<Self> {
        let path = shell::root().join("xtask/budget.toml");
        fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .parse()
    }

    /// A bound by name.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// The names of all bounds.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl FromStr for Budget {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bounds = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let code = line.split('#').next().unwrap_or_default().trim();
            if code.is_empty() {
                continue;
            }
            let (name, value) = code.split_once('=').with_context(|| {
                format!("budget.toml, line {}: not `name = number`", number + 1)
            })?;
            let value = value.trim().replace('_', "").parse().with_context(|| {
                format!(
                    "budget.toml, line {}: `{}` is no number",
                    number + 1,
                    value.trim()
                )
            })?;
            if bounds.insert(name.trim().to_owned(), value).is_some() {
                bail!(
                    "budget.toml, line {}: {} is given twice",
                    number + 1,
                    name.trim()
                );
            }
        }
        Ok(Self(bounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_with_comments_and_separators() {
        let budget: Budget =
            "# why\nunsafe.rim = 40 # blocks\n\nnodeport_xdp.instructions = 100_000\n"
                .parse()
                .unwrap();
        assert_eq!(budget.get("unsafe.rim"), Some(40));
        assert_eq!(budget.get("nodeport_xdp.instructions"), Some(100_000));
        assert_eq!(budget.get("other"), None);
    }

    #[test]
    fn what_cannot_be_read_is_named_by_line() {
        for (text, error) in [
            ("a = 1\nb = x", "budget.toml, line 2: `x` is no number"),
            ("a", "budget.toml, line 1: not `name = number`"),
            ("a = 1\na = 2", "budget.toml, line 2: a is given twice"),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap_err().to_string(), error);
        }
    }
}
