//! The paths that a source file names: imports with their groups written out, and paths in expressions and types.
//!
//! Invariant: a path that starts with `self` or `super` comes out as one that starts with `crate`.

use super::tokens::{Token, tokens};

/// A path that a file names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Line, from 1.
    pub(super) line: usize,
    /// Its parts: `crate`, `plan`, `Step`.
    pub(super) parts: Vec<String>,
    /// Whether it stands in a module named `tests`.
    pub(super) in_tests: bool,
}

/// The paths of a file that is the module `module` of its crate (empty for the crate's root).
///
/// Single words are no paths: without `::` they name something that is imported or defined here.
pub(super) fn paths(source: &str, module: &[String]) -> Vec<Named> {
    let tokens = tokens(source);
    let mut reader = Reader {
        tokens: &tokens,
        modules: module.to_vec(),
        depth: 0,
        opened: Vec::new(),
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    /// Path of the module that is being read.
    modules: Vec<String>,
    depth: usize,
    /// The depths at which inline modules opened.
    opened: Vec<usize>,
    found: Vec<Named>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn read(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            match self.text(at) {
                "{" => self.depth += 1,
                "}" => self.close(),
                "mod" if self.text(at + 2) == "{" => {
                    self.modules.push(self.text(at + 1).to_owned());
                    self.opened.push(self.depth);
                }
                "use" => {
                    at = self.tree(at + 1, &[]);
                    continue;
                }
                text if is_name(text) && self.text(at + 1) == "::" => {
                    at = self.tree(at, &[]);
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.opened.last() == Some(&self.depth) {
            self.opened.pop();
            self.modules.pop();
        }
    }

    /// Reads a path, or a tree of an import, after `prefix`; returns where it ends.
    fn tree(&mut self, mut at: usize, prefix: &[String]) -> usize {
        let mut parts = prefix.to_vec();
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        if self.text(at) == "::" {
            at += 1;
        }
        loop {
            let text = self.text(at);
            if text == "{" {
                return self.group(at + 1, &parts);
            }
            if is_name(text) || text == "*" {
                parts.push(text.to_owned());
                at += 1;
            }
            if self.text(at) != "::" || !continues(self.text(at + 1)) {
                break;
            }
            at += 1;
        }
        self.push(line, &parts);
        at.max(1)
    }

    /// Reads the members of `{ ... }`, the brace being already passed.
    fn group(&mut self, mut at: usize, prefix: &[String]) -> usize {
        while at < self.tokens.len() {
            match self.text(at) {
                "}" => return at + 1,
                "," => at += 1,
                "as" => at += 2,
                _ => {
                    let next = self.tree(at, prefix);
                    at = next.max(at + 1);
                }
            }
        }
        at
    }

    fn push(&mut self, line: usize, parts: &[String]) {
        let mut absolute = match parts.first().map(String::as_str) {
            Some("self" | "super") => [&["crate".to_owned()], self.modules.as_slice()].concat(),
            _ => Vec::new(),
        };
        for part in parts {
            match part.as_str() {
                "self" => {}
                "super" => {
                    absolute.pop();
                }
                _ => absolute.push(part.clone()),
            }
        }
        if absolute.len() > 1 || parts.len() > 1 || parts.first().is_some_and(|part| part != "self")
        {
            self.found.push(Named {
                line,
                parts: absolute,
                in_tests: self.modules.iter().any(|module| module == "tests"),
            });
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Whether a path goes on after `::` (and not with generic arguments).
fn continues(text: &str) -> bool {
    is_name(text) || text == "{" || text == "*"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<_> = module.iter().map(|&part| part.to_owned()).collect();
        paths(source, &module)
            .iter()
            .map(|named| named.parts.join("::"))
            .collect()
    }

    #[test]
    fn groups_are_written_out() {
        assert_eq!(
            named(
                "use crate::{model, plan::{Step, Plan as P}, maps::*};\nuse std::fs;",
                &[]
            ),
            [
                "crate::model",
                "crate::plan::Step",
                "crate::plan::Plan",
                "crate::maps::*",
                "std::fs"
            ]
        );
    }

    #[test]
    fn paths_in_code_are_found() {
        assert_eq!(
            named(
                "fn f() -> io::Result<()> { let t = std::time::Instant::now(); g::<kube::Api<X>>() }",
                &[]
            ),
            ["io::Result", "std::time::Instant::now", "g", "kube::Api"]
        );
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert_eq!(
            named(
                "use super::desired::Set; use super::super::maps; use self::a::B;",
                &["plan", "steps"]
            ),
            [
                "crate::plan::desired::Set",
                "crate::maps",
                "crate::plan::steps::a::B"
            ]
        );
    }

    #[test]
    fn a_module_within_the_file_counts() {
        let source = "fn a() { {} } mod tests { use super::x::Y; fn b() {} } use super::Z;";
        assert_eq!(named(source, &["plan"]), ["crate::plan::x::Y", "crate::Z"]);
        assert!(paths(source, &[])[0].in_tests);
        assert!(!paths(source, &[])[1].in_tests);
    }

    #[test]
    fn an_imported_crate_is_a_path() {
        assert_eq!(named("use kube;", &[]), ["kube"]);
        assert_eq!(named("extern crate aya; kube", &[]), Vec::<String>::new());
    }
}
