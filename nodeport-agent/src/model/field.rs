//! Reading fields of a JSON object one by one, so that one bad field costs only itself.
//!
//! Owns the rule that null, absent and empty are alike, and the path that names a field in a report. It refuses to know
//! which fields a kind has. Invariant: every reading that returns less than what is written leaves a problem behind.

use std::cell::RefCell;
use std::fmt;

use serde_json::Value;

use super::report::{Problem, Reason};

/// What is written in a field means nothing; the problem is noted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// A field that may be there or not.
#[derive(Clone, Copy)]
pub(super) struct Field<'v, 'p> {
    value: Option<&'v Value>,
    parent: Option<&'p Field<'v, 'p>>,
    step: Step<'p>,
    problems: &'p RefCell<Vec<Problem>>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'v, 'p> Field<'v, 'p> {
    /// The object itself. Problems of all fields below it go to `problems`.
    pub(super) fn root(value: &'v Value, problems: &'p RefCell<Vec<Problem>>) -> Self {
        Self {
            value: Some(value),
            parent: None,
            step: Step::Root,
            problems,
        }
    }

    /// The field `key` below this one. Of something that is not an object it is absent; [`Self::object`] tells.
    pub(super) fn key<'q>(&'q self, key: &'q str) -> Field<'v, 'q> {
        Field {
            value: self
                .value
                .and_then(|value| value.get(key))
                .filter(|value| !value.is_null()),
            parent: Some(self),
            step: Step::Key(key),
            problems: self.problems,
        }
    }

    /// Whether something other than null is there.
    pub(super) fn present(&self) -> bool {
        self.value.is_some_and(|value| !value.is_null())
    }

    /// This field, if it can have fields of its own or is absent; otherwise a problem, and `None`.
    pub(super) fn object(self) -> Option<Self> {
        match self.value {
            None | Some(Value::Object(_) | Value::Null) => Some(self),
            Some(other) => {
                self.wrong_type("an object", other);
                None
            }
        }
    }

    /// The entries that are not null, each with its own path.
    pub(super) fn items<'q>(&'q self) -> impl Iterator<Item = Field<'v, 'q>> {
        let entries: &'v [Value] = match self.value {
            Some(Value::Array(entries)) => entries,
            None | Some(Value::Null) => &[],
            Some(other) => {
                self.wrong_type("a list", other);
                &[]
            }
        };
        entries
            .iter()
            .enumerate()
            .filter(|(_, value)| !value.is_null())
            .map(|(index, value)| Field {
                value: Some(value),
                parent: Some(self),
                step: Step::Index(index),
                problems: self.problems,
            })
    }

    /// The text; `None` if absent, null, empty, or not a text (which is a problem).
    pub(super) fn text(&self) -> Option<&'v str> {
        match self.value? {
            Value::Null => None,
            Value::String(text) => Some(text.as_str()).filter(|text| !text.is_empty()),
            other => {
                self.wrong_type("a string", other);
                None
            }
        }
    }

    /// The boolean, or `default` if absent, null, or not a boolean (which is a problem).
    ///
    /// The words that YAML 1.1 has for booleans count where a boolean is asked for. Our YAML reader leaves them words, so
    /// that a Service called `y` or `on` keeps its name.
    pub(super) fn boolean_or(&self, default: bool) -> bool {
        match self.value {
            None | Some(Value::Null) => default,
            Some(Value::Bool(value)) => *value,
            Some(Value::String(word))
                if matches!(word.as_str(), "yes" | "Yes" | "YES" | "on" | "On" | "ON") =>
            {
                true
            }
            Some(Value::String(word))
                if matches!(word.as_str(), "no" | "No" | "NO" | "off" | "Off" | "OFF") =>
            {
                false
            }
            Some(other) => {
                self.wrong_type("a boolean", other);
                default
            }
        }
    }

    /// A port number; `None` if absent, null, zero, or not a port number (which is a problem).
    pub(super) fn port(&self) -> Option<u16> {
        let number = self.integer()?;
        if number == 0 {
            return None;
        }
        let port = u16::try_from(number).ok();
        if port.is_none() {
            self.problem(Reason::NotAPort(number));
        }
        port
    }

    /// A whole number from `low` to `high`; None if absent, null, or anything else (which is a problem).
    pub(super) fn within(&self, low: u32, high: u32) -> Option<u32> {
        let number = self.integer()?;
        let within = u32::try_from(number)
            .ok()
            .filter(|number| (low..=high).contains(number));
        if within.is_none() {
            self.problem(Reason::OutOfRange {
                found: number,
                low,
                high,
            });
        }
        within
    }

    fn integer(&self) -> Option<i128> {
        match self.value? {
            Value::Null => None,
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                Some(number.as_i128().unwrap_or(i128::MAX))
            }
            other => {
                self.wrong_type("an integer", other);
                None
            }
        }
    }

    /// What the word stands for in `words`; `None` if absent, null or empty.
    ///
    /// # Errors
    ///
    /// A word that is not in `words`, or no text at all, both of which are a problem.
    pub(super) fn word<T: Copy>(
        &self,
        expected: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Invalid> {
        let text = match self.value {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(_) => self.text().ok_or(Invalid)?,
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*meaning));
        }
        self.problem(Reason::UnknownValue {
            value: text.to_owned(),
            expected,
        });
        Err(Invalid)
    }

    /// As [`Self::word`], with `default` in the place of what is absent and of what is invalid.
    pub(super) fn word_or<T: Copy>(
        &self,
        default: T,
        expected: &'static str,
        words: &[(&str, T)],
    ) -> T {
        self.word(expected, words).ok().flatten().unwrap_or(default)
    }

    /// Whether an empty text is there.
    pub(super) fn is_empty_text(&self) -> bool {
        matches!(self.value, Some(Value::String(text)) if text.is_empty())
    }

    /// Whether a list is there.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.value, Some(Value::Array(_)))
    }

    /// Whether the number 0 is there.
    pub(super) fn is_zero(&self) -> bool {
        self.value.and_then(Value::as_i64) == Some(0)
    }

    /// The index of an entry that [`Self::items`] gave; 0 of anything else.
    pub(super) const fn index(&self) -> usize {
        match self.step {
            Step::Index(index) => index,
            Step::Root | Step::Key(_) => 0,
        }
    }

    /// The text, if there is one. Says nothing if there is something else.
    pub(super) fn raw_text(&self) -> Option<&'v str> {
        self.value.and_then(Value::as_str)
    }

    /// Leaves a problem about this field behind.
    pub(super) fn problem(&self, reason: Reason) {
        self.problems.borrow_mut().push(Problem {
            field: self.to_string(),
            reason,
        });
    }

    fn wrong_type(&self, expected: &'static str, found: &Value) {
        self.problem(Reason::WrongType {
            expected,
            found: describe(found),
        });
    }
}

/// A value in a few words: nobody wants a whole object in a log line.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => {
            let short: String = text.chars().take(40).collect();
            format!("the string {short:?}")
        }
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) if self.parent.is_some_and(|p| matches!(p.step, Step::Root)) => {
                f.write_str(key)
            }
            Step::Key(key) => write!(f, ".{key}"),
        }
    }
}
