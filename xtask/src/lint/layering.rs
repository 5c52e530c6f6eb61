//! Imports go one way: common <- datapath library <- programs; model <- plan <- maps <- reconcile.
//!
//! Owns the rules and their reasons. Invariant: the test modules of a file are held to the direction of imports, but not
//! to purity: they may read fixtures.

use super::{Source, paths::paths};

/// What the files under a directory may not name.
struct Rule {
    /// Files whose path starts with one of these...
    files: &'static [&'static str],
    /// ...but not with one of these...
    except: &'static [&'static str],
    /// ...name no path that starts with one of these.
    forbidden: &'static [&'static str],
    /// Whether test modules are held to it too.
    tests_too: bool,
    /// The reason, for people.
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        files: &["nodeport-common/src/"],
        except: &[],
        forbidden: &["std", "aya", "aya_ebpf", "nodeport_ebpf", "nodeport_agent"],
        tests_too: false,
        because: "the ABI compiles for the kernel and depends on nothing",
    },
    Rule {
        files: &["nodeport-ebpf/src/"],
        except: &[
            "nodeport-ebpf/src/main.rs",
            "nodeport-ebpf/src/kernel/",
            "nodeport-ebpf/src/kernel.rs",
        ],
        forbidden: &[
            "aya_ebpf",
            "aya_log_ebpf",
            "crate::kernel",
            "nodeport_agent",
        ],
        tests_too: true,
        because: "the datapath library knows no kernel: it also runs on the host",
    },
    Rule {
        files: &["nodeport-agent/src/model"],
        except: &[],
        forbidden: &[
            "crate::plan",
            "crate::maps",
            "crate::reconcile",
            "crate::source",
            "crate::datapath",
            "crate::observe",
            "crate::cli",
        ],
        tests_too: true,
        because: "imports go one way: model <- plan <- maps <- reconcile",
    },
    Rule {
        files: &["nodeport-agent/src/plan"],
        except: &[],
        forbidden: &[
            "crate::maps",
            "crate::reconcile",
            "crate::source",
            "crate::datapath",
            "crate::observe",
            "crate::cli",
        ],
        tests_too: true,
        because: "imports go one way: model <- plan <- maps <- reconcile",
    },
    Rule {
        files: &["nodeport-agent/src/maps", "nodeport-agent/src/datapath"],
        except: &[],
        forbidden: &["crate::reconcile", "crate::source", "crate::cli"],
        tests_too: true,
        because: "what works with the kernel knows neither the command line nor where objects come from",
    },
    Rule {
        files: &["nodeport-agent/src/source"],
        except: &[],
        forbidden: &[
            "crate::plan",
            "crate::maps",
            "crate::reconcile",
            "crate::datapath",
            "crate::cli",
        ],
        tests_too: true,
        because: "a source delivers objects and knows nothing of what becomes of them",
    },
    Rule {
        files: &["nodeport-agent/src/model", "nodeport-agent/src/plan"],
        except: &[],
        forbidden: &[
            "tokio",
            "kube",
            "aya",
            "rtnetlink",
            "notify",
            "std::fs",
            "std::process",
            "std::env",
            "std::thread",
            "std::time::Instant",
            "std::time::SystemTime",
            "time::Instant",
            "time::SystemTime",
            "fs",
            "std::net::TcpStream",
            "std::net::UdpSocket",
            "std::net::TcpListener",
        ],
        tests_too: false,
        because: "model and plan are pure: no clock, file, socket, tokio, kube or aya",
    },
    Rule {
        files: &["nodeport-agent/src/"],
        except: &["nodeport-agent/src/source"],
        forbidden: &["kube"],
        tests_too: true,
        because: "only src/source names kube",
    },
    Rule {
        files: &["nodeport-agent/src/"],
        except: &["nodeport-agent/src/datapath"],
        forbidden: &["aya::programs"],
        tests_too: true,
        because: "only src/datapath names aya::programs: its API changes after aya 0.14",
    },
];

/// Every breach of a rule, as a line for people.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for source in sources {
        let rules: Vec<_> = RULES
            .iter()
            .filter(|rule| rule.governs(&source.path))
            .collect();
        if rules.is_empty() {
            continue;
        }
        for named in paths(&source.text, &module_of(&source.path)) {
            for rule in &rules {
                let exempt =
                    !rule.tests_too && (named.in_tests || source.path.ends_with("/tests.rs"));
                if !exempt
                    && rule
                        .forbidden
                        .iter()
                        .any(|path| starts_with(&named.parts, path))
                {
                    let name = named.parts.join("::");
                    breaches.push(format!(
                        "{}:{}: {name}: {}",
                        source.path, named.line, rule.because
                    ));
                }
            }
        }
    }
    breaches
}

