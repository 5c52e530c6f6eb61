//! The size of files and functions, and that each file says what it owns.

use super::{
    Source,
    tokens::{Token, tokens},
};

/// Lines of a file, at most.
const FILE_LINES: usize = 400;

/// Lines of a function, at most, from `fn` to its closing brace.
const FUNCTION_LINES: usize = 60;

/// Every file that is too long or has too long a function, or does not begin with its documentation.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for Source { path, text } in sources {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            breaches.push(format!("{path}: {lines} lines; at most {FILE_LINES}"));
        }
        if !text.starts_with("//!") {
            breaches.push(format!(
                "{path}: does not begin with `//!` and what the file owns"
            ));
        }
        for (name, line, lines) in functions(&tokens(text)) {
            if lines > FUNCTION_LINES {
                breaches.push(format!(
                    "{path}:{line}: fn {name}: {lines} lines; at most {FUNCTION_LINES}"
                ));
            }
        }
    }
    breaches
}

/// Name, line and number of lines of each function with a body.
fn functions<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, usize, usize)> {
    let mut found = Vec::new();
    for (at, window) in tokens.windows(2).enumerate() {
        let [keyword, name] = window else { continue };
        let is_name = name
            .text
            .starts_with(|c: char| c.is_alphabetic() || c == '_');
        if keyword.text != "fn" || !is_name {
            continue;
        }
        if let Some(end) = end_of_body(&tokens[at + 2..]) {
            found.push((name.text, keyword.line, end - keyword.line + 1));
        }
    }
    found
}

/// The line of the brace that closes the first body, if there is one before a `;` outside of brackets.
fn end_of_body(tokens: &[Token<'_>]) -> Option<usize> {
    let mut braces = 0_usize;
    let mut brackets = 0_usize;
    for token in tokens {
        match token.text {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets = brackets.saturating_sub(1),
            ";" if braces == 0 && brackets == 0 => return None,
            // A brace within the parameters is a constant of a type, such as `[u8; { N + 1 }]`.
            "{" if braces > 0 || brackets == 0 => braces += 1,
            "}" if braces > 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: String) -> Source {
        Source {
            path: "a.rs".to_owned(),
            text,
        }
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_brace() {
        let text = "trait T { fn a(&self); }\nfn b<const N: usize>(x: [u8; 3]) -> u8\n{\n    if true { 1 } else { 2 }\n}\n";
        assert_eq!(functions(&tokens(text)), [("b", 2, 4)]);
    }

    #[test]
    fn a_function_type_is_no_function() {
        assert_eq!(
            functions(&tokens("type F = fn(u8) -> u8; const X: fn() = y;")),
            []
        );
    }

    #[test]
    fn limits_are_inclusive() {
        let body =
            |lines: usize| format!("//! A.\nfn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
        assert_eq!(check(&[source(body(60))]), Vec::<String>::new());
        assert_eq!(
            check(&[source(body(61))]),
            ["a.rs:2: fn f: 61 lines; at most 60"]
        );
        let file = |lines: usize| format!("//! A.\n{}", "\n".repeat(lines - 1));
        assert_eq!(check(&[source(file(400))]), Vec::<String>::new());
        assert_eq!(
            check(&[source(file(401))]),
            ["a.rs: 401 lines; at most 400"]
        );
    }

    #[test]
    fn a_file_begins_with_its_documentation() {
        assert_eq!(check(&[source("use a;\n".to_owned())]).len(), 1);
    }
}
