//! Servers that are away, silent, outdated or broken.

use std::time::Duration;

use super::server::{Answer, Server, follow};
use crate::source::kubernetes::Kubernetes;

const LIMIT: Duration = Duration::from_mins(1);
const END: &str = r#"{"type":"BOOKMARK","object":{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"20","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
const GONE: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (3)","reason":"Expired","code":410}}"#;

fn service(event: &str, name: &str, version: u32) -> String {
    format!(
        r#"{{"type":"{event}","object":{{"metadata":{{"name":"{name}","namespace":"d","resourceVersion":"{version}"}},"spec":{{"clusterIP":"10.96.0.1","ports":[{{"port":80}}]}}}}}}"#
    ) + "\n"
}

/// A streamed list of the Services (the other kinds are empty, and the node is there).
fn streamed(line: &str, services: &[&str]) -> String {
    let mut text = String::new();
    if line.contains("/services") {
        for name in services {
            text += &service("ADDED", name, 10);
        }
    } else if line.contains("/nodes") {
        text = r#"{"type":"ADDED","object":{"metadata":{"name":"n1","resourceVersion":"9"}}}"#
            .to_owned()
            + "\n";
    }
    text + END + "\n"
}

async fn until(source: &mut Kubernetes, wanted: &[&str]) {
    let waiting = async {
        loop {
            let set = source.next().await.expect("a set").objects;
            let names: Vec<&str> = set.services.keys().map(|key| &*key.name).collect();
            if names == wanted {
                return;
            }
        }
    };
    let result = tokio::time::timeout(LIMIT, waiting).await;
    assert!(
        result.is_ok(),
        "never {wanted:?}: {:?}",
        source.progress().status()
    );
}

#[tokio::test]
async fn a_streamed_list_is_of_the_latest_state_and_changes_follow() {
    let server = Server::start(|line, _| {
        let more = if line.contains("/services") {
            service("ADDED", "b", 21) + &service("DELETED", "a", 22)
        } else {
            String::new()
        };
        Answer::Open(streamed(line, &["a"]) + &more)
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["b"]).await;
    let asked = server.requests("/services");
    assert_eq!(asked.len(), 1, "{asked:?}");
    for part in [
        "watch=true",
        "sendInitialEvents=true",
        "resourceVersionMatch=NotOlderThan",
        "allowWatchBookmarks=true",
        "fieldSelector=spec.clusterIP",
        "service-proxy-name",
    ] {
        assert!(asked[0].contains(part), "{part} in {asked:?}");
    }
    assert!(
        !asked[0].contains("resourceVersion=0"),
        "an old state is not asked for: {asked:?}"
    );
    let status = source.progress().status();
    assert!(status.synced && status.failing.is_empty(), "{status:?}");
}

#[tokio::test]
async fn a_server_that_streams_no_lists_is_asked_for_lists() {
    let server = Server::start(|line, _| {
        if line.contains("sendInitialEvents") {
            let status = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"sendInitialEvents is forbidden","reason":"Invalid","code":422}"#;
            return Answer::Whole(422, status.to_owned());
        }
        if line.contains("watch=true") {
            return Answer::Open(if line.contains("/services") { service("ADDED", "b", 31) } else { String::new() });
        }
        let item = if line.contains("/services") {
            r#"{"metadata":{"name":"a","namespace":"d","resourceVersion":"3"},"spec":{"clusterIP":"10.96.0.1"}}"#
        } else if line.contains("/nodes") {
            r#"{"metadata":{"name":"n1","resourceVersion":"3"}}"#
        } else {
            ""
        };
        Answer::Whole(200, format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"30"}},"items":[{item}]}}"#))
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["a", "b"]).await;
    assert_eq!(
        server.requests("sendInitialEvents").len(),
        3,
        "each kind asked once"
    );
    assert!(source.progress().status().failing.is_empty());
}

#[tokio::test]
async fn after_410_the_list_is_taken_anew_and_what_it_has_not_is_gone() {
    let server = Server::start(|line, before| match before {
        0 => Answer::Ended(streamed(line, &["a", "b"])),
        1 => Answer::Ended(GONE.to_owned() + "\n"),
        _ => Answer::Open(streamed(line, &["b", "c"])),
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["b", "c"]).await;
    let asked = server.requests("/services");
    assert!(
        asked[1].contains("resourceVersion=20"),
        "the watch went on where it was: {asked:?}"
    );
    assert!(asked[2].contains("sendInitialEvents=true"), "{asked:?}");
}

#[tokio::test]
async fn a_watch_that_falls_silent_goes_on_where_it_was() {
    let server = Server::start(|line, before| match before {
        // It says its list and then nothing more, not even that the connection is closed.
        0 => Answer::Open(streamed(line, &["a"])),
        _ if line.contains("/services") => Answer::Open(service("ADDED", "b", 30)),
        _ => Answer::Open(String::new()),
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["a", "b"]).await;
    let asked = server.requests("/services");
    assert!(asked[1].contains("resourceVersion=20"), "{asked:?}");
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was_without_a_new_list() {
    let server = Server::start(|line, before| match before {
        0 => Answer::Ended(streamed(line, &["a"])),
        1 => Answer::Ended(String::new()),
        _ if line.contains("/services") => Answer::Open(service("ADDED", "b", 30)),
        _ => Answer::Open(String::new()),
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["a", "b"]).await;
    let asked = server.requests("/services");
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(!asked[2].contains("sendInitialEvents"), "{asked:?}");
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_asked_in_a_loop() {
    let server = Server::start(|line, before| {
        Answer::Ended(if before == 0 {
            streamed(line, &["a"])
        } else {
            String::new()
        })
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["a"]).await;
    let start = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(450)).await;
    let allowed = start.elapsed().as_millis() / 100 + 3;
    let asked = server.requests("/services").len();
    assert!(asked as u128 <= allowed, "{asked} in {:?}", start.elapsed());
}

#[tokio::test]
async fn the_next_server_is_used_when_one_refuses_is_silent_or_has_a_fault() {
    let dead = Server::start(|_, _| Answer::Silence).await.address;
    let silent = Server::start(|_, _| Answer::Silence).await;
    let faulty = Server::start(|_, _| Answer::Whole(503, "{}".to_owned())).await;
    let good = Server::start(|line, _| Answer::Open(streamed(line, &["a"]))).await;
    let mut source = follow(&[dead, silent.address, faulty.address, good.address]);
    until(&mut source, &["a"]).await;
    assert!(!silent.requests("/").is_empty(), "in turn");
    assert!(!faulty.requests("/").is_empty(), "in turn");
    let status = source.progress().status();
    assert_eq!(status.server, format!("http://{}/", good.address));
}

#[tokio::test]
async fn while_every_server_is_away_nothing_is_given_and_the_fault_is_told() {
    let dead = Server::start(|_, _| Answer::Silence).await.address;
    let mut source = follow(&[dead]);
    let given = tokio::time::timeout(Duration::from_secs(2), source.next()).await;
    assert!(given.is_err(), "an unreachable cluster is no empty one");
    let status = source.progress().status();
    assert!(!status.synced);
    assert!(
        status.failing["services"].error.contains("refused"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_line_that_is_no_object_costs_only_itself() {
    let server = Server::start(|line, before| match before {
        0 if line.contains("/services") => {
            let broken = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n";
            Answer::Open(streamed(line, &["a"]) + broken + &service("ADDED", "b", 25))
        }
        _ => Answer::Open(streamed(line, &[])),
    })
    .await;
    let mut source = follow(&[server.address]);
    until(&mut source, &["a", "b"]).await;
}