impl Rule {
    fn governs(&self, path: &str) -> bool {
        let within = |prefixes: &[&str]| prefixes.iter().any(|prefix| is_under(path, prefix));
        within(self.files) && !within(self.except)
    }
}

/// Whether a file is this one, in this directory, or this module (`src/plan` is `src/plan.rs` and `src/plan/`).
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| {
        rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/') || rest == ".rs"
    })
}

fn starts_with(parts: &[String], path: &str) -> bool {
    let wanted: Vec<_> = path.split("::").collect();
    parts.len() >= wanted.len()
        && parts
            .iter()
            .zip(&wanted)
            .all(|(part, wanted)| part == wanted)
}

/// The module that a file is: `nodeport-agent/src/plan/steps.rs` is `plan::steps`.
fn module_of(path: &str) -> Vec<String> {
    let Some((_, within)) = path.split_once("/src/") else {
        return Vec::new();
    };
    let mut parts: Vec<_> = within
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if parts
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> Vec<String> {
        check(&[Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }])
    }

    #[test]
    fn the_permitted_directions_pass() {
        for (path, text) in [
            (
                "nodeport-agent/src/plan/diff.rs",
                "use crate::model::Desired; use nodeport_common::Backend;",
            ),
            (
                "nodeport-agent/src/maps/memory.rs",
                "use crate::plan::Step; use std::time::Instant;",
            ),
            (
                "nodeport-agent/src/reconcile.rs",
                "use crate::{maps::Store, model, plan}; use tokio::sync::mpsc;",
            ),
            (
                "nodeport-agent/src/datapath/load.rs",
                "use aya::programs::Xdp;",
            ),
            ("nodeport-agent/src/source/kubernetes.rs", "use kube::Api;"),
            (
                "nodeport-agent/src/model/desired.rs",
                "use std::time::Duration; use super::Endpoint;",
            ),
            (
                "nodeport-ebpf/src/kernel/maps.rs",
                "use aya_ebpf::btf_maps::Array;",
            ),
            (
                "nodeport-agent/src/maps/kernel.rs",
                "use aya::maps::HashMap; // aya::programs",
            ),
        ] {
            assert_eq!(breaches(path, text), Vec::<String>::new());
        }
    }

    #[test]
    fn each_forbidden_direction_is_named_with_its_line_and_reason() {
        assert_eq!(
            breaches(
                "nodeport-agent/src/model/desired.rs",
                "\nuse super::super::plan::Step;"
            ),
            [
                "nodeport-agent/src/model/desired.rs:2: crate::plan::Step: imports go one way: model <- plan <- maps <- reconcile"
            ]
        );
        for (path, text) in [
            ("nodeport-agent/src/plan.rs", "use crate::maps::Store;"),
            (
                "nodeport-agent/src/plan/diff.rs",
                "use std::{collections::BTreeMap, time::{Duration, Instant}};",
            ),
            (
                "nodeport-agent/src/plan/diff.rs",
                "fn f() { let _ = std::fs::read(\"x\"); }",
            ),
            (
                "nodeport-agent/src/model/mod.rs",
                "use kube::ResourceExt as _;",
            ),
            (
                "nodeport-agent/src/maps/kernel.rs",
                "use aya::{Ebpf, programs::Xdp};",
            ),
            (
                "nodeport-agent/src/maps/kernel.rs",
                "use crate::reconcile::Loop;",
            ),
            (
                "nodeport-agent/src/source/manifests.rs",
                "use crate::plan::Plan;",
            ),
            (
                "nodeport-agent/src/cli.rs",
                "async fn f(c: kube::Client) {}",
            ),
            (
                "nodeport-ebpf/src/path/ingress.rs",
                "use aya_ebpf::bindings::TC_ACT_OK;",
            ),
            ("nodeport-common/src/flow.rs", "use std::net::Ipv4Addr;"),
        ] {
            assert!(!breaches(path, text).is_empty(), "{path}: {text}");
        }
    }

    #[test]
    fn tests_may_read_files_but_not_import_upwards() {
        let file = "nodeport-agent/src/model/desired.rs";
        assert!(breaches(file, "mod tests { fn f() { std::fs::read(\"x\"); } }").is_empty());
        assert!(!breaches(file, "mod tests { use crate::plan::Plan; }").is_empty());
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another() {
        assert!(breaches("nodeport-agent/src/planning.rs", "use crate::maps::Store;").is_empty());
        assert!(breaches("nodeport-agent/src/cli.rs", "use kube_like::Thing;").is_empty());
    }
}
