//! The text of a file into objects.
//!
//! Owns what a List is and how documents are named. It refuses to know files on disk and what was read before.
//! Invariant: a document that cannot be parsed costs only itself.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use serde_json::Value;

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
                for value in serde_json::Deserializer::from_str(text).into_iter() {
                    reading.document(name, value.map_err(|error| error.to_string()));
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
    fn list(&mut self, items: &Value, (version, kind): (&str, &str), origin: &str, depth: usize) {
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
mod tests {
    use super::*;
    use crate::model::objects::Kind;

    #[test]
    fn documents_that_stay_as_they_are_are_not_read_again() {
        let mut known = Known::default();
        let text = |port: u16| {
            let changed = service("b").replace("port: 80", &format!("port: {port}"));
            format!(
                "{}---\n{changed}---\nnull\n---\n{}",
                service("a"),
                service("c")
            )
        };
        let before = known.read("f.yaml", &text(80), Syntax::Yaml);
        let after = known.read("f.yaml", &text(81), Syntax::Yaml);
        assert_eq!(after, read("f.yaml", &text(81), Syntax::Yaml));
        let both = before.objects.iter().zip(&after.objects);
        let same: Vec<bool> = both.map(|(one, other)| one.is_same(other)).collect();
        assert_eq!(same, [true, false, true]);
        // Another number is another origin: it is told where an object is now.
        let fewer = known.read("f.yaml", &service("c"), Syntax::Yaml);
        assert_eq!(fewer, read("f.yaml", &service("c"), Syntax::Yaml));
        // What has a fault is read each time.
        let broken = |lines: usize| format!("{}---\n{}a: [1\n", service("a"), "\n".repeat(lines));
        for lines in [0, 3] {
            let again = known.read("f.yaml", &broken(lines), Syntax::Yaml);
            assert_eq!(again, read("f.yaml", &broken(lines), Syntax::Yaml));
        }
    }

    /// The objects' names, and the reports.
    fn story(text: &str) -> (Vec<String>, Vec<String>) {
        let reading = read("f.yaml", text, Syntax::Yaml);
        let objects = reading
            .objects
            .iter()
            .map(|one| one.reference().to_string());
        (
            objects.collect(),
            reading.refused.iter().map(ToString::to_string).collect(),
        )
    }

    fn service(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: d}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n"
        )
    }

    #[test]
    fn documents_are_separated_by_markers_at_the_start_of_a_line() {
        let text = format!(
            "\u{feff}# a comment\n---\n{}--- # second\n{}...\n%YAML 1.1\n---\r\n{}---\n---\n# nothing\n--- null\n",
            service("a"),
            service("b"),
            service("c").replace('\n', "\r\n"),
        );
        assert_eq!(
            story(&text),
            (
                vec![
                    "Service d/a".into(),
                    "Service d/b".into(),
                    "Service d/c".into()
                ],
                vec![]
            )
        );
    }

    #[test]
    fn a_document_may_begin_on_the_line_of_its_marker() {
        let flow = "--- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n---\t{apiVersion: v1, kind: Node, metadata: {name: n2}}";
        assert_eq!(story(flow).0, ["Node n1", "Node n2"]);
    }

    #[test]
    fn a_marker_inside_a_line_or_a_longer_one_is_none() {
        let text = service("a") + "x: |\n  ---\n  ...\ny: ----\n";
        assert_eq!(story(&text), (vec!["Service d/a".into()], vec![]));
    }

    #[test]
    fn a_broken_document_costs_only_itself_and_is_named_with_the_line_of_the_file() {
        let text = format!(
            "{}---\na: [1\n---\n{}---\na: 1\na: 2\n",
            service("a"),
            service("b")
        );
        let (objects, reports) = story(&text);
        assert_eq!(objects, ["Service d/a", "Service d/b"]);
        assert_eq!(reports.len(), 2, "{reports:?}");
        assert!(
            reports[0].starts_with("f.yaml, document 2: cannot be parsed: line "),
            "{reports:?}"
        );
        assert_eq!(
            reports[1],
            "f.yaml, document 4: cannot be parsed: line 14, column 1: duplicate mapping key `a` is not allowed here"
        );
    }

    #[test]
    fn an_open_quote_ends_with_its_document() {
        let text = format!("a: \"open\n---\n{}", service("b"));
        let (objects, reports) = story(&text);
        assert_eq!(objects, ["Service d/b"]);
        assert_eq!(reports.len(), 1);
    }

    #[test]
    fn lists_typed_lists_and_lists_of_lists() {
        let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}}
- null
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
- apiVersion: v1
  kind: NodeList
  items: [{metadata: {name: n2}}, {metadata: {}}]
- {apiVersion: v1, kind: List, items: null}
";
        let (objects, reports) = story(text);
        assert_eq!(objects, ["Node n1", "Node n2"]);
        assert_eq!(
            reports,
            ["f.yaml, document 1, items[3], items[1]: metadata.name: is required",]
        );
    }

    #[test]
    fn a_list_without_end_is_refused() {
        let mut text = "{apiVersion: v1, kind: Node, metadata: {name: n1}}".to_owned();
        for _ in 0..5 {
            text = format!("{{apiVersion: v1, kind: List, items: [{text}]}}");
        }
        let (objects, reports) = story(&text);
        assert!(objects.is_empty());
        assert_eq!(reports.len(), 1, "{reports:?}");
    }

    #[test]
    fn kinds_of_other_groups_and_unread_kinds_are_skipped_without_a_word() {
        let text = "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}
--- {apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}
--- {apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}
";
        let reading = read("f.yaml", text, Syntax::Yaml);
        assert_eq!(
            (
                reading.objects.len(),
                reading.refused.len(),
                reading.skipped
            ),
            (0, 0, 3)
        );
    }

    #[test]
    fn what_is_no_object_is_told_by_its_document() {
        let (_, reports) = story(
            "just words\n--- {apiVersion: v1, metadata: {name: a}}\n--- {apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}\n--- {kind: Service}\n",
        );
        assert_eq!(
            reports,
            [
                "f.yaml, document 1: expected an object, found the string \"just words\"",
                "f.yaml, document 2: kind: is required",
                "f.yaml, document 3: apiVersion: discovery.k8s.io/v1beta1 is not read, only discovery.k8s.io/v1",
                "f.yaml, document 4: apiVersion: is required",
            ]
        );
    }

    #[test]
    fn json_values_follow_one_another() {
        let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#;
        let reading = read(
            "f.json",
            &format!("{node}\n{node} null {{\"a\":"),
            Syntax::Json,
        );
        assert_eq!(reading.objects.len(), 2);
        assert_eq!(reading.objects[1].reference().kind, Kind::Node);
        assert_eq!(
            reading.refused[0].to_string(),
            "f.json, document 3: cannot be parsed: EOF while parsing a value at line 2 column 69"
        );
    }

    #[test]
    fn aliases_are_read_but_cannot_blow_up() {
        let text = "apiVersion: v1
kind: Service
metadata: {name: &name web, namespace: *name, labels: {<<: &l {a: b}}}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
";
        assert_eq!(story(text).0, ["Service web/web"]);
        let bomb = (1..12).fold(
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
            |text, n| {
                let previous = format!("*a{}, ", n - 1).repeat(10);
                format!("{text}a{n}: &a{n} [{previous}]\n")
            },
        );
        let (objects, reports) = story(&bomb);
        assert!(objects.is_empty());
        assert!(
            reports[0].starts_with("f.yaml, document 1: cannot be parsed: "),
            "{reports:?}"
        );
    }
}
