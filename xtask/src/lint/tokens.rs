//! Rust source as a row of words, for the checks that need no more than that.
//!
//! Owns what is code and what is a comment, a string or a character. Refuses to know the grammar. Invariant: no word of a
//! comment or of a literal comes out as code, and each token knows its line.

/// A word, or one character of punctuation (`::` is one token).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    /// As it stands in the source.
    pub(super) text: &'a str,
    /// Line, from 1.
    pub(super) line: usize,
}

/// The tokens of a file.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut scanner = Scanner {
        source,
        at: 0,
        line: 1,
    };
    let mut found = Vec::new();
    while let Some(c) = scanner.peek() {
        let (start, line) = (scanner.at, scanner.line);
        if scanner.skip_comment() || scanner.skip_literal() {
            continue;
        }
        if is_word(c) {
            scanner.skip_while(is_word);
        } else if scanner.rest().starts_with("::") {
            scanner.skip(2);
        } else {
            scanner.skip(c.len_utf8());
            if c.is_whitespace() {
                continue;
            }
        }
        found.push(Token {
            text: &source[start..scanner.at],
            line,
        });
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Scanner<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        let end = (self.at + bytes).min(self.source.len());
        self.line += self.source[self.at..end].matches('\n').count();
        self.at = end;
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.skip(rest.find(|c| !wanted(c)).unwrap_or(rest.len()));
    }

    /// Up to and including the first occurrence, or to the end.
    fn skip_past(&mut self, end: &str) {
        let rest = self.rest();
        self.skip(rest.find(end).map_or(rest.len(), |at| at + end.len()));
    }

    fn skip_comment(&mut self) -> bool {
        if self.rest().starts_with("//") {
            self.skip_while(|c| c != '\n');
            return true;
        }
        if !self.rest().starts_with("/*") {
            return false;
        }
        let mut depth = 0;
        while !self.rest().is_empty() {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    break;
                }
            } else {
                self.skip(self.peek().map_or(1, char::len_utf8));
            }
        }
        true
    }

    /// Strings (plain, byte, C, raw) and characters; a lifetime is no literal.
    fn skip_literal(&mut self) -> bool {
        let rest = self.rest();
        let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
            rest.starts_with(prefix) && rest[prefix.len()..].starts_with(['"', '#', '\''])
        });
        let Some(prefix) = prefix else { return false };
        let body = &rest[prefix.len()..];
        let hashes = body.len() - body.trim_start_matches('#').len();
        if prefix.ends_with('r') && body[hashes..].starts_with('"') {
            self.skip(prefix.len() + hashes + 1);
            self.skip_past(&format!("\"{}", "#".repeat(hashes)));
            return true;
        }
        match body.chars().next() {
            Some('"') => self.skip_quoted(prefix.len(), '"'),
            Some('\'') if is_character(body) => self.skip_quoted(prefix.len(), '\''),
            _ => return false,
        }
        true
    }

    fn skip_quoted(&mut self, prefix: usize, quote: char) {
        self.skip(prefix + 1);
        while let Some(c) = self.peek() {
            self.skip(c.len_utf8());
            if c == '\\' {
                self.skip(self.peek().map_or(0, char::len_utf8));
            } else if c == quote {
                break;
            }
        }
    }
}

/// Whether text that starts with `'` starts with a character rather than a lifetime.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    match after.next() {
        Some('\\') => true,
        Some(_) => after.next() == Some('\''),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).iter().map(|token| token.text).collect()
    }

    #[test]
    fn code_is_split_into_words_and_punctuation() {
        assert_eq!(
            words("use aya::{Ebpf, maps as m};"),
            [
                "use", "aya", "::", "{", "Ebpf", ",", "maps", "as", "m", "}", ";"
            ]
        );
    }

    #[test]
    fn comments_are_no_code() {
        assert_eq!(
            words("a // unsafe {\nb /* c /* d */ e */ f"),
            ["a", "b", "f"]
        );
        assert_eq!(words("//! tokio::spawn\n/// unsafe\nfn"), ["fn"]);
    }

    #[test]
    fn literals_are_no_code() {
        assert_eq!(words(r#"x("unsafe { \" } // no") y"#), ["x", "(", ")", "y"]);
        assert_eq!(words(r##"a r#"b "c" unsafe"# d br"e" f"##), ["a", "d", "f"]);
        assert_eq!(words(r"a b'\'' '{' '\n' '\u{7b}' b"), ["a", "b"]);
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        assert_eq!(words("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(words("r#type"), ["r", "#", "type"]);
        assert_eq!(words("break 'outer;"), ["break", "'", "outer", ";"]);
    }

    #[test]
    fn a_token_knows_its_line() {
        let found = tokens("a\n/* \n */ b \"\n\" c");
        let lines: Vec<_> = found.iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 3), ("c", 4)]);
    }
}
