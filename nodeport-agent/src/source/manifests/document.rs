//! The text of a file into objects.
//!
//! Owns what a List is and how documents are named. It refuses to know files on disk and what was read before.
//! Invariant: a document that cannot be parsed costs only itself.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use serde_json::Value;

use super::list::{self, Head};
use super::yaml;
use crate::model::decode::{Decoded, decode};
use crate::model::objects::Object;
use crate::model::report::{Reason, Report, Severity};

/// Lists in Lists deeper than this are refused.
const MAX_LIST_DEPTH: usize = 4;

/// How a file's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML documents, separated by `---`. JSON is YAML, too.
    Yaml,
    /// JSON values, one after the other.
    Json,
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reading {
    /// The objects that are read, in the order of the file.
    pub objects: Vec<Object>,
    /// What was refused.
    pub refused: Vec<Report>,
    /// Number of documents that are not empty.
    pub documents: usize,
    /// Objects of kinds that are not read.
    pub skipped: usize,
}

impl Reading {
    /// Whether something was refused of which it is not known what it would have been.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.refused
            .iter()
            .any(|report| report.object.is_none() && report.severity() == Severity::Error)
    }
}

/// The documents of a file that were read without a fault, by their number and text: while a file is edited most stay as they are.
#[derive(Debug, Default)]
pub struct Known {
    documents: HashMap<(usize, u64), Vec<Object>>,
    hashes: RandomState,
}

/// Reads the text of a file called `name`.
#[must_use]
pub fn read(name: &str, text: &str, syntax: Syntax) -> Reading {
    Known::default().read(name, text, syntax)
}

impl Known {
    /// As [`read()`], of the file that was read before.
    pub fn read(&mut self, name: &str, text: &str, syntax: Syntax) -> Reading {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reading = Reading::default();
        let mut before = std::mem::take(&mut self.documents);
        match syntax {
            Syntax::Yaml => {
                for chunk in yaml::split(text) {
                    let key = (reading.documents, self.hashes.hash_one(chunk.text()));
                    let objects = before.remove(&key);
                    reading.chunk(name, &chunk, objects, &mut self.documents, key);
                }
            }
            Syntax::Json => {
                let mut heads = serde_json::Deserializer::from_str(text).into_iter::<Head>();
                let mut start = 0;
                while let Some(head) = heads.next() {
                    let end = heads.byte_offset();
                    reading.json(name, &text[start..end], head);
                    start = end;
                }
            }
        }
        reading
    }
}

impl Reading {
    /// Takes the objects of a document as they are known, or reads it.
    fn chunk(
        &mut self,
        name: &str,
        chunk: &yaml::Chunk<'_>,
        known: Option<Vec<Object>>,
        to: &mut HashMap<(usize, u64), Vec<Object>>,
        key: (usize, u64),
    ) {
        let before = (self.objects.len(), self.refused.len(), self.skipped);
        if let Some(objects) = known {
            self.documents += 1;
            self.objects.extend(objects.iter().cloned());
            to.insert(key, objects);
            return;
        }
        self.document(name, yaml::parse(chunk));
        let faultless = (self.refused.len(), self.skipped) == (before.1, before.2);
        if faultless && self.objects.len() > before.0 {
            to.insert(key, self.objects[before.0..].to_vec());
        }
    }

    /// Reads a JSON value; a List item by item.
    fn json(&mut self, name: &str, text: &str, head: Result<Head, serde_json::Error>) {
        let head = match head {
            Ok(head) => head,
            Err(error) => return self.document(name, Err(error.to_string())),
        };
        let Some(of) = head.list() else {
            let value = serde_json::from_str(text).map_err(|error| error.to_string());
            return self.document(name, value);
        };
        self.documents += 1;
        let origin = format!("{name}, document {}", self.documents);
        let visit = &mut |index, item: &Value| self.item(index, item, of, &origin, 0);
        if let Err(error) = list::for_each_item(text, visit) {
            let reason = Reason::Unparsable(error.to_string());
            self.refuse(&origin, String::new(), reason);
        }
    }

    fn document(&mut self, name: &str, value: Result<Value, String>) {
        if matches!(value, Ok(Value::Null)) {
            return;
        }
        self.documents += 1;
        let origin = format!("{name}, document {}", self.documents);
        match value {
            Ok(value) => self.object(&value, &origin, 0),
            Err(error) => self.refuse(&origin, String::new(), Reason::Unparsable(error)),
        }
    }

    fn object(&mut self, value: &Value, origin: &str, depth: usize) {
        let text = |key| value.get(key).and_then(Value::as_str);
        if let Some(kind) = text("kind").and_then(|kind| kind.strip_suffix("List"))
            && let Some(items) = value.get("items")
        {
            let version = text("apiVersion").unwrap_or_default();
            return self.list(items, (version, kind), origin, depth);
        }
        match decode(value, Some(&Arc::from(origin))) {
            Decoded::Object(object) => self.objects.push(object),
            Decoded::OtherKind => self.skipped += 1,
            Decoded::Refused(reports) => self.refused.extend(reports),
        }
    }

    /// The items of a List. Those of a typed list (`ServiceList`), as the API server sends it, have no kind of their own.
    fn list(&mut self, items: &Value, of: (&str, &str), origin: &str, depth: usize) {
        let items = match items {
            Value::Array(items) if depth < MAX_LIST_DEPTH => items.as_slice(),
            Value::Null => &[],
            other => {
                let found = if other.is_array() {
                    "one more List in a List"
                } else {
                    "something else"
                };
                let reason = Reason::WrongType {
                    expected: "a list",
                    found: found.to_owned(),
                };
                return self.refuse(origin, "items".to_owned(), reason);
            }
        };
        for (index, item) in items.iter().enumerate() {
            self.item(index, item, of, origin, depth);
        }
    }

    fn item(
        &mut self,
        index: usize,
        item: &Value,
        (version, kind): (&str, &str),
        origin: &str,
        depth: usize,
    ) {
        let origin = format!("{origin}, items[{index}]");
        match item {
            Value::Null => {}
            Value::Object(fields) if !kind.is_empty() && !fields.contains_key("kind") => {
                let mut fields = fields.clone();
                fields.insert("kind".to_owned(), kind.into());
                fields.insert("apiVersion".to_owned(), version.into());
                self.object(&Value::Object(fields), &origin, depth + 1);
            }
            item => self.object(item, &origin, depth + 1),
        }
    }

    fn refuse(&mut self, origin: &str, field: String, reason: Reason) {
        self.refused.push(Report {
            origin: Some(origin.to_owned()),
            object: None,
            field,
            reason,
        });
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
