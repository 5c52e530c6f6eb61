//! Names for the directories of this machine in what is built, so that the same sources become the same bytes in any of them.
//!
//! Invariant: every directory below which a compiler finds sources or generated files is renamed.

use crate::{build, shell};
use std::{env, path::PathBuf};

/// Directories, and what stands for them. The last one that matches counts: one may lie in another.
fn map() -> Vec<(PathBuf, &'static str)> {
    let home = |variable: &str, directory: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(directory)))
    };
    [
        (Some(shell::root()), "/nodeport"),
        (Some(build::target_directory()), "/nodeport/target"),
        (home("RUSTUP_HOME", ".rustup"), "/rustup"),
        (home("CARGO_HOME", ".cargo"), "/cargo"),
    ]
    .into_iter()
    .filter_map(|(from, to)| from.map(|from| (from, to)))
    .collect()
}

/// Flags for rustc.
pub(crate) fn rust_flags() -> Vec<String> {
    map()
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect()
}

/// Flags for the C and assembler parts of dependencies, separated by blanks.
pub(crate) fn c_flags() -> String {
    map()
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_of_this_machine_have_other_names() {
        let root = shell::root();
        let flags = rust_flags();
        let of_root = format!("--remap-path-prefix={}=/nodeport", root.display());
        assert!(flags.contains(&of_root), "{flags:?}");
        assert!(
            flags.iter().any(|flag| flag.ends_with("=/cargo")),
            "{flags:?}"
        );
        assert!(c_flags().starts_with(&format!("-ffile-prefix-map={}=", root.display())));
    }
}
