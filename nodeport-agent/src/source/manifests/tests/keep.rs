//! What stays and what goes when files change, break and disappear.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tempfile::TempDir;

use super::{list, names, service, told};
use crate::model::Objects;
use crate::source::manifests::{Files, ManifestsError, read_once};

struct Story {
    directory: TempDir,
    files: Files,
}

impl Story {
    fn new() -> Self {
        let directory = TempDir::new().expect("directory");
        let files = Files::new(vec![directory.path().to_owned()]);
        Self { directory, files }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.directory.path().join(name), content).expect("write");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.path().join(name)).expect("remove");
    }

    fn look(&mut self) -> Objects {
        self.files.refresh();
        self.files.objects()
    }
}

#[test]
fn a_directory_gives_the_manifests_in_it_and_nothing_else() {
    let mut story = Story::new();
    for name in [
        "a.yaml",
        "b.yml",
        "C.JSON.txt",
        ".hidden.yaml",
        "d.yaml.swp",
        "README",
    ] {
        story.write(
            name,
            service(
                name.split('.').find(|part| !part.is_empty()).expect("name"),
                80,
            ),
        );
    }
    fs::create_dir(story.directory.path().join("sub.yaml")).expect("directory");
    fs::write(
        story.directory.path().join("sub.yaml/e.yaml"),
        service("e", 80),
    )
    .expect("write");
    story.write(
        "f.json",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"f","namespace":"d"}}"#,
    );
    let objects = story.look();
    assert_eq!(names(&objects), ["a", "b", "f"]);
    assert!(objects.reports.is_empty(), "{:?}", objects.reports);
}

#[test]
fn nothing_changed_is_noticed() {
    let mut story = Story::new();
    story.write("a.yaml", service("a", 80));
    assert!(story.files.refresh());
    assert!(!story.files.refresh());
    story.write("a.yaml", service("a", 81));
    assert!(story.files.refresh());
}

#[test]
fn an_object_that_did_not_change_is_the_same_one() {
    let mut story = Story::new();
    story.write("a.yaml", list(&["a", "b"]));
    let before = story.look();
    story.write("a.yaml", list(&["a", "c"]));
    let after = story.look();
    assert_eq!(names(&after), ["a", "c"]);
    let key = before.services.keys().next().expect("a");
    assert!(Arc::ptr_eq(&before.services[key], &after.services[key]));
}

#[test]
fn a_deleted_file_takes_its_objects_along() {
    let mut story = Story::new();
    story.write("a.yaml", service("a", 80));
    story.write("b.yaml", service("b", 80));
    assert_eq!(names(&story.look()), ["a", "b"]);
    story.remove("a.yaml");
    let objects = story.look();
    assert_eq!(names(&objects), ["b"]);
    assert!(objects.reports.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_last_good_state() {
    let mut story = Story::new();
    story.write("a.yaml", list(&["a", "b"]));
    story.look();
    story.write("a.yaml", [b'a', 0xff, 0xfe]);
    let objects = story.look();
    assert_eq!(names(&objects), ["a", "b"]);
    assert_eq!(
        told(&objects, &story.directory),
        [
            "a.yaml: cannot be read: it is not UTF-8",
            "a.yaml: 2 objects of an earlier reading still in effect"
        ]
    );
    story.write("a.yaml", list(&["b"]));
    let objects = story.look();
    assert_eq!(names(&objects), ["b"]);
    assert!(objects.reports.is_empty());
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let mut story = Story::new();
    let _socket = UnixListener::bind(story.directory.path().join("a.yaml")).expect("socket");
    symlink("nowhere", story.directory.path().join("b.yaml")).expect("link");
    let objects = story.look();
    assert_eq!(
        told(&objects, &story.directory),
        [
            "a.yaml: cannot be read: it is not a regular file",
            "b.yaml: cannot be read: No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn a_broken_document_keeps_what_it_may_have_held_and_the_others_take_effect() {
    let mut story = Story::new();
    story.write("a.yaml", list(&["a", "b"]));
    story.look();
    // b's document is broken, a is changed, c is new.
    story.write(
        "a.yaml",
        format!(
            "{}---\nkind: [Service\n---\n{}",
            service("a", 81),
            service("c", 80)
        ),
    );
    let objects = story.look();
    assert_eq!(names(&objects), ["a", "b", "c"]);
    assert_eq!(
        objects.services.values().next().expect("a").ports[0]
            .value
            .port,
        81
    );
    let told = told(&objects, &story.directory);
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[0],
        "a.yaml: 1 object of an earlier reading still in effect"
    );
    assert!(
        told[1].starts_with("a.yaml, document 2: cannot be parsed: line "),
        "{told:?}"
    );
    // Another file is not concerned, and a file understood to the end is believed.
    story.write("a.yaml", list(&["a", "c"]));
    let objects = story.look();
    assert_eq!(names(&objects), ["a", "c"]);
    assert!(objects.reports.is_empty());
}

#[test]
fn an_object_refused_as_a_whole_keeps_its_last_good_state_and_no_other_does() {
    let mut story = Story::new();
    story.write("a.yaml", list(&["a", "b", "c"]));
    story.look();
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: b, namespace: d}\nspec: 5\n";
    story.write("a.yaml", format!("{}---\n{broken}", service("a", 80)));
    let objects = story.look();
    assert_eq!(names(&objects), ["a", "b"]);
    assert_eq!(
        told(&objects, &story.directory),
        [
            "a.yaml: 1 object of an earlier reading still in effect",
            "a.yaml, document 2: Service d/b: spec: expected an object, found the number 5",
        ]
    );
}

#[test]
fn an_emptied_file_is_no_order_to_delete_but_an_empty_list_is() {
    let mut story = Story::new();
    story.write("a.yaml", service("a", 80));
    story.look();
    for nothing in ["", "\n\n", "# nothing\n---\n"] {
        story.write("a.yaml", nothing);
        let objects = story.look();
        assert_eq!(names(&objects), ["a"], "{nothing:?}");
        assert_eq!(objects.reports.len(), 2, "{:?}", objects.reports);
    }
    story.write("a.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    let objects = story.look();
    assert!(names(&objects).is_empty());
    assert!(objects.reports.is_empty());
}

#[test]
fn of_an_object_given_twice_the_last_one_counts() {
    let mut story = Story::new();
    story.write(
        "a.yaml",
        format!(
            "{}---\n{}---\n{}",
            service("x", 81),
            service("y", 81),
            service("x", 82)
        ),
    );
    story.write("b.yaml", service("y", 83));
    let objects = story.look();
    let ports: Vec<u16> = objects
        .services
        .values()
        .map(|one| one.ports[0].value.port)
        .collect();
    assert_eq!(ports, [82, 83]);
    assert_eq!(
        told(&objects, &story.directory),
        [
            "a.yaml, document 1: Service d/x: is given again by a.yaml, document 3, which counts",
            "a.yaml, document 2: Service d/y: is given again by b.yaml, document 1, which counts",
        ]
    );
    story.remove("b.yaml");
    let ports: Vec<u16> = story
        .look()
        .services
        .values()
        .map(|one| one.ports[0].value.port)
        .collect();
    assert_eq!(ports, [82, 81]);
}

#[test]
fn a_path_that_is_not_there_is_an_error_when_read_once() {
    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("none.yaml");
    let error = read_once(vec![path.clone()]).expect_err("no file");
    assert!(
        matches!(&error, ManifestsError::Unreachable { path: named, .. } if *named == path),
        "{error}"
    );
}
