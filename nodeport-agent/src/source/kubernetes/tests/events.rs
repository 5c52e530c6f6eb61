//! What is said of Services, and how often.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::server::{Answer, IMPATIENT, Server};
use crate::model::decode::decode_as;
use crate::model::objects::{Kind, Objects};
use crate::model::report::Report;
use crate::source::Trouble;
use crate::source::kubernetes::access::Access;
use crate::source::kubernetes::events::{Notice, Topic, publisher};
use crate::source::kubernetes::progress::Progress;
use crate::source::kubernetes::servers::Servers;

const LIMIT: Duration = Duration::from_mins(1);

/// Notices of a Service with session affinity, of which `note` is said.
fn notices(affinity: &str) -> BTreeSet<Notice> {
    let value = json!({"metadata": {"name": "web", "namespace": "d", "uid": "u-1"},
        "spec": {"clusterIP": "10.96.0.1", "sessionAffinity": affinity, "ports": [{"port": 80}]}});
    let object = decode_as(&value, Kind::Service).expect("a Service");
    let reports: Vec<Report> = object
        .meta()
        .problems
        .iter()
        .map(|problem| Report {
            object: Some(object.reference()),
            field: problem.field.clone(),
            origin: None,
            reason: problem.reason.clone(),
        })
        .collect();
    let mut objects = Objects::default();
    objects.insert(object);
    reports
        .iter()
        .filter_map(|report| Notice::new(report, &objects))
        .collect()
}

async fn posted(server: &Server, count: usize) -> Vec<Value> {
    let waiting = async {
        while server.requests("POST").len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.expect("posted");
    let body = |line: &String| {
        serde_json::from_str(&line[line.find('{').expect("a body")..]).expect("JSON")
    };
    server.requests("POST").iter().map(body).collect()
}

#[tokio::test]
async fn an_event_is_posted_once_until_it_changes() {
    let server = Server::start(|_, before| match before {
        0 => Answer::Whole(201, r#"{"metadata":{},"eventTime":null}"#.to_owned()),
        _ => Answer::Whole(409, r#"{"kind":"Status","status":"Failure","message":"exists","reason":"AlreadyExists","code":409}"#.to_owned()),
    })
    .await;
    let access = Access::new(None, &[format!("http://{}", server.address)]).expect("a server");
    let client = Servers::new(access, IMPATIENT, Progress::default()).client();
    let (events, task) = publisher(client, "n1");
    let task = tokio::spawn(task.run());

    events.publish(Topic::Objects, notices("Sometimes"));
    let first = posted(&server, 1).await;
    assert_eq!(
        first[0]["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "d", "name": "web", "uid": "u-1"})
    );
    assert_eq!(first[0]["type"], "Warning");
    assert_eq!(first[0]["reason"], "InvalidField");
    assert_eq!(
        first[0]["note"],
        "spec.sessionAffinity: \"Sometimes\" is not one of None, ClientIP"
    );
    assert_eq!(first[0]["reportingController"], "nodeport-agent");
    assert_eq!(first[0]["reportingInstance"], "n1");

    events.publish(Topic::Objects, notices("Sometimes"));
    events.publish(Topic::Objects, notices("Never"));
    let second = posted(&server, 2).await;
    assert_eq!(second.len(), 2, "the same is not said again");
    assert_ne!(second[0]["metadata"]["name"], second[1]["metadata"]["name"]);
    events.publish(Topic::Objects, BTreeSet::new());
    drop(events);
    tokio::time::timeout(LIMIT, task)
        .await
        .expect("it ends with who tells it")
        .expect("without a fault");
}

#[test]
fn a_health_check_that_cannot_listen_is_said_on_its_service_by_each_node_15_9() {
    let key = crate::model::objects::ObjectKey {
        namespace: "d".into(),
        name: "web".into(),
    };
    let trouble = Trouble {
        service: Some((key, Some("u-1".into()))),
        reason: "FailedToStartServiceHealthcheck",
        action: "Listen",
        note: "address in use".to_owned(),
    };
    let event = |node| Notice::of_trouble(&trouble, node).event(node);
    let said = serde_json::to_value(event("n1")).expect("JSON");
    assert_eq!(
        said["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "d", "name": "web", "uid": "u-1"})
    );
    assert_eq!(said["type"], "Warning");
    assert_eq!(said["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(said["action"], "Listen");
    assert_eq!(said["metadata"]["namespace"], "d");
    assert_ne!(event("n1").metadata.name, event("n2").metadata.name);
}

#[test]
fn events_of_the_node_are_where_kubectl_describe_looks_for_them_16_6() {
    let trouble = Trouble {
        service: None,
        reason: "FailedToStartProxierHealthcheck",
        action: "StartKubeProxy",
        note: "address in use".to_owned(),
    };
    let at = |second| Timestamp::from_second(second).expect("a time");
    let start = |second| Notice::starting("n1", at(second)).event("n1");
    for (event, kind) in [
        (start(1), "Normal"),
        (Notice::of_trouble(&trouble, "n1").event("n1"), "Warning"),
    ] {
        let said = serde_json::to_value(event).expect("JSON");
        assert_eq!(
            said["regarding"],
            json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"})
        );
        assert_eq!(said["metadata"]["namespace"], "default");
        assert_eq!(
            (said["type"].as_str(), said["action"].as_str()),
            (Some(kind), Some("StartKubeProxy"))
        );
    }
    assert_eq!(start(1).reason.as_deref(), Some("Starting"));
    assert_ne!(
        start(1).metadata.name,
        start(2).metadata.name,
        "each start counts"
    );
}

#[test]
fn two_nodes_give_an_event_the_same_name() {
    let name = |notices: BTreeSet<Notice>| notices.first().expect("one").event("any").metadata.name;
    assert_eq!(name(notices("Sometimes")), name(notices("Sometimes")));
    assert_ne!(name(notices("Sometimes")), name(notices("Never")));
}
