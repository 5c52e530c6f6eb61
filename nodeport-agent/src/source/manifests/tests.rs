//! Stories of files: what stays, what goes, and when it is told.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::{Files, Manifests, ManifestsError, Timing, read_once};
use crate::model::Objects;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: d}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

fn list(services: &[&str]) -> String {
    let documents: Vec<String> = services.iter().map(|name| service(name, 80)).collect();
    documents.join("---\n")
}

fn names(objects: &Objects) -> Vec<&str> {
    objects
        .services
        .keys()
        .map(|key| key.name.as_str())
        .collect()
}

/// Reports with the directory cut off.
fn told(objects: &Objects, directory: &TempDir) -> Vec<String> {
    let prefix = format!("{}/", directory.path().display());
    objects
        .reports
        .iter()
        .map(|report| report.to_string().replace(&prefix, ""))
        .collect()
}

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

const QUICK: Timing = Timing {
    quiet: Duration::from_millis(20),
    patience: Duration::from_millis(500),
    rescan: Duration::from_mins(10),
};

/// Waits for a set that has exactly these Services.
async fn wait(manifests: &mut Manifests, wanted: &[&str]) -> Arc<Objects> {
    let waiting = async {
        loop {
            let objects = manifests.next().await.expect("a set");
            if names(&objects) == wanted {
                return objects;
            }
        }
    };
    timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("{wanted:?} never came"))
}

fn follow(path: &Path, timing: Timing) -> Manifests {
    Manifests::follow(vec![path.to_owned()], timing).expect("follow")
}

fn replace(path: &Path, content: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).expect("write");
    fs::rename(&temporary, path).expect("rename");
}

#[tokio::test]
async fn a_directory_is_followed_through_writes_renames_and_deletions() {
    let directory = TempDir::new().expect("directory");
    let file = directory.path().join("a.yaml");
    fs::write(&file, service("a", 80)).expect("write");
    let mut manifests = follow(directory.path(), QUICK);
    wait(&mut manifests, &["a"]).await;
    fs::write(&file, list(&["a", "b"])).expect("write");
    wait(&mut manifests, &["a", "b"]).await;
    replace(&file, &list(&["c"]));
    wait(&mut manifests, &["c"]).await;
    fs::write(directory.path().join("d.json"), "").expect("write");
    replace(&directory.path().join("d.yaml"), &list(&["d"]));
    wait(&mut manifests, &["c", "d"]).await;
    fs::remove_file(&file).expect("remove");
    wait(&mut manifests, &["d"]).await;
}

#[tokio::test]
async fn one_file_is_followed_when_editors_put_a_new_one_in_its_place() {
    let directory = TempDir::new().expect("directory");
    let file = directory.path().join("objects");
    fs::write(&file, list(&["a"])).expect("write");
    let mut manifests = follow(&file, QUICK);
    wait(&mut manifests, &["a"]).await;
    for name in ["b", "c", "d"] {
        replace(&file, &list(&[name]));
        wait(&mut manifests, &[name]).await;
    }
}

#[tokio::test]
async fn the_volume_of_a_config_map_is_followed_through_its_swap() {
    let directory = TempDir::new().expect("directory");
    let version = |name: &str, services: &[&str]| {
        let path = directory.path().join(name);
        fs::create_dir(&path).expect("directory");
        fs::write(path.join("a.yaml"), list(services)).expect("write");
        symlink(name, directory.path().join("..data_tmp")).expect("link");
        fs::rename(
            directory.path().join("..data_tmp"),
            directory.path().join("..data"),
        )
        .expect("rename");
    };
    version("..2026_1", &["a"]);
    symlink("..data/a.yaml", directory.path().join("a.yaml")).expect("link");
    let mut whole = follow(directory.path(), QUICK);
    let mut one = follow(&directory.path().join("a.yaml"), QUICK);
    wait(&mut whole, &["a"]).await;
    wait(&mut one, &["a"]).await;
    for (name, service) in [("..2026_2", "b"), ("..2026_3", "c")] {
        version(name, &[service]);
        wait(&mut whole, &[service]).await;
        wait(&mut one, &[service]).await;
    }
}

#[tokio::test]
async fn a_path_that_is_not_there_yet_is_waited_for_and_gives_nothing_22_1() {
    let directory = TempDir::new().expect("directory");
    fs::write(directory.path().join("there.yaml"), list(&["a"])).expect("write");
    let late = directory.path().join("late.yaml");
    let paths = vec![directory.path().join("there.yaml"), late.clone()];
    let mut manifests = Manifests::follow(paths, QUICK).expect("follow");
    let early = timeout(Duration::from_millis(300), manifests.next()).await;
    assert!(early.is_err(), "a set came although a path is missing");
    fs::write(&late, list(&["b"])).expect("write");
    wait(&mut manifests, &["a", "b"]).await;
    // Once it was there, its going is a deletion.
    fs::remove_file(&late).expect("remove");
    let objects = wait(&mut manifests, &["a"]).await;
    assert_eq!(
        told(&objects, &directory),
        ["late.yaml: cannot be read: No such file or directory (os error 2)"]
    );
}

#[tokio::test]
async fn a_file_written_in_pieces_is_read_when_it_is_quiet() {
    use std::io::Write;

    let directory = TempDir::new().expect("directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, list(&["a", "b", "c"])).expect("write");
    let timing = Timing {
        quiet: Duration::from_millis(200),
        patience: Duration::from_secs(20),
        ..QUICK
    };
    let mut manifests = follow(directory.path(), timing);
    wait(&mut manifests, &["a", "b", "c"]).await;
    let mut file = fs::File::create(&path).expect("create");
    for name in ["b", "c", "d"] {
        write!(file, "---\n{}", service(name, 80)).expect("write");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = manifests.next().await.expect("a set");
    assert_eq!(
        names(&next),
        ["b", "c", "d"],
        "a half-written file was read"
    );
}

#[tokio::test]
async fn what_no_event_tells_is_found_by_the_slow_look() {
    let directory = TempDir::new().expect("directory");
    for (version, name) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(directory.path().join(version)).expect("directory");
        fs::write(directory.path().join(version).join("a.yaml"), list(&[name])).expect("write");
    }
    // The link that changes is two levels above the file: nobody watches there.
    symlink("v1", directory.path().join("current")).expect("link");
    let timing = Timing {
        rescan: Duration::from_millis(100),
        ..QUICK
    };
    let mut manifests = follow(&directory.path().join("current/a.yaml"), timing);
    wait(&mut manifests, &["a"]).await;
    symlink("v2", directory.path().join("next")).expect("link");
    fs::rename(
        directory.path().join("next"),
        directory.path().join("current"),
    )
    .expect("rename");
    wait(&mut manifests, &["b"]).await;
}

#[tokio::test]
async fn following_ends_when_it_is_dropped() {
    let directory = TempDir::new().expect("directory");
    let manifests = follow(directory.path(), QUICK);
    let mut latest = manifests.latest();
    drop(manifests);
    let ended = async { while latest.changed().await.is_ok() {} };
    timeout(Duration::from_secs(10), ended)
        .await
        .expect("the thread ends");
}
