//! Where `unsafe` may stand, and how often.
//!
//! Invariant: the datapath library has none, and says so to the compiler; the rim and the agent stay within their budget.

use super::{Source, tokens::tokens};
use crate::budget::Budget;

/// The parts of the tree that are counted: name in the budget, and the paths that belong to it.
const PARTS: &[(&str, &[&str])] = &[
    (
        "unsafe.rim",
        &["nodeport-ebpf/src/main.rs", "nodeport-ebpf/src/kernel"],
    ),
    ("unsafe.agent", &["nodeport-agent/src/"]),
    ("unsafe.bench", &["nodeport-ebpf/bench/"]),
    ("unsafe.tests", &["tests/", "xtask/"]),
];

/// Crates without any, whose root forbids it.
const SAFE_ROOTS: &[&str] = &["nodeport-common/src/lib.rs", "nodeport-ebpf/src/lib.rs"];

/// What was counted, as lines for people, and the breaches.
pub(super) fn check(sources: &[Source], budget: &Budget) -> (Vec<String>, Vec<String>) {
    let mut counted = Vec::new();
    let mut breaches = Vec::new();
    for (name, paths) in PARTS {
        let within = |source: &&Source| paths.iter().any(|path| source.path.starts_with(path));
        let count: usize = sources
            .iter()
            .filter(within)
            .map(|source| blocks(&source.text))
            .sum();
        match budget.get(name) {
            Some(bound) if count as u64 <= bound => {
                counted.push(format!("{name}: {count} blocks (at most {bound})"));
            }
            Some(bound) => breaches.push(format!(
                "{name}: {count} unsafe blocks; at most {bound} by xtask/budget.toml"
            )),
            None => breaches.push(format!(
                "{name}: {count} unsafe blocks, and no bound in xtask/budget.toml"
            )),
        }
    }
    for source in sources {
        let counted_elsewhere = PARTS
            .iter()
            .any(|(_, paths)| paths.iter().any(|path| source.path.starts_with(path)));
        if !counted_elsewhere && words(&source.text) > 0 {
            breaches.push(format!("{}: unsafe outside of the rim", source.path));
        }
        if SAFE_ROOTS.contains(&source.path.as_str())
            && !source.text.contains("#![forbid(unsafe_code)]")
        {
            breaches.push(format!("{}: lacks #![forbid(unsafe_code)]", source.path));
        }
    }
    (counted, breaches)
}

/// Blocks and implementations: what a person has to argue for.
fn blocks(text: &str) -> usize {
    tokens(text)
        .windows(2)
        .filter(|pair| pair[0].text == "unsafe" && ["{", "impl"].contains(&pair[1].text))
        .count()
}

/// Every use of the word, attributes such as `#[unsafe(no_mangle)]` included.
fn words(text: &str) -> usize {
    tokens(text)
        .iter()
        .filter(|token| token.text == "unsafe")
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: (&str, &str) = ("nodeport-ebpf/src/lib.rs", "#![forbid(unsafe_code)]");
    const COMMON: (&str, &str) = ("nodeport-common/src/lib.rs", "#![forbid(unsafe_code)]");

    fn run(files: &[(&str, &str)], budget: &str) -> (Vec<String>, Vec<String>) {
        let sources: Vec<_> = files
            .iter()
            .map(|(path, text)| Source {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        check(&sources, &budget.parse().expect("a budget"))
    }

    #[test]
    fn blocks_of_the_rim_are_counted_and_bounded() {
        let rim = (
            "nodeport-ebpf/src/kernel/packet.rs",
            "fn f() { unsafe { g() } } unsafe impl Sync for X {} // unsafe {",
        );
        let budget = "unsafe.rim = 2\nunsafe.agent = 0\nunsafe.bench = 0\nunsafe.tests = 0\n";
        let (counted, breaches) = run(&[LIB, COMMON, rim], budget);
        assert_eq!(breaches, Vec::<String>::new());
        assert_eq!(counted[0], "unsafe.rim: 2 blocks (at most 2)");
        let (_, breaches) = run(&[LIB, COMMON, rim], &budget.replace("rim = 2", "rim = 1"));
        assert_eq!(
            breaches,
            ["unsafe.rim: 2 unsafe blocks; at most 1 by xtask/budget.toml"]
        );
    }

    #[test]
    fn the_library_has_none_and_forbids_it() {
        let budget = "unsafe.rim = 0\nunsafe.agent = 0\nunsafe.bench = 0\nunsafe.tests = 0\n";
        let path = (
            "nodeport-ebpf/src/path/ingress.rs",
            "#[unsafe(no_mangle)] fn f() {}",
        );
        let (_, breaches) = run(&[("nodeport-ebpf/src/lib.rs", ""), COMMON, path], budget);
        assert_eq!(
            breaches,
            [
                "nodeport-ebpf/src/lib.rs: lacks #![forbid(unsafe_code)]",
                "nodeport-ebpf/src/path/ingress.rs: unsafe outside of the rim"
            ]
        );
    }

    #[test]
    fn a_missing_bound_is_a_breach() {
        let (_, breaches) = run(
            &[LIB, COMMON],
            "unsafe.rim = 0\nunsafe.bench = 0\nunsafe.tests = 0\n",
        );
        assert_eq!(
            breaches,
            ["unsafe.agent: 0 unsafe blocks, and no bound in xtask/budget.toml"]
        );
    }
}
