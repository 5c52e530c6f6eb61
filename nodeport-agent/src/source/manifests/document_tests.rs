//! What files say: documents, Lists, and what is broken in them.

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
fn a_list_in_json_says_what_it_says_in_yaml() {
    let texts = [
        r#"{"apiVersion": "v1", "items": [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}, null, 7,
            {"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "n2"}}, {"metadata": {}}]},
            {"apiVersion": "v1", "kind": "List", "items": null}
        ], "kind": "List"}"#,
        r#"{"items": [{"metadata": {"name": "n1"}}, {"kind": "Node", "metadata": {"name": "n2"}}], "kind": "NodeList", "apiVersion": "v1"}"#,
        r#"{"kind": "NodeList", "items": [{"metadata": {"name": "n1"}}]}"#,
        r#"{"kind": "List", "apiVersion": "v1", "items": {"a": 1}}"#,
        r#"{"kind": "List", "apiVersion": "v1", "items": []}"#,
        "[1, 2]",
    ];
    for text in texts {
        let json = read("f", text, Syntax::Json);
        assert_eq!(json, read("f", text, Syntax::Yaml), "{text}");
    }
    // The second value is told by its own number, and what follows a broken one is not read.
    let both = format!("{}\n{}\n{{\"items\": [", texts[1], texts[1]);
    let reading = read("f", &both, Syntax::Json);
    assert_eq!((reading.objects.len(), reading.documents), (2, 3));
    let told: Vec<String> = reading.refused.iter().map(ToString::to_string).collect();
    assert!(
        told[1].starts_with("f, document 2, items[1]: apiVersion: is required"),
        "{told:?}"
    );
    assert!(
        told[2].starts_with("f, document 3: cannot be parsed: EOF"),
        "{told:?}"
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
