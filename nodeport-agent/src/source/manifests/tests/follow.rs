//! When a change is told: writes, renames, swaps of links, paths that come late.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::{list, names, service, told};
use crate::model::Objects;
use crate::source::manifests::{Manifests, Timing};

const QUICK: Timing = Timing {
    quiet: Duration::from_millis(20),
    patience: Duration::from_millis(500),
    rescan: Duration::from_mins(10),
};

/// Waits for a set that has exactly these Services.
async fn wait(manifests: &mut Manifests, wanted: &[&str]) -> Arc<Objects> {
    let waiting = async {
        loop {
            let objects = manifests.next().await.expect("a set").objects;
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
        names(&next.objects),
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
    let mut sets = manifests.sets();
    drop(manifests);
    let ended = async { while sets.take().await.is_some() {} };
    timeout(Duration::from_secs(10), ended)
        .await
        .expect("the thread ends");
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_followed_again() {
    let above = TempDir::new().expect("directory");
    let directory = above.path().join("manifests");
    let make = |path: &Path, services: &[&str]| {
        fs::create_dir(path).expect("directory");
        fs::write(path.join("a.yaml"), list(services)).expect("write");
    };
    make(&directory, &["a"]);
    let mut manifests = follow(&directory, QUICK);
    wait(&mut manifests, &["a"]).await;
    fs::remove_dir_all(&directory).expect("remove");
    wait(&mut manifests, &[]).await;
    make(&directory, &["b"]);
    wait(&mut manifests, &["b"]).await;
    // Another directory in its place: what is written there later is seen, too.
    make(&above.path().join("next"), &["c"]);
    fs::rename(&directory, above.path().join("last")).expect("rename");
    fs::rename(above.path().join("next"), &directory).expect("rename");
    wait(&mut manifests, &["c"]).await;
    replace(&directory.join("a.yaml"), &list(&["d"]));
    wait(&mut manifests, &["d"]).await;
}
