//! Counting what test programs report.
//!
//! Invariant: only the closing line of a test program counts; a test that prints something like it is not counted,
//! because such a line would have to begin with `test result:`.

use std::fmt;

/// Tests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl Summary {
    /// Adds the numbers of a line such as `test result: ok. 20 passed; 0 failed; 1 ignored; ...`, if it is one.
    pub(super) fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed") => self.failed += count,
                Some("ignored") => self.skipped += count,
                _ => {}
            }
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The integration tests of all packages, as package and target, from `cargo metadata`.
pub(super) fn test_targets(metadata: &serde_json::Value) -> Vec<(String, String)> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            let is_test = list(&target["kind"]).iter().any(|kind| kind == "test");
            if let (true, Some(package), Some(target)) =
                (is_test, package["name"].as_str(), target["name"].as_str())
            {
                found.push((package.to_owned(), target.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let mut summary = Summary::default();
        for line in [
            "running 3 tests\n",
            "test a ... ok\n",
            "test result: ok. 20 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.03s\n",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n",
            "the test result: ok. 5 passed; 0 failed\n",
            "test result: unknown\n",
        ] {
            summary.read(line);
        }
        let expected = Summary {
            passed: 21,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(summary, expected);
        assert_eq!(summary.to_string(), "21 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn only_test_targets_are_found() {
        let metadata = serde_json::json!({ "packages": [
            { "name": "nodeport-tests", "targets": [
                { "name": "nodeport_tests", "kind": ["lib"] },
                { "name": "network", "kind": ["test"] },
            ] },
            { "name": "other", "targets": [{ "name": "oracle", "kind": ["test"] }, { "name": "b", "kind": ["bench"] }] },
        ] });
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            test_targets(&metadata),
            [pair("nodeport-tests", "network"), pair("other", "oracle")]
        );
    }
}
