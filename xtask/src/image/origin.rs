//! Which sources an image is made of: the commit, and the time that stands for "when".

use crate::shell;
use anyhow::{Context as _, Result};
use std::{env, process::Command};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Where an image comes from.
pub(crate) struct Origin {
    /// Seconds since 1970, of `$SOURCE_DATE_EPOCH` or the commit.
    pub(crate) epoch_secs: u64,
    /// The same for people (RFC 3339).
    pub(crate) created: String,
    /// The commit, with `-dirty` behind it if the work tree differs from it.
    pub(crate) revision: String,
}

impl Origin {
    /// Asks git and the environment.
    pub(crate) fn read() -> Result<Self> {
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(given) => given,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        let commit = git(&["rev-parse", "HEAD"])?;
        let is_clean = git(&["status", "--porcelain"])?.is_empty();
        Self::of(&epoch, &commit, is_clean)
    }

    fn of(epoch: &str, commit: &str, is_clean: bool) -> Result<Self> {
        let epoch_secs: u64 = epoch.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH or the commit's time: {epoch:?} is no number of seconds")
        })?;
        let when = OffsetDateTime::from_unix_timestamp(i64::try_from(epoch_secs)?)?;
        Ok(Self {
            epoch_secs,
            created: when.format(&Rfc3339)?,
            revision: format!("{commit}{}", if is_clean { "" } else { "-dirty" }),
        })
    }
}

fn git(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(shell::root());
    let text = shell::output(&mut command).context(
        "an image names the commit that it is made of: build it in a clone of the repository",
    )?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
impl Origin {
    /// A fixed one.
    pub(crate) fn example() -> Self {
        Self::of("1700000000", "0123abc", true).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_commit_and_changes_are_told_of() {
        let origin = Origin::example();
        assert_eq!(origin.created, "2023-11-14T22:13:20Z");
        assert_eq!(origin.revision, "0123abc");
        let dirty = Origin::of("0", "0123abc", false).unwrap();
        assert_eq!(dirty.revision, "0123abc-dirty");
        assert!(Origin::of("yesterday", "0123abc", true).is_err());
    }
}
